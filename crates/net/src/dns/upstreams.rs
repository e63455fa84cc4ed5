//! Which servers are asked for foreign names, and in which order. Pure: the time is given.
//!
//! The first one that helps is asked, in the order they were named. One that fails is asked after the others for a
//! while, which gets longer each time; after that it is tried beside whoever answers, so that no client waits for it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long a server that failed is asked after the others, at first and at most.
const DOUBT: Duration = Duration::from_secs(10);
const LONGEST_DOUBT: Duration = Duration::from_secs(320);
/// Questions in a row that others could answer and it could not.
const STRIKES: u32 = 3;
/// For so long what a server cannot do is not tried again.
const MEMORY: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
pub struct Upstreams {
    all: Vec<Upstream>,
}

#[derive(Debug)]
struct Upstream {
    at: SocketAddr,
    /// Since it last answered.
    strikes: u32,
    doubts: u32,
    /// It is asked after the others; from that moment on it may be tried.
    doubted: Option<Instant>,
    /// What comes of a try is not known yet.
    trying: bool,
    /// Until then: it does not return names in the letters they were sent in, or does not speak EDNS.
    folds_case: Option<Instant>,
    plain: Option<Instant>,
}

/// How a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    pub cased: bool,
    pub edns: bool,
}

impl Upstreams {
    /// Asks these from now on; whether they are others than before. What is known of those that stay is kept.
    pub fn set(&mut self, servers: &[SocketAddr]) -> bool {
        let before = std::mem::take(&mut self.all);
        let same = before.iter().map(|u| &u.at).eq(servers);
        let mut known: Vec<Upstream> = before;
        self.all = servers
            .iter()
            .map(|at| match known.iter().position(|u| u.at == *at) {
                Some(index) => known.swap_remove(index),
                None => Upstream::new(*at),
            })
            .collect();
        !same
    }

    /// In the order they are to be asked.
    pub fn order(&self) -> Vec<SocketAddr> {
        let good = self.all.iter().filter(|u| u.doubted.is_none());
        let doubted = self.all.iter().filter(|u| u.doubted.is_some());
        good.chain(doubted).map(|u| u.at).collect()
    }

    /// One that is to be tried again, beside another one: at most so often that one try ends before the next.
    pub fn due_again(&mut self, now: Instant) -> Option<SocketAddr> {
        if self.all.iter().all(|u| u.doubted.is_some()) {
            return None; // all are asked anyway
        }
        let due = |u: &&mut Upstream| u.doubted.is_some_and(|from| from <= now);
        let tried = self.all.iter_mut().find(due)?;
        tried.doubted = Some(now + DOUBT);
        tried.trying = true;
        Some(tried.at)
    }

    pub fn manner(&self, server: SocketAddr, now: Instant) -> Manner {
        let known = self.all.iter().find(|u| u.at == server);
        let holds = |until: Option<Instant>| until.is_some_and(|until| until > now);
        Manner {
            cased: !known.is_some_and(|u| holds(u.folds_case)),
            edns: !known.is_some_and(|u| holds(u.plain)),
        }
    }

    /// It answered.
    pub fn good(&mut self, server: SocketAddr) {
        if let Some(known) = self.find(server) {
            (known.strikes, known.doubts) = (0, 0);
            (known.doubted, known.trying) = (None, false);
        }
    }

    /// It could not answer what another one could.
    pub fn strike(&mut self, server: SocketAddr, now: Instant) {
        if let Some(known) = self.find(server) {
            known.strikes += 1;
            if known.strikes >= STRIKES {
                known.doubt(now);
            }
        }
    }

    /// It cannot be reached, or says nothing.
    pub fn doubt(&mut self, server: SocketAddr, now: Instant) {
        if let Some(known) = self.find(server) {
            known.doubt(now);
        }
    }

    pub fn folds_case(&mut self, server: SocketAddr, now: Instant) {
        if let Some(known) = self.find(server) {
            known.folds_case = Some(now + MEMORY);
        }
    }

    pub fn plain(&mut self, server: SocketAddr, now: Instant) {
        if let Some(known) = self.find(server) {
            known.plain = Some(now + MEMORY);
        }
    }

    fn find(&mut self, server: SocketAddr) -> Option<&mut Upstream> {
        self.all.iter_mut().find(|u| u.at == server)
    }
}

