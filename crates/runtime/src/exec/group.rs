//! A control group of a process's own below the payload's, so that all that came of it can be found and killed.
//!
//! One hierarchy is enough for that: v2 where it is mounted (also beside v1), else the freezer's. In the others, and so
//! under all limits, the process is in the payload's own group.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use crate::cgroup::CgroupSet;

/// The group, as its directory.
#[derive(Debug)]
pub struct ExecGroup {
    dir: PathBuf,
}

impl ExecGroup {
    /// Makes it below the payload's.
    pub fn make(payload: &CgroupSet, number: u64) -> io::Result<Self> {
        let dirs = payload.dirs();
        let has = |file: &'static str| move |dir: &&PathBuf| dir.join(file).exists();
        let home = dirs
            .iter()
            .find(has("cgroup.kill"))
            .or_else(|| dirs.iter().find(has("freezer.state")))
            .or(dirs.last())
            .ok_or(io::ErrorKind::NotFound)?;
        let dir = home.join(format!("exec-{number}"));
        fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    /// The directories a process enters to be in it, and in the payload's group everywhere else.
    pub fn to_enter(&self, payload: &CgroupSet) -> Vec<PathBuf> {
        let mut dirs = payload.dirs();
        dirs.retain(|dir| Some(dir.as_path()) != self.dir.parent());
        dirs.extend(payload.cpuset_dir().filter(|dir| dir.is_dir()));
        dirs.push(self.dir.clone());
        dirs
    }

    /// Sends SIGKILL to all that is in it. On v1 a fork may slip through when freezing takes its time: to be done again
    /// until it is empty.
    pub fn kill(&self) {
        // What cannot be written to is gone, and so is what was in it.
        let all_at_once = self.dir.join("cgroup.kill");
        if all_at_once.exists() {
            let _ = fs::write(all_at_once, "1");
            return;
        }
        let freezer = self.dir.join("freezer.state");
        let _ = fs::write(&freezer, "FROZEN");
        for pid in self.pids().into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = fs::write(&freezer, "THAWED");
    }

    /// Makes what is in it the payload's own.
    pub fn release(&self) {
        let Some(home) = self.dir.parent().map(|home| home.join("cgroup.procs")) else {
            return;
        };
        // A process that forks meanwhile leaves its child behind: looked at again, but not for ever.
        for _ in 0..16 {
            let pids = self.pids();
            if pids.is_empty() {
                return;
            }
            for pid in pids {
                let _ = fs::write(&home, pid.to_string());
            }
        }
    }

    /// Removes it; false while somebody is in it.
    pub fn remove(&self) -> bool {
        match fs::remove_dir(&self.dir) {
            Err(e) => e.kind() != io::ErrorKind::ResourceBusy,
            Ok(()) => true,
        }
    }

    fn pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }
}

/// Moves the calling process into groups, by their directories.
pub fn enter(dirs: &[PathBuf]) -> Result<(), (PathBuf, io::Error)> {
    dirs.iter()
        .try_for_each(|dir| write_self(dir).map_err(|e| (dir.clone(), e)))
}

fn write_self(dir: &Path) -> io::Result<()> {
    fs::write(dir.join("cgroup.procs"), "0")
}
