//! Hosts, neighbours and containers as network namespaces. Nothing outside them is touched.
#![allow(dead_code)]

mod space;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use model::firewall::{FirewallBridge, FirewallState, PortRule, Protocol};
use model::network::{Attachment, BridgeNetwork, MacAddr};
use net::Net;
use nix::sched::{CloneFlags, setns};

pub use space::{LONG, Space};

/// Long enough that only a packet that was dropped runs into it.
pub const PATIENCE: Duration = Duration::from_millis(400);

/// A host with wharf's networking, a neighbour on the LAN (host 192.0.2.1 and 192.0.2.11, neighbour 192.0.2.2), a
/// thread that stays in the host's namespace.
pub struct Host {
    pub space: Space,
    pub neighbour: Space,
    pub net: Net,
}

pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const SECOND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
pub const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

impl Host {
    pub fn new() -> Self {
        Self::with_bridge_nf(None)
    }

    /// One whose table others can change, as on kernels that cannot keep them from it.
    pub fn shared() -> Self {
        let host = Self::new();
        let net = host.space.run(|| Net::sharing_its_table("test").unwrap());
        Self { net, ..host }
    }

    /// `bridge_nf`: whether bridged packets pass the IP hooks; the machine's default where none.
    pub fn with_bridge_nf(bridge_nf: Option<bool>) -> Self {
        let (space, neighbour) = (Space::new(), Space::new());
        let net = space.run(|| Net::new("test").unwrap());
        if let Some(on) = bridge_nf {
            let path = "/proc/sys/net/bridge/bridge-nf-call-iptables";
            space.sh(&format!("test ! -e {path} || echo {} > {path}", u8::from(on)));
        }
        neighbour.run(|| {
            // The pair is made from the neighbour's side: the host's end is moved by the host's thread id.
            let (to_host, done) = std::sync::mpsc::channel::<()>();
            std::thread::scope(|scope| {
                let (tell, tid) = std::sync::mpsc::channel();
                let space = &space;
                scope.spawn(move || {
                    setns(space.fd(), CloneFlags::CLONE_NEWNET).unwrap();
                    tell.send(nix::unistd::gettid()).unwrap();
                    let _ = done.recv();
                });
                let tid = tid.recv().unwrap();
                let line = format!("ip link add eth0 type veth peer name lan netns {tid}");
                assert!(Command::new("sh").args(["-c", &line]).status().unwrap().success());
                drop(to_host);
            });
        });
        neighbour.sh("ip addr add 192.0.2.2/24 dev eth0; ip link set eth0 up");
        space.sh("ip addr add 192.0.2.1/24 dev lan; ip addr add 192.0.2.11/24 dev lan; ip link set lan up");
        for end in [&space, &neighbour] {
            end.sh("until ip link show type veth | grep -q 'state UP'; do sleep 0.01; done");
        }
        Self {
            space,
            neighbour,
            net,
        }
    }

    /// Applies a network: bridge and firewall.
    pub fn apply(&self, networks: &[&BridgeNetwork], ports: Vec<PortRule>) -> FirewallState {
        let state = FirewallState {
            bridges: networks.iter().map(|n| bridge_rule(n)).collect(),
            ports,
        }
        .sorted();
        self.space.run(|| {
            for n in networks {
                self.net.apply_bridge(n).unwrap();
            }
            self.net.apply_firewall(&state).unwrap();
        });
        state
    }

    /// A container on that network.
    pub fn container(&self, n: &BridgeNetwork, number: u8) -> Container {
        let space = Space::new();
        let at = attachment(n, number);
        self.space
            .run(|| self.net.attach(space.fd(), &at, &format!("c{number}")).unwrap());
        Container { space, at }
    }
}

pub struct Container {
    pub space: Space,
    pub at: Attachment,
}

impl Container {
    pub fn ip(&self) -> Ipv4Addr {
        self.at.ip
    }
}

