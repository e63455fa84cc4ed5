//! Since when nothing has wanted an image: one small file for all of them, written when that changes for one.
//!
//! An image that is wanted has no entry, so a file that was lost makes images younger, never older.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::layout::Layout;

/// The entries, as in the file.
pub struct Usage {
    file: PathBuf,
    unused: Mutex<BTreeMap<String, Timestamp>>,
}

impl Usage {
    /// What the store in `layout` remembers. A file that cannot be understood is as good as none.
    pub fn open(layout: &Layout) -> Self {
        let file = layout.root.join("unused.json");
        let read = std::fs::read(&file).ok();
        let unused = read.and_then(|bytes| match serde_json::from_slice(&bytes) {
            Ok(unused) => Some(unused),
            Err(e) => {
                tracing::warn!(file = %file.display(), "since when images are unused cannot be read, and counts from now on: {e}");
                None
            }
        });
        Self {
            file,
            unused: Mutex::new(unused.unwrap_or_default()),
        }
    }

    /// Since when nothing wants it; none for what is wanted, or was a moment ago.
    pub fn unused_since(&self, key: &str) -> Option<Timestamp> {
        self.lock().get(key).copied()
    }

    /// Somebody wants it.
    pub fn want(&self, key: &str, layout: &Layout) {
        self.change(layout, |unused| {
            unused.remove(key);
        });
    }

    /// Those are wanted by nobody; whatever else there is, is.
    pub fn note(&self, unwanted: &[&String], now: Timestamp, layout: &Layout) {
        self.change(layout, |unused| {
            unused.retain(|key, since| {
                // A clock that was set back makes nothing unused since tomorrow.
                *since = (*since).min(now);
                unwanted.contains(&key)
            });
            for key in unwanted {
                if !unused.contains_key(*key) {
                    unused.insert((*key).clone(), now);
                }
            }
        });
    }

    /// Not written, it counts from the next start on: no harm.
    fn change(&self, layout: &Layout, change: impl FnOnce(&mut BTreeMap<String, Timestamp>)) {
        let mut unused = self.lock();
        let before = unused.clone();
        change(&mut unused);
        if *unused == before {
            return;
        }
        let written = serde_json::to_vec(&*unused)
            .map_err(std::io::Error::from)
            .and_then(|bytes| layout.write(&self.file, &bytes));
        if let Err(e) = written {
            tracing::warn!(file = %self.file.display(), "cannot note since when images are unused: {e}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Timestamp>> {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
