//! The command line (INTERFACE §3). Answers go to stdout; progress and the one `error: …` line to stderr.

mod agent;
mod archives;
mod client;
mod copies;
mod cp;
mod exec;
mod images;
mod listing;
mod made;
mod offline;
mod online;
mod progress;
mod prune;
mod registries;
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
    /// Copy files between a container, running or not, and this host
    Cp(CpArgs),
    /// Show what a container changed of its image's files: A added, C changed, D deleted
    Diff {
        name: String,
        #[arg(long)]
        json: bool,
    },
    /// Write a container's root as a tar archive, without its volumes
    Export {
        name: String,
        /// File to write; - is the standard output
        #[arg(short, long, value_name = "FILE", default_value = "-")]
        output: PathBuf,
    },
    /// Make an image of what a container changed
    Commit(CommitArgs),
    /// Networks
    #[command(subcommand)]
    Network(NounCommand),
    /// Images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Volumes
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Log in to a registry; pulls and pushes of the agent use it from then on
    Login(LoginArgs),
    /// Forget the login to a registry
    Logout {
        /// HOST[:PORT]; docker.io where none is named
        registry: Option<String>,
    },
    /// Look for images in the registries of `registries.search`, or in the one that the term begins with
    Search(SearchArgs),
    /// Remove what nothing uses: images, layers, anonymous volumes, and what lay in the trash for a day; never kept volumes
    Prune(PruneArgs),
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
struct LoginArgs {
    /// HOST[:PORT]; docker.io where none is named
    #[arg(default_value = "docker.io")]
    registry: String,
    /// User name; asked for where it is not given
    #[arg(short, long)]
    username: Option<String>,
    /// Password; everybody on the host sees it here, so better use --password-stdin or be asked
    #[arg(short, long, conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password from the standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
}

#[derive(Debug, clap::Args)]
struct SearchArgs {
    /// Part of a name, or REGISTRY/PART
    term: String,
    /// Most images of each registry
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct PruneArgs {
    /// Say only what would go
    #[arg(long)]
    dry_run: bool,
    /// Also delete volumes that were removed less than a day ago: they cannot be fetched back then
    #[arg(long)]
    trash: bool,
    /// Without asking
    #[arg(short, long)]
    force: bool,
    #[arg(long)]
    json: bool,
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

#[derive(Debug, clap::Args)]
struct CpArgs {
    /// Keep owners, set-id bits, devices and attributes; else files become root's in the container, and yours here
    #[arg(short, long)]
    archive: bool,
    /// Copy what a link leads to, where the source is one
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// CONTAINER:PATH, a path of this host, or - for a tar archive on the standard input
    #[arg(value_name = "SOURCE")]
    source: String,
    /// CONTAINER:PATH, a path of this host, or - for a tar archive on the standard output
    #[arg(value_name = "DEST")]
    dest: String,
}

#[derive(Debug, clap::Args)]
struct CommitArgs {
    /// Freeze the container's processes while its files are read
    #[arg(short, long, value_name = "BOOL", default_value_t = true, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    pause: bool,
    /// Who made it
    #[arg(short, long)]
    author: Option<String>,
    /// What it is, for its history
    #[arg(short, long)]
    message: Option<String>,
    /// A Dockerfile instruction: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    container: String,
    /// The image's name, with or without a tag
    #[arg(value_name = "REF")]
    reference: String,
}

#[derive(Debug, clap::Args)]
struct ImportArgs {
    /// What it is, for its history
    #[arg(short, long)]
    message: Option<String>,
    /// A Dockerfile instruction, as of commit
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// The archive, plain, gzip, zstd or xz; - is the standard input
    file: PathBuf,
    /// The image's name, with or without a tag
    #[arg(value_name = "REF")]
    reference: String,
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
        /// Also the digests that the registries know them by
        #[arg(long)]
        digests: bool,
        /// Only the ids
        #[arg(short, long, conflicts_with = "digests")]
        quiet: bool,
        #[arg(long)]
        json: bool,
    },
    /// Show all about images, as JSON
    Inspect {
        #[arg(required = true, value_name = "REF|ID")]
        names: Vec<String>,
    },
    /// Show how an image came about, the newest step first
    History {
        #[arg(value_name = "REF|ID")]
        name: String,
        /// Show ids and commands whole
        #[arg(long)]
        no_trunc: bool,
        /// Only the ids
        #[arg(short, long)]
        quiet: bool,
        #[arg(long)]
        json: bool,
    },
    /// Give an image another name besides
    Tag {
        #[arg(value_name = "REF|ID")]
        source: String,
        #[arg(value_name = "NAME[:TAG]")]
        target: String,
    },
    /// Write images into an archive that docker, podman, skopeo and `image load` take
    Save {
        #[arg(required = true, value_name = "REF|ID")]
        names: Vec<String>,
        /// File to write; - is the standard output
        #[arg(short, long, value_name = "FILE", default_value = "-")]
        output: PathBuf,
        #[arg(long, value_name = "FORMAT", default_value = "docker-archive", value_parser = ["docker-archive", "oci-archive"])]
        format: String,
    },
    /// Take all images of an archive in: docker's or an OCI layout; plain, gzip, zstd or xz
    Load {
        /// File to read; - is the standard input
        #[arg(short, long, value_name = "FILE", default_value = "-")]
        input: PathBuf,
        /// What an image is to be called that has no name in the archive
        #[arg(long, value_name = "NAME[:TAG]")]
        name: Option<String>,
    },
    /// Look whether images are still what they were when they came; exit 1 where one is not
    Verify {
        /// Only these
        #[arg(value_name = "REF|ID")]
        names: Vec<String>,
        /// Fetch anew what is damaged; running containers go on
        #[arg(long)]
        repair: bool,
        #[arg(long)]
        json: bool,
    },
    /// Make an image of a tar archive of a root
    Import(ImportArgs),
    /// Fetch images from their registries
    Pull {
        #[arg(required = true, value_name = "REF")]
        references: Vec<String>,
    },
    /// Send images to the registries that their names say
    Push {
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
    /// Write a volume as a tar archive
    Export {
        name: String,
        /// File to write; - is the standard output
        #[arg(short, long, value_name = "FILE", default_value = "-")]
        output: PathBuf,
        /// Leave out holes of sparse files; GNU tar and `import` read that, busybox's tar does not
        #[arg(long)]
        sparse: bool,
        /// Freeze the containers that use it meanwhile, so that all of it is of one moment
        #[arg(long)]
        pause: bool,
    },
    /// Put a tar archive (plain, gzip, zstd or xz) into a volume, over what is there; one that is not there is made
    Import {
        name: String,
        /// File to read; - is the standard input
        #[arg(short, long, value_name = "FILE", default_value = "-")]
        input: PathBuf,
        /// Freeze the containers that use it meanwhile
        #[arg(long)]
        pause: bool,
    },
    /// Make a new volume with what another one holds
    Clone {
        from: String,
        to: String,
        /// Freeze the containers that use the first one meanwhile
        #[arg(long)]
        pause: bool,
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
