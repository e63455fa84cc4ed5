//! The processes a shim runs beside the payload: each belongs to a connection of the agent's, and ends with it.
//!
//! | a session is | its creator reports | its process ends | its connection ends, or time is up |
//! | --- | --- | --- | --- |
//! | starting | started, or why not | noted | killed |
//! | running | | told, taken away | killed |
//!
//! Nothing here waits: reports are read as they come, ends are taken by the shim's one look for ended children, and
//! what does not die at once is looked at again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::{Pid, Signal, kill_process};

use super::files::ShimState;
use super::protocol::{self, Answer, ExecReport, Reply, VERSION};
use crate::cgroup::CgroupSet;
use crate::exec::ExecEnd;
use crate::exec::enter::{self, Entry};
use crate::exec::group::ExecGroup;
use crate::launch::Report;

/// No shim runs more at once.
const MOST: usize = 256;

/// How long a group that is not empty yet is left alone before the next look.
const AGAIN: Duration = Duration::from_millis(10);

/// A creator has at most so much to say, in bytes.
const TALK: usize = 64 << 10;

/// All of them.
#[derive(Debug, Default)]
pub struct Sessions {
    open: Vec<Session>,
    /// Groups of ended ones that still hold somebody.
    emptying: Vec<Emptying>,
    begun: u64,
    again: Option<Instant>,
}

#[derive(Debug)]
struct Emptying {
    group: ExecGroup,
    kill: bool,
}

#[derive(Debug)]
struct Session {
    key: u64,
    client: OwnedFd,
    /// The other end may still say something, if only that it is gone.
    listens: bool,
    group: ExecGroup,
    deadline: Option<Instant>,
    sweep: bool,
    /// Not reaped yet.
    creator: Option<i32>,
    /// Open until execve, or until nobody is left who could report.
    report: Option<OwnedFd>,
    said: Said,
    killed: bool,
    timed_out: bool,
    /// Of the process itself.
    code: Option<i32>,
}

/// What was reported so far.
#[derive(Debug, Default)]
struct Said {
    rest: Vec<u8>,
    total: usize,
    pid: Option<i32>,
    ready: bool,
    failure: Option<(i32, String)>,
}

/// What the agent sent, and what is needed to carry it out.
#[derive(Debug)]
pub struct Order<'a> {
    pub client: OwnedFd,
    /// The specification, then 0, 1 and 2.
    pub descriptors: [OwnedFd; protocol::DESCRIPTORS],
    pub deadline: Option<Duration>,
    pub sweep: bool,
    pub bundle: &'a Path,
    pub payload: BorrowedFd<'a>,
    pub group: &'a CgroupSet,
}

impl Sessions {
    /// Sets one going.
    pub fn begin(&mut self, order: Order<'_>) -> Result<(), String> {
        if self.open.len() >= MOST {
            return Err(format!(
                "{MOST} processes are being run in it already: end some first"
            ));
        }
        self.begun += 1;
        let group = ExecGroup::make(order.group, self.begun)
            .map_err(|e| format!("cannot make a control group for the process: {e}"))?;
        let [spec, stdin, stdout, stderr] = &order.descriptors;
        let begun = enter::begin(&Entry {
            bundle: order.bundle,
            payload: order.payload,
            groups: &group.to_enter(order.group),
            spec: spec.as_fd(),
            stdio: [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        });
        let (creator, report) = match begun {
            Ok(begun) => begun,
            Err(e) => {
                group.remove();
                return Err(format!("cannot fork: {e}"));
            }
        };
        self.open.push(Session {
            key: self.begun,
            client: order.client,
            listens: true,
            group,
            deadline: order.deadline.map(|after| Instant::now() + after),
            sweep: order.sweep,
            creator: Some(creator),
            report: Some(report),
            said: Said::default(),
            killed: false,
            timed_out: false,
            code: None,
        });
        Ok(())
    }

    /// What creators and their processes report through.
    pub fn reports(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        let report = |s: &'_ Session| s.report.is_some();
        let open = self.open.iter().filter(move |s| report(s));
        open.filter_map(|s| s.report.as_ref().map(|fd| (s.key, fd.as_fd())))
    }

    /// The agent's connections.
    pub fn connections(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        let open = self.open.iter().filter(|s| s.listens);
        open.map(|s| (s.key, s.client.as_fd()))
    }

    /// Reads what was reported.
    pub fn read_report(&mut self, key: u64, state: &ShimState) {
        if let Some(session) = self.open.iter_mut().find(|s| s.key == key) {
            session.read_report(state);
        }
    }

    /// Something came on a connection: its end, that is, as the agent has nothing to say there.
    pub fn hear(&mut self, key: u64) {
        if let Some(session) = self.open.iter_mut().find(|s| s.key == key) {
            let mut byte = [0; 1];
            match rustix::net::recv(&session.client, &mut byte[..], RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN | Errno::INTR) | Ok((_, 1..)) => {}
                Ok((_, 0)) | Err(_) => {
                    session.listens = false;
                    session.kill();
                }
            }
        }
    }

    /// Notes the end of a child that was just reaped.
    pub fn reaped(&mut self, pid: i32, code: i32, state: &ShimState) {
        for session in &mut self.open {
            // The pid was written before the process could end.
            session.read_report(state);
            if session.creator == Some(pid) {
                session.creator = None;
                return;
            }
            if session.said.pid == Some(pid) && session.code.is_none() {
                session.code = Some(code);
                return;
            }
        }
    }

