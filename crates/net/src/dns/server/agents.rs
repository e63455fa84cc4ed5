//! The agent's connections, and what it asks for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use rustix::net::{SocketFlags, accept_with, sockopt};

use super::Server;
use super::poller::{Interest, Poller, Token};
use crate::dns::control::{self, Given, PROTOCOL, Reply, Request};
use crate::dns::zone::Zone;

/// Connections at once: one agent, perhaps one that just died.
const MOST: usize = 8;

/// Who may connect: root alone can reach the socket, whose path lies in a directory of root's.
#[derive(Debug)]
pub struct Agents {
    socket: OwnedFd,
    all: HashMap<u64, OwnedFd>,
    counter: u64,
}

impl Agents {
    pub fn new(socket: OwnedFd, poller: &Poller) -> io::Result<Self> {
        poller.add(&socket, Token::Control, Interest::READ)?;
        Ok(Self {
            socket,
            all: HashMap::new(),
            counter: 0,
        })
    }

    /// Takes a connection in.
    pub fn accept(&mut self, poller: &Poller) {
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

/// The sockets of one gateway.
#[derive(Debug)]
pub struct Listener {
    gateway: IpAddr,
    pub udp: UdpSocket,
    pub tcp: TcpListener,
    port: u16,
}

impl Server {
    /// Does what an agent asks.
    pub(super) fn agent(&mut self, number: u64) {
        let Some(agent) = self.agents.all.get(&number) else {
            return;
        };
        let reply = match control::receive::<Request>(agent) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            Ok(None) => None,
            Ok(Some((request, fds))) => Some(self.obey(request, fds)),
            Err(e) => Some(failed("cannot read what the agent asks", &e)),
        };
        // Frames are small and answered one by one: what cannot be sent at once is for nobody.
        let sent = match (&reply, self.agents.all.get(&number)) {
            (Some(reply), Some(agent)) => control::send(agent, reply, &[]).is_ok(),
            _ => false,
        };
        if !sent {
            self.agents.all.remove(&number);
        }
    }

    fn obey(&mut self, request: Request, fds: Vec<OwnedFd>) -> Reply {
        match request {
            Request::Hello => Reply::Here {
                protocol: PROTOCOL,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                listeners: self.ports(),
            },
            Request::Listen { gateway, port } => match <[OwnedFd; 2]>::try_from(fds) {
                Ok([udp, tcp]) => done("cannot listen", self.listen(gateway, port, udp, tcp)),
                Err(_) => failed("cannot listen", &"two sockets are needed"),
            },
            Request::Give { gateways } => match <[OwnedFd; 1]>::try_from(fds) {
                Ok([memory]) => done("cannot read the names", self.take(File::from(memory), &gateways)),
                Err(_) => failed("cannot read the names", &"they did not come along"),
            },
        }
    }

    fn ports(&self) -> BTreeMap<IpAddr, u16> {
        self.listeners.values().map(|l| (l.gateway, l.port)).collect()
    }

    fn listen(&mut self, gateway: IpAddr, port: u16, udp: OwnedFd, tcp: OwnedFd) -> io::Result<()> {
        self.keep_listeners(|listener| listener.gateway != gateway);
        self.counter += 1;
        self.poller.add(&udp, Token::Udp(self.counter), Interest::READ)?;
        self.poller.add(&tcp, Token::Tcp(self.counter), Interest::READ)?;
        let listener = Listener {
            gateway,
            udp: udp.into(),
            tcp: tcp.into(),
            port,
        };
        self.listeners.insert(self.counter, listener);
        Ok(())
    }

    /// Listens no longer on the others, and closes what came by them.
    fn keep_listeners(&mut self, keep: impl Fn(&Listener) -> bool) {
        let poller = &self.poller;
        self.listeners.retain(|_, listener| {
            let kept = keep(listener);
            if !kept {
                // The agent may have its descriptors still.
                poller.remove(&listener.udp);
                poller.remove(&listener.tcp);
            }
            kept
        });
        let listeners = &self.listeners;
        self.connections.keep(|number| listeners.contains_key(&number));
    }

    fn take(&mut self, memory: File, gateways: &BTreeSet<IpAddr>) -> io::Result<()> {
        let Given { state, upstreams } = serde_json::from_reader(io::BufReader::new(memory))?;
        self.zone = Zone::new(&state);
        drop(state);
        self.forwards.set_upstreams(&upstreams);
        self.keep_listeners(|listener| gateways.contains(&listener.gateway));
        detach::heap::trim();
        Ok(())
    }
}

fn done(what: &str, result: io::Result<()>) -> Reply {
    match result {
        Ok(()) => Reply::Done,
        Err(e) => failed(what, &e),
    }
}

fn failed(what: &str, why: &dyn std::fmt::Display) -> Reply {
    Reply::Failed {
        why: format!("{what}: {why}"),
    }
}
