//! The loop: one thread, everything it waits for in one epoll.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use model::firewall::Protocol;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, sockopt};

use super::control::{PROTOCOL, Port, Reply, Request, Served};
use super::datagrams::Sessions;
use super::poller::{Interest, Poller, Token};
use super::stream::{Stream, refuse};
use crate::dns::control;

/// As large as a datagram can be.
const BUFFER: usize = 65_536;
/// Connections or datagrams taken from one socket before the others have their turn.
const TURN: usize = 64;
/// Connections at once; who comes when there are so many is turned away.
const MOST: usize = 2048;
/// Connections of agents: one, and another that takes over from it.
const MOST_AGENTS: usize = 8;
/// How often it is looked who is idle, where there is somebody who may be.
const TICK: Duration = Duration::from_secs(15);

/// All of the relay.
#[derive(Debug)]
pub struct Server {
    poller: Poller,
    control: OwnedFd,
    agents: BTreeMap<u64, OwnedFd>,
    ports: BTreeMap<u64, Listener>,
    streams: HashMap<u64, Stream>,
    sessions: Sessions,
    /// Numbers all of these.
    counter: u64,
    buffer: Box<[u8]>,
}

#[derive(Debug)]
struct Listener {
    port: Port,
    inode: u64,
    socket: Socket,
    targets: Vec<SocketAddr>,
    /// Counts what came, so that several targets take turns.
    turn: usize,
}

#[derive(Debug)]
enum Socket {
    Tcp(OwnedFd),
    Udp(UdpSocket),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(fd) => fd.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

impl Listener {
    fn next(&mut self) -> Option<SocketAddr> {
        let count = self.targets.len();
        self.turn = self.turn.wrapping_add(1);
        self.targets.get(self.turn.checked_rem(count)?).copied()
    }
}

impl Server {
    /// One that serves nothing yet and listens to agents alone.
    pub fn new(control: OwnedFd) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(&control, Token::Control, Interest::READ)?;
        Ok(Self {
            poller,
            control,
            agents: BTreeMap::new(),
            ports: BTreeMap::new(),
            streams: HashMap::new(),
            sessions: Sessions::default(),
            counter: 0,
            buffer: vec![0; BUFFER].into(),
        })
    }

    /// Serves until the kernel gives no more events.
    pub fn run(&mut self) -> io::Result<Infallible> {
        let mut ready = Vec::new();
        let mut looked = Instant::now();
        loop {
            let most = (!self.sessions.is_empty()).then_some(TICK);
            self.poller.wait(&mut ready, most)?;
            for token in &ready {
                self.ready(*token);
            }
            let now = Instant::now();
            if now >= looked + TICK {
                looked = now;
                self.sessions.expire(now);
            }
        }
    }

    fn ready(&mut self, token: Token) {
        match token {
            Token::Control => self.accept_agent(),
            Token::Agent(number) => self.agent(number),
            Token::Port(number) => self.come(number),
            Token::Client(number) | Token::Target(number) => {
                let Some(stream) = self.streams.get_mut(&number) else {
                    return;
                };
                if !stream.ready(&self.poller, &mut self.buffer) {
                    self.streams.remove(&number);
                }
            }
            Token::Session(number) => self.answer(number),
        }
    }

    /// Somebody came to a port.
    fn come(&mut self, number: u64) {
        for _ in 0..TURN {
            let Some(listener) = self.ports.get_mut(&number) else {
                return;
            };
            self.counter += 1;
            match &listener.socket {
                Socket::Tcp(socket) => {
                    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                    let client = match accept_with(socket, flags) {
                        Ok(client) => TcpStream::from(client),
                        Err(Errno::MFILE | Errno::NFILE) => return self.make_room(),
                        Err(_) => return,
                    };
                    let Some(to) = listener.next().filter(|_| self.streams.len() < MOST) else {
                        refuse(&client);
                        continue;
                    };
                    if let Ok(stream) = Stream::begin(&self.poller, self.counter, client, to) {
                        self.streams.insert(self.counter, stream);
                    }
                }
                Socket::Udp(socket) => {
                    let (count, from) = match socket.recv_from(&mut self.buffer) {
                        Ok(received) => received,
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                        // An error of an answer sent before: nobody is there any more.
                        Err(_) => continue,
                    };
                    let datagram = &self.buffer[..count];
                    let sender = (number, from);
                    self.sessions
                        .send(&self.poller, self.counter, sender, || listener.next(), datagram);
                }
            }
        }
    }

