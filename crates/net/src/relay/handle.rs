//! The agent's handle on the relay.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use model::firewall::{PortRule, Protocol};
use rustix::fs::{MemfdFlags, fstat, memfd_create};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use serde::{Deserialize, Serialize};
use stamp::Stamp;

use super::control::{PROTOCOL, Port, Reply, Request, Served, is_bound, served};
use super::start::files;
use crate::NetError;
use crate::dns::files::{self as records, Files, Process};
use crate::dns::{control, spawn, stop};
use crate::error::Doing;

/// Connections the kernel keeps for a relay that is busy.
const BACKLOG: i32 = 1024;
/// Room for datagrams that came while it was busy, bytes.
const RECEIVE_BUFFER: usize = 1 << 20;

/// The relay of one run dir, which is one process, in the network namespace [`Self::apply`] is called in.
#[derive(Debug)]
pub struct Relay {
    run_dir: PathBuf,
    exe: PathBuf,
    files: Files,
    /// What was last read of what was written down, and of which file.
    remembered: Mutex<Option<(Stamp, Arc<Last>)>>,
}

/// What a relay was last given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Last {
    served: Vec<Served>,
    /// The rules of ports on `[::1]` alone, which are nowhere else.
    bound: Vec<PortRule>,
    /// The sockets it listens on: inodes.
    sockets: BTreeSet<u64>,
}

impl Relay {
    /// `exe`: the program that runs [`super::main`] when its first argument is `relay`.
    pub fn new(run_dir: &Path, exe: &Path) -> Self {
        // The relay is started in another working directory.
        let run_dir = std::path::absolute(run_dir).unwrap_or_else(|_| run_dir.to_owned());
        Self {
            files: files(&run_dir),
            run_dir,
            exe: exe.to_owned(),
            remembered: Mutex::default(),
        }
    }

    /// The rules of ports on `[::1]` alone that it has; none where it does not serve what it should with those and these
    /// others.
    pub(crate) fn bound(&self, others: &[PortRule]) -> Result<Option<Vec<PortRule>>, NetError> {
        let last = match self.lives()? {
            true => self.last()?,
            false => Arc::default(),
        };
        let rules = [others, &last.bound].concat();
        Ok((served(&rules) == last.served).then(|| last.bound.clone()))
    }

    /// Makes it serve what of these rules is for it, starting it where it does not run. Without any it ends.
    pub(crate) fn apply(&self, rules: &[PortRule]) -> Result<(), NetError> {
        let served = served(rules);
        let bound: Vec<PortRule> = rules.iter().filter(|rule| is_bound(rule)).cloned().collect();
        if served.is_empty() {
            return self.end();
        }
        let last = self.last()?;
        if self.lives()? && last.served == served && last.bound == bound {
            return Ok(());
        }
        let (control, held) = self.reach()?;
        let mut sockets = BTreeSet::new();
        for Served { port, .. } in &served {
            let inode = match held.get(port) {
                Some(inode) => *inode,
                None => listen_at(&control, *port)?,
            };
            sockets.insert(inode);
        }
        let memory = in_memory(&served).doing(|| "write down the ports for the relay".to_owned())?;
        tell(&control, &Request::Give, memory.as_fd())?;
        let last = Last {
            served,
            bound,
            sockets,
        };
        let path = &self.files.last;
        records::write(path, &last).map_err(file_error("write", path))
    }

    /// Inodes of the sockets it listens on.
    pub(crate) fn sockets(&self) -> Result<BTreeSet<u64>, NetError> {
        if !self.lives()? {
            return Ok(BTreeSet::new());
        }
        Ok(self.last()?.sockets.clone())
    }

    /// A descriptor that polls readable when the relay has ended; none where it does not run.
    ///
    /// # Errors
    /// Where its files cannot be read.
    pub fn pidfd(&self) -> Result<Option<OwnedFd>, NetError> {
        if !self.lives()? {
            return Ok(None);
        }
        let path = &self.files.process;
        let process: Option<Process> = records::read(path).map_err(file_error("read", path))?;
        let Some(process) = process else {
            return Ok(None); // it is starting or ending just now
        };
        process.open().doing(|| "look at the relay's process".to_owned())
    }

    fn lives(&self) -> Result<bool, NetError> {
        detach::lock::is_held(&self.files.lock).map_err(file_error("look at the lock", &self.files.lock))
    }

