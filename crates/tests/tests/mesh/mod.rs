//! Three hosts with an agent each and a container each, on one overlay; and what they send each other.
//!
//! Host N has 198.51.100.N on the LAN, its container cN is 10.81.N.1. A stranger is on the LAN at 198.51.100.66.
#![allow(dead_code, reason = "each test file has its own")]

pub mod checks;

use std::fs::File;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use tests::namespace::{Duty, Namespace};
use tests::ovs::OpenVswitch;
use tests::{Host, Lan, at_once};

/// How long something may take before the test gives up. No test measures by it.
pub const LIMIT: Duration = Duration::from_secs(60);
pub const ALL: [usize; 3] = [1, 2, 3];

/// Each with each other one.
pub fn pairs() -> impl Iterator<Item = (usize, usize)> {
    ALL.into_iter()
        .flat_map(|a| ALL.into_iter().map(move |b| (a, b)))
        .filter(|(a, b)| a != b)
}

/// The families of the network itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inner {
    Four,
    Both,
    Six,
}

impl Inner {
    fn has_six(self) -> bool {
        self != Self::Four
    }
}

/// What the network is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// The kernel's bridges and VXLAN.
    Kernel,
    /// The same, encrypted.
    Encrypted,
    /// Open vSwitch without the kernel's part of it, with tunnels of this kind.
    Switch(&'static str),
    /// Open vSwitch with that.
    KernelSwitch(&'static str),
}

pub struct Mesh {
    /// Of each host, where it has one.
    pub switches: Vec<OpenVswitch>,
    pub hosts: Vec<Host>,
    pub stranger: Namespace,
    pub lan: Lan,
    made: Made,
    six: bool,
    inner: Inner,
    /// Each host's public key, once they are known.
    keys: Vec<String>,
}

impl Mesh {
    /// All up, each container reaching each other one.
    pub fn new() -> Self {
        Self::over(false, Made::Kernel)
    }

    /// The same with IPv6 beside IPv4 in the network: cN is fd81::N:10, and the others find it as cN-six.
    pub fn with_ipv6() -> Self {
        Self::made_of(false, Made::Kernel, Inner::Both)
    }

    /// The same without IPv4 in the network.
    pub fn with_ipv6_alone() -> Self {
        Self::made_of(false, Made::Kernel, Inner::Six)
    }

    /// Of hosts that tell each other their keys.
    pub fn encrypted() -> Self {
        Self::over(false, Made::Encrypted)
    }

    /// The same between hosts that have no IPv4 on the LAN.
    pub fn encrypted_on_ipv6() -> Self {
        Self::over(true, Made::Encrypted)
    }

    /// Open vSwitch with its part of the kernel on each host.
    pub fn of_kernel_switches(tunnel: &'static str) -> Self {
        Self::over(false, Made::KernelSwitch(tunnel))
    }

    /// The same with Open vSwitch on each host.
    pub fn of_switches(tunnel: &'static str) -> Self {
        Self::over(false, Made::Switch(tunnel))
    }

    /// The hosts have no IPv4 on the LAN, but 2001:db8::N.
    pub fn on_ipv6() -> Self {
        Self::over(true, Made::Kernel)
    }

    /// Both.
    pub fn of_switches_on_ipv6(tunnel: &'static str) -> Self {
        Self::over(true, Made::Switch(tunnel))
    }

    fn over(six: bool, made: Made) -> Self {
        Self::made_of(six, made, Inner::Four)
    }

    fn made_of(six: bool, made: Made, inner: Inner) -> Self {
        let mut mesh = Self {
            switches: Vec::new(),
            made,
            hosts: Vec::new(),
            stranger: Namespace::new("stranger", &Duty::default()),
            lan: Lan::new(),
            six,
            inner,
            keys: Vec::new(),
        };
        mesh.lan
            .join(&mesh.stranger, &format!("{}/24", mesh.address("66")));
        if let Made::Switch(_) = made {
            // The hosts' devices are read without the kernel there, which would fill in checksums for a neighbour on a veth.
            mesh.stranger.sh("ethtool -K eth1 tx off >/dev/null");
        }
        for n in ALL {
            let mut host = Host::new();
            let address = format!("{}/24", mesh.address(&n.to_string()));
            mesh.lan.join(&host.ns, &address);
            if let Made::Switch(_) = made {
                let switch = OpenVswitch::start_on(&mut host);
                switch.take_over("eth1", &address);
                mesh.switches.push(switch);
            } else if let Made::KernelSwitch(_) = made {
                mesh.switches.push(OpenVswitch::start_on(&mut host));
            }
            let line = format!(
                "mkdir -p /www; echo c{n} >/www/name; head -c 1000000 /dev/urandom >/www/data; exec httpd -f -vv -p 80 -h /www"
            );
            let place = match inner.has_six() {
                true => format!("networks = {{ mesh = {{ ip6 = \"fd81::{n}:10\" }} }}\n"),
                false => "networks = [\"mesh\"]\n".to_owned(),
            };
            host.write_busybox(
                &format!("c{n}"),
                &line,
                &format!("{place}ports = [\"8080:80\"]\n"),
            );
            mesh.hosts.push(host);
            let known: &[usize] = if made == Made::Encrypted { &[] } else { &ALL };
            mesh.write(n, known, "");
            mesh.hosts[n - 1].start_agent();
        }
        for host in &mesh.hosts {
            host.converge();
        }
        if made == Made::Encrypted {
            mesh.exchange_keys();
        }
        at_once(pairs(), |(from, to)| mesh.until_reaches(from, to));
        mesh
    }

    /// As people do it: each host shows its own, and the others' tables get it.
    pub fn exchange_keys(&mut self) {
        self.keys = ALL.map(|n| self.public_key(n)).into();
        for n in ALL {
            self.write(n, &ALL, "");
            self.hosts[n - 1].wharf(["reload"]).ok();
            self.hosts[n - 1].converge();
        }
    }

    /// The same network made of something else.
    pub fn remake(&mut self, made: Made) {
        self.made = made;
        for n in ALL {
            self.write(n, &ALL, "");
            self.hosts[n - 1].wharf(["reload"]).ok();
        }
        for host in &self.hosts {
            host.converge();
        }
    }

    /// As status shows it.
    pub fn public_key(&self, n: usize) -> String {
        let networks = self.hosts[n - 1].status().networks;
        let mesh = networks.into_iter().find(|network| network.name == "mesh");
        mesh.unwrap().public_key.unwrap()
    }

    fn address(&self, last: &str) -> String {
        match self.six {
            true => format!("2001:db8::{last}"),
            false => format!("198.51.100.{last}"),
        }
    }

    /// The network's file of host `n`, with these peers; `more` are further keys of its `overlay`.
    pub fn write(&self, n: usize, peers: &[usize], more: &str) {
        self.write_as(n, peers, more, "vni = 4200\n");
    }

    pub fn write_as(&self, n: usize, peers: &[usize], more: &str, number: &str) {
        let peers: Vec<String> = peers.iter().map(|p| self.address(&p.to_string())).collect();
        let mut names: Vec<String> = Vec::new();
        if self.inner != Inner::Six {
            names.extend(ALL.iter().map(|p| format!("c{p} = \"10.81.{p}.1\"")));
        }
        if self.inner.has_six() {
            names.extend(ALL.iter().map(|p| format!("c{p}-six = \"fd81::{p}:10\"")));
        }
        let six = match self.inner.has_six() {
            true => format!("subnet6 = \"fd81::/64\"\nrange6 = \"fd81::{n}:0/112\"\n"),
            false => String::new(),
        };
        let four = match self.inner {
            Inner::Six => "ipv4 = false\n".to_owned(),
            _ => format!("subnet = \"10.81.0.0/16\"\nrange = \"10.81.{n}.0/24\"\n"),
        };
        let of_switch = |tunnel, datapath| format!("tunnel = {tunnel:?}\ndatapath = {datapath:?}\n");
        let (driver, tunnel) = match self.made {
            Made::Kernel => ("overlay", String::new()),
            Made::Encrypted => {
                let key =
                    |(key, n): (&String, usize)| format!("{:?} = {key:?}", self.address(&n.to_string()));
                let keys: Vec<String> = self.keys.iter().zip(ALL).map(key).collect();
                let keys = format!("encryption = \"wireguard\"\nkeys = {{ {} }}\n", keys.join(", "));
                ("overlay", keys)
            }
            Made::Switch(tunnel) => ("ovs", of_switch(tunnel, "netdev")),
            Made::KernelSwitch(tunnel) => ("ovs", of_switch(tunnel, "system")),
        };
        let text = format!(
            "[network.mesh]\ndriver = {driver:?}\n{four}{six}\
             [network.mesh.overlay]\n{tunnel}{number}peers = {peers:?}\nnames = {{ {} }}\n{more}",
            names.join(", ")
        );
        self.hosts[n - 1].write_renamed("mesh.toml", &text);
    }

    /// A line of shell in the container of host `n`; what it printed.
    pub fn inside(&self, n: usize, line: &str) -> String {
        let said = self.hosts[n - 1].wharf(["exec", &format!("c{n}"), "sh", "-c", line]);
        assert_eq!(
            said.code,
            0,
            "c{n}: {line}: {said:?}\n{}",
            self.hosts[n - 1].evidence()
        );
        said.stdout
    }

    /// A line of shell in its network namespace, with every right.
    pub fn as_root(&self, n: usize, line: &str) {
        let pid = self.hosts[n - 1].container(&format!("c{n}")).pid.unwrap();
        let args = ["-n", "-t", &pid.to_string(), "--", "bash", "-euc", line];
        let out = Command::new("nsenter").args(args).output().unwrap();
        assert!(out.status.success(), "{line}: {out:?}");
    }

    /// On a thread that entered its network namespace: sockets made there belong there.
    pub fn within<T: Send>(&self, n: usize, work: impl FnOnce() -> T + Send) -> T {
        let netns = self.netns(n);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&netns, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn netns(&self, n: usize) -> File {
        let pid = self.hosts[n - 1].container(&format!("c{n}")).pid.unwrap();
        File::open(format!("/proc/{pid}/ns/net")).unwrap()
    }

    pub fn pids(&self) -> Vec<Option<u32>> {
        let pid = |n: usize| self.hosts[n - 1].container(&format!("c{n}")).pid;
        ALL.into_iter().map(pid).collect()
    }

    pub fn reaches(&self, from: usize, to: usize) -> bool {
        let host = &self.hosts[from - 1];
        let other = match self.inner {
            Inner::Six => format!("fd81::{to}:10"),
            _ => format!("10.81.{to}.1"),
        };
        let own = format!("c{from}");
        host.wharf(["exec", &own, "ping", "-c1", "-W2", &other]).code == 0
    }

    pub fn until_reaches(&self, from: usize, to: usize) {
        let what = format!("c{from} reaches c{to}");
        let start = Instant::now();
        while !self.reaches(from, to) {
            let (a, b) = (&self.hosts[from - 1], &self.hosts[to - 1]);
            assert!(
                start.elapsed() < LIMIT,
                "never {what}: {}{}",
                a.evidence(),
                b.evidence()
            );
        }
    }

    /// One datagram from one container to another: what was sent, and what came.
    pub fn round(&self, from: usize, to: usize) -> (Vec<u8>, Vec<u8>) {
        let receiver = self.within(to, || UdpSocket::bind("0.0.0.0:7001").unwrap());
        receiver.set_read_timeout(Some(LIMIT)).unwrap();
        let sent = b"a peer's".to_vec();
        self.within(from, || {
            let sender = UdpSocket::bind("0.0.0.0:0").unwrap();
            sender.send_to(&sent, format!("10.81.{to}.1:7001")).unwrap();
        });
        let mut buffer = vec![0; 64];
        let length = receiver.recv(&mut buffer).unwrap();
        buffer.truncate(length);
        (sent, buffer)
    }
}

/// A datagram to c1 by a tunnel of the stranger's own, as from 10.81.9.9.
pub fn inject(stranger: &Namespace) {
    let send = || {
        let sender = UdpSocket::bind("10.81.9.9:0").unwrap();
        sender.send_to(b"injected", "10.81.1.1:7000").unwrap();
    };
    stranger.within(send);
}

/// Polls until it is so.
pub fn once(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LIMIT, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A datagram of so many bytes that nobody may cut in pieces (ip(7), IP_MTU_DISCOVER).
pub fn send_whole(to: &str, bytes: usize) -> io::Result<usize> {
    let sender = match to.starts_with('[') {
        true => {
            let sender = UdpSocket::bind("[::]:0")?;
            rustix::net::sockopt::set_ipv6_mtu_discover(&sender, Ipv6PathMtuDiscovery::DO)?;
            sender
        }
        false => {
            let sender = UdpSocket::bind("0.0.0.0:0")?;
            rustix::net::sockopt::set_ip_mtu_discover(&sender, Ipv4PathMtuDiscovery::DO)?;
            sender
        }
    };
    sender.send_to(&vec![b'x'; bytes], to)
}

/// Datagrams and their answers between two containers, one after the other, until it is stopped.
pub struct Flow {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

/// Begins one.
pub fn flow(mesh: &Mesh, from: usize, to: usize) -> Flow {
    let server = mesh.within(to, || UdpSocket::bind("0.0.0.0:7002").unwrap());
    let client = mesh.within(from, || UdpSocket::bind("0.0.0.0:0").unwrap());
    flow_between(server, client, format!("10.81.{to}.1:7002"))
}

/// The same between these two sockets, the first one being reached at the address.
pub fn flow_between(server: UdpSocket, client: UdpSocket, address: String) -> Flow {
    const WAIT: Duration = Duration::from_secs(2);
    let flow = Flow {
        stop: Arc::default(),
        answered: Arc::default(),
        lost: Arc::default(),
        threads: Vec::new(),
    };
    let stop = Arc::clone(&flow.stop);
    let echo = std::thread::spawn(move || {
        server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut buffer = [0; 64];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((length, who)) = server.recv_from(&mut buffer) {
                server.send_to(&buffer[..length], who).unwrap();
            }
        }
    });
    let (stop, answered, lost) = (
        Arc::clone(&flow.stop),
        Arc::clone(&flow.answered),
        Arc::clone(&flow.lost),
    );
    let ask = std::thread::spawn(move || {
        client.connect(address).unwrap();
        client.set_read_timeout(Some(WAIT)).unwrap();
        let mut buffer = [0; 64];
        for number in 0_u64.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let sent = number.to_be_bytes();
            client.send(&sent).unwrap();
            let is_answer = |length: usize, buffer: &[u8]| buffer[..length] == sent;
            match client.recv(&mut buffer) {
                Ok(length) if is_answer(length, &buffer) => answered.fetch_add(1, Ordering::Relaxed),
                // At the end it is the other one that has stopped.
                _ if stop.load(Ordering::Relaxed) => return,
                _ => lost.fetch_add(1, Ordering::Relaxed),
            };
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    Flow {
        threads: vec![echo, ask],
        ..flow
    }
}

impl Flow {
    /// Waits for so many more answers.
    pub fn until_more(&self, count: u64) {
        let before = self.answered.load(Ordering::Relaxed);
        once("the flow goes on", || {
            self.answered.load(Ordering::Relaxed) >= before + count
        });
    }

    /// Ends it; how many were without an answer.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.lost.load(Ordering::Relaxed)
    }
}

/// A frame inside of a tunnel.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub to: [u8; 6],
    pub from: [u8; 6],
    /// Of ARP: whose address is asked for, and who asks or answers.
    pub asks_for: Option<[u8; 4]>,
    pub asks_from: Option<[u8; 4]>,
    /// Of neighbour discovery: whose address is asked for, or told of.
    pub neighbour: Option<[u8; 16]>,
}

/// Somebody who looks into all tunnels on the LAN.
pub struct Frames {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Frame>>,
}

/// From now on.
pub fn frames(lan: &Lan) -> Frames {
    let stop = Arc::<AtomicBool>::default();
    let socket = lan.ns.within(|| {
        let all = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::empty(),
            SockProtocol::EthAll,
        );
        all.unwrap()
    });
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(100)).unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20)).unwrap();
    let stopped = Arc::clone(&stop);
    let thread = std::thread::spawn(move || watch(&socket, &stopped));
    Frames { stop, thread }
}

