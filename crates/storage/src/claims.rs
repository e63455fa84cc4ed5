//! Who is at work on which content: a layer is brought in once at a time, and nothing in use is pruned.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::digest::Digest;

/// How often a waiter looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Default)]
pub struct Claims {
    inner: Mutex<Inner>,
    released: Condvar,
}

#[derive(Default)]
pub struct Inner {
    pinned: BTreeMap<Digest, usize>,
    busy: BTreeSet<Digest>,
}

impl Inner {
    pub fn is_pinned(&self, digest: &Digest) -> bool {
        self.pinned.contains_key(digest)
    }
}

impl Claims {
    /// Holds off pins, and so every use that has not begun, for as long as it is kept.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        // The sets are whole at every point where a panic could happen.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps `digests` from being pruned until the guard goes.
    pub fn pin(self: &Arc<Self>, digests: Vec<Digest>) -> Pins {
        let mut inner = self.lock();
        for digest in &digests {
            *inner.pinned.entry(*digest).or_default() += 1;
        }
        Pins {
            claims: Arc::clone(self),
            digests,
        }
    }

    /// Waits until nobody else works on `digest`. None when `stop` said so meanwhile.
    pub fn work_on(&self, digest: Digest, stop: impl Fn() -> bool) -> Option<Work<'_>> {
        let mut inner = self.lock();
        while !inner.busy.insert(digest) {
            if stop() {
                return None;
            }
            let waited = self.released.wait_timeout(inner, LOOK);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(Work { claims: self, digest })
    }
}

/// Content that is not pruned while this lives.
pub struct Pins {
    claims: Arc<Claims>,
    digests: Vec<Digest>,
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut inner = self.claims.lock();
        for digest in &self.digests {
            let left = inner.pinned.get_mut(digest).map_or(0, |count| {
                *count -= 1;
                *count
            });
            if left == 0 {
                inner.pinned.remove(digest);
            }
        }
    }
}

/// The right to make one layer.
pub struct Work<'a> {
    claims: &'a Claims,
    digest: Digest,
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.claims.lock().busy.remove(&self.digest);
        self.claims.released.notify_all();
    }
}
