//! The runs of a payload: beginning, end, what follows.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use model::observed::ExitRecord;
use model::restart::{self, Next, Ran, RunEnd, after_run};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use super::super::files::{self, ExitFile, RunRecord, Stage};
use super::super::run::{Ended, Run};
use super::{Doing, Shim};
use crate::cgroup::limits;
use crate::launch::LaunchError;

impl Shim {
    pub(super) fn begin_run(&mut self) {
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
        let counted_in = self.payload_group.counted_in();
        match self.launch() {
            Ok(run) => {
                // An external runtime made the group anew, and its count began at nothing: by now the payload may
                // have been killed already.
                if self.payload_group.counted_in() != counted_in {
                    self.oom_before = 0;
                }
                self.state.payload = Some(run.process);
                self.state.started_at = Some(run.started_at);
                self.state.stage = Stage::Running;
                self.doing = Doing::Running(run);
                self.publish();
            }
            Err(e) => self.launch_failed(started_at, &e),
        }
    }

    /// Limits first, so that nothing of the payload runs without. An external runtime makes the group anew, and is
    /// told of no limits: there they are written again, which changes nothing elsewhere. One that failed to start the
    /// payload has taken the group away with it.
    fn launch(&self) -> Result<Run, LaunchError> {
        let limit = || {
            limits::apply(&self.payload_group, &self.policy.limits)
                .map_err(|e| LaunchError::Setup(e.to_string()))
        };
        if !self.payload_group.dirs().iter().all(|dir| dir.is_dir()) {
            let made = self.payload_group.create();
            made.map_err(|e| LaunchError::Setup(e.to_string()))?;
        }
        limit()?;
        let run = Run::begin(self.launcher, &self.files.run)?;
        match limit() {
            Ok(()) => Ok(run),
            Err(e) => {
                run.give_up();
                Err(e)
            }
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
        self.decide(record, RunEnd::LaunchFailed, Ran::default());
    }

    pub(super) fn run_ended(&mut self, ended: Ended) {
        // Nothing may write after the drain.
        self.kill_leftovers();
        let Doing::Running(mut run) = std::mem::replace(&mut self.doing, Doing::Nothing) else {
            return;
        };
        run.drain(&mut self.log);
        self.state.payload = None;
        self.thaw();
        self.reap_others();
        self.sessions.end_all(&self.state);
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
        let ran = Ran {
            lasted: ended.ran,
            healthy: self.policy.checked.then(|| run.healthy_for()),
        };
        self.decide(record, ended.end, ran);
    }

    /// Writes the exit record, then does what the restart table says.
    fn decide(&mut self, record: ExitRecord, end: RunEnd, ran: Ran) {
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
    pub(super) fn leave_from_backoff(&mut self) {
        if let Ok(Some(mut exit)) = files::read::<ExitFile>(&self.files.exit()) {
            exit.last = true;
            let _ = files::write_durably(&self.files.exit(), &exit);
        }
        self.doing = Doing::Leaving;
        self.state.stage = Stage::Leaving;
        self.publish();
    }

    /// Reaps children that have ended: of the sessions, and orphans that fell to the shim, which is a subreaper for the
    /// sake of external runtimes. The payload itself is waited for by its pidfd.
    pub(super) fn reap_others(&mut self) {
        let payload = self.state.payload.map(|process| process.pid.cast_signed());
        let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        while let Ok(status) = waitid(Id::All, ended | WaitPidFlag::WNOWAIT)
            && let Some(pid) = status.pid()
        {
            if Some(pid.as_raw()) == payload {
                // Its end is taken next; others behind it are found then.
                return;
            }
            let _ = waitid(Id::Pid(pid), ended);
            self.sessions.reaped(pid.as_raw(), exit_code(status), &self.state);
        }
    }

    /// Kills what is left in the payload's cgroup: after its first process has ended, only what shares the pid
    /// namespace of another. What cannot be killed now is left to the removal.
    pub(super) fn kill_leftovers(&self) {
        if self.payload_group.pids().is_ok_and(|pids| !pids.is_empty()) {
            let _ = self.payload_group.kill_all();
        }
    }

    /// Decides anew what follows a run that ended earlier, under a policy that changed since.
    pub(super) fn wait_anew(&mut self, ended: Instant, end: RunEnd) {
        if restart::again(self.policy.restart.policy, end) {
            let streak = self.state.counts.streak.saturating_sub(1);
            let delay = restart::delay(&self.policy.restart, streak);
            self.wait_from(ended, delay, end);
        } else {
            self.leave_from_backoff();
        }
    }
}

fn exit_code(status: WaitStatus) -> i32 {
    match status {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        _ => 255,
    }
}