    /// Without a descriptor a listening socket would be ready for ever.
    fn make_room(&mut self) {
        let oldest = self.streams.keys().min().copied();
        match oldest {
            Some(oldest) => drop(self.streams.remove(&oldest)),
            None => self.sessions.drop_oldest(),
        }
    }

    fn answer(&mut self, number: u64) {
        for _ in 0..TURN {
            let Some((port, sender, count)) = self.sessions.receive(number, &mut self.buffer) else {
                return;
            };
            if let Some(Socket::Udp(socket)) = self.ports.get(&port).map(|l| &l.socket) {
                // Whoever asked may be gone.
                let _ = socket.send_to(&self.buffer[..count], sender);
            }
        }
    }

    fn accept_agent(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(agent) = accept_with(&self.control, flags) else {
            return; // whoever it was is gone
        };
        let is_root = sockopt::socket_peercred(&agent).is_ok_and(|who| who.uid.is_root());
        self.counter += 1;
        let token = Token::Agent(self.counter);
        let room = self.agents.len() < MOST_AGENTS;
        if is_root && room && self.poller.add(&agent, token, Interest::READ).is_ok() {
            self.agents.insert(self.counter, agent);
        }
    }

    /// Does what an agent asks.
    fn agent(&mut self, number: u64) {
        let Some(agent) = self.agents.get(&number) else {
            return;
        };
        let reply = match control::receive::<Request>(agent) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            Ok(None) => None,
            Ok(Some((request, fds))) => Some(self.obey(request, fds)),
            Err(e) => Some(failed("cannot read what the agent asks", &e)),
        };
        let sent = match (&reply, self.agents.get(&number)) {
            (Some(reply), Some(agent)) => control::send(agent, reply, &[]).is_ok(),
            _ => false,
        };
        if !sent {
            self.agents.remove(&number);
        }
    }

    fn obey(&mut self, request: Request, fds: Vec<OwnedFd>) -> Reply {
        let one = <[OwnedFd; 1]>::try_from(fds);
        let done = match (request, one) {
            (Request::Hello, _) => {
                return Reply::Here {
                    protocol: PROTOCOL,
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    ports: self.ports.values().map(|l| (l.port, l.inode)).collect(),
                };
            }
            (Request::Listen { port, inode }, Ok([socket])) => self.listen(port, inode, socket),
            (Request::Give, Ok([memory])) => self.take(File::from(memory)),
            (_, Err(_)) => return failed("cannot do that", &"a descriptor is needed"),
        };
        match done {
            Ok(()) => Reply::Done,
            Err(e) => failed("cannot do that", &e),
        }
    }

    fn listen(&mut self, port: Port, inode: u64, socket: OwnedFd) -> io::Result<()> {
        self.close_others(|listener| listener.port != port);
        self.counter += 1;
        self.poller
            .add(&socket, Token::Port(self.counter), Interest::READ)?;
        let socket = match port.0 {
            Protocol::Tcp => Socket::Tcp(socket),
            Protocol::Udp => Socket::Udp(socket.into()),
        };
        let listener = Listener {
            port,
            inode,
            socket,
            targets: Vec::new(),
            turn: 0,
        };
        self.ports.insert(self.counter, listener);
        Ok(())
    }

    /// Connections go on as they began; datagrams go where the port leads now.
    fn take(&mut self, memory: File) -> io::Result<()> {
        let served: Vec<Served> = serde_json::from_reader(io::BufReader::new(memory))?;
        let served: BTreeMap<Port, Vec<SocketAddr>> = served
            .into_iter()
            .map(|served| (served.port, served.targets))
            .collect();
        self.close_others(|listener| served.contains_key(&listener.port));
        for listener in self.ports.values_mut() {
            if let Some(targets) = served.get(&listener.port) {
                listener.targets.clone_from(targets);
            }
        }
        let ports = &self.ports;
        self.sessions
            .keep(|port, target| ports.get(&port).is_some_and(|l| l.targets.contains(target)));
        Ok(())
    }

    fn close_others(&mut self, keep: impl Fn(&Listener) -> bool) {
        let poller = &self.poller;
        self.ports.retain(|_, listener| {
            let kept = keep(listener);
            if !kept {
                // The agent may have its descriptor still.
                poller.remove(&listener.socket);
            }
            kept
        });
    }
}

fn failed(what: &str, why: &dyn std::fmt::Display) -> Reply {
    Reply::Failed {
        why: format!("{what}: {why}"),
    }
}
