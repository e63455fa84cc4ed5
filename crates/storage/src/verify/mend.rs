//! A damaged layer made good in place, from one that was just unpacked beside it.
//!
//! The layer's directory stays, and every file in it that is as it should be: containers that run have them open. What is
//! not is replaced by a rename each, so that nobody sees half a file. Killed halfway it is done again.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

use super::trees::{self, What};
use crate::tree;

/// Makes `layer` be as `fresh`, which is used up; what has no business there goes to `tmp`, to be removed.
pub fn mend(fresh: &Path, layer: &Path, tmp: &Path) -> io::Result<()> {
    let differences = trees::compare(fresh, layer, true)?;
    // Moving things in and out changes the times of the directories they are in, in both trees.
    let directories: Vec<(PathBuf, Timestamps)> = directories(fresh)?;
    for difference in &differences {
        let (from, to) = (fresh.join(&difference.path), layer.join(&difference.path));
        match &difference.what {
            What::Described(_) if from.symlink_metadata()?.is_dir() => describe(&from, &to)?,
            What::Extra => discard(&to, tmp)?,
            What::Missing => std::fs::rename(&from, &to)?,
            What::Kind => {
                discard(&to, tmp)?;
                std::fs::rename(&from, &to)?;
            }
            What::Described(_) | What::Content => std::fs::rename(&from, &to)?,
        }
    }
    for (path, times) in directories {
        let path = layer.join(path);
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn discard(path: &Path, tmp: &Path) -> io::Result<()> {
    let away = tree::fresh(tmp);
    std::fs::rename(path, &away)?;
    tree::remove(&away, tmp).map(drop)
}

/// All directories below `root`, itself among them, and their times.
fn directories(root: &Path) -> io::Result<Vec<(PathBuf, Timestamps)>> {
    let mut found = Vec::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let whole = root.join(&path);
        for entry in std::fs::read_dir(&whole)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                waiting.push(path.join(entry.file_name()));
            }
        }
        let meta = whole.symlink_metadata()?;
        let time = Timespec {
            tv_sec: meta.mtime(),
            tv_nsec: meta.mtime_nsec(),
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        found.push((path, times));
    }
    Ok(found)
}

/// Owner, mode and attributes of a directory.
fn describe(from: &Path, to: &Path) -> io::Result<()> {
    let meta = from.symlink_metadata()?;
    lchown(to, Some(meta.uid()), Some(meta.gid()))?;
    std::fs::set_permissions(to, PermissionsExt::from_mode(meta.mode() & 0o7777))?;
    let (wanted, is) = (trees::attributes(from)?, trees::attributes(to)?);
    for name in is.keys().filter(|name| !wanted.contains_key(*name)) {
        rustix::fs::lremovexattr(to, name.as_os_str())?;
    }
    for (name, value) in wanted {
        rustix::fs::lsetxattr(to, name.as_os_str(), &value, XattrFlags::empty())?;
    }
    Ok(())
}
