//! Who reaches what, cell by cell: backend × family × protocol × kind of port × place, and what must not be reached from
//! anywhere. Once with bridged packets passing the filters of IP, and once without (bridge-nf-call-*). Every cell that is
//! not as it should be is printed.
#![allow(clippy::unwrap_used)]

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use tests::{Backend, Host, at_once};

const HOST: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const SECOND: [&str; 2] = ["192.0.2.11", "2001:db8::11"];
const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];
/// For what must arrive, on however busy a machine.
const LIMIT: Duration = Duration::from_secs(30);
/// Long enough that only a packet that was dropped runs into it.
const PATIENCE: Duration = Duration::from_millis(700);
/// Of the host alone, on its loopback addresses.
const SECRET: u16 = 7777;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
}

const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// Where somebody asks from: its network namespace.
struct Place {
    name: &'static str,
    net: File,
}

impl Place {
    fn of(name: &'static str, pid: u32) -> Self {
        let net = File::open(format!("/proc/{pid}/ns/net")).unwrap();
        Self { name, net }
    }

    fn of_container(host: &Host, name: &'static str) -> Self {
        Self::of(name, host.container(name).pid.unwrap())
    }

    /// On this thread, which belongs there from then on.
    fn enter(&self) {
        setns(&self.net, CloneFlags::CLONE_NEWNET).unwrap();
    }

    fn sh(&self, host: &Host, line: &str) {
        use std::os::fd::AsRawFd;
        let net = format!("/proc/{}/fd/{}", std::process::id(), self.net.as_raw_fd());
        host.ns.sh(&format!("nsenter --net={net} sh -ec '{line}'"));
    }
}

/// One question, and whether there is to be an answer.
struct Cell<'a> {
    from: &'a Place,
    protocol: Protocol,
    to: SocketAddr,
    what: String,
    reached: bool,
}

impl fmt::Display for Cell<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.reached { "" } else { "not " };
        let (protocol, from) = (self.protocol, self.from.name);
        write!(
            f,
            "{}: {protocol:?} {} from {from}, {not}to be reached",
            self.what, self.to
        )
    }
}

impl Cell<'_> {
    fn ask(&self) -> std::io::Result<String> {
        match self.protocol {
            Protocol::Tcp => {
                let mut stream = TcpStream::connect_timeout(&self.to, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
                let mut text = Vec::new();
                stream.read_to_end(&mut text)?;
                Ok(String::from_utf8_lossy(&text).into_owned())
            }
            Protocol::Udp => {
                let any: IpAddr = match self.to {
                    SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                let socket = UdpSocket::bind((any, 0))?;
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.connect(self.to)?;
                socket.send(b"?")?;
                let mut buffer = [0; 512];
                let count = socket.recv(&mut buffer)?;
                Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
            }
        }
    }

    /// None where it is as it should be.
    fn fault(&self) -> Option<String> {
        self.from.enter();
        let start = Instant::now();
        loop {
            let answer = self.ask();
            match (&answer, self.reached) {
                (Ok(_), true) | (Err(_), false) => return None,
                (Err(_), true) if start.elapsed() < LIMIT => std::thread::sleep(Duration::from_millis(50)),
                _ => return Some(format!("{self}: {answer:?}")),
            }
        }
    }
}

/// Those that are not as they should be.
fn faults(cells: &[Cell]) -> Vec<String> {
    let (reached, closed): (Vec<&Cell>, Vec<&Cell>) = cells.iter().partition(|cell| cell.reached);
    // Some at a time: a busy machine is not to be the reason that nobody answers. Where nobody is to answer a question
    // is a packet or two and all the rest is waiting, so more of those go together.
    let reached = reached.chunks(24);
    let groups = reached.chain(closed.chunks(72));
    groups
        .flat_map(|some| at_once(some, |cell| cell.fault()))
        .flatten()
        .collect()
}

const NETWORKS: &str = "[network.front]\nsubnet = \"10.90.1.0/24\"\nsubnet6 = \"fd00:90:1::/64\"\n\
                        [network.back]\nsubnet = \"10.90.2.0/24\"\nsubnet6 = \"fd00:90:2::/64\"\n";

/// A port of each kind, for both protocols.
const PORTS: [&str; 7] = [
    "8080:80",
    "80",
    "7000-7002:79-81",
    "192.0.2.1:8090:80",
    "[2001:db8::1]:8090:80",
    "127.0.0.1:8091:80",
    "[::1]:8091:80",
];

fn host(backend: Backend, bridge_nf: bool) -> Host {
    let mut host = Host::new();
    host.choose_firewall(backend);
    for (ns, addresses) in [
        (&host.ns, &[HOST[1], SECOND[1]][..]),
        (&host.neighbour, &["2001:db8::2"]),
    ] {
        for address in addresses {
            ns.sh(&format!("ip -6 addr add {address}/64 dev eth0 nodad"));
        }
    }
    host.ns.sh(&format!("ip addr add {}/24 dev eth0", SECOND[0]));
    for family in ["iptables", "ip6tables"] {
        let setting = format!("/proc/sys/net/bridge/bridge-nf-call-{family}");
        let on = u8::from(bridge_nf);
        host.ns
            .sh(&format!("test ! -e {setting} || echo {on} >{setting}"));
    }
    host.write("net.toml", NETWORKS);
    let both = |port: &&str| [format!("\"{port}\""), format!("\"{port}/udp\"")];
    let ports: Vec<String> = PORTS.iter().flat_map(both).collect();
    let web = format!(
        "[container.web]\nimage = {:?}\nports = [{}]\nnetworks = [\"front\"]\n",
        host.hello_image(),
        ports.join(", ")
    );
    host.write("web.toml", &web);
    for (name, network) in [
        ("beside", "front"),
        ("far", "back"),
        ("evil", "back"),
        ("sly", "front"),
    ] {
        host.write_busybox(name, "exec sleep 1000", &format!("networks = [\"{network}\"]\n"));
    }
    host.start_agent();
    host
}

/// What answers on the host's loopback addresses alone.
fn keep_secret(host: &Host) {
    for ip in LOOPBACK {
        let ip: IpAddr = ip.parse().unwrap();
        let (tcp, udp) = host.ns.within(|| {
            let at = (ip, SECRET);
            (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap())
        });
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let _ = stream.unwrap().write_all(b"secret");
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(b"secret", from);
            }
        });
    }
}

