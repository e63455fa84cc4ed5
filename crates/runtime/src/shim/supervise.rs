//! A shim's life: wait for something to happen, do what the table says, write down where it stands.
//!
//! | stage | run | exit of the payload | time is up | stop | restart | update |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | created | begin a run | | | leave | refused | take it |
//! | running | done already | restart table | kill | signal, then kill | signal, then kill | take it |
//! | backoff | done already | | begin a run | leave | begin a run | take it, decide anew |
//!
//! [`commands`] has what is asked of it, [`runs`] how runs begin and end. A paused payload is a running one that is let go
//! on before anything is to end it.

mod commands;
mod runs;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use model::action::ShimPolicy;
use model::paths::Roots;
use model::restart::{RestartState, RunEnd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::clients::Clients;
use super::files::{self, ExitFile, Files, RunRecord, ShimConfig, ShimState, Stage};
use super::freezes::Freezes;
use super::protocol::notify;
use super::run::Run;
use super::sessions::Sessions;
use crate::cgroup::CgroupSet;
use crate::launch::{Launch, LaunchError, Launched};
use crate::log::Log;
use crate::log::line::Stream;

/// What starts a payload.
pub type Launcher = fn(&Launch<'_>) -> Result<Launched, LaunchError>;

/// Everything a shim knows.
#[derive(Debug)]
pub struct Shim {
    launcher: Launcher,
    agent_socket: PathBuf,
    files: Files,
    policy: ShimPolicy,
    payload_group: CgroupSet,
    _lock: OwnedFd,
    signals: SignalFd,
    clients: Clients,
    sessions: Sessions,
    freezes: Freezes,
    log: Log,
    doing: Doing,
    /// As last written to `state.json`.
    state: ShimState,
    oom_before: u64,
}

#[derive(Debug)]
enum Doing {
    Nothing,
    Running(Run),
    Waiting {
        ended: Instant,
        at: Instant,
        end: RunEnd,
    },
    Leaving,
}

/// What poll found.
#[derive(Clone, Copy, Debug)]
enum Source {
    Signals,
    Listener,
    Client(usize),
    Pipe(Stream),
    Payload,
    /// A session's creator or process.
    Report(u64),
    /// A session's connection.
    Session(u64),
    /// A connection that keeps the payload from running while it is open.
    Freeze(usize),
}

impl Shim {
    /// A shim that holds its lock and lives in its namespaces; it opens its socket and says that it is there.
    pub fn new(
        launcher: Launcher,
        roots: Roots,
        files: Files,
        config: ShimConfig,
        payload_group: CgroupSet,
        lock: OwnedFd,
    ) -> io::Result<Self> {
        let (run_no, counts) = past(&files)?;
        let own = files::process(std::process::id()).ok_or(io::ErrorKind::NotFound)?;
        let shim = Self {
            launcher,
            agent_socket: roots.run.join("agent.sock"),
            signals: signals()?,
            clients: Clients::listen(&files.socket())?,
            sessions: Sessions::default(),
            freezes: Freezes::default(),
            log: Log::open(&files.log(), &config.policy.logging),
            doing: Doing::Nothing,
            state: ShimState {
                boot_id: files::boot_id()?,
                id: config.id,
                name: config.name,
                shim: own,
                payload: None,
                stage: Stage::Created,
                paused: false,
                own_net: config.own_net,
                rev: config.policy.rev,
                run_no,
                counts,
                started_at: None,
                lost_lines: 0,
            },
            policy: config.policy,
            files,
            payload_group,
            _lock: lock,
            oom_before: 0,
        };
        files::write(&shim.files.shim_state(), &shim.state)?;
        Ok(shim)
    }

    /// Works until the last run has ended, then takes its traces in the run dir away.
    pub fn supervise(&mut self) {
        while !matches!(self.doing, Doing::Leaving) {
            for source in self.wait() {
                self.act(source);
            }
            self.clients.sweep();
            self.meet_deadlines();
            self.settle();
        }
        // The answers were sent; what is left is for nobody but the next shim, which does the same.
        let _ = files::remove(&self.files.socket());
        let _ = files::remove(&self.files.shim_state());
        notify(&self.agent_socket, self.state.id.as_str());
    }

    /// Sleeps until something happens or a deadline is met.
    fn wait(&self) -> Vec<Source> {
        let sources = self.sources();
        let mut fds: Vec<PollFd<'_>> = sources
            .iter()
            .map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        let due = self.deadline().into_iter().chain(self.sessions.deadline()).min();
        let timeout = due.map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec::try_from(left).unwrap_or(Timespec {
                tv_sec: i64::from(i32::MAX),
                tv_nsec: 0,
            })
        });
        // Interrupted, or out of memory for a moment: nothing is ready, and the loop comes back.
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return Vec::new();
        }
        let ready = sources
            .iter()
            .zip(&fds)
            .filter(|(_, fd)| !fd.revents().is_empty());
        ready.map(|((source, _), _)| *source).collect()
    }

    /// What is listened to. Output comes before the exit, so that little is left to drain.
    fn sources(&self) -> Vec<(Source, BorrowedFd<'_>)> {
        use std::os::fd::AsFd;
        let mut all = vec![(Source::Signals, self.signals.as_fd())];
        if let Doing::Running(run) = &self.doing {
            all.extend(run.pipes().map(|(stream, fd)| (Source::Pipe(stream), fd)));
        }
        all.extend(
            self.clients
                .sockets()
                .enumerate()
                .map(|(n, fd)| (Source::Client(n), fd)),
        );
        all.push((Source::Listener, self.clients.listener()));
        let sessions = &self.sessions;
        all.extend(sessions.reports().map(|(key, fd)| (Source::Report(key), fd)));
        all.extend(sessions.connections().map(|(key, fd)| (Source::Session(key), fd)));
        let freezes = self.freezes.connections().enumerate();
        all.extend(freezes.map(|(n, fd)| (Source::Freeze(n), fd)));
        if let Doing::Running(run) = &self.doing {
            all.push((Source::Payload, run.pidfd()));
        }
        all
    }

    fn act(&mut self, source: Source) {
        match source {
            Source::Signals => match self.signals.read_signal() {
                Ok(Some(info)) if info.ssi_signo == libc::SIGCHLD.cast_unsigned() => self.reap_others(),
                // Asked to leave as any service is: by init, or by a scope that is stopped.
                Ok(Some(_)) => self.shutdown(),
                Ok(None) | Err(_) => {}
            },
            Source::Listener => self.clients.accept(),
            Source::Client(index) => {
                if let Some((request, descriptors)) = self.clients.receive(index, &self.state) {
                    self.serve(index, request, descriptors);
                }
            }
            Source::Pipe(stream) => {
                if let Doing::Running(run) = &mut self.doing {
                    run.read(stream, &mut self.log);
                }
            }
            Source::Payload => {
                if let Doing::Running(run) = &self.doing
                    && let Some(ended) = run.reap()
                {
                    self.run_ended(ended);
                }
            }
            Source::Report(key) => self.sessions.read_report(key, &self.state),
            Source::Session(key) => self.sessions.hear(key),
            Source::Freeze(index) => self.freezes.hear(index),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.doing {
            Doing::Running(run) => run.kill_at(),
            Doing::Waiting { at, .. } => Some(*at),
            Doing::Nothing | Doing::Leaving => None,
        }
    }

    fn meet_deadlines(&mut self) {
        if self.deadline().is_none_or(|at| at > Instant::now()) {
            return;
        }
        match &mut self.doing {
            Doing::Running(run) => {
                run.killed();
                // The first process takes its pid namespace with it; the cgroup has those that share another's.
                let _ = run.signal(libc::SIGKILL);
                self.kill_leftovers();
            }
            Doing::Waiting { .. } => self.begin_run(),
            Doing::Nothing | Doing::Leaving => {}
        }
    }

    fn settle(&mut self) {
        let left = matches!(self.doing, Doing::Leaving);
        if self.freezes.are_over() {
            self.let_go();
        }
        self.sessions.settle(self.state.paused, &self.state);
        self.clients.settle(self.state.run_no, left, &self.state);
    }

    /// Writes where it stands, and tells the agent to look.
    fn publish(&mut self) {
        self.state.lost_lines = self.log.dropped();
        let _ = files::write(&self.files.shim_state(), &self.state);
        notify(&self.agent_socket, self.state.id.as_str());
    }
}

/// Blocks and listens for what asks a process to end. What else would end it by default is blocked as well.
fn signals() -> io::Result<SignalFd> {
    let mut asked = SigSet::empty();
    asked.add(Signal::SIGTERM);
    asked.add(Signal::SIGINT);
    asked.add(Signal::SIGCHLD);
    let mut blocked = asked;
    for signal in [
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGPIPE,
    ] {
        blocked.add(signal);
    }
    blocked.thread_block()?;
    Ok(SignalFd::with_flags(
        &asked,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

/// What earlier shims of this container counted: runs begun, and restarts. A streak does not outlast its shim.
fn past(files: &Files) -> io::Result<(u64, RestartState)> {
    let run: Option<RunRecord> = files::read(&files.run_record()).unwrap_or(None);
    let exit: Option<ExitFile> = files::read(&files.exit()).unwrap_or(None);
    let run_no = run
        .as_ref()
        .map_or(0, |r| r.run_no)
        .max(exit.as_ref().map_or(0, |e| e.record.run_no));
    let restarts = run
        .map_or(0, |r| r.counts.restarts)
        .max(exit.map_or(0, |e| e.counts.restarts));
    Ok((run_no, RestartState { streak: 0, restarts }))
}
