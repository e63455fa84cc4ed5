//! A picture of a tree, with everything that unpacking should have kept.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub type Picture = BTreeMap<Vec<u8>, Node>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// File type and permissions, as in `st_mode`.
    pub mode: u32,
    pub owner: (u32, u32),
    pub device: u64,
    pub mtime: (i64, i64),
    /// A link's target or a file's content.
    pub content: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Another path of the same file: the first one in order.
    pub same_as: Vec<u8>,
}

impl Node {
    pub fn kind(&self) -> u32 {
        self.mode & 0o170_000
    }

    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }
}

pub const DIRECTORY: u32 = 0o040_000;
pub const FILE: u32 = 0o100_000;
pub const SYMLINK: u32 = 0o120_000;
pub const FIFO: u32 = 0o010_000;
pub const CHARACTER: u32 = 0o020_000;

/// Everything below `root` by its path from there; the root itself is the empty path.
pub fn snapshot(root: &Path) -> Picture {
    let mut picture = Picture::new();
    add(root, b"", &mut picture);
    let mut first: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for (path, node) in &mut picture {
        let inode = u64::from_be_bytes(node.same_as.clone().try_into().unwrap());
        node.same_as = first.entry(inode).or_insert_with(|| path.clone()).clone();
    }
    picture
}

fn add(root: &Path, path: &[u8], picture: &mut Picture) {
    let full = root.join(OsStr::from_bytes(path));
    let meta = std::fs::symlink_metadata(&full).unwrap();
    let content = if meta.is_symlink() {
        std::fs::read_link(&full).unwrap().into_os_string().into_vec()
    } else if meta.is_file() {
        std::fs::read(&full).unwrap()
    } else {
        Vec::new()
    };
    let node = Node {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        device: meta.rdev(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        content,
        xattrs: xattrs(&full),
        same_as: meta.ino().to_be_bytes().to_vec(),
    };
    picture.insert(path.to_vec(), node);
    if meta.is_dir() {
        for entry in std::fs::read_dir(&full).unwrap() {
            let name = entry.unwrap().file_name();
            let below = if path.is_empty() {
                name.as_bytes().to_vec()
            } else {
                [path, b"/", name.as_bytes()].concat()
            };
            add(root, &below, picture);
        }
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 64 * 1024];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..length].split(|b| *b == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 64 * 1024];
            let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value).unwrap();
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect()
}
