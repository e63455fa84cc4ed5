//! `RUN_DIR/COMMAND`: the lock a server lives by, its socket, which process it is, what it was last given.
//!
//! The agent writes and reads these; the server only makes lock and process record, before it gives up its rights.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use detach::process::start_time;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Role;

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
    pub pid: u32,
    /// Clock ticks after boot (proc_pid_stat(5), field 22).
    pub start_time: u64,
}

impl Files {
    pub fn new(run_dir: &Path, role: &Role) -> Self {
        let dir = run_dir.join(role.command);
        Self {
            lock: dir.join("lock"),
            socket: dir.join("control.sock"),
            process: dir.join("process.json"),
            last: dir.join("last.json"),
            dir,
        }
    }

    /// Removes all of them: nobody but the agent starts such a process, so nobody waits for the lock.
    pub fn clear(&self) -> io::Result<()> {
        for path in [&self.last, &self.process, &self.socket, &self.lock] {
            remove(path)?;
        }
        match fs::remove_dir(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
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
        let pid = std::process::id();
        let start_time = start_time(pid)?.ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { pid, start_time })
    }

    /// Whether it has not ended.
    pub fn lives(&self) -> bool {
        start_time(self.pid).is_ok_and(|since| since == Some(self.start_time))
    }

    /// A descriptor for it; none where it has ended.
    pub fn open(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            other => other?,
        };
        // Looked at after the open: what is found here is what the descriptor stands for, if both are the same.
        let same = start_time(self.pid)? == Some(self.start_time);
        Ok(same.then_some(fd))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(read::<Process>(&path).unwrap(), None);
        let own = Process::own().unwrap();
        write(&path, &own).unwrap();
        assert_eq!(read(&path).unwrap(), Some(own));
    }
}
