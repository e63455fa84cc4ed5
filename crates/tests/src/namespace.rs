//! Namespaces held open by a child that waits for the end of its standard input.
//!
//! The child sees the end of this process whatever ended it, and then clears away what carries the host's run dir: a
//! test that was killed leaves nothing either. A test that came to its end has done that itself, and says so.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, setns};

/// Clears away what is left of a host once its test is gone. $1 run dir, $2 cgroup parent, $3 temporary directory.
const KEEPER: &str = r#"
hostname "${4:-host}"; ip link set lo up; echo ready
read -r word
[ -n "$1" ] && [ "$word" != cleared ] || exit 0
for _ in 1 2 3 4 5; do
    for thaw in $(find /sys/fs/cgroup -path "*$2/*" -name freezer.state 2>/dev/null); do echo THAWED >"$thaw"; done
    pids=$(grep -lsa "WHARF_RUN_DIR=$1" /proc/[0-9]*/environ | cut -d/ -f3)
    pids="$pids $(find /sys/fs/cgroup -path "*$2*" -name cgroup.procs -exec cat {} + 2>/dev/null)"
    [ -n "${pids// /}" ] || break
    kill -9 $pids 2>/dev/null
    sleep 0.05
done
find /sys/fs/cgroup -depth -type d -path "*$2*" -exec rmdir {} + 2>/dev/null
rm -rf "$3"
"#;

/// What the keeper clears away; nothing for a namespace that is only somebody's neighbour.
#[derive(Debug, Default)]
pub struct Duty<'a> {
    pub run_dir: Option<&'a Path>,
    pub cgroup_parent: &'a str,
    pub temp_dir: Option<&'a Path>,
}

/// A network, a mount and a uts namespace, and the child that holds them.
#[derive(Debug)]
pub struct Namespace {
    keeper: Child,
    net: File,
}

impl Namespace {
    /// Makes one, with the loopback up and the given host name.
    pub fn new(hostname: &str, duty: &Duty<'_>) -> Self {
        let text = |path: Option<&Path>| path.map(|p| p.display().to_string()).unwrap_or_default();
        // In a session of its own: who ends a test ends its process group, and the keeper has work to do then.
        let mut keeper = Command::new("setsid")
            .args([
                "unshare",
                "--net",
                "--mount",
                "--uts",
                "--propagation",
                "private",
                "--",
                "bash",
                "-c",
                KEEPER,
                "keeper",
            ])
            .args([
                &text(duty.run_dir),
                duty.cgroup_parent,
                &text(duty.temp_dir),
                hostname,
            ])
            .env_remove("WHARF_RUN_DIR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`unshare` of util-linux makes namespaces");
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(
            line, "ready\n",
            "cannot make namespaces: tests want root, bash and iproute2 (./test installs it)"
        );
        let net = File::open(format!("/proc/{}/ns/net", keeper.id())).unwrap();
        Self { keeper, net }
    }

    /// Nothing is left to be cleared away: the child has only to end.
    pub fn cleared(&mut self) {
        if let Some(mut orders) = self.keeper.stdin.take() {
            // One that has ended by itself need not be told.
            drop(orders.write_all(b"cleared\n"));
        }
    }

    /// The pid of the process that holds it, for `/proc/PID/…`.
    pub fn pid(&self) -> u32 {
        self.keeper.id()
    }

    /// A command that will run inside; `exec`ed, so the child's pid is the program's.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let ns = format!("/proc/{}/ns", self.pid());
        command.args([
            format!("--net={ns}/net"),
            format!("--mount={ns}/mnt"),
            format!("--uts={ns}/uts"),
        ]);
        command.arg("--").arg(program);
        command
    }

    /// Runs a shell line inside; its output, or a panic with what it said.
    pub fn sh(&self, line: &str) -> String {
        let out = self
            .command("bash")
            .args(["-euo", "pipefail", "-c", line])
            // iptables-legacy has one lock for the machine, and newer ones do not wait for it: here each network has its own.
            .env("XTABLES_LOCKFILE", "/proc/self/ns/net")
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Runs a closure on a thread that entered the network namespace: sockets it makes belong there.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.net, CloneFlags::CLONE_NEWNET).expect("the keeper holds its namespace open");
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        drop(self.keeper.wait());
    }
}
