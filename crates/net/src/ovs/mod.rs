//! Networks on Open vSwitch: its database is told what there is to be (OVSDB, RFC 7047), its switch what must not pass
//! (OpenFlow 1.3).
//!
//! A network is two bridges of Open vSwitch, a [`made::Made`] says all about them. Containers and the gateway are ports
//! of the first one. The second one has the tunnels, and all that goes to other hosts or comes from them passes the wire
//! between the two: there the gateway is kept on its side ([`flows`]). Tunnels are protected ports, which reach no other
//! such port: what came by one leaves by none.
//!
//! Whatever is not marked with this agent's id in `external_ids` is never changed.

mod apply;
mod connection;
mod flows;
mod framing;
mod look;
mod made;
mod openflow;
mod plan;
mod row;
mod session;
mod watch;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) use apply::check;
pub(crate) use look::KIND;
pub use watch::SwitchWatch;

/// Where Open vSwitch has its sockets, where `OVS_RUNDIR` does not say: Linux distributions', and its own default.
const RUN_DIRS: [&str; 2] = ["/run/openvswitch", "/usr/local/var/run/openvswitch"];
/// The database's socket there.
const SOCKET: &str = "db.sock";

/// Why something was not done with Open vSwitch. The texts are for users.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    #[error(
        "Open vSwitch is not running: {socket}: {source}; install it (Debian: openvswitch-switch) and start it, or set \
         OVS_RUNDIR for the agent where its sockets are elsewhere"
    )]
    Away { socket: String, source: io::Error },
    #[error("ovs-vswitchd is not running: {socket}: {source}; start it")]
    SwitchAway { socket: String, source: io::Error },
    #[error("Open vSwitch at {socket}: {source}")]
    Io { socket: String, source: io::Error },
    #[error("Open vSwitch at {socket} does not answer")]
    Silent { socket: String },
    #[error("Open vSwitch at {socket} says what makes no sense here: {what}")]
    Malformed { socket: String, what: String },
    #[error("Open vSwitch refuses it: {0}")]
    Refused(String),
    #[error("ovs-vswitchd has not done it within {seconds} s: is it running?")]
    NotDone { seconds: u64 },
    #[error("ovs-vswitchd says: {0}")]
    Failed(String),
    #[error(
        "the bridge {bridge} of Open vSwitch is there already and belongs to {owner}: remove it, or give the network \
         another device with `bridge = \"NAME\"`"
    )]
    ForeignBridge { bridge: String, owner: String },
    #[error(
        "the port {port} of Open vSwitch is there already, on {bridge}, and belongs to {owner}: remove it (ovs-vsctl \
         del-port {port})"
    )]
    ForeignPort {
        port: String,
        bridge: String,
        owner: String,
    },
    #[error(
        "this kernel has no datapath of Open vSwitch (modprobe openvswitch): write `datapath = \"netdev\"` in the network's \
         `overlay` table for the one without the kernel"
    )]
    NoDatapath,
}

/// One host's Open vSwitch, as far as an agent is concerned with it.
pub(crate) struct Switch {
    run_dir: PathBuf,
    /// Short id of the agent: what has it in its `external_ids` is ours.
    owner: String,
    /// Some network is made of it. Hosts where none is do not ask it anything.
    wanted: AtomicBool,
    seen: Mutex<look::Seen>,
}

impl Switch {
    pub fn new(owner: &str) -> Self {
        Self {
            run_dir: run_dir(),
            owner: owner.to_owned(),
            wanted: AtomicBool::new(false),
            seen: Mutex::default(),
        }
    }

    /// From now on it is looked at, or not.
    pub fn set_wanted(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    fn socket(&self) -> PathBuf {
        self.run_dir.join(SOCKET)
    }

    /// Where ovs-vswitchd takes OpenFlow for a bridge (ovs-vswitchd(8), `management`).
    fn flows_of(&self, bridge: &str) -> PathBuf {
        self.run_dir.join(format!("{bridge}.mgmt"))
    }
}

/// By the environment of the agent, else the first of the usual ones that there is.
fn run_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("OVS_RUNDIR").filter(|dir| !dir.is_empty()) {
        return dir.into();
    }
    let mut usual = RUN_DIRS.iter().map(Path::new);
    let there = usual.find(|dir| dir.join(SOCKET).exists());
    there.unwrap_or(Path::new(RUN_DIRS[0])).to_owned()
}
