//! Foreign names: asked for at the upstreams, one after the other until one answers, and kept.
//!
//! Each try has a socket of its own (a port the kernel picks at random, connected, so that only its upstream is heard),
//! an id of its own, and by UDP the letters of the name in upper and lower case by lot: all of that has to be guessed by
//! whoever wants to answer in an upstream's place. What several ask at the same time is asked once, so that there is one
//! guess at a time. A try that takes long is not given up when the next one begins: whichever answers first.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::exchange::{Exchange, Way};
use super::token::{Kind, Poller, Token};
use super::waiting::{Verdict, Waiting, judge};
use crate::dns::cache::Cache;
use crate::dns::limits::Limits;
use crate::dns::message::{self, Answer, LARGEST, Question, Relayed};
use crate::dns::upstreams::Upstreams;

/// After so long without an answer the next upstream is asked as well.
const NEXT: Duration = Duration::from_millis(1200);
/// The most times a question is sent.
const TRIES: usize = 4;
/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    Udp {
        listener: u64,
        from: SocketAddr,
        client: IpAddr,
    },
    Tcp {
        connection: u64,
        client: IpAddr,
    },
}

impl Origin {
    /// Who asks: the address he is known by.
    pub fn client(self) -> IpAddr {
        match self {
            Self::Udp { client, .. } | Self::Tcp { client, .. } => client,
        }
    }

    pub fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp { .. })
    }

    /// The most bytes an answer may have.
    pub fn limit(self, question: &Question) -> usize {
        if self.is_tcp() { LARGEST } else { question.udp_size }
    }
}

/// A question that is over: what is sent where.
pub type Finished = (Origin, Vec<u8>);

/// All questions on their way, and what was answered before.
#[derive(Debug, Default)]
pub struct Forwards {
    upstreams: Upstreams,
    cache: Cache,
    waiting: HashMap<u64, Waiting>,
    /// Which question a try belongs to.
    tries: HashMap<u64, u64>,
    /// What is asked for already, and whether by TCP.
    asked: HashMap<(Box<[u8]>, bool), u64>,
    limits: Limits,
    counter: u64,
    /// Nothing is due before.
    due: Option<Instant>,
}

impl Forwards {
    /// Asks these from now on. What is on its way stays.
    pub fn set_upstreams(&mut self, upstreams: &[SocketAddr]) {
        if self.upstreams.set(upstreams) {
            self.cache.clear();
        }
        self.limits.forget_idle();
    }

    /// Writes the answer where there was one before.
    pub fn recall(&mut self, origin: Origin, question: &Question, now: Instant, out: &mut Vec<u8>) -> bool {
        let Some((known, age)) = self.cache.find(&question.key(), now) else {
            return false;
        };
        known.answer(question, age, origin.limit(question), out);
        true
    }

    /// Begins to ask. What is over at once comes back.
    pub fn begin(
        &mut self,
        poller: &Poller,
        origin: Origin,
        question: Question,
        now: Instant,
    ) -> Vec<Finished> {
        let asked = (question.key(), origin.is_tcp());
        let joined = self.asked.get(&asked).copied();
        let is_repeated = |w: &Waiting| w.askers.iter().any(|(o, q)| *o == origin && q.id == question.id);
        // Two questions on a connection are two, even where the client numbers them alike.
        let repeats = joined
            .and_then(|number| self.waiting.get(&number))
            .is_some_and(is_repeated);
        if repeats && !origin.is_tcp() {
            return Vec::new();
        }
        let order = self.upstreams.order();
        if order.is_empty() || !self.limits.begin(origin.client(), now) {
            return vec![(origin, failed(&question))];
        }
        if let Some(waiting) = joined.and_then(|number| self.waiting.get_mut(&number)) {
            waiting.askers.push((origin, question));
            return Vec::new();
        }
        if let Some(server) = self.upstreams.due_again(now) {
            let tried = Waiting::new(&asked, question.clone(), vec![server], now);
            let number = self.insert(tried);
            self.ask_next(poller, number, now);
        }
        let mut waiting = Waiting::new(&asked, question.clone(), order, now);
        waiting.askers.push((origin, question));
        let number = self.insert(waiting);
        self.asked.insert(asked, number);
        self.ask_next(poller, number, now)
    }

    fn insert(&mut self, waiting: Waiting) -> u64 {
        let number = self.count();
        self.waiting.insert(number, waiting);
        number
    }