    /// What was last written down; nothing where that was in the words of another version, so that it is given anew.
    fn last(&self) -> Result<Arc<Last>, NetError> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, stamp) = (SystemTime::now(), Stamp::of(&self.files.last));
        if let Some((known, last)) = &*remembered
            && stamp == Some(*known)
        {
            return Ok(last.clone());
        }
        let last = match records::read::<Last>(&self.files.last) {
            Err(e) if e.kind() == io::ErrorKind::InvalidData || e.kind() == io::ErrorKind::UnexpectedEof => {
                Arc::default()
            }
            other => Arc::new(
                other
                    .map_err(file_error("read", &self.files.last))?
                    .unwrap_or_default(),
            ),
        };
        let settled = stamp.filter(|stamp| stamp.is_settled(now));
        *remembered = settled.map(|stamp| (stamp, last.clone()));
        Ok(last)
    }

    /// A connection to a relay of our protocol and version that answers, and where it listens.
    fn reach(&self) -> Result<(OwnedFd, BTreeMap<Port, u64>), NetError> {
        if self.lives()? {
            if let Ok((control, (PROTOCOL, version, held))) = self.hello()
                && version == env!("CARGO_PKG_VERSION")
            {
                return Ok((control, held));
            }
            self.end()?;
        }
        records::remove(&self.files.last).map_err(file_error("remove", &self.files.last))?;
        spawn::start_as("relay", &self.run_dir, &self.exe, &self.files)?;
        let (control, (_, _, held)) = self.hello()?;
        Ok((control, held))
    }

    #[expect(clippy::type_complexity, reason = "taken apart at once by the one caller")]
    fn hello(&self) -> Result<(OwnedFd, (u32, String, BTreeMap<Port, u64>)), NetError> {
        let control = control::connected(&self.files.socket)
            .doing(|| format!("reach the relay at {}", self.files.socket.display()))?;
        match ask(&control, &Request::Hello, &[])? {
            Reply::Here {
                protocol,
                version,
                ports,
            } => Ok((control, (protocol, version, ports.into_iter().collect()))),
            other => Err(refused(other)),
        }
    }

    /// Ends the relay and what it left; done where it does not run.
    fn end(&self) -> Result<(), NetError> {
        if let Some(process) = self.pidfd()? {
            stop(&process).doing(|| "end the relay".to_owned())?;
        }
        self.files.clear().map_err(file_error("remove", &self.files.dir))
    }
}

/// Hands over a socket at that port. Gives its inode.
fn listen_at(control: &OwnedFd, port: Port) -> Result<u64, NetError> {
    let doing = || {
        format!(
            "listen on [::1]:{}/{}, for the port published there",
            port.1, port.0
        )
    };
    let socket = bound_socket(port).doing(doing)?;
    let inode = fstat(&socket).map_err(io::Error::from).doing(doing)?.st_ino;
    tell(control, &Request::Listen { port, inode }, socket.as_fd())?;
    Ok(inode)
}

fn bound_socket((protocol, number): Port) -> io::Result<OwnedFd> {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET6, kind, flags, None)?;
    let address = SocketAddrV6::new(Ipv6Addr::LOCALHOST, number, 0, 0);
    match protocol {
        Protocol::Tcp => {
            // Connections of a relay that ended linger in TIME_WAIT. On UDP this would share the port with others.
            sockopt::set_socket_reuseaddr(&socket, true)?;
            bind(&socket, &address)?;
            listen(&socket, BACKLOG)?;
        }
        Protocol::Udp => {
            bind(&socket, &address)?;
            // Better than the system's default, not worth failing for.
            let _ = sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER);
        }
    }
    Ok(socket)
}

fn in_memory(served: &[Served]) -> io::Result<File> {
    let mut file = File::from(memfd_create("ports", MemfdFlags::CLOEXEC)?);
    let mut out = io::BufWriter::new(&file);
    serde_json::to_writer(&mut out, served)?;
    out.flush()?;
    drop(out);
    file.rewind()?;
    Ok(file)
}

fn tell(control: &OwnedFd, request: &Request, fd: BorrowedFd<'_>) -> Result<(), NetError> {
    match ask(control, request, &[fd])? {
        Reply::Done => Ok(()),
        other => Err(refused(other)),
    }
}

fn ask(control: &OwnedFd, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Reply, NetError> {
    let asked = control::send(control, request, fds).and_then(|()| control::receive(control));
    let reply = asked.doing(|| "talk to the relay for [::1]".to_owned())?;
    reply.map(|(reply, _)| reply).ok_or_else(|| {
        NetError::invalid(
            "cannot talk to the relay for [::1]",
            "it ended; it is started again with the next try",
        )
    })
}

fn refused(reply: Reply) -> NetError {
    let why = match reply {
        Reply::Failed { why } => why,
        other => format!("it answered {other:?}"),
    };
    NetError::invalid("the relay for [::1] does not take what it was given", why)
}

fn file_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NetError {
    let path = path.display().to_string();
    move |source| NetError::File { doing, path, source }
}
