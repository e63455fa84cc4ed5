//! What a ready descriptor of the relay stands for.

use crate::apart::poller;

pub type Token = poller::Token<Kind>;
pub type Poller = poller::Poller<Kind>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A listening socket.
    Port,
    /// Whoever connected.
    Client,
    /// Where it was connected to.
    Target,
    /// What a container answers to somebody's datagrams.
    Session,
}

impl poller::Kind for Kind {
    const ALL: &'static [Self] = &[Self::Port, Self::Client, Self::Target, Self::Session];
}
