//! The cgroup trees of this machine, whichever version and however many: only what lies below one parent.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where every hierarchy is mounted.
pub fn mounts() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let of = |line: &str| {
        let (place, source) = line.split_once(" - ")?;
        source
            .starts_with("cgroup")
            .then(|| PathBuf::from(place.split(' ').nth(4).unwrap_or_default()))
    };
    table.lines().filter_map(of).collect()
}

/// Every group below `parent` and itself, in all hierarchies, parents first.
pub fn below(parent: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for mount in mounts() {
        walk(&mount.join(parent.trim_start_matches('/')), &mut found);
    }
    found
}

fn walk(dir: &Path, found: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    found.insert(dir.to_owned());
    for entry in entries
        .filter_map(Result::ok)
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
    {
        walk(&entry.path(), found);
    }
}

/// The process's group below `parent` (without it), if it is in one in any hierarchy.
pub fn of_process(pid: u32, parent: &str) -> Option<String> {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let inside = |line: &str| {
        let rest = line.splitn(3, ':').nth(2)?.strip_prefix(parent)?;
        (rest.is_empty() || rest.starts_with('/')).then(|| rest.to_owned())
    };
    table.lines().find_map(inside)
}

/// Lets frozen groups run again: a frozen process does not die.
pub fn thaw(parent: &str) {
    for group in below(parent) {
        drop(write_existing(&group.join("freezer.state"), "THAWED"));
        drop(write_existing(&group.join("cgroup.freeze"), "0"));
    }
}

fn write_existing(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

/// Removes the groups below `parent` and itself; they are empty by now, or will be in a moment. Whether none is left.
pub fn remove(parent: &str) -> bool {
    for _ in 0..100 {
        for group in below(parent).iter().rev() {
            drop(fs::remove_dir(group));
        }
        if below(parent).is_empty() {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    eprintln!("could not remove: {:#?}", below(parent));
    false
}
