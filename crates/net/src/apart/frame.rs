//! What agent and server say to each other: one JSON object a frame over a SEQPACKET socket, descriptors beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg,
    socket_with, sockopt,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How long a server that runs may take to answer the agent before it is taken for stuck and replaced.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest frame, bytes. What may be larger comes in a memfd.
const LARGEST: usize = 64 << 10;
/// The most descriptors that come with a frame.
const DESCRIPTORS: usize = 3;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request<P> {
    /// What it is and where it listens.
    Hello,
    /// Listens there from now on, on the sockets that come along.
    Listen { place: P },
    /// Serves from now on what the memfd says that comes along.
    Give,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Reply<P> {
    /// To `Hello`. `version`: that of its program.
    Here {
        protocol: u32,
        version: String,
        places: Vec<P>,
    },
    Done,
    Failed {
        why: String,
    },
}

/// A socket for either end.
pub fn socket() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(socket_with(family, kind, SocketFlags::CLOEXEC, None)?)
}

/// A connection to a server. One that answers nothing is taken for stuck after [`PATIENCE`].
pub fn connected(to: &Path) -> io::Result<OwnedFd> {
    let socket = socket()?;
    for direction in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
        sockopt::set_socket_timeout(&socket, direction, Some(PATIENCE))?;
    }
    connect(&socket, &SocketAddrUnix::new(to)?)?;
    Ok(socket)
}

/// Sends a frame.
pub fn send<T: Serialize>(socket: impl AsFd, frame: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(frame)?;
    if bytes.len() > LARGEST {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the frame is too large",
        ));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors"));
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a frame and what came beside it; none where the other side is gone.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; LARGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut bytes)];
    let got = recvmsg(socket, &mut into, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a frame was cut short",
        ));
    }
    Ok(Some((serde_json::from_slice(&bytes[..got.bytes])?, fds)))
}

#[cfg(test)]
mod tests {
    use rustix::net::socketpair;

    use super::*;

    #[test]
    fn a_frame_arrives_with_its_descriptors() {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (a, b) = socketpair(family, kind, SocketFlags::CLOEXEC, None).unwrap();
        let (file, _writer) = io::pipe().unwrap();
        let sent = Request::Listen { place: (53, true) };
        send(&a, &sent, &[file.as_fd(), b.as_fd()]).unwrap();
        let (got, fds): (Request<(u16, bool)>, _) = receive(&b).unwrap().unwrap();
        assert_eq!((got, fds.len()), (sent, 2));
        let here = Reply::Here {
            protocol: 7,
            version: "1".to_owned(),
            places: vec![(53, true)],
        };
        send(&b, &here, &[]).unwrap();
        assert_eq!(receive::<Reply<(u16, bool)>>(&a).unwrap().unwrap().0, here);
        drop((b, fds));
        assert!(receive::<Reply<(u16, bool)>>(&a).unwrap().is_none());
    }
}
