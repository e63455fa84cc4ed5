//! Names asked inside the network namespaces of containers that reach no gateway of ours.
#![allow(clippy::unwrap_used)]

mod dnshost;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use dnshost::{Asked, BOTH, Host, LONG, Space, Upstream, Way, ask, question, says, told};
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType::{A, PTR};
use model::dns::{DnsEndpoint, DnsNetwork, INSIDE};
use model::name::ContainerId;
use net::dns::{Namespace, Process};

/// A container of a LAN: its namespace, and a process that stands for its shim.
struct Container {
    id: ContainerId,
    space: Space,
    shim: Child,
}

impl Container {
    /// Known as that, at 198.51.100.N of these networks.
    fn new(host: &mut Host, name: &str, number: u8, networks: &[&str]) -> Self {
        let ip = Ipv4Addr::new(198, 51, 100, number);
        let place = host.state.containers.entry(name.parse().unwrap()).or_default();
        for network in networks {
            let endpoint = DnsEndpoint {
                ips: vec![ip.into()],
                names: vec![name.to_owned()],
            };
            place.endpoints.insert(network.parse().unwrap(), endpoint);
        }
        let id: ContainerId = format!("{number:064x}").parse().unwrap();
        host.state.inside.insert(id.clone(), ip.into());
        Self {
            id,
            space: Space::new(),
            shim: shim(),
        }
    }

    fn namespace(&self) -> Namespace {
        let pid = i32::try_from(self.shim.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        Namespace {
            whose: "web".to_owned(),
            netns: self.space.fd().try_clone_to_owned().unwrap(),
            pidfd: rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap(),
            keeper: Process {
                pid: self.shim.id(),
                start_time: start_time(self.shim.id()),
            },
        }
    }

    fn ask(&self, way: Way, name: &str) -> String {
        ask(&self.space, INSIDE, way, name, A)
    }

    fn end_shim(&mut self) {
        self.shim.kill().unwrap();
        self.shim.wait().unwrap();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.end_shim();
    }
}

fn shim() -> Child {
    Command::new("sleep").arg("1000").spawn().unwrap()
}

/// Field 22 of proc_pid_stat(5).
fn start_time(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().nth(19).unwrap().parse().unwrap()
}

/// A host on which nobody has a gateway in these networks; `shut` is internal.
fn host(networks: &[&str]) -> Host {
    let mut host = Host::new(&[]);
    for name in networks {
        let network = DnsNetwork {
            gateways: Vec::new(),
            subnets: vec!["198.51.100.0/24".parse().unwrap()],
            bridge: String::new(),
            internal: *name == "shut",
            hosts: Default::default(),
        };
        host.state.networks.insert(name.parse().unwrap(), network);
    }
    host
}

fn apply(host: &Host, containers: &[&Container]) {
    let of = |id: &ContainerId| -> Asked {
        let found = containers.iter().find(|c| c.id == *id);
        Ok(found.map(|c| c.namespace()))
    };
    host.apply_with(&of);
}

fn once(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < 3 * LONG, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Descriptors that the server has, but for those of its standard streams, its lock, its control socket and its epoll; and
/// for agents' connections, of which it hears after they are closed.
fn listens_on(host: &Host, count: usize) {
    once(&format!("it has {count} more descriptors"), || {
        let all = std::fs::read_dir(format!("/proc/{}/fd", host.pid())).unwrap();
        all.count() == 6 + count
    });
}

#[test]
fn names_are_answered_inside_to_whoever_is_on_the_network() {
    let mut host = host(&["lan", "shut"]);
    host.upstreams(&["192.0.2.53"]);
    let upstream = Upstream::new(&host.space, "192.0.2.53", says("203.0.113.7"));
    let web = Container::new(&mut host, "web", 7, &["lan"]);
    let db = Container::new(&mut host, "db", 8, &["lan"]);
    let alone = Container::new(&mut host, "alone", 9, &["shut"]);
    apply(&host, &[&web, &db, &alone]);
    assert_eq!(host.server.inside().unwrap().len(), 3);
    for way in BOTH {
        assert_eq!(web.ask(way, "db"), "198.51.100.8");
        assert_eq!(db.ask(way, "web"), "198.51.100.7");
        assert_eq!(alone.ask(way, "web"), "no such name +soa");
        assert_eq!(alone.ask(way, "alone"), "198.51.100.9");
        assert_eq!(web.ask(way, "www.example"), "203.0.113.7");
        assert_eq!(alone.ask(way, "www.example"), "Refused");
        let reverse = "8.100.51.198.in-addr.arpa";
        assert_eq!(ask(&web.space, INSIDE, way, reverse, PTR), "-> db");
    }
    // Asked once, and kept.
    assert_eq!(upstream.names(), ["www.example."]);
}

#[test]
fn port_53_is_the_containers_own() {
    let mut host = host(&["lan"]);
    let web = Container::new(&mut host, "web", 7, &["lan"]);
    let db = Container::new(&mut host, "db", 8, &["lan"]);
    // One server of names has it before, the other one after; as most do, without SO_REUSEADDR for UDP.
    let all = || {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 53));
        (UdpSocket::bind(any).unwrap(), TcpListener::bind(any).unwrap())
    };
    let first = web.space.run(all);
    apply(&host, &[&web, &db]);
    let second = db.space.run(all);
    for way in BOTH {
        assert_eq!(web.ask(way, "db"), "198.51.100.8");
        assert_eq!(db.ask(way, "web"), "198.51.100.7");
    }
    // What is not for that address comes to the container.
    for (container, (own, _)) in [(&web, &first), (&db, &second)] {
        let asks = container.space.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
        asks.send_to(b"hello", "127.0.0.1:53").unwrap();
        own.set_read_timeout(Some(LONG)).unwrap();
        let mut buffer = [0; 16];
        let (count, from) = own.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..count], from),
            (&b"hello"[..], asks.local_addr().unwrap())
        );
    }
}

