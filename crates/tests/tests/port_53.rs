//! Port 53 published on every address, by a server of names in a container (a pi-hole, say): the LAN asks that one, and
//! containers go on asking wharf's at their gateways.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use tests::names::{Upstream, frame, query, told};
use tests::namespace::Namespace;
use tests::{Backend, Host, images};

const SLEEP: &str = "exec sleep 1000";
/// What the container's server knows, and what the one of the world outside says of every name.
const KNOWN: &str = "198.51.100.254";
const OUTSIDE: &str = "203.0.113.7";

/// How long an answer may take before it is taken for none.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    host: Host,
    _upstream: Upstream,
}

impl World {
    fn new(backend: Backend) -> Self {
        let mut host = Host::new();
        host.choose_firewall(backend);
        let settings = std::fs::read_to_string(host.settings()).unwrap();
        std::fs::write(host.settings(), settings + "[dns]\nupstream = [\"192.0.2.2\"]\n").unwrap();
        let upstream = Upstream::start(&host);
        for name in ["one", "two"] {
            host.write_busybox(name, SLEEP, "");
        }
        Self {
            host,
            _upstream: upstream,
        }
    }

    fn publish(&self, ports: &str) {
        let table = format!(
            "[container.names]\nimage = {:?}\ncommand = [\"--address=/router.example/{KNOWN}\"]\nports = [{ports}]\n",
            images::server("dnsmasq")
        );
        self.host.write_renamed("names.toml", &table);
    }

    fn gateway(&self) -> IpAddr {
        let gateway = self.host.container("one").networks["default"].gateway.clone();
        gateway.unwrap().parse().unwrap()
    }

    fn ip(&self, name: &str) -> String {
        self.host.container(name).networks["default"].ip.clone().unwrap()
    }

    /// What a container is told, by the server of its resolv.conf or another one.
    fn inside(&self, name: &str, server: &str) -> String {
        let line = format!("nslookup -type=a {name} {server} 2>&1 || true");
        self.host.wharf(["exec", "one", "sh", "-c", &line]).ok().stdout
    }

    fn containers_ask_wharf(&self) {
        for (name, answer) in [("two", self.ip("two")), ("router.example", OUTSIDE.to_owned())] {
            let said = self.inside(name, "");
            assert!(said.contains(&answer), "{name}: {said}\n{}", self.host.evidence());
        }
        let asked = ask(&self.host.ns, self.gateway(), "two");
        assert_eq!(asked, [Some(self.ip("two")), Some(self.ip("two"))], "the host");
    }
}

/// By UDP and by TCP.
fn ask(ns: &Namespace, server: IpAddr, name: &str) -> [Option<String>; 2] {
    let (at, packet) = (SocketAddr::new(server, 53), query(name));
    let answers = ns.within(|| [by_udp(at, &packet), by_tcp(at, &packet)]);
    answers.map(|answer| answer.and_then(|reply| told(&reply)).map(|ip| ip.to_string()))
}

fn by_udp(at: SocketAddr, packet: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(at).unwrap();
    socket.send(packet).ok()?;
    let mut buffer = [0; 1500];
    let count = socket.recv(&mut buffer).ok()?;
    Some(buffer[..count].to_vec())
}

fn by_tcp(at: SocketAddr, packet: &[u8]) -> Option<Vec<u8>> {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&frame(packet)).ok()?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply).ok()?;
    Some(reply)
}

fn both(answer: &str) -> [Option<String>; 2] {
    [Some(answer.to_owned()), Some(answer.to_owned())]
}

fn lan_asks_the_container(backend: Backend) {
    let mut world = World::new(backend);
    world.publish("\"53:53/udp\", \"53:53/tcp\"");
    world.host.start_agent();
    world.host.converge();
    let (lan, local) = (Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::LOCALHOST.into());
    // It has no health check: that it runs is not yet that it listens.
    world.host.until("it answers the LAN", |_| {
        ask(&world.host.neighbour, lan, "router.example") == both(KNOWN)
    });
    for at in [lan, local] {
        assert_eq!(ask(&world.host.ns, at, "router.example"), both(KNOWN), "{at}");
    }
    world.containers_ask_wharf();
    assert!(
        world.inside("router.example", "192.0.2.1").contains(KNOWN),
        "by the host's address"
    );
    // Who is let in to it is no matter of those who ask wharf.
    let listed =
        |port: &str| format!("{{ host = 53, container = 53, protocol = {port:?}, allow = [\"192.0.2.2\"] }}");
    world.publish(&format!("{}, {}", listed("udp"), listed("tcp")));
    world.host.wharf(["reload"]).ok();
    world.host.converge();
    assert_eq!(ask(&world.host.neighbour, lan, "router.example"), both(KNOWN));
    world.containers_ask_wharf();
    // The address at which wharf is asked is not to be had.
    let gateway = world.gateway();
    world.publish(&format!("\"{gateway}:53:53/udp\""));
    world.host.wharf(["reload"]).ok();
    let told = "there the name server answers containers";
    world.host.until("it says so", |status| {
        let row = status.containers.iter().find(|c| c.name == "names").unwrap();
        row.error.as_ref().is_some_and(|e| e.contains(told))
    });
    world.containers_ask_wharf();
    world.host.remove("names.toml");
    world.host.converge();
    world.containers_ask_wharf();
}

#[test]
fn the_lan_asks_the_container_and_containers_ask_wharf() {
    lan_asks_the_container(Backend::Nftables);
}

#[test]
fn the_lan_asks_the_container_and_containers_ask_wharf_with_iptables() {
    lan_asks_the_container(Backend::IptablesNft);
}

#[test]
fn the_lan_asks_the_container_and_containers_ask_wharf_with_legacy_iptables() {
    lan_asks_the_container(Backend::IptablesLegacy);
}
