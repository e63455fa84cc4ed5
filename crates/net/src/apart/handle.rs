//! The agent's handle on a server.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Signal, pidfd_send_signal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use stamp::Stamp;

use super::files::{self, Files, Process};
use super::frame::{self, Reply, Request};
use super::{Role, spawn};
use crate::NetError;
use crate::error::{Doing, file_error};

/// One server of one run dir, in the network namespace it is reached in. `L`: what the agent writes down of what it
/// gave.
#[derive(Debug)]
pub(crate) struct Handle<L> {
    role: &'static Role,
    run_dir: PathBuf,
    exe: PathBuf,
    files: Files,
    /// What was last read of what was written down, and of which file.
    remembered: Mutex<Option<(Stamp, Option<Arc<L>>)>>,
}

impl<L: Serialize + DeserializeOwned> Handle<L> {
    /// `exe`: the program that is such a server when its first argument says so.
    pub fn new(role: &'static Role, run_dir: &Path, exe: &Path) -> Self {
        // It is started in another working directory.
        let run_dir = std::path::absolute(run_dir).unwrap_or_else(|_| run_dir.to_owned());
        Self {
            role,
            files: Files::new(&run_dir, role),
            run_dir,
            exe: exe.to_owned(),
            remembered: Mutex::default(),
        }
    }

    /// Whether it runs.
    pub fn lives(&self) -> Result<bool, NetError> {
        detach::lock::is_held(&self.files.lock).map_err(file_error("look at the lock", &self.files.lock))
    }

    /// A descriptor that polls readable when it has ended; none where it does not run.
    pub fn pidfd(&self) -> Result<Option<OwnedFd>, NetError> {
        if !self.lives()? {
            return Ok(None);
        }
        let path = &self.files.process;
        let process: Option<Process> = files::read(path).map_err(file_error("read", path))?;
        let Some(process) = process else {
            return Ok(None); // it is starting or ending just now
        };
        process
            .open()
            .doing(|| format!("look at the process of {}", self.role.called))
    }

    /// What was last written down; nothing where that was in the words of another version, so that it is given anew.
    pub fn last(&self) -> Result<Option<Arc<L>>, NetError> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, stamp) = (SystemTime::now(), Stamp::of(&self.files.last));
        if let Some((known, last)) = &*remembered
            && stamp == Some(*known)
        {
            return Ok(last.clone());
        }
        let last = match files::read(&self.files.last) {
            Err(e) if e.kind() == io::ErrorKind::InvalidData || e.kind() == io::ErrorKind::UnexpectedEof => {
                None
            }
            other => other.map_err(file_error("read", &self.files.last))?.map(Arc::new),
        };
        let settled = stamp.filter(|stamp| stamp.is_settled(now));
        *remembered = settled.map(|stamp| (stamp, last.clone()));
        Ok(last)
    }

    /// Writes down what it was given.
    pub fn write_last(&self, last: &L) -> Result<(), NetError> {
        files::write(&self.files.last, last).map_err(file_error("write", &self.files.last))
    }

    /// A connection to one of our protocol and version that answers, started where there is none, and where it listens.
    pub fn reach<P: Serialize + DeserializeOwned>(&self) -> Result<(Connection, Vec<P>), NetError> {
        if self.lives()? {
            if let Some(reached) = self.greet() {
                return Ok(reached);
            }
            self.end()?;
        }
        files::remove(&self.files.last).map_err(file_error("remove", &self.files.last))?;
        spawn::start(self.role, &self.run_dir, &self.exe, &self.files)?;
        let (connection, _, _, places) = self.hello()?;
        Ok((connection, places))
    }

    /// The same of one that runs; none where none of ours does that answers: it is replaced when it is reached next.
    pub fn reach_running<P: Serialize + DeserializeOwned>(&self) -> Result<Option<Connection>, NetError> {
        Ok(match self.lives()? {
            true => self.greet::<P>().map(|(connection, _)| connection),
            false => None,
        })
    }

    fn greet<P: Serialize + DeserializeOwned>(&self) -> Option<(Connection, Vec<P>)> {
        let (connection, protocol, version, places) = self.hello().ok()?;
        let known = (protocol, version.as_str()) == (self.role.protocol, env!("CARGO_PKG_VERSION"));
        known.then_some((connection, places))
    }

    /// A connection, the protocol and version of who answers there, and where it listens.
    fn hello<P: Serialize + DeserializeOwned>(&self) -> Result<(Connection, u32, String, Vec<P>), NetError> {
        let socket = frame::connected(&self.files.socket)
            .doing(|| format!("reach {} at {}", self.role.called, self.files.socket.display()))?;
        let connection = Connection {
            role: self.role,
            socket,
        };
        match connection.ask(&Request::Hello, &[])? {
            Reply::Here {
                protocol,
                version,
                places,
            } => Ok((connection, protocol, version, places)),
            Reply::Done => Err(connection.refused("it does not say what it is".to_owned())),
            Reply::Failed { why } => Err(connection.refused(why)),
        }
    }

    /// Ends it and what it left; done where it does not run.
    pub fn end(&self) -> Result<(), NetError> {
        // It keeps nothing that would have to be put in order.
        if let Some(process) = self.pidfd()? {
            stop(&process).doing(|| format!("end {}", self.role.called))?;
        }
        self.files.clear().map_err(file_error("remove", &self.files.dir))
    }
}

