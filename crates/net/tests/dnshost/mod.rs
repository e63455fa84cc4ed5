//! A host with bridges and containers in namespaces of their own, a name server on it, and something to ask it with.
#![allow(dead_code)] // each test file uses its part

#[path = "../host/space.rs"]
mod space;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use model::dns::{DnsEndpoint, DnsNetwork, DnsState};
use model::name::ContainerId;
use net::dns::{NameServer, Namespace};

pub use space::{LONG, Space};

/// Networks are `a` (10.81.0.0/24), `b` (10.82.0.0/24), …; the gateway has the first address.
pub struct Host {
    pub space: Space,
    pub dir: tempfile::TempDir,
    pub server: NameServer,
    pub state: DnsState,
}

pub fn exe() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_net-testbin"))
}

pub fn gateway(network: &str) -> Ipv4Addr {
    Ipv4Addr::new(10, 80 + network.as_bytes()[0] - b'a' + 1, 0, 1)
}

pub fn address(network: &str, number: u8) -> Ipv4Addr {
    let [a, b, c, _] = gateway(network).octets();
    Ipv4Addr::new(a, b, c, number)
}

pub fn gateway6(network: &str) -> Ipv6Addr {
    address6(network, 1)
}

pub fn address6(network: &str, number: u8) -> Ipv6Addr {
    let octet = u16::from(gateway(network).octets()[1]);
    Ipv6Addr::new(0xfd00, octet, 0, 0, 0, 0, 0, number.into())
}

