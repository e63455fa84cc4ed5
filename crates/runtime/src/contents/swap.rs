//! Exchanging the mount of a file in a running container, so that whoever opens it has the old one whole or the new
//! one whole.
//!
//! The new mount is put beneath the old one, and the old one taken off (MOVE_MOUNT_BENEATH, Linux 6.5: move_mount(2)).
//! Older kernels can only put it on top, so that mounts pile up, each keeping the memory of its file. When there are
//! [`MOST`] the pile is taken down to its first one before: for a moment the file then is one of the earlier ones,
//! whole. A new run of the container begins with one mount again. What a mount stands on has to have a name still:
//! see [`super::retired`].
//!
//! What the path leads to inside may be anything by now. It is resolved within the root, by descriptor, and never
//! leaves it; where the container moved our mount away, the new one is put where the next run would have it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat, StatxAttributes, StatxFlags, statx};
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};
use serde::{Deserialize, Serialize};

use crate::embedded::mounts::{checked_target, clone_tree, put};
use crate::embedded::sys::{MountAttributes, mount_setattr};
use crate::embedded::{Make, create_path, open_path};

/// So many mounts of ours may lie on one another.
const MOST: usize = 64;

/// Not in rustix yet (linux/mount.h).
const BENEATH: u32 = 0x200;

/// A file or directory of ours on a mount of its own that is nowhere yet.
#[derive(Debug)]
pub struct Source {
    tree: OwnedFd,
    stat: Stat,
    is_dir: bool,
    /// The end of its path, as mount tables show it: `/configs/NAME`.
    end: String,
}

impl Source {
    /// A copy of the mount it is on, with these attributes (MOUNT_ATTR_*) and tied to no other.
    pub fn open(path: &Path, attributes: u64) -> io::Result<Self> {
        let tree = clone_tree(CWD, path, false)?;
        let change = MountAttributes {
            set: attributes,
            propagation: libc::MS_PRIVATE,
            ..MountAttributes::default()
        };
        mount_setattr(tree.as_fd(), false, change)?;
        let stat = rustix::fs::statat(&tree, c"", AtFlags::EMPTY_PATH)?;
        let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
        Ok(Self {
            tree,
            stat,
            is_dir,
            end: end_of(path),
        })
    }

    fn is(&self, other: &Stat) -> bool {
        (self.stat.st_dev, self.stat.st_ino) == (other.st_dev, other.st_ino)
    }
}

fn end_of(path: &Path) -> String {
    let mut parts: Vec<String> = path
        .iter()
        .rev()
        .take(2)
        .map(|part| format!("/{}", part.display()))
        .collect();
    parts.reverse();
    parts.concat()
}

/// The root of a mount namespace, and a way to name its mounts by descriptor.
#[derive(Debug)]
pub struct Inside {
    pub root: OwnedFd,
    /// This process's directory in the host's procfs: what is at /proc inside is not to be trusted.
    pub own: OwnedFd,
    /// The kernel may be asked to put a mount beneath another one.
    pub beneath: bool,
}

/// What was found at a path and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// The file of now.
    Same,
    /// No mount of ours, or one that is off now: ours is the only one there.
    Only,
    /// One mount of ours, which stays beneath the new one; its file is the one of this inode.
    Base(u64),
    /// Several of ours, which all stay beneath.
    Pile,
    /// Several of ours; the topmost is off, which was of the file of this inode.
    Off(u64),
    /// Several of ours, of which only the lowest is left beneath.
    TakenDown,
}

impl Inside {
    /// Has this be what is seen at a path inside, and says what was.
    pub fn show(&self, source: &Source, at: &Path) -> io::Result<Found> {
        let make = if source.is_dir {
            Make::Directory
        } else {
            Make::File
        };
        let target = checked_target(create_path(&self.root, at, make)?)?;
        let was = stat(&target)?;
        if source.is(&was) {
            return Ok(Found::Same);
        }
        if !self.is_ours(source, &target)? {
            put(&source.tree, &target)?;
            return Ok(Found::Only);
        }
        let pile = self.pile(&target)?;
        // The second of them is where one that did this was killed: what is left to do is its other half.
        let half = pile.get(1).is_some_and(|root| root.ends_with(&source.end));
        let height = pile.len() - usize::from(half);
        if half || (self.beneath && put_beneath(&source.tree, &target)?) {
            self.take_off(&target)?;
            return Ok(match height {
                0 | 1 => Found::Only,
                _ => Found::Off(was.st_ino),
            });
        }
        let target = match height < MOST {
            true => target,
            false => self.take_down(source, at, target, height)?,
        };
        put(&source.tree, &target)?;
        Ok(match height {
            0 | 1 => Found::Base(was.st_ino),
            2..MOST => Found::Pile,
            _ => Found::TakenDown,
        })
    }

