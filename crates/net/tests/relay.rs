//! Ports on `[::1]`, and on 127.0.0.1 those of containers without IPv4: served by a process that is nobody, outlives the agent, and follows what is published.
#![allow(clippy::unwrap_used)]

mod host;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::thread;

use host::senders::route_loopback_to;
use host::{
    Container, HOST, HOST6, Host, LOCALHOST, LONG, ask, bridge_rule, dual, gateway, gateway6, network, port,
    port6, refuse, refuse_all, serve, six, talk_long,
};
use model::firewall::Protocol::{self, Tcp, Udp};
use model::firewall::{FirewallState, PortRule};
use model::network::HostNetwork;
use net::Net;
use net::relay::Relay;
use tempfile::TempDir;

const BOTH: [Protocol; 2] = [Tcp, Udp];
const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
const LOCALHOST6: Ipv6Addr = Ipv6Addr::LOCALHOST;

/// A host whose agent has a relay; nothing of that is left afterwards.
struct WithRelay {
    host: Host,
    n: HostNetwork,
    run_dir: TempDir,
}

impl WithRelay {
    fn new() -> Self {
        let (mut host, run_dir) = (Host::dual(None), TempDir::new().unwrap());
        // One owner of the table at a time.
        host.net = host.space.run(|| Net::sharing_its_table("test").unwrap());
        let relay = Relay::new(run_dir.path(), Path::new(env!("CARGO_BIN_EXE_net-testbin")));
        host.net = host.net.with_relay(relay);
        let n = dual("front", 1);
        host.apply(&[&n], Vec::new());
        Self { host, n, run_dir }
    }

    fn web(&self, number: u8, word: &'static str) -> Container {
        let c = self.host.container(&self.n, number);
        serve(&c.space, ANY, 80, word);
        c
    }

    fn publish(&self, rules: Vec<PortRule>) {
        let state = self.host.apply(&[&self.n], rules);
        let seen = self.host.space.run(|| self.host.net.firewall().unwrap());
        assert_eq!(seen, Some(state));
    }

    fn pid(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.run_dir.path().join("relay/process.json")).ok()?;
        let process: serde_json::Value = serde_json::from_str(&text).unwrap();
        Some(process["pid"].as_u64().unwrap() as u32)
    }
}

impl Drop for WithRelay {
    fn drop(&mut self) {
        let ended = self.host.space.run(|| self.host.net.remove_firewall());
        if !thread::panicking() {
            ended.unwrap();
            assert!(!self.run_dir.path().join("relay").exists());
        }
    }
}

fn published(c: &Container, ip: Option<Ipv6Addr>, number: u16) -> Vec<PortRule> {
    BOTH.map(|p| port6(p, ip, number, &c.at, 80)).to_vec()
}

#[test]
fn the_host_reaches_ports_by_its_ipv6_loopback() {
    let with = WithRelay::new();
    let (host, gateway) = (&with.host, gateway6(&with.n));
    let (c, other) = (with.web(5, "web"), with.web(6, "other"));
    let mut rules = published(&c, None, 8080);
    rules.extend(published(&c, Some(LOCALHOST6), 8081));
    // A port of the loopback alone goes before one of all addresses.
    rules.extend(published(&other, Some(LOCALHOST6), 8082));
    rules.extend(BOTH.map(|p| PortRule {
        container: "db".parse().unwrap(),
        ..port6(p, None, 8082, &c.at, 80)
    }));
    // One without IPv6.
    let four = BOTH.map(|p| PortRule {
        host_ip: Some(LOCALHOST6.into()),
        ..port(p, None, 8083, &c.at, 80)
    });
    rules.extend(four);
    with.publish(rules);
    for protocol in BOTH {
        for number in [8080, 8081] {
            assert_eq!(
                ask(&host.space, protocol, LOCALHOST6, number),
                format!("web {gateway}")
            );
        }
        assert!(ask(&host.space, protocol, LOCALHOST6, 8082).starts_with("other "));
        assert!(ask(&host.space, protocol, HOST6, 8082).starts_with("web "));
        assert_eq!(
            ask(&host.space, protocol, LOCALHOST6, 8083),
            "web ::ffff:10.88.1.1"
        );
        for number in [8081, 8083] {
            refuse(&host.space, protocol, HOST6, number);
            refuse(&host.neighbour, protocol, HOST6, number);
            refuse(&host.neighbour, protocol, HOST, number);
            refuse(&c.space, protocol, gateway, number);
        }
    }
    let line =
        "ip -6 addr del ::1/128 dev lo; ip -6 route flush table local ::1/128; ip -6 route add ::1/128";
    host.neighbour.sh(&format!("{line} via {HOST6} dev eth0"));
    other.space.sh(&format!("{line} via {gateway} dev eth0"));
    for protocol in BOTH {
        for from in [&host.neighbour, &other.space] {
            for number in [8080, 8081] {
                refuse(from, protocol, LOCALHOST6, number);
            }
        }
    }
}