impl Host {
    /// Bridges for these networks; nothing runs yet.
    pub fn new(networks: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut host = Self {
            space: Space::new(),
            server: NameServer::new(&dir.path().join("run"), exe())
                .with_resolv_conf(&resolv_conf(dir.path())),
            dir,
            state: DnsState::default(),
        };
        for network in networks {
            host.add_network(network);
        }
        host
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// The same run dir in the hands of another agent.
    pub fn another(&self) -> NameServer {
        NameServer::new(&self.run_dir(), exe()).with_resolv_conf(&resolv_conf(self.dir.path()))
    }

    pub fn write_resolv_conf(&self, text: &str) {
        std::fs::write(resolv_conf(self.dir.path()), text).unwrap();
    }

    pub fn add_network(&mut self, name: &str) {
        let gateway = gateway(name);
        self.space.sh(&format!(
            "ip link add br-{name} type bridge forward_delay 0; ip addr add {gateway}/24 dev br-{name}; ip link set br-{name} up"
        ));
        let network = DnsNetwork {
            gateways: vec![gateway.into()],
            subnets: vec![format!("{gateway}/24").parse::<ipnet::IpNet>().unwrap().trunc()],
            bridge: format!("br-{name}"),
            internal: false,
            hosts: Default::default(),
        };
        self.state.networks.insert(name.parse().unwrap(), network);
    }

    /// A container in a namespace of its own with `eth0`, … in these places (network, number, further names); the first
    /// network's gateway is its way out.
    pub fn container(&mut self, name: &str, places: &[(&str, u8, &[&str])]) -> Space {
        let space = Space::new();
        for (index, (network, number, aliases)) in places.iter().enumerate() {
            let (ip, end) = (address(network, *number), format!("v{network}{number}"));
            self.space.sh(&format!(
                "ip link add {end} type veth peer name eth{index} netns {}; \
                 ip link set {end} master br-{network}; ip link set {end} up",
                space.path()
            ));
            space.sh(&format!(
                "ip addr add {ip}/24 dev eth{index}; ip link set eth{index} up"
            ));
            self.name(name, network, *number, aliases);
        }
        space.sh(&format!("ip route add default via {}", gateway(places[0].0)));
        space
    }

    /// Gives a network IPv6 beside IPv4.
    pub fn add_v6(&mut self, network: &str) {
        let gateway = gateway6(network);
        self.space
            .sh(&format!("ip addr add {gateway}/64 dev br-{network} nodad"));
        // The kernel makes its route a moment later: until then it is no address to listen at.
        let start = Instant::now();
        while self
            .space
            .sh(&format!("ip -6 route show table local to {gateway}"))
            .is_empty()
        {
            assert!(start.elapsed() < LONG, "{gateway} is never the host's");
            std::thread::sleep(Duration::from_millis(5));
        }
        let network = self.state.networks.get_mut(network).unwrap();
        network.gateways.push(gateway.into());
        let subnet: ipnet::IpNet = format!("{gateway}/64").parse().unwrap();
        network.subnets.push(subnet.trunc());
    }

    /// Gives a container an IPv6 address beside the one it has on eth0.
    pub fn give_v6(&mut self, space: &Space, name: &str, network: &str, number: u8) {
        let ip = address6(network, number);
        space.sh(&format!("ip addr add {ip}/64 dev eth0 nodad"));
        let container = self.state.containers.get_mut(name).unwrap();
        container.endpoints.get_mut(network).unwrap().ips.push(ip.into());
    }

    /// A container in the state alone.
    pub fn name(&mut self, name: &str, network: &str, number: u8, aliases: &[&str]) {
        let endpoint = DnsEndpoint {
            ips: vec![address(network, number).into()],
            names: [name].iter().chain(aliases).map(|n| (*n).to_owned()).collect(),
        };
        let container = self.state.containers.entry(name.parse().unwrap()).or_default();
        container.endpoints.insert(network.parse().unwrap(), endpoint);
    }

    pub fn apply(&self) {
        self.apply_with(&nowhere);
    }

    /// `namespaces`: of those who ask inside.
    pub fn apply_with(&self, namespaces: &(dyn Fn(&ContainerId) -> Asked + Sync)) {
        self.space
            .run(|| self.server.apply(&self.state, namespaces))
            .unwrap();
        assert_eq!(self.server.observe().unwrap().as_ref(), Some(&self.state));
    }

    pub fn pid(&self) -> i32 {
        let text = std::fs::read_to_string(self.run_dir().join("dns/process.json")).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        i32::try_from(value["pid"].as_i64().unwrap()).unwrap()
    }

    /// Servers at these addresses of the host, which do not listen yet.
    pub fn upstreams(&mut self, addresses: &[&str]) {
        for address in addresses {
            self.space.sh(&format!("ip addr add {address}/32 dev lo"));
        }
        self.state.upstreams = addresses.iter().map(|a| a.parse().unwrap()).collect();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let ended = self.server.apply(&DnsState::default(), &nowhere);
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

/// A namespace that is asked in, or none.
pub type Asked = Result<Option<Namespace>, String>;

/// No container asks inside.
pub fn nowhere(_: &ContainerId) -> Asked {
    Ok(None)
}

fn resolv_conf(dir: &Path) -> PathBuf {
    dir.join("resolv.conf")
}

/// Which way a question goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Udp,
    Tcp,
}

pub const BOTH: [Way; 2] = [Way::Udp, Way::Tcp];

pub fn question(name: &str, kind: RecordType) -> Message {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(1);
    let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    message.add_query(Query::query(name, kind));
    message
}

pub fn with_edns(mut message: Message, size: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(size);
    message.set_edns(edns);
    message
}

/// Asks one message and gives the answer to it, in the namespace of the thread.
pub fn exchange(message: &Message, way: Way, server: SocketAddr) -> Message {
    try_exchange(message, way, server, LONG).unwrap_or_else(|e| panic!("{message:?} {server}: {e}"))
}

/// The same, where it may be that nobody answers.
///
/// # Errors
///
/// None came in time, or the connection was not taken.
pub fn try_exchange(
    message: &Message,
    way: Way,
    server: SocketAddr,
    patience: Duration,
) -> std::io::Result<Message> {
    let bytes = message.to_vec().unwrap();
    let reply = match way {
        Way::Udp => {
            let socket = udp_to(server);
            socket.set_read_timeout(Some(patience))?;
            socket.send(&bytes)?;
            let mut buffer = vec![0; 65536];
            let count = socket.recv(&mut buffer)?;
            buffer.truncate(count);
            buffer
        }
        Way::Tcp => {
            let mut stream = TcpStream::connect_timeout(&server, patience)?;
            stream.set_read_timeout(Some(patience))?;
            stream.write_all(&frame(&bytes))?;
            read_frame(&mut stream)?
        }
    };
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(reply.metadata.id, message.metadata.id);
    assert_eq!(reply.metadata.message_type, MessageType::Response);
    assert_eq!(reply.queries, message.queries);
    Ok(reply)
}

/// A socket that asks there.
pub fn udp_to(server: SocketAddr) -> UdpSocket {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.connect(server).unwrap();
    socket
}

/// As it goes over TCP: RFC 1035 §4.2.2.
fn frame(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    [&length, bytes].concat()
}

pub fn write_frame(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(&frame(bytes)).unwrap();
}

pub fn read_frame(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The answer in a word: addresses in order, `-> name`, or the code; `+soa` where an authority came along.
pub fn told(reply: &Message) -> String {
    let mut words: Vec<String> = reply
        .answers
        .iter()
        .map(|r| match &r.data {
            RData::A(a) => a.to_string(),
            RData::AAAA(a) => a.to_string(),
            RData::PTR(name) => format!("-> {}", name.to_ascii().trim_end_matches('.')),
            other => format!("{other:?}"),
        })
        .collect();
    words.sort();
    if words.is_empty() {
        words.push(match reply.metadata.response_code {
            ResponseCode::NoError => "nothing".to_owned(),
            ResponseCode::NXDomain => "no such name".to_owned(),
            other => format!("{other:?}"),
        });
    }
    if reply
        .authorities
        .iter()
        .any(|r| r.record_type() == RecordType::SOA)
    {
        words.push("+soa".to_owned());
    }
    words.join(" ")
}

/// What a server at a gateway's port 53 tells somebody in that namespace.
pub fn ask(space: &Space, server: impl Into<IpAddr>, way: Way, name: &str, kind: RecordType) -> String {
    let (message, server) = (question(name, kind), SocketAddr::new(server.into(), 53));
    space.run(|| told(&exchange(&message, way, server)))
}

/// What an upstream answers to a question: none is silence.
pub type Handler = dyn Fn(&Message, Way) -> Option<Message> + Send + Sync;

/// A server of the world outside, at port 53 of an address of the host; ends with the test's process.
pub struct Upstream {
    /// The names asked for in lower case, in order, with the way and where from.
    pub asked: Arc<Mutex<Vec<(String, Way, SocketAddr)>>>,
}

impl Upstream {
    pub fn new(
        space: &Space,
        ip: &str,
        handler: impl Fn(&Message, Way) -> Option<Message> + Send + Sync + 'static,
    ) -> Self {
        let ip: IpAddr = ip.parse().unwrap();
        let (tcp, udp) = space.run(|| {
            (
                TcpListener::bind((ip, 53)).unwrap(),
                UdpSocket::bind((ip, 53)).unwrap(),
            )
        });
        let (asked, handler): (Arc<Mutex<Vec<_>>>, Arc<Handler>) = (Arc::default(), Arc::new(handler));
        let (log, handle) = (asked.clone(), handler.clone());
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while let Ok((count, from)) = udp.recv_from(&mut buffer) {
                if let Some(reply) = respond(&buffer[..count], Way::Udp, from, &log, &*handle) {
                    let _ = udp.send_to(&reply, from);
                }
            }
        });
        let log = asked.clone();
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let from = stream.peer_addr().unwrap();
                while let Ok(packet) = read_frame(&mut stream) {
                    match respond(&packet, Way::Tcp, from, &log, &*handler) {
                        Some(reply) => write_frame(&mut stream, &reply),
                        None => break,
                    }
                }
            }
        });
        Self { asked }
    }

    /// The names in order, each repetition (a busy machine makes for some) left out.
    pub fn names(&self) -> Vec<String> {
        self.without_repetitions(|(name, ..)| name.clone())
    }

    pub fn ways(&self) -> Vec<Way> {
        self.without_repetitions(|(_, way, _)| *way)
    }

    fn without_repetitions<T: PartialEq>(&self, of: impl Fn(&(String, Way, SocketAddr)) -> T) -> Vec<T> {
        let mut all: Vec<T> = self.asked.lock().unwrap().iter().map(of).collect();
        all.dedup();
        all
    }

    /// How often a name was asked for.
    pub fn count(&self, wanted: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(name, ..)| name == wanted).count()
    }
}

