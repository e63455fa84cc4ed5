//! The agent's handle on the name server.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use model::dns::DnsState;
use model::name::Name;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Signal, pidfd_send_signal};
use stamp::Stamp;

use super::control::{self, Given, PROTOCOL, Reply, Request};
use super::files::{self, Files, Last, Process};
use super::{bind, resolv, spawn};
use crate::NetError;
use crate::error::Doing;

/// Stands for "none at all" where an empty list would mean "those of the host".
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The name server of one run dir, which is one process, in the network namespace [`Self::apply`] is called in.
#[derive(Debug)]
pub struct NameServer {
    run_dir: PathBuf,
    exe: PathBuf,
    resolv_conf: PathBuf,
    files: Files,
    /// What was last read of what was written down, and of which file.
    remembered: Mutex<Option<(Stamp, Option<Arc<Last>>)>>,
}

impl NameServer {
    /// `exe`: the program that runs [`super::main`] when its first argument is `dns`.
    pub fn new(run_dir: &Path, exe: &Path) -> Self {
        // The server is started in another working directory.
        let run_dir = std::path::absolute(run_dir).unwrap_or_else(|_| run_dir.to_owned());
        Self {
            files: Files::new(&run_dir),
            remembered: Mutex::default(),
            run_dir,
            exe: exe.to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
        }
    }

    /// Reads the host's servers from another file.
    #[must_use]
    pub fn with_resolv_conf(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.resolv_conf);
        self
    }

    /// What the server was last given; none where it does not run; nothing in it where it runs and was given nothing
    /// yet. Where the host's resolv.conf has changed since, `upstreams` holds the servers that are asked until the next
    /// [`Self::apply`], so that this differs from a state that wishes for the host's.
    ///
    /// # Errors
    /// Where its files cannot be read.
    pub fn observe(&self) -> Result<Option<DnsState>, NetError> {
        if !self.lives()? {
            return Ok(None);
        }
        let Some(last) = self.last()? else {
            return Ok(Some(DnsState::default()));
        };
        let given = &last.given;
        let mut state = given.state.clone();
        if state.upstreams.is_empty() && self.upstreams(&state)? != given.upstreams {
            state.upstreams = given.upstreams.iter().map(SocketAddr::ip).collect();
            if state.upstreams.is_empty() {
                state.upstreams.push(NOBODY);
            }
        }
        Ok(Some(state))
    }

    /// Makes the server answer this, starting it where it does not run; returns when it does. Without networks it ends.
    ///
    /// # Errors
    /// Where a gateway cannot be bound, or the server cannot be started or does not take it.
    pub fn apply(&self, state: &DnsState) -> Result<(), NetError> {
        if state.networks.is_empty() {
            return self.end();
        }
        let given = Given {
            upstreams: self.upstreams(state)?,
            state: state.clone(),
        };
        let (control, held) = self.reach()?;
        let listeners = listen(&control, &given.state, held)?;
        give(&control, &given)?;
        let ports = state
            .networks
            .iter()
            .filter_map(|(name, network)| Some((name.clone(), *listeners.get(network.gateways.first()?)?)))
            .filter(|(_, port)| *port != resolv::PORT)
            .collect();
        self.write_last(&Last { given, ports })
    }

    /// Networks whose server listens on another port than 53, because somebody else has that on all addresses: the
    /// firewall is to redirect there. Empty where the server does not run.
    ///
    /// # Errors
    /// Where its files cannot be read.
    pub fn ports(&self) -> Result<BTreeMap<Name, u16>, NetError> {
        if !self.lives()? {
            return Ok(BTreeMap::new());
        }
        Ok(self.last()?.map(|last| last.ports.clone()).unwrap_or_default())
    }

    /// A descriptor that polls readable when the server has ended; none where it does not run.
    ///
    /// # Errors
    /// Where its files cannot be read.
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
            .doing(|| "look at the name server's process".to_owned())
    }

    fn lives(&self) -> Result<bool, NetError> {
        detach::lock::is_held(&self.files.lock).map_err(file_error("look at the lock", &self.files.lock))
    }

    /// What was last written down; nothing where that was in the words of another version, so that it is given anew.
    fn last(&self) -> Result<Option<Arc<Last>>, NetError> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, stamp) = (SystemTime::now(), Stamp::of(&self.files.last));
        if let Some((known, last)) = &*remembered
            && stamp == Some(*known)
        {
            return Ok(last.clone());
        }
        let last = match files::read(&self.files.last) {
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                ) =>
            {
                None
            }
            other => other.map_err(file_error("read", &self.files.last))?.map(Arc::new),
        };
        let settled = stamp.filter(|stamp| stamp.is_settled(now));
        *remembered = settled.map(|stamp| (stamp, last.clone()));
        Ok(last)
    }

    fn write_last(&self, last: &Last) -> Result<(), NetError> {
        files::write(&self.files.last, last).map_err(file_error("write", &self.files.last))
    }

    /// Who is asked for other names: never ourselves.
    fn upstreams(&self, state: &DnsState) -> Result<Vec<SocketAddr>, NetError> {
        let mut all: Vec<SocketAddr> = if state.upstreams.is_empty() {
            resolv::host_servers(&self.resolv_conf).map_err(file_error("read", &self.resolv_conf))?
        } else {
            let named = state.upstreams.iter();
            named.map(|ip| SocketAddr::new(*ip, resolv::PORT)).collect()
        };
        let gateways: BTreeSet<IpAddr> = all_gateways(state).collect();
        all.retain(|server| !gateways.contains(&server.ip()));
        Ok(all)
    }

    /// A connection to a server of our protocol and version that answers, and what it listens on.
    fn reach(&self) -> Result<(OwnedFd, BTreeMap<IpAddr, u16>), NetError> {
        if self.lives()? {
            if let Ok((control, (PROTOCOL, version, held))) = self.hello()
                && version == env!("CARGO_PKG_VERSION")
            {
                return Ok((control, held));
            }
            self.end()?;
        }
        files::remove(&self.files.last).map_err(file_error("remove", &self.files.last))?;
        spawn::start(&self.run_dir, &self.exe, &self.files)?;
        let (control, (_, _, held)) = self.hello()?;
        Ok((control, held))
    }

    #[expect(clippy::type_complexity, reason = "taken apart at once by the one caller")]
    fn hello(&self) -> Result<(OwnedFd, (u32, String, BTreeMap<IpAddr, u16>)), NetError> {
        let control = control::connected(&self.files.socket)
            .doing(|| format!("reach the name server at {}", self.files.socket.display()))?;
        match ask(&control, &Request::Hello, &[])? {
            Reply::Here {
                protocol,
                version,
                listeners,
            } => Ok((control, (protocol, version, listeners))),
            other => Err(refused(other)),
        }
    }

    /// Ends the server and what it left; done where it does not run.
    fn end(&self) -> Result<(), NetError> {
        // It keeps nothing that would have to be put in order.
        if let Some(process) = self.pidfd()? {
            stop(&process).doing(|| "end the name server".to_owned())?;
        }
        self.files.clear().map_err(file_error("remove", &self.files.dir))
    }
}

