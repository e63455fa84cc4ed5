//! What others answered, kept for as long as they say, in bounded room. Pure: the time is given.
//!
//! Only what came from elsewhere is in here, under the question that was asked, and only who may ask elsewhere is
//! answered from here: no name of ours ever is. A record that came along with an answer answers no other question.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::message::Relayed;

/// Bytes, what the tables themselves take included.
const MOST: usize = 4 << 20;
/// What an entry takes beside its answer.
const ENTRY: usize = 160;

/// Two generations: what is asked for again moves to the young one; when that is full, the old one is forgotten.
#[derive(Debug, Default)]
pub struct Cache {
    young: Generation,
    old: Generation,
}

#[derive(Debug, Default)]
struct Generation {
    all: HashMap<Box<[u8]>, Kept>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    answer: Relayed,
    since: Instant,
    until: Instant,
}

impl Cache {
    /// An answer to that question, and how old it is in seconds.
    pub fn find(&mut self, question: &[u8], now: Instant) -> Option<(&Relayed, u32)> {
        if !self.young.all.contains_key(question) {
            let (question, kept) = self.old.all.remove_entry(question)?;
            self.insert(question, kept);
        }
        let kept = self.young.all.get(question).filter(|kept| kept.until > now)?;
        let age = now.saturating_duration_since(kept.since).as_secs();
        Some((&kept.answer, u32::try_from(age).unwrap_or(u32::MAX)))
    }

    /// Keeps an answer for as long as it says.
    pub fn keep(&mut self, question: Box<[u8]>, answer: Relayed, now: Instant) {
        let Some(seconds) = answer.keep else {
            return;
        };
        let kept = Kept {
            answer,
            since: now,
            until: now + Duration::from_secs(seconds.into()),
        };
        self.old.all.remove(&question);
        self.insert(question, kept);
    }

    /// Others are asked from now on, who may answer something else.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn insert(&mut self, question: Box<[u8]>, kept: Kept) {
        let bytes = ENTRY + question.len() + kept.answer.size();
        if bytes > MOST / 8 {
            return;
        }
        if self.young.bytes + bytes > MOST / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.bytes += bytes;
        if let Some(before) = self.young.all.insert(question, kept) {
            self.young.bytes = self.young.bytes.saturating_sub(ENTRY + before.answer.size());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{self, Read, Relayed};
    use super::*;

    fn answer(name: &str, seconds: u32, addresses: usize) -> (Box<[u8]>, Relayed) {
        let mut packet = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        packet.extend(super::super::name::from_text(name).unwrap());
        packet.extend([0, 0, 1, 0, 1]);
        let Read::Question(question) = message::read(&packet) else {
            panic!("{packet:?}");
        };
        packet[2] |= 0x80;
        packet[7] = u8::try_from(addresses).unwrap();
        for _ in 0..addresses {
            packet.extend([0xc0, 12, 0, 1, 0, 1]);
            packet.extend(seconds.to_be_bytes());
            packet.extend([0, 4, 192, 0, 2, 1]);
        }
        (question.key(), message::examine(&packet, &question).unwrap())
    }

    #[test]
    fn an_answer_is_kept_for_as_long_as_it_says() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let (key, relayed) = answer("a.example", 60, 2);
        cache.keep(key.clone(), relayed, now);
        let age = |cache: &mut Cache, after| {
            let at = now + Duration::from_millis(after);
            cache.find(&key, at).map(|(_, age)| age)
        };
        assert_eq!(age(&mut cache, 0), Some(0));
        assert_eq!(age(&mut cache, 59_999), Some(59));
        assert_eq!(age(&mut cache, 60_000), None);
        assert!(cache.find(&answer("b.example", 60, 1).0, now).is_none());
        let (key, relayed) = answer("c.example", 0, 1);
        cache.keep(key.clone(), relayed, now);
        assert!(cache.find(&key, now).is_none(), "not even for a moment");
        cache.clear();
        assert!(cache.young.all.is_empty());
    }

    #[test]
    fn it_takes_bounded_room_and_what_is_asked_for_stays() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let (wanted, relayed) = answer("wanted.example", 600, 1);
        cache.keep(wanted.clone(), relayed, now);
        for number in 0..40_000 {
            let (key, relayed) = answer(&format!("n{number}.example"), 600, 20);
            cache.keep(key, relayed, now);
            assert!(cache.find(&wanted, now).is_some(), "after {number}");
            let all = [&cache.young, &cache.old];
            assert!(all.iter().all(|g| g.bytes <= MOST / 2));
        }
        let entries = cache.young.all.len() + cache.old.all.len();
        assert!((2_000..40_000).contains(&entries), "{entries}");
        // Kept again and again it is there once.
        for _ in 0..100_000 {
            let (key, relayed) = answer("wanted.example", 600, 1);
            cache.keep(key, relayed, now);
        }
        let sum = |g: &Generation| {
            let each = g.all.iter().map(|(k, v)| ENTRY + k.len() + v.answer.size());
            each.sum::<usize>()
        };
        assert!(cache.young.bytes >= sum(&cache.young));
        assert!(cache.young.bytes <= MOST / 2);
    }
}
