//! The loop: one thread, everything it waits for in one epoll.

mod agents;
mod connections;
mod exchange;
mod forward;
mod limits;
mod poller;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Instant;

use hickory_proto::rr::RecordType;
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};

use self::agents::{Agents, Listener};
use self::connections::Connections;
use self::forward::{Finished, Forwards, Origin};
use self::poller::{Poller, Token};
use super::message::{self, Answer, Question, Read};
use super::zone::{Client, Known, Zone};

/// As large as a packet can be.
const PACKET: usize = 65_536;
/// Packets or connections taken from one socket before the others have their turn.
const TURN: usize = 64;

/// All of the name server.
#[derive(Debug)]
pub struct Server {
    poller: Poller,
    agents: Agents,
    listeners: BTreeMap<Ipv4Addr, Listener>,
    zone: Zone,
    connections: Connections,
    forwards: Forwards,
    buffer: Box<[u8]>,
    /// Counts answers, so that each begins with another one of several addresses.
    turn: usize,
}

impl Server {
    /// A server that knows nothing yet and listens to agents alone.
    pub fn new(control: OwnedFd) -> io::Result<Self> {
        let poller = Poller::new()?;
        Ok(Self {
            agents: Agents::new(control, &poller)?,
            poller,
            listeners: BTreeMap::new(),
            zone: Zone::default(),
            connections: Connections::default(),
            forwards: Forwards::default(),
            buffer: vec![0; PACKET].into(),
            turn: 0,
        })
    }

    /// Serves until the kernel gives no more events.
    pub fn run(&mut self) -> io::Result<Infallible> {
        let mut ready = Vec::new();
        loop {
            let due = [self.forwards.due(), self.connections.due()];
            self.poller.wait(&mut ready, due.into_iter().flatten().min())?;
            for token in &ready {
                self.ready(*token);
            }
            let now = Instant::now();
            for finished in self.forwards.expire(&self.poller, now) {
                self.conclude(finished);
            }
            self.connections.expire(now);
        }
    }

    fn ready(&mut self, token: Token) {
        match token {
            Token::Control => self.agents.accept(&self.poller),
            Token::Agent(number) => self.agent(number),
            Token::Udp(gateway) => self.receive(gateway),
            Token::Tcp(gateway) => self.accept(gateway),
            Token::Connection(number) => {
                self.connections.ready(&self.poller, number, &mut self.buffer);
                self.read_questions(number);
            }
            Token::Try(number) => {
                if let Some(finished) = self.forwards.ready(&self.poller, number, &mut self.buffer) {
                    self.conclude(finished);
                }
            }
        }
    }

    fn receive(&mut self, gateway: Ipv4Addr) {
        for _ in 0..TURN {
            let Some(listener) = self.listeners.get(&gateway) else {
                return;
            };
            let (length, from) = match listener.udp.recv_from(&mut self.buffer) {
                Ok((length, SocketAddr::V4(from))) => (length, from),
                // An error of an answer sent before (nobody there any more) is read here too.
                Ok(_) => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => continue,
            };
            let packet = self.buffer[..length].to_vec();
            if let Some(finished) = self.ask(Origin::Udp { gateway, from }, &packet) {
                self.deliver(finished);
            }
        }
    }

    fn accept(&mut self, gateway: Ipv4Addr) {
        for _ in 0..TURN {
            let Some(listener) = self.listeners.get(&gateway) else {
                return;
            };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (stream, from) = match acceptfrom_with(&listener.tcp, flags) {
                Ok(accepted) => accepted,
                // Without a descriptor the listener would be ready for ever.
                Err(Errno::MFILE | Errno::NFILE) => return self.connections.drop_oldest(),
                Err(_) => return,
            };
            let from = from.and_then(|from| SocketAddrV4::try_from(from).ok());
            // Who is nobody here is not listened to.
            let known = from.filter(|from| self.zone.client(*from.ip()).is_some());
            if let Some(from) = known {
                self.connections
                    .add(&self.poller, TcpStream::from(stream), from, gateway);
            }
        }
    }

    fn read_questions(&mut self, connection: u64) {
        while let Some((from, packet)) = self.connections.question(connection) {
            if let Some(finished) = self.ask(Origin::Tcp { connection, from }, &packet) {
                self.deliver(finished);
            }
        }
    }

    /// Answers a packet, or begins to: none where the answer comes later.
    fn ask(&mut self, origin: Origin, packet: &[u8]) -> Option<Finished> {
        let question = match message::read(packet) {
            Read::Question(question) => question,
            Read::Refused(reply) => return Some((origin, Some(reply))),
            Read::Noise => return Some((origin, None)),
        };
        let Some(client) = self.zone.client(*origin.client().ip()) else {
            return Some((origin, question.answer(Answer::Refused, false, None)));
        };
        self.turn = self.turn.wrapping_add(1);
        let limit = matches!(origin, Origin::Udp { .. }).then_some(question.udp_size);
        let say = |answer| Some((origin, question.answer(answer, client.forward, limit)));
        match self.zone.look_up(client, &question.name) {
            Known::Addresses(mut all) => {
                let first = self.turn % all.len();
                all.rotate_left(first);
                say(match question.kind {
                    RecordType::A | RecordType::ANY => Answer::Addresses(&all),
                    _ => Answer::NoData,
                })
            }
            Known::Pointer(name) => say(match question.kind {
                RecordType::PTR | RecordType::ANY => Answer::Pointer(name),
                _ => Answer::NoData,
            }),
            Known::Nothing => say(Answer::NoName),
            Known::Foreign => match foreign(client, &question) {
                Some(answer) => say(answer),
                None => self.forwards.begin(&self.poller, origin, question, packet),
            },
        }
    }

    fn deliver(&mut self, (origin, reply): Finished) {
        match origin {
            Origin::Udp { gateway, from } => {
                // Full buffers and clients that are gone: packets get lost, clients ask again.
                if let (Some(listener), Some(reply)) = (self.listeners.get(&gateway), reply) {
                    let _ = listener.udp.send_to(&reply, from);
                }
            }
            Origin::Tcp { connection, .. } => {
                self.connections
                    .answer(&self.poller, connection, reply.as_deref());
            }
        }
    }

    /// Delivers what others answered; the connection may have waited for that before it took its next question.
    fn conclude(&mut self, finished: Finished) {
        let origin = finished.0;
        self.deliver(finished);
        if let Origin::Tcp { connection, .. } = origin {
            self.read_questions(connection);
        }
    }
}

/// What a client is told of a name that is not ours, where nobody else is asked: a name of one label can be nothing but
/// a container's, who has no way out has no way to other names, and whole zones are not fetched for anybody.
fn foreign(client: &Client, question: &Question) -> Option<Answer<'static>> {
    if !question.name.is_empty() && !question.name.contains('.') {
        return Some(Answer::NoName);
    }
    let transfer = matches!(question.kind, RecordType::AXFR | RecordType::IXFR);
    (transfer || !client.forward).then_some(Answer::Refused)
}
