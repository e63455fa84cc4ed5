//! One netlink socket, one conversation at a time.

use std::io;

use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};

use super::{Attrs, flag, u32_at};

const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// NLMSGERR_ATTR_MSG: the extended ack's text.
const ERROR_TEXT: u16 = 1;
/// Flags of an error message: the request is not repeated in it; attributes follow.
const CAPPED: u16 = 0x100;
const ACK_TLVS: u16 = 0x200;
/// A dump that something changed under is repeated this often.
const DUMP_TRIES: u32 = 8;
/// A datagram of a dump has at most 32 KiB.
const RECEIVE: usize = 1 << 16;

/// The kernel's refusal: its error number, and its words where it has any.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}", io::Error::from_raw_os_error(*errno), text.as_ref().map(|t| format!(" ({t})")).unwrap_or_default())]
pub struct KernelError {
    pub errno: i32,
    /// The extended ack's text.
    pub text: Option<String>,
}

impl KernelError {
    pub(crate) fn new(errno: i32) -> Self {
        Self { errno, text: None }
    }

    pub(crate) fn is(&self, errno: i32) -> bool {
        self.errno == errno
    }
}

impl From<io::Error> for KernelError {
    fn from(e: io::Error) -> Self {
        match e.raw_os_error() {
            Some(errno) => Self::new(errno),
            None => Self {
                errno: libc::EIO,
                text: Some(e.to_string()),
            },
        }
    }
}

/// A request, or one step of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub kind: u16,
    /// Beyond REQUEST.
    pub flags: u16,
    /// The protocol's fixed header, then attributes.
    pub payload: Vec<u8>,
}

/// One message the kernel sent.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub kind: u16,
    pub payload: Vec<u8>,
}

/// A batch that was refused as a whole.
#[derive(Debug)]
pub(crate) struct BatchError {
    /// Which of its messages; none where it was the batch itself.
    pub at: Option<usize>,
    pub error: KernelError,
}

/// A socket of one protocol, in the network namespace of the thread that opened it.
pub(crate) struct Netlink {
    socket: Socket,
    /// The number the kernel knows the socket by.
    pub port: u32,
    sequence: u32,
}

