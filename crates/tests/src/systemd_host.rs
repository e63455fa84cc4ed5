//! A machine that systemd runs: Debian 13 in namespaces, made by `tests/hosts/nshost`, with wharf put in by `./install`.
//!
//! ```text
//!   host (192.0.2.1, eth0) ──────── (192.0.2.2, eth0) neighbour
//!   its default directories; /srv and /var/lib/wharf are directories of this machine's disk
//! ```

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use model::status::{ContainerStatus, Status};
use tempfile::TempDir;

use crate::binary::{self, repository};
use crate::client::{Said, row};
use crate::host::{ADDRESS, NEIGHBOUR};
use crate::http::{self, Answer};
use crate::images::{ImageBuilder, hello};
use crate::namespace::{Duty, Namespace};

/// How long something may take before the test gives up. No test measures by it.
const LIMIT: Duration = Duration::from_secs(60);

/// The machine. Dropping it removes every trace, and fails the test if the agent's journal holds an ERROR.
#[derive(Debug)]
pub struct SystemdHost {
    pub neighbour: Namespace,
    machine: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Pid 1's, outside; none while the machine is off.
    pid: Option<u32>,
    dir: TempDir,
}

impl Default for SystemdHost {
    fn default() -> Self {
        Self::new()
    }
}

impl SystemdHost {
    /// Booted, wharf installed, not started.
    pub fn new() -> Self {
        Self::with_settings("")
    }

    /// The same, with more lines for the `[Service]` section of wharf.service.
    pub fn with_settings(service: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("wharf-sd-").tempdir().unwrap();
        install(&dir.path().join("upper"), service);
        // In a session of its own: who ends a test ends its process group, and it has work to do then.
        let mut machine = Command::new("setsid")
            .arg(repository().join("tests/hosts/nshost"))
            .arg("run")
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("setsid of util-linux is there");
        let mut host = Self {
            neighbour: Namespace::new("neighbour", &Duty::default()),
            orders: machine.stdin.take(),
            answers: BufReader::new(machine.stdout.take().unwrap()),
            machine,
            pid: None,
            dir,
        };
        host.await_boot();
        host
    }

    fn order(&mut self, line: &str) {
        writeln!(self.orders.as_mut().unwrap(), "{line}").unwrap();
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the machine has ended: {}", self.console());
        line.trim().to_owned()
    }

    fn await_boot(&mut self) {
        let answer = self.answer();
        let pid = answer.strip_prefix("up ").and_then(|pid| pid.parse().ok());
        self.pid = Some(pid.unwrap_or_else(|| panic!("{answer}")));
        let here = format!("--net=/proc/{}/ns/net", self.pid.unwrap());
        let wire = format!(
            "ip link add eth0 type veth peer name eth0 netns /proc/{}/ns/net
             ip addr add {ADDRESS}/24 dev eth0; ip link set eth0 up",
            self.neighbour.pid()
        );
        let said = Command::new("nsenter")
            .args([here.as_str(), "--", "bash", "-euc", &wire])
            .output()
            .unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        self.neighbour.sh(&format!(
            "ip addr add {NEIGHBOUR}/24 dev eth0; ip link set eth0 up"
        ));
        self.sh(&format!("ip route add default via {NEIGHBOUR}"));
    }

    /// Pid 1 and the network are killed, with everything there is.
    pub fn crash(&mut self) {
        self.order("crash");
        assert_eq!(self.answer(), "down");
        self.pid = None;
    }

    /// Powered off, as `systemctl poweroff` does.
    pub fn power_off(&mut self) {
        self.order("off");
        assert_eq!(self.answer(), "down");
        self.pid = None;
    }

    /// Boots again what was off.
    pub fn boot(&mut self) {
        self.order("boot");
        self.await_boot();
    }

