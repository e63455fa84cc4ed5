//! The shim's side of its socket: connections, and who still waits for an answer.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{RecvFlags, SocketFlags, accept_with, recv};

use super::files::ShimState;
use super::protocol::{self, Answer, FRAME, Reply, Request, VERSION};

/// More connections than this are not taken; the agent has one or two.
const MOST: usize = 32;

/// What an answer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaits {
    /// The last run's end.
    End,
    /// A run with this number or a later one having begun.
    Run(u64),
}

/// The listening socket and its connections.
#[derive(Debug)]
pub struct Clients {
    listener: OwnedFd,
    open: Vec<Client>,
}

#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    awaits: Option<Awaits>,
    /// Somebody else has it now.
    taken: bool,
}

impl Clients {
    /// Listens at this path.
    pub fn listen(path: &Path) -> io::Result<Self> {
        let listener = protocol::listen_at(path)?;
        Ok(Self {
            listener,
            open: Vec::new(),
        })
    }

    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The connections, in an order that stays until [`Clients::sweep`].
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.open.iter().map(|client| client.socket.as_fd())
    }

    /// Takes a connection that waits.
    pub fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // One that has gone again, or one too many, is closed: its sender sees that.
        if let Ok(socket) = accept_with(&self.listener, flags)
            && self.open.len() < MOST
        {
            self.open.push(Client {
                socket,
                awaits: None,
                taken: false,
            });
        }
    }

    /// The request on a connection, if it is one, with the descriptors it brings. A connection that ended is closed;
    /// one that asks for what this shim does not know is told so.
    pub fn receive(&mut self, index: usize, state: &ShimState) -> Option<(Request, Vec<OwnedFd>)> {
        let client = self.open.get_mut(index)?;
        let mut frame = [0; FRAME];
        match protocol::receive_bytes(&client.socket, &mut frame) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => None,
            Err(_) | Ok(([], _)) => {
                close(client);
                None
            }
            Ok((bytes, descriptors)) => match serde_json::from_slice(bytes) {
                Ok(request) => Some((request, descriptors)),
                Err(_) => {
                    let text = "its shim does not know this command: it is of another version of wharf, and is replaced when the container is stopped and started";
                    reply(client, Answer::Refused(text.to_owned()), state);
                    None
                }
            },
        }
    }

    /// Gives a connection away: it is no longer listened to here.
    pub fn take(&mut self, index: usize) -> io::Result<OwnedFd> {
        let client = self.open.get_mut(index).ok_or(io::ErrorKind::NotFound)?;
        let socket = client.socket.try_clone()?;
        client.taken = true;
        Ok(socket)
    }

    /// Answers a connection.
    pub fn answer(&mut self, index: usize, answer: Answer, state: &ShimState) {
        if let Some(client) = self.open.get_mut(index) {
            reply(client, answer, state);
        }
    }

    /// Answers later.
    pub fn hold(&mut self, index: usize, awaits: Awaits) {
        if let Some(client) = self.open.get_mut(index) {
            client.awaits = Some(awaits);
        }
    }

    /// Answers those whose wait is over.
    pub fn settle(&mut self, run_no: u64, left: bool, state: &ShimState) {
        for client in &mut self.open {
            let answer = match client.awaits {
                Some(Awaits::End) if left => Answer::Done,
                Some(Awaits::Run(n)) if run_no >= n => Answer::Done,
                Some(Awaits::Run(_)) if left => Answer::Refused("it was stopped meanwhile".to_owned()),
                _ => continue,
            };
            client.awaits = None;
            reply(client, answer, state);
        }
    }

    /// Forgets connections that are closed.
    pub fn sweep(&mut self) {
        self.open.retain(|client| !client.taken && !closed(client));
    }
}

fn reply(client: &mut Client, answer: Answer, state: &ShimState) {
    let reply = Reply {
        v: VERSION,
        answer,
        state: state.clone(),
        exec: None,
    };
    // One who asks and does not read is not waited for.
    if protocol::send_frame(&client.socket, &reply).is_err() {
        close(client);
    }
}

/// Shuts a connection down, to be forgotten by the next sweep.
fn close(client: &mut Client) {
    let _ = rustix::net::shutdown(&client.socket, rustix::net::Shutdown::Both);
    client.awaits = None;
}

fn closed(client: &Client) -> bool {
    let mut probe = [0; 1];
    let peeked = recv(
        &client.socket,
        &mut probe[..],
        RecvFlags::PEEK | RecvFlags::DONTWAIT,
    );
    !matches!(
        peeked,
        Ok((_, 1..)) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR)
    )
}