fn watch(socket: &OwnedFd, stop: &AtomicBool) -> Vec<Frame> {
    let mut seen = Vec::new();
    let mut buffer = [0; 2048];
    loop {
        // What is queued is looked at to its end.
        let stopping = stop.load(Ordering::Relaxed);
        match recv(
            socket.as_raw_fd(),
            &mut buffer,
            nix::sys::socket::MsgFlags::empty(),
        ) {
            Ok(length) => seen.extend(inner(&buffer[..length])),
            Err(_) if stopping => return seen,
            Err(_) => {}
        }
    }
}

/// What is in a packet of VXLAN, Geneve or GRE over IPv4.
fn inner(packet: &[u8]) -> Option<Frame> {
    const UDP: u8 = 17;
    const GRE: u8 = 47;
    let ipv4 = packet.get(12..14)? == [8, 0] && packet.get(14)? == &0x45;
    let port = u16::from_be_bytes([*packet.get(36)?, *packet.get(37)?]);
    let around = match (packet.get(23)?, port) {
        (&UDP, 4789) => 8 + 8,
        // Its options, in words.
        (&UDP, 6081) => 8 + 8 + usize::from(packet.get(42)? & 0x3f) * 4,
        // With a key.
        (&GRE, _) => 4 + 4,
        _ => return None,
    };
    let frame = packet.get(34 + around..).filter(|_| ipv4)?;
    let arp = frame.get(12..14)? == [8, 6];
    // ICMPv6, solicitation or advertisement.
    let discovery = frame.get(12..14)? == [0x86, 0xdd]
        && frame.get(20) == Some(&58)
        && frame.get(54).is_some_and(|kind| [135, 136].contains(kind));
    let target = || frame.get(62..78)?.try_into().ok();
    let address = |at: usize| frame.get(at..at + 4)?.try_into().ok();
    Some(Frame {
        to: frame.get(..6)?.try_into().ok()?,
        from: frame.get(6..12)?.try_into().ok()?,
        asks_for: arp.then(|| address(38)).flatten(),
        asks_from: arp.then(|| address(28)).flatten(),
        neighbour: discovery.then(target).flatten(),
    })
}

impl Frames {
    pub fn stop(self) -> Vec<Frame> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
