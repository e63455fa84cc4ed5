//! Clients that came by TCP (RFC 7766): several questions on one connection, answered in whatever order.

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

use super::exchange::{framed, send, unframed};
use super::token::{Kind, Poller, Token};
use crate::apart::poller::Interest;

/// Connections at once, and those of one client among them.
const MOST: usize = 256;
const MOST_OF_ONE: usize = 32;
/// A connection on which nothing was asked or answered for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// Questions of one connection on their way.
const WAITING: usize = 16;
/// Nothing more is read while so many bytes of answers wait for the client to take them.
const UNSENT: usize = 64 << 10;

#[derive(Debug, Default)]
pub struct Connections {
    all: HashMap<u64, Connection>,
    counter: u64,
    /// No connection is idle before.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// The address that whoever asks is known by.
    client: IpAddr,
    listener: u64,
    received: Vec<u8>,
    unsent: Vec<u8>,
    /// Questions read and not answered yet.
    waiting: usize,
    interest: Interest,
    used: Instant,
    /// The client sends nothing more.
    ended: bool,
}

impl Connections {
    /// Takes a connection in; closes it where there are too many.
    pub fn add(&mut self, poller: &Poller, stream: TcpStream, client: IpAddr, listener: u64) {
        let same = self.all.values().filter(|c| c.client == client).count();
        if self.all.len() >= MOST || same >= MOST_OF_ONE {
            return;
        }
        self.counter += 1;
        let interest = Interest::READ;
        if poller
            .add(&stream, Token::Own(Kind::Connection, self.counter), interest)
            .is_err()
        {
            return;
        }
        let used = Instant::now();
        self.due = Some(self.due.map_or(used + IDLE, |due| due.min(used + IDLE)));
        let connection = Connection {
            stream,
            client,
            listener,
            received: Vec::new(),
            unsent: Vec::new(),
            waiting: 0,
            interest,
            used,
            ended: false,
        };
        self.all.insert(self.counter, connection);
    }

    /// Reads and writes what can be; closes the connection where that fails.
    pub fn ready(&mut self, poller: &Poller, number: u64, buffer: &mut [u8]) {
        let Some(connection) = self.all.get_mut(&number) else {
            return;
        };
        let went = connection.receive(buffer);
        self.settle(poller, number, went);
    }

    /// The next question of a connection, and who asks.
    pub fn question(&mut self, number: u64) -> Option<(IpAddr, Vec<u8>)> {
        let connection = self.all.get_mut(&number)?;
        if !connection.takes_more() {
            return None;
        }
        let (packet, rest) = unframed(&connection.received)?;
        let (packet, rest) = (packet.to_vec(), rest.len());
        let taken = connection.received.len() - rest;
        connection.received.drain(..taken);
        connection.waiting += 1;
        connection.used = Instant::now();
        Some((connection.client, packet))
    }

    /// A question is over.
    pub fn answer(&mut self, poller: &Poller, number: u64, reply: &[u8]) {
        let Some(connection) = self.all.get_mut(&number) else {
            return;
        };
        connection.waiting = connection.waiting.saturating_sub(1);
        connection.used = Instant::now();
        connection.unsent.extend(framed(reply));
        let went = send(&mut connection.stream, &mut connection.unsent).map(|_| ());
        self.settle(poller, number, went);
    }

    /// Closes one whose client does not behave.
    pub fn close(&mut self, number: u64) {
        self.all.remove(&number);
    }

    /// Closes what is idle.
    pub fn expire(&mut self, now: Instant) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        // Questions on their way end by themselves, a client that takes no answers does not.
        self.all.retain(|_, c| c.used + IDLE > now);
        self.due = self.all.values().map(|c| c.used + IDLE).min();
    }

    /// When [`Self::expire`] has something to do.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Makes room.
    pub fn drop_oldest(&mut self) {
        let oldest = self
            .all
            .iter()
            .min_by_key(|(_, c)| c.used)
            .map(|(number, _)| *number);
        if let Some(oldest) = oldest {
            self.all.remove(&oldest);
        }
    }

    /// Closes those of listeners that are no more.
    pub fn keep(&mut self, listeners: impl Fn(u64) -> bool) {
        self.all.retain(|_, c| listeners(c.listener));
    }

    /// Waits for what the connection is ready for now, or closes it.
    fn settle(&mut self, poller: &Poller, number: u64, went: io::Result<()>) {
        let Some(connection) = self.all.get_mut(&number) else {
            return;
        };
        let interest = Interest {
            read: connection.takes_more() && !connection.ended,
            write: !connection.unsent.is_empty(),
        };
        let over = connection.ended && connection.idle();
        let mut went = went;
        if interest != connection.interest {
            connection.interest = interest;
            let changed = poller.modify(&connection.stream, Token::Own(Kind::Connection, number), interest);
            went = went.and(changed);
        }
        if over || went.is_err() {
            self.all.remove(&number);
        }
    }
}

impl Connection {
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        send(&mut self.stream, &mut self.unsent)?;
        if self.ended || !self.takes_more() {
            return Ok(());
        }
        match self.stream.read(buffer) {
            Ok(0) => self.ended = true,
            Ok(count) => self.received.extend(&buffer[..count]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn takes_more(&self) -> bool {
        self.waiting < WAITING && self.unsent.len() < UNSENT
    }

    /// Nothing is left to answer or to send.
    fn idle(&self) -> bool {
        self.waiting == 0 && self.unsent.is_empty() && unframed(&self.received).is_none()
    }
}