/// A packet of IPv4 cannot be translated to IPv6.
#[test]
fn a_container_without_ipv4_is_reached_by_127_0_0_1_from_this_host_alone() {
    let with = WithRelay::new();
    let (host, alone) = (&with.host, six("alone", 2));
    let all = [&with.n, &alone];
    host.apply(&all, Vec::new());
    let (c, beside) = (host.container(&alone, 5), with.web(6, "beside"));
    serve(&c.space, ANY, 80, "web");
    let second = Ipv4Addr::new(127, 0, 0, 2);
    let at = |ip: Ipv4Addr, number| {
        BOTH.map(|p| PortRule {
            host_ip: Some(ip.into()),
            ..port6(p, None, number, &c.at, 80)
        })
    };
    let mut rules = [at(LOCALHOST, 8080), at(second, 8082)].concat();
    rules.extend(published(&c, Some(LOCALHOST6), 8080));
    // One with IPv4 needs no process for it.
    rules.extend(BOTH.map(|p| port(p, Some(LOCALHOST), 8081, &beside.at, 80)));
    let state = host.apply(&all, rules);
    assert_eq!(host.space.run(|| host.net.firewall().unwrap()), Some(state));
    let gateway6 = gateway6(&alone);
    for protocol in BOTH {
        for (ip, number) in [(LOCALHOST, 8080), (second, 8082)] {
            let said = ask(&host.space, protocol, ip, number);
            assert_eq!(said, format!("web {gateway6}"), "{protocol} {ip}");
        }
        assert_eq!(
            ask(&host.space, protocol, LOCALHOST6, 8080),
            format!("web {gateway6}")
        );
        assert!(ask(&host.space, protocol, LOCALHOST, 8081).starts_with("beside "));
    }
    // Whoever routes 127.0.0.1 at this host gets nowhere either.
    route_loopback_to(&host.neighbour, HOST);
    route_loopback_to(&beside.space, gateway(&with.n));
    refuse_all(
        "for this host alone",
        &[
            (&host.space, HOST, 8080),
            (&host.space, second, 8080),
            (&host.neighbour, HOST, 8080),
            (&host.neighbour, LOCALHOST, 8080),
            (&beside.space, gateway(&with.n), 8080),
            (&beside.space, LOCALHOST, 8080),
        ],
    );
}

/// What one side says is heard whole by the other, and the end of it, in both directions and at once.
#[test]
fn a_connection_is_passed_on_whole() {
    const SIZE: usize = 3 << 20;
    let with = WithRelay::new();
    let c = with.host.container(&with.n, 5);
    let listener = c.space.run(|| TcpListener::bind((ANY, 80)).unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut heard = Vec::new();
                // Nothing is said before the other side has ended.
                stream.read_to_end(&mut heard).unwrap();
                heard.reverse();
                stream.write_all(&heard).unwrap();
            });
        }
    });
    with.publish(vec![port6(Tcp, None, 8080, &c.at, 80)]);
    thread::scope(|scope| {
        for client in 0..8_u8 {
            let space = &with.host.space;
            scope.spawn(move || {
                let mut stream = space.run(|| TcpStream::connect((LOCALHOST6, 8080)).unwrap());
                stream.set_read_timeout(Some(LONG)).unwrap();
                let mut said: Vec<u8> = (0..SIZE).map(|i| (i * 7 + i / 251) as u8 ^ client).collect();
                stream.write_all(&said).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut heard = Vec::new();
                stream.read_to_end(&mut heard).unwrap();
                said.reverse();
                assert!(heard == said, "{} bytes came back", heard.len());
            });
        }
    });
    // Whoever gives up is given up on both sides, and a container that refuses is heard of.
    drop(
        with.host
            .space
            .run(|| TcpStream::connect((LOCALHOST6, 8080)).unwrap()),
    );
    with.publish(vec![port6(Tcp, None, 8080, &c.at, 81)]);
    refuse(&with.host.space, Tcp, LOCALHOST6, 8080);
}

#[test]
fn a_port_moves_and_goes() {
    let with = WithRelay::new();
    let host = &with.host;
    let (a, b) = (with.web(5, "web"), with.web(6, "new"));
    with.publish(published(&a, None, 8080));
    let flow = host.space.run(|| UdpSocket::bind((LOCALHOST6, 0)).unwrap());
    flow.connect((LOCALHOST6, 8080)).unwrap();
    assert!(talk_long(&flow).starts_with("web "));
    let pid = with.pid();
    with.publish(published(&b, None, 8080));
    assert!(talk_long(&flow).starts_with("new "));
    assert!(ask(&host.space, Tcp, LOCALHOST6, 8080).starts_with("new "));
    // Of several, each has its turn.
    let several = [(&a, "web"), (&b, "web-2")].map(|(c, name)| {
        BOTH.map(|p| PortRule {
            container: name.parse().unwrap(),
            service: Some("web".parse().unwrap()),
            ..port6(p, None, 8080, &c.at, 80)
        })
    });
    with.publish(several.concat());
    let heard: BTreeSet<String> = (0..8)
        .map(|_| ask(&host.space, Tcp, LOCALHOST6, 8080)[..3].to_owned())
        .collect();
    assert_eq!(heard.len(), 2, "{heard:?}");
    with.publish(published(&a, None, 8090));
    assert_eq!(with.pid(), pid, "it is the same process all the way");
    for protocol in BOTH {
        refuse(&host.space, protocol, LOCALHOST6, 8080);
        assert!(ask(&host.space, protocol, LOCALHOST6, 8090).starts_with("web "));
    }
    with.publish(Vec::new());
    assert_eq!(with.pid(), None, "nobody needs it");
    refuse(&host.space, Tcp, LOCALHOST6, 8090);
}

