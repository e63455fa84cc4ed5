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
use rustix::net::{SocketFlags, accept_with};

use super::control::{Place, Port, ROLE, Served};
use super::datagrams::Sessions;
use super::stream::{Stream, refuse};
use super::token::{Kind, Poller, Token};
use crate::apart::agents::{self, Agents, exactly};
use crate::apart::poller::Interest;
use crate::apart::{self, Role};

/// As large as a datagram can be.
const BUFFER: usize = 65_536;
/// Connections or datagrams taken from one socket before the others have their turn.
const TURN: usize = 64;
/// Connections at once; who comes when there are so many is turned away.
const MOST: usize = 2048;
/// How often it is looked who is idle, where there is somebody who may be.
const TICK: Duration = Duration::from_secs(15);

/// All of the relay.
#[derive(Debug)]
pub struct Server {
    poller: Poller,
    agents: Agents,
    ports: BTreeMap<u64, Listener>,
    streams: HashMap<u64, Stream>,
    sessions: Sessions,
    /// Numbers all of these.
    counter: u64,
    buffer: Box<[u8]>,
}

#[derive(Debug)]
struct Listener {
    place: Place,
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

impl apart::Server for Server {
    const ROLE: Role = ROLE;
    type Place = Place;

    fn new(control: OwnedFd) -> io::Result<Self> {
        let poller = Poller::new()?;
        Ok(Self {
            agents: Agents::new(control, &poller)?,
            poller,
            ports: BTreeMap::new(),
            streams: HashMap::new(),
            sessions: Sessions::default(),
            counter: 0,
            buffer: vec![0; BUFFER].into(),
        })
    }

    fn run(&mut self) -> io::Result<Infallible> {
        let mut ready = Vec::new();
        let mut looked = Instant::now();
        loop {
            let next = (!self.sessions.is_empty()).then(|| Instant::now() + TICK);
            self.poller.wait(&mut ready, next)?;
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

    fn agents(&mut self) -> &mut Agents {
        &mut self.agents
    }

    fn places(&self) -> Vec<Place> {
        self.ports.values().map(|l| l.place).collect()
    }

    fn listen(&mut self, place: Place, sockets: Vec<OwnedFd>) -> io::Result<()> {
        let [socket] = exactly(sockets)?;
        self.close_others(|listener| listener.place.port != place.port);
        self.counter += 1;
        self.poller
            .add(&socket, Token::Own(Kind::Port, self.counter), Interest::READ)?;
        let socket = match place.port.protocol {
            Protocol::Tcp => Socket::Tcp(socket),
            Protocol::Udp => Socket::Udp(socket.into()),
        };
        let listener = Listener {
            place,
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
        self.close_others(|listener| served.contains_key(&listener.place.port));
        for listener in self.ports.values_mut() {
            if let Some(targets) = served.get(&listener.place.port) {
                listener.targets.clone_from(targets);
            }
        }
        let ports = &self.ports;
        self.sessions
            .keep(|port, target| ports.get(&port).is_some_and(|l| l.targets.contains(target)));
        Ok(())
    }
}

impl Server {
    fn ready(&mut self, token: Token) {
        match token {
            Token::Control => self.agents.accept(&self.poller),
            Token::Agent(number) => agents::serve(self, number),
            Token::Own(Kind::Port, number) => self.come(number),
            Token::Own(Kind::Client | Kind::Target, number) => {
                let Some(stream) = self.streams.get_mut(&number) else {
                    return;
                };
                if !stream.ready(&self.poller, &mut self.buffer) {
                    self.streams.remove(&number);
                }
            }
            Token::Own(Kind::Session, number) => self.answer(number),
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
