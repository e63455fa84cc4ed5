//! What is said over a shim's socket: one JSON frame asked, one answered, on a SOCK_SEQPACKET unix socket (unix(7)).
//!
//! A frame carries the protocol's version. Fields are only ever added, and unknown ones ignored, so that a newer agent
//! can talk to an older shim: a command the shim does not know is answered with [`Answer::Refused`].

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use model::action::ShimPolicy;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, recv,
    recvmsg, send, sendmsg, sendto, socket_with,
};
use serde::{Deserialize, Serialize};

use super::files::ShimState;

/// The version this code speaks.
pub const VERSION: u32 = 1;

/// No frame is longer, in bytes.
pub const FRAME: usize = 8 << 10;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub v: u32,
    /// A command about another run than this one does nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_no: Option<u64>,
    /// A command decided under another revision than this one does nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rev: Option<u64>,
    pub command: Command,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    Status,
    /// Begin the first run; nothing to do where there was one.
    Run,
    /// Work by this from now on.
    Update {
        policy: Box<ShimPolicy>,
    },
    /// End the payload for good. Answered when it has ended and its record is written.
    Stop {
        signal: String,
        grace_ms: u64,
    },
    /// End the payload and begin another run. Answered when that was begun.
    Restart {
        signal: String,
        grace_ms: u64,
        why: RestartCause,
    },
    /// Send a signal; what follows is the policy's affair.
    Kill {
        signal: String,
    },
    /// As a stop by the policy's own signal and grace period.
    Shutdown,
    /// What the container's check says now of the run.
    Health {
        healthy: bool,
    },
    /// Keep every process of the payload from running, until the other.
    Pause,
    Unpause,
    /// The same for as long as this connection is open: whoever asked for it may die.
    Freeze,
    /// Run another process in the container. With the frame go four descriptors (SCM_RIGHTS): a file with the
    /// [`crate::exec::ExecSpec`] as JSON, then what becomes descriptors 0, 1 and 2. The connection stays: it is told
    /// of the start and the end ([`Reply::exec`]), and when its other end is closed or shut down for writing, all that
    /// came of the process is killed.
    Exec {
        /// When that happens by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline_ms: Option<u64>,
        /// Processes it leaves behind when it ends are killed, too; else they go on as the payload's own.
        #[serde(default)]
        sweep: bool,
    },
}

/// Why a restart is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCause {
    /// At once, and not counted.
    ByHand,
    /// Counted, with backoff, and only if the policy restarts at all.
    Unhealthy,
}

/// One reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    pub v: u32,
    pub answer: Answer,
    pub state: ShimState,
    /// What became of a [`Command::Exec`], in frames of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecReport>,
}

/// What a shim tells of a process it was asked to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExecReport {
    /// Its program runs; the pid is the host's.
    Started { pid: u32 },
    /// It has ended, or was never started and this is why.
    Ended(crate::exec::ExecEnd),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Done,
    /// It was about another run or revision; nothing was done.
    Stale(String),
    /// It cannot be done; nothing was done.
    Refused(String),
}

impl Request {
    /// A command about whatever runs.
    pub fn new(command: Command) -> Self {
        Self {
            v: VERSION,
            run_no: None,
            rev: None,
            command,
        }
    }
}

/// A socket bound there and listening. What was there before is removed: the caller holds the lock.
pub fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    super::files::remove(path)?;
    let socket = seqpacket(SocketFlags::NONBLOCK)?;
    bind(&socket, &address(path)?.1)?;
    listen(&socket, 64)?;
    Ok(socket)
}

/// Asks and waits for the answer, at most so long for each of sending and receiving.
pub fn call(path: &Path, request: &Request, patience: Duration) -> io::Result<Reply> {
    let socket = open(path, request, &[], patience)?;
    receive(&socket)
}

/// Connects and asks, passing these descriptors on; nothing sent or received on the connection takes longer than
/// `patience`.
pub fn open(
    path: &Path,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
    patience: Duration,
) -> io::Result<OwnedFd> {
    let socket = seqpacket(SocketFlags::empty())?;
    set_patience(&socket, Some(patience))?;
    let (_dir, address) = address(path)?;
    connect(&socket, &address)?;
    send_with(&socket, request, descriptors)?;
    Ok(socket)
}

/// How long sending and receiving may take; none: for ever.
pub fn set_patience(socket: impl AsFd, patience: Option<Duration>) -> io::Result<()> {
    // A timeout of zero would mean for ever.
    let patience = patience.map(|patience| patience.max(Duration::from_millis(1)));
    set_socket_timeout(&socket, Timeout::Send, patience)?;
    set_socket_timeout(&socket, Timeout::Recv, patience)?;
    Ok(())
}

