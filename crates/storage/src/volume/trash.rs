//! What was removed, kept for a day in case it was a mistake.
//!
//! An entry is `MILLISECONDS-volume-NAME`, by the time it was removed. Other names are not ours and stay.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use model::name::Name;

use super::VolumeError;
use super::record::is_absent;
use crate::layout::flush_directory;
use crate::tree;

/// How long a removed volume can still be fetched back.
pub const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Beside the entries: what is being deleted, in pieces.
pub const GOING: &str = ".going";

/// A volume in the trash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trashed {
    pub name: String,
    pub removed_at: Timestamp,
    /// Where it is until then: moved back to `volumes/NAME` it is the volume again.
    pub path: PathBuf,
}

pub struct Trash {
    dir: PathBuf,
    going: PathBuf,
    emptying: Mutex<()>,
}

impl Trash {
    /// Makes the directories where they are missing, and goes on with what an earlier process was deleting.
    pub fn open(dir: PathBuf) -> Result<Self, VolumeError> {
        let going = dir.join(GOING);
        super::directory(&dir, 0o700)?;
        super::directory(&going, 0o700)?;
        tree::sweep(&going).map_err(VolumeError::io("sweep", &going))?;
        Ok(Self {
            dir,
            going,
            emptying: Mutex::new(()),
        })
    }

    /// Puts a volume's directory away and says where to; none where there is none. The caller keeps others from
    /// doing the same at the same time.
    pub fn take(&self, home: &Path, name: &Name) -> io::Result<Option<PathBuf>> {
        let mut millis = Timestamp::now().as_millisecond();
        let mut to = self.entry(millis, name);
        while fs::symlink_metadata(&to).is_ok() {
            millis += 1;
            to = self.entry(millis, name);
        }
        match fs::rename(home, &to) {
            Err(e) if is_absent(&e) => return Ok(None),
            other => other?,
        }
        flush_directory(&self.dir)?;
        Ok(Some(to))
    }

    /// What is here, by when it was removed.
    pub fn entries(&self) -> Result<Vec<Trashed>, VolumeError> {
        let listing = || VolumeError::io("list", &self.dir);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(listing())? {
            let entry = entry.map_err(listing())?;
            let name = entry.file_name();
            if let Some((removed_at, name)) = name
                .to_str()
                .and_then(|text| Some((removed_at(text)?, volume(text)?)))
            {
                found.push(Trashed {
                    name: name.to_owned(),
                    removed_at,
                    path: entry.path(),
                });
            }
        }
        found.sort_by_key(|entry| entry.removed_at);
        Ok(found)
    }

    fn entry(&self, millis: i64, name: &Name) -> PathBuf {
        self.dir.join(format!("{millis}-volume-{name}"))
    }

    /// Deletes what has been here for [`KEPT`]. Returns the bytes freed on disk.
    pub fn empty(&self, now: Timestamp) -> Result<u64, VolumeError> {
        let _emptying = self.emptying.lock().unwrap_or_else(PoisonError::into_inner);
        let listing = || VolumeError::io("list", &self.dir);
        let mut freed = 0;
        for entry in fs::read_dir(&self.dir).map_err(listing())? {
            let entry = entry.map_err(listing())?;
            let removed_at = entry.file_name().to_str().and_then(removed_at);
            if removed_at.is_some_and(|at| now.duration_since(at).unsigned_abs() >= KEPT && at < now) {
                let path = entry.path();
                freed += tree::remove(&path, &self.going).map_err(VolumeError::io("delete", &path))?;
            }
        }
        Ok(freed)
    }
}

/// The volume an entry was.
fn volume(entry: &str) -> Option<&str> {
    entry.split_once('-')?.1.strip_prefix("volume-")
}

fn removed_at(entry: &str) -> Option<Timestamp> {
    let (millis, rest) = entry.split_once('-')?;
    rest.strip_prefix("volume-")?;
    Timestamp::from_millisecond(millis.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_ours_have_no_time() {
        let at = |text| removed_at(text).map(|at| at.as_millisecond());
        assert_eq!(at("1700000000000-volume-a-b.c"), Some(1_700_000_000_000));
        for foreign in [".going", "notes", "17-other-x", "x-volume-y", "-volume-y"] {
            assert_eq!(at(foreign), None, "{foreign}");
        }
    }
}
