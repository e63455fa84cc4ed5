//! The little of OpenFlow 1.3 (wire protocol 0x04) that it takes to read a bridge's flows and to add some of our own.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::SwitchError;

const VERSION: u8 = 4;
/// Types of messages (section 7.1).
const HELLO: u8 = 0;
const ERROR: u8 = 1;
const ECHO_REQUEST: u8 = 2;
const ECHO_REPLY: u8 = 3;
const FLOW_MOD: u8 = 14;
const MULTIPART_REQUEST: u8 = 18;
const MULTIPART_REPLY: u8 = 19;
const BARRIER_REQUEST: u8 = 20;
const BARRIER_REPLY: u8 = 21;
/// Of FLOW_MOD.
const ADD: u8 = 0;
const DELETE_STRICT: u8 = 4;
/// OFPMP_FLOW, and that more replies follow.
const FLOWS: u16 = 1;
const MORE: u16 = 1;
const ALL_TABLES: u8 = 0xff;
const ANY: u32 = 0xffff_ffff;
const APPLY_ACTIONS: u16 = 4;
const OUTPUT: u16 = 0;
/// The port that means "as a switch without flows does".
const NORMAL: u32 = 0xffff_fffa;
/// Whatever takes longer is not going to come.
const PATIENCE: Duration = Duration::from_secs(3);

/// A field that is compared whole: its number in the class of basic fields (section 7.2.3.7).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Field {
    To([u8; 6]),
    From([u8; 6]),
    EtherType(u16),
    IpProtocol(u8),
    ArpFrom(Ipv4Addr),
    ArpTo(Ipv4Addr),
    Icmpv6Type(u8),
    SolicitationFor(Ipv6Addr),
}

impl Field {
    fn bytes(&self) -> (u8, Vec<u8>) {
        match self {
            Self::To(mac) => (3, mac.to_vec()),
            Self::From(mac) => (4, mac.to_vec()),
            Self::EtherType(value) => (5, value.to_be_bytes().to_vec()),
            Self::IpProtocol(value) => (10, vec![*value]),
            Self::ArpFrom(ip) => (22, ip.octets().to_vec()),
            Self::ArpTo(ip) => (23, ip.octets().to_vec()),
            Self::Icmpv6Type(value) => (29, vec![*value]),
            Self::SolicitationFor(ip) => (31, ip.octets().to_vec()),
        }
    }
}

/// What becomes of frames; what matches none of a higher priority.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Flow {
    pub priority: u16,
    pub fields: Vec<Field>,
    /// Switched as ever; else dropped.
    pub normal: bool,
}

/// One as the switch tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub cookie: u64,
    priority: u16,
    /// As it is written.
    fields: Vec<u8>,
    instructions: Vec<u8>,
}

impl Seen {
    pub fn is(&self, flow: &Flow) -> bool {
        let mut there = elements(&self.fields);
        there.sort_unstable();
        let wanted = oxm(flow);
        let mut wanted = elements(&wanted);
        wanted.sort_unstable();
        self.priority == flow.priority && there == wanted && self.instructions == instructions(flow)
    }
}

/// A conversation with a bridge.
pub(super) struct Bridge {
    stream: UnixStream,
    socket: String,
    until: Instant,
    requests: u32,
}

impl Bridge {
    pub fn open(socket: &Path) -> Result<Self, SwitchError> {
        let text = socket.display().to_string();
        let stream = UnixStream::connect(socket).map_err(|source| SwitchError::SwitchAway {
            socket: text.clone(),
            source,
        })?;
        let mut bridge = Self {
            stream,
            socket: text,
            until: Instant::now() + PATIENCE,
            requests: 0,
        };
        bridge.send(HELLO, &[])?;
        match bridge.receive()? {
            Message { kind: HELLO, .. } => Ok(bridge),
            other => Err(bridge.malformed(format!("message {} before hello", other.kind))),
        }
    }

    /// All that there are.
    pub fn flows(&mut self) -> Result<Vec<Seen>, SwitchError> {
        let mut body = vec![0, 0, 0, 0, 0, 0, 0, 0];
        body[..2].copy_from_slice(&FLOWS.to_be_bytes());
        body.extend([ALL_TABLES, 0, 0, 0]);
        body.extend([ANY, ANY, 0].map(u32::to_be_bytes).concat());
        body.extend([0; 16]);
        body.extend(whole_match(&[]));
        let request = self.send(MULTIPART_REQUEST, &body)?;
        let mut flows = Vec::new();
        loop {
            let reply = self.answer(request, MULTIPART_REPLY)?;
            let more = u16_at(&reply, 2).is_some_and(|flags| flags & MORE != 0);
            let read = reply.get(8..).and_then(read_flows);
            flows.extend(read.ok_or_else(|| self.malformed("flows that are cut short".to_owned()))?);
            if !more {
                return Ok(flows);
            }
        }
    }