/// A server that answered.
#[derive(Debug)]
pub(crate) struct Connection {
    role: &'static Role,
    socket: OwnedFd,
}

impl Connection {
    /// Hands over bound sockets to listen on there.
    pub fn listen<P: Serialize + DeserializeOwned>(
        &self,
        place: P,
        sockets: &[BorrowedFd<'_>],
    ) -> Result<(), NetError> {
        self.tell(&Request::Listen { place }, sockets)
    }

    /// Hands over what it is to serve.
    pub fn give(&self, what: &impl Serialize) -> Result<(), NetError> {
        let memory = in_memory(what).doing(|| format!("write down what {} serves", self.role.called))?;
        self.tell(&Request::<()>::Give, &[memory.as_fd()])
    }

    fn tell<P: Serialize + DeserializeOwned>(
        &self,
        request: &Request<P>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), NetError> {
        match self.ask(request, fds)? {
            Reply::Done => Ok(()),
            Reply::Here { .. } => Err(self.refused("it was not asked what it is".to_owned())),
            Reply::Failed { why } => Err(self.refused(why)),
        }
    }

    fn ask<P: Serialize + DeserializeOwned>(
        &self,
        request: &Request<P>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Reply<P>, NetError> {
        let asked = frame::send(&self.socket, request, fds).and_then(|()| frame::receive(&self.socket));
        let reply = asked.doing(|| format!("talk to {}", self.role.called))?;
        reply.map(|(reply, _)| reply).ok_or_else(|| {
            NetError::invalid(
                format!("cannot talk to {}", self.role.called),
                "it ended; it is started again with the next try",
            )
        })
    }

    fn refused(&self, why: String) -> NetError {
        NetError::invalid(
            format!("{} does not take what it was given", self.role.called),
            why,
        )
    }
}

/// Kills a process and waits for its end.
fn stop(process: &OwnedFd) -> io::Result<()> {
    match pidfd_send_signal(process, Signal::KILL) {
        Ok(()) => {}
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(e) => return Err(e.into()),
    }
    loop {
        match poll(&mut [PollFd::new(process, PollFlags::IN)], None) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn in_memory(what: &impl Serialize) -> io::Result<File> {
    let mut file = File::from(memfd_create("served", MemfdFlags::CLOEXEC)?);
    let mut out = io::BufWriter::new(&file);
    serde_json::to_writer(&mut out, what)?;
    out.flush()?;
    drop(out);
    file.rewind()?;
    Ok(file)
}
