//! `GET /containers/NAME/logs`: a container's output in Docker's framing.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path as FsPath, PathBuf};

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use runtime::log::read::{LogLine, LogReader};
use serde::Deserialize;
use tokio::sync::mpsc::{Sender, channel};
use tracing::warn;

use super::containers::{accepted, find};
use super::problem::Problem;
use super::wharf::seen;
use crate::engine::{Handle, Snapshot};

/// Docker's query: flags are `1`, `true` or absent; `tail` is a number or `all`; `since` and `until` are seconds.
#[derive(Debug, Deserialize)]
pub struct LogsQuery {
    #[serde(default)]
    stdout: String,
    #[serde(default)]
    stderr: String,
    #[serde(default)]
    follow: String,
    #[serde(default)]
    timestamps: String,
    #[serde(default)]
    tail: String,
    #[serde(default)]
    since: String,
    #[serde(default)]
    until: String,
}

/// What is sent, decided.
#[derive(Debug)]
struct Wanted {
    stdout: bool,
    stderr: bool,
    follow: bool,
    timestamps: bool,
    tail: Option<usize>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

/// Streams the log; with `follow` until the client goes away or the container is removed.
pub async fn logs(
    State(handle): State<Handle>,
    Path(name): Path<String>,
    Query(query): Query<LogsQuery>,
) -> Result<Response, Problem> {
    let wanted = decide(&query)?;
    let made = |snapshot: &Snapshot| {
        let c = find(snapshot, &name)?;
        let none = || Problem::conflict(format!("container {} was not created yet and has no log", c.name));
        accepted(snapshot, c).map(|a| a.id.clone()).ok_or_else(none)
    };
    let id = seen(&handle, made).await?;
    let dir = handle.places.roots().container_state(&id).join("log");
    let (sender, receiver) = channel::<Vec<u8>>(16);
    tokio::task::spawn_blocking(move || {
        if let Err(e) = send_all(&dir, &wanted, &sender) {
            warn!(dir = %dir.display(), "a log cannot be read on: {e}");
        }
    });
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let body = Body::from_stream(tokio_stream::StreamExt::map(stream, Ok::<_, Infallible>));
    Ok((
        [(header::CONTENT_TYPE, "application/vnd.docker.multiplexed-stream")],
        body,
    )
        .into_response())
}

fn decide(query: &LogsQuery) -> Result<Wanted, Problem> {
    let on = |text: &str| matches!(text, "1" | "true" | "True");
    let time = |text: &str| match text {
        "" | "0" => Ok(None),
        text => seconds(text)
            .map(Some)
            .ok_or_else(|| Problem::bad_request(format!("{text:?} is no time in seconds"))),
    };
    let tail = match query.tail.as_str() {
        "" | "all" => None,
        n => Some(
            n.parse()
                .map_err(|_| Problem::bad_request(format!("tail is a number or \"all\", not {n:?}")))?,
        ),
    };
    let wanted = Wanted {
        stdout: on(&query.stdout),
        stderr: on(&query.stderr),
        follow: on(&query.follow),
        timestamps: on(&query.timestamps),
        tail,
        since: time(&query.since)?,
        until: time(&query.until)?,
    };
    if !wanted.stdout && !wanted.stderr {
        return Err(Problem::bad_request("ask for stdout, stderr or both"));
    }
    Ok(wanted)
}

/// Seconds since 1970 with an optional fraction, or RFC 3339.
pub(super) fn seconds(text: &str) -> Option<Timestamp> {
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let nanos: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Timestamp::new(whole.parse().ok()?, nanos.parse().ok()?).ok()
}

impl Wanted {
    fn takes(&self, line: &LogLine) -> bool {
        let stream = if line.stream == "stderr" {
            self.stderr
        } else {
            self.stdout
        };
        stream && self.since.is_none_or(|t| line.time >= t) && self.until.is_none_or(|t| line.time < t)
    }
}

/// Runs on a thread of its own; ends when the client has gone away.
fn send_all(dir: &FsPath, wanted: &Wanted, sender: &Sender<Vec<u8>>) -> io::Result<()> {
    let watch = if wanted.follow { Some(watch(dir)?) } else { None };
    let mut reader = LogReader::open(dir)?;
    if !send_kept(&mut reader, wanted, sender)? {
        return Ok(());
    }
    let Some(watch) = watch else { return Ok(()) };
    while dir.exists() && !sender.is_closed() {
        while let Some(line) = reader.next_line()? {
            if wanted.takes(&line) && sender.blocking_send(frame(&line, wanted.timestamps)).is_err() {
                return Ok(());
            }
        }
        wait_for_growth(&watch)?;
    }
    Ok(())
}

/// What there is already, or its last lines; false when the client has gone away.
fn send_kept(reader: &mut LogReader, wanted: &Wanted, sender: &Sender<Vec<u8>>) -> io::Result<bool> {
    let mut last: VecDeque<LogLine> = VecDeque::new();
    while let Some(line) = reader.next_line()? {
        if !wanted.takes(&line) {
            continue;
        }
        match wanted.tail {
            None if sender.blocking_send(frame(&line, wanted.timestamps)).is_err() => return Ok(false),
            None => {}
            Some(0) => {}
            Some(n) => {
                if last.len() == n {
                    last.pop_front();
                }
                last.push_back(line);
            }
        }
    }
    Ok(last
        .iter()
        .all(|line| sender.blocking_send(frame(line, wanted.timestamps)).is_ok()))
}

fn watch(dir: &FsPath) -> io::Result<Inotify> {
    let dir: PathBuf = dir.to_owned();
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let what = AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_DELETE_SELF;
    inotify.add_watch(&dir, what)?;
    Ok(inotify)
}

/// Until something is written, or for a second: a client that has gone away is noticed then.
fn wait_for_growth(inotify: &Inotify) -> io::Result<()> {
    let mut fds = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::from(1000u16)) {
        Ok(0) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Ok(_) => match inotify.read_events() {
            Ok(_) | Err(nix::errno::Errno::EAGAIN) => Ok(()),
            Err(e) => Err(e.into()),
        },
        Err(e) => Err(e.into()),
    }
}

/// One frame of Docker's multiplexed stream.
fn frame(line: &LogLine, timestamps: bool) -> Vec<u8> {
    let text = if timestamps {
        format!("{} {}", line.time, line.log)
    } else {
        line.log.clone()
    };
    let stream = if line.stream == "stderr" { 2 } else { 1 };
    let mut bytes = vec![stream, 0, 0, 0];
    // A line has at most 16 KiB.
    bytes.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_as_seconds_or_rfc3339() {
        let half = Timestamp::new(1_700_000_000, 500_000_000).unwrap();
        assert_eq!(seconds("1700000000.5"), Some(half));
        assert_eq!(seconds("2023-11-14T22:13:20.5Z"), Some(half));
        assert_eq!(seconds("yesterday"), None);
    }
}
