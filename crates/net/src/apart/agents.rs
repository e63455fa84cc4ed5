//! The agent's connections to a server, and what it asks for.

use std::collections::HashMap;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{SocketFlags, accept_with, sockopt};

use super::Server;
use super::frame::{self, Reply, Request};
use super::poller::{Interest, Kind, Poller, Token};

/// Connections at once: one agent, perhaps one that just died.
const MOST: usize = 8;

/// Who may connect: root alone can reach the socket, whose path lies in a directory of root's.
#[derive(Debug)]
pub(crate) struct Agents {
    socket: OwnedFd,
    all: HashMap<u64, OwnedFd>,
    counter: u64,
}

impl Agents {
    pub fn new<K: Kind>(socket: OwnedFd, poller: &Poller<K>) -> io::Result<Self> {
        poller.add(&socket, Token::Control, Interest::READ)?;
        Ok(Self {
            socket,
            all: HashMap::new(),
            counter: 0,
        })
    }

    /// Takes a connection in.
    pub fn accept<K: Kind>(&mut self, poller: &Poller<K>) {
        let Ok(agent) = accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else {
            return; // whoever it was is gone
        };
        let is_root = sockopt::socket_peercred(&agent).is_ok_and(|who| who.uid.is_root());
        self.counter += 1;
        let token = Token::Agent(self.counter);
        if is_root && self.all.len() < MOST && poller.add(&agent, token, Interest::READ).is_ok() {
            self.all.insert(self.counter, agent);
        }
    }
}

/// Does what the agent of that number asks.
pub(crate) fn serve<S: Server>(server: &mut S, number: u64) {
    let Some(agent) = server.agents().all.get(&number) else {
        return;
    };
    let reply = match frame::receive::<Request<S::Place>>(agent) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
        Ok(None) => None,
        Ok(Some((request, fds))) => Some(obey(server, request, fds)),
        Err(e) => Some(failed("read what the agent asks", &e)),
    };
    let agents = &mut server.agents().all;
    // Frames are small and answered one by one: what cannot be sent at once is for nobody.
    let sent = match (&reply, agents.get(&number)) {
        (Some(reply), Some(agent)) => frame::send(agent, reply, &[]).is_ok(),
        _ => false,
    };
    if !sent {
        agents.remove(&number);
    }
}

fn obey<S: Server>(server: &mut S, request: Request<S::Place>, fds: Vec<OwnedFd>) -> Reply<S::Place> {
    match request {
        Request::Hello => Reply::Here {
            protocol: S::ROLE.protocol,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            places: server.places(),
        },
        Request::Listen { place } => done("listen", server.listen(place, fds)),
        Request::Give => {
            let taken = exactly(fds).and_then(|[memory]| server.take(File::from(memory)));
            done("take what it was given", taken)
        }
    }
}

/// As many descriptors as there have to be.
pub(crate) fn exactly<const N: usize>(fds: Vec<OwnedFd>) -> io::Result<[OwnedFd; N]> {
    fds.try_into().map_err(|came: Vec<_>| {
        let why = format!("{} descriptors came along, {N} are needed", came.len());
        io::Error::new(io::ErrorKind::InvalidInput, why)
    })
}

fn done<P>(what: &str, result: io::Result<()>) -> Reply<P> {
    match result {
        Ok(()) => Reply::Done,
        Err(e) => failed(what, &e),
    }
}

fn failed<P>(what: &str, why: &dyn Display) -> Reply<P> {
    Reply::Failed {
        why: format!("it cannot {what}: {why}"),
    }
}