/// Kills a process and waits for its end.
pub(crate) fn stop(process: &OwnedFd) -> io::Result<()> {
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

fn all_gateways(state: &DnsState) -> impl Iterator<Item = IpAddr> {
    state.networks.values().flat_map(|n| &n.gateways).copied()
}

/// Hands over a pair of sockets for each gateway that has none. Gives the port of each.
fn listen(
    control: &OwnedFd,
    state: &DnsState,
    mut held: BTreeMap<IpAddr, u16>,
) -> Result<BTreeMap<IpAddr, u16>, NetError> {
    for (name, network) in &state.networks {
        let made = bind::listeners(&network.gateways, |gateway| held.get(gateway).copied()).doing(|| {
            let gateways: Vec<String> = network.gateways.iter().map(ToString::to_string).collect();
            let gateways = gateways.join(" and ");
            format!("listen on {gateways}, where network {name} has its gateway, for name queries")
        })?;
        for at in made {
            let (gateway, port) = (at.gateway, at.port);
            let listen = Request::Listen { gateway, port };
            match ask(control, &listen, &[at.udp.as_fd(), at.tcp.as_fd()])? {
                Reply::Done => held.insert(gateway, port),
                other => return Err(refused(other)),
            };
        }
    }
    Ok(held)
}

/// Hands over the names.
fn give(control: &OwnedFd, given: &Given) -> Result<(), NetError> {
    let memory = in_memory(given).doing(|| "write down the names for the name server".to_owned())?;
    let gateways = all_gateways(&given.state).collect();
    match ask(control, &Request::Give { gateways }, &[memory.as_fd()])? {
        Reply::Done => Ok(()),
        other => Err(refused(other)),
    }
}

fn in_memory(given: &Given) -> io::Result<File> {
    let mut file = File::from(memfd_create("names", MemfdFlags::CLOEXEC)?);
    let mut out = io::BufWriter::new(&file);
    serde_json::to_writer(&mut out, given)?;
    out.flush()?;
    drop(out);
    file.rewind()?;
    Ok(file)
}

fn ask(control: &OwnedFd, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Reply, NetError> {
    let asked = control::send(control, request, fds).and_then(|()| control::receive(control));
    let reply = asked.doing(|| "talk to the name server".to_owned())?;
    reply.map(|(reply, _)| reply).ok_or_else(|| {
        NetError::invalid(
            "cannot talk to the name server",
            "it ended; it is started again with the next try",
        )
    })
}

fn refused(reply: Reply) -> NetError {
    let why = match reply {
        Reply::Failed { why } => why,
        other => format!("it answered {other:?}"),
    };
    NetError::invalid("the name server does not take what it was given", why)
}

fn file_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NetError {
    let path = path.display().to_string();
    move |source| NetError::File { doing, path, source }
}
