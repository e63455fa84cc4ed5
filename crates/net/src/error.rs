//! Why something with the network could not be done. The texts are for users.

use std::io;
use std::path::Path;

use crate::dbus::CallError;
use crate::netlink::KernelError;
use crate::ovs::SwitchError;

/// A failure of [`crate::Net`] or [`crate::Monitor`].
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The kernel said no.
    #[error("cannot {doing}: {source}")]
    Kernel {
        doing: String,
        #[source]
        source: KernelError,
    },
    #[error("cannot {doing} {path}: {source}")]
    File {
        doing: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot enter the network namespace of {whose}: {source}")]
    Namespace {
        whose: String,
        #[source]
        source: io::Error,
    },
    /// A device of that name is there and does not carry our mark.
    #[error("the device {device} is there already and belongs to {owner}: {advice}")]
    ForeignDevice {
        device: String,
        owner: String,
        advice: String,
    },
    #[error(
        "the nftables table `inet {table}` belongs to {owner}: one agent owns one network namespace; stop the other one, \
         or, if it is gone for good, run `nft delete table inet {table}`"
    )]
    ForeignTable { table: &'static str, owner: String },
    #[error(
        "the nftables table `inet {table}` is held by another program (netlink port {holder}, which mostly is its pid): \
         an agent that was not stopped; stop it"
    )]
    HeldTable { table: &'static str, holder: u32 },
    #[error(
        "there is no program {program}: install the package iptables (or iptables-nft, iptables-legacy), or set `backend` \
         in [firewall] of the settings to something else"
    )]
    NoIptables { program: String },
    /// It said no.
    #[error("{program} failed: {said}")]
    Iptables { program: String, said: String },
    #[error(
        "chains WHARF-… of iptables belong to another wharf agent ({owner}): one agent owns one network namespace; stop \
         the other one, or, if it is gone for good, take them out with iptables -D, -F and -X"
    )]
    ForeignChains { owner: String },
    #[error("cannot have firewalld forget {bridges}: {source}")]
    Firewalld {
        bridges: String,
        #[source]
        source: CallError,
    },
    #[error("cannot {doing}: {source}")]
    Switch {
        doing: String,
        #[source]
        source: SwitchError,
    },
    #[error("{what}: {why}")]
    Invalid { what: String, why: String },
    /// A kernel answer that makes no sense to us.
    #[error("the kernel's answer about {0} is cut short or malformed")]
    Malformed(&'static str),
    #[error(
        "the nftables rules of this host change all the time: gave up after {tries} tries; who changes them shows `nft monitor`"
    )]
    Busy { tries: u32 },
}

impl NetError {
    pub(crate) fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid {
            what: what.into(),
            why: why.into(),
        }
    }
}

/// Adds what was being done.
pub(crate) trait Doing<T> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, NetError>;
}

impl<T> Doing<T> for Result<T, KernelError> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, NetError> {
        self.map_err(|source| NetError::Kernel {
            doing: doing(),
            source,
        })
    }
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, NetError> {
        self.map_err(|e| NetError::Kernel {
            doing: doing(),
            source: e.into(),
        })
    }
}

/// What happened to a file.
pub(crate) fn file_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NetError {
    let path = path.display().to_string();
    move |source| NetError::File { doing, path, source }
}
