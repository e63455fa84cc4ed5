//! The one place of the agent where the compiler takes our word.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor to be waited on until it can be read or written.
pub fn both_ways(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: as in `readable`.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// A socket to be waited on until its other side is gone: "priority" is readiness of which a stream socket has no other
/// kind than its hangup (epoll(7) reports EPOLLHUP to everybody).
pub fn hangup(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: as in `readable`.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::PRIORITY) }?)
}

/// A descriptor to be waited on until it is readable.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the descriptor, and an OwnedFd never hands out another number: what is registered stays
    // open and the same until it is deregistered by the drop.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