impl Upstream {
    fn new(at: SocketAddr) -> Self {
        Self {
            at,
            strikes: 0,
            doubts: 0,
            doubted: None,
            trying: false,
            folds_case: None,
            plain: None,
        }
    }

    fn doubt(&mut self, now: Instant) {
        // Questions that were on their way together fail together.
        if !self.trying && self.doubted.is_some_and(|from| from > now) {
            return;
        }
        self.trying = false;
        let time = DOUBT * 2_u32.saturating_pow(self.doubts.min(16));
        self.doubts += 1;
        self.doubted = Some(now + time.min(LONGEST_DOUBT));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 53))
    }

    fn three() -> (Upstreams, Instant) {
        let mut all = Upstreams::default();
        assert!(all.set(&[server(1), server(2), server(3)]));
        (all, Instant::now())
    }

    fn order(all: &Upstreams) -> Vec<u8> {
        let last = |at: SocketAddr| match at {
            SocketAddr::V4(at) => at.ip().octets()[3],
            SocketAddr::V6(_) => 0,
        };
        all.order().into_iter().map(last).collect()
    }

    #[test]
    fn they_are_asked_in_their_order_and_the_doubted_last() {
        let (mut all, now) = three();
        assert_eq!(order(&all), [1, 2, 3]);
        all.doubt(server(1), now);
        assert_eq!(order(&all), [2, 3, 1]);
        all.doubt(server(3), now);
        assert_eq!(order(&all), [2, 1, 3]);
        all.good(server(1));
        assert_eq!(order(&all), [1, 2, 3]);
    }

    #[test]
    fn what_others_can_and_it_cannot_counts_against_it() {
        let (mut all, now) = three();
        all.strike(server(1), now);
        all.strike(server(1), now);
        all.good(server(1));
        all.strike(server(1), now);
        all.strike(server(1), now);
        assert_eq!(order(&all), [1, 2, 3], "some names are broken");
        all.strike(server(1), now);
        assert_eq!(order(&all), [2, 3, 1]);
    }

    #[test]
    fn it_is_tried_again_less_and_less_often() {
        let (mut all, now) = three();
        let mut at = now;
        all.doubt(server(2), at);
        for wait in [10, 20, 40, 80, 160, 320, 320, 320] {
            let second = Duration::from_secs(1);
            let passed = |at: Instant, seconds| at + second * seconds;
            assert_eq!(all.due_again(passed(at, wait) - second / 2), None, "{wait}");
            at = passed(at, wait);
            assert_eq!(all.due_again(at), Some(server(2)), "{wait}");
            assert_eq!(all.due_again(at), None, "one try at a time");
            // It fails a second later.
            at = passed(at, 1);
            all.doubt(server(2), at);
            all.doubt(server(2), at);
        }
        all.good(server(2));
        assert_eq!(order(&all), [1, 2, 3]);
        all.doubt(server(2), at);
        assert_eq!(all.due_again(at + DOUBT), Some(server(2)), "from the beginning");
    }

    #[test]
    fn where_all_are_doubted_none_is_tried_beside() {
        let (mut all, now) = three();
        for number in 1..=3 {
            all.doubt(server(number), now);
        }
        assert_eq!(order(&all), [1, 2, 3]);
        assert_eq!(all.due_again(now + LONGEST_DOUBT), None);
    }

    #[test]
    fn what_a_server_cannot_do_is_remembered_for_a_while() {
        let (mut all, now) = three();
        let all_of_it = Manner {
            cased: true,
            edns: true,
        };
        assert_eq!(all.manner(server(1), now), all_of_it);
        all.folds_case(server(1), now);
        all.plain(server(2), now);
        let manner = |all: &Upstreams, number, at| {
            let manner = all.manner(server(number), at);
            (manner.cased, manner.edns)
        };
        assert_eq!(manner(&all, 1, now), (false, true));
        assert_eq!(manner(&all, 2, now), (true, false));
        assert_eq!(manner(&all, 1, now + MEMORY), (true, true));
        // It stays with those that stay.
        assert!(all.set(&[server(2), server(4), server(1)]));
        assert!(!all.set(&[server(2), server(4), server(1)]));
        assert_eq!(manner(&all, 1, now), (false, true));
        assert_eq!(order(&all), [2, 4, 1]);
    }
}
