//! Asking a shim for further processes, for health's consequences, and for a pause.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use model::name::ContainerId;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};

use super::{PATIENCE, Result, Runtime, RuntimeError, done, is_passing, millis};
use crate::exec::terminal::{self, Terminal};
use crate::exec::{ExecIo, ExecSession, ExecSpec};
use crate::shim::files::Process;
use crate::shim::protocol::{self, Answer, Command, Request, RestartCause};

/// Both ends of what a process reads and writes: the agent's, and what becomes its descriptors 0, 1 and 2.
struct Plumbing {
    io: ExecIo,
    theirs: [OwnedFd; 3],
}

/// How a process is to be run, besides what.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner {
    pub deadline: Option<Duration>,
    /// Only in this run.
    pub run_no: Option<u64>,
    /// What it leaves behind when it ends is killed, too.
    pub sweep: bool,
}

impl Runtime {
    /// Runs a further process in a running container; returns when its program runs, or could not be started (which is
    /// told by [`ExecSession::wait`]). After `deadline` it is killed, with all that came of it; likewise when the session
    /// is dropped or this process dies. What it leaves in the background when it ends goes on as the container's own.
    ///
    /// # Errors
    /// [`RuntimeError::NotRunning`]; [`RuntimeError::Refused`] of a paused container, or by a shim of another version.
    pub fn exec(&self, id: &ContainerId, spec: &ExecSpec, deadline: Option<Duration>) -> Result<ExecSession> {
        let manner = Manner {
            deadline,
            ..Manner::default()
        };
        self.exec_as(id, spec, manner)
    }

