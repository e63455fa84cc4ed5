//! How much one client may ask.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

/// Foreign names a client may ask for each second, and at once after a pause.
const FOREIGN: f64 = 1000.0;
/// Foreign queries a client may have waiting.
const WAITING: u32 = 128;
/// And all clients together: as many sockets, times the tries.
const WAITING_ALL: u32 = 512;

/// So much each second, and at once after a pause.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    left: f64,
    /// None where nothing was taken yet.
    at: Option<Instant>,
}

impl Allowance {
    pub const UNUSED: Self = Self { left: 0.0, at: None };

    /// Takes one; false where none is left.
    pub fn take(&mut self, each_second: f64, now: Instant) -> bool {
        self.left = match self.at {
            Some(at) => {
                let passed = now.saturating_duration_since(at).as_secs_f64();
                passed.mul_add(each_second, self.left).min(each_second)
            }
            None => each_second,
        };
        self.at = Some(now);
        let taken = self.left >= 1.0;
        if taken {
            self.left -= 1.0;
        }
        taken
    }
}

/// Counts foreign queries in flight.
#[derive(Debug, Default)]
pub struct Limits {
    clients: HashMap<IpAddr, Client>,
    waiting: u32,
}

#[derive(Debug)]
struct Client {
    waiting: u32,
    allowance: Allowance,
}

impl Limits {
    /// Counts a query that begins; false where it is one too many.
    pub fn begin(&mut self, client: IpAddr, now: Instant) -> bool {
        let client = self.clients.entry(client).or_insert(Client {
            waiting: 0,
            allowance: Allowance::UNUSED,
        });
        if self.waiting >= WAITING_ALL || client.waiting >= WAITING || !client.allowance.take(FOREIGN, now) {
            return false;
        }
        client.waiting += 1;
        self.waiting += 1;
        true
    }

    /// A query that had begun is over.
    pub fn end(&mut self, client: IpAddr) {
        self.waiting = self.waiting.saturating_sub(1);
        if let Some(client) = self.clients.get_mut(&client) {
            client.waiting = client.waiting.saturating_sub(1);
        }
    }

    /// Forgets who has nothing waiting. Called when the clients change.
    pub fn forget_idle(&mut self) {
        self.clients.retain(|_, client| client.waiting > 0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_client_has_so_many_waiting_and_so_many_a_second() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let (a, b) = (IpAddr::from([10, 0, 0, 2]), IpAddr::from([10, 0, 0, 3]));
        let begun = |limits: &mut Limits, who, at| (0..5000).filter(|_| limits.begin(who, at)).count();
        assert_eq!(begun(&mut limits, a, now), 128);
        assert_eq!(begun(&mut limits, b, now), 128);
        let mut all = 128;
        while limits.begin(a, now) || {
            limits.end(a);
            limits.begin(a, now)
        } {
            all += 1;
        }
        assert_eq!(all, 1000);
        let later = now + Duration::from_millis(10);
        limits.end(a);
        assert!(limits.begin(a, later));
    }

    #[test]
    fn all_clients_together_have_a_limit() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let clients: Vec<_> = (0..200).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        let begun = clients
            .iter()
            .map(|c| (0..100).filter(|_| limits.begin(*c, now)).count())
            .sum::<usize>();
        assert_eq!(begun, 512);
        limits.end(clients[0]);
        assert!(limits.begin(clients[199], now));
    }

    #[test]
    fn what_is_allowed_comes_back_with_time_and_does_not_pile_up() {
        let (mut allowance, now) = (Allowance::UNUSED, Instant::now());
        let taken = |allowance: &mut Allowance, at| (0..100).filter(|_| allowance.take(10.0, at)).count();
        assert_eq!(taken(&mut allowance, now), 10);
        assert_eq!(taken(&mut allowance, now + Duration::from_millis(501)), 5);
        assert_eq!(taken(&mut allowance, now + Duration::from_secs(3600)), 10);
    }
}
