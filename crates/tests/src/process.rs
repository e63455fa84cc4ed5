//! Processes of one host, known by `WHARF_RUN_DIR` in their environment or by their cgroup.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroups;

/// A process as `/proc` shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub pid: u32,
    /// Its command line, blanks between the arguments.
    pub command: String,
    /// Its groups below the host's parent, without the parent's own name.
    pub cgroup: String,
}

/// Every process of the host that is alive, by pid.
pub fn of_host(run_dir: &Path, cgroup_parent: &str) -> BTreeSet<Process> {
    let mark = format!("WHARF_RUN_DIR={}", run_dir.display());
    pids().filter_map(|pid| look(pid, &mark, cgroup_parent)).collect()
}

/// All pids there are.
pub fn pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
}

fn look(pid: u32, mark: &str, cgroup_parent: &str) -> Option<Process> {
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let marked = environ.split(|&b| b == 0).any(|v| v == mark.as_bytes());
    let cgroup = cgroups::of_process(pid, cgroup_parent);
    if !marked && cgroup.is_none() {
        return None;
    }
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command)
        .replace('\0', " ")
        .trim()
        .to_owned();
    // A zombie has no command line and is nobody's leak: its parent has only to look.
    (!command.is_empty()).then(|| Process {
        pid,
        command,
        cgroup: cgroup.unwrap_or_default(),
    })
}

/// Kills all of them until none is left; whether that is so.
pub fn kill_all(run_dir: &Path, cgroup_parent: &str) -> bool {
    for _ in 0..400 {
        cgroups::thaw(cgroup_parent);
        let left = of_host(run_dir, cgroup_parent);
        if left.is_empty() {
            return true;
        }
        for process in &left {
            let _ = kill(Pid::from_raw(process.pid as i32), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    eprintln!("could not end: {:#?}", of_host(run_dir, cgroup_parent));
    false
}

/// Whether the pid is a process that is not a zombie.
pub fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// When it started, in clock ticks since boot (proc_pid_stat(5), field 22): with the pid, it names a process for good.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The process that a container's payload is a child of: its shim.
pub fn parent(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Waits until there is a process with just this command line, wherever on this machine; its pid. For tests, which
/// choose arguments nobody else has.
#[track_caller]
pub fn until_pid_of(command: &[&str]) -> u32 {
    let wanted: Vec<u8> = command
        .iter()
        .flat_map(|arg| [arg.as_bytes(), b"\0"].concat())
        .collect();
    let found = || pids().find(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c == wanted));
    until(&format!("{command:?} runs"), found)
}

/// Waits for the end of a process.
#[track_caller]
pub fn until_gone(pid: u32) {
    until(&format!("{pid} has ended"), || (!alive(pid)).then_some(()));
}

#[track_caller]
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
