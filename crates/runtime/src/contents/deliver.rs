//! Putting the files in place. To be killed at any instruction and done again.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use model::content::{ContentKind, Delivered};
use rustix::fs::{FlockOperation, OFlags, flock};

use super::{directory, retired};
use crate::error::RuntimeError;

/// Beside the directories of both kinds: where a file is before it has its name. Never seen in a container.
const FRESH: &str = "new";

/// The bits of a mode that are a file's own to say.
const BITS: u32 = 0o7777;

/// Everybody in the container may look for a secret by its name; who may read it, its own mode says.
const SECRETS_MODE: u32 = 0o755;

/// TMPFS_MAGIC and RAMFS_MAGIC (linux/magic.h).
const MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

type Result<T> = std::result::Result<T, RuntimeError>;

/// Has exactly these files there, with these bytes, modes and owners. One that is so already stays the file it is. Where
/// they may be `mounted`, configs that are replaced are kept aside.
pub fn deliver(contents: &Path, files: &[(Delivered, Vec<u8>)], mounted: bool) -> Result<()> {
    make_dir(contents, 0o700)?;
    // Until it is closed: whoever else is at it, an agent that was killed included, has ended.
    let dir = File::open(contents).map_err(RuntimeError::file("open", contents))?;
    flock(&dir, FlockOperation::LockExclusive).map_err(|e| RuntimeError::file("lock", contents)(e.into()))?;
    warn_of_disk(contents, &dir, files)?;
    let (fresh, old) = (contents.join(FRESH), retired::directory(contents));
    remove_tree(&fresh)?;
    make_dir(&fresh, 0o700)?;
    match mounted {
        true => make_dir(&old, 0o700)?,
        false => remove_tree(&old)?,
    }
    for (kind, mode) in [(ContentKind::Config, 0o700), (ContentKind::Secret, SECRETS_MODE)] {
        let dir = directory(contents, kind);
        let wanted: Vec<_> = files.iter().filter(|(file, _)| file.kind == kind).collect();
        if wanted.is_empty() {
            remove_tree(&dir)?;
            continue;
        }
        make_dir(&dir, mode)?;
        let mut names = BTreeSet::new();
        for (file, bytes) in wanted {
            let name = OsStr::new(file.name.as_str());
            let at = dir.join(name);
            if !is_so(&at, file, bytes).map_err(RuntimeError::file("look at", &at))? {
                match (kind, mounted) {
                    (ContentKind::Config, true) => {
                        let fresh = retired::place(&old, file.name.as_str())?;
                        put(&fresh, &at, file, bytes, retired::exchange)?;
                    }
                    _ => put(&fresh.join(name), &at, file, bytes, |from, to| {
                        fs::rename(from, to)
                    })?,
                }
            }
            names.insert(name.to_owned());
        }
        keep_only(&dir, &names)?;
    }
    remove_tree(&fresh)
}

/// Takes all of it away.
pub fn remove(contents: &Path) -> Result<()> {
    remove_tree(contents)
}

/// Memory is what the run dir is made for. Elsewhere a secret would be on a disk, and there is no taking it back.
fn warn_of_disk(contents: &Path, dir: &File, files: &[(Delivered, Vec<u8>)]) -> Result<()> {
    if !files.iter().any(|(file, _)| file.kind == ContentKind::Secret) {
        return Ok(());
    }
    let kind = crate::embedded::filesystem_magic(dir).map_err(RuntimeError::file("look at", contents))?;
    if !MEMORY.contains(&kind) {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            tracing::warn!(
                "secrets are written to disk, for {} is not in memory: use a run dir on a tmpfs",
                contents.display()
            );
        });
    }
    Ok(())
}

fn put(
    fresh: &Path,
    at: &Path,
    file: &Delivered,
    bytes: &[u8],
    name: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> Result<()> {
    write(fresh, file, bytes).map_err(RuntimeError::file("write", fresh))?;
    if fs::symlink_metadata(at).is_ok_and(|meta| meta.is_dir()) {
        remove_tree(at)?;
    }
    name(fresh, at).map_err(RuntimeError::file("replace", at))
}

fn is_so(at: &Path, file: &Delivered, bytes: &[u8]) -> io::Result<bool> {
    let opened = File::options()
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(at);
    let opened = match opened {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        // A link, or a directory: somebody else's doing, to be replaced.
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => return Ok(false),
        other => other?,
    };
    let meta = opened.metadata()?;
    let same = meta.is_file()
        && meta.nlink() == 1
        && (meta.mode() & BITS, meta.uid(), meta.gid()) == (file.mode & BITS, file.uid, file.gid)
        && meta.len() == bytes.len() as u64;
    if !same {
        return Ok(false);
    }
    let mut held = Vec::with_capacity(bytes.len());
    opened.take(bytes.len() as u64 + 1).read_to_end(&mut held)?;
    Ok(held == bytes)
}

/// Whole before it has its name. The owner first: changing that takes away bits of the mode.
fn write(fresh: &Path, file: &Delivered, bytes: &[u8]) -> io::Result<()> {
    let mut opened = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(fresh)?;
    opened.write_all(bytes)?;
    fchown(&opened, Some(file.uid), Some(file.gid))?;
    opened.set_permissions(Permissions::from_mode(file.mode & BITS))
}

fn keep_only(dir: &Path, names: &BTreeSet<OsString>) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(RuntimeError::file("list", dir))? {
        let entry = entry.map_err(RuntimeError::file("list", dir))?;
        if names.contains(&entry.file_name()) {
            continue;
        }
        let path = entry.path();
        let kind = entry.file_type().map_err(RuntimeError::file("look at", &path))?;
        if kind.is_dir() {
            remove_tree(&path)?;
        } else {
            crate::shim::files::remove(&path).map_err(RuntimeError::file("remove", &path))?;
        }
    }
    Ok(())
}

/// With this mode, whatever the umask and whoever made it.
fn make_dir(dir: &Path, mode: u32) -> Result<()> {
    let make = || {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        fs::set_permissions(dir, Permissions::from_mode(mode))
    };
    make().map_err(RuntimeError::file("make", dir))
}

fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(RuntimeError::file("remove", dir)),
    }
}