/// The next frame of a shim.
pub fn receive(socket: impl AsFd) -> io::Result<Reply> {
    let mut frame = vec![0; FRAME];
    let len = loop {
        match recv(&socket, &mut *frame, RecvFlags::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            result => break result?.1,
        }
    };
    if len == 0 {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    serde_json::from_slice(&frame[..len]).map_err(io::Error::from)
}

/// Most descriptors that go with one frame.
pub const DESCRIPTORS: usize = 4;

fn send_with<T: Serialize>(socket: impl AsFd, value: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if descriptors.is_empty() {
        return send_frame(socket, value);
    }
    let frame = serde_json::to_vec(value)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !rights.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(&frame)], &mut rights, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next frame as bytes, with the descriptors that came along; they are closed by the next execve. No bytes: the
/// other end is closed.
pub fn receive_bytes(socket: impl AsFd, frame: &mut [u8]) -> rustix::io::Result<(&[u8], Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let len = recvmsg(socket, &mut [IoSliceMut::new(frame)], &mut rights, flags)?.bytes;
    let mut descriptors = Vec::new();
    for message in rights.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    let len = len.min(frame.len());
    Ok((&frame[..len], descriptors))
}

/// Sends one frame.
pub fn send_frame<T: Serialize>(socket: impl AsFd, value: &T) -> io::Result<()> {
    let frame = serde_json::to_vec(value)?;
    send(socket, &frame, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Tells the agent, if one listens, that a container's state changed. Never waits.
pub fn notify(socket: &Path, id: &str) {
    let told = || -> io::Result<()> {
        let sender = socket_with(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        let (_dir, address) = address(socket)?;
        let text = format!("{{\"id\":\"{id}\"}}");
        sendto(
            &sender,
            text.as_bytes(),
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            &address,
        )?;
        Ok(())
    };
    // Nobody there, or too busy to listen: the agent's full pass finds it.
    let _ = told();
}

fn seqpacket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// The address of a socket in a directory whose path may be longer than an address has room for (unix(7): 107
/// bytes): it is reached through a descriptor, to be kept until the address was used.
fn address(path: &Path) -> io::Result<(OwnedFd, SocketAddrUnix)> {
    use rustix::fs::{Mode, OFlags, open};
    use std::os::fd::AsRawFd;
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = open(
        dir,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let through = Path::new("/proc/self/fd")
        .join(dir.as_raw_fd().to_string())
        .join(name);
    Ok((dir, SocketAddrUnix::new(&through)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_what_they_were() {
        // Shims of this version run on hosts: what they understand can only be added to.
        let frames = [
            (Request::new(Command::Status), "{\"v\":1,\"command\":\"status\"}"),
            (Request::new(Command::Run), "{\"v\":1,\"command\":\"run\"}"),
            (
                Request {
                    run_no: Some(3),
                    rev: Some(7),
                    ..Request::new(Command::Stop {
                        signal: "SIGTERM".to_owned(),
                        grace_ms: 10_000,
                    })
                },
                "{\"v\":1,\"run_no\":3,\"rev\":7,\"command\":{\"stop\":{\"signal\":\"SIGTERM\",\"grace_ms\":10000}}}",
            ),
            (
                Request::new(Command::Restart {
                    signal: "SIGHUP".to_owned(),
                    grace_ms: 0,
                    why: RestartCause::ByHand,
                }),
                "{\"v\":1,\"command\":{\"restart\":{\"signal\":\"SIGHUP\",\"grace_ms\":0,\"why\":\"by-hand\"}}}",
            ),
            (
                Request::new(Command::Kill {
                    signal: "SIGUSR1".to_owned(),
                }),
                "{\"v\":1,\"command\":{\"kill\":{\"signal\":\"SIGUSR1\"}}}",
            ),
            (
                Request::new(Command::Shutdown),
                "{\"v\":1,\"command\":\"shutdown\"}",
            ),
            (
                Request::new(Command::Health { healthy: true }),
                "{\"v\":1,\"command\":{\"health\":{\"healthy\":true}}}",
            ),
            (Request::new(Command::Pause), "{\"v\":1,\"command\":\"pause\"}"),
            (
                Request::new(Command::Unpause),
                "{\"v\":1,\"command\":\"unpause\"}",
            ),
            (Request::new(Command::Freeze), "{\"v\":1,\"command\":\"freeze\"}"),
            (
                Request::new(Command::Exec {
                    deadline_ms: Some(9),
                    sweep: true,
                }),
                "{\"v\":1,\"command\":{\"exec\":{\"deadline_ms\":9,\"sweep\":true}}}",
            ),
        ];
        for (request, text) in frames {
            assert_eq!(serde_json::to_string(&request).unwrap(), text);
            assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
        }
        let later = "{\"v\":9,\"more\":true,\"command\":\"status\"}";
        assert_eq!(
            serde_json::from_str::<Request>(later).unwrap().command,
            Command::Status
        );
    }

    #[test]
    fn a_socket_may_lie_deeper_than_an_address_has_room_for() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(150));
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join("s.sock");
        let _listener = listen_at(&path).unwrap();
        let _again = listen_at(&path).unwrap();
        let nobody = call(&path, &Request::new(Command::Status), Duration::from_millis(20));
        assert_eq!(nobody.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        notify(&deep.join("agent.sock"), "0");
    }
}
