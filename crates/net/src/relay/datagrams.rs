//! Datagrams passed on: whoever sends some to a port has a socket of its own to the container, for as long as it goes on.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::token::{Kind, Poller, Token};
use crate::apart::poller::Interest;

/// Who sent or got nothing for so long is forgotten, as connection tracking does it with flows that were answered.
const IDLE: Duration = Duration::from_secs(120);
/// At once; the one that was idle longest goes for a new one.
const MOST: usize = 1024;

#[derive(Debug, Default)]
pub struct Sessions {
    all: HashMap<u64, Session>,
    /// By the number of the port and whoever sends there.
    by_sender: HashMap<(u64, SocketAddr), u64>,
}

#[derive(Debug)]
struct Session {
    socket: UdpSocket,
    port: u64,
    sender: SocketAddr,
    target: SocketAddr,
    used: Instant,
}

impl Sessions {
    /// Passes a datagram on. `number`: for a session that begins. `to`: where that one leads.
    pub fn send(
        &mut self,
        poller: &Poller,
        number: u64,
        (port, sender): (u64, SocketAddr),
        to: impl FnOnce() -> Option<SocketAddr>,
        datagram: &[u8],
    ) {
        let known = self.by_sender.get(&(port, sender)).copied();
        let Some(number) = known.or_else(|| {
            self.begin(poller, number, (port, sender), to()?).ok()?;
            Some(number)
        }) else {
            return;
        };
        if let Some(session) = self.all.get_mut(&number) {
            session.used = Instant::now();
            // A full buffer and a container that does not listen: datagrams get lost, as on any way.
            let _ = session.socket.send(datagram);
        }
    }

    fn begin(
        &mut self,
        poller: &Poller,
        number: u64,
        (port, sender): (u64, SocketAddr),
        target: SocketAddr,
    ) -> io::Result<()> {
        if self.all.len() >= MOST {
            self.drop_oldest();
        }
        let family = match target {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
        connect(&socket, &target)?;
        poller.add(&socket, Token::Own(Kind::Session, number), Interest::READ)?;
        let session = Session {
            socket: socket.into(),
            port,
            sender,
            target,
            used: Instant::now(),
        };
        self.all.insert(number, session);
        self.by_sender.insert((port, sender), number);
        Ok(())
    }

    /// A datagram that came back: for whom, by which port, and its length in the buffer.
    pub fn receive(&mut self, number: u64, buffer: &mut [u8]) -> Option<(u64, SocketAddr, usize)> {
        let session = self.all.get_mut(&number)?;
        // Errors of datagrams sent before (nobody listens there) are read here, too.
        let count = session.socket.recv(buffer).ok()?;
        session.used = Instant::now();
        Some((session.port, session.sender, count))
    }

    /// Ends those that lead where their port does not lead any more.
    pub fn keep(&mut self, leads: impl Fn(u64, &SocketAddr) -> bool) {
        self.retain(|session| leads(session.port, &session.target));
    }

    pub fn expire(&mut self, now: Instant) {
        self.retain(|session| now < session.used + IDLE);
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn drop_oldest(&mut self) {
        let oldest = self.all.iter().min_by_key(|(_, session)| session.used);
        if let Some(oldest) = oldest.map(|(number, _)| *number) {
            self.by_sender.retain(|_, number| *number != oldest);
            self.all.remove(&oldest);
        }
    }

    fn retain(&mut self, keep: impl Fn(&Session) -> bool) {
        self.all.retain(|_, session| keep(session));
        let all = &self.all;
        self.by_sender.retain(|_, number| all.contains_key(number));
    }
}