/// Number of the host's port that was picked for port 80 of the container; the same for both families.
fn picked(host: &Host, protocol: &str) -> u16 {
    let known = [8080, 8090, 8091, 7001];
    let row = host.container("web");
    let mut ports = row
        .ports
        .iter()
        .filter(|p| p.container == 80 && p.protocol == protocol);
    ports.find(|p| !known.contains(&p.host)).unwrap().host
}

/// What is published: every kind from every place.
fn published<'a>(host: &Host, places: &'a Places, family: usize) -> Vec<Cell<'a>> {
    let mut cells = Vec::new();
    for protocol in PROTOCOLS {
        let word = if protocol == Protocol::Tcp { "tcp" } else { "udp" };
        // At every address, at that one, at the loopback one.
        for (kind, port, every, one) in [
            ("fixed", 8080, true, true),
            ("picked", picked(host, word), true, true),
            ("range", 7001, true, true),
            ("bound to an address", 8090, false, true),
            ("bound to loopback", 8091, false, false),
            ("published by nobody", 8099, false, false),
        ] {
            let mut cell = |from: &'a Place, ip: &str, reached| {
                let to = SocketAddr::new(ip.parse().unwrap(), port);
                let what = kind.to_owned();
                cells.push(Cell {
                    from,
                    protocol,
                    to,
                    what,
                    reached,
                });
            };
            for from in [
                &places.neighbour,
                &places.host,
                &places.beside,
                &places.far,
                &places.web,
            ] {
                cell(from, HOST[family], one);
                cell(from, SECOND[family], every);
            }
            cell(
                &places.host,
                LOOPBACK[family],
                every || kind == "bound to loopback",
            );
            // By the gateway, which is an address of the host like any other.
            let gateway = ["10.90.1.1", "fd00:90:1::1"][family];
            cell(&places.beside, gateway, every);
            cell(&places.host, gateway, every);
        }
    }
    cells
}

/// What nobody reaches, whatever he sends: the attackers' routes are set already.
fn attacks<'a>(host: &Host, places: &'a Places, family: usize) -> Vec<Cell<'a>> {
    let row = host.container("web");
    let place = &row.networks["front"];
    let web = [&place.ip, &place.ip6][family].clone().unwrap();
    let mut cells = Vec::new();
    for protocol in PROTOCOLS {
        let mut cell = |from: &'a Place, ip: &str, port, what: &str| {
            let to = SocketAddr::new(ip.parse().unwrap(), port);
            let what = what.to_owned();
            cells.push(Cell {
                from,
                protocol,
                to,
                what,
                reached: false,
            });
        };
        for from in [&places.neighbour, &places.evil, &places.sly] {
            for port in [SECRET, 8080, 8091] {
                cell(from, LOOPBACK[family], port, "the host's loopback");
            }
            for ip in [HOST, SECOND].map(|ips| ips[family]) {
                cell(from, ip, SECRET, "the host's loopback, by another address");
                cell(from, ip, 8091, "bound to loopback, by another address");
            }
        }
        for from in [&places.neighbour, &places.evil] {
            cell(from, &web, 80, "a container's own address");
        }
    }
    cells
}

struct Places {
    host: Place,
    neighbour: Place,
    web: Place,
    beside: Place,
    far: Place,
    /// On the other network.
    evil: Place,
    /// On the same one.
    sly: Place,
}

