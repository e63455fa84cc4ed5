//! One run of the payload: its process, its output, its end.

use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use model::restart::RunEnd;
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::files::{self, Process};
use super::supervise::Launcher;
use super::sys;
use crate::launch::{Launch, LaunchError};
use crate::log::Log;
use crate::log::line::Stream;

/// Bytes read at once; a quarter of what a pipe holds.
const READ: usize = 16 << 10;

/// A payload that was started and whose end was not yet taken.
#[derive(Debug)]
pub struct Run {
    pub process: Process,
    pub started_at: Timestamp,
    began: Instant,
    pidfd: OwnedFd,
    pipes: [Option<PipeReader>; 2],
    ending: Option<Ending>,
    health: Health,
}

/// What is remembered of a run's health.
#[derive(Clone, Copy, Debug, Default)]
struct Health {
    since: Option<Instant>,
    /// Of the times it was healthy and was so no more.
    longest: Duration,
}

/// An end that was asked for.
#[derive(Clone, Copy, Debug)]
struct Ending {
    end: RunEnd,
    /// When patience ends; none: it has ended.
    kill_at: Option<Instant>,
}

/// How a payload's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub code: i32,
    pub signal: Option<i32>,
    /// What asked for it, or [`RunEnd::Exited`].
    pub end: RunEnd,
    pub ran: Duration,
}

impl Run {
    /// Starts the payload with /dev/null and two fresh pipes.
    pub fn begin(launcher: Launcher, bundle: &Path) -> Result<Self, LaunchError> {
        let plumbing =
            |e: io::Error| LaunchError::Setup(format!("cannot make the pipes for its output: {e}"));
        let null = File::open("/dev/null").map_err(plumbing)?;
        let (out, out_end) = io::pipe().map_err(plumbing)?;
        let (err, err_end) = io::pipe().map_err(plumbing)?;
        for pipe in [&out, &err] {
            rustix::io::ioctl_fionbio(pipe, true).map_err(|e| plumbing(e.into()))?;
        }
        let stdio = [null.as_fd(), out_end.as_fd(), err_end.as_fd()];
        let launched = launcher(&Launch { bundle, stdio })?;
        let pid = launched.pid.cast_unsigned();
        Ok(Self {
            // One that has ended already is a zombie until it is waited for, and needs no telling apart.
            process: files::process(pid).unwrap_or(Process { pid, start: 0 }),
            started_at: Timestamp::now(),
            began: Instant::now(),
            pidfd: launched.pidfd,
            pipes: [Some(out), Some(err)],
            ending: None,
            health: Health::default(),
        })
    }

    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The pipes that are still open.
    pub fn pipes(&self) -> impl Iterator<Item = (Stream, BorrowedFd<'_>)> {
        let named = [Stream::Stdout, Stream::Stderr].into_iter().zip(&self.pipes);
        named.filter_map(|(stream, pipe)| pipe.as_ref().map(|pipe| (stream, pipe.as_fd())))
    }

    /// Reads once from a pipe that has something. False when there was nothing (more).
    pub fn read(&mut self, stream: Stream, log: &mut Log) -> bool {
        let slot = &mut self.pipes[stream as usize];
        let Some(pipe) = slot else {
            return false;
        };
        let mut bytes = [0; READ];
        match pipe.read(&mut bytes) {
            Ok(0) => {
                *slot = None;
                false
            }
            Ok(len) => {
                log.feed(stream, &bytes[..len], Timestamp::now());
                true
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => true,
            Err(_) => false,
        }
    }

    /// Reads what is left after the end.
    pub fn drain(&mut self, log: &mut Log) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            while self.read(stream, log) {}
        }
        log.finish(Timestamp::now());
    }

    /// Sends a signal; one that comes too late is no error.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        match sys::send_signal(self.pidfd(), signal) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other,
        }
    }

    /// Asks it to end, and remembers why and how long it may take. A stop outranks a restart, the shorter patience
    /// the longer.
    pub fn end(&mut self, end: RunEnd, signal: i32, grace: Duration) -> io::Result<()> {
        let kill_at = Some(Instant::now() + grace);
        self.ending = Some(match self.ending {
            Some(Ending {
                kill_at: None,
                end: old,
            }) => Ending {
                end: stronger(old, end),
                kill_at: None,
            },
            Some(old) => Ending {
                end: stronger(old.end, end),
                kill_at: old.kill_at.min(kill_at),
            },
            None => Ending { end, kill_at },
        });
        self.signal(signal)
    }

    /// When patience ends.
    pub fn kill_at(&self) -> Option<Instant> {
        self.ending.and_then(|ending| ending.kill_at)
    }

    /// Notes that patience has ended.
    pub fn killed(&mut self) {
        if let Some(ending) = &mut self.ending {
            ending.kill_at = None;
        }
    }

    /// Ends it at once, and waits for that.
    pub fn give_up(self) {
        // Both can only fail where it has ended and was waited for.
        let _ = self.signal(libc::SIGKILL);
        let _ = waitid(WaitId::PidFd(self.pidfd()), WaitIdOptions::EXITED);
    }

    /// Notes what its check says from now on; said again, it is no news.
    pub fn set_healthy(&mut self, healthy: bool) {
        let now = Instant::now();
        if healthy {
            self.health.since.get_or_insert(now);
        } else if let Some(since) = self.health.since.take() {
            self.health.longest = self.health.longest.max(now - since);
        }
    }

    /// The longest time without a break.
    pub fn healthy_for(&self) -> Duration {
        let now = self.health.since.map(|since| since.elapsed());
        self.health.longest.max(now.unwrap_or_default())
    }

    /// Takes the process's end, if it has ended.
    pub fn reap(&self) -> Option<Ended> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = waitid(WaitId::PidFd(self.pidfd()), options).ok().flatten()?;
        let signal = status.terminating_signal();
        let code = status.exit_status().or(signal.map(|s| 128 + s)).unwrap_or(255);
        Some(Ended {
            code,
            signal,
            end: self.ending.map_or(RunEnd::Exited { code }, |ending| ending.end),
            ran: self.began.elapsed(),
        })
    }
}

fn stronger(old: RunEnd, new: RunEnd) -> RunEnd {
    if old == RunEnd::Stopped { old } else { new }
}
