//! Debian's firewalls on a host: ufw and firewalld themselves, put in by `tests/hosts/firewalls`.

use std::process::Command;

use crate::Host;
use crate::binary::repository;

/// Where they are, as the host sees it.
const ROOT: &str = "/mnt/root";

impl Host {
    /// Has their programs at hand, and a system bus. Before the agent is started, which is to find the bus.
    pub fn open_firewalls(&mut self) {
        self.agent_env(
            "DBUS_SYSTEM_BUS_ADDRESS",
            &format!("unix:path={ROOT}/run/dbus/system_bus_socket"),
        );
        self.firewalls(&["open"]);
    }

    /// Starts firewalld; its rules are there then.
    pub fn start_firewalld(&self) {
        self.firewalls(&["firewalld"]);
    }

    /// Runs shell lines among their programs, as root of the host.
    #[track_caller]
    pub fn firewall(&self, lines: &str) -> String {
        self.firewalls(&["sh", lines])
    }

    /// A file of theirs, as the host sees it.
    pub fn firewall_file(&self, path: &str) -> String {
        format!("{ROOT}{path}")
    }

    #[track_caller]
    fn firewalls(&self, args: &[&str]) -> String {
        let mut command: Command = self.ns.command(repository().join("tests/hosts/firewalls"));
        let out = command
            .args(args)
            .env("WHARF_RUN_DIR", self.run_dir())
            .output()
            .unwrap();
        let [said, told] = [&out.stdout, &out.stderr].map(|b| String::from_utf8_lossy(b).into_owned());
        assert!(out.status.success(), "{args:?}: {said}{told}");
        said
    }
}
