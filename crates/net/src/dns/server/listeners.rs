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

/// The sockets of one place.
#[derive(Debug)]
pub struct Listener {
    place: Place,
    pub udp: UdpSocket,
    pub tcp: TcpListener,
    /// Of one inside: its namespace's.
    keeper: Option<OwnedFd>,
}

impl Listener {
    /// Who asks there, from that address. Whoever asks inside is known by where he does.
    pub fn client(&self, zone: &Zone, from: IpAddr) -> IpAddr {
        match &self.place {
            Place::Gateway { .. } => from,
            Place::Inside { id } => zone.inside(id).unwrap_or(from),
        }
    }

    fn is_at(&self, place: &Place) -> bool {
        match (&self.place, place) {
            (Place::Gateway { ip, .. }, Place::Gateway { ip: other, .. }) => ip == other,
            (Place::Inside { id }, Place::Inside { id: other }) => id == other,
            _ => false,
        }
    }
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

    /// The gateways: there may be more of those inside than there is room for in an answer, and the agent knows them.
    fn places(&self) -> Vec<Place> {
        let all = self.listeners.values().map(|l| &l.place);
        all.filter(|place| matches!(place, Place::Gateway { .. }))
            .cloned()
            .collect()
    }

    fn listen(&mut self, place: Place, sockets: Vec<OwnedFd>) -> io::Result<()> {
        let (udp, tcp, keeper) = match place {
            Place::Gateway { .. } => {
                let [udp, tcp] = exactly(sockets)?;
                (udp, tcp, None)
            }
            Place::Inside { .. } => {
                let [udp, tcp, keeper] = exactly(sockets)?;
                (udp, tcp, Some(keeper))
            }
        };
        self.keep_listeners(|_, listener| !listener.is_at(&place));
        self.counter += 1;
        for (kind, fd) in [
            (Kind::Udp, Some(&udp)),
            (Kind::Tcp, Some(&tcp)),
            (Kind::Keeper, keeper.as_ref()),
        ] {
            if let Some(fd) = fd {
                self.poller
                    .add(fd, Token::Own(kind, self.counter), Interest::READ)?;
            }
        }
        let listener = Listener {
            place,
            udp: udp.into(),
            tcp: tcp.into(),
            keeper,
        };
        self.listeners.insert(self.counter, listener);
        Ok(())
    }

    fn take(&mut self, memory: File) -> io::Result<()> {
        let Given { state, upstreams } = serde_json::from_reader(io::BufReader::new(memory))?;
        self.zone = Zone::new(&state);
        let gateways: BTreeSet<IpAddr> = gateways(&state).collect();
        self.forwards.set_upstreams(&upstreams);
        self.keep_listeners(|_, listener| match &listener.place {
            Place::Gateway { ip, .. } => gateways.contains(ip),
            Place::Inside { id } => state.inside.contains_key(id),
        });
        drop(state);
        detach::heap::trim();
        Ok(())
    }
}

impl Server {
    /// Whoever kept the network namespace that it listens in has ended: our sockets are not to keep it.
    pub(super) fn leave(&mut self, number: u64) {
        self.keep_listeners(|other, _| other != number);
    }

    /// Listens no longer on the others, and closes what came by them.
    fn keep_listeners(&mut self, keep: impl Fn(u64, &Listener) -> bool) {
        let poller = &self.poller;
        self.listeners.retain(|number, listener| {
            let kept = keep(*number, listener);
            if !kept {
                // The agent may have its descriptors still.
                poller.remove(&listener.udp);
                poller.remove(&listener.tcp);
                listener.keeper.iter().for_each(|keeper| poller.remove(keeper));
            }
            kept
        });
        let listeners = &self.listeners;
        self.connections.keep(|number| listeners.contains_key(&number));
    }
}
