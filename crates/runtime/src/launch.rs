//! Starting a payload: the one call the shim makes, and what it hands back.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use crate::bundle::Unshare;
use crate::embedded::{self, Doing, Plan, sys};
use crate::external;

pub use crate::embedded::{is_sealed, sealed_exe};

/// One start of a payload.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Directory with `config.json` (OCI runtime-spec) and `wharf.json` ([`crate::bundle::Extra`]).
    pub bundle: &'a Path,
    /// Becomes descriptors 0, 1 and 2 of the payload.
    pub stdio: [BorrowedFd<'a>; 3],
}

/// A payload whose execve has succeeded. It is a child of the caller.
#[derive(Debug)]
pub struct Launched {
    /// In the caller's pid namespace.
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// Why a payload did not start. The text is for users.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// The container could not be set up.
    #[error("{0}")]
    Setup(String),
    /// The program is there but cannot be run.
    #[error("{0}")]
    NotExecutable(String),
    /// The program is not there.
    #[error("{0}")]
    NotFound(String),
}

impl LaunchError {
    /// 125 ours, 126 not executable, 127 not found, as Docker counts.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Setup(_) => 125,
            Self::NotExecutable(_) => 126,
            Self::NotFound(_) => 127,
        }
    }

    /// The error of a class by its exit code.
    pub(crate) fn of_code(code: i32, text: String) -> Self {
        match code {
            126 => Self::NotExecutable(text),
            127 => Self::NotFound(text),
            _ => Self::Setup(text),
        }
    }
}

/// Makes the namespaces a container's shim lives in, and names the machine in its own uts namespace.
///
/// Only for a process that is to be the shim: it stays in them.
pub fn unshare(namespaces: Unshare, hostname: &str) -> Result<(), LaunchError> {
    let mut flags = UnshareFlags::empty();
    flags.set(UnshareFlags::NEWNET, namespaces.net);
    flags.set(UnshareFlags::NEWUTS, namespaces.uts);
    flags.set(UnshareFlags::NEWIPC, namespaces.ipc);
    nix::sched::unshare(nix::sched::CloneFlags::from_bits_truncate(
        flags.bits().cast_signed(),
    ))
    .doing(|| "making the container's namespaces".to_owned())?;
    if namespaces.uts {
        rustix::system::sethostname(hostname.as_bytes())
            .doing(|| format!("setting the host name {hostname:?}"))?;
    }
    Ok(())
}

/// Starts the payload of a bundle; returns when its execve has succeeded, or with its error.
///
/// Called by the shim, which is single-threaded and already lives in the container's net, uts and ipc namespaces (or
/// in the host's, for host modes). A short-lived creator is forked that does everything (parses JSON, compiles
/// seccomp: its memory dies with it) and clones the payload with CLONE_PARENT, so that the shim is its parent. The
/// caller becomes a subreaper (PR_SET_CHILD_SUBREAPER), which an external runtime's payload needs for that.
pub fn launch(l: &Launch<'_>) -> Result<Launched, LaunchError> {
    sys::become_subreaper().doing(|| "becoming the parent of orphans".to_owned())?;
    let (reader, writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(|| "making a pipe".to_owned())?;
    let Some(creator) = sys::fork().doing(|| "forking".to_owned())? else {
        drop(reader);
        be_creator(l, writer);
    };
    drop(writer);
    let mut text = String::new();
    let read = File::from(reader).read_to_string(&mut text);
    reap(creator);
    read.doing(|| "listening to the new container".to_owned())?;
    outcome(&text)
}

fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // ECHILD is as good: somebody else reaped it.
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
}

/// What was said until the last writer was gone: by execve, by exit, or by dying.
fn outcome(text: &str) -> Result<Launched, LaunchError> {
    let (mut pid, mut ready, mut failure) = (None, false, None);
    for report in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
        match report {
            Report::Pid { pid: new } => pid = Some(new),
            Report::Ready => ready = true,
            Report::Failure { code, text } => failure = Some(LaunchError::of_code(code, text)),
        }
    }
    let failure = match (failure, pid) {
        (None, Some(pid)) if ready => {
            let raw =
                Pid::from_raw(pid).ok_or_else(|| LaunchError::Setup("the payload has no pid".to_owned()))?;
            // It is our child and not waited for yet, so the number is still its own.
            let pidfd = pidfd_open(raw, PidfdFlags::empty()).doing(|| "opening the payload".to_owned())?;
            return Ok(Launched { pid, pidfd });
        }
        (Some(failure), _) => failure,
        (None, _) => LaunchError::Setup("the container was killed while it was being made".to_owned()),
    };
    pid.into_iter().for_each(reap);
    Err(failure)
}

/// One line of the pipe between creator, payload and shim.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Report {
    /// The creator: the payload was cloned.
    Pid { pid: i32 },
    /// The payload: execve comes next.
    Ready,
    /// Either: this is why not.
    Failure { code: i32, text: String },
}

impl Report {
    /// Of an error.
    pub fn failure(error: &LaunchError) -> Self {
        Self::Failure {
            code: error.exit_code(),
            text: error.to_string(),
        }
    }

    /// Writes it in one piece. Where that fails the shim is gone, and nobody is left to be told.
    pub fn send(&self, to: BorrowedFd<'_>) {
        let Ok(mut line) = serde_json::to_vec(self) else {
            return;
        };
        line.push(b'\n');
        if let Ok(fd) = to.try_clone_to_owned() {
            let _ = File::from(fd).write_all(&line);
        }
    }
}

/// The forked creator: never returns into the shim's code.
fn be_creator(l: &Launch<'_>, writer: OwnedFd) -> ! {
    let report = sys::leak(writer);
    let result = take_stdio(l.stdio).and_then(|()| {
        let plan = Plan::read(l.bundle)?;
        for required in &plan.extra.required {
            required
                .check()
                .map_err(|e| plan.named(LaunchError::Setup(e.to_string())))?;
        }
        match &plan.extra.runtime {
            None => embedded::create(&plan, report).map_err(|e| plan.named(e)),
            Some(runtime) => {
                let pid = external::create(&plan, runtime).map_err(|e| plan.named(e))?;
                Report::Ready.send(report);
                Ok(pid)
            }
        }
    });
    match result {
        Ok(pid) => Report::Pid { pid }.send(report),
        Err(error) => Report::failure(&error).send(report),
    }
    sys::exit_now(0);
}

/// Makes the payload's descriptors 0, 1 and 2, and has execve close all others.
pub(crate) fn take_stdio(stdio: [BorrowedFd<'_>; 3]) -> Result<(), LaunchError> {
    let work = || -> std::io::Result<()> {
        // Copied high first: one of them may itself be 0, 1 or 2.
        let mut high = Vec::new();
        for fd in stdio {
            high.push(rustix::io::fcntl_dupfd_cloexec(fd, 3)?);
        }
        nix::unistd::dup2_stdin(high[0].as_fd())?;
        nix::unistd::dup2_stdout(high[1].as_fd())?;
        nix::unistd::dup2_stderr(high[2].as_fd())?;
        sys::cloexec_all()
    };
    work().doing(|| "passing on standard input and output".to_owned())
}

/// Takes away what an external runtime keeps about a container; nothing to do for the embedded one. The payload has
/// ended.
pub fn clean_up(bundle: &Path) -> Result<(), LaunchError> {
    let plan = Plan::read(bundle)?;
    match &plan.extra.runtime {
        Some(runtime) => external::delete(&plan, runtime),
        None => Ok(()),
    }
}
