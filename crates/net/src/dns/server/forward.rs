//! Foreign names: asked for at the upstreams, one after the other until one answers.
//!
//! Each try has a socket of its own (a port the kernel picks at random, connected, so that only its upstream is heard)
//! and an id of its own. A try that takes long is not given up when the next one begins: whichever answers first.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use super::exchange::{Exchange, Heard};
use super::limits::Limits;
use super::poller::{Poller, Token};
use crate::dns::message::{self, Match, Question};

/// After so long without an answer the next upstream is asked as well.
const NEXT: Duration = Duration::from_millis(1200);
/// After so long the client is told that it failed. The usual resolver libraries wait 5 s.
const PATIENCE: Duration = Duration::from_millis(4500);
/// For so long an upstream that did not answer is asked after the others.
const DOUBT: Duration = Duration::from_secs(10);
/// The most times a question is sent.
const TRIES: usize = 4;
/// The codes with which another upstream is asked: SERVFAIL, NOTIMP, REFUSED (RFC 1035 §4.1.1), FORMERR.
const UNHELPFUL: [u8; 4] = [2, 4, 5, 1];

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    Udp { gateway: Ipv4Addr, from: SocketAddrV4 },
    Tcp { connection: u64, from: SocketAddrV4 },
}

impl Origin {
    pub fn client(self) -> SocketAddrV4 {
        match self {
            Self::Udp { from, .. } | Self::Tcp { from, .. } => from,
        }
    }

    fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp { .. })
    }
}

/// A question that is over: what is sent where. None: nothing, the client asks again.
pub type Finished = (Origin, Option<Vec<u8>>);

/// All questions on their way.
#[derive(Debug, Default)]
pub struct Forwards {
    upstreams: Vec<SocketAddr>,
    doubted: HashMap<SocketAddr, Instant>,
    waiting: HashMap<u64, Waiting>,
    /// Which question a try belongs to.
    tries: HashMap<u64, u64>,
    /// What was asked by UDP: a client that repeats itself is not asked for twice.
    known: HashSet<(Origin, Vec<u8>)>,
    limits: Limits,
    counter: u64,
    /// Nothing is due before.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Waiting {
    origin: Origin,
    question: Question,
    packet: Vec<u8>,
    order: Vec<SocketAddr>,
    tried: usize,
    tries: HashMap<u64, Exchange>,
    next: Instant,
    end: Instant,
    /// A complaint, passed on if nobody has anything better.
    reserve: Option<Vec<u8>>,
}

impl Forwards {
    /// Asks these from now on. What is on its way stays.
    pub fn set_upstreams(&mut self, upstreams: Vec<SocketAddr>) {
        self.doubted.retain(|server, _| upstreams.contains(server));
        self.upstreams = upstreams;
        self.limits.forget_idle();
    }

    /// Begins to ask. What is over at once comes back.
    pub fn begin(
        &mut self,
        poller: &Poller,
        origin: Origin,
        question: Question,
        packet: &[u8],
    ) -> Option<Finished> {
        let key = (origin, packet.to_vec());
        if !origin.is_tcp() && self.known.contains(&key) {
            return None;
        }
        let (now, client) = (Instant::now(), *origin.client().ip());
        if self.upstreams.is_empty() || !self.limits.begin(client, now) {
            return Some((origin, failed(&question)));
        }
        let number = self.count();
        let waiting = Waiting {
            origin,
            packet: packet.to_vec(),
            order: self.order(now),
            tried: 0,
            tries: HashMap::new(),
            next: now,
            end: now + PATIENCE,
            reserve: None,
            question,
        };
        self.waiting.insert(number, waiting);
        self.known.insert(key);
        self.ask_next(poller, number, now)
    }

    /// Something came from an upstream, or can be sent to it.
    pub fn ready(&mut self, poller: &Poller, try_number: u64, buffer: &mut [u8]) -> Option<Finished> {
        let number = *self.tries.get(&try_number)?;
        let waiting = self.waiting.get_mut(&number)?;
        let exchange = waiting.tries.get_mut(&try_number)?;
        loop {
            match exchange.hear(poller, Token::Try(try_number), buffer) {
                Ok(Heard::Nothing) => return None,
                Ok(Heard::Packet(length)) => {
                    let packet = &buffer[..length];
                    match message::matches(packet, exchange.id, &waiting.packet[..waiting.question.end]) {
                        // Somebody guesses, or a late answer to somebody else: what is waited for may still come.
                        Match::Unrelated if !waiting.origin.is_tcp() => {}
                        Match::Answers if !UNHELPFUL.contains(&message::code(packet)) => {
                            let reply = message::with_id(packet, message::id(&waiting.packet));
                            self.doubted.remove(&exchange.server);
                            return self.finish(number, Some(reply));
                        }
                        Match::Answers => {
                            let reply = message::with_id(packet, message::id(&waiting.packet));
                            waiting.reserve = Some(reply);
                            return self.gave_up(poller, number, try_number, false);
                        }
                        Match::Complains | Match::Unrelated => {
                            return self.gave_up(poller, number, try_number, false);
                        }
                    }
                }
                Err(_) => return self.gave_up(poller, number, try_number, true),
            }
        }
    }

