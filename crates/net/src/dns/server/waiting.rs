//! One foreign question on its way, and what is made of what comes for it. It decides nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::exchange::{Exchange, Heard};
use super::forward::Origin;
use super::token::{Kind, Poller, Token};
use crate::dns::message::{self, Match, Question, Relayed, code};

/// After so long the client is told that it failed. The usual resolver libraries wait 5 s.
const PATIENCE: Duration = Duration::from_millis(4500);
/// So many packets that answer something else make one ask by TCP.
const STRAYS: u32 = 16;

/// A question that somebody else is asked.
#[derive(Debug)]
pub struct Waiting {
    pub key: Box<[u8]>,
    pub tcp: bool,
    pub question: Question,
    /// None where an upstream is only tried.
    pub askers: Vec<(Origin, Question)>,
    pub order: Vec<SocketAddr>,
    pub asked: usize,
    pub tries: HashMap<u64, Exchange>,
    pub next: Instant,
    pub end: Instant,
    /// A complaint or a part of an answer, passed on if nobody has anything better.
    pub reserve: Option<Relayed>,
    /// Who could not answer.
    pub lame: Vec<SocketAddr>,
}

/// What comes of a try.
pub enum Verdict {
    Nothing,
    Answers(Relayed),
    /// There is more than fits into a datagram.
    IsLonger(Relayed),
    /// Somebody guesses.
    IsUnderAttack,
    FoldsCase,
    DoesNotSpeakEdns,
    CannotHelp(Option<Relayed>),
    Unreachable,
}

impl Waiting {
    pub fn new(
        (key, tcp): &(Box<[u8]>, bool),
        question: Question,
        order: Vec<SocketAddr>,
        now: Instant,
    ) -> Self {
        Self {
            key: key.clone(),
            tcp: *tcp,
            question,
            askers: Vec::new(),
            order,
            asked: 0,
            tries: HashMap::new(),
            next: now,
            end: now + PATIENCE,
            reserve: None,
            lame: Vec::new(),
        }
    }

    pub fn due(&self) -> Instant {
        self.next.min(self.end)
    }

    /// There is an answer, though not all of it.
    pub fn has_a_part(&self) -> bool {
        self.reserve.as_ref().is_some_and(|answer| answer.truncated)
    }
}

/// Reads what came for a try.
pub fn judge(
    exchange: &mut Exchange,
    poller: &Poller,
    at: u64,
    buffer: &mut [u8],
    question: &Question,
) -> Verdict {
    loop {
        let packet = match exchange.hear(poller, Token::Own(Kind::Try, at), buffer) {
            Ok(Heard::Nothing) => return Verdict::Nothing,
            Ok(Heard::Packet(length)) => &buffer[..length],
            Err(_) => return Verdict::Unreachable,
        };
        let unwilling =
            |said: u16| matches!(said, code::FORMAT | code::NOT_IMPLEMENTED) && exchange.sent.edns;
        return match message::matches(packet, &exchange.sent) {
            Match::Answers => match message::examine(packet, question) {
                Some(answer) if unwilling(answer.code) => Verdict::DoesNotSpeakEdns,
                Some(answer) if !matches!(answer.code, code::OK | code::NO_NAME) => {
                    Verdict::CannotHelp(Some(answer).filter(|a| a.code <= code::REFUSED))
                }
                Some(answer) if answer.truncated && !exchange.way.tcp => Verdict::IsLonger(answer),
                Some(answer) => Verdict::Answers(answer),
                None => Verdict::CannotHelp(None),
            },
            Match::OtherCase => Verdict::FoldsCase,
            Match::Complains(said) if unwilling(said) => Verdict::DoesNotSpeakEdns,
            Match::Complains(_) => Verdict::CannotHelp(None),
            Match::Unrelated if exchange.way.tcp => Verdict::CannotHelp(None),
            Match::Unrelated => {
                exchange.strays += 1;
                if exchange.strays < STRAYS {
                    continue; // somebody guesses: what is waited for may still come
                }
                Verdict::IsUnderAttack
            }
        };
    }
}