impl Places {
    fn of(host: &Host) -> Self {
        Self {
            host: Place::of("the host", host.ns.pid()),
            neighbour: Place::of("the LAN", host.neighbour.pid()),
            web: Place::of_container(host, "web"),
            beside: Place::of_container(host, "beside"),
            far: Place::of_container(host, "far"),
            evil: Place::of_container(host, "evil"),
            sly: Place::of_container(host, "sly"),
        }
    }

    /// Has them send to the host what is for its loopback, and for containers.
    fn attack(&self, host: &Host) {
        let loopback = |gateway: &str, gateway6: &str| {
            format!(
                "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet; echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet
                 ip addr del 127.0.0.1/8 dev lo; ip route flush table local root 127.0.0.0/8
                 ip route add 127.0.0.1/32 via {gateway}
                 ip -6 addr del ::1/128 dev lo; ip -6 route flush table local ::1/128
                 ip -6 route add ::1/128 via {gateway6} dev eth0"
            )
        };
        self.neighbour.sh(host, &loopback(HOST[0], HOST[1]));
        self.evil.sh(host, &loopback("10.90.2.1", "fd00:90:2::1"));
        self.sly.sh(host, &loopback("10.90.1.1", "fd00:90:1::1"));
        let routes = format!(
            "ip route add 10.90.0.0/16 via {}; ip -6 route add fd00:90::/32 via {}",
            HOST[0], HOST[1]
        );
        self.neighbour.sh(host, &routes);
    }
}

fn every_cell(backend: Backend, bridge_nf: bool) {
    let host = host(backend, bridge_nf);
    host.converge();
    keep_secret(&host);
    let places = Places::of(&host);
    let cells: Vec<Cell> = (0..2)
        .flat_map(|family| published(&host, &places, family))
        .collect();
    let mut wrong = faults(&cells);
    places.attack(&host);
    let cells: Vec<Cell> = (0..2)
        .flat_map(|family| attacks(&host, &places, family))
        .collect();
    wrong.extend(faults(&cells));
    let list = wrong.join("\n");
    let count = wrong.len();
    assert!(
        wrong.is_empty(),
        "{backend:?}, bridge-nf {bridge_nf}: {count} cells\n{list}\n{}",
        host.rules()
    );
}

#[test]
fn slow_every_cell_of_nftables_with_bridge_nf() {
    every_cell(Backend::Nftables, true);
}

#[test]
fn slow_every_cell_of_nftables_without_bridge_nf() {
    every_cell(Backend::Nftables, false);
}

#[test]
fn slow_every_cell_of_iptables_nft_with_bridge_nf() {
    every_cell(Backend::IptablesNft, true);
}

#[test]
fn slow_every_cell_of_iptables_nft_without_bridge_nf() {
    every_cell(Backend::IptablesNft, false);
}

#[test]
fn slow_every_cell_of_iptables_legacy_with_bridge_nf() {
    every_cell(Backend::IptablesLegacy, true);
}

#[test]
fn slow_every_cell_of_iptables_legacy_without_bridge_nf() {
    every_cell(Backend::IptablesLegacy, false);
}

/// The cells do look: with a rule gone those it is for are found.
#[test]
fn slow_a_missing_rule_is_noticed() {
    let mut host = host(Backend::IptablesNft, true);
    host.converge();
    keep_secret(&host);
    let places = Places::of(&host);
    let port = picked(&host, "tcp");
    let cells = attacks(&host, &places, 0);
    places.attack(&host);
    host.kill_agent();
    host.ns
        .sh("iptables-nft -t mangle -F; iptables-nft -t nat -D WHARF-DNAT 2");
    let wanted = [
        ("the host's loopback", format!("127.0.0.1:{SECRET}"), "evil"),
        ("the host's loopback", format!("127.0.0.1:{SECRET}"), "sly"),
        ("the host's loopback", "127.0.0.1:8091".to_owned(), "the LAN"),
        ("a container's own address", "10.90.1.".to_owned(), "the LAN"),
        ("a container's own address", "10.90.1.".to_owned(), "evil"),
    ];
    // Here an answer is what is looked for, and one that comes too late on a busy machine is none: some looks, then.
    let mut wrong = Vec::new();
    let mut missing = Vec::new();
    for _ in 0..5 {
        wrong.extend(faults(&cells));
        missing = wanted.to_vec();
        missing.retain(|(what, at, from)| {
            let is = |line: &String| line.starts_with(what) && line.contains(at) && line.contains(from);
            !wrong.iter().any(is)
        });
        if missing.is_empty() {
            break;
        }
    }
    assert!(missing.is_empty(), "{missing:?}, not among\n{}", wrong.join("\n"));
    host.ns.sh("iptables-nft -t nat -F");
    let to = SocketAddr::new(HOST[0].parse().unwrap(), port);
    let what = String::new();
    let (from, protocol) = (&places.far, Protocol::Tcp);
    let cell = Cell {
        from,
        protocol,
        to,
        what,
        reached: false,
    };
    assert_eq!(faults(&[cell]), Vec::<String>::new());
}
