//! Garbage collection: images that nothing wants go after a time, and sooner where the disk runs full.
//!
//! In two steps, so that whoever decides what is wanted need not wait for a disk: [`Store::collect`] takes out (a few
//! renames), [`Store::discard`] deletes.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use crate::error::StoreError;
use crate::remove::InUse;
use crate::store::Store;

/// What was wanted or pulled within this time stays however full the disk is: whoever pulls by hand is about to use it.
pub const SPARED: Duration = Duration::from_secs(600);

/// When images go that nothing wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcPolicy {
    /// Unused for so long; none: however long.
    pub max_age: Option<Duration>,
    /// Percent of the file system that are to be free; 0: however full it is.
    pub keep_free: u8,
}

/// Why an image went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nothing had wanted it for so long.
    Unused(Duration),
    /// So many percent of the file system were free.
    Full(u8),
}

/// What is so at the time of one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    pub now: Timestamp,
    /// Percent of the file system, see [`Store::free_percent`].
    pub free: u8,
    /// Look for layers that are no image's even where nothing else is to do.
    pub thorough: bool,
}

/// What was taken out of the store, and is to be deleted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Garbage {
    /// By key.
    pub images: Vec<(String, Why)>,
    /// Layers that were no image's, and why.
    pub layers: Option<(usize, Why)>,
    doomed: Vec<PathBuf>,
}

impl Garbage {
    /// There was nothing to do.
    pub fn is_empty(&self) -> bool {
        self.doomed.is_empty() && self.images.is_empty()
    }
}

impl Store {
    /// Percent of the store's file system that users other than root could write to.
    pub fn free_percent(&self) -> Result<u8, StoreError> {
        let root = &self.layout.root;
        let asking = StoreError::io("ask for the free space of", root);
        let found = rustix::fs::statvfs(root).map_err(asking)?;
        let percent = u128::from(found.f_bavail) * 100 / u128::from(found.f_blocks.max(1));
        Ok(u8::try_from(percent).unwrap_or(100))
    }

    /// Notes what nothing wants, and takes out what is due: all that is too old; where less than `keep_free` is free, one
    /// image, the one that has been unused longest, since only deleting it tells what that frees. What is in use stays,
    /// and what a load at work needs.
    pub fn collect(&self, in_use: &InUse, policy: &GcPolicy, round: &Round) -> Result<Garbage, StoreError> {
        let claims = self.claims.lock();
        let images = self.due(in_use, policy, round);
        let full = round.free < policy.keep_free;
        if images.is_empty() && !full && !round.thorough {
            return Ok(Garbage::default());
        }
        let gone: BTreeSet<String> = images.iter().map(|(key, _)| key.clone()).collect();
        let ownerless = self.unneeded(&BTreeSet::new(), in_use, |digest| claims.is_pinned(digest))?;
        let mut doomed = self.unneeded(&gone, in_use, |digest| claims.is_pinned(digest))?;
        let mut layers = None;
        doomed.retain(|path| {
            if !ownerless.contains(path) {
                return true;
            }
            let Some(age) = too_old(path, policy, full, round.now) else {
                return false;
            };
            if path.starts_with(self.layers_dir()) {
                let why = if full {
                    Why::Full(round.free)
                } else {
                    Why::Unused(age)
                };
                layers.get_or_insert((0, why)).0 += 1;
            }
            true
        });
        if !gone.is_empty() {
            self.forget(&gone)?;
        }
        Ok(Garbage {
            images,
            layers,
            doomed: self.move_away(doomed)?,
        })
    }

    /// Deletes what was taken out, and returns the bytes that freed on disk. What is left when it is killed goes when the
    /// store is opened.
    pub fn discard(&self, garbage: Garbage) -> Result<u64, StoreError> {
        self.delete(garbage.doomed)
    }

    /// The images that are to go.
    fn due(&self, in_use: &InUse, policy: &GcPolicy, round: &Round) -> Vec<(String, Why)> {
        let mut unused = self.unused(in_use, round.now);
        unused.sort();
        let aged = unused
            .into_iter()
            .map(|(since, key)| (passed(since.as_second(), round.now), key));
        let aged: Vec<(Duration, String)> = aged.collect();
        let old = |(age, _): &&(Duration, String)| policy.max_age.is_some_and(|most| *age >= most);
        let why = |(age, key): &(Duration, String)| (key.clone(), Why::Unused(*age));
        let due: Vec<(String, Why)> = aged.iter().filter(old).map(why).collect();
        if !due.is_empty() || round.free >= policy.keep_free {
            return due;
        }
        let first = aged.into_iter().next().filter(|(age, _)| *age >= SPARED);
        first
            .into_iter()
            .map(|(_, key)| (key, Why::Full(round.free)))
            .collect()
    }

    /// What nothing wants, with since when.
    fn unused(&self, in_use: &InUse, now: Timestamp) -> Vec<(Timestamp, String)> {
        let records = self.records();
        let unwanted: Vec<&String> = records.keys().filter(|key| !in_use.keys.contains(*key)).collect();
        self.usage.note(&unwanted, now, &self.layout);
        let since = |key: &String| {
            let pulled = records.get(key).and_then(|record| record.pulled);
            let noted = self.usage.unused_since(key).unwrap_or(now);
            pulled.filter(|at| *at <= now).map_or(noted, |at| at.max(noted))
        };
        unwanted
            .into_iter()
            .map(|key| (since(key), key.clone()))
            .collect()
    }
}

/// How long ago this second was; a clock that was set back makes nothing old.
fn passed(second: i64, now: Timestamp) -> Duration {
    u64::try_from(now.as_second() - second).map_or(Duration::ZERO, Duration::from_secs)
}

/// What belongs to no image is what is left of a pull that ended early, or of a tag that moved on: for how long, where
/// that is long enough.
fn too_old(path: &Path, policy: &GcPolicy, full: bool, now: Timestamp) -> Option<Duration> {
    // Since it got its place: renaming a directory sets that time.
    let age = passed(std::fs::symlink_metadata(path).ok()?.ctime(), now);
    let most = policy.max_age.into_iter().chain(full.then_some(SPARED)).min()?;
    (age >= most).then_some(age)
}
