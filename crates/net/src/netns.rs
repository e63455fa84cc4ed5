//! Visits to other network namespaces.

use std::io;
use std::os::fd::BorrowedFd;

use nix::sched::{CloneFlags, setns};

use crate::error::NetError;

/// Does something on a thread in that namespace, which ends with it: a socket belongs to the namespace it was made in, and
/// what is below /proc/sys/net to that of whoever looks.
pub(crate) fn visit<T: Send>(
    netns: BorrowedFd<'_>,
    whose: &str,
    work: impl FnOnce() -> Result<T, NetError> + Send,
) -> Result<T, NetError> {
    std::thread::scope(|scope| {
        let visit = scope.spawn(|| {
            setns(netns, CloneFlags::CLONE_NEWNET).map_err(|e| refused(whose, e.into()))?;
            work()
        });
        let died = || refused(whose, io::Error::other("the thread that entered it died"));
        visit.join().unwrap_or_else(|_| Err(died()))
    })
}

/// It cannot be entered.
pub(crate) fn refused(whose: &str, source: io::Error) -> NetError {
    NetError::Namespace {
        whose: format!("container {whose}"),
        source,
    }
}
