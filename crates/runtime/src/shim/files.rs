//! The small files of a container that shim and agent share. Each is replaced whole by a rename.
//!
//! | file | where | written by | says |
//! | --- | --- | --- | --- |
//! | `container.json` | state dir | agent, once | that the container exists, since when |
//! | `run.json` | state dir | shim, as a run begins | that a run was begun, and the counts so far |
//! | `exit.json` | state dir, fsync'd | shim, as a run ends | how it ended, and whether it was the last one |
//! | `shim.json` | run dir | agent, before a shim starts | what the shim needs to know |
//! | `state.json` | run dir | shim, at each change | where it stands |

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use model::action::{Instance, ShimPolicy};
use model::name::{ContainerId, Name};
use model::network::Attachment;
use model::observed::ExitRecord;
use model::paths::Roots;
use model::plan::fingerprint;
use model::restart::RestartState;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bundle::Shared;

/// Where the files of one container lie.
#[derive(Clone, Debug)]
pub struct Files {
    /// Kept over reboots.
    pub state: PathBuf,
    /// This boot's.
    pub run: PathBuf,
}

impl Files {
    /// Of the container with this id.
    pub fn new(roots: &Roots, id: &ContainerId) -> Self {
        Self {
            state: roots.container_state(id),
            run: roots.container_run(id),
        }
    }

    pub fn container(&self) -> PathBuf {
        self.state.join("container.json")
    }

    pub fn run_record(&self) -> PathBuf {
        self.state.join("run.json")
    }

    pub fn exit(&self) -> PathBuf {
        self.state.join("exit.json")
    }

    pub fn log(&self) -> PathBuf {
        self.state.join("log")
    }

    pub fn config(&self) -> PathBuf {
        self.run.join("shim.json")
    }

    pub fn shim_state(&self) -> PathBuf {
        self.run.join("state.json")
    }

    pub fn lock(&self) -> PathBuf {
        self.run.join("shim.lock")
    }

    pub fn socket(&self) -> PathBuf {
        self.run.join("shim.sock")
    }
}

/// `container.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerFile {
    pub id: ContainerId,
    pub name: Name,
    pub created_at: Timestamp,
}

/// `shim.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimConfig {
    pub id: ContainerId,
    pub name: Name,
    pub cgroup_parent: String,
    /// None: the host's.
    pub hostname: Option<String>,
    /// Whether it gets a network namespace of its own.
    pub own_net: bool,
    pub own_ipc: bool,
    /// Whose namespaces it enters.
    #[serde(default)]
    pub shared: Shared,
    /// [`Self::told`] when the bundle was written.
    #[serde(default)]
    pub told: String,
    pub policy: ShimPolicy,
}

impl ShimConfig {
    /// A fingerprint of what its files say: its own addresses and names, name servers, and those it is linked to. It may be
    /// started again with others.
    pub fn told(i: &Instance) -> String {
        let addresses = |a: &Attachment| (a.ips().collect::<Vec<_>>(), a.aliases.clone());
        let own: Vec<_> = i.attachments.iter().map(addresses).collect();
        fingerprint(&(own, &i.dns, &i.links))
    }
}

/// `run.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    pub boot_id: String,
    pub run_no: u64,
    pub counts: RestartState,
    pub started_at: Timestamp,
}

/// `exit.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitFile {
    pub boot_id: String,
    pub counts: RestartState,
    /// No run follows by the shim's doing: the shim leaves, or has left.
    pub last: bool,
    pub record: ExitRecord,
}

/// A process that can be told from a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// Clock ticks since boot: field 22 of /proc/PID/stat (proc_pid_stat(5)).
    pub start: u64,
}

/// `state.json`, and what a status request is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimState {
    pub boot_id: String,
    pub id: ContainerId,
    pub name: Name,
    pub shim: Process,
    pub payload: Option<Process>,
    pub stage: Stage,
    /// Its processes are kept from running.
    #[serde(default)]
    pub paused: bool,
    pub own_net: bool,
    pub rev: u64,
    pub run_no: u64,
    pub counts: RestartState,
    pub started_at: Option<Timestamp>,
    /// Lines of the log that could not be written.
    #[serde(default)]
    pub lost_lines: u64,
}

/// Where a shim stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Stage {
    Created,
    Running,
    Backoff {
        until: Timestamp,
    },
    /// The last run has ended and the exit record is written.
    Leaving,
}

/// Reads one of the files; none where there is no such file.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from)
}

/// Replaces one of the files. A reader sees the old or the new one whole.
pub fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    replace(path, value, false)
}

/// The same, and it is on disk when this returns.
pub fn write_durably<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    replace(path, value, true)
}

fn replace<T: Serialize>(path: &Path, value: &T, durably: bool) -> io::Result<()> {
    let fresh = path.with_extension("json.new");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    if durably {
        file.sync_all()?;
    }
    std::fs::rename(&fresh, path)?;
    match path.parent() {
        Some(dir) if durably => File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
}

/// Removes a file that may not be there.
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// This boot's id (proc(5), sys/kernel/random/boot_id).
pub fn boot_id() -> io::Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim_end().to_owned())
}

/// The process that has this pid now; none where there is none, or only one that has ended and waits to be reaped.
pub fn process(pid: u32) -> Option<Process> {
    let start = detach::process::start_time(pid).ok()??;
    Some(Process { pid, start })
}

/// Whether this very process lives.
pub fn lives(known: Process) -> bool {
    process(known.pid) == Some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = process(std::process::id()).unwrap();
        assert!(lives(own));
        assert!(!lives(Process {
            start: own.start + 1,
            ..own
        }));
        assert_eq!(process(u32::MAX), None);
    }

    #[test]
    fn files_are_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        assert_eq!(read::<u32>(&path).unwrap(), None);
        write(&path, &1).unwrap();
        write_durably(&path, &2).unwrap();
        assert_eq!(read::<u32>(&path).unwrap(), Some(2));
        assert_eq!(dir.path().read_dir().unwrap().count(), 1);
        std::fs::write(&path, "{").unwrap();
        assert!(read::<u32>(&path).is_err());
        remove(&path).unwrap();
        remove(&path).unwrap();
    }
}
