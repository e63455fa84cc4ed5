//! Further processes in a running container: `exec`, and the probes that run a program.
//!
//! The agent opens the pipes, or the terminal from the container's own devpts ([`terminal`]), and hands the other ends
//! to the shim. The shim forks a creator ([`enter`]), which enters the payload's control groups and namespaces, takes
//! its rights, and clones the process with CLONE_PARENT: so the shim stays small and is the one who reaps. What came
//! of the process is found in a control group of its own ([`group`]), and killed when the deadline passes or the agent
//! lets go of the connection, by dying or otherwise.

pub(crate) mod enter;
pub(crate) mod group;
pub(crate) mod terminal;

use std::os::fd::OwnedFd;
use std::sync::Mutex;

use model::name::ContainerId;
use serde::{Deserialize, Serialize};

use crate::error::RuntimeError;
use crate::shim::protocol::{self, ExecReport};

/// What is to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    pub args: Vec<String>,
    /// `NAME=VALUE`, over the container's own.
    pub env: Vec<String>,
    /// `USER[:GROUP]`, names by the container's own /etc/passwd and /etc/group; none: the container's.
    pub user: Option<String>,
    /// None: the container's. A relative one is taken from there.
    pub working_dir: Option<String>,
    pub tty: bool,
    /// Rows and columns of its terminal from the start. For whoever opens that, which is not the shim.
    #[serde(skip)]
    pub size: Option<(u16, u16)>,
    pub stdin: bool,
    /// All capabilities wharf itself has, and no seccomp filter.
    pub privileged: bool,
}

/// The agent's ends.
#[derive(Debug)]
pub enum ExecIo {
    /// The master side of its terminal (pty(7)). Reads end with EIO when the last process has closed the other side.
    Terminal(OwnedFd),
    /// `stdin` is there if it was asked for.
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecEnd {
    /// Exit code, or 128 + signal; 126 where it could not be executed, 127 where it was not found, 125 where wharf
    /// itself failed, each with `error`.
    pub code: i32,
    pub error: Option<String>,
    /// It was killed because its deadline had passed.
    pub timed_out: bool,
}

/// A process that was asked for.
#[derive(Debug)]
pub struct ExecSession {
    /// In the host's pid namespace; 0 where the program could not be started, and [`ExecHandle::wait`] says why.
    pub pid: u32,
    pub io: ExecIo,
    handle: ExecHandle,
}

/// What a session is waited for, resized and killed by. Dropped, all that came of the process is killed.
#[derive(Debug)]
pub struct ExecHandle {
    id: ContainerId,
    connection: OwnedFd,
    /// To set its size by, whoever has the other descriptor.
    terminal: Option<OwnedFd>,
    end: Mutex<Option<ExecEnd>>,
}

impl ExecSession {
    pub(crate) fn new(
        id: &ContainerId,
        connection: OwnedFd,
        io: ExecIo,
        first: ExecReport,
    ) -> Result<Self, RuntimeError> {
        let terminal = match &io {
            ExecIo::Terminal(master) => Some(
                master
                    .try_clone()
                    .map_err(RuntimeError::exec(id, "keep its terminal"))?,
            ),
            ExecIo::Pipes { .. } => None,
        };
        let (pid, end) = match first {
            ExecReport::Started { pid } => (pid, None),
            ExecReport::Ended(end) => (0, Some(end)),
        };
        let handle = ExecHandle {
            id: id.clone(),
            connection,
            terminal,
            end: Mutex::new(end),
        };
        Ok(Self { pid, io, handle })
    }

    /// The streams for one task, all else for others.
    pub fn split(self) -> (ExecIo, ExecHandle) {
        (self.io, self.handle)
    }
}

impl std::ops::Deref for ExecSession {
    type Target = ExecHandle;

    fn deref(&self) -> &ExecHandle {
        &self.handle
    }
}

impl ExecHandle {
    /// Waits for its end, from any thread and as often as wanted.
    ///
    /// # Errors
    /// [`RuntimeError::Silent`] where the shim was killed.
    pub fn wait(&self) -> Result<ExecEnd, RuntimeError> {
        // A waiter that panicked leaves nothing half done behind.
        let mut known = self.end.lock().unwrap_or_else(|e| e.into_inner());
        loop {
            if let Some(end) = &*known {
                return Ok(end.clone());
            }
            let reply = protocol::receive(&self.connection).map_err(RuntimeError::silent(&self.id))?;
            if let Some(ExecReport::Ended(end)) = reply.exec {
                *known = Some(end);
            }
        }
    }

    /// Says how large its terminal is, in characters; the program is told by SIGWINCH.
    ///
    /// # Errors
    /// [`RuntimeError::Refused`] where it has none.
    pub fn resize(&self, rows: u16, cols: u16) -> Result<(), RuntimeError> {
        let Some(terminal) = &self.terminal else {
            return Err(RuntimeError::Refused {
                id: self.id.clone(),
                why: "the process has no terminal that could have a size".to_owned(),
            });
        };
        terminal::set_size(terminal, rows, cols)
            .map_err(RuntimeError::exec(&self.id, "set the size of its terminal"))
    }

    /// Kills all that came of it; its end is told as any other. Nothing to do where it has ended.
    pub fn kill(&self) -> Result<(), RuntimeError> {
        match rustix::net::shutdown(&self.connection, rustix::net::Shutdown::Write) {
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
            Err(e) => Err(RuntimeError::silent(&self.id)(e.into())),
        }
    }

    pub(crate) fn connection(&self) -> &OwnedFd {
        &self.connection
    }
}
