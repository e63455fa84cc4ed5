//! A network namespace as tests use it.
#![allow(dead_code)] // each test file uses its part

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};

/// For what must arrive, on however busy a machine.
pub const LONG: Duration = Duration::from_secs(20);

/// A network namespace; gone with its last descriptor.
pub struct Space(File);

impl Space {
    pub fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let space = Self(made.join().unwrap());
        space.sh("ip link set lo up");
        space
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Does something on a thread in there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            match there.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs a command line in there; it must succeed. Gives its output.
    pub fn sh(&self, line: &str) -> String {
        self.run(|| {
            let out = Command::new("sh")
                .args(["-c", line])
                // iptables-legacy has one lock for the machine, and newer ones do not wait for it: here each network has
                // its own.
                .env("XTABLES_LOCKFILE", "/proc/self/ns/net")
                .output()
                .unwrap();
            assert!(
                out.status.success(),
                "{line}: {}",
                String::from_utf8_lossy(&out.stderr)
            );
            String::from_utf8(out.stdout).unwrap()
        })
    }

    /// As `ip link … netns` takes it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}
