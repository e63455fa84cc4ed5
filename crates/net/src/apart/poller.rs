//! epoll(7) with what a ready descriptor stands for.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

/// The kind is in the first byte, which no counter ever reaches.
const KIND: u32 = 56;
/// Events taken at once.
const BATCH: usize = 256;

/// What is ready, in a server that tells its own descriptors apart as `K`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token<K> {
    /// The agents' listening socket.
    Control,
    /// The connection of an agent.
    Agent(u64),
    /// The server's own: its kind, and the number of the one of that kind.
    Own(K, u64),
}

/// The kinds of descriptors a server has, at most 253.
pub(crate) trait Kind: Copy + PartialEq + 'static {
    const ALL: &'static [Self];
}

impl<K: Kind> Token<K> {
    fn data(self) -> EventData {
        let (kind, number) = match self {
            Self::Control => (0, 0),
            Self::Agent(number) => (1, number),
            Self::Own(kind, number) => {
                let before = K::ALL.iter().take_while(|other| **other != kind);
                (2 + before.count() as u64, number)
            }
        };
        EventData::new_u64(kind << KIND | number)
    }

    /// None where no token was packed so.
    fn of(data: EventData) -> Option<Self> {
        let [kind, ..] = data.u64().to_be_bytes();
        let number = data.u64() & ((1 << KIND) - 1);
        match kind {
            0 => Some(Self::Control),
            1 => Some(Self::Agent(number)),
            own => Some(Self::Own(*K::ALL.get(usize::from(own) - 2)?, number)),
        }
    }
}

/// What is waited for on a descriptor: level-triggered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interest {
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

    fn is_none(self) -> bool {
        self == Self::default()
    }

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.read);
        flags.set(EventFlags::OUT, self.write);
        flags
    }
}

#[derive(Debug)]
pub(crate) struct Poller<K> {
    epoll: OwnedFd,
    kinds: PhantomData<fn() -> K>,
}

impl<K: Kind> Poller<K> {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            kinds: PhantomData,
        })
    }

    pub fn add(&self, fd: impl AsFd, token: Token<K>, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, token.data(), interest.flags())?)
    }

    /// For one that is watched already.
    pub fn modify(&self, fd: impl AsFd, token: Token<K>, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, token.data(), interest.flags())?)
    }

    /// From one interest to another. Without any it is not watched at all: of a hangup the kernel tells in any case, and
    /// goes on telling.
    pub fn change(&self, fd: impl AsFd, token: Token<K>, was: Interest, is: Interest) -> io::Result<()> {
        match (was.is_none(), is.is_none()) {
            _ if was == is => Ok(()),
            (_, true) => Ok(epoll::delete(&self.epoll, fd)?),
            (true, false) => self.add(fd, token, is),
            (false, false) => self.modify(fd, token, is),
        }
    }

    /// To be called before a descriptor that somebody else may have too is closed.
    pub fn remove(&self, fd: impl AsFd) {
        // It is one that was added; were it not, there would be nothing to do either.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits until something is ready or the moment has come.
    pub fn wait(&self, ready: &mut Vec<Token<K>>, until: Option<Instant>) -> io::Result<()> {
        let timeout = until.map(|until| timespec(until.saturating_duration_since(Instant::now())));
        let mut events: Vec<Event> = Vec::with_capacity(BATCH);
        ready.clear();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            timeout.as_ref(),
        ) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        ready.extend(events.iter().filter_map(|event| Token::of(event.data)));
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

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fruit {
        Apple,
        Pear,
    }
    use Fruit::{Apple, Pear};

    impl Kind for Fruit {
        const ALL: &'static [Self] = &[Apple, Pear];
    }

    #[test]
    fn tokens_are_what_they_were() {
        for token in [
            Token::Control,
            Token::Agent(7),
            Token::Own(Apple, (1 << 40) + 3),
            Token::Own(Pear, (1 << KIND) - 1),
        ] {
            assert_eq!(Token::of(token.data()), Some(token));
        }
        assert_eq!(Token::<Fruit>::of(EventData::new_u64(4 << KIND)), None);
    }

    #[test]
    fn one_without_interest_is_not_watched() {
        let poller = Poller::new().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let none = Interest::default();
        let mut ready = Vec::new();
        poller.add(&reader, Token::Own(Apple, 1), Interest::READ).unwrap();
        poller
            .change(&reader, Token::Own(Apple, 1), Interest::READ, none)
            .unwrap();
        drop(writer);
        poller.wait(&mut ready, Some(Instant::now())).unwrap();
        assert_eq!(ready, []);
        poller
            .change(&reader, Token::Own(Pear, 2), none, Interest::READ)
            .unwrap();
        poller.wait(&mut ready, None).unwrap();
        assert_eq!(ready, [Token::Own(Pear, 2)]);
    }
}
