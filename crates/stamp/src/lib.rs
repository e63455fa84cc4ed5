//! Telling, by one system call, that a file or directory is the same as when it was last read.
//!
//! A stamp is what stat(2) says of it. Nothing changes in a file, nor is an entry of a directory made, renamed or removed,
//! without the kernel setting its status change time to now, which nobody can set to anything else. But a kernel's time
//! has steps, and two changes within one step look alike: so a stamp proves something only where it was [`Stamp::taken`]
//! well after the change it tells of, and *before* what it stands for was read.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Stat, statat};
use rustix::path::Arg;

/// Longer than the steps of any file system's time: 10 ms where the kernel's own are taken, 2 s on FAT.
const SETTLED: Duration = Duration::from_millis(2500);

/// `f_type` (statfs(2)) of file systems that others change without this kernel's knowing, which may say for a while what
/// was so: NFS, SMB (three), Coda, AFS, Ceph, 9P, FUSE, GFS2, OCFS2, Lustre.
const SHARED: [u32; 12] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x7375_7245,
    0x5346_414f,
    0x00c3_6400,
    0x0102_1997,
    0x6573_5546,
    0x0116_1970,
    0x7461_636f,
    0x0bd0_0bd0,
];

/// Whether stamps of what is in there can be gone by: nobody but this kernel changes it.
pub fn is_local(directory: impl AsFd) -> bool {
    // Of 32 bits, whatever the type that it is told in.
    rustix::fs::fstatfs(directory).is_ok_and(|fs| !SHARED.contains(&(fs.f_type as u32)))
}

/// Equal: the same thing, unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    mode: u32,
    size: u64,
    /// Since 1970-01-01 UTC.
    changed: Duration,
}

impl Stamp {
    /// Of what a path leads to; none where there is nothing, or it cannot be looked at.
    pub fn of(path: &Path) -> Option<Self> {
        Self::taken(CWD, path, AtFlags::empty())
    }

    /// Of an entry of an open directory, or of the link itself where it is one.
    pub fn of_entry(directory: impl AsFd, name: impl Arg) -> Option<Self> {
        Self::taken(directory.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn taken(directory: BorrowedFd<'_>, name: impl Arg, flags: AtFlags) -> Option<Self> {
        Self::read(directory, name, flags).ok()
    }

    fn read(directory: BorrowedFd<'_>, name: impl Arg, flags: AtFlags) -> io::Result<Self> {
        let stat: Stat = statat(directory, name, flags)?;
        let negative = |_| io::Error::from(io::ErrorKind::InvalidData);
        Ok(Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            mode: stat.st_mode,
            size: u64::try_from(stat.st_size).map_err(negative)?,
            changed: Duration::new(
                u64::try_from(stat.st_ctime).map_err(negative)?,
                u32::try_from(stat.st_ctime_nsec).unwrap_or(0),
            ),
        })
    }

    /// Whether the last change was long enough ago for the next one to show; `now` is when the stamp was taken.
    pub fn is_settled(&self, now: SystemTime) -> bool {
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        since_1970
            .checked_sub(self.changed)
            .is_some_and(|age| age >= SETTLED)
    }

    /// Neither a link nor anything special.
    pub fn is_regular_file(&self) -> bool {
        rustix::fs::FileType::from_raw_mode(self.mode) == rustix::fs::FileType::RegularFile
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn whatever_is_done_to_a_file_shows_once_its_stamp_is_settled() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        fs::write(&file, "a").unwrap();
        let stamp = || Stamp::of(&file).unwrap();
        let changes: [&dyn Fn(); 3] = [
            &|| fs::write(&file, "b").unwrap(),
            &|| fs::set_permissions(&file, fs::metadata(&file).unwrap().permissions()).unwrap(),
            &|| {
                fs::write(dir.path().join("y"), "b").unwrap();
                fs::rename(dir.path().join("y"), &file).unwrap();
            },
        ];
        for change in changes {
            let mut before = stamp();
            while !before.is_settled(SystemTime::now()) {
                std::thread::sleep(Duration::from_millis(20));
                before = stamp();
            }
            change();
            assert_ne!(stamp(), before);
        }
    }

    #[test]
    fn a_change_of_this_moment_or_of_the_future_proves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let stamp = Stamp::of(dir.path()).unwrap();
        let soon = SystemTime::UNIX_EPOCH + stamp.changed + SETTLED / 2;
        assert!(!stamp.is_settled(soon));
        assert!(stamp.is_settled(soon + SETTLED));
        assert!(
            !stamp.is_settled(SystemTime::UNIX_EPOCH),
            "the clock was set back"
        );
    }

    #[test]
    fn a_directory_of_this_machine_is_local() {
        assert!(is_local(fs::File::open("/proc").unwrap()));
        let dir = tempfile::tempdir().unwrap();
        assert!(is_local(fs::File::open(dir.path()).unwrap()));
    }

    #[test]
    fn a_link_in_a_directory_is_no_regular_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x"), "").unwrap();
        std::os::unix::fs::symlink("x", dir.path().join("link")).unwrap();
        let at = fs::File::open(dir.path()).unwrap();
        assert!(Stamp::of_entry(&at, "x").unwrap().is_regular_file());
        assert!(!Stamp::of_entry(&at, "link").unwrap().is_regular_file());
        assert_eq!(Stamp::of_entry(&at, "none"), None);
    }
}
