//! Where this agent's directories and sockets are (INTERFACE §1).

use std::path::PathBuf;

use model::paths::Roots;

/// Everything the flags and the environment decide.
#[derive(Clone, Debug, clap::Args)]
pub struct Places {
    /// Directory of the desired state.
    #[arg(
        long,
        global = true,
        env = "WHARF_CONFIG_DIR",
        value_name = "DIR",
        default_value = "/etc/containers.d"
    )]
    pub config_dir: PathBuf,
    /// The agent's settings; need not exist.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        default_value = "/etc/wharf/wharf.toml"
    )]
    pub settings: PathBuf,
    /// Images, volumes, layers, logs and the ledger.
    #[arg(
        long,
        global = true,
        env = "WHARF_STATE_DIR",
        value_name = "DIR",
        default_value = "/var/lib/wharf"
    )]
    pub state_dir: PathBuf,
    /// Sockets, locks and bundles of this boot.
    #[arg(
        long,
        global = true,
        env = "WHARF_RUN_DIR",
        value_name = "DIR",
        default_value = "/run/wharf"
    )]
    pub run_dir: PathBuf,
    /// The API socket [default: RUN_DIR/wharf.sock].
    #[arg(long, global = true, env = "WHARF_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Parent of the containers' cgroups [default: wharf-containers.scope under systemd, else /wharf].
    #[arg(long, global = true, env = "WHARF_CGROUP_PARENT", value_name = "PATH")]
    pub cgroup_parent: Option<String>,
}

impl Places {
    /// State and run dir.
    pub fn roots(&self) -> Roots {
        Roots {
            state: self.state_dir.clone(),
            run: self.run_dir.clone(),
        }
    }

    /// Parent of the containers' cgroups.
    pub fn cgroup_parent(&self) -> &str {
        self.cgroup_parent.as_deref().unwrap_or("/wharf")
    }

    /// The API socket.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.roots().socket())
    }
}