#[test]
fn it_is_nobody_and_no_listener_of_somebody_elses() {
    let with = WithRelay::new();
    let c = with.web(5, "web");
    with.publish(published(&c, None, 80));
    let status = std::fs::read_to_string(format!("/proc/{}/status", with.pid().unwrap())).unwrap();
    for line in [
        "Uid:\t65534\t65534\t65534\t65534",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "{line} in {status}");
    }
    assert!(ask(&with.host.space, Tcp, LOCALHOST6, 80).starts_with("web "));
    let other = with
        .host
        .space
        .run(|| TcpListener::bind((LOCALHOST6, 81)).unwrap());
    let found = with.host.space.run(|| with.host.net.listeners().unwrap());
    let ports: Vec<u16> = found.iter().map(|l| l.port).collect();
    assert_eq!(ports, [81], "{found:?}");
    drop(other);
}

#[test]
fn it_outlives_the_agent_and_is_replaced_when_it_dies() {
    let mut with = WithRelay::new();
    let c = with.web(5, "web");
    let mut rules = published(&c, None, 8080);
    rules.extend(published(&c, Some(LOCALHOST6), 8081));
    with.publish(rules.clone());
    let state = FirewallState {
        bridges: vec![bridge_rule(&with.n)],
        ports: rules,
        ..FirewallState::default()
    }
    .sorted();
    let pid = with.pid();
    // The agent ends; another one begins, and finds nothing to do.
    let relay = Relay::new(with.run_dir.path(), Path::new(env!("CARGO_BIN_EXE_net-testbin")));
    let again = with
        .host
        .space
        .run(|| Net::sharing_its_table("test").unwrap().with_relay(relay));
    with.host.net = again;
    let space = &with.host.space;
    assert_eq!(
        space.run(|| with.host.net.firewall().unwrap()).as_ref(),
        Some(&state)
    );
    space.run(|| with.host.net.apply_firewall(&state).unwrap());
    assert_eq!(with.pid(), pid);
    // It dies: that is seen at once, and mended.
    let ended = with.host.net.relay().unwrap().pidfd().unwrap().unwrap();
    rustix::process::pidfd_send_signal(&ended, rustix::process::Signal::KILL).unwrap();
    let mut poll = [rustix::event::PollFd::new(&ended, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut poll, None).unwrap();
    refuse(space, Tcp, LOCALHOST6, 8080);
    assert_eq!(space.run(|| with.host.net.firewall().unwrap()), None);
    space.run(|| with.host.net.apply_firewall(&state).unwrap());
    assert_eq!(
        space.run(|| with.host.net.firewall().unwrap()).as_ref(),
        Some(&state)
    );
    for number in [8080, 8081] {
        assert!(ask(space, Tcp, LOCALHOST6, number).starts_with("web "));
    }
}

#[test]
fn a_port_that_somebody_has_is_an_error_that_says_so() {
    let with = WithRelay::new();
    let c = with.web(5, "web");
    let taken = with
        .host
        .space
        .run(|| TcpListener::bind((LOCALHOST6, 8080)).unwrap());
    let state = FirewallState {
        bridges: vec![bridge_rule(&with.n)],
        ports: published(&c, Some(LOCALHOST6), 8080),
        ..FirewallState::default()
    }
    .sorted();
    let apply = || with.host.space.run(|| with.host.net.apply_firewall(&state));
    let refused = apply().unwrap_err().to_string();
    assert!(refused.contains("listen on [::1]:8080/tcp"), "{refused}");
    drop(taken);
    apply().unwrap();
    assert!(ask(&with.host.space, Tcp, LOCALHOST6, 8080).starts_with("web "));
}

/// Nothing of it is there where nothing needs it.
#[test]
fn without_ipv6_there_is_no_relay() {
    let with = WithRelay::new();
    let four = network("four", 4);
    let c = with.host.container(&with.n, 5);
    serve(&c.space, Ipv4Addr::UNSPECIFIED, 80, "web");
    let state = with
        .host
        .apply(&[&with.n, &four], vec![port(Tcp, None, 8080, &c.at, 80)]);
    assert_eq!(
        with.host.space.run(|| with.host.net.firewall().unwrap()),
        Some(state)
    );
    assert_eq!(with.pid(), None);
}
