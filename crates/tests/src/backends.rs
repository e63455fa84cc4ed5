//! The firewall backends of a host: chosen in the settings, the kind of iptables by what is first in the agent's PATH.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use crate::Host;

/// What a host's rules are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Nftables,
    /// iptables, whose rules nf_tables keeps.
    IptablesNft,
    /// iptables with tables of its own.
    IptablesLegacy,
    None,
}

impl Backend {
    /// In the settings and the status.
    pub fn word(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::IptablesNft | Self::IptablesLegacy => "iptables",
            Self::None => "none",
        }
    }

    /// In the names of iptables' programs.
    fn variant(self) -> Option<&'static str> {
        match self {
            Self::IptablesNft => Some("nft"),
            Self::IptablesLegacy => Some("legacy"),
            Self::Nftables | Self::None => None,
        }
    }
}

impl Host {
    /// For every agent that is started from now on.
    pub fn choose_firewall(&mut self, backend: Backend) {
        let settings = format!("[firewall]\nbackend = \"{}\"\n", backend.word());
        fs::write(self.settings(), settings).unwrap();
        let dir = self.dir().join("programs");
        fs::create_dir_all(&dir).unwrap();
        for program in ["iptables", "ip6tables"] {
            for verb in ["", "-save", "-restore"] {
                let link = dir.join(format!("{program}{verb}"));
                let _ = fs::remove_file(&link);
                if let Some(variant) = backend.variant() {
                    symlink(
                        PathBuf::from(format!("/usr/sbin/{program}-{variant}{verb}")),
                        link,
                    )
                    .unwrap();
                }
            }
        }
        let path = std::env::var("PATH").unwrap_or_default();
        self.agent_env("PATH", &format!("{}:{path}", dir.display()));
    }

    /// All rules there are, whoever keeps them, IPv4 and IPv6.
    pub fn rules(&self) -> String {
        let saves = ["nft", "legacy"].map(|v| format!("iptables-{v}-save; ip6tables-{v}-save; "));
        self.ns.sh(&format!("nft list tables; {}", saves.concat()))
    }
}
