//! Servers apart from the agent: processes of ours that outlive it, and that parse what it must not.
//!
//! Each is one unprivileged process that can open no file. It lives iff it holds the lock in its directory, listens on
//! sockets that the agent bound, and serves what it was last given. The name server ([`crate::dns`]) is one, the relay
//! ([`crate::relay`]) another; what all of them have in common is here.
//!
//! Agent's side: [`Handle`], with [`spawn`]. Both sides: [`Role`], [`files`], [`frame`]. The process: [`start`],
//! [`sandbox`], [`poller`], [`agents`].

pub(crate) mod agents;
mod files;
mod frame;
mod handle;
pub(crate) mod poller;
mod sandbox;
mod spawn;
mod start;

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::agents::Agents;
pub use self::files::Process;
pub(crate) use self::handle::{Connection, Handle};
pub(crate) use self::start::main;

/// What sets one kind of server apart from another.
#[derive(Debug)]
pub(crate) struct Role {
    /// The program's first argument, and its directory in the run dir.
    pub command: &'static str,
    /// What messages call it, with its article.
    pub called: &'static str,
    /// Changed with the meaning of what it is told: a server that speaks another one is replaced.
    pub protocol: u32,
    /// Descriptors it may have open.
    pub open_files: u64,
}

/// The process itself: one thread that waits for everything at once.
pub(crate) trait Server: Sized {
    const ROLE: Role;
    /// Where it may listen, as agent and server know it.
    type Place: Serialize + DeserializeOwned;

    /// One that serves nothing yet and listens to agents alone, on this socket.
    fn new(control: OwnedFd) -> io::Result<Self>;
    /// Serves until the kernel gives no more events.
    fn run(&mut self) -> io::Result<Infallible>;
    fn agents(&mut self) -> &mut Agents;
    /// Where it listens.
    fn places(&self) -> Vec<Self::Place>;
    /// Listens there from now on, on these sockets, which are bound.
    fn listen(&mut self, place: Self::Place, sockets: Vec<OwnedFd>) -> io::Result<()>;
    /// Serves from now on what the memfd says, and listens on no other place than those it names.
    fn take(&mut self, memory: File) -> io::Result<()>;
}
