//! Removing directory trees of any depth with a fixed number of descriptors and a fixed stack: a hostile layer can nest
//! directories deeper (through links) than any recursion would survive.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, DirEntry};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

static NEXT: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds at the first use: a process id alone comes back after a reboot, when leftovers may still lie there.
static SINCE: LazyLock<u128> = LazyLock::new(|| {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos())
});

/// A path in `tmp` that nothing has yet.
pub fn fresh(tmp: &Path) -> PathBuf {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    tmp.join(format!("{}-{:x}-{number}", std::process::id(), *SINCE))
}

/// Removes `root`, whatever it is, and returns the bytes it took on disk. Directories inside are first moved up into
/// `tmp`, on the same file system, so that none is ever below another. Nothing is followed.
pub fn remove(root: &Path, tmp: &Path) -> io::Result<u64> {
    let mut freed = 0;
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let Some(meta) = look(&path)? else { continue };
        if !meta.is_dir() {
            freed += size(&meta);
            fs::remove_file(&path)?;
            continue;
        }
        freed += empty(&path, tmp, &mut waiting)? + size(&meta);
        fs::remove_dir(&path)?;
    }
    Ok(freed)
}

/// None where nothing is, or is any more.
fn look(path: &Path) -> io::Result<Option<fs::Metadata>> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// None where no directory is any more.
fn list(path: &Path) -> io::Result<Option<fs::ReadDir>> {
    match fs::read_dir(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        other => other.map(Some),
    }
}

/// Unlinks the files in `directory` and moves its directories to `tmp`.
fn empty(directory: &Path, tmp: &Path, waiting: &mut Vec<PathBuf>) -> io::Result<u64> {
    let mut freed = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let moved = fresh(tmp);
            fs::rename(entry.path(), &moved)?;
            waiting.push(moved);
        } else {
            freed += entry.metadata().map_or(0, |meta| size(&meta));
            fs::remove_file(entry.path())?;
        }
    }
    Ok(freed)
}

/// The bytes that `root` takes on disk, as [`remove`] would count them: a file with several names once. What goes away
/// meanwhile counts nothing.
pub fn size_of(root: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    let mut seen = BTreeSet::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let Some(meta) = look(&path)? else { continue };
        if meta.is_dir() {
            let Some(entries) = list(&path)? else { continue };
            for entry in entries {
                waiting.push(entry?.path());
            }
        }
        if meta.is_dir() || meta.nlink() == 1 || seen.insert(meta.ino()) {
            bytes += meta.blocks() * 512;
        }
    }
    Ok(bytes)
}

/// Removes everything in `tmp` itself: what an interrupted run left.
pub fn sweep(tmp: &Path) -> io::Result<()> {
    // Moving directories up adds entries to the very directory that is being listed.
    loop {
        let entries = fs::read_dir(tmp)?.collect::<io::Result<Vec<DirEntry>>>()?;
        if entries.is_empty() {
            return Ok(());
        }
        let names: Vec<OsString> = entries.iter().map(DirEntry::file_name).collect();
        for name in names {
            remove(&tmp.join(name), tmp)?;
        }
    }
}

/// A file with several names is counted once, with its last name.
fn size(meta: &fs::Metadata) -> u64 {
    if meta.is_dir() || meta.nlink() == 1 {
        meta.blocks() * 512
    } else {
        0
    }
}

/// The bytes of all files below `root`, as Docker counts a layer: what they hold, a file with several names once.
pub fn content_of(root: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    let mut seen = BTreeSet::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                waiting.push(entry.path());
            } else if meta.is_file() && (meta.nlink() == 1 || seen.insert(meta.ino())) {
                bytes += meta.size();
            }
        }
    }
    Ok(bytes)
}
