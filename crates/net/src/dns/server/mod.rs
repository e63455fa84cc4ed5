//! The loop: one thread, everything it waits for in one epoll.

mod connections;
mod exchange;
mod forward;
mod listeners;
mod token;
mod waiting;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};

use self::connections::Connections;
use self::forward::{Finished, Forwards, Origin};
use self::listeners::Listener;
use self::token::{Kind, Poller, Token};
use super::limits::Allowance;
use super::message::{self, Answer, Question, Read, kind};
use super::name;
use super::zone::{Client, Known, Zone};
use crate::apart::agents::{self, Agents};

/// As large as a packet can be.
const PACKET: usize = 65_536;
/// Packets or connections taken from one socket before the others have their turn.
const TURN: usize = 64;
/// Questions of one client answered each second; more are not, so that others have their turn.
const EACH_SECOND: f64 = 50_000.0;
/// Strangers told that they are not served, each second.
const STRANGERS: f64 = 100.0;

/// All of the name server.
#[derive(Debug)]
pub struct Server {
    poller: Poller,
    agents: Agents,
    listeners: BTreeMap<u64, Listener>,
    /// Numbers listeners.
    counter: u64,
    zone: Zone,
    connections: Connections,
    forwards: Forwards,
    buffer: Box<[u8]>,
    /// The answer that is being written, and addresses for it.
    reply: Vec<u8>,
    found: Vec<IpAddr>,
    strangers: Allowance,
}

/// What comes of a question.
enum Asked {
    /// [`Server::reply`] is sent back.
    Answered,
    /// The packet is not worth an answer.
    Ignored,
    /// The client has asked too much.
    TooMuch,
    /// It is asked elsewhere; these are over meanwhile.
    Elsewhere(Vec<Finished>),
}

impl Server {
    /// One that knows nothing yet.
    fn waiting(agents: Agents, poller: Poller) -> Self {
        Self {
            agents,
            poller,
            listeners: BTreeMap::new(),
            counter: 0,
            zone: Zone::default(),
            connections: Connections::default(),
            forwards: Forwards::default(),
            buffer: vec![0; PACKET].into(),
            reply: Vec::with_capacity(PACKET),
            found: Vec::new(),
            strangers: Allowance::UNUSED,
        }
    }

    /// Serves until the kernel gives no more events.
    fn serve(&mut self) -> io::Result<Infallible> {
        let mut ready = Vec::new();
        loop {
            let due = [self.forwards.due(), self.connections.due()];
            self.poller.wait(&mut ready, due.into_iter().flatten().min())?;
            let now = Instant::now();
            for token in &ready {
                self.ready(*token, now);
            }
            let finished = self.forwards.expire(&self.poller, now);
            self.conclude(finished, now);
            self.connections.expire(now);
        }
    }

    fn ready(&mut self, token: Token, now: Instant) {
        match token {
            Token::Control => self.agents.accept(&self.poller),
            Token::Agent(number) => agents::serve(self, number),
            Token::Own(Kind::Udp, listener) => self.receive(listener, now),
            Token::Own(Kind::Tcp, listener) => self.accept(listener),
            Token::Own(Kind::Keeper, listener) => self.leave(listener),
            Token::Own(Kind::Connection, number) => {
                self.connections.ready(&self.poller, number, &mut self.buffer);
                self.read_questions(number, now);
            }
            Token::Own(Kind::Try, number) => {
                let finished = self.forwards.ready(&self.poller, number, &mut self.buffer, now);
                self.conclude(finished, now);
            }
        }
    }

    fn receive(&mut self, number: u64, now: Instant) {
        for _ in 0..TURN {
            let Some(listener) = self.listeners.get(&number) else {
                return;
            };
            let (length, from) = match listener.udp.recv_from(&mut self.buffer) {
                Ok(received) => received,
                // An error of an answer sent before (nobody there any more) is read here too.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => continue,
            };
            let client = listener.client(&self.zone, from.ip());
            let origin = Origin::Udp {
                listener: number,
                from,
                client,
            };
            match self.ask(origin, message::read(&self.buffer[..length]), now) {
                Asked::Answered => self.send(origin),
                Asked::Ignored | Asked::TooMuch => {}
                Asked::Elsewhere(finished) => self.conclude(finished, now),
            }
        }
    }

