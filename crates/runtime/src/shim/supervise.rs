//! A shim's life: wait for something to happen, do what the table says, write down where it stands.
//!
//! | stage | run | exit of the payload | time is up | stop | restart | update |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | created | begin a run | | | leave | refused | take it |
//! | running | done already | restart table | kill | signal, then kill | signal, then kill | take it |
//! | backoff | done already | | begin a run | leave | begin a run | take it, decide anew |

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use model::action::ShimPolicy;
use model::observed::ExitRecord;
use model::paths::Roots;
use model::restart::{self, Next, RestartState, RunEnd, after_run};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::clients::{Awaits, Clients};
use super::files::{self, ExitFile, Files, RunRecord, ShimConfig, ShimState, Stage};
use super::protocol::{Answer, Command, Request, RestartCause, notify};
use super::run::{Ended, Run};
use super::signal;
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
            log: Log::open(&files.log(), &config.policy.logging),
            doing: Doing::Nothing,
            state: ShimState {
                boot_id: files::boot_id()?,
                id: config.id,
                name: config.name,
                shim: own,
                payload: None,
                stage: Stage::Created,
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
        let timeout = self.deadline().map(|at| {
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
        if let Doing::Running(run) = &self.doing {
            all.push((Source::Payload, run.pidfd()));
        }
        all
    }

    fn act(&mut self, source: Source) {
        match source {
            Source::Signals => match self.signals.read_signal() {
                Ok(Some(info)) if info.ssi_signo == libc::SIGCHLD.cast_unsigned() => self.reap_strangers(),
                // Asked to leave as any service is: by init, or by a scope that is stopped.
                Ok(Some(_)) => self.shutdown(),
                Ok(None) | Err(_) => {}
            },
            Source::Listener => self.clients.accept(),
            Source::Client(index) => {
                if let Some(request) = self.clients.receive(index) {
                    match self.handle(request) {
                        Ok(Some(awaits)) => self.clients.hold(index, awaits),
                        Ok(None) => self.clients.answer(index, Answer::Done, &self.state),
                        Err(answer) => self.clients.answer(index, answer, &self.state),
                    }
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
        }
    }

    /// Does what is asked, or says what the answer waits for.
    fn handle(&mut self, request: Request) -> Result<Option<Awaits>, Answer> {
        self.refuse_stale(&request)?;
        match request.command {
            Command::Status => {
                self.state.lost_lines = self.log.dropped();
                Ok(None)
            }
            Command::Run => {
                if matches!(self.doing, Doing::Nothing) {
                    self.begin_run();
                }
                Ok(None)
            }
            Command::Update { policy } => self.update(*policy).map(|()| None),
            Command::Stop { signal, grace_ms } => {
                self.stop(number(&signal)?, Duration::from_millis(grace_ms));
                Ok(Some(Awaits::End))
            }
            Command::Shutdown => {
                self.shutdown();
                Ok(Some(Awaits::End))
            }
            Command::Restart {
                signal,
                grace_ms,
                why,
            } => self.restart(number(&signal)?, Duration::from_millis(grace_ms), why),
            Command::Kill { signal } => self.kill(number(&signal)?).map(|()| None),
        }
    }

    fn refuse_stale(&self, request: &Request) -> Result<(), Answer> {
        let about = |what: &str, theirs: u64, ours: u64| {
            let text = format!(
                "it was about {what} {theirs} of {}, which is at {ours}",
                self.state.name
            );
            Err(Answer::Stale(text))
        };
        match (request.run_no, request.rev) {
            (Some(run_no), _) if run_no != self.state.run_no => about("run", run_no, self.state.run_no),
            (_, Some(rev)) if rev != self.state.rev => about("revision", rev, self.state.rev),
            _ => Ok(()),
        }
    }

    fn update(&mut self, policy: ShimPolicy) -> Result<(), Answer> {
        if policy.rev < self.state.rev {
            let text = format!("revision {} is older than {}", policy.rev, self.state.rev);
            return Err(Answer::Stale(text));
        }
        if policy.logging != self.policy.logging {
            self.log.configure(&self.files.log(), &policy.logging);
        }
        self.policy = policy;
        self.state.rev = self.policy.rev;
        if let Doing::Waiting { ended, end, .. } = self.doing {
            self.wait_anew(ended, end);
        }
        self.publish();
        Ok(())
    }

    /// Decides anew what follows a run that ended earlier, under a policy that changed since.
    fn wait_anew(&mut self, ended: Instant, end: RunEnd) {
        if restart::again(self.policy.restart.policy, end) {
            let streak = self.state.counts.streak.saturating_sub(1);
            let delay = restart::delay(&self.policy.restart, streak);
            self.wait_from(ended, delay, end);
        } else {
            self.leave_from_backoff();
        }
    }

    fn shutdown(&mut self) {
        let signal = signal::number(&self.policy.stop_signal).unwrap_or(libc::SIGTERM);
        self.stop(signal, self.policy.stop_grace_period);
    }

    fn stop(&mut self, signal: i32, grace: Duration) {
        match &mut self.doing {
            // A signal that cannot be sent is followed by SIGKILL when the grace period is over.
            Doing::Running(run) => drop(run.end(RunEnd::Stopped, signal, grace)),
            Doing::Nothing => self.doing = Doing::Leaving,
            Doing::Waiting { .. } => self.leave_from_backoff(),
            Doing::Leaving => {}
        }
    }

    fn restart(&mut self, signal: i32, grace: Duration, why: RestartCause) -> Result<Option<Awaits>, Answer> {
        let end = match why {
            RestartCause::ByHand => RunEnd::Restarted,
            RestartCause::Unhealthy => RunEnd::Unhealthy,
        };
        let next = self.state.run_no + 1;
        match &mut self.doing {
            Doing::Running(run) => {
                drop(run.end(end, signal, grace));
                // A failed health check may be the last straw for the policy: nothing to wait for then.
                Ok((end == RunEnd::Restarted).then_some(Awaits::Run(next)))
            }
            Doing::Waiting { .. } if end == RunEnd::Restarted => {
                self.state.counts.streak = 0;
                self.begin_run();
                Ok(None)
            }
            Doing::Waiting { .. } => Ok(None),
            Doing::Nothing | Doing::Leaving => Err(not_running()),
        }
    }

    fn kill(&self, signal: i32) -> Result<(), Answer> {
        match &self.doing {
            Doing::Running(run) => run
                .signal(signal)
                .map_err(|e| Answer::Refused(format!("cannot send the signal: {e}"))),
            _ => Err(not_running()),
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
        self.clients.settle(self.state.run_no, left, &self.state);
    }

    fn begin_run(&mut self) {
        self.state.run_no += 1;
        let started_at = Timestamp::now();
        let record = RunRecord {
            boot_id: self.state.boot_id.clone(),
            run_no: self.state.run_no,
            counts: self.state.counts,
            started_at,
        };
        // On a full disk it runs unrecorded rather than not at all.
        let _ = files::write(&self.files.run_record(), &record);
        self.oom_before = self.payload_group.oom_kills().unwrap_or(0);
        match Run::begin(self.launcher, &self.files.run) {
            Ok(run) => {
                self.state.payload = Some(run.process);
                self.state.started_at = Some(run.started_at);
                self.state.stage = Stage::Running;
                self.doing = Doing::Running(run);
                self.publish();
            }
            Err(e) => self.launch_failed(started_at, &e),
        }
    }

    fn launch_failed(&mut self, started_at: Timestamp, error: &LaunchError) {
        self.kill_leftovers();
        let record = ExitRecord {
            run_no: self.state.run_no,
            code: error.exit_code(),
            signal: None,
            oom_killed: false,
            started_at,
            finished_at: Timestamp::now(),
            requested: false,
            error: Some(error.to_string()),
        };
        self.decide(record, RunEnd::LaunchFailed, Duration::ZERO);
    }

    fn run_ended(&mut self, ended: Ended) {
        // Nothing may write after the drain.
        self.kill_leftovers();
        let Doing::Running(mut run) = std::mem::replace(&mut self.doing, Doing::Nothing) else {
            return;
        };
        run.drain(&mut self.log);
        self.state.payload = None;
        self.reap_strangers();
        let oom_now = self.payload_group.oom_kills().unwrap_or(self.oom_before);
        let record = ExitRecord {
            run_no: self.state.run_no,
            code: ended.code,
            signal: ended.signal,
            oom_killed: oom_now > self.oom_before,
            started_at: run.started_at,
            finished_at: Timestamp::now(),
            requested: matches!(ended.end, RunEnd::Stopped | RunEnd::Restarted),
            error: None,
        };
        self.decide(record, ended.end, ended.ran);
    }

    /// Writes the exit record, then does what the restart table says.
    fn decide(&mut self, record: ExitRecord, end: RunEnd, ran: Duration) {
        let (counts, next) = after_run(self.state.counts, &self.policy.restart, end, ran);
        self.state.counts = counts;
        self.state.payload = None;
        let last = next == Next::Leave;
        let exit = ExitFile {
            boot_id: self.state.boot_id.clone(),
            counts,
            last,
            record,
        };
        let _ = files::write_durably(&self.files.exit(), &exit);
        match next {
            Next::Start { after } => self.wait_from(Instant::now(), after, end),
            Next::Leave => {
                self.doing = Doing::Leaving;
                self.state.stage = Stage::Leaving;
            }
        }
        self.publish();
    }

    fn wait_from(&mut self, ended: Instant, delay: Duration, end: RunEnd) {
        let at = ended + delay;
        let left = at.saturating_duration_since(Instant::now());
        let until = Timestamp::now().saturating_add(left).unwrap_or(Timestamp::MAX);
        self.doing = Doing::Waiting { ended, at, end };
        self.state.stage = Stage::Backoff { until };
    }

    /// No run follows the one that ended earlier, after all.
    fn leave_from_backoff(&mut self) {
        if let Ok(Some(mut exit)) = files::read::<ExitFile>(&self.files.exit()) {
            exit.last = true;
            let _ = files::write_durably(&self.files.exit(), &exit);
        }
        self.doing = Doing::Leaving;
        self.state.stage = Stage::Leaving;
        self.publish();
    }

    /// Reaps orphans that fell to the shim, which is a subreaper for the sake of external runtimes. The payload itself
    /// is waited for by its pidfd.
    fn reap_strangers(&self) {
        let payload = self.state.payload.map(|process| process.pid.cast_signed());
        let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        while let Some(pid) = waitid(Id::All, ended | WaitPidFlag::WNOWAIT)
            .ok()
            .and_then(|status| status.pid())
        {
            if Some(pid.as_raw()) == payload {
                // Its end is taken next; strangers behind it are found then.
                return;
            }
            let _ = waitid(Id::Pid(pid), ended);
        }
    }

    /// Kills what is left in the payload's cgroup: after its first process has ended, only what shares the pid
    /// namespace of another. What cannot be killed now is left to the removal.
    fn kill_leftovers(&self) {
        if self.payload_group.pids().is_ok_and(|pids| !pids.is_empty()) {
            let _ = self.payload_group.kill_all();
        }
    }

    /// Writes where it stands, and tells the agent to look.
    fn publish(&mut self) {
        self.state.lost_lines = self.log.dropped();
        let _ = files::write(&self.files.shim_state(), &self.state);
        notify(&self.agent_socket, self.state.id.as_str());
    }
}

fn not_running() -> Answer {
    Answer::Refused("it is not running".to_owned())
}

fn number(name: &str) -> Result<i32, Answer> {
    signal::number(name).ok_or_else(|| Answer::Refused(format!("there is no signal {name:?}")))
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