pub fn network(name: &str, third: u8) -> BridgeNetwork {
    BridgeNetwork {
        name: name.parse().unwrap(),
        bridge: net::bridge_name(name),
        subnet: format!("10.88.{third}.0/24").parse().unwrap(),
        gateway: Ipv4Addr::new(10, 88, third, 1),
        range: None,
        mtu: None,
        internal: false,
        masquerade: true,
    }
}

pub fn bridge_rule(n: &BridgeNetwork) -> FirewallBridge {
    FirewallBridge {
        bridge: n.bridge.clone(),
        subnet: n.subnet,
        masquerade: n.masquerade,
        internal: n.internal,
        dns_port: None,
    }
}

pub fn attachment(n: &BridgeNetwork, number: u8) -> Attachment {
    let [a, b, c, _] = n.gateway.octets();
    let ip = Ipv4Addr::new(a, b, c, number);
    Attachment {
        network: n.name.clone(),
        device: "eth0".to_owned(),
        host_device: net::host_device_name(&format!("{c:04x}{number:04x}beef"), 0),
        bridge: n.bridge.clone(),
        ip,
        prefix: n.subnet.prefix_len(),
        mac: MacAddr::of_lease(ip),
        gateway: Some(n.gateway),
        mtu: None,
        aliases: Vec::new(),
    }
}

pub fn port(protocol: Protocol, ip: Option<Ipv4Addr>, host: u16, to: &Attachment, target: u16) -> PortRule {
    PortRule {
        protocol,
        host_ip: ip,
        host_port: host,
        target_ip: to.ip,
        target_port: target,
        bridge: to.bridge.clone(),
        allow: Vec::new(),
        container: "web".parse().unwrap(),
        service: None,
    }
}

/// A server that tells everybody who comes its word and the caller's address; ends with the test's process.
pub fn serve(space: &Space, ip: Ipv4Addr, port: u16, word: &'static str) {
    let (tcp, udp) = space.run(|| {
        (
            TcpListener::bind((ip, port)).unwrap(),
            UdpSocket::bind((ip, port)).unwrap(),
        )
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let from = stream.peer_addr().unwrap().ip();
            let _ = stream.write_all(format!("{word} {from}").as_bytes());
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(format!("{word} {}", from.ip()).as_bytes(), from);
        }
    });
}

/// What a server says to somebody there.
pub fn ask(space: &Space, protocol: Protocol, to: Ipv4Addr, port: u16) -> String {
    space.run(|| try_ask(protocol, to, port, LONG).unwrap_or_else(|e| panic!("{protocol} {to}:{port}: {e}")))
}

/// That nothing answers any of them: TCP and UDP from there to that address and port. All at once, as each takes its
/// time.
pub fn refuse_all(what: &str, knocks: &[(&Space, Ipv4Addr, u16)]) {
    std::thread::scope(|scope| {
        for &(space, to, port) in knocks {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                scope.spawn(move || {
                    let got = space.run(|| try_ask(protocol, to, port, PATIENCE));
                    assert!(got.is_err(), "{what}: {protocol} {to}:{port} answered {got:?}");
                });
            }
        }
    });
}

/// That nothing answers.
pub fn refuse(space: &Space, protocol: Protocol, to: Ipv4Addr, port: u16) {
    let got = space.run(|| try_ask(protocol, to, port, PATIENCE));
    assert!(got.is_err(), "{protocol} {to}:{port} answered {got:?}");
}

pub fn try_ask(protocol: Protocol, to: Ipv4Addr, port: u16, patience: Duration) -> std::io::Result<String> {
    let to = SocketAddr::from((to, port));
    match protocol {
        Protocol::Tcp => {
            let mut stream = TcpStream::connect_timeout(&to, patience)?;
            stream.set_read_timeout(Some(patience))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        }
        Protocol::Udp => {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(to)?;
            talk(&socket, patience)
        }
    }
}

/// One question and answer over a connected UDP socket.
pub fn talk(socket: &UdpSocket, patience: Duration) -> std::io::Result<String> {
    socket.set_read_timeout(Some(patience))?;
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let count = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
}

/// The answer, or an error soon.
pub fn talk_long(socket: &UdpSocket) -> String {
    talk(socket, LONG).unwrap()
}
