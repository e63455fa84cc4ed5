//! Where it listens, and what it is given: what the agent asks of it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use super::Server;
use super::token::{Kind, Token};
use crate::apart::agents::exactly;
use crate::apart::poller::{Interest, Poller};
use crate::apart::{self, Agents, Role};
use crate::dns::control::{Given, Place, ROLE, gateways};
use crate::dns::zone::Zone;

/// The sockets of one gateway.
#[derive(Debug)]
pub struct Listener {
    place: Place,
    pub udp: UdpSocket,
    pub tcp: TcpListener,
}

impl apart::Server for Server {
    const ROLE: Role = ROLE;
    type Place = Place;

    fn new(control: OwnedFd) -> io::Result<Self> {
        let poller = Poller::new()?;
        Ok(Self::waiting(Agents::new(control, &poller)?, poller))
    }

    fn run(&mut self) -> io::Result<Infallible> {
        self.serve()
    }

    fn agents(&mut self) -> &mut Agents {
        &mut self.agents
    }

    fn places(&self) -> Vec<Place> {
        self.listeners.values().map(|l| l.place).collect()
    }

    fn listen(&mut self, place: Place, sockets: Vec<OwnedFd>) -> io::Result<()> {
        let [udp, tcp] = exactly(sockets)?;
        self.keep_listeners(|listener| listener.place.gateway != place.gateway);
        self.counter += 1;
        self.poller
            .add(&udp, Token::Own(Kind::Udp, self.counter), Interest::READ)?;
        self.poller
            .add(&tcp, Token::Own(Kind::Tcp, self.counter), Interest::READ)?;
        let listener = Listener {
            place,
            udp: udp.into(),
            tcp: tcp.into(),
        };
        self.listeners.insert(self.counter, listener);
        Ok(())
    }

    fn take(&mut self, memory: File) -> io::Result<()> {
        let Given { state, upstreams } = serde_json::from_reader(io::BufReader::new(memory))?;
        self.zone = Zone::new(&state);
        let gateways: BTreeSet<IpAddr> = gateways(&state).collect();
        drop(state);
        self.forwards.set_upstreams(&upstreams);
        self.keep_listeners(|listener| gateways.contains(&listener.place.gateway));
        detach::heap::trim();
        Ok(())
    }
}

impl Server {
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
}