    /// A command on the machine, in a clean environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(repository().join("tests/hosts/nshost"));
        command.arg("exec").arg(self.dir.path()).arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, program: &str, args: &[&str]) -> Said {
        let out = self.command(program).args(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said {
            code: out.status.code().unwrap_or(-1),
            stdout: text(&out.stdout),
            stderr: text(&out.stderr),
        }
    }

    /// Runs shell lines; their output without blanks around it, or a panic with what they said.
    #[track_caller]
    pub fn sh(&self, lines: &str) -> String {
        let said = self.run("bash", &["-euo", "pipefail", "-c", lines]);
        assert_eq!(said.code, 0, "{lines}: {said:?}\n{}", self.evidence());
        said.stdout.trim().to_owned()
    }

    /// `systemctl show -P PROPERTY UNIT`.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.sh(&format!("systemctl show -P {name} {unit}"))
    }

    /// Runs `wharf ARGS…`.
    pub fn wharf(&self, args: &[&str]) -> Said {
        self.run("wharf", args)
    }

    /// `systemctl enable --now wharf`, and waits until all is as declared.
    pub fn start_wharf(&self) -> Status {
        self.sh("systemctl enable --now --quiet wharf");
        self.converge()
    }

    /// Waits until all is as declared.
    #[track_caller]
    pub fn converge(&self) -> Status {
        let said = self.wharf(&["wait", "--timeout", "60s"]);
        assert_eq!(said.code, 0, "not converged: {said:?}\n{}", self.evidence());
        self.status()
    }

    /// `wharf status --json`.
    pub fn status(&self) -> Status {
        let said = self.wharf(&["status", "--json"]);
        serde_json::from_str(&said.stdout).unwrap_or_else(|e| panic!("{e}: {said:?}\n{}", self.evidence()))
    }

    /// One container's row.
    pub fn container(&self, name: &str) -> ContainerStatus {
        row(&self.status(), name).clone()
    }

    /// Asks until it is so.
    #[track_caller]
    pub fn until(&self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !wanted(self) {
            assert!(start.elapsed() < LIMIT, "never {what}\n{}", self.evidence());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A page, seen from the neighbour.
    #[track_caller]
    pub fn page(&self, port: u16) -> Answer {
        http::get_within(&self.neighbour, &format!("http://{ADDRESS}:{port}/"), LIMIT)
            .unwrap_or_else(|e| panic!("no page on port {port}: {e}\n{}", self.evidence()))
    }

    /// Writes a file of the config dir, also while the machine is off.
    pub fn write(&self, name: &str, text: &str) {
        let at = match self.pid {
            Some(pid) => PathBuf::from(format!("/proc/{pid}/root")),
            None => self.dir.path().join("upper"),
        };
        fs::write(at.join("etc/containers.d").join(name), text).unwrap();
    }

    /// The machine's `/srv`, as it is seen from here, also while the machine is off.
    pub fn srv(&self) -> PathBuf {
        self.dir.path().join("srv")
    }

    /// The machine's `/var/lib/wharf`, likewise.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Writes an image as a layout into `/srv`; what to write behind `image =`.
    pub fn oci_dir(&self, name: &str, image: &ImageBuilder) -> String {
        let dir = self.srv().join(name);
        if !dir.exists() {
            fs::create_dir_all(self.srv()).unwrap();
            image.oci_dir(&dir);
        }
        format!("oci:/srv/{name}")
    }

    /// A container's table: the quickstart's program on a port.
    pub fn hello_table(&self, name: &str, port: u16) -> String {
        let image = self.oci_dir("hello", &hello());
        format!("[container.{name}]\nimage = {image:?}\nhostname = {name:?}\nports = [\"{port}:80\"]\n")
    }

    /// The agent's journal of this boot.
    pub fn journal(&self) -> String {
        self.run("journalctl", &["-b", "-u", "wharf", "--no-pager", "-o", "cat"])
            .stdout
    }

    fn console(&self) -> String {
        fs::read_to_string(self.dir.path().join("console")).unwrap_or_default()
    }

    /// What helps to understand a failure.
    pub fn evidence(&self) -> String {
        if self.pid.is_none() {
            return format!("--- console\n{}", self.console());
        }
        let units = [
            "status",
            "--no-pager",
            "-n0",
            "wharf.service",
            "wharf.socket",
            "wharf-containers.scope",
        ];
        let all = self.run("journalctl", &["-b", "-n150", "--no-pager"]).stdout;
        format!(
            "--- units\n{}--- journal\n{all}",
            self.run("systemctl", &units).stdout
        )
    }
}

/// Puts wharf where the machine will find it.
fn install(root: &Path, service: &str) {
    let out = Command::new(repository().join("install"))
        .arg("--destdir")
        .arg(root)
        .env("WHARF_BIN", binary::wharf())
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "./install: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let drop_in = root.join("etc/systemd/system/wharf.service.d");
    fs::create_dir_all(&drop_in).unwrap();
    let log = "Environment=WHARF_LOG=info,wharf::action=debug NO_COLOR=1";
    fs::write(
        drop_in.join("test.conf"),
        format!("[Service]\n{log}\n{service}\n"),
    )
    .unwrap();
}

impl Drop for SystemdHost {
    fn drop(&mut self) {
        let journal = match self.pid {
            Some(_) if std::thread::panicking() => self.evidence(),
            Some(_) => self.journal(),
            None => String::new(),
        };
        drop(self.orders.take());
        drop(self.machine.wait());
        if std::thread::panicking() {
            eprintln!("{journal}");
            return;
        }
        let errors: Vec<&str> = journal.lines().filter(|line| line.contains("ERROR")).collect();
        assert!(
            errors.is_empty(),
            "ERROR lines in the agent's journal:\n{}",
            errors.join("\n")
        );
    }
}