impl Netlink {
    /// `protocol`: NETLINK_ROUTE and its like (netlink(7)).
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        // Texts in refusals, and dumps that heed their filters: both are there on every kernel from 4.20 on.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Self {
            socket,
            port,
            sequence: 0,
        })
    }

    /// Sends one request and waits for its acknowledgement.
    pub fn request(&mut self, kind: u16, flags: u16, payload: &[u8]) -> Result<(), KernelError> {
        self.converse(kind, flags | flag::ACK, payload).map(|_| ())
    }

    /// Asks for one thing.
    pub fn get(&mut self, kind: u16, payload: &[u8]) -> Result<Option<Reply>, KernelError> {
        let (replies, _) = self.converse(kind, flag::ACK, payload)?;
        Ok(replies.into_iter().next())
    }

    /// Asks for all things of a kind; repeats itself when something changed meanwhile.
    pub fn dump(&mut self, kind: u16, payload: &[u8]) -> Result<Vec<Reply>, KernelError> {
        for _ in 0..DUMP_TRIES {
            let (replies, torn) = self.converse(kind, flag::DUMP, payload)?;
            if !torn {
                return Ok(replies);
            }
        }
        Err(KernelError::new(libc::EINTR))
    }

    fn converse(&mut self, kind: u16, flags: u16, payload: &[u8]) -> Result<(Vec<Reply>, bool), KernelError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        frame(&mut bytes, kind, flags | flag::REQUEST, self.sequence, payload);
        self.socket.send(&bytes, 0)?;
        let mut replies = Vec::new();
        let mut torn = false;
        loop {
            for part in Frames(&self.receive(0)?) {
                if part.sequence != self.sequence {
                    continue;
                }
                torn |= part.flags & flag::DUMP_INTERRUPTED != 0;
                match part.kind {
                    ERROR | DONE => match refusal(&part) {
                        Some(error) => return Err(error),
                        None => return Ok((replies, torn)),
                    },
                    kind => replies.push(Reply {
                        kind,
                        payload: part.payload.to_vec(),
                    }),
                }
            }
        }
    }

    /// Sends messages as one transaction of nfnetlink; all of them happen or none.
    ///
    /// `generation`: the state of the ruleset the transaction was computed from; ERESTART when it is another by now.
    pub fn batch(&mut self, subsystem: u16, generation: u32, messages: &[Message]) -> Result<(), BatchError> {
        let first = self.sequence.wrapping_add(1);
        let bytes = self.batch_bytes(subsystem, generation, messages);
        let whole = |error: KernelError| BatchError { at: None, error };
        // The default buffer holds some hundred ports; the kernel takes a batch whole or not at all.
        let _ = setsockopt(
            &self.socket,
            sockopt::SndBufForce,
            &(bytes.len() * 2).max(1 << 18),
        );
        let _ = setsockopt(
            &self.socket,
            sockopt::RcvBufForce,
            &(bytes.len() * 2).max(1 << 18),
        );
        self.socket.send(&bytes, 0).map_err(|e| whole(e.into()))?;
        let mut acknowledged = false;
        // The kernel has answered everything by the time the send returns.
        loop {
            let received = match self.receive(libc::MSG_DONTWAIT) {
                Ok(received) => received,
                Err(e) if e.is(libc::EAGAIN) => break,
                Err(e) => return Err(whole(e)),
            };
            for part in Frames(&received).filter(|part| part.kind == ERROR) {
                let at = (part.sequence.wrapping_sub(first) as usize).checked_sub(1);
                match refusal(&part) {
                    Some(error) => {
                        self.discard();
                        return Err(BatchError {
                            at: at.filter(|at| *at < messages.len()),
                            error,
                        });
                    }
                    None => acknowledged = true,
                }
            }
        }
        if acknowledged {
            Ok(())
        } else {
            Err(whole(KernelError::new(libc::EIO)))
        }
    }

    fn batch_bytes(&mut self, subsystem: u16, generation: u32, messages: &[Message]) -> Vec<u8> {
        const BEGIN: u16 = 16;
        const END: u16 = 17;
        const GENERATION: u16 = 1;
        let mut bytes = Vec::new();
        let mut next = || {
            self.sequence = self.sequence.wrapping_add(1);
            self.sequence
        };
        let mut header = vec![0, 0];
        header.extend_from_slice(&subsystem.to_be_bytes());
        let mut begin = header.clone();
        super::Attr::be32(GENERATION, generation).write(&mut begin);
        frame(&mut bytes, BEGIN, flag::REQUEST, next(), &begin);
        for (i, message) in messages.iter().enumerate() {
            let ack = if i + 1 == messages.len() { flag::ACK } else { 0 };
            frame(
                &mut bytes,
                message.kind,
                message.flags | flag::REQUEST | ack,
                next(),
                &message.payload,
            );
        }
        frame(&mut bytes, END, flag::REQUEST, next(), &header);
        bytes
    }

    fn receive(&self, flags: i32) -> Result<Vec<u8>, KernelError> {
        let mut buffer = Vec::with_capacity(RECEIVE);
        loop {
            match self.socket.recv(&mut buffer, flags) {
                Ok(_) => return Ok(buffer),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Throws away what is left of an answer.
    fn discard(&self) {
        while self.receive(libc::MSG_DONTWAIT).is_ok() {}
    }
}

fn frame(out: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, payload: &[u8]) {
    let length = u32::try_from(HEADER + payload.len()).expect("messages are far below 4 GiB");
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&sequence.to_ne_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// One message in a datagram.
pub(super) struct Part<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

struct Frames<'a>(&'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        let bytes = self.0;
        let length = u32_at(bytes, 0)? as usize;
        let payload = bytes.get(HEADER..length)?;
        self.0 = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Part {
            kind: u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?),
            flags: u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?),
            sequence: u32_at(bytes, 8)?,
            payload,
        })
    }
}

/// The error in an ERROR or DONE message; none where it is an acknowledgement.
fn refusal(part: &Part<'_>) -> Option<KernelError> {
    let code = u32_at(part.payload, 0).unwrap_or(0) as i32;
    if code == 0 {
        return None;
    }
    let request = match part.kind {
        ERROR if part.flags & CAPPED == 0 => u32_at(part.payload, 4).unwrap_or(0) as usize,
        ERROR => HEADER,
        _ => 0,
    };
    let text = (part.flags & ACK_TLVS != 0)
        .then(|| part.payload.get((4 + request).next_multiple_of(4)..))
        .flatten()
        .and_then(|bytes| Attrs(bytes).find(|(kind, _)| *kind == ERROR_TEXT))
        .map(|(_, text)| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
    Some(KernelError {
        errno: code.saturating_neg(),
        text,
    })
}