#[test]
fn a_container_that_has_its_low_ports_is_asked_at_another_one() {
    let mut host = host(&["lan"]);
    let web = Container::new(&mut host, "web", 7, &["lan"]);
    let taken: Vec<UdpSocket> = web.space.run(|| {
        (1..=6)
            .map(|port| UdpSocket::bind(("0.0.0.0", port)).unwrap())
            .collect()
    });
    apply(&host, &[&web]);
    assert_eq!(web.ask(Way::Udp, "web"), "198.51.100.7");
    assert_eq!(web.ask(Way::Tcp, "web"), "198.51.100.7");
    drop(taken);
}

#[test]
fn nobody_outside_asks_there() {
    let mut host = host(&["lan"]);
    let web = Container::new(&mut host, "web", 7, &["lan"]);
    apply(&host, &[&web]);
    let neighbour = Space::new();
    neighbour.sh(&format!(
        "ip link add eth0 type veth peer name eth0 netns {}; ip addr add 198.51.100.99/24 dev eth0; ip link set eth0 up",
        web.space.path()
    ));
    // As careless as a container can be.
    web.space
        .sh("ip addr add 198.51.100.7/24 dev eth0; ip link set eth0 up
         echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet; echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter
         echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet");
    neighbour.sh("echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet
        ip route flush table local; ip route add local 198.51.100.99 dev eth0 table local; ip route add 127.0.0.0/8 via 198.51.100.7");
    let packet = question("web", A).to_vec().unwrap();
    let there = web.space.run(|| UdpSocket::bind("0.0.0.0:7777").unwrap());
    there.set_read_timeout(Some(LONG)).unwrap();
    let asks = neighbour.run(|| UdpSocket::bind("198.51.100.99:0").unwrap());
    for port in (1..=6).chain([53]) {
        asks.send_to(&packet, (INSIDE, port)).unwrap();
    }
    // What comes behind these arrives.
    asks.send_to(b"last", (INSIDE, 7777)).unwrap();
    let mut buffer = [0; 512];
    assert_eq!(there.recv(&mut buffer).unwrap(), 4);
    assert_eq!(web.ask(Way::Udp, "web"), "198.51.100.7");
    asks.set_nonblocking(true).unwrap();
    assert!(asks.recv(&mut buffer).is_err(), "it was answered");
}

#[test]
fn no_namespace_is_kept_for_it() {
    let mut host = host(&["lan"]);
    let mut web = Container::new(&mut host, "web", 7, &["lan"]);
    let mut db = Container::new(&mut host, "db", 8, &["lan"]);
    apply(&host, &[]);
    listens_on(&host, 0);
    apply(&host, &[&web, &db]);
    listens_on(&host, 6);
    let again = host
        .space
        .run(|| host.server.listen_inside(&web.id, &web.namespace()));
    again.unwrap();
    listens_on(&host, 6);
    // The end of the one behind it closes what listens there, and the namespace goes with its last process.
    let watched = Space::new();
    watched.sh(&format!(
        "ip link add gone type veth peer name eth0 netns {}",
        web.space.path()
    ));
    web.end_shim();
    web.space = Space::new();
    once("the namespace goes", || {
        let left = watched.sh("ip -o link show gone 2>/dev/null || true");
        left.is_empty()
    });
    listens_on(&host, 3);
    assert_eq!(host.server.inside().unwrap(), [db.id.clone()].into());
    assert_eq!(db.ask(Way::Udp, "web"), "198.51.100.7");
    // Started again, it has a namespace of its own, and another one behind it.
    web.shim = shim();
    host.space
        .run(|| host.server.listen_inside(&web.id, &web.namespace()))
        .unwrap();
    assert_eq!(web.ask(Way::Udp, "db"), "198.51.100.8");
    assert_eq!(host.server.inside().unwrap().len(), 2);
    // One that is to ask there no more does not.
    host.state.inside.remove(&db.id);
    apply(&host, &[&web]);
    listens_on(&host, 3);
    db.end_shim();
}

#[test]
fn it_is_heard_again_after_agent_and_server_were_gone() {
    let mut host = host(&["lan"]);
    let web = Container::new(&mut host, "web", 7, &["lan"]);
    apply(&host, &[&web]);
    let pid = host.pid();
    // Another agent knows where the server listens, and has nothing to do.
    let other = host.another();
    assert_eq!(other.inside().unwrap(), [web.id.clone()].into());
    apply(&host, &[&web]);
    listens_on(&host, 3);
    assert_eq!(host.pid(), pid);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    once("it is seen to be gone", || {
        host.server.observe().unwrap().is_none()
    });
    assert!(host.server.inside().unwrap().is_empty());
    // Without a server there is nothing to listen with.
    host.server.listen_inside(&web.id, &web.namespace()).unwrap();
    apply(&host, &[&web]);
    assert_ne!(host.pid(), pid);
    assert_eq!(web.ask(Way::Udp, "web"), "198.51.100.7");
}

#[test]
fn one_that_cannot_be_entered_keeps_nobody_else_from_being_heard() {
    let mut host = host(&["lan"]);
    let web = Container::new(&mut host, "web", 7, &["lan"]);
    let db = Container::new(&mut host, "db", 8, &["lan"]);
    let of = |id: &ContainerId| -> Asked {
        match *id == web.id {
            true => Err("its shim says nothing".to_owned()),
            false => Ok(Some(db.namespace())),
        }
    };
    let failed = host
        .space
        .run(|| host.server.apply(&host.state, &of))
        .unwrap_err();
    assert!(failed.to_string().contains("its shim says nothing"), "{failed}");
    assert_eq!(db.ask(Way::Udp, "web"), "198.51.100.7");
    assert_eq!(host.server.inside().unwrap(), [db.id.clone()].into());
    apply(&host, &[&web, &db]);
    assert_eq!(web.ask(Way::Udp, "db"), "198.51.100.8");
}

#[test]
fn one_that_is_beside_the_one_its_name_leads_to_may_ask() {
    let mut host = Host::new(&["a"]);
    let tried = host.container("web", &[("a", 2, &[])]);
    // The name leads to another one.
    let place = host.state.containers.get_mut("web").unwrap();
    place.endpoints.get_mut("a").unwrap().ips = vec![dnshost::address("a", 9).into()];
    host.apply();
    let gateway = dnshost::gateway("a");
    assert_eq!(ask(&tried, gateway, Way::Udp, "web", A), "Refused");
    let a = ["a".parse().unwrap()].into();
    host.state.guests.insert(dnshost::address("a", 2).into(), a);
    host.apply();
    assert_eq!(ask(&tried, gateway, Way::Udp, "web", A), "10.81.0.9");
}

#[test]
fn what_leads_there_is_in_words_of_nft() {
    let mut host = host(&["lan"]);
    let web = Container::new(&mut host, "web", 7, &["lan"]);
    apply(&host, &[&web]);
    let shown = web.space.sh("nft list ruleset");
    for part in [
        "table ip wharf_names",
        "type filter hook output priority raw; policy accept;",
        "ip daddr 127.0.0.11 udp dport 53 udp dport set 1",
        "ip daddr 127.0.0.11 tcp dport 53 tcp dport set 1",
        "ip saddr 127.0.0.11 udp sport 1 udp sport set 53",
        "ip saddr 127.0.0.11 tcp sport 1 tcp sport set 53",
    ] {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }
    // Whatever address of its own the container asks from.
    web.space.sh("ip addr add 198.51.100.7/32 dev lo");
    let reply = web.space.run(|| {
        let socket = UdpSocket::bind("198.51.100.7:0").unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        let asked = question("web", A).to_vec().unwrap();
        socket.send_to(&asked, (INSIDE, 53)).unwrap();
        let mut buffer = [0; 512];
        let count = socket.recv(&mut buffer).unwrap();
        Message::from_vec(&buffer[..count]).unwrap()
    });
    assert_eq!(told(&reply), "198.51.100.7");
}