    /// Goes on with what took too long.
    pub fn expire(&mut self, poller: &Poller, now: Instant) -> Vec<Finished> {
        if self.due.is_none_or(|due| now < due) {
            return Vec::new();
        }
        let late: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, w)| w.due() <= now)
            .map(|(n, _)| *n)
            .collect();
        let mut finished = Vec::new();
        for number in late {
            finished.extend(self.late(poller, number, now));
        }
        self.due = self.waiting.values().map(Waiting::due).min();
        finished
    }

    /// When [`Self::expire`] has something to do.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    fn late(&mut self, poller: &Poller, number: u64, now: Instant) -> Option<Finished> {
        let waiting = self.waiting.get(&number)?;
        for exchange in waiting.tries.values() {
            self.doubted.insert(exchange.server, now + DOUBT);
        }
        if waiting.end <= now {
            return self.finish(number, None);
        }
        self.ask_next(poller, number, now)
    }

    /// A try came to nothing: because the upstream cannot be reached, or did not help.
    fn gave_up(
        &mut self,
        poller: &Poller,
        number: u64,
        try_number: u64,
        unreachable: bool,
    ) -> Option<Finished> {
        self.tries.remove(&try_number);
        let now = Instant::now();
        let waiting = self.waiting.get_mut(&number)?;
        if let Some(exchange) = waiting.tries.remove(&try_number)
            && unreachable
        {
            self.doubted.insert(exchange.server, now + DOUBT);
        }
        if waiting.tries.is_empty() {
            return self.ask_next(poller, number, now);
        }
        None
    }

    /// Asks the next upstream there is.
    fn ask_next(&mut self, poller: &Poller, number: u64, now: Instant) -> Option<Finished> {
        loop {
            let try_number = self.count();
            let waiting = self.waiting.get_mut(&number)?;
            // Each one once where they answer, but not to the point; twice where packets may have been lost.
            let rounds = if waiting.reserve.is_some() { 1 } else { 2 };
            if waiting.tried >= TRIES.min(waiting.order.len() * rounds) {
                if waiting.tries.is_empty() {
                    return self.finish(number, None);
                }
                waiting.next = waiting.end;
                self.due = earlier(self.due, waiting.end);
                return None;
            }
            let server = waiting.order[waiting.tried % waiting.order.len()];
            waiting.tried += 1;
            waiting.next = now + NEXT;
            self.due = earlier(self.due, waiting.due());
            let begun = random_id().and_then(|id| {
                let packet = message::with_id(&waiting.packet, id);
                Exchange::begin(
                    poller,
                    Token::Try(try_number),
                    server,
                    waiting.origin.is_tcp(),
                    id,
                    packet,
                )
            });
            match begun {
                Ok(exchange) => {
                    waiting.tries.insert(try_number, exchange);
                    self.tries.insert(try_number, number);
                    return None;
                }
                Err(_) => drop(self.doubted.insert(server, now + DOUBT)),
            }
        }
    }

    /// Ends a question: with this answer, or with the complaint kept, or with a failure.
    fn finish(&mut self, number: u64, reply: Option<Vec<u8>>) -> Option<Finished> {
        let waiting = self.waiting.remove(&number)?;
        for try_number in waiting.tries.keys() {
            self.tries.remove(try_number);
        }
        self.known.remove(&(waiting.origin, waiting.packet));
        self.limits.end(*waiting.origin.client().ip());
        let question = &waiting.question;
        let reply = match reply.or(waiting.reserve) {
            // The upstream was told what the client takes, but need not keep to it.
            Some(reply) if !waiting.origin.is_tcp() && reply.len() > question.udp_size => {
                question.truncated(message::code(&reply))
            }
            Some(reply) => Some(reply),
            None => failed(question),
        };
        Some((waiting.origin, reply))
    }

    /// The upstreams in their order, those last that did not answer lately.
    fn order(&mut self, now: Instant) -> Vec<SocketAddr> {
        self.doubted.retain(|_, until| *until > now);
        let mut order = self.upstreams.clone();
        order.sort_by_key(|server| self.doubted.contains_key(server));
        order
    }

    fn count(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }
}

impl Waiting {
    fn due(&self) -> Instant {
        self.next.min(self.end)
    }
}

fn earlier(a: Option<Instant>, b: Instant) -> Option<Instant> {
    Some(a.map_or(b, |a| a.min(b)))
}

fn failed(question: &Question) -> Option<Vec<u8>> {
    question.answer(message::Answer::Failed, true, None)
}

/// What an attacker would have to guess.
fn random_id() -> io::Result<u16> {
    let mut id = [0; 2];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    Ok(u16::from_ne_bytes(id))
}
