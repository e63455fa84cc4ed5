//! What a ready descriptor of the name server stands for.

use crate::apart::poller;

pub type Token = poller::Token<Kind>;
pub type Poller = poller::Poller<Kind>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The UDP socket of a listener.
    Udp,
    /// The listening TCP socket of a listener.
    Tcp,
    /// The process that keeps the network namespace of a listener.
    Keeper,
    /// A client's TCP connection.
    Connection,
    /// A query to an upstream.
    Try,
}

impl poller::Kind for Kind {
    const ALL: &'static [Self] = &[Self::Udp, Self::Tcp, Self::Keeper, Self::Connection, Self::Try];
}
