//! One question to one upstream, over a socket of its own.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::token::{Poller, Token};
use crate::apart::poller::Interest;
use crate::dns::message::Sent;

#[derive(Debug)]
pub struct Exchange {
    pub server: SocketAddr,
    pub way: Way,
    pub sent: Sent,
    pub since: Instant,
    /// Packets that answer something else.
    pub strays: u32,
    link: Link,
}

/// How a server is asked.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub tcp: bool,
    /// What the client says of EDNS is said there.
    pub edns: bool,
}

#[derive(Debug)]
enum Link {
    Udp(UdpSocket),
    Tcp {
        stream: TcpStream,
        /// What is left to send.
        unsent: Vec<u8>,
        received: Vec<u8>,
    },
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    Nothing,
    /// A packet, so many bytes at the beginning of the buffer.
    Packet(usize),
}

impl Exchange {
    /// Sends a packet, or begins to.
    pub fn begin(
        poller: &Poller,
        token: Token,
        server: SocketAddr,
        way: Way,
        (packet, sent): (Vec<u8>, Sent),
        now: Instant,
    ) -> io::Result<Self> {
        let kind = if way.tcp {
            SocketType::STREAM
        } else {
            SocketType::DGRAM
        };
        let socket = open(server, kind)?;
        let link = if way.tcp {
            poller.add(&socket, token, Interest::WRITE)?;
            Link::Tcp {
                stream: socket.into(),
                unsent: framed(&packet),
                received: Vec::new(),
            }
        } else {
            let socket = UdpSocket::from(socket);
            socket.send(&packet)?;
            poller.add(&socket, token, Interest::READ)?;
            Link::Udp(socket)
        };
        Ok(Self {
            server,
            way,
            sent,
            since: now,
            strays: 0,
            link,
        })
    }

    /// Takes what is there, after sending what is left to send.
    pub fn hear(&mut self, poller: &Poller, token: Token, buffer: &mut [u8]) -> io::Result<Heard> {
        match &mut self.link {
            Link::Udp(socket) => match socket.recv(buffer) {
                Ok(length) => Ok(Heard::Packet(length)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Heard::Nothing),
                Err(e) => Err(e),
            },
            Link::Tcp {
                stream,
                unsent,
                received,
            } => {
                if !unsent.is_empty() {
                    if send(stream, unsent)? {
                        poller.modify(&*stream, token, Interest::READ)?;
                    }
                    return Ok(Heard::Nothing);
                }
                receive(stream, received, buffer)
            }
        }
    }
}

/// A socket that is connected, or connecting.
fn open(server: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if server.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    match connect(&socket, &server) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(e) => Err(e.into()),
    }
}

/// A packet as it goes over TCP: its length first (RFC 1035 §4.2.2).
pub fn framed(packet: &[u8]) -> Vec<u8> {
    let length = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(2 + packet.len());
    bytes.extend(length.to_be_bytes());
    bytes.extend(&packet[..length.into()]);
    bytes
}

/// The first packet of a stream and what follows it; none where it is not whole yet.
pub fn unframed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u16::from_be_bytes(*length).into())
}

/// Sends what can be sent; whether that was all.
pub fn send(stream: &mut TcpStream, unsent: &mut Vec<u8>) -> io::Result<bool> {
    while !unsent.is_empty() {
        match stream.write(unsent) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => drop(unsent.drain(..count)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

fn receive(stream: &mut TcpStream, received: &mut Vec<u8>, buffer: &mut [u8]) -> io::Result<Heard> {
    match stream.read(buffer) {
        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(count) => received.extend(&buffer[..count]),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Heard::Nothing),
        Err(e) => return Err(e),
    }
    let Some((packet, _)) = unframed(received) else {
        return Ok(Heard::Nothing);
    };
    let length = packet.len();
    buffer[..length].copy_from_slice(packet);
    received.clear();
    Ok(Heard::Packet(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_when_it_is_whole() {
        let mut bytes = framed(b"abc");
        bytes.extend(framed(b""));
        assert_eq!(unframed(&bytes[..4]), None);
        let (first, rest) = unframed(&bytes).unwrap();
        assert_eq!(first, b"abc");
        let (second, rest) = unframed(rest).unwrap();
        assert!(second.is_empty() && rest.is_empty());
        assert_eq!(unframed(rest), None);
    }
}
