//! Whether any process was moved between control groups: somebody has to write to a file of the hierarchy for that, and
//! fanotify(7) tells of every such write, whoever makes it and by whatever mount.
//!
//! The one exception are processes of a v1 cpuset without processors left, which the kernel moves up by itself.

use std::os::fd::OwnedFd;

use rustix::io::{Errno, read};

use super::{Hierarchies, sys};

/// Told of writes to any file of all hierarchies.
#[derive(Debug)]
pub(crate) struct Moves(Option<OwnedFd>);

impl Moves {
    /// From now on. Without the right to (CAP_SYS_ADMIN), or with too many who watch already, nothing is ever told.
    pub fn watch(hierarchies: &Hierarchies) -> Self {
        let mounted = hierarchies.mounted();
        let watched = sys::writes_below(mounted.iter().map(|(_, root)| *root));
        Self(
            watched
                .inspect_err(|e| tracing::debug!("writes to control groups are not told: {e}"))
                .ok(),
        )
    }

    /// Whether there may have been one since this was last asked; always where nobody tells.
    pub fn may_have_been(&self) -> bool {
        let Some(told) = &self.0 else { return true };
        let mut news = false;
        let mut buffer = [0; 4096];
        loop {
            match read(told, &mut buffer) {
                Err(Errno::AGAIN) => return news,
                Err(Errno::INTR) => {}
                Ok(1..) => news = true,
                Ok(0) | Err(_) => return true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_moved_is_told_of_once() {
        let hierarchies = Hierarchies::detect().unwrap();
        let parent = format!("/wharf-moves-{}", std::process::id());
        let group = super::super::CgroupSet::new(&hierarchies, &parent, "x");
        group.create().unwrap();
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let moves = Moves::watch(&hierarchies);
        assert!(moves.0.is_some(), "fanotify");
        group.enter(child.id().cast_signed()).unwrap();
        assert!(moves.may_have_been());
        child.kill().unwrap();
        child.wait().unwrap();
        group.remove().unwrap();
        for dir in group.dirs() {
            std::fs::remove_dir(dir.parent().unwrap()).unwrap();
        }
    }
}
