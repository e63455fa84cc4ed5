//! `cpuset`: which cores. On v1 a group of its own is made for it only where it is asked for: a new one has no cores and
//! takes nobody in before it was given some, and most containers want none.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{CgroupSet, LimitError, Setting, write};

const CPUS: &str = "cpuset.cpus";
const MEMS: &str = "cpuset.mems";

/// Has the group run on these cores, or on all of its parent's.
pub(super) fn apply(set: &CgroupSet, cores: Option<&str>) -> Result<(), LimitError> {
    match (set.cpuset_dir(), set.v2_dir()) {
        (Some(dir), _) => v1(set, &dir, cores),
        (None, Some(dir)) => v2(&dir, cores),
        (None, None) => match cores {
            None => Ok(()),
            Some(_) => Err(unsupported(None)),
        },
    }
}

fn unsupported(file: Option<PathBuf>) -> LimitError {
    LimitError::Unsupported {
        limit: "cpuset",
        controller: "cpuset",
        file,
        remedy: "switch the controller on (on cgroup v2 in cgroup.subtree_control of every group above)",
    }
}

fn v1(set: &CgroupSet, dir: &Path, cores: Option<&str>) -> Result<(), LimitError> {
    let Some(cores) = cores else {
        if !dir.is_dir() {
            return Ok(());
        }
        let all = above(dir, CPUS)?;
        return put(dir, &all);
    };
    set.make_cpuset()?;
    within(cores, &above(dir, CPUS)?)?;
    put(dir, cores)?;
    set.gather_in_cpuset().map_err(LimitError::from)
}

/// v2 takes any number and goes on with what of it there is: that the cores are there is ours to ask.
fn v2(dir: &Path, cores: Option<&str>) -> Result<(), LimitError> {
    let file = dir.join(CPUS);
    if !file.exists() {
        return match cores {
            None => Ok(()),
            Some(_) => Err(unsupported(Some(file))),
        };
    }
    match cores {
        Some(cores) => {
            within(cores, &above(dir, "cpuset.cpus.effective")?)?;
            put(dir, cores)
        }
        // A line with nothing on it: all of the parent's.
        None => put(dir, "\n"),
    }
}

/// Writes the cores unless the file says the same.
fn put(dir: &Path, cores: &str) -> Result<(), LimitError> {
    let file = dir.join(CPUS);
    let now = fs::read_to_string(&file).map_err(LimitError::io("reading", &file))?;
    if list(&now) == list(cores) {
        return Ok(());
    }
    write(&Setting {
        limit: "cpuset",
        file,
        value: cores.to_owned(),
    })
}

/// What the group above says.
fn above(dir: &Path, name: &str) -> Result<String, LimitError> {
    let file = dir.parent().unwrap_or(dir).join(name);
    let text = fs::read_to_string(&file).map_err(LimitError::io("reading", &file))?;
    Ok(text.trim().to_owned())
}

fn within(cores: &str, available: &str) -> Result<(), LimitError> {
    if list(cores).is_subset(&list(available)) {
        return Ok(());
    }
    Err(LimitError::Cores {
        wanted: cores.to_owned(),
        available: available.to_owned(),
    })
}

/// The numbers of a list like `0-3,5` (cpuset(7), "List format").
fn list(text: &str) -> BTreeSet<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// Gives a new v1 group what its parent has: without cores and memory nobody can enter it.
pub(in crate::cgroup) fn inherit(dir: &Path) -> std::io::Result<()> {
    for name in [CPUS, MEMS] {
        let file = dir.join(name);
        if !fs::read_to_string(&file)?.trim().is_empty() {
            continue;
        }
        let parent = dir.parent().unwrap_or(dir).join(name);
        fs::write(&file, fs::read_to_string(parent)?.trim())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sets() {
        assert_eq!(list("0-3,5\n"), BTreeSet::from([0, 1, 2, 3, 5]));
        assert_eq!(list("1,0"), list("0-1"));
        assert_eq!(list("\n"), BTreeSet::new());
        assert!(within("0", "0-1").is_ok());
        let error = within("0-2", "0-1").unwrap_err().to_string();
        assert!(error.contains("\"0-2\"") && error.contains("\"0-1\""), "{error}");
    }
}