    /// When there is something to do though nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        let due = self.open.iter().filter(|s| !s.killed).filter_map(|s| s.deadline);
        due.chain(self.again).min()
    }

    /// Kills those whose time is up, tells of those that have ended, and takes away what they leave. Of a paused
    /// container nothing dies before it goes on.
    pub fn settle(&mut self, paused: bool, state: &ShimState) {
        let now = Instant::now();
        for session in &mut self.open {
            if !session.killed && session.deadline.is_some_and(|at| at <= now) {
                session.timed_out = true;
                session.kill();
            }
        }
        while let Some(at) = self.open.iter().position(Session::is_over) {
            let over = self.open.swap_remove(at);
            self.emptying.push(over.finish(state));
        }
        if self.again.is_none_or(|at| at <= now) {
            for session in self.open.iter().filter(|s| s.killed) {
                session.group.kill();
            }
        }
        self.emptying.retain(|left| !left.group.remove() && !left.empty());
        let busy = !self.emptying.is_empty() || self.open.iter().any(|s| s.killed);
        self.again = (busy && !paused).then(|| now + AGAIN);
    }

    /// The run has ended and all its processes were killed and reaped: nothing is left to wait for.
    pub fn end_all(&mut self, state: &ShimState) {
        for session in &mut self.open {
            session.kill();
            session.read_report(state);
            session.report = None;
            session.code.get_or_insert(128 + libc::SIGKILL);
        }
        self.settle(false, state);
    }
}

impl Emptying {
    /// Sees to it that it becomes empty. True if that is so now and it is gone.
    fn empty(&self) -> bool {
        if self.kill {
            self.group.kill();
        } else {
            self.group.release();
        }
        self.group.remove()
    }
}

impl Session {
    fn read_report(&mut self, state: &ShimState) {
        let mut bytes = [0; 1024];
        while let Some(report) = &self.report {
            match rustix::io::read(report, &mut bytes) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Ok(len @ 1..) if self.said.total + len <= TALK => self.said.hear(&bytes[..len]),
                Ok(_) | Err(_) => {
                    self.report = None;
                    if let Some(pid) = self.said.started() {
                        self.tell(ExecReport::Started { pid }, state);
                    }
                }
            }
        }
    }

    fn kill(&mut self) {
        self.killed = true;
        self.group.kill();
        // It may not have entered the group yet. Our child, and not reaped: the pid is its own.
        if let Some(creator) = self.creator.and_then(Pid::from_raw) {
            let _ = kill_process(creator, Signal::KILL);
        }
    }

    fn is_over(&self) -> bool {
        self.report.is_none() && (self.code.is_some() || self.said.started().is_none())
    }

    fn finish(self, state: &ShimState) -> Emptying {
        let kill = self.killed || self.sweep;
        let left = Emptying {
            kill,
            group: self.group,
        };
        // Before its end is told: who is told finds it gone.
        if !left.group.remove() {
            left.empty();
        }
        let (code, error) = match (self.said.started(), self.code, self.said.failure) {
            (Some(_), Some(code), _) => (code, None),
            (_, _, Some((code, text))) => (code, Some(text)),
            _ if self.killed => (128 + libc::SIGKILL, None),
            _ => (125, Some("it was killed while it was being started".to_owned())),
        };
        let end = ExecEnd {
            code,
            error,
            timed_out: self.timed_out,
        };
        tell(&self.client, ExecReport::Ended(end), state);
        left
    }

    fn tell(&self, report: ExecReport, state: &ShimState) {
        tell(&self.client, report, state);
    }
}

fn tell(client: &OwnedFd, report: ExecReport, state: &ShimState) {
    let reply = Reply {
        v: VERSION,
        answer: Answer::Done,
        state: state.clone(),
        exec: Some(report),
    };
    // One who is gone is told nothing.
    let _: io::Result<()> = protocol::send_frame(client, &reply);
}

impl Said {
    fn hear(&mut self, bytes: &[u8]) {
        self.total += bytes.len();
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(Report::Pid { pid }) => self.pid = Some(pid),
                Ok(Report::Ready) => self.ready = true,
                Ok(Report::Failure { code, text }) => self.failure = Some((code, text)),
                Err(_) => {}
            }
        }
    }

    /// Its pid, once execve has succeeded; to be asked when the pipe has ended.
    fn started(&self) -> Option<u32> {
        let pid = self.pid.filter(|_| self.ready && self.failure.is_none())?;
        Some(pid.cast_unsigned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_pid_and_a_word_and_no_failure() {
        let said = |lines: &str| {
            let mut said = Said::default();
            // As a pipe may give it: in pieces.
            lines.as_bytes().chunks(3).for_each(|piece| said.hear(piece));
            said
        };
        let pid = "{\"pid\":{\"pid\":7}}\n";
        let ready = "\"ready\"\n";
        let failure = "{\"failure\":{\"code\":127,\"text\":\"no\"}}\n";
        assert_eq!(said(&format!("{pid}{ready}")).started(), Some(7));
        assert_eq!(said(pid).started(), None);
        assert_eq!(said(&format!("{pid}{ready}{failure}")).started(), None);
        assert_eq!(said(&format!("{ready}nonsense\n{pid}")).started(), Some(7));
        assert_eq!(said(failure).failure, Some((127, "no".to_owned())));
    }
}
