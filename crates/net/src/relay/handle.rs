//! The agent's handle on the relay.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use model::firewall::{PortRule, Protocol};
use rustix::fs::fstat;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use serde::{Deserialize, Serialize};

use super::control::{Place, Port, ROLE, Served, served};
use crate::NetError;
use crate::apart::{Connection, Handle};
use crate::error::Doing;

/// Connections the kernel keeps for a relay that is busy.
const BACKLOG: i32 = 1024;
/// Room for datagrams that came while it was busy, bytes.
const RECEIVE_BUFFER: usize = 1 << 20;

/// The relay of one run dir, which is one process, in the network namespace [`Self::apply`] is called in.
#[derive(Debug)]
pub struct Relay {
    process: Handle<Last>,
}

/// What a relay was last given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Last {
    served: Vec<Served>,
    /// The rules of ports that are not the firewall's: they are nowhere else.
    bound: Vec<PortRule>,
    /// The sockets it listens on: inodes.
    sockets: BTreeSet<u64>,
}

impl Relay {
    /// `exe`: the program that runs [`super::main`] when its first argument is `relay`.
    pub fn new(run_dir: &Path, exe: &Path) -> Self {
        Self {
            process: Handle::new(&ROLE, run_dir, exe),
        }
    }

    /// The rules of ports that are not the firewall's; none where it does not serve what it should with those and these
    /// others.
    pub(crate) fn bound(&self, others: &[PortRule]) -> Result<Option<Vec<PortRule>>, NetError> {
        let last = match self.process.lives()? {
            true => self.last()?,
            false => Arc::default(),
        };
        let rules = [others, &last.bound].concat();
        Ok((served(&rules) == last.served).then(|| last.bound.clone()))
    }

    /// Makes it serve what of these rules is for it, starting it where it does not run. Without any it ends.
    pub(crate) fn apply(&self, rules: &[PortRule]) -> Result<(), NetError> {
        let served = served(rules);
        let bound: Vec<PortRule> = rules.iter().filter(|rule| rule.is_relayed()).cloned().collect();
        if served.is_empty() {
            return self.process.end();
        }
        let last = self.last()?;
        if self.process.lives()? && last.served == served && last.bound == bound {
            return Ok(());
        }
        let (relay, places) = self.process.reach()?;
        let held: BTreeMap<Port, u64> = places
            .into_iter()
            .map(|Place { port, inode }| (port, inode))
            .collect();
        let mut sockets = BTreeSet::new();
        for Served { port, .. } in &served {
            let inode = match held.get(port) {
                Some(inode) => *inode,
                None => listen_at(&relay, *port)?,
            };
            sockets.insert(inode);
        }
        relay.give(&served)?;
        let last = Last {
            served,
            bound,
            sockets,
        };
        self.process.write_last(&last)
    }

    /// Inodes of the sockets it listens on.
    pub(crate) fn sockets(&self) -> Result<BTreeSet<u64>, NetError> {
        if !self.process.lives()? {
            return Ok(BTreeSet::new());
        }
        Ok(self.last()?.sockets.clone())
    }

    /// A descriptor that polls readable when the relay has ended; none where it does not run.
    ///
    /// # Errors
    /// Where its files cannot be read.
    pub fn pidfd(&self) -> Result<Option<OwnedFd>, NetError> {
        self.process.pidfd()
    }

    /// What was last written down.
    fn last(&self) -> Result<Arc<Last>, NetError> {
        Ok(self.process.last()?.unwrap_or_default())
    }
}

/// Hands over a socket at that port. Gives its inode.
fn listen_at(relay: &Connection, port: Port) -> Result<u64, NetError> {
    let at = SocketAddr::new(port.ip, port.number);
    let doing = || format!("listen on {at}/{}, for the port published there", port.protocol);
    let socket = bound_socket(port.protocol, at).doing(doing)?;
    let inode = fstat(&socket).map_err(io::Error::from).doing(doing)?.st_ino;
    relay.listen(Place { port, inode }, &[socket.as_fd()])?;
    Ok(inode)
}

fn bound_socket(protocol: Protocol, at: SocketAddr) -> io::Result<OwnedFd> {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let family = match at {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, kind, flags, None)?;
    match protocol {
        Protocol::Tcp => {
            // Connections of a relay that ended linger in TIME_WAIT. On UDP this would share the port with others.
            sockopt::set_socket_reuseaddr(&socket, true)?;
            bind(&socket, &at)?;
            listen(&socket, BACKLOG)?;
        }
        Protocol::Udp => {
            bind(&socket, &at)?;
            // Better than the system's default, not worth failing for.
            let _ = sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER);
        }
    }
    Ok(socket)
}
