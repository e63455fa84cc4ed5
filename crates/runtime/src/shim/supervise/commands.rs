//! What a shim is asked, and what it does then.

use std::os::fd::OwnedFd;
use std::time::Duration;

use model::action::ShimPolicy;
use model::restart::RunEnd;
use model::spec::Limits;

use super::super::clients::Awaits;
use super::super::protocol::{Answer, Command, DESCRIPTORS, Request, RestartCause};
use super::super::sessions::Order;
use super::super::{freezer, signal};
use super::{Doing, Shim};
use crate::cgroup::limits;

impl Shim {
    /// Takes a request of a connection: answers it, or has it wait, or gives the connection to a session.
    pub(super) fn serve(&mut self, index: usize, request: Request, descriptors: Vec<OwnedFd>) {
        if let Command::Exec { deadline_ms, sweep } = request.command {
            let deadline = deadline_ms.map(Duration::from_millis);
            if let Err(answer) = self.exec(index, &request, descriptors, deadline, sweep) {
                self.clients.answer(index, answer, &self.state);
            }
            return;
        }
        if request.command == Command::Freeze {
            if let Err(answer) = self.freeze(index, &request) {
                self.clients.answer(index, answer, &self.state);
            }
            return;
        }
        match self.handle(request) {
            Ok(Some(awaits)) => self.clients.hold(index, awaits),
            Ok(None) => self.clients.answer(index, Answer::Done, &self.state),
            Err(answer) => self.clients.answer(index, answer, &self.state),
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
            Command::Health { healthy } => {
                if let Doing::Running(run) = &mut self.doing {
                    run.set_healthy(healthy);
                }
                Ok(None)
            }
            Command::Pause => self.pause().map(|()| None),
            Command::Unpause => self.unpause().map(|()| None),
            Command::Exec { .. } | Command::Freeze => {
                Err(Answer::Refused("it comes with a connection".to_owned()))
            }
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
        if policy.limits != self.policy.limits {
            self.limit(&policy.limits)?;
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

    /// Puts the payload under other limits; the old ones stay where that cannot be.
    fn limit(&self, wanted: &Limits) -> Result<(), Answer> {
        limits::apply(&self.payload_group, wanted).map_err(|e| {
            // Some of them may have been written; the old ones were possible before.
            let _ = limits::apply(&self.payload_group, &self.policy.limits);
            Answer::Refused(e.to_string())
        })
    }

    pub(super) fn shutdown(&mut self) {
        let signal = signal::number(&self.policy.stop_signal).unwrap_or(libc::SIGTERM);
        self.stop(signal, self.policy.stop_grace_period);
    }

    fn stop(&mut self, signal: i32, grace: Duration) {
        self.thaw();
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
        self.thaw();
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

    fn kill(&mut self, signal: i32) -> Result<(), Answer> {
        if signal == libc::SIGKILL {
            // Frozen on v1 it would not even die.
            self.thaw();
        }
        match &self.doing {
            Doing::Running(run) => run
                .signal(signal)
                .map_err(|e| Answer::Refused(format!("cannot send the signal: {e}"))),
            _ => Err(not_running()),
        }
    }

    fn pause(&mut self) -> Result<(), Answer> {
        if !matches!(self.doing, Doing::Running(_)) {
            return Err(not_running());
        }
        self.freezes.by_hand = true;
        self.stop_running()
    }

    fn stop_running(&mut self) -> Result<(), Answer> {
        if self.state.paused {
            return Ok(());
        }
        if let Err(e) = freezer::freeze(&self.payload_group) {
            self.freezes.forget();
            return Err(Answer::Refused(format!("it cannot be paused: {e}")));
        }
        self.state.paused = true;
        self.publish();
        Ok(())
    }

    /// Keeps it from running until a connection is closed.
    fn freeze(&mut self, index: usize, request: &Request) -> Result<(), Answer> {
        self.refuse_stale(request)?;
        if !matches!(self.doing, Doing::Running(_)) {
            return Err(not_running());
        }
        self.stop_running()?;
        let refused = |e: std::io::Error| Answer::Refused(format!("cannot keep the connection: {e}"));
        let kept = self.clients.take(index).map_err(refused);
        let kept = kept.and_then(|client| self.freezes.add(client, &self.state).map_err(refused));
        // Where nobody is told that it is so, it is not so.
        if kept.is_err() && self.freezes.are_none() {
            self.let_go();
        }
        kept
    }

    /// Nobody keeps it from running any more.
    pub(super) fn let_go(&mut self) {
        let mut stands = false;
        if self.state.paused {
            // Where that fails it is paused, which everybody sees, and `unpause` says why.
            stands = freezer::thaw(&self.payload_group).is_err();
            self.state.paused = stands;
            self.publish();
        }
        self.freezes.forget();
        self.freezes.by_hand = stands;
    }

    fn unpause(&mut self) -> Result<(), Answer> {
        if !matches!(self.doing, Doing::Running(_)) {
            return Err(not_running());
        }
        if self.state.paused {
            freezer::thaw(&self.payload_group)
                .map_err(|e| Answer::Refused(format!("it cannot be made to go on: {e}")))?;
            self.state.paused = false;
            self.publish();
            self.freezes.forget();
        }
        Ok(())
    }

    /// Lets a paused payload go on, for it is to end.
    pub(super) fn thaw(&mut self) {
        if self.state.paused {
            // Where that fails, the end of patience is met with a kill of the whole group, which tries again.
            let _ = freezer::thaw(&self.payload_group);
            self.state.paused = false;
            self.publish();
            self.freezes.forget();
        }
    }

    fn exec(
        &mut self,
        index: usize,
        request: &Request,
        descriptors: Vec<OwnedFd>,
        deadline: Option<Duration>,
        sweep: bool,
    ) -> Result<(), Answer> {
        self.refuse_stale(request)?;
        let refused = |text: String| Answer::Refused(text);
        let Doing::Running(run) = &self.doing else {
            return Err(not_running());
        };
        if self.state.paused {
            return Err(refused("it is paused: unpause it first".to_owned()));
        }
        let descriptors = <[OwnedFd; DESCRIPTORS]>::try_from(descriptors)
            .map_err(|_| refused(format!("a process wants {DESCRIPTORS} descriptors")))?;
        let client = self
            .clients
            .take(index)
            .map_err(|e| refused(format!("cannot keep the connection: {e}")))?;
        self.sessions
            .begin(Order {
                client,
                descriptors,
                deadline,
                sweep,
                bundle: &self.files.run,
                payload: run.pidfd(),
                group: &self.payload_group,
            })
            .map_err(refused)
    }
}

fn not_running() -> Answer {
    Answer::Refused("it is not running".to_owned())
}

fn number(name: &str) -> Result<i32, Answer> {
    signal::number(name).ok_or_else(|| Answer::Refused(format!("there is no signal {name:?}")))
}
