//! The sockets the server listens on inside the network namespace of a container that can reach no gateway of ours.
//!
//! They are at [`INSIDE`], bound to the loopback device, so that nobody but who is in there reaches them, and at a port
//! that leaves 53 to the container: one of the few that nothing is found at, led to by a table of ours in the namespace.
//! Where the kernel has no nftables they are at 53 itself, which the container cannot have on all addresses then.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use model::dns::INSIDE;
use model::name::ContainerId;
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::bind::{self, Listeners};
use super::control::Place;
use super::resolv::PORT;
use crate::NetError;
use crate::apart::{Connection, Process};
use crate::error::Doing;
use crate::firewall::lead_names;
use crate::netlink::Netlink;
use crate::netns;

/// The loopback device of every namespace.
const LOOPBACK: &str = "lo";
/// Ports that are tried first: tcpmux and what else has not been heard of for decades. A program that wants one of its own
/// takes it from the range of ephemeral ports more likely than from these.
const UNUSED: [u16; 6] = [1, 2, 3, 4, 5, 6];

/// A container's network namespace, and the process that keeps it.
#[derive(Debug)]
pub struct Namespace {
    /// The container's name, for messages.
    pub whose: String,
    pub netns: OwnedFd,
    /// Polls readable when the process has ended (pidfd_open(2)).
    pub pidfd: OwnedFd,
    pub keeper: Process,
}

impl Namespace {
    /// Has the server listen there.
    pub(super) fn listen(&self, server: &Connection, id: &ContainerId) -> Result<(), NetError> {
        let made = netns::visit(self.netns.as_fd(), &self.whose, || self.open())?;
        let sockets: [BorrowedFd<'_>; 3] = [made.udp.as_fd(), made.tcp.as_fd(), self.pidfd.as_fd()];
        server.listen(Place::Inside { id: id.clone() }, &sockets)
    }

    /// On a thread that is there.
    fn open(&self) -> Result<Listeners, NetError> {
        let doing = || {
            format!(
                "listen at {INSIDE} in the network namespace of container {} for name queries",
                self.whose
            )
        };
        let refused = match self.aside() {
            Ok(made) => return Ok(made),
            Err(refused) => refused,
        };
        match on_loopback(PORT) {
            // Somebody has port 53: what kept us from being beside it is the trouble.
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => Err(refused),
            other => other.doing(doing),
        }
    }

    /// At a port of our own that questions are led to.
    fn aside(&self) -> Result<Listeners, NetError> {
        let whose = &self.whose;
        let made = free_port().doing(|| format!("find a port for name queries in container {whose}"))?;
        let mut filter = Netlink::open(NETLINK_NETFILTER)
            .doing(|| format!("talk about nftables in the network namespace of container {whose}"))?;
        lead_names(&mut filter, made.port)?;
        Ok(made)
    }
}

fn free_port() -> io::Result<Listeners> {
    for port in UNUSED {
        match on_loopback(port) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            other => return other,
        }
    }
    on_loopback(0)
}

fn on_loopback(port: u16) -> io::Result<Listeners> {
    bind::pair(INSIDE.into(), port, Some(&LOOPBACK.into()))
}
