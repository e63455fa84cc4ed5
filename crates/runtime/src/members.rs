//! Which processes are a container's, and whether they are in its control group.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::cgroup::{CgroupError, CgroupSet};

/// Rounds of gathering before those who keep forking away are left to the next try.
const ROUNDS: usize = 10;

/// Whether a process is in this group, or one below it, in every hierarchy that has it; none where it has ended.
///
/// Told by the group's name alone: a process's /proc/PID/cgroup is relative to the reader's cgroup namespace, and what is
/// mounted need not be.
pub fn is_in(pid: u32, group: &CgroupSet) -> Option<bool> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    // `/NAME-ID12/payload`: unique by the id, wherever the parent is seen from.
    let own: Vec<&str> = group.group().rsplitn(3, '/').collect();
    let [last, first, ..] = own[..] else {
        return Some(false);
    };
    let (suffix, within) = (format!("/{first}/{last}"), format!("/{first}/{last}/"));
    let inside = text
        .lines()
        .filter(|line| line.ends_with(&suffix) || line.contains(&within));
    Some(inside.count() >= group.dirs().len())
}

/// Moves a payload and all that came of it into the group, whoever is not in it.
pub fn gather(payload: u32, group: &CgroupSet) -> Result<(), CgroupError> {
    for _ in 0..ROUNDS {
        let outside: Vec<u32> = family(payload)
            .into_iter()
            .filter(|pid| is_in(*pid, group) == Some(false))
            .collect();
        if outside.is_empty() {
            return Ok(());
        }
        for pid in outside {
            match group.enter(pid.cast_signed()) {
                Err(_) if !fs::exists(format!("/proc/{pid}")).unwrap_or(true) => {}
                moved => moved?,
            }
        }
    }
    Ok(())
}

/// The payload, its descendants, and where it is the first of a pid namespace all others in there.
fn family(payload: u32) -> BTreeSet<u32> {
    let all: BTreeMap<u32, u32> = pids().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let space = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = space(payload).filter(|_| is_first(payload));
    let descends = |mut pid: u32| {
        // Bounded: parents may change while they are read.
        for _ in 0..all.len() {
            match all.get(&pid) {
                _ if pid == payload => return true,
                Some(parent) => pid = *parent,
                None => return false,
            }
        }
        false
    };
    all.keys()
        .copied()
        .filter(|pid| descends(*pid) || own.is_some() && space(*pid) == own)
        .collect()
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Field 4 of /proc/PID/stat (proc_pid_stat(5)).
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = stat.rsplit_once(')')?.1;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Whether it is pid 1 of its pid namespace.
fn is_first(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    line.is_some_and(|pids| {
        let pids: Vec<&str> = pids.split_ascii_whitespace().collect();
        pids.len() > 1 && pids.last() == Some(&"1")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_a_process_and_its_descendants() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let own = family(std::process::id());
        assert!(own.contains(&child.id()) && own.contains(&std::process::id()));
        assert_eq!(family(child.id()), [child.id()].into());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
