//! One TCP connection passed on: what either side sends goes to the other, an end as well.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::token::{Kind, Poller, Token};
use crate::apart::poller::Interest;

/// Reads of one side before others have their turn.
const TURN: usize = 16;

#[derive(Debug)]
pub struct Stream {
    client: TcpStream,
    target: TcpStream,
    number: u64,
    connected: bool,
    /// From client to target, and back.
    there: Way,
    back: Way,
    watched: [Interest; 2],
}

/// One direction. Nothing more is read of it while something is left to be written, so what is kept is never more than
/// one read.
#[derive(Debug, Default)]
struct Way {
    left: Vec<u8>,
    /// No more comes.
    ended: bool,
    /// And that was passed on.
    told: bool,
}

impl Stream {
    /// Begins to connect to a container; where that cannot be, the client is refused.
    pub fn begin(poller: &Poller, number: u64, client: TcpStream, to: SocketAddr) -> io::Result<Self> {
        let target = connecting(to).and_then(|target| {
            poller.add(&target, Token::Own(Kind::Target, number), Interest::WRITE)?;
            // What is sent in small pieces is passed on as it comes.
            target.set_nodelay(true)?;
            client.set_nodelay(true)?;
            Ok(target)
        });
        if target.is_err() {
            refuse(&client);
        }
        Ok(Self {
            client,
            target: target?,
            number,
            connected: false,
            there: Way::default(),
            back: Way::default(),
            watched: [Interest::default(), Interest::WRITE],
        })
    }

    /// Passes on what can be; false when it is over.
    pub fn ready(&mut self, poller: &Poller, buffer: &mut [u8]) -> bool {
        if self.pass(poller, buffer).is_err() {
            self.break_off();
            return false;
        }
        !(self.there.told && self.back.told)
    }

    /// What went wrong on one side is heard on the other as such, not as an end.
    fn break_off(&self) {
        refuse(&self.client);
        refuse(&self.target);
    }

    fn pass(&mut self, poller: &Poller, buffer: &mut [u8]) -> io::Result<()> {
        if !self.connected {
            if let Some(refused) = self.target.take_error()? {
                return Err(refused);
            }
            // Told of too early by another event.
            if self.target.peer_addr().is_err() {
                return Ok(());
            }
            self.connected = true;
        }
        self.there.pass(&mut self.client, &mut self.target, buffer)?;
        self.back.pass(&mut self.target, &mut self.client, buffer)?;
        self.watch(poller)
    }

    fn watch(&mut self, poller: &Poller) -> io::Result<()> {
        let interest = |from: &Way, to: &Way| Interest {
            read: !from.ended && from.left.is_empty(),
            write: !to.left.is_empty(),
        };
        let client = interest(&self.there, &self.back);
        let target = interest(&self.back, &self.there);
        let [was_client, was_target] = self.watched;
        poller.change(
            &self.client,
            Token::Own(Kind::Client, self.number),
            was_client,
            client,
        )?;
        poller.change(
            &self.target,
            Token::Own(Kind::Target, self.number),
            was_target,
            target,
        )?;
        self.watched = [client, target];
        Ok(())
    }
}

impl Way {
    fn pass(&mut self, from: &mut TcpStream, to: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
        for _ in 0..TURN {
            if !self.left.is_empty() {
                let written = or_none(to.write(&self.left))?.unwrap_or(0);
                self.left.drain(..written);
                if !self.left.is_empty() {
                    return Ok(());
                }
                self.left = Vec::new();
            }
            if self.ended {
                return self.tell(to);
            }
            match or_none(from.read(buffer))? {
                None => return Ok(()),
                // Nothing else would wake us for it.
                Some(0) => {
                    self.ended = true;
                    return self.tell(to);
                }
                Some(count) => {
                    let written = or_none(to.write(&buffer[..count]))?.unwrap_or(0);
                    self.left.extend_from_slice(&buffer[written..count]);
                }
            }
        }
        Ok(())
    }

    /// Passes the end on, all that came before it having been.
    fn tell(&mut self, to: &TcpStream) -> io::Result<()> {
        if !self.told {
            to.shutdown(Shutdown::Write)?;
            self.told = true;
        }
        Ok(())
    }
}

/// Makes the end of the connection a reset.
pub fn refuse(stream: &TcpStream) {
    // Where that fails it is a plain end.
    let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

fn connecting(to: SocketAddr) -> io::Result<TcpStream> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let target = socket_with(family, SocketType::STREAM, flags, None)?;
    // A container that went away without a word ends the connection some day.
    sockopt::set_socket_keepalive(&target, true)?;
    match connect(&target, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(target.into()),
        Err(e) => Err(e.into()),
    }
}

/// None where it would have to wait.
fn or_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(e) => Err(e),
    }
}
