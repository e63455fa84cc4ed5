//! One at a time may bring a shim about or take its place away, dead agents' last acts included.
//!
//! The gate is a lock that a shim on its way inherits and keeps until it is ready. An agent that takes over from one
//! that was killed so waits for what that one had already set going, instead of meeting it halfway.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use detach::lock;

use crate::shim::files::Files;

/// Takes the gate, waiting so long at most; none where the container has no run dir, and so nothing can be under way.
pub fn take(files: &Files, patience: Duration) -> io::Result<Option<OwnedFd>> {
    let file = match lock::open(&files.run.join("start.lock")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let give_up = Instant::now() + patience;
    while !lock::try_lock(&file)? {
        if Instant::now() > give_up {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(Some(file.into()))
}
