//! The daemon on a host: started, killed, stopped, its log.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Host, binary};

/// How long a start or a stop may take before the test gives up. No test measures by it.
const LIMIT: Duration = Duration::from_secs(30);

/// Somebody answers, rather than only a child of a killed agent still holding the socket open.
fn answers(socket: &Path) -> bool {
    let ask = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n")?;
        stream.read(&mut [0; 16])
    };
    ask().is_ok_and(|n| n > 0)
}

/// A running agent. Dropping it kills it; its containers go on.
#[derive(Debug)]
pub struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Host {
    /// A `wharf` command on this host, with its directories in the environment.
    pub fn wharf_command(&self) -> Command {
        let mut command = self.ns.command(binary::wharf());
        command
            .env("WHARF_CONFIG_DIR", self.config_dir())
            .env("WHARF_STATE_DIR", self.state_dir())
            .env("WHARF_RUN_DIR", self.run_dir())
            .env("WHARF_CGROUP_PARENT", self.cgroup_parent())
            .env_remove("WHARF_SOCKET")
            .env_remove("NOTIFY_SOCKET")
            .env("NO_COLOR", "1")
            .env("WHARF_LOG", "info,wharf::action=debug")
            .stdin(Stdio::null());
        command
    }

    /// Starts `wharf agent` and returns once its socket accepts.
    pub fn start_agent(&mut self) {
        let child = self.spawn_agent(&[]);
        let socket = self.run_dir().join("wharf.sock");
        self.agent = Some(Agent(child));
        let start = Instant::now();
        while !answers(&socket) {
            let ended = self.agent.as_mut().unwrap().0.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "the agent ended ({ended:?}):\n{}",
                self.log_tail(40)
            );
            assert!(
                start.elapsed() < LIMIT,
                "no {}:\n{}",
                socket.display(),
                self.log_tail(40)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts `wharf agent` with more arguments; nobody waits for anything.
    pub fn spawn_agent(&self, more: &[&str]) -> Child {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let mut command = self.wharf_command();
        command.envs(self.agent_env.iter().map(|(name, value)| (name, value)));
        command
            .args(["agent", "--settings"])
            .arg(self.settings())
            .args(more);
        command
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// One more variable in the environment of every agent that is started from now on.
    pub fn agent_env(&mut self, name: &str, value: &str) {
        self.agent_env.push((name.to_owned(), value.to_owned()));
    }

    /// The agent's pid.
    pub fn agent_pid(&self) -> Option<u32> {
        self.agent.as_ref().map(|a| a.0.id())
    }

    /// SIGKILL, by pid; its containers go on.
    pub fn kill_agent(&mut self) {
        self.agent.take().expect("an agent runs");
    }

    /// SIGTERM, and waits for its end.
    pub fn stop_agent(&mut self) -> ExitStatus {
        let mut agent = self.agent.take().expect("an agent runs");
        kill(Pid::from_raw(agent.0.id() as i32), Signal::SIGTERM).unwrap();
        let start = Instant::now();
        loop {
            if let Some(status) = agent.0.try_wait().unwrap() {
                return status;
            }
            assert!(
                start.elapsed() < LIMIT,
                "the agent does not stop:\n{}",
                self.log_tail(40)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where the agent's output goes, of all its lives.
    pub fn log_path(&self) -> PathBuf {
        self.dir().join("agent.log")
    }

    /// All of it so far.
    pub fn log(&self) -> String {
        fs::read(self.log_path())
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }

    /// Its last lines.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n") + "\n"
    }

    /// Lines with ERROR that contain `text` are part of this test.
    pub fn expect_error(&mut self, text: &str) {
        self.expected_errors.push(text.to_owned());
    }

    pub(crate) fn unexpected_errors(&self) -> Vec<String> {
        let expected = |line: &str| self.expected_errors.iter().any(|e| line.contains(e));
        self.log()
            .lines()
            .filter(|l| l.contains("ERROR") && !expected(l))
            .map(str::to_owned)
            .collect()
    }

    /// Writes a line of the test's own into the agent's log.
    pub fn note(&self, line: &str) {
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        writeln!(log, "{line}").unwrap();
    }
}
