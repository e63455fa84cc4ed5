//! Paths below a root that no link leads out of: resolved by the kernel (openat2(2)), or gone part by part where what is on
//! the way is to be told, or made.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// As in the kernel's own path walk (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// How often a walk that a rename somewhere disturbed is tried again (openat2(2), EAGAIN).
const MAX_RETRIES: usize = 1000;

/// The directory, links leading where they lead below the root.
pub fn resolve(root: impl AsFd, parts: &[OsString]) -> Result<OwnedFd, Errno> {
    open(root, parts, ResolveFlags::IN_ROOT)
}

/// The directory; [`Errno::LOOP`] where a link is on the way.
pub fn without_links(root: impl AsFd, parts: &[OsString]) -> Result<OwnedFd, Errno> {
    open(root, parts, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

fn open(root: impl AsFd, parts: &[OsString], how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let path = joined(parts);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let how = how | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..MAX_RETRIES {
        match rustix::fs::openat2(&root, &path, flags, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) => std::thread::yield_now(),
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// As a relative path; the root itself is `.`.
pub fn joined(parts: &[OsString]) -> OsString {
    match parts {
        [] => OsString::from("."),
        parts => parts.join(OsStr::new("/")),
    }
}

/// A path on which one goes part by part.
pub struct Steps {
    todo: VecDeque<OsString>,
    /// Where one is: it holds no links.
    real: Vec<OsString>,
    links: usize,
}

impl Steps {
    pub fn of(path: &[OsString]) -> Self {
        Self {
            todo: path.iter().cloned().collect(),
            real: Vec::new(),
            links: 0,
        }
    }

    /// Where one is, from the root.
    pub fn here(&self) -> &[OsString] {
        &self.real
    }

    /// The next part, to be looked at here; `..` is gone already.
    pub fn next_part(&mut self) -> Option<OsString> {
        while let Some(part) = self.todo.pop_front() {
            if part != ".." {
                return Some(part);
            }
            self.real.pop();
        }
        None
    }

    /// The part is no link, or nothing that one could look at.
    pub fn enter(&mut self, part: OsString) {
        self.real.push(part);
    }

    /// The part is a link that leads there: it comes in front of what is still to be gone.
    ///
    /// # Errors
    /// [`Errno::LOOP`] after as many links as the kernel follows.
    pub fn follow(&mut self, target: &[u8]) -> Result<(), Errno> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        if target.starts_with(b"/") {
            self.real.clear();
        }
        let parts = target.split(|b| *b == b'/');
        for part in parts.filter(|part| !matches!(**part, [] | [b'.'])).rev() {
            self.todo.push_front(OsStr::from_bytes(part).to_owned());
        }
        Ok(())
    }
}
