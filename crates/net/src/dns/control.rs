//! What agent and name server say to each other: one JSON object a frame over a SEQPACKET socket, descriptors beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use model::dns::DnsState;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg,
    socket_with, sockopt,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Changed with the meaning of these frames: a server that speaks another one is replaced.
pub const PROTOCOL: u32 = 2;
/// How long a server that runs may take to answer the agent before it is taken for stuck and replaced.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest frame. What may be larger comes in a memfd.
const LARGEST: usize = 64 << 10;
/// The most descriptors that come with a frame.
const DESCRIPTORS: usize = 2;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// What it is and which sockets it holds.
    Hello,
    /// Listens on these from now on: a UDP and a TCP socket, both bound to that gateway and port.
    Listen { gateway: IpAddr, port: u16 },
    /// Answers from now on what the memfd says ([`Given`]), and listens on no other gateway than these.
    Give { gateways: BTreeSet<IpAddr> },
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Reply {
    /// To `Hello`: its protocol and version, the gateways it listens on and the port there.
    Here {
        protocol: u32,
        version: String,
        listeners: BTreeMap<IpAddr, u16>,
    },
    Done,
    Failed {
        why: String,
    },
}

/// All a server knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    pub state: DnsState,
    /// Whom it asks for other names.
    pub upstreams: Vec<SocketAddr>,
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
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn a_frame_arrives_with_its_descriptors() {
        let (a, b) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let (file, _writer) = io::pipe().unwrap();
        let sent = Request::Listen {
            gateway: IpAddr::from([10, 0, 0, 1]),
            port: 53,
        };
        send(&a, &sent, &[file.as_fd(), b.as_fd()]).unwrap();
        let (got, fds): (Request, _) = receive(&b).unwrap().unwrap();
        assert_eq!((got, fds.len()), (sent, 2));
        let here = Reply::Here {
            protocol: PROTOCOL,
            version: "1".to_owned(),
            listeners: [(IpAddr::from([10, 0, 0, 1]), 53)].into(),
        };
        send(&b, &here, &[]).unwrap();
        assert_eq!(receive::<Reply>(&a).unwrap().unwrap().0, here);
        drop((b, fds));
        assert!(receive::<Reply>(&a).unwrap().is_none());
    }
}
