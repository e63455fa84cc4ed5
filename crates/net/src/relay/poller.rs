//! epoll(7) with what a ready descriptor stands for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

/// What is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The agent's listening socket.
    Control,
    /// A connection of the agent.
    Agent(u64),
    /// A listening socket.
    Port(u64),
    /// Whoever connected, and where it was connected to.
    Client(u64),
    Target(u64),
    /// What a container answers to somebody's datagrams.
    Session(u64),
}

/// The kind is in the first byte, which no counter ever reaches.
const KIND: u32 = 56;
const BATCH: usize = 256;

#[derive(Debug)]
pub struct Poller(OwnedFd);

/// What a descriptor is watched for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

impl Token {
    fn data(self) -> EventData {
        let (kind, number) = match self {
            Self::Control => (0, 0),
            Self::Agent(n) => (1, n),
            Self::Port(n) => (2, n),
            Self::Client(n) => (3, n),
            Self::Target(n) => (4, n),
            Self::Session(n) => (5, n),
        };
        EventData::new_u64(kind << KIND | number)
    }

    fn of(data: EventData) -> Self {
        let number = data.u64() & ((1 << KIND) - 1);
        match data.u64() >> KIND {
            0 => Self::Control,
            1 => Self::Agent(number),
            2 => Self::Port(number),
            3 => Self::Client(number),
            4 => Self::Target(number),
            _ => Self::Session(number),
        }
    }
}

impl Poller {
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    pub fn add(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, token.data(), interest.flags())?)
    }

    /// From one interest to another. Without any it is not watched at all: of a hangup the kernel tells in any case, and
    /// goes on telling.
    pub fn change(&self, fd: impl AsFd, token: Token, was: Interest, is: Interest) -> io::Result<()> {
        match (was.is_none(), is.is_none()) {
            _ if was == is => Ok(()),
            (_, true) => Ok(epoll::delete(&self.0, fd)?),
            (true, false) => self.add(fd, token, is),
            (false, false) => Ok(epoll::modify(&self.0, fd, token.data(), is.flags())?),
        }
    }

    pub fn remove(&self, fd: impl AsFd) {
        // One that is not there is what is wanted.
        let _ = epoll::delete(&self.0, fd);
    }

    /// Waits for what is ready, at most so long.
    pub fn wait(&self, ready: &mut Vec<Token>, most: Option<Duration>) -> io::Result<()> {
        let most = most.and_then(|most| Timespec::try_from(most).ok());
        let mut events: Vec<Event> = Vec::with_capacity(BATCH);
        ready.clear();
        match epoll::wait(
            &self.0,
            rustix::buffer::spare_capacity(&mut events),
            most.as_ref(),
        ) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        ready.extend(events.iter().map(|event| Token::of(event.data)));
        Ok(())
    }
}
