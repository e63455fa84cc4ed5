//! Asking a container how it is. A probe that fails, for whatever reason, is a result and no error.
//!
//! Programs run inside as `exec` runs them, with the timeout as the shim's deadline and nothing left behind. Requests
//! are made from a thread of their own in the container's network namespace ([`network`]).

mod network;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use model::health::{OUTPUT, ProbeResult};
use model::name::ContainerId;
use model::spec::Probe;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::client::Runtime;
use crate::client::exec::Manner;
use crate::error::RuntimeError;
use crate::exec::{ExecIo, ExecSession, ExecSpec};

/// How much longer than its timeout a probe may take before the shim itself is found wanting.
const SLACK: Duration = Duration::from_secs(10);

/// Why it is not healthy, or what it said while it was.
type Asked = Result<String, String>;

impl Runtime {
    /// Makes one probe of a run. Blocking, for `timeout` at most and a little. Of another run than this it is a failure.
    pub fn probe(&self, id: &ContainerId, run_no: u64, probe: &Probe, timeout: Duration) -> ProbeResult {
        let asked = match probe {
            Probe::Exec(args) => self.run_probe(id, run_no, args.clone(), timeout),
            Probe::Shell(line) => {
                let args = ["/bin/sh", "-c", line].map(str::to_owned);
                self.run_probe(id, run_no, args.to_vec(), timeout)
            }
            Probe::Http { .. } | Probe::Tcp(_) => self.network_probe(id, run_no, probe, timeout),
        };
        ProbeResult {
            healthy: asked.is_ok(),
            output: asked.unwrap_or_else(|why| why),
            ended_at: Timestamp::now(),
        }
    }

    fn run_probe(&self, id: &ContainerId, run_no: u64, args: Vec<String>, timeout: Duration) -> Asked {
        let spec = ExecSpec {
            args,
            ..ExecSpec::default()
        };
        let manner = Manner {
            deadline: Some(timeout),
            run_no: Some(run_no),
            sweep: true,
        };
        let session = self.exec_as(id, &spec, manner).map_err(|e| told(&e))?;
        let mut output = Output::default();
        read_all(&session, &mut output, Instant::now() + timeout + SLACK).map_err(|e| e.to_string())?;
        let end = session.wait().map_err(|e| told(&e))?;
        let said = output.text();
        match (end.code, end.error) {
            _ if end.timed_out => Err(joined(&format!("no answer within {timeout:?}"), &said)),
            (_, Some(error)) => Err(error),
            (0, None) => Ok(said),
            (code, None) => Err(joined(&format!("exit code {code}"), &said)),
        }
    }

    fn network_probe(&self, id: &ContainerId, run_no: u64, probe: &Probe, timeout: Duration) -> Asked {
        let state = self.shim_state(id).map_err(|e| told(&e))?;
        let payload = state.filter(|s| s.run_no == run_no).and_then(|s| s.payload);
        let payload = payload.ok_or("it is not running")?;
        let netns = network::of(payload).map_err(|e| format!("cannot open its network namespace: {e}"))?;
        network::ask(netns, probe.clone(), timeout)
    }
}

/// Whose it is, is known where a probe's output is shown.
fn told(error: &RuntimeError) -> String {
    match error {
        RuntimeError::NotRunning { .. } => "it is not running".to_owned(),
        RuntimeError::Refused { why, .. } => why.clone(),
        other => other.to_string(),
    }
}

fn joined(what: &str, said: &str) -> String {
    let said = said.trim_end();
    if said.is_empty() {
        what.to_owned()
    } else {
        format!("{what}: {said}")
    }
}

/// The beginning of what a probe printed, on either stream.
#[derive(Debug, Default)]
struct Output(Vec<u8>);

impl Output {
    /// Takes what there is; false when the stream has ended.
    fn read(&mut self, from: &OwnedFd) -> bool {
        let mut bytes = [0; 4096];
        match rustix::io::read(from, &mut bytes) {
            Ok(0) => false,
            Ok(len) => {
                let room = OUTPUT.saturating_sub(self.0.len());
                self.0.extend_from_slice(&bytes[..len.min(room)]);
                true
            }
            Err(e) => matches!(e, Errno::INTR | Errno::AGAIN),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

/// Reads what is printed until the end is told, and then what is left: a stream's own end may never come.
fn read_all(session: &ExecSession, output: &mut Output, give_up: Instant) -> std::io::Result<()> {
    let ExecIo::Pipes { stdout, stderr, .. } = &session.io else {
        return Ok(());
    };
    let mut open: Vec<&OwnedFd> = vec![stdout, stderr];
    let mut ended = session.pid == 0;
    loop {
        let mut fds: Vec<PollFd<'_>> = open.iter().map(|fd| PollFd::new(*fd, PollFlags::IN)).collect();
        fds.push(PollFd::from_borrowed_fd(
            session.connection().as_fd(),
            PollFlags::IN,
        ));
        let left = give_up.saturating_duration_since(Instant::now());
        let wait = if ended { Duration::ZERO } else { left };
        let timeout = Timespec::try_from(wait).ok();
        match poll(&mut fds, timeout.as_ref()) {
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
            Ok(0) if ended => return Ok(()),
            Ok(0) => return Err(std::io::Error::other("its shim does not kill it in time")),
            Ok(_) => {}
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let printed = ready[..open.len()].iter().any(|ready| *ready);
        if ended && !printed {
            return Ok(());
        }
        ended |= ready[open.len()];
        let mut ready = ready.into_iter();
        open.retain(|fd| !ready.next().unwrap_or(false) || output.read(fd));
    }
}
