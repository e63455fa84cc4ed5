//! Hosts, neighbours and containers as network namespaces. Nothing outside them is touched.
#![allow(dead_code)]

mod backends;
pub mod senders;
mod space;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use model::families::Families;
use model::firewall::{FirewallBridge, FirewallState, LinkRule, PortRule, Protocol};
use model::network::{Address4, Address6, Attachment, HostNetwork, MacAddr, Subnet4, Subnet6};
use net::Net;
use nix::sched::{CloneFlags, setns};

pub use backends::On;
#[allow(unused_imports)] // each test file uses its part
pub(crate) use backends::on_every_backend;
pub use space::{LONG, Space};

use backends::Tools;

/// Long enough that only a packet that was dropped runs into it.
pub const PATIENCE: Duration = Duration::from_millis(400);

/// A host with wharf's networking, a neighbour on the LAN (host 192.0.2.1 and 192.0.2.11, neighbour 192.0.2.2), a
/// thread that stays in the host's namespace.
pub struct Host {
    pub space: Space,
    pub neighbour: Space,
    pub net: Net,
    tools: Tools,
}

pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const SECOND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
pub const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
pub const SECOND6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 11);
pub const NEIGHBOUR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2);

impl Host {
    pub fn new() -> Self {
        Self::with_bridge_nf(None)
    }

