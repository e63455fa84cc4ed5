//! Watching the config dir: what happens there only wakes the loop.
//!
//! A watch sees neither edits behind a symlink nor what follows the replacement of the directory, so the set of watched
//! directories is computed anew by each look ([`crate::config_dir::Contents::watched`]) and re-armed here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::UnboundedSender;
use tracing::{debug, warn};

use crate::engine::Wake;

/// The watches in force.
pub struct Watch {
    watcher: RecommendedWatcher,
    armed: BTreeSet<PathBuf>,
}

impl Watch {
    /// No directory yet; [`Watch::arm`] names them.
    pub fn new(wakes: UnboundedSender<Wake>) -> notify::Result<Self> {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let matters = match &event {
                Ok(event) => matters(&event.kind),
                // An overflow or a lost watch: look again.
                Err(_) => true,
            };
            if matters && wakes.send(Wake::Files).is_err() {
                debug!("the loop has ended; a file event is dropped");
            }
        })?;
        Ok(Self {
            watcher,
            armed: BTreeSet::new(),
        })
    }

    /// Watches exactly these directories; those that are not there (yet) are covered by their parents.
    pub fn arm(&mut self, dirs: &[PathBuf]) {
        let wanted: BTreeSet<PathBuf> = dirs.iter().filter(|d| d.is_dir()).cloned().collect();
        for gone in std::mem::take(&mut self.armed).difference(&wanted) {
            self.drop_watch(gone);
        }
        // A directory that was replaced keeps its name but loses its watch: watching anew costs one system call.
        for dir in &wanted {
            if let Err(e) = self.watcher.watch(dir, RecursiveMode::NonRecursive) {
                warn!(dir = %dir.display(), "cannot be watched, the full pass has to find its changes: {e}");
            }
        }
        self.armed = wanted;
    }

    fn drop_watch(&mut self, dir: &Path) {
        if let Err(e) = self.watcher.unwatch(dir) {
            debug!(dir = %dir.display(), "was not watched any more: {e}");
        }
    }
}

/// Reads are no changes (our own would wake us for ever), and a file still being written is read when it is closed.
fn matters(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Data(_)) => false,
        _ => true,
    }
}