    /// Adds it; one of the same fields and priority is replaced.
    pub fn add(&mut self, cookie: u64, flow: &Flow) -> Result<(), SwitchError> {
        let fields = oxm(flow);
        self.change(ADD, cookie, flow.priority, &fields, &instructions(flow))
    }

    pub fn remove(&mut self, flow: &Seen) -> Result<(), SwitchError> {
        self.change(DELETE_STRICT, flow.cookie, flow.priority, &flow.fields, &[])
    }

    /// Waits until all that was asked is done.
    pub fn settle(&mut self) -> Result<(), SwitchError> {
        let request = self.send(BARRIER_REQUEST, &[])?;
        self.answer(request, BARRIER_REPLY).map(drop)
    }

    /// Whether the other side is still there. What it says meanwhile is taken, and its question whether we are answered.
    pub fn is_there(&mut self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        loop {
            match recv(self.stream.as_raw_fd(), &mut [0], flags) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(e) => return e == Errno::EAGAIN,
            }
            self.until = Instant::now() + PATIENCE;
            let answered = self.receive().and_then(|message| match message.kind {
                ECHO_REQUEST => self.send_as(ECHO_REPLY, message.request, &message.body).map(drop),
                _ => Ok(()),
            });
            if answered.is_err() {
                return false;
            }
        }
    }

    fn change(
        &mut self,
        command: u8,
        cookie: u64,
        priority: u16,
        fields: &[u8],
        instructions: &[u8],
    ) -> Result<(), SwitchError> {
        let mut body = cookie.to_be_bytes().to_vec();
        body.extend([0; 8]);
        // Table 0, no time-outs.
        body.extend([0, command, 0, 0, 0, 0]);
        body.extend(priority.to_be_bytes());
        body.extend([ANY, ANY, ANY].map(u32::to_be_bytes).concat());
        body.extend([0; 4]);
        body.extend(whole_match(fields));
        body.extend(instructions);
        self.send(FLOW_MOD, &body).map(drop)
    }

    fn answer(&mut self, request: u32, kind: u8) -> Result<Vec<u8>, SwitchError> {
        loop {
            let message = self.receive()?;
            match message.kind {
                ERROR => {
                    let code = |at| u16_at(&message.body, at).unwrap_or_default();
                    let text = format!("error {}, code {} (OpenFlow 1.3)", code(0), code(2));
                    return Err(SwitchError::Refused(text));
                }
                ECHO_REQUEST => drop(self.send_as(ECHO_REPLY, message.request, &message.body)?),
                _ if message.kind == kind && message.request == request => return Ok(message.body),
                // Of no concern: the states of ports.
                _ => {}
            }
        }
    }

    fn send(&mut self, kind: u8, body: &[u8]) -> Result<u32, SwitchError> {
        self.requests += 1;
        self.send_as(kind, self.requests, body)
    }

    fn send_as(&mut self, kind: u8, request: u32, body: &[u8]) -> Result<u32, SwitchError> {
        let length = u16::try_from(body.len() + 8).expect("what is sent is short");
        let mut message = vec![VERSION, kind];
        message.extend(length.to_be_bytes());
        message.extend(request.to_be_bytes());
        message.extend(body);
        let rest = self.rest()?;
        let sent = self.stream.set_write_timeout(Some(rest));
        let sent = sent.and_then(|()| self.stream.write_all(&message));
        sent.map(|()| request).map_err(|e| self.broken(e))
    }

    fn receive(&mut self) -> Result<Message, SwitchError> {
        let mut header = [0; 8];
        self.read(&mut header)?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let Some(rest) = length.checked_sub(header.len()) else {
            return Err(self.malformed("a message shorter than its header".to_owned()));
        };
        let mut body = vec![0; rest];
        self.read(&mut body)?;
        Ok(Message {
            kind: header[1],
            request: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            body,
        })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), SwitchError> {
        let rest = self.rest()?;
        let read = self.stream.set_read_timeout(Some(rest));
        let read = read.and_then(|()| self.stream.read_exact(buffer));
        read.map_err(|e| self.broken(e))
    }

    fn rest(&self) -> Result<Duration, SwitchError> {
        let rest = self.until.saturating_duration_since(Instant::now());
        match rest.is_zero() {
            true => Err(self.broken(io::ErrorKind::TimedOut.into())),
            false => Ok(rest),
        }
    }

    fn broken(&self, source: io::Error) -> SwitchError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => SwitchError::Silent { socket },
            _ => SwitchError::Io { socket, source },
        }
    }

    fn malformed(&self, what: String) -> SwitchError {
        SwitchError::Malformed {
            socket: self.socket.clone(),
            what,
        }
    }
}