    fn accept(&mut self, number: u64) {
        for _ in 0..TURN {
            let Some(listener) = self.listeners.get(&number) else {
                return;
            };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (stream, from) = match acceptfrom_with(&listener.tcp, flags) {
                Ok(accepted) => accepted,
                // Without a descriptor the listener would be ready for ever.
                Err(Errno::MFILE | Errno::NFILE) => return self.connections.drop_oldest(),
                Err(_) => return,
            };
            let from = from.and_then(|from| SocketAddr::try_from(from).ok());
            let client = from.map(|from| listener.client(&self.zone, from.ip()));
            // Who is nobody here is not listened to.
            if let Some(client) = client.filter(|client| self.zone.client(*client).is_some()) {
                self.connections
                    .add(&self.poller, TcpStream::from(stream), client, number);
            }
        }
    }

    fn read_questions(&mut self, connection: u64, now: Instant) {
        while let Some((client, packet)) = self.connections.question(connection) {
            let origin = Origin::Tcp { connection, client };
            match self.ask(origin, message::read(&packet), now) {
                Asked::Answered => self.send(origin),
                // It is not worth keeping.
                Asked::Ignored | Asked::TooMuch => self.connections.close(connection),
                // These belong to nobody who waits for a turn here.
                Asked::Elsewhere(finished) => finished.into_iter().for_each(|f| self.deliver(f)),
            }
        }
    }

    /// Answers a packet, or begins to.
    fn ask(&mut self, origin: Origin, read: Read, now: Instant) -> Asked {
        let client = self.zone.client(origin.client());
        let allowed = match client {
            Some(client) => client.may_ask(EACH_SECOND, now),
            None => self.strangers.take(STRANGERS, now),
        };
        if !allowed {
            return Asked::TooMuch;
        }
        let question = match read {
            Read::Question(question) => question,
            Read::Refused(reply) => {
                self.reply = reply;
                return Asked::Answered;
            }
            Read::Noise => return Asked::Ignored,
        };
        let limit = origin.limit(&question);
        let forward = client.is_some_and(|client| client.forward);
        let answer = match client {
            None => Answer::Refused,
            Some(client) => {
                match self
                    .zone
                    .look_up(client, question.name.as_bytes(), question.kind, &mut self.found)
                {
                    Known::Ours if self.found.is_empty() => Answer::NoData,
                    Known::Ours => Answer::Addresses(&self.found),
                    Known::Pointer(name) if matches!(question.kind, kind::PTR | kind::ANY) => {
                        Answer::Pointer(name)
                    }
                    Known::Pointer(_) | Known::Above => Answer::NoData,
                    Known::Nothing => Answer::NoName,
                    Known::Foreign => match foreign(client, &question) {
                        Some(answer) => answer,
                        None if self.forwards.recall(origin, &question, now, &mut self.reply) => {
                            return Asked::Answered;
                        }
                        None => {
                            return Asked::Elsewhere(self.forwards.begin(
                                &self.poller,
                                origin,
                                question,
                                now,
                            ));
                        }
                    },
                }
            }
        };
        question.answer(answer, forward, limit, &mut self.reply);
        Asked::Answered
    }

    /// Sends what was written.
    fn send(&mut self, origin: Origin) {
        match origin {
            Origin::Udp { listener, from, .. } => {
                // Full buffers and clients that are gone: packets get lost, clients ask again.
                if let Some(listener) = self.listeners.get(&listener) {
                    let _ = listener.udp.send_to(&self.reply, from);
                }
            }
            Origin::Tcp { connection, .. } => self.connections.answer(&self.poller, connection, &self.reply),
        }
    }

    fn deliver(&mut self, (origin, reply): Finished) {
        self.reply = reply;
        self.send(origin);
    }

    /// Delivers what others answered; a connection may have waited for that before it took its next question.
    fn conclude(&mut self, finished: Vec<Finished>, now: Instant) {
        for finished in finished {
            let origin = finished.0;
            self.deliver(finished);
            if let Origin::Tcp { connection, .. } = origin {
                self.read_questions(connection, now);
            }
        }
    }
}

/// What a client is told of a name that is not ours, where nobody else is asked: a name of one label can be nothing but
/// a container's, who has no way out has no way to other names, whole zones are not fetched for anybody, and who wants
/// only what is known here would learn what others asked.
fn foreign(client: &Client, question: &Question) -> Option<Answer<'static>> {
    if name::is_single(question.name.as_bytes()) {
        return Some(Answer::NoName);
    }
    let transfer = matches!(question.kind, kind::AXFR | kind::IXFR);
    (transfer || !client.forward || !question.wants_recursion()).then_some(Answer::Refused)
}