    pub(crate) fn exec_as(&self, id: &ContainerId, spec: &ExecSpec, manner: Manner) -> Result<ExecSession> {
        let state = self.shim_state(id)?;
        let payload = state.as_ref().and_then(|state| state.payload);
        let (Some(state), Some(payload)) = (state, payload) else {
            return Err(RuntimeError::NotRunning { id: id.clone() });
        };
        if state.paused {
            let why = "it is paused: unpause it first".to_owned();
            return Err(RuntimeError::Refused { id: id.clone(), why });
        }
        if spec.args.first().is_none_or(String::is_empty) {
            let why = "there is no command to run".to_owned();
            return Err(RuntimeError::Refused { id: id.clone(), why });
        }
        let plumbing = plumbing(id, spec, payload)?;
        let written = written(spec).map_err(RuntimeError::exec(id, "write down what is to be run"))?;
        let [stdin, stdout, stderr] = &plumbing.theirs;
        let descriptors = [written.as_fd(), stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        self.begin(id, manner, &descriptors, plumbing.io)
    }

    fn begin(
        &self,
        id: &ContainerId,
        manner: Manner,
        descriptors: &[BorrowedFd<'_>],
        io: ExecIo,
    ) -> Result<ExecSession> {
        let request = Request {
            run_no: manner.run_no,
            ..Request::new(Command::Exec {
                deadline_ms: manner.deadline.map(millis),
                sweep: manner.sweep,
            })
        };
        let asked = protocol::open(&self.files(id).socket(), &request, descriptors, PATIENCE);
        let connection = match asked {
            Err(e) if is_passing(&e) => return Err(RuntimeError::NotRunning { id: id.clone() }),
            result => result.map_err(RuntimeError::silent(id))?,
        };
        let reply = protocol::receive(&connection).map_err(RuntimeError::silent(id))?;
        match (reply.answer, reply.exec) {
            (Answer::Done, Some(first)) => {
                protocol::set_patience(&connection, None).map_err(RuntimeError::silent(id))?;
                ExecSession::new(id, connection, io, first)
            }
            (Answer::Done, None) => Err(RuntimeError::silent(id)(io::ErrorKind::InvalidData.into())),
            (Answer::Stale(why) | Answer::Refused(why), _) => {
                Err(RuntimeError::Refused { id: id.clone(), why })
            }
        }
    }

    /// Tells a container's shim what its check says of a run: where health is asked, what is good enough to reset the
    /// backoff is time spent healthy. About another run than the current one it does nothing.
    pub fn tell_health(&self, id: &ContainerId, run_no: u64, healthy: bool) -> Result<()> {
        self.about_run(id, run_no, Command::Health { healthy }).map(drop)
    }

    /// Ends a run because its check failed (`signal`, after `grace` SIGKILL), and leaves what follows to the restart
    /// policy, with backoff. Returns when that was ordered. About another run than the current one it does nothing.
    pub fn restart_unhealthy(
        &self,
        id: &ContainerId,
        run_no: u64,
        signal: &str,
        grace: Duration,
    ) -> Result<()> {
        let command = Command::Restart {
            signal: signal.to_owned(),
            grace_ms: millis(grace),
            why: RestartCause::Unhealthy,
        };
        self.about_run(id, run_no, command).map(drop)
    }

    /// Keeps a running container's processes from running, by the cgroup freezer. Nothing to do where it is so.
    pub fn pause(&self, id: &ContainerId) -> Result<()> {
        self.tell(id, Command::Pause)
    }

    /// Lets a paused container go on.
    pub fn unpause(&self, id: &ContainerId) -> Result<()> {
        self.tell(id, Command::Unpause)
    }

    fn tell(&self, id: &ContainerId, command: Command) -> Result<()> {
        if !self.has_shim(id)? {
            return Err(RuntimeError::NotRunning { id: id.clone() });
        }
        match self.ask(id, &Request::new(command), PATIENCE) {
            Ok(reply) => done(id, reply).map(drop),
            Err(e) if is_passing(&e) => Err(RuntimeError::NotRunning { id: id.clone() }),
            Err(e) => Err(RuntimeError::silent(id)(e)),
        }
    }

    /// Says something that is about one run; false where that is over.
    fn about_run(&self, id: &ContainerId, run_no: u64, command: Command) -> Result<bool> {
        if !self.has_shim(id)? {
            return Ok(false);
        }
        let request = Request {
            run_no: Some(run_no),
            ..Request::new(command)
        };
        match self.ask(id, &request, PATIENCE) {
            Ok(reply) if matches!(reply.answer, Answer::Stale(_)) => Ok(false),
            Ok(reply) => done(id, reply).map(|_| true),
            Err(e) if is_passing(&e) => Ok(false),
            Err(e) => Err(RuntimeError::silent(id)(e)),
        }
    }
}

/// The specification in a file of its own, as it may be longer than a frame.
fn written(spec: &ExecSpec) -> io::Result<File> {
    let mut file = File::from(memfd_create("exec", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(spec)?)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

fn plumbing(id: &ContainerId, spec: &ExecSpec, payload: Process) -> Result<Plumbing> {
    if spec.tty {
        let Terminal { master, slave } =
            terminal::open(payload).map_err(RuntimeError::exec(id, "open a terminal"))?;
        if let Some((rows, cols)) = spec.size {
            terminal::set_size(&master, rows, cols)
                .map_err(RuntimeError::exec(id, "set the size of a terminal"))?;
        }
        let twice = || Ok((slave.try_clone()?, slave.try_clone()?));
        let (one, two) = twice().map_err(RuntimeError::exec(id, "pass a terminal on"))?;
        return Ok(Plumbing {
            io: ExecIo::Terminal(master),
            theirs: [slave, one, two],
        });
    }
    pipes(spec.stdin).map_err(RuntimeError::exec(id, "make pipes"))
}

fn pipes(stdin: bool) -> io::Result<Plumbing> {
    let (their_stdin, stdin) = if stdin {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        (reader, Some(writer))
    } else {
        (File::open("/dev/null")?.into(), None)
    };
    let (stdout, their_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, their_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok(Plumbing {
        io: ExecIo::Pipes {
            stdin,
            stdout,
            stderr,
        },
        theirs: [their_stdin, their_stdout, their_stderr],
    })
}
