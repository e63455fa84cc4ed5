//! A machine made of namespaces, and a neighbour on a wire.
//!
//! ```text
//!   host (192.0.2.1, eth0) ──────── (192.0.2.2, eth0) neighbour
//!   directories below one temporary directory: containers.d, state, run, wharf.toml, images
//!   cgroups below /wharf-test-…
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::agent::Agent;
use crate::http::{self, Answer};
use crate::namespace::{Duty, Namespace};
use crate::{cgroups, process};

/// The host's address on the wire.
pub const ADDRESS: &str = "192.0.2.1";
/// The neighbour's.
pub const NEIGHBOUR: &str = "192.0.2.2";

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Host,
    Neighbour,
}

/// The machine. Dropping it removes every trace, and fails the test if the agent's log holds an unexpected ERROR.
#[derive(Debug)]
pub struct Host {
    pub ns: Namespace,
    pub neighbour: Namespace,
    pub(crate) agent: Option<Agent>,
    pub(crate) expected_errors: Vec<String>,
    pub(crate) agent_env: Vec<(String, String)>,
    dir: TempDir,
    cgroup_parent: String,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// The host's address of IPv6, and the neighbour's, where they have one.
    pub const IPV6: &str = "2001:db8::1";
    pub const NEIGHBOUR_IPV6: &str = "2001:db8::2";

    /// A fresh one that has IPv6 as well, with the neighbour as its way out.
    pub fn dual() -> Self {
        let (host, way) = (Self::new(), Self::NEIGHBOUR_IPV6);
        host.ns
            .sh(&format!("ip -6 addr add {}/64 dev eth0 nodad", Self::IPV6));
        host.neighbour
            .sh(&format!("ip -6 addr add {way}/64 dev eth0 nodad"));
        host.ns.sh(&format!("ip -6 route add default via {way}"));
        host
    }

    /// A fresh one, without an agent.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("wharf-test-").tempdir().unwrap();
        let cgroup_parent = format!("/{}", dir.path().file_name().unwrap().to_str().unwrap());
        let run_dir = dir.path().join("run");
        let duty = Duty {
            run_dir: Some(&run_dir),
            cgroup_parent: &cgroup_parent,
            temp_dir: Some(dir.path()),
        };
        let ns = Namespace::new("host", &duty);
        let neighbour = Namespace::new("neighbour", &Duty::default());
        let host = Self {
            ns,
            neighbour,
            agent: None,
            expected_errors: Vec::new(),
            agent_env: Vec::new(),
            dir,
            cgroup_parent,
        };
        for made in [host.config_dir(), host.images_dir()] {
            fs::create_dir(made).unwrap();
        }
        host.wire();
        host
    }

    /// The way out of the host is by the neighbour: who masquerades must have somewhere to send things.
    fn wire(&self) {
        let other = format!("/proc/{}/ns/net", self.neighbour.pid());
        self.ns.sh(&format!(
            "ip -batch - <<END
link add eth0 type veth peer name eth0 netns {other}
addr add {ADDRESS}/24 dev eth0
link set eth0 up
route add default via {NEIGHBOUR}
END
nsenter --net={other} ip -batch - <<END
addr add {NEIGHBOUR}/24 dev eth0
link set eth0 up
END"
        ));
    }

    /// The temporary directory everything is in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The desired state.
    pub fn config_dir(&self) -> PathBuf {
        self.dir().join("containers.d")
    }

    /// `--state-dir`.
    pub fn state_dir(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// `--run-dir`.
    pub fn run_dir(&self) -> PathBuf {
        self.dir().join("run")
    }

    /// `--settings`; not there until a test writes it.
    pub fn settings(&self) -> PathBuf {
        self.dir().join("wharf.toml")
    }

    /// A place for images and other files containers use.
    pub fn images_dir(&self) -> PathBuf {
        self.dir().join("images")
    }

    /// `--cgroup-parent`.
    pub fn cgroup_parent(&self) -> &str {
        &self.cgroup_parent
    }

    /// Writes a file of the config dir in place, as `cat >` does.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.config_dir().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Replaces a file of the config dir by rename, as editors do.
    pub fn write_renamed(&self, name: &str, text: &str) {
        let path = self.config_dir().join(name);
        let fresh = self.config_dir().join(format!(".{name}.new"));
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, path).unwrap();
    }

    /// Removes a file of the config dir.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.config_dir().join(name)).unwrap();
    }

    /// Removes every file of the config dir.
    pub fn remove_all(&self) {
        for entry in fs::read_dir(self.config_dir()).unwrap() {
            let path = entry.unwrap().path();
            let is_dir = path.symlink_metadata().unwrap().is_dir();
            if is_dir {
                fs::remove_dir_all(path).unwrap()
            } else {
                fs::remove_file(path).unwrap()
            }
        }
    }

    /// The namespace a request comes from.
    pub fn place(&self, from: From) -> &Namespace {
        match from {
            From::Host => &self.ns,
            From::Neighbour => &self.neighbour,
        }
    }

    /// A page, waiting for a server that was started a moment ago.
    pub fn http_get(&self, from: From, url: &str) -> Answer {
        http::get_within(self.place(from), url, Duration::from_secs(20))
            .unwrap_or_else(|e| panic!("{url} from {from:?}: {e}\n{}", self.evidence()))
    }

    /// What helps to understand a failure: status and the end of the agent's log.
    pub fn evidence(&self) -> String {
        let status = self
            .agent
            .as_ref()
            .map(|_| self.wharf(["status"]))
            .map(|o| o.stdout + &o.stderr);
        format!(
            "--- wharf status\n{}--- agent's log\n{}",
            status.unwrap_or_default(),
            self.log_tail(80)
        )
    }

    /// What a power cut leaves: no process, no device, an empty run dir; the disk stays.
    ///
    /// The boot id cannot be changed in a namespace; an absent run dir is what a tmpfs gives after a boot.
    pub fn reboot(&mut self) {
        self.agent = None;
        process::kill_all(&self.run_dir(), &self.cgroup_parent);
        cgroups::remove(&self.cgroup_parent);
        fs::remove_dir_all(self.run_dir()).unwrap();
        self.ns.sh("nft flush ruleset
             for dev in $(ip -o link | cut -d: -f2 | cut -d@ -f1); do
                 case $dev in lo | eth0) ;; *) ip link del $dev 2>/dev/null || true ;; esac
             done
             echo 0 >/proc/sys/net/ipv4/ip_forward");
    }

    fn clear(&mut self) {
        self.agent = None;
        let ended = process::kill_all(&self.run_dir(), &self.cgroup_parent);
        if cgroups::remove(&self.cgroup_parent) && ended {
            self.ns.cleared();
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- end of the agent's log\n{}", self.log_tail(400));
            self.clear();
            return;
        }
        self.clear();
        let unexpected = self.unexpected_errors();
        assert!(
            unexpected.is_empty(),
            "ERROR lines nobody expected in the agent's log:\n{}",
            unexpected.join("\n")
        );
    }
}
