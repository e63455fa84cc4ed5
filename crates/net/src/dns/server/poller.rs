//! epoll(7) with what a ready descriptor stands for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// What is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The agent's listening socket.
    Control,
    /// A connection of the agent.
    Agent(u64),
    /// The UDP socket of a listener.
    Udp(u64),
    /// The listening TCP socket of a listener.
    Tcp(u64),
    /// A client's TCP connection.
    Connection(u64),
    /// A query to an upstream.
    Try(u64),
}

/// The kind is in the first byte, which no counter ever reaches.
const KIND: u32 = 56;

impl Token {
    fn pack(self) -> u64 {
        let (kind, number) = match self {
            Self::Control => (0, 0),
            Self::Agent(n) => (1, n),
            Self::Udp(n) => (2, n),
            Self::Tcp(n) => (3, n),
            Self::Connection(n) => (4, n),
            Self::Try(n) => (5, n),
        };
        kind << KIND | number
    }

    fn unpack(packed: u64) -> Self {
        let number = packed & ((1 << KIND) - 1);
        match packed >> KIND {
            0 => Self::Control,
            1 => Self::Agent(number),
            2 => Self::Udp(number),
            3 => Self::Tcp(number),
            4 => Self::Connection(number),
            _ => Self::Try(number),
        }
    }
}

/// What is waited for on a descriptor: level-triggered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    pub read: bool,
    pub write: bool,
}

impl Interest {
    pub const READ: Self = Self {
        read: true,
        write: false,
    };
    pub const WRITE: Self = Self {
        read: false,
        write: true,
    };

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.read);
        flags.set(EventFlags::OUT, self.write);
        flags
    }
}

#[derive(Debug)]
pub struct Poller(OwnedFd);

impl Poller {
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    pub fn add(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(
            &self.0,
            fd,
            EventData::new_u64(token.pack()),
            interest.flags(),
        )?)
    }

    pub fn change(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(
            &self.0,
            fd,
            EventData::new_u64(token.pack()),
            interest.flags(),
        )?)
    }

    /// To be called before a descriptor that somebody else may have too is closed.
    pub fn remove(&self, fd: impl AsFd) {
        // It is one that was added; were it not, there would be nothing to do either.
        let _ = epoll::delete(&self.0, fd);
    }

    /// Waits until something is ready or the moment has come.
    pub fn wait(&self, ready: &mut Vec<Token>, until: Option<Instant>) -> io::Result<()> {
        let timeout = until.map(|until| timespec(until.saturating_duration_since(Instant::now())));
        let mut events: Vec<Event> = Vec::with_capacity(128);
        ready.clear();
        match epoll::wait(
            &self.0,
            rustix::buffer::spare_capacity(&mut events),
            timeout.as_ref(),
        ) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        ready.extend(events.iter().map(|event| Token::unpack(event.data.u64())));
        Ok(())
    }
}

/// Rounded up to a millisecond, which is how finely some kernels wait: not before the moment.
fn timespec(time: Duration) -> Timespec {
    let millis = time.as_millis().saturating_add(1).min(3_600_000);
    Timespec {
        tv_sec: i64::try_from(millis / 1000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(millis % 1000).unwrap_or(0) * 1_000_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_what_they_were() {
        for token in [
            Token::Control,
            Token::Agent(7),
            Token::Udp(1),
            Token::Tcp((1 << 40) + 3),
            Token::Connection((1 << KIND) - 1),
            Token::Try(9),
        ] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
