//! What is in `/srv` of a root that was given out as an archive.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tests::Host;

/// The archive's `srv`, unpacked by GNU tar into a directory of this name, which is made anew.
#[track_caller]
pub fn unpacked(host: &Host, archive: &str, name: &str) -> PathBuf {
    let to = host.dir().join(name);
    drop(fs::remove_dir_all(&to));
    fs::create_dir(&to).unwrap();
    // Engines differ in whether they begin a name by `./`.
    host.ns.sh(&format!(
        "cd {}; srv=$(tar -tf {archive} | grep -E '^(\\./|/)?srv/$')
         tar --xattrs --xattrs-include='*' --numeric-owner -xpf {archive} \"$srv\"",
        to.display()
    ));
    to.join("srv")
}

/// The same names, and behind each the same kind of thing with the same rights, owner, content and time.
#[track_caller]
pub fn assert_same(ours: &Path, theirs: &Path, what: &str) {
    let (ours, theirs) = (picture(ours), picture(theirs));
    let names = |picture: &BTreeMap<PathBuf, String>| -> Vec<PathBuf> { picture.keys().cloned().collect() };
    assert_eq!(names(&theirs), names(&ours), "{what}");
    for (path, looks) in &ours {
        assert_eq!(&theirs[path], looks, "{what}: {}", path.display());
    }
    assert!(ours.len() > 5, "{what}: {:?}", names(&ours));
}

fn picture(top: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        if path.symlink_metadata().unwrap().is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        all.insert(path.strip_prefix(top).unwrap().to_owned(), looks(&path));
    }
    all
}

fn looks(path: &Path) -> String {
    let meta = path.symlink_metadata().unwrap();
    let kind = meta.file_type();
    // What is in a directory changes its time, and what an engine mounts or applies is in it; a link's is as it was made.
    let time = (kind.is_file() || kind.is_fifo()).then(|| meta.mtime());
    let content = kind
        .is_file()
        .then(|| tests::images::write::sha256(&fs::read(path).unwrap()));
    let links = if kind.is_dir() { 0 } else { meta.nlink() };
    format!(
        "{:o} {}:{} {links} {} {:?} {time:?} {content:?}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.rdev(),
        fs::read_link(path).ok()
    )
}
