//! The command line as a user has it, run on a host; and the status, asked where that asks.

use std::ffi::OsStr;
use std::process::Output;
use std::time::{Duration, Instant};

use model::status::{ContainerStatus, State, Status};

use crate::{Host, http};

/// What a command said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Said {
    fn from(out: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: out.status.code().unwrap_or(-1),
            stdout: text(&out.stdout),
            stderr: text(&out.stderr),
        }
    }
}

impl Said {
    /// The command succeeded, or a panic with what it said.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

/// One container's row of a status.
pub fn row<'s>(status: &'s Status, name: &str) -> &'s ContainerStatus {
    let found = status.containers.iter().find(|c| c.name == name);
    found.unwrap_or_else(|| panic!("no container {name}: {status:#?}"))
}

impl Host {
    /// Runs `wharf ARGS…`.
    pub fn wharf<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Said {
        Said::from(self.wharf_command().args(args).output().unwrap())
    }

    /// What `wharf status --json` prints, from the agent's socket: tests ask often, and a program each time would be
    /// most of what they do.
    pub fn status(&self) -> Status {
        let answer = http::get_at(&self.run_dir().join("wharf.sock"), "/wharf/v1/status")
            .unwrap_or_else(|e| panic!("no status: {e}\n{}", self.log_tail(40)));
        serde_json::from_str(&answer.body)
            .unwrap_or_else(|e| panic!("{e}: {answer:?}\n{}", self.log_tail(40)))
    }

    /// Waits until converged, or panics with what is missing.
    pub fn converge(&self) -> Status {
        let said = self.wharf(["wait", "--timeout", "60s"]);
        assert_eq!(said.code, 0, "not converged: {said:?}\n{}", self.evidence());
        self.status()
    }

    /// Waits for one container.
    pub fn wait_for(&self, name: &str) {
        let said = self.wharf(["wait", name, "--timeout", "60s"]);
        assert_eq!(
            said.code,
            0,
            "{name} does not come: {said:?}\n{}",
            self.evidence()
        );
    }

    /// One container's row.
    pub fn container(&self, name: &str) -> ContainerStatus {
        row(&self.status(), name).clone()
    }

    /// Asks for the status until it is as wanted; returns it.
    pub fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let start = Instant::now();
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "never {what}: {status:#?}\n{}",
                self.log_tail(60)
            );
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Waits until the container is in this state.
    pub fn until_state(&self, name: &str, state: State) -> ContainerStatus {
        let is = |s: &Status| s.containers.iter().any(|c| c.name == name && c.state == state);
        self.until(&format!("{name} {state:?}"), is)
            .containers
            .into_iter()
            .find(|c| c.name == name)
            .unwrap()
    }
}

/// Name and pid of every running container: what a change that matters to nobody must keep.
pub fn pids(status: &Status) -> std::collections::BTreeMap<String, u32> {
    status
        .containers
        .iter()
        .filter_map(|c| Some((c.name.clone(), c.pid?)))
        .collect()
}
