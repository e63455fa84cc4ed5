//! What a container changed, as a list and as a layer: what `compare` tells, put down.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::FileType;
use serde::Serialize;

use super::FilesError;
use super::compare::{ChangeKind, Seen, Sink, Trees, compare};
use super::pack::{PackOptions, Packer, shown};
use crate::by_name::{is, open_directory, still};
use crate::tar::{Entry, Kind, Time};

/// One of the changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Change {
    /// Absolute; what is no UTF-8 of it is replaced.
    pub path: String,
    pub kind: ChangeKind,
}

/// All changes by their paths, a directory before what is in it. A directory of which nothing changed but what is deep
/// below it is not among them.
pub fn changes(trees: &Trees) -> Result<Vec<Change>, FilesError> {
    let mut list = List(Vec::new());
    compare(trees, &mut list)?;
    list.0.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(list.0)
}

/// The same as a layer (OCI image-spec, layer.md): every changed file whole, whiteouts for those deleted, and the
/// directories they are in.
pub fn layer(trees: &Trees, out: impl Write, options: PackOptions) -> Result<(), FilesError> {
    let mut packer = Packer::new(out, options);
    compare(trees, &mut packer)?;
    packer.finish()
}

struct List(Vec<Change>);

impl Sink for List {
    const PARENTS: bool = false;

    fn take(&mut self, seen: &Seen<'_>) -> Result<(), FilesError> {
        self.0.push(Change {
            path: format!("/{}", String::from_utf8_lossy(seen.path)),
            kind: seen.kind,
        });
        Ok(())
    }
}

impl<W: Write> Sink for Packer<W> {
    const PARENTS: bool = true;

    fn take(&mut self, seen: &Seen<'_>) -> Result<(), FilesError> {
        let Some(stat) = seen.stat else {
            return self.made_up(&whiteout(seen.path));
        };
        if seen.name.as_bytes().starts_with(b".wh.") {
            let why = "a file whose name begins with \".wh.\" cannot be in an image: it would mean that another one is deleted";
            return Err(FilesError::refused(shown(seen.path), why));
        }
        if !is(stat, FileType::Directory) {
            return self.entry(seen.parent, seen.name, stat, seen.path);
        }
        let opened = still(open_directory(seen.parent, seen.name));
        match opened.map_err(FilesError::io("open", shown(seen.path)))? {
            Some(fd) => self.directory(&fd, stat, seen.path),
            None => Ok(()),
        }
    }
}

fn whiteout(path: &[u8]) -> Entry {
    let at = path.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
    Entry {
        path: [&path[..at], b".wh.", &path[at..]].concat(),
        kind: Kind::File,
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        xattrs: Default::default(),
        size: 0,
        sparse: None,
    }
}