    /// One whose table others can change, as on kernels that cannot keep them from it.
    pub fn shared() -> Self {
        On::Nftables.shared()
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
            tools: Tools::new(On::Nftables),
        }
    }

    /// One whose LAN has IPv6, too: host 2001:db8:2::1 and ::b, neighbour ::2.
    pub fn dual(bridge_nf: Option<bool>) -> Self {
        let host = Self::with_bridge_nf(bridge_nf);
        if let Some(on) = bridge_nf {
            let path = "/proc/sys/net/bridge/bridge-nf-call-ip6tables";
            let on = u8::from(on);
            host.space.sh(&format!("test ! -e {path} || echo {on} > {path}"));
        }
        for (space, device, addresses) in [
            (&host.space, "lan", &[HOST6, SECOND6][..]),
            (&host.neighbour, "eth0", &[NEIGHBOUR6]),
        ] {
            for address in addresses {
                space.sh(&format!("ip addr add {address}/64 dev {device} nodad"));
            }
        }
        host
    }

    /// Applies a network: bridge and firewall.
    pub fn apply(&self, networks: &[&HostNetwork], ports: Vec<PortRule>) -> FirewallState {
        self.apply_linked(networks, ports, Vec::new())
    }

    /// The same with ways between isolated containers.
    pub fn apply_linked(
        &self,
        networks: &[&HostNetwork],
        ports: Vec<PortRule>,
        links: Vec<LinkRule>,
    ) -> FirewallState {
        let state = FirewallState {
            bridges: networks.iter().map(|n| bridge_rule(n)).collect(),
            ports,
            links,
            ..FirewallState::default()
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
    pub fn container(&self, n: &HostNetwork, number: u8) -> Container {
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
        self.at.v4().unwrap().ip
    }

    pub fn ip6(&self) -> Ipv6Addr {
        self.at.v6().unwrap().ip
    }
}

/// One with IPv6 beside IPv4: fd00:88:N::/64.
pub fn dual(name: &str, third: u8) -> HostNetwork {
    let four = network(name, third);
    HostNetwork {
        ip: four.ip.clone().with_v6(subnet6(third)),
        ..four
    }
}

/// One with IPv6 alone.
pub fn six(name: &str, third: u8) -> HostNetwork {
    HostNetwork {
        ip: Families::V6(subnet6(third)),
        ..network(name, third)
    }
}

fn subnet6(third: u8) -> Subnet6 {
    Subnet6 {
        subnet: format!("fd00:88:{third}::/64").parse().unwrap(),
        gateway: Ipv6Addr::new(0xfd00, 0x88, third.into(), 0, 0, 0, 0, 1),
        range: None,
        masquerade: true,
    }
}

/// Of one that has IPv4.
pub fn gateway(n: &HostNetwork) -> Ipv4Addr {
    n.v4().unwrap().gateway
}

/// Of one that has IPv6.
pub fn gateway6(n: &HostNetwork) -> Ipv6Addr {
    n.v6().unwrap().gateway
}

pub fn network(name: &str, third: u8) -> HostNetwork {
    HostNetwork {
        name: name.parse().unwrap(),
        bridge: net::bridge_name(name),
        ip: Families::V4(Subnet4 {
            subnet: format!("10.88.{third}.0/24").parse().unwrap(),
            gateway: Ipv4Addr::new(10, 88, third, 1),
            range: None,
            masquerade: true,
        }),
        mtu: None,
        internal: false,
        isolated: false,
        driver: Default::default(),
    }
}

pub fn bridge_rule(n: &HostNetwork) -> FirewallBridge {
    FirewallBridge::of(n, None)
}

pub fn attachment(n: &HostNetwork, number: u8) -> Attachment {
    let ip = n.ip.map(
        |v4| {
            let [a, b, c, _] = v4.gateway.octets();
            Address4 {
                ip: Ipv4Addr::new(a, b, c, number),
                prefix: v4.subnet.prefix_len(),
                gateway: Some(v4.gateway),
            }
        },
        |v6| Address6 {
            ip: Ipv6Addr::from_bits(v6.subnet.network().to_bits() | u128::from(number)),
            prefix: v6.subnet.prefix_len(),
            gateway: Some(v6.gateway),
        },
    );
    let c =
        n.ip.first(|v4| v4.gateway.octets()[2], |v6| v6.gateway.octets()[5]);
    Attachment {
        network: n.name.clone(),
        device: "eth0".to_owned(),
        host_device: net::host_device_name(&format!("{c:04x}{number:04x}beef"), 0),
        bridge: n.bridge.clone(),
        mac: MacAddr::of_lease(ip.first(|v4| IpAddr::V4(v4.ip), |v6| IpAddr::V6(v6.ip))),
        ip,
        mtu: None,
        aliases: Vec::new(),
        isolated: n.isolated,
        link: Default::default(),
    }
}

/// The same with this default route of IPv4.
pub fn routed(mut at: Attachment, gateway: Option<Ipv4Addr>) -> Attachment {
    at.ip.v4_mut().unwrap().gateway = gateway;
    at
}

pub fn port(protocol: Protocol, ip: Option<Ipv4Addr>, host: u16, to: &Attachment, target: u16) -> PortRule {
    PortRule {
        protocol,
        host_ip: ip.map(IpAddr::V4),
        host_port: host,
        target_ip: to.ips().next().unwrap(),
        target_port: target,
        bridge: to.bridge.as_str().into(),
        allow: Vec::new(),
        container: "web".parse().unwrap(),
        service: None,
    }
}

/// A rule for the container's IPv6.
pub fn port6(protocol: Protocol, ip: Option<Ipv6Addr>, host: u16, to: &Attachment, target: u16) -> PortRule {
    PortRule {
        host_ip: ip.map(IpAddr::V6),
        target_ip: to.v6().unwrap().ip.into(),
        ..port(protocol, None, host, to, target)
    }
}

/// A server that tells everybody who comes its word and the caller's address; ends with the test's process.
pub fn serve(space: &Space, ip: impl Into<IpAddr>, port: u16, word: &'static str) {
    let ip = ip.into();
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
pub fn ask(space: &Space, protocol: Protocol, to: impl Into<IpAddr>, port: u16) -> String {
    let to = to.into();
    space.run(|| try_ask(protocol, to, port, LONG).unwrap_or_else(|e| panic!("{protocol} {to}:{port}: {e}")))
}

/// That nothing answers any of them: TCP and UDP from there to that address and port. All at once, as each takes its
/// time.
pub fn refuse_all<A>(what: &str, knocks: &[(&Space, A, u16)])
where
    A: Into<IpAddr> + Copy + Send + Sync,
{
    std::thread::scope(|scope| {
        for &(space, to, port) in knocks {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let to: IpAddr = to.into();
                scope.spawn(move || {
                    let got = space.run(|| try_ask(protocol, to, port, PATIENCE));
                    assert!(got.is_err(), "{what}: {protocol} {to}:{port} answered {got:?}");
                });
            }
        }
    });
}

/// That nothing answers.
pub fn refuse(space: &Space, protocol: Protocol, to: impl Into<IpAddr>, port: u16) {
    let to = to.into();
    let got = space.run(|| try_ask(protocol, to, port, PATIENCE));
    assert!(got.is_err(), "{protocol} {to}:{port} answered {got:?}");
}

pub fn try_ask(
    protocol: Protocol,
    to: impl Into<IpAddr>,
    port: u16,
    patience: Duration,
) -> std::io::Result<String> {
    let to = SocketAddr::from((to.into(), port));
    match protocol {
        Protocol::Tcp => {
            let mut stream = TcpStream::connect_timeout(&to, patience)?;
            stream.set_read_timeout(Some(patience))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        }
        Protocol::Udp => {
            let any: IpAddr = match to {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0))?;
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
