//! The command line (INTERFACE §3). Answers go to stdout; progress and the one `error: …` line to stderr.

mod agent;
mod client;
mod exec;
mod listing;
mod offline;
mod online;
mod stores;
mod sys;
mod terminal;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

use crate::places::Places;

/// Exit codes of the contract.
pub const DONE: u8 = 0;
pub const FAILED: u8 = 1;
pub const NOT_CONVERGED: u8 = 3;
pub const TO_DO: u8 = 4;

/// Keeps this host as the TOML files in a directory say: images, containers, ports, networks.
#[derive(Debug, Parser)]
#[command(name = "wharf", version, propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    places: Places,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent: read the directory, make the host so, keep it so
    Agent(AgentArgs),
    /// Check the files without an agent
    Validate {
        /// Directory to check instead of the config dir
        dir: Option<PathBuf>,
        #[arg(long)]
        json: bool,
    },
    /// Show what a pass would do now, and why; changes nothing
    Plan {
        /// Against an empty host, without an agent
        #[arg(long)]
        offline: bool,
        /// Directory to plan instead of the config dir (with --offline)
        #[arg(requires = "offline")]
        dir: Option<PathBuf>,
        #[arg(long)]
        json: bool,
    },
    /// Show how things stand; exit 3 while not converged
    Status {
        /// Only this container
        name: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Wait until containers run (and are healthy); with no name, until all is as declared
    Wait {
        names: Vec<String>,
        #[arg(long, default_value = "60s", value_parser = model::units::parse_duration)]
        timeout: Duration,
        #[arg(long)]
        json: bool,
    },
    /// Have the agent look at everything now
    Reload {
        /// The config dir is empty, or not there, on purpose: have everything removed
        #[arg(long)]
        accept_empty: bool,
        #[arg(long)]
        json: bool,
    },
    /// List containers
    Ps {
        /// Also those that do not run
        #[arg(short, long)]
        all: bool,
        /// Only the ids
        #[arg(short, long)]
        quiet: bool,
        #[arg(long)]
        json: bool,
    },
    /// Show all about containers, as JSON
    Inspect {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Show where a container's ports are published
    Port {
        name: String,
        /// Only this container port, as 80 or 80/udp
        port: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Show a container's output
    Logs(LogsArgs),
    /// Show what happened
    Events {
        /// Go on with what happens from now on
        #[arg(short, long, conflicts_with = "until")]
        follow: bool,
        /// Only what happened since a time (RFC 3339) or a duration ago (10m)
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Only what happened before that
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Start stopped containers: lifts the hold of `stop`
    Start {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Stop containers and hold them stopped until `start` or a change of their table
    Stop {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Stop and start containers in place
    Restart {
        #[arg(required = true)]
        names: Vec<String>,
        /// Seconds before SIGKILL, instead of stop_grace_period
        #[arg(short, long, value_name = "SECONDS")]
        time: Option<u32>,
    },
    /// Send a signal to containers' first process
    Kill {
        #[arg(required = true)]
        names: Vec<String>,
        #[arg(short, long, default_value = "SIGKILL")]
        signal: String,
    },
    /// Freeze all processes of containers
    Pause {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Let frozen containers go on
    Unpause {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Run a command inside a container; exits with its code (125: wharf's own failure, 126: not executable, 127: not found)
    Exec(ExecArgs),
    /// Networks
    #[command(subcommand)]
    Network(NounCommand),
    /// Images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Volumes
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Print the JSON Schema of the files (only keys that work)
    Schema,
    /// Print a completion script
    Completions { shell: clap_complete::Shell },
    /// Write the manual pages into a directory
    Man { dir: PathBuf },
}

#[derive(Debug, clap::Args)]
struct AgentArgs {
    /// Converge, say what was done, and exit; containers keep running
    #[arg(long)]
    once: bool,
    /// How long --once may take
    #[arg(long, default_value = "5m", requires = "once", value_parser = model::units::parse_duration)]
    timeout: Duration,
}

#[derive(Debug, clap::Args)]
struct LogsArgs {
    name: String,
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// Only the last N lines
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// Only lines since a time (RFC 3339) or a duration ago (10m)
    #[arg(long)]
    since: Option<String>,
    /// The time before each line
    #[arg(short, long)]
    timestamps: bool,
}

#[derive(Debug, clap::Args)]
struct ExecArgs {
    /// Hand on what comes on the standard input; without this the command reads nothing
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal; with -i, every key goes to it, Ctrl-C too
    #[arg(short, long)]
    tty: bool,
    /// Run it in the background, as long as the agent runs; else it ends with this client
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    detach: bool,
    /// User (and group) by name or number, instead of the container's
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// A further environment variable; with no value, the one it has here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Directory it starts in, instead of the container's
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// With all capabilities and no system call filter
    #[arg(long)]
    privileged: bool,
    /// The container
    name: String,
    /// The command and its arguments; no shell is run
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum NounCommand {
    /// List them
    Ls {
        #[arg(long)]
        json: bool,
    },
    /// Show all about one, as JSON
    Inspect { name: String },
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// List the images in the store
    Ls {
        #[arg(long)]
        json: bool,
    },
    /// Fetch images from their registries
    Pull {
        #[arg(required = true, value_name = "REF")]
        references: Vec<String>,
    },
    /// Remove images that no container and no table wants
    Rm {
        #[arg(required = true, value_name = "REF|ID")]
        names: Vec<String>,
    },
    /// Remove all images that no container and no table wants
    Prune {
        /// Say only what would go
        #[arg(long)]
        dry_run: bool,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum VolumeCommand {
    /// List the volumes
    Ls {
        #[arg(long)]
        json: bool,
    },
    /// Show all about volumes, as JSON
    Inspect {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove volumes that no container uses and no table declares; their data is kept in the trash for a day
    Rm {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove all volumes that no container uses and no table declares
    Prune {
        /// Without asking
        #[arg(short, long)]
        force: bool,
        #[arg(long)]
        json: bool,
    },
}

/// Parses the arguments and runs the command. clap answers wrong usage itself, with exit code 2.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<u8> {
    let places = cli.places;
    if !matches!(cli.command, Command::Agent(_)) {
        sys::end_with_the_reader();
    }
    match cli.command {
        Command::Agent(args) => agent::run(places, args.once.then_some(args.timeout)),
        Command::Validate { dir, json } => {
            offline::validate(&dir.unwrap_or(places.config_dir), &places.settings, json)
        }
        Command::Plan {
            offline: true,
            dir,
            json,
        } => offline::plan(&dir.unwrap_or(places.config_dir), &places.settings, json),
        Command::Schema => offline::schema(),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "wharf", &mut std::io::stdout());
            Ok(DONE)
        }
        Command::Man { dir } => offline::man(Cli::command(), &dir),
        command => online::run(&places, command),
    }
}

/// Colours on a terminal only, and never with NO_COLOR (no-color.org).
fn colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}