    /// It is the top of a mount of the file system that holds our files, and so one that we put there.
    fn is_ours(&self, source: &Source, target: &OwnedFd) -> io::Result<bool> {
        if stat(target)?.st_dev != source.stat.st_dev {
            return Ok(false);
        }
        let found = statx(target, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
    }

    /// Takes off all of ours that lie there but the first. Gives what is there then.
    fn take_down(
        &self,
        source: &Source,
        at: &Path,
        mut target: OwnedFd,
        mut height: usize,
    ) -> io::Result<OwnedFd> {
        while height > 1 && self.is_ours(source, &target)? {
            self.take_off(&target)?;
            target = open_path(&self.root, at, OFlags::PATH)?;
            height -= 1;
        }
        Ok(target)
    }

    /// The mounts of one file system that lie on one another, the one of this descriptor first: what each is of.
    fn pile(&self, top: &OwnedFd) -> io::Result<Vec<String>> {
        let mut text = String::new();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let table = rustix::fs::openat(&self.own, c"mountinfo", flags, Mode::empty())?;
        File::from(table).read_to_string(&mut text)?;
        let id = statx(top, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id;
        Ok(pile(&text, id))
    }

    /// Unmounts the very mount a descriptor is the root of: through our own /proc/self/fd, where no path can mislead.
    fn take_off(&self, mount: &OwnedFd) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let numbers = rustix::fs::openat(&self.own, c"fd", flags, Mode::empty())?;
        rustix::process::fchdir(&numbers)?;
        let taken = unmount(mount.as_raw_fd().to_string(), UnmountFlags::DETACH);
        rustix::process::fchdir(&self.root)?;
        Ok(taken?)
    }
}

fn stat(of: &OwnedFd) -> io::Result<Stat> {
    Ok(rustix::fs::statat(of, c"", AtFlags::EMPTY_PATH)?)
}

/// False where this kernel cannot, or not here.
fn put_beneath(mount: &OwnedFd, target: &OwnedFd) -> io::Result<bool> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
        | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH
        | MoveMountFlags::from_bits_retain(BENEATH);
    match move_mount(mount, c"", target, c"", flags) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::INVAL) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// A line of a mount table (proc_pid_mountinfo(5)): `ID PARENT DEVICE ROOT PLACE …`.
struct Row<'a> {
    id: u64,
    parent: u64,
    device: &'a str,
    root: &'a str,
    place: &'a str,
}

fn row(line: &str) -> Option<Row<'_>> {
    let mut words = line.split(' ');
    Some(Row {
        id: words.next()?.parse().ok()?,
        parent: words.next()?.parse().ok()?,
        device: words.next()?,
        root: words.next()?,
        place: words.next()?,
    })
}

/// From a mount down as long as device and place are the same: what each is of.
fn pile(table: &str, top: u64) -> Vec<String> {
    let find = |id: u64| table.lines().filter_map(row).find(|row| row.id == id);
    let mut found = Vec::new();
    let mut next = find(top);
    while let Some(row) = next {
        found.push(row.root.to_owned());
        next = find(row.parent)
            .filter(|below| below.id != row.id && (below.device, below.place) == (row.device, row.place));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_on_one_another_are_found() {
        let table = "10 1 0:5 / / rw - overlay o rw\n\
                     11 10 0:9 /old/a.1 /x ro - tmpfs t rw\n\
                     12 11 0:9 /old/a.2//deleted /x ro - tmpfs t rw\n\
                     13 12 0:9 /configs/a /x ro - tmpfs t rw\n\
                     14 10 0:9 /d /y ro - tmpfs t rw\n\
                     15 14 0:9 /e /y/z ro - tmpfs t rw\n";
        assert_eq!(pile(table, 13), ["/configs/a", "/old/a.2//deleted", "/old/a.1"]);
        assert_eq!(pile(table, 14), ["/d"]);
        assert_eq!(pile(table, 15), ["/e"], "below, and not upon it");
        assert!(pile(table, 99).is_empty());
        assert_eq!(end_of(Path::new("/run/c/0a/configs/a.b")), "/configs/a.b");
    }
}
