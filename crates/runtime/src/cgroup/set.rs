//! One group in all hierarchies at once.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{CgroupError, DeviceRule, Hierarchies};

/// Making a group is tried again this often where one above it goes meanwhile.
const TRIES: u32 = 64;

/// A group, as the directories it has in each hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupSet {
    hierarchies: Hierarchies,
    /// `/wharf/web-0123456789ab/payload`.
    group: String,
}

impl CgroupSet {
    /// The group `PARENT/NAME`; nothing is made yet.
    pub fn new(hierarchies: &Hierarchies, parent: &str, name: &str) -> Self {
        Self {
            hierarchies: hierarchies.clone(),
            group: format!("{}/{name}", parent.trim_end_matches('/')),
        }
    }

    /// A group below: `shim` or `payload`.
    pub fn child(&self, name: &str) -> Self {
        Self::new(&self.hierarchies, &self.group, name)
    }

    /// Its path below the hierarchies' roots.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Its directories, one a hierarchy.
    pub fn dirs(&self) -> Vec<PathBuf> {
        self.hierarchies.dirs(&self.group)
    }

    /// Whether it is there in any hierarchy.
    pub fn exists(&self) -> bool {
        self.dirs().iter().any(|dir| dir.is_dir())
    }

    /// Makes it and what is missing above. On v2 controllers are switched on as far as the kernel lets us: limits say
    /// for themselves when one is missing.
    pub fn create(&self) -> Result<(), CgroupError> {
        for dir in self.dirs() {
            fs::create_dir_all(&dir).map_err(CgroupError::io("making control group", &dir))?;
        }
        if let Some(root) = &self.hierarchies.unified {
            self.enable_controllers(root);
        }
        // Mounted together with a controller that all are under, nobody could be put under that one.
        match self.hierarchies.cpuset_is_shared() {
            true => self.make_cpuset(),
            false => Ok(()),
        }
    }

    /// Makes it in the v1 hierarchy of `cpuset`, level by level, each with the cores and memory of the one above.
    pub(super) fn make_cpuset(&self) -> Result<(), CgroupError> {
        for _ in 0..TRIES {
            match self.try_cpuset() {
                // The last group in one above was removed just now, and that one with it.
                Err(CgroupError::Io { source, .. }) if gone(&source) => {}
                other => return other,
            }
        }
        self.try_cpuset()
    }