fn respond(
    packet: &[u8],
    way: Way,
    from: SocketAddr,
    log: &Mutex<Vec<(String, Way, SocketAddr)>>,
    handler: &Handler,
) -> Option<Vec<u8>> {
    let message = Message::from_vec(packet).unwrap();
    let name = message.queries[0].name().to_ascii().to_ascii_lowercase();
    log.lock().unwrap().push((name, way, from));
    handler(&message, way).map(|reply| reply.to_vec().unwrap())
}

/// An answer with so many addresses, beginning with this one; without any, this code.
pub fn answer(to: &Message, code: ResponseCode, first: &str, count: u8) -> Message {
    let mut reply = to.clone().into_response();
    reply.metadata.response_code = code;
    reply.metadata.recursion_available = true;
    let [a, b, c, d] = first.parse::<Ipv4Addr>().unwrap().octets();
    for n in 0..count {
        let data = RData::A(A(Ipv4Addr::new(a, b, c, d + n)));
        reply.add_answer(Record::from_rdata(to.queries[0].name().clone(), 60, data));
    }
    reply
}

/// Answers everything with one address.
pub fn says(address: &'static str) -> impl Fn(&Message, Way) -> Option<Message> + Send + Sync {
    move |to, _| Some(answer(to, ResponseCode::NoError, address, 1))
}
