//! Configs that were replaced and may still be mounted in a running container, as `old/NAME.NUMBER`.
//!
//! Nothing can be mounted on a file that was removed, or replaced by a rename (the kernel says ENOENT), and what is
//! mounted on a file goes with it (rename(2), since Linux 3.18). Where mounts can only be put on top, that is what has
//! to be done. So the old and the new file exchange names, and the old one stays until no mount stands on it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::swap::Found;
use crate::error::RuntimeError;

/// Beside the directories of both kinds. Never seen in a container.
const OLD: &str = "old";

type Result<T> = std::result::Result<T, RuntimeError>;

/// Where they are.
pub fn directory(contents: &Path) -> PathBuf {
    contents.join(OLD)
}

/// The place for the next one of a name.
pub fn place(old: &Path, name: &str) -> Result<PathBuf> {
    let last = all(old, name)?.pop().map_or(0, |(number, _)| number);
    Ok(old.join(format!("{name}.{}", last + 1)))
}

/// Gives a new file its name, and the old one, if there is one, the place the new one was at: in one step.
pub fn exchange(fresh: &Path, at: &Path) -> io::Result<()> {
    match renameat_with(CWD, fresh, CWD, at, RenameFlags::EXCHANGE) {
        // There is none; or this file system cannot, and exchanging mounts is left to kernels that need no old file.
        Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS) => fs::rename(fresh, at),
        result => Ok(result?),
    }
}

/// Removes those of a name that no mount stands on, as it was found there.
pub fn settle(old: &Path, name: &str, found: Found) -> Result<()> {
    let all = all(old, name)?;
    let has = |path: &Path, inode: u64| fs::symlink_metadata(path).is_ok_and(|meta| meta.ino() == inode);
    for (nth, (_, path)) in all.iter().enumerate() {
        let needed = match found {
            Found::Same | Found::Pile => true,
            Found::Only => false,
            Found::Base(inode) => has(path, inode),
            Found::Off(inode) => !has(path, inode),
            // The lowest mount is of the oldest of them.
            Found::TakenDown => nth == 0,
        };
        if !needed {
            crate::shim::files::remove(path).map_err(RuntimeError::file("remove", path))?;
        }
    }
    Ok(())
}

/// Removes all of all names: a run has begun since.
pub fn clear(contents: &Path) -> Result<()> {
    let old = directory(contents);
    match fs::remove_dir_all(&old) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(RuntimeError::file("remove", &old)),
    }
}

/// Those of a name, the oldest first.
fn all(old: &Path, name: &str) -> Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(old) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(RuntimeError::file("list", old))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(RuntimeError::file("list", old))?;
        if let Some(number) = number(&entry.file_name(), name) {
            found.push((number, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

fn number(file: &OsString, name: &str) -> Option<u64> {
    let (of, number) = file.to_str()?.rsplit_once('.')?;
    (of == name).then(|| number.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mounts_stand_on_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let left = || {
            let mut left: Vec<_> = dir
                .path()
                .read_dir()
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect();
            left.sort();
            left
        };
        let make = || {
            for name in ["a.9", "a.10", "a.11", "a.b.1", "a"] {
                fs::write(dir.path().join(name), "").unwrap();
            }
        };
        make();
        assert_eq!(place(dir.path(), "a").unwrap(), dir.path().join("a.12"));
        assert_eq!(place(dir.path(), "c").unwrap(), dir.path().join("c.1"));
        let inode = fs::metadata(dir.path().join("a.10")).unwrap().ino();
        for (found, kept) in [
            (Found::Same, "a a.10 a.11 a.9 a.b.1"),
            (Found::Pile, "a a.10 a.11 a.9 a.b.1"),
            (Found::Off(inode), "a a.11 a.9 a.b.1"),
            (Found::TakenDown, "a a.9 a.b.1"),
            (Found::Only, "a a.b.1"),
        ] {
            settle(dir.path(), "a", found).unwrap();
            assert_eq!(left().join(" "), kept, "{found:?}");
        }
        make();
        let inode = fs::metadata(dir.path().join("a.10")).unwrap().ino();
        settle(dir.path(), "a", Found::Base(inode)).unwrap();
        assert_eq!(left().join(" "), "a a.10 a.b.1");
    }
}