    fn try_cpuset(&self) -> Result<(), CgroupError> {
        let Some(mut dir) = self.hierarchies.cpuset.clone() else {
            return Ok(());
        };
        for component in self.group.split('/').filter(|c| !c.is_empty()) {
            dir.push(component);
            match fs::create_dir(&dir) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(CgroupError::io("making control group", &dir))?,
            }
            super::limits::inherit(&dir).map_err(CgroupError::io("giving cores to control group", &dir))?;
        }
        Ok(())
    }

    /// Moves its processes into its `cpuset` group as well, until none was found that had been forked meanwhile.
    pub(super) fn gather_in_cpuset(&self) -> Result<(), CgroupError> {
        let Some(dir) = self.cpuset_dir() else {
            return Ok(());
        };
        let procs = dir.join("cgroup.procs");
        loop {
            let mut there = BTreeSet::new();
            collect_pids(&dir, &mut there)?;
            let mut missing: Vec<i32> = self.pids()?.difference(&there).copied().collect();
            missing.retain(|&pid| alive(pid));
            if missing.is_empty() {
                return Ok(());
            }
            for pid in missing {
                match fs::write(&procs, pid.to_string()) {
                    // It has ended.
                    Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                    moved => moved.map_err(CgroupError::io("moving a process into control group", &dir))?,
                }
            }
        }
    }

    /// Where it is, or would be, in the v1 hierarchy of `cpuset`.
    pub(crate) fn cpuset_dir(&self) -> Option<PathBuf> {
        let root = self.hierarchies.cpuset.as_ref()?;
        Some(root.join(self.group.trim_start_matches('/')))
    }

    /// Where it is on v2.
    pub(crate) fn v2_dir(&self) -> Option<PathBuf> {
        self.hierarchies.v2_dir(&self.group)
    }

    /// Where it is under a v1 controller.
    pub(super) fn v1_dir(&self, controller: &str) -> Option<PathBuf> {
        self.hierarchies.v1_dir(controller, &self.group)
    }

    /// From the topmost group of ours down to the one above this; the root as well where our parent hangs on it.
    fn enable_controllers(&self, root: &Path) {
        let mut dir = root.to_path_buf();
        let components: Vec<&str> = self.group.split('/').filter(|c| !c.is_empty()).collect();
        let top = components.len().saturating_sub(3);
        for (depth, component) in components.iter().enumerate() {
            if depth >= top {
                let available = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
                for controller in ["cpu", "cpuset", "io", "memory", "pids"] {
                    if available.split_whitespace().any(|c| c == controller) {
                        // Refused where processes sit in that group or a parent does not pass it on.
                        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
                    }
                }
            }
            dir.push(component);
        }
    }

    /// Moves a process in, in every hierarchy; 0 is the calling process.
    pub fn enter(&self, pid: i32) -> Result<(), CgroupError> {
        let cpuset = self.cpuset_dir().filter(|dir| dir.is_dir());
        for dir in self.dirs().into_iter().chain(cpuset) {
            let procs = dir.join("cgroup.procs");
            fs::write(&procs, pid.to_string())
                .map_err(CgroupError::io("moving a process into control group", &dir))?;
        }
        Ok(())
    }

    /// The processes in it and in groups below, in any hierarchy.
    pub fn pids(&self) -> Result<BTreeSet<i32>, CgroupError> {
        let mut pids = BTreeSet::new();
        let others = self.hierarchies.other_dirs(&self.group);
        for dir in self.dirs().iter().chain(&others) {
            collect_pids(dir, &mut pids)?;
        }
        Ok(pids)
    }

    /// Kills every process in it and below, and returns when none is left; zombies that wait for a parent of theirs
    /// do not count, the kernel lists them no more on v2 and they hold nothing on v1.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        for _ in 0..500 {
            if let Some(dir) = self.hierarchies.v2_dir(&self.group) {
                // cgroup.kill takes forks that are under way as well.
                let _ = fs::write(dir.join("cgroup.kill"), "1");
            }
            let freezer = self.hierarchies.v1_dir("freezer", &self.group);
            let freeze = |state: &str| {
                if let Some(dir) = &freezer {
                    let _ = fs::write(dir.join("freezer.state"), state);
                }
            };
            freeze("FROZEN");
            let left: Vec<i32> = self.pids()?.into_iter().filter(|&p| alive(p)).collect();
            for pid in left.iter().filter_map(|&p| Pid::from_raw(p)) {
                let _ = kill_process(pid, Signal::KILL);
            }
            freeze("THAWED");
            if left.is_empty() {
                return Ok(());
            }
            sleep(Duration::from_millis(10));
        }
        let path = self.dirs().into_iter().next().unwrap_or_default();
        Err(CgroupError::StillPopulated { path })
    }

    /// Removes it with all groups below, tried again for a while as the kernel lets go of the last process late. What
    /// an external runtime made of it in other hierarchies goes as well, with the parent there if that is empty then.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let others = self.hierarchies.other_dirs(&self.group);
        for dir in self.dirs().iter().chain(&others) {
            for attempt in 0.. {
                match remove_tree(dir) {
                    Err(e) if e.kind() == io::ErrorKind::ResourceBusy && attempt < 300 => {
                        sleep(Duration::from_millis(10))
                    }
                    result => {
                        result.map_err(CgroupError::io("removing control group", dir))?;
                        break;
                    }
                }
            }
        }
        for parent in others.iter().filter_map(|dir| dir.parent()) {
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }

    /// Says which devices its processes may use.
    pub fn set_devices(&self, rules: &[DeviceRule]) -> Result<(), CgroupError> {
        if let Some(dir) = self.hierarchies.v1_dir("devices", &self.group) {
            return super::devices::write_v1(&dir, rules);
        }
        match self.hierarchies.v2_dir(&self.group) {
            Some(dir) => super::devices::attach_v2(&dir, rules),
            None => Ok(()),
        }
    }

    /// How many of its processes the kernel killed for memory since it was made; none where that is not counted.
    pub fn oom_kills(&self) -> Option<u64> {
        let (dir, file) = self.memory()?;
        let text = fs::read_to_string(dir.join(file)).ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix("oom_kill "))?;
        line.trim().parse().ok()
    }

    /// Tells the group that these are counted in from one made anew in its place; none where there is no group.
    pub fn counted_in(&self) -> Option<u64> {
        Some(fs::metadata(self.memory()?.0).ok()?.ino())
    }

    /// Directory and file of what the kernel tells of memory.
    fn memory(&self) -> Option<(PathBuf, &'static str)> {
        match self.hierarchies.v1_dir("memory", &self.group) {
            Some(dir) => Some((dir, "memory.oom_control")),
            None => Some((self.hierarchies.v2_dir(&self.group)?, "memory.events")),
        }
    }
}

fn collect_pids(dir: &Path, pids: &mut BTreeSet<i32>) -> Result<(), CgroupError> {
    let procs = dir.join("cgroup.procs");
    let text = match fs::read_to_string(&procs) {
        Ok(text) => text,
        Err(e) if gone(&e) => return Ok(()),
        Err(e) => return Err(CgroupError::io("reading", procs)(e)),
    };
    pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
    for below in subdirs(dir).unwrap_or_default() {
        collect_pids(&below, pids)?;
    }
    Ok(())
}

/// ENODEV: the group was removed while its file was open.
fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// Not a zombie. A process that is gone is not alive either.
fn alive(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    !matches!(state, Some('Z' | 'X'))
}

fn subdirs(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            dirs.push(entry.path());
        }
    }
    Ok(dirs)
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    let ok_when_gone = |result: io::Result<()>| match result {
        Err(e) if gone(&e) => Ok(()),
        other => other,
    };
    for below in subdirs(dir).unwrap_or_default() {
        remove_tree(&below)?;
    }
    ok_when_gone(fs::remove_dir(dir))
}
