//! The firewall backends, so that one suite says of all of them what must get through and what must not.

use std::ffi::OsString;
use std::os::unix::fs::symlink;

use model::spec::FirewallChoice;
use net::{FirewallOptions, Net};
use tempfile::TempDir;

use super::Host;

/// What a host's rules are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Nftables,
    /// iptables, whose rules nf_tables keeps.
    IptablesNft,
    /// iptables with tables of its own.
    IptablesLegacy,
}

#[allow(unused_macros)]
/// Each test of the list, a function of [`On`], once on every backend.
macro_rules! on_every_backend {
    ($($name:ident)*) => {
        mod nftables {
            $(#[test] fn $name() { super::$name(super::On::Nftables) })*
        }
        mod iptables_nft {
            $(#[test] fn $name() { super::$name(super::On::IptablesNft) })*
        }
        mod iptables_legacy {
            $(#[test] fn $name() { super::$name(super::On::IptablesLegacy) })*
        }
    };
}
pub(crate) use on_every_backend;

impl On {
    pub fn host(self) -> Host {
        self.instead(Host::new(), false)
    }

    /// One whose rules others can change.
    pub fn shared(self) -> Host {
        self.instead(Host::new(), true)
    }

    /// The same with IPv6.
    pub fn shared_dual(self) -> Host {
        self.instead(Host::dual(None), true)
    }

    /// See [`Host::with_bridge_nf`].
    pub fn bridge_nf(self, on: bool) -> Host {
        self.instead(Host::with_bridge_nf(Some(on)), false)
    }

    /// See [`Host::dual`].
    pub fn dual(self, bridge_nf: Option<bool>) -> Host {
        self.instead(Host::dual(bridge_nf), false)
    }

    fn instead(self, host: Host, shared: bool) -> Host {
        let tools = Tools {
            shared,
            ..Tools::new(self)
        };
        let net = host.space.run(|| tools.net());
        Host { net, tools, ..host }
    }

    /// The middle of the programs' names.
    pub fn variant(self) -> &'static str {
        match self {
            Self::IptablesLegacy => "legacy",
            Self::Nftables | Self::IptablesNft => "nft",
        }
    }
}

/// How an agent of that host begins.
pub struct Tools {
    pub on: On,
    shared: bool,
    /// The programs by their plain names, and the note.
    dir: TempDir,
}

impl Tools {
    pub fn new(on: On) -> Self {
        let tools = Self {
            on,
            shared: false,
            dir: tempfile::tempdir().unwrap(),
        };
        tools.link();
        tools
    }

    fn link(&self) {
        for program in ["iptables", "ip6tables"] {
            for verb in ["", "-save", "-restore"] {
                let real = format!("/usr/sbin/{program}-{}{verb}", self.on.variant());
                let link = self.dir.path().join(format!("{program}{verb}"));
                let _ = std::fs::remove_file(&link);
                symlink(real, link).unwrap();
            }
        }
    }

    pub fn net(&self) -> Net {
        let options = FirewallOptions {
            choice: match self.on {
                On::Nftables => FirewallChoice::Nftables,
                On::IptablesNft | On::IptablesLegacy => FirewallChoice::Iptables,
            },
            shared: self.shared,
            path: OsString::from(self.dir.path()),
            note: Some(self.dir.path().join("note.json")),
        };
        Net::with_firewall("test", options).unwrap()
    }
}

impl Host {
    /// Where its programs are.
    pub fn tools(&self) -> &std::path::Path {
        self.tools.dir.path()
    }

    /// Has `iptables` be that one from now on.
    pub fn choose_iptables(&mut self, on: On) {
        self.tools.on = on;
        self.tools.link();
    }

    /// One that comes after the host's own: it finds what that one left.
    pub fn another_agent(&self) -> Net {
        self.space.run(|| self.tools.net())
    }

    /// As the program that made them lists them.
    pub fn rules(&self) -> String {
        match self.tools.on {
            On::Nftables => self.space.sh("nft list table inet wharf"),
            on => {
                let six = format!("ip6tables-{}-save", on.variant());
                self.space.sh(&format!("iptables-{}-save; {six}", on.variant()))
            }
        }
    }

    /// The same with another backend.
    pub fn agent_with(&self, choice: FirewallChoice) -> Net {
        let options = FirewallOptions {
            choice,
            shared: self.tools.shared,
            path: OsString::from(self.tools.dir.path()),
            note: Some(self.tools.dir.path().join("note.json")),
        };
        self.space.run(|| Net::with_firewall("test", options).unwrap())
    }
}
