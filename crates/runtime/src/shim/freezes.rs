//! Who keeps a payload from running: somebody by hand, until the contrary is said, or connections, until they are closed
//! by whoever opened them or by the end of that process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::files::ShimState;
use super::protocol::{self, Answer, Reply, VERSION};

/// All of them.
#[derive(Debug, Default)]
pub struct Freezes {
    pub by_hand: bool,
    open: Vec<OwnedFd>,
    /// Of the last of them, which its client has closed, this end: closed in turn when the payload runs again, which is
    /// how the client learns of it.
    last: Option<OwnedFd>,
}

impl Freezes {
    /// One more, which is told that it is so.
    pub fn add(&mut self, client: OwnedFd, state: &ShimState) -> io::Result<()> {
        let reply = Reply {
            v: VERSION,
            answer: Answer::Done,
            state: state.clone(),
            exec: None,
        };
        protocol::send_frame(&client, &reply)?;
        self.open.push(client);
        Ok(())
    }

    pub fn connections(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.open.iter().map(AsFd::as_fd)
    }

    /// One of them has something to say, which can only be that it is closed. Others move up: what
    /// they have to say is heard the next time.
    pub fn hear(&mut self, index: usize) {
        let Some(client) = self.open.get(index) else {
            return;
        };
        let mut byte = [0; 1];
        match recv(client, &mut byte[..], RecvFlags::DONTWAIT) {
            Ok((_, 1..)) | Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(_) | Err(_) => {
                self.last = Some(self.open.remove(index));
            }
        }
    }

    /// The last of them has gone, and nobody else wants it paused. Where somebody does, nobody is kept waiting for the
    /// contrary.
    pub fn are_over(&mut self) -> bool {
        if !self.are_none() {
            self.last = None;
        }
        self.last.is_some()
    }

    /// Nobody wants it paused.
    pub fn are_none(&self) -> bool {
        self.open.is_empty() && !self.by_hand
    }

    /// It runs again, whoever wanted what: to be said only when everybody may see it run.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}
