//! Which hierarchies this host has, and where.

use std::fs;
use std::path::{Path, PathBuf};

use super::CgroupError;

/// Controllers of v1 that containers are put under, where mounted.
const USED: &[&str] = &["devices", "freezer", "pids", "memory", "cpu", "cpuacct", "blkio"];

/// How control groups are set up on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every controller has its own hierarchy.
    V1,
    /// Controllers on v1, processes also in a v2 hierarchy.
    Hybrid,
    /// One hierarchy.
    V2,
}

/// Mount points by use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchies {
    /// Controllers mounted together, and where; in the order of their first mention.
    pub(super) v1: Vec<(Vec<String>, PathBuf)>,
    pub(super) unified: Option<PathBuf>,
    /// v1 hierarchies no group of ours is made in; external runtimes make theirs in all.
    pub(super) others: Vec<PathBuf>,
    /// The v1 one with `cpuset`, wherever that is: groups are made there for containers with that limit only.
    pub(super) cpuset: Option<PathBuf>,
}

impl Hierarchies {
    /// Reads this process's mount table.
    pub fn detect() -> Result<Self, CgroupError> {
        let table = Path::new("/proc/self/mountinfo");
        let text = fs::read_to_string(table).map_err(CgroupError::io("reading", table))?;
        let found = Self::parse(&text);
        if found.v1.is_empty() && found.unified.is_none() {
            return Err(CgroupError::NotMounted);
        }
        Ok(found)
    }

    /// From the text of a mountinfo file (proc_pid_mountinfo(5)).
    fn parse(mountinfo: &str) -> Self {
        let mut found = Self {
            v1: Vec::new(),
            unified: None,
            others: Vec::new(),
            cpuset: None,
        };
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(at) = left.split(' ').nth(4) else {
                continue;
            };
            let mut right = right.split(' ');
            match right.next() {
                Some("cgroup2") if found.unified.is_none() => found.unified = Some(at.into()),
                Some("cgroup") => {
                    let used = |option: &&str| USED.contains(option);
                    let options = right.nth(1).unwrap_or_default();
                    if found.cpuset.is_none() && options.split(',').any(|o| o == "cpuset") {
                        found.cpuset = Some(at.into());
                    }
                    if !options.split(',').any(|o| USED.contains(&o)) {
                        found.others.push(at.into());
                    }
                    let options = options.split(',').filter(used);
                    let new = |c: &&str| !found.v1.iter().any(|(known, _)| known.iter().any(|k| k == c));
                    let controllers: Vec<String> = options.filter(new).map(str::to_owned).collect();
                    if !controllers.is_empty() {
                        found.v1.push((controllers, at.into()));
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// How this host is set up.
    pub fn mode(&self) -> Mode {
        match (self.v1.is_empty(), &self.unified) {
            (true, _) => Mode::V2,
            (false, Some(_)) => Mode::Hybrid,
            (false, None) => Mode::V1,
        }
    }

    /// Mount points with their v1 controllers, the v2 one last and with none.
    pub fn mounted(&self) -> Vec<(&[String], &Path)> {
        let v1 = self.v1.iter().map(|(list, at)| (list.as_slice(), at.as_path()));
        let none: &[String] = &[];
        v1.chain(self.unified.iter().map(|at| (none, at.as_path())))
            .collect()
    }

    /// The directories of a group, one a hierarchy; the v2 one last.
    pub(super) fn dirs(&self, group: &str) -> Vec<PathBuf> {
        let below = |root: &PathBuf| root.join(group.trim_start_matches('/'));
        let v1 = self.v1.iter().map(|(_, root)| below(root));
        v1.chain(self.unified.iter().map(below)).collect()
    }

    /// The directories a group has where an external runtime made it, in hierarchies that are not ours.
    pub(super) fn other_dirs(&self, group: &str) -> Vec<PathBuf> {
        let below = |root: &PathBuf| root.join(group.trim_start_matches('/'));
        self.others.iter().map(below).filter(|dir| dir.is_dir()).collect()
    }

    /// The directory of a group where a v1 controller is; none where it is not mounted.
    pub(super) fn v1_dir(&self, controller: &str, group: &str) -> Option<PathBuf> {
        let found = self
            .v1
            .iter()
            .find(|(list, _)| list.iter().any(|c| c == controller))?;
        Some(found.1.join(group.trim_start_matches('/')))
    }

    /// Whether `cpuset` is mounted together with a controller that all containers are under.
    pub(super) fn cpuset_is_shared(&self) -> bool {
        let at = self.cpuset.as_ref();
        at.is_some_and(|at| self.v1.iter().any(|(_, root)| root == at))
    }

    /// The directory of a group in the v2 hierarchy.
    pub(super) fn v2_dir(&self, group: &str) -> Option<PathBuf> {
        let root = self.unified.as_ref()?;
        Some(root.join(group.trim_start_matches('/')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
35 30 0:28 / /other/memory rw,relatime - cgroup cgroup rw,memory
";

    #[test]
    fn used_controllers_are_found_once_and_systemds_hierarchy_never() {
        let found = Hierarchies::parse(HYBRID);
        assert_eq!(found.mode(), Mode::Hybrid);
        assert_eq!(
            found.dirs("/wharf/a"),
            [
                "/sys/fs/cgroup/cpu,cpuacct/wharf/a",
                "/sys/fs/cgroup/memory/wharf/a",
                "/sys/fs/cgroup/unified/wharf/a"
            ]
            .map(PathBuf::from)
        );
        assert_eq!(found.v1_dir("cpuacct", "x"), found.v1_dir("cpu", "x"));
        assert_eq!(found.v1_dir("pids", "x"), None);
    }

    #[test]
    fn a_host_with_one_hierarchy_is_v2() {
        let found = Hierarchies::parse("30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert_eq!(found.mode(), Mode::V2);
        assert_eq!(found.v2_dir("/w"), Some("/sys/fs/cgroup/w".into()));
    }
}
