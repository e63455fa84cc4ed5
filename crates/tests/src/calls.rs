//! The system calls that a process makes meanwhile, by strace(1), and which of them change something.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::binary::repository;

/// Calls that change nothing, as patterns of grep(1) for lines of strace's; everything else counts as a change.
fn harmless() -> PathBuf {
    repository().join("crates/tests/harmless-calls")
}

/// All calls of a process, its threads and children while `work` goes on, into `log`.
pub fn traced(pid: u32, log: &Path, work: impl FnOnce()) {
    let mut tracer = Command::new("strace")
        .args(["-f", "-yy", "-s", "64", "-o"])
        .arg(log)
        .args(["-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot run strace: {e}"));
    let mut said = BufReader::new(tracer.stderr.take().expect("it is piped"));
    let mut first = String::new();
    // It says so when it is attached to all threads.
    said.read_line(&mut first).expect("it says something");
    assert!(first.contains("attached"), "strace: {first}");
    work();
    let tracer_pid = Pid::from_raw(i32::try_from(tracer.id()).expect("a pid"));
    kill(tracer_pid, Signal::SIGINT).expect("it runs");
    tracer.wait().expect("it ends");
}

/// The lines about calls that change something.
pub fn changes(log: &Path) -> Vec<String> {
    let filtered = Command::new("grep")
        .args(["-a", "-vE", "-f"])
        .arg(harmless())
        .arg(log)
        .output()
        .unwrap_or_else(|e| panic!("cannot run grep: {e}"));
    // 1: no line was left over.
    assert!(
        filtered.status.code().is_some_and(|code| code <= 1),
        "grep: {}",
        String::from_utf8_lossy(&filtered.stderr)
    );
    let lines = String::from_utf8_lossy(&filtered.stdout);
    lines.lines().map(str::to_owned).collect()
}
