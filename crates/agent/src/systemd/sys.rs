//! The one place of this room where the compiler takes our word.

use std::ffi::OsString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Takes a variable out of the environment. The caller has one thread only.
pub fn take_var(name: &str) -> Option<OsString> {
    let value = std::env::var_os(name)?;
    // SAFETY: no other thread is there that could read the environment meanwhile.
    unsafe { std::env::remove_var(name) };
    Some(value)
}

/// Takes over a descriptor this process was started with, and keeps it from programs started from here. Called once
/// for a descriptor, by the one the service manager's protocol gives it to (sd_listen_fds(3)).
pub fn take_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: descriptors passed in belong to nobody in this process until they are taken here. One that is not open
    // fails in the call below, and is then given up without being closed.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) => Ok(fd),
        Err(e) => {
            std::mem::forget(fd);
            Err(e.into())
        }
    }
}
