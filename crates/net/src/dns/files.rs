//! `RUN_DIR/dns`: the lock the server lives by, its socket, which process it is, what it was last given.
//!
//! The agent writes and reads these; the server only makes lock and process record, before it gives up its rights.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use model::name::Name;
use nix::fcntl::{FcntlArg, fcntl};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::control::Given;

/// Where things lie.
#[derive(Clone, Debug)]
pub struct Files {
    pub dir: PathBuf,
    pub lock: PathBuf,
    pub socket: PathBuf,
    pub process: PathBuf,
    pub last: PathBuf,
}

/// Which process the server is: a pid may be used again, together with its start time it is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// Clock ticks after boot (proc_pid_stat(5), field 22).
    pub start_time: u64,
}

/// What a server was last given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    pub given: Given,
    /// Networks whose server listens on another port than 53.
    pub ports: BTreeMap<Name, u16>,
}

impl Files {
    pub fn new(run_dir: &Path) -> Self {
        let dir = run_dir.join("dns");
        Self {
            lock: dir.join("lock"),
            socket: dir.join("control.sock"),
            process: dir.join("process.json"),
            last: dir.join("last.json"),
            dir,
        }
    }

    /// Makes the directory, for root alone.
    pub fn make_dir(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)
    }
}

impl Process {
    /// This process.
    pub fn own() -> io::Result<Self> {
        let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
        let start_time = start_time(pid)?;
        Ok(Self { pid, start_time })
    }

    /// A descriptor for it; none where it has ended.
    pub fn open(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(None);
        };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            other => other?,
        };
        // Looked at after the open: what is found here is what the descriptor stands for, if both are the same.
        match start_time(self.pid) {
            Ok(time) if time == self.start_time => Ok(Some(fd)),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

fn start_time(pid: i32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name in parentheses, with anything in it.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = rest.split_ascii_whitespace().nth(19);
    field
        .and_then(|f| f.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no start time in its stat"))
}

/// Reads a record; none where there is no such file.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => Ok(Some(serde_json::from_slice(&other?)?)),
    }
}

/// Writes a record whole or not at all. The directory is a tmpfs's: nothing here outlives a crash of the machine.
pub fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let next = path.with_extension("new");
    remove(&next)?;
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&next)?;
    let mut out = io::BufWriter::new(file);
    serde_json::to_writer(&mut out, value)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?;
    fs::rename(&next, path)
}

/// Removes a file that may not be there.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Takes the lock for as long as the file is open (fcntl(2), open file description locks); none if somebody has it.
pub fn take_lock(path: &Path) -> io::Result<Option<File>> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file())) {
        Ok(_) => Ok(Some(file)),
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Whether somebody has the lock; asking does not take it.
pub fn is_locked(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    let mut lock = whole_file();
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(libc::F_WRLCK).unwrap_or(1),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap_or(0),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_seen_and_ends_with_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(!is_locked(&path).unwrap());
        let held = take_lock(&path).unwrap();
        assert!(held.is_some() && is_locked(&path).unwrap());
        assert!(take_lock(&path).unwrap().is_none());
        drop(held);
        assert!(!is_locked(&path).unwrap());
    }

    #[test]
    fn a_process_is_its_pid_and_its_start() {
        let own = Process::own().unwrap();
        assert!(own.open().unwrap().is_some());
        let other = Process {
            start_time: own.start_time + 1,
            ..own
        };
        assert!(other.open().unwrap().is_none());
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("last.json");
        assert_eq!(read::<Last>(&path).unwrap(), None);
        let last = Last {
            ports: [("a".parse().unwrap(), 1053)].into(),
            ..Last::default()
        };
        write(&path, &last).unwrap();
        assert_eq!(read(&path).unwrap(), Some(last));
    }
}
