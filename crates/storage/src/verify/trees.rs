//! Two trees compared, name by name: what one has to have that the other has.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{File, FileType, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Bytes compared at a time.
const CHUNK: usize = 128 * 1024;

/// Where the trees are not the same.
#[derive(Debug)]
pub struct Difference {
    /// From the root, which is the empty path.
    pub path: PathBuf,
    pub what: What,
}

/// In what they differ.
#[derive(Debug, PartialEq, Eq)]
pub enum What {
    Missing,
    /// It has no business there.
    Extra,
    /// Not the same kind of thing.
    Kind,
    /// What is said of it.
    Described(String),
    Content,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "it is gone"),
            Self::Extra => write!(f, "it was not there when the layer came"),
            Self::Kind => write!(f, "it is something else than it was"),
            Self::Described(what) => write!(f, "{what}"),
            Self::Content => write!(f, "its content is not what it was"),
        }
    }
}

/// Everything in which `actual` is not as `expected`; with `contents` files are read too. Nothing below a difference of
/// kind is looked at.
pub fn compare(expected: &Path, actual: &Path, contents: bool) -> io::Result<Vec<Difference>> {
    let mut found = Vec::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let (want, have) = (expected.join(&path), actual.join(&path));
        let (wanted, is) = (want.symlink_metadata()?, have.symlink_metadata()?);
        if kind(wanted.file_type()) != kind(is.file_type()) {
            found.push(Difference {
                path,
                what: What::Kind,
            });
            continue;
        }
        if let Some(what) = described(&want, &wanted, &have, &is)? {
            let path = path.clone();
            found.push(Difference {
                path,
                what: What::Described(what),
            });
        } else if contents && wanted.is_file() && !same_content(&want, &have)? {
            found.push(Difference {
                path: path.clone(),
                what: What::Content,
            });
        }
        if wanted.is_dir() {
            let (names, have) = (names(&want)?, names(&have)?);
            let differs = |name: &OsString, what| Difference {
                path: path.join(name),
                what,
            };
            found.extend(names.difference(&have).map(|name| differs(name, What::Missing)));
            found.extend(have.difference(&names).map(|name| differs(name, What::Extra)));
            waiting.extend(names.intersection(&have).map(|name| path.join(name)));
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn names(directory: &Path) -> io::Result<BTreeSet<OsString>> {
    std::fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name()))
        .collect()
}

fn kind(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "directory",
        kind if kind.is_file() => "file",
        kind if kind.is_symlink() => "link",
        kind if kind.is_char_device() => "character device",
        kind if kind.is_block_device() => "block device",
        kind if kind.is_fifo() => "FIFO",
        _ => "socket",
    }
}

/// The first thing that is said otherwise of what is of the same kind.
fn described(want: &Path, wanted: &Metadata, have: &Path, is: &Metadata) -> io::Result<Option<String>> {
    let octal = |meta: &Metadata| format!("{:04o}", meta.mode() & 0o7777);
    let owner = |meta: &Metadata| format!("{}:{}", meta.uid(), meta.gid());
    let time = |meta: &Metadata| format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
    let differ =
        |what: &str, a: String, b: String| (a != b).then(|| format!("its {what} was {a} and is {b}"));
    let whiteout = wanted.file_type().is_char_device() && wanted.rdev() == 0;
    let mut found = differ("owner", owner(wanted), owner(is));
    if !wanted.is_symlink() {
        found = found.or_else(|| differ("mode", octal(wanted), octal(is)));
    }
    if wanted.is_file() {
        found = found.or_else(|| differ("size", wanted.size().to_string(), is.size().to_string()));
    }
    if wanted.file_type().is_char_device() || wanted.file_type().is_block_device() {
        found = found.or_else(|| differ("device number", wanted.rdev().to_string(), is.rdev().to_string()));
    }
    if !wanted.is_dir() {
        found = found.or_else(|| {
            differ(
                "number of names",
                wanted.nlink().to_string(),
                is.nlink().to_string(),
            )
        });
    }
    if wanted.is_symlink() && std::fs::read_link(want)? != std::fs::read_link(have)? {
        found = found.or_else(|| Some("it leads elsewhere than it did".to_owned()));
    }
    // A whiteout has no time of its own.
    if !whiteout {
        found = found.or_else(|| differ("time", time(wanted), time(is)));
    }
    if found.is_none() && attributes(want)? != attributes(have)? {
        found = Some("its extended attributes are not what they were".to_owned());
    }
    Ok(found)
}

/// The extended attributes of what is at `path`, not followed.
pub fn attributes(path: &Path) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let mut list = vec![0; 64 * 1024];
    let length = match rustix::fs::llistxattr(path, &mut list) {
        Err(Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    let names = list[..length].split(|b| *b == 0).filter(|name| !name.is_empty());
    let read = |name: &[u8]| {
        let name: &OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name);
        let mut value = vec![0; 64 * 1024];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        value.truncate(length);
        Ok((name.to_owned(), value))
    };
    names.map(read).collect()
}

fn same_content(want: &Path, have: &Path) -> io::Result<bool> {
    let (mut want, mut have) = (File::open(want)?, File::open(have)?);
    let (mut a, mut b) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        let read = want.read(&mut a)?;
        if read == 0 {
            return Ok(have.read(&mut b[..1])? == 0);
        }
        match have.read_exact(&mut b[..read]) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            other => other?,
        }
        if a[..read] != b[..read] {
            return Ok(false);
        }
    }
}