    /// Something came from an upstream, or can be sent to it.
    pub fn ready(&mut self, poller: &Poller, at: u64, buffer: &mut [u8], now: Instant) -> Vec<Finished> {
        let heard = self.tries.get(&at).and_then(|number| {
            let waiting = self.waiting.get_mut(number)?;
            let exchange = waiting.tries.get_mut(&at)?;
            let verdict = judge(exchange, poller, at, buffer, &waiting.question);
            Some((*number, exchange.server, exchange.way, exchange.since, verdict))
        });
        let Some((number, server, way, since, verdict)) = heard else {
            return Vec::new();
        };
        match verdict {
            Verdict::Nothing => return Vec::new(),
            Verdict::Answers(answer) => {
                if now < since + NEXT {
                    self.upstreams.good(server);
                }
                if !way.edns {
                    self.upstreams.plain(server, now);
                }
                return self.finish(number, Some(answer), now);
            }
            _ => self.end_try(number, at),
        }
        let again = match verdict {
            Verdict::IsLonger(part) => {
                self.reserve(number, Some(part));
                Some(Way { tcp: true, ..way })
            }
            Verdict::IsUnderAttack => Some(Way { tcp: true, ..way }),
            Verdict::FoldsCase => {
                self.upstreams.folds_case(server, now);
                Some(way)
            }
            Verdict::DoesNotSpeakEdns => Some(Way { edns: false, ..way }),
            Verdict::CannotHelp(complaint) => {
                self.reserve(number, complaint);
                self.lame(number, server);
                None
            }
            Verdict::Unreachable => {
                self.upstreams.doubt(server, now);
                None
            }
            Verdict::Nothing | Verdict::Answers(_) => None,
        };
        if again.is_some_and(|way| self.ask(poller, number, server, way, now).is_ok()) {
            return Vec::new();
        }
        self.go_on(poller, number, now)
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

    fn late(&mut self, poller: &Poller, number: u64, now: Instant) -> Vec<Finished> {
        let Some(waiting) = self.waiting.get(&number) else {
            return Vec::new();
        };
        for exchange in waiting.tries.values() {
            self.upstreams.doubt(exchange.server, now);
        }
        if waiting.end <= now || waiting.has_a_part() {
            return self.finish(number, None, now);
        }
        self.ask_next(poller, number, now)
    }

    /// A try came to nothing.
    fn go_on(&mut self, poller: &Poller, number: u64, now: Instant) -> Vec<Finished> {
        match self.waiting.get(&number) {
            Some(waiting) if !waiting.tries.is_empty() => Vec::new(),
            Some(waiting) if waiting.has_a_part() => self.finish(number, None, now),
            _ => self.ask_next(poller, number, now),
        }
    }

    fn end_try(&mut self, number: u64, at: u64) {
        self.tries.remove(&at);
        if let Some(waiting) = self.waiting.get_mut(&number) {
            waiting.tries.remove(&at);
        }
    }

    fn reserve(&mut self, number: u64, answer: Option<Relayed>) {
        if let Some(waiting) = self.waiting.get_mut(&number)
            && !waiting.has_a_part()
        {
            waiting.reserve = answer.or(waiting.reserve.take());
        }
    }

    fn lame(&mut self, number: u64, server: SocketAddr) {
        if let Some(waiting) = self.waiting.get_mut(&number) {
            waiting.lame.push(server);
        }
    }

    /// Asks the next upstream there is.
    fn ask_next(&mut self, poller: &Poller, number: u64, now: Instant) -> Vec<Finished> {
        while let Some(waiting) = self.waiting.get_mut(&number) {
            // Each one once where they answer, but not to the point; twice where packets may have been lost.
            let rounds = if waiting.lame.is_empty() { 2 } else { 1 };
            if waiting.asked >= TRIES.min(waiting.order.len() * rounds) {
                if waiting.tries.is_empty() {
                    return self.finish(number, None, now);
                }
                waiting.next = waiting.end;
                self.due = earlier(self.due, waiting.end);
                return Vec::new();
            }
            let server = waiting.order[waiting.asked % waiting.order.len()];
            waiting.asked += 1;
            waiting.next = now + NEXT;
            let way = Way {
                tcp: waiting.tcp,
                edns: self.upstreams.manner(server, now).edns,
            };
            self.due = earlier(self.due, waiting.due());
            match self.ask(poller, number, server, way, now) {
                Ok(()) => return Vec::new(),
                Err(_) => self.upstreams.doubt(server, now),
            }
        }
        Vec::new()
    }

    /// Begins a try.
    fn ask(
        &mut self,
        poller: &Poller,
        number: u64,
        server: SocketAddr,
        way: Way,
        now: Instant,
    ) -> io::Result<()> {
        let at = self.count();
        let Some(waiting) = self.waiting.get_mut(&number) else {
            return Ok(());
        };
        let cased = !way.tcp && self.upstreams.manner(server, now).cased;
        let ([high, low], case) = (random()?, random()?);
        let id = u16::from_ne_bytes([high, low]);
        let (packet, sent) = message::ask(&waiting.question, id, cased.then_some(&case), way.edns);
        let exchange = Exchange::begin(
            poller,
            Token::Own(Kind::Try, at),
            server,
            way,
            (packet, sent),
            now,
        )?;
        waiting.tries.insert(at, exchange);
        self.tries.insert(at, number);
        Ok(())
    }

    /// Ends a question: with this answer, or with what was kept in reserve, or with a failure.
    fn finish(&mut self, number: u64, answer: Option<Relayed>, now: Instant) -> Vec<Finished> {
        let Some(waiting) = self.waiting.remove(&number) else {
            return Vec::new();
        };
        for at in waiting.tries.keys() {
            self.tries.remove(at);
        }
        let asked = (waiting.key, waiting.tcp);
        if self.asked.get(&asked) == Some(&number) {
            self.asked.remove(&asked);
        }
        if answer.is_some() {
            for server in waiting.lame {
                self.upstreams.strike(server, now);
            }
        }
        let told = answer.as_ref().or(waiting.reserve.as_ref());
        let mut finished = Vec::with_capacity(waiting.askers.len());
        for (origin, question) in waiting.askers {
            self.limits.end(origin.client());
            let mut reply = Vec::new();
            match told {
                Some(told) => told.answer(&question, 0, origin.limit(&question), &mut reply),
                None => reply = failed(&question),
            }
            finished.push((origin, reply));
        }
        if let Some(answer) = answer {
            self.cache.keep(asked.0, answer, now);
        }
        finished
    }

    fn count(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }
}

fn earlier(a: Option<Instant>, b: Instant) -> Option<Instant> {
    Some(a.map_or(b, |a| a.min(b)))
}

fn failed(question: &Question) -> Vec<u8> {
    let mut reply = Vec::new();
    question.answer(Answer::Failed, true, LARGEST, &mut reply);
    reply
}

/// What an attacker would have to guess.
fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes)
}