impl AsFd for Bridge {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

struct Message {
    kind: u8,
    request: u32,
    body: Vec<u8>,
}

/// `struct ofp_match` (section 7.2.3), filled up.
fn whole_match(fields: &[u8]) -> Vec<u8> {
    const OXM: u16 = 1;
    let length = u16::try_from(fields.len() + 4).expect("a few fields");
    let mut out = [OXM.to_be_bytes(), length.to_be_bytes()].concat();
    out.extend(fields);
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

fn oxm(flow: &Flow) -> Vec<u8> {
    const BASIC: u16 = 0x8000;
    let mut out = Vec::new();
    for field in &flow.fields {
        let (number, value) = field.bytes();
        out.extend(BASIC.to_be_bytes());
        out.push(number << 1);
        out.push(u8::try_from(value.len()).expect("at most sixteen bytes"));
        out.extend(value);
    }
    out
}

/// Each field with its header.
fn elements(mut fields: &[u8]) -> Vec<&[u8]> {
    let mut out = Vec::new();
    while let Some(length) = fields.get(3) {
        let (one, rest) = fields.split_at((usize::from(*length) + 4).min(fields.len()));
        out.push(one);
        fields = rest;
    }
    out
}

fn instructions(flow: &Flow) -> Vec<u8> {
    if !flow.normal {
        return Vec::new();
    }
    let mut out = [APPLY_ACTIONS, 24].map(u16::to_be_bytes).concat();
    out.extend([0; 4]);
    out.extend([OUTPUT, 16].map(u16::to_be_bytes).concat());
    out.extend(NORMAL.to_be_bytes());
    out.extend([0; 8]);
    out
}

/// `struct ofp_flow_stats`, one after the other (section 7.3.5.2).
fn read_flows(mut bytes: &[u8]) -> Option<Vec<Seen>> {
    const HEADER: usize = 48;
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let length = usize::from(u16_at(bytes, 0)?);
        let flow = bytes.get(..length).filter(|flow| flow.len() > HEADER)?;
        bytes = &bytes[length..];
        let fields = usize::from(u16_at(flow, HEADER + 2)?);
        let end = HEADER + fields.next_multiple_of(8);
        out.push(Seen {
            cookie: u64::from_be_bytes(flow.get(24..32)?.try_into().ok()?),
            priority: u16_at(flow, 12)?,
            fields: flow.get(HEADER + 4..HEADER + fields)?.to_vec(),
            instructions: flow.get(end..)?.to_vec(),
        });
    }
    Some(out)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([two[0], two[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        Flow {
            priority: 7,
            fields: vec![Field::EtherType(0x0806), Field::ArpTo([10, 81, 0, 1].into())],
            normal: false,
        }
    }

    /// As a switch tells of it, the fields in an order of its own.
    fn told(flow: &Flow, cookie: u64) -> Vec<u8> {
        let mut turned = flow.clone();
        turned.fields.reverse();
        let rest = [whole_match(&oxm(&turned)), instructions(flow)].concat();
        let length = u16::try_from(48 + rest.len()).unwrap();
        let mut out = vec![0; 48];
        out[..2].copy_from_slice(&length.to_be_bytes());
        out[12..14].copy_from_slice(&flow.priority.to_be_bytes());
        out[24..32].copy_from_slice(&cookie.to_be_bytes());
        out.extend(rest);
        out
    }

    #[test]
    fn flows_are_known_again_in_whatever_order_their_fields_come() {
        let normal = Flow {
            priority: 1,
            fields: Vec::new(),
            normal: true,
        };
        let all = [told(&flow(), 5), told(&normal, 6)].concat();
        let read = read_flows(&all).unwrap();
        assert!(read[0].is(&flow()) && read[0].cookie == 5);
        assert!(read[1].is(&normal) && !read[1].is(&flow()));
        let other = Flow {
            normal: true,
            ..flow()
        };
        assert!(!read[0].is(&other));
    }

    #[test]
    fn what_is_cut_short_is_no_flow() {
        let whole = told(&flow(), 1);
        for length in 1..whole.len() {
            assert_eq!(read_flows(&whole[..length]), None, "{length} bytes");
        }
        assert_eq!(read_flows(&[]), Some(Vec::new()));
    }
}
