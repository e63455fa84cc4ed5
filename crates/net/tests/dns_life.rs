//! The name server as a process: what it may do, how it outlives the agent, how it is found and brought back.
#![allow(clippy::unwrap_used)]

mod dnshost;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Command, Stdio};

use dnshost::{
    BOTH, Host, Upstream, Way, ask, exchange, exe, gateway, gateway6, nowhere, question, says, told,
};
use hickory_proto::rr::RecordType::A;
use model::dns::DnsState;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Waits for the end of the process of a pidfd.
fn wait_for(process: std::os::fd::OwnedFd) {
    let mut fds = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut fds, None).unwrap(), 1);
}

#[test]
fn it_is_nobody_and_can_open_nothing() {
    let mut host = Host::new(&["a"]);
    host.name("web", "a", 2, &[]);
    host.apply();
    let proc = |what: &str| std::fs::read_to_string(format!("/proc/{}/{what}", host.pid())).unwrap();
    let status = proc("status");
    let field = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(&format!("{key}:")));
        let (_, value) = line.unwrap().split_once(':').unwrap();
        value.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for (key, value) in [
        ("Uid", "65534 65534 65534 65534"),
        ("Gid", "65534 65534 65534 65534"),
        ("Groups", ""),
        ("CapInh", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Threads", "1"),
    ] {
        assert_eq!(field(key), value, "{key}");
    }
    assert_eq!(proc("cmdline"), "wharf\0dns\0");
    assert_eq!(
        proc("environ"),
        format!("WHARF_RUN_DIR={}\0", host.run_dir().display())
    );
    let limits = proc("limits");
    let limit = |name: &str| {
        limits
            .lines()
            .find(|l| l.starts_with(name))
            .unwrap()
            .split_whitespace()
            .rev()
            .nth(1)
            .unwrap()
            .to_owned()
    };
    assert_eq!(limit("Max processes"), "0");
    assert_eq!(limit("Max file size"), "0");
    let link = |what: &str| std::fs::read_link(format!("/proc/{}/{what}", host.pid())).unwrap();
    assert_eq!(link("cwd").to_str(), Some("/"));
    // Standard streams, lock, control socket, epoll, two listeners: nothing else of whoever started it.
    let fds: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", host.pid()))
        .unwrap()
        // One that was closed meanwhile is none.
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .map(|to| to.display().to_string())
        .collect();
    assert_eq!(fds.iter().filter(|to| *to == "/dev/null").count(), 3, "{fds:?}");
    let lock = host.run_dir().join("dns/lock").display().to_string();
    let others: Vec<_> = fds
        .iter()
        .filter(|to| *to != "/dev/null" && **to != lock)
        .collect();
    assert!(
        others
            .iter()
            .all(|to| to.starts_with("socket:") || to.contains("eventpoll")),
        "{fds:?}"
    );
    // Its session is its own, and it is nobody's child here.
    let stat = proc("stat");
    let words: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_ne!(words[1], std::process::id().to_string());
    assert_ne!(words[3], nix::unistd::getsid(None).unwrap().to_string());
}

#[test]
fn it_answers_while_no_agent_is_there_and_is_found_by_the_next() {
    let mut host = Host::new(&["a"]);
    let web = host.container("web", &[("a", 2, &[])]);
    host.state.upstreams = vec!["192.0.2.53".parse().unwrap()];
    let mut agent = host.space.run(|| {
        Command::new(exe())
            .arg("agent")
            .arg(host.run_dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    });
    let mut to = agent.stdin.take().unwrap();
    writeln!(to, "{}", serde_json::to_string(&host.state).unwrap()).unwrap();
    let mut line = String::new();
    BufReader::new(agent.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "applied\n");
    let pid = host.pid();
    agent.kill().unwrap();
    agent.wait().unwrap();
    for way in BOTH {
        assert_eq!(ask(&web, gateway("a"), way, "web", A), "10.81.0.2");
    }
    // The next agent finds it, with what it was given, and goes on with the same process.
    assert_eq!(host.server.observe().unwrap().as_ref(), Some(&host.state));
    assert!(host.server.pidfd().unwrap().is_some());
    host.name("db", "a", 3, &[]);
    host.apply();
    assert_eq!(host.pid(), pid);
    assert_eq!(ask(&web, gateway("a"), Way::Udp, "db", A), "10.81.0.3");
}

#[test]
fn killed_it_is_missed_and_comes_back() {
    let mut host = Host::new(&["a", "b"]);
    let web = host.container("web", &[("a", 2, &[]), ("b", 2, &[])]);
    assert_eq!(host.server.observe().unwrap(), None);
    assert!(host.server.pidfd().unwrap().is_none());
    host.apply();
    for _ in 0..3 {
        let (pid, process) = (host.pid(), host.server.pidfd().unwrap().unwrap());
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        wait_for(process);
        assert_eq!(host.server.observe().unwrap(), None);
        assert!(host.server.ports().unwrap().is_empty());
        host.apply();
        assert_ne!(host.pid(), pid);
        for (at, way) in [("a", Way::Udp), ("a", Way::Tcp), ("b", Way::Udp), ("b", Way::Tcp)] {
            assert_eq!(ask(&web, gateway(at), way, "web.a", A), "10.81.0.2");
        }
    }
}

/// Its agent died between handing over sockets and writing down what it did: nothing is bound twice, nothing moves.
#[test]
fn an_apply_that_was_cut_off_is_completed() {
    let mut host = Host::new(&["a"]);
    let web = host.container("web", &[("a", 2, &[])]);
    host.apply();
    let pid = host.pid();
    std::fs::remove_file(host.run_dir().join("dns/last.json")).unwrap();
    assert_eq!(host.server.observe().unwrap(), Some(DnsState::default()));
    host.apply();
    // What another version wrote is as good as nothing.
    std::fs::write(host.run_dir().join("dns/last.json"), "{\"given\": 7}").unwrap();
    assert_eq!(host.server.observe().unwrap(), Some(DnsState::default()));
    host.apply();
    assert_eq!(host.pid(), pid);
    assert!(host.server.ports().unwrap().is_empty());
    assert_eq!(ask(&web, gateway("a"), Way::Udp, "web", A), "10.81.0.2");
}

#[test]
fn a_change_holds_when_apply_returns_and_the_process_stays() {
    let mut host = Host::new(&["a"]);
    let web = host.container("web", &[("a", 2, &[])]);
    host.apply();
    let pid = host.pid();
    for number in 10..60 {
        host.name("db", "a", number, &["store"]);
        host.apply();
        let expected = format!("10.81.0.{number}");
        assert_eq!(ask(&web, gateway("a"), Way::Udp, "store", A), expected);
    }
    host.state.containers.remove("db");
    host.apply();
    assert_eq!(ask(&web, gateway("a"), Way::Udp, "db", A), "no such name +soa");
    // A network comes and goes: its sockets with it.
    host.add_network("b");
    host.name("web", "b", 2, &["other"]);
    host.apply();
    assert_eq!(ask(&web, gateway("b"), Way::Tcp, "other", A), "10.82.0.2");
    host.state.networks.remove("b");
    host.apply();
    host.space.run(|| {
        UdpSocket::bind((gateway("b"), 53)).unwrap();
        TcpListener::bind((gateway("b"), 53)).unwrap();
    });
    assert_eq!(ask(&web, gateway("a"), Way::Udp, "other", A), "no such name +soa");
    assert_eq!(host.pid(), pid);
}

#[test]
fn without_networks_it_ends() {
    let mut host = Host::new(&["a"]);
    host.name("web", "a", 2, &[]);
    host.apply();
    let process = host.server.pidfd().unwrap().unwrap();
    host.another().apply(&DnsState::default(), &nowhere).unwrap();
    wait_for(process);
    assert_eq!(host.server.observe().unwrap(), None);
    host.another().apply(&DnsState::default(), &nowhere).unwrap();
    assert!(!host.run_dir().join("dns").exists(), "nothing is left");
}

#[test]
fn gateways_may_be_bound_before_they_exist() {
    let mut host = Host::new(&["a"]);
    host.space.sh("ip link del br-a");
    host.apply();
    host.space
        .sh("ip link add br-a type bridge; ip addr add 10.81.0.1/24 dev br-a; ip link set br-a up");
    let web = host.container("web", &[("a", 2, &[])]);
    host.apply();
    assert_eq!(ask(&web, gateway("a"), Way::Udp, "web", A), "10.81.0.2");
}

#[test]
fn where_port_53_is_taken_another_is_used_and_told() {
    for taken in BOTH {
        let mut host = Host::new(&["a"]);
        let web = host.container("web", &[("a", 2, &[])]);
        let holder: Box<dyn std::any::Any + Send> = host.space.run(|| match taken {
            Way::Udp => Box::new(UdpSocket::bind("0.0.0.0:53").unwrap()) as Box<dyn std::any::Any + Send>,
            Way::Tcp => Box::new(TcpListener::bind("0.0.0.0:53").unwrap()),
        });
        host.apply();
        let ports = host.another().ports().unwrap();
        let port = ports["a"];
        assert!(port > 1023 && ports.len() == 1, "{ports:?}");
        for way in BOTH {
            let server = SocketAddr::from((gateway("a"), port));
            let message = question("web", A);
            assert_eq!(web.run(|| told(&exchange(&message, way, server))), "10.81.0.2");
        }
        drop(holder);
        // A network that comes later finds the port free; the first keeps what it has.
        host.add_network("b");
        host.apply();
        assert_eq!(host.server.ports().unwrap(), ports);
    }
}

/// Both gateways of a network have one port, so that one rule leads there; and a gateway that comes later too.
#[test]
fn where_port_53_is_taken_for_one_family_both_use_another() {
    let mut host = Host::new(&["a", "b"]);
    host.add_v6("a");
    let web = host.container("web", &[("a", 2, &[])]);
    host.give_v6(&web, "web", "a", 2);
    let _holder = host.space.run(|| of_ipv6(53));
    host.apply();
    let port = host.another().ports().unwrap()["a"];
    for way in BOTH {
        for at in [
            SocketAddr::from((gateway("a"), port)),
            SocketAddr::from((gateway6("a"), port)),
        ] {
            let message = question("web", A);
            assert_eq!(
                web.run(|| told(&exchange(&message, way, at))),
                "10.81.0.2",
                "{at} {way:?}"
            );
        }
    }
    assert!(
        !host.server.ports().unwrap().contains_key("b"),
        "IPv4 alone has it"
    );
    // IPv6 comes to a network that listens on 53: it moves.
    host.add_v6("b");
    host.apply();
    let ports = host.another().ports().unwrap();
    assert!(ports["b"] != 53 && ports["a"] == port, "{ports:?}");
    let message = question("nobody", A);
    for at in [
        SocketAddr::from((gateway("b"), ports["b"])),
        SocketAddr::from((gateway6("b"), ports["b"])),
    ] {
        let said = host.space.run(|| told(&exchange(&message, Way::Udp, at)));
        assert_eq!(said, "no such name +soa", "{at}");
    }
}

/// A socket on all IPv6 addresses and no IPv4 ones.
fn of_ipv6(port: u16) -> std::os::fd::OwnedFd {
    use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};
    let held = socket(AddressFamily::INET6, SocketType::DGRAM, None).unwrap();
    sockopt::set_ipv6_v6only(&held, true).unwrap();
    bind(&held, &SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port))).unwrap();
    held
}

#[test]
fn the_hosts_own_servers_are_asked_and_followed() {
    let mut host = Host::new(&["a"]);
    let web = host.container("web", &[("a", 2, &[])]);
    host.space
        .sh("ip addr add 192.0.2.53/32 dev lo; ip addr add 192.0.2.54/32 dev lo");
    let _first = Upstream::new(&host.space, "192.0.2.53", says("198.51.100.1"));
    let _second = Upstream::new(&host.space, "192.0.2.54", says("198.51.100.2"));
    // Ourselves named there is no circle.
    host.write_resolv_conf("nameserver 10.81.0.1\nnameserver 192.0.2.53\n");
    host.apply();
    assert_eq!(
        ask(&web, gateway("a"), Way::Udp, "www.example.com", A),
        "198.51.100.1"
    );
    host.write_resolv_conf("search x\nnameserver 192.0.2.54\n");
    let seen = host.server.observe().unwrap().unwrap();
    assert_ne!(
        seen, host.state,
        "what is answered is not what is wished any more"
    );
    host.apply();
    assert_eq!(
        ask(&web, gateway("a"), Way::Udp, "www.example.com", A),
        "198.51.100.2"
    );
    // Named servers count alone.
    host.state.upstreams = vec!["192.0.2.53".parse().unwrap()];
    host.apply();
    assert_eq!(
        ask(&web, gateway("a"), Way::Udp, "www.example.com", A),
        "198.51.100.1"
    );
}

/// A server that does not answer its agent is replaced, here one that is stopped.
#[test]
fn slow_one_that_is_stuck_is_replaced() {
    let mut host = Host::new(&["a"]);
    let web = host.container("web", &[("a", 2, &[])]);
    host.apply();
    let pid = host.pid();
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    host.name("db", "a", 3, &[]);
    host.apply();
    assert_ne!(host.pid(), pid);
    assert_eq!(ask(&web, gateway("a"), Way::Udp, "db", A), "10.81.0.3");
}

/// Many names go through: more than a frame holds.
#[test]
fn a_large_state_goes_through() {
    let mut host = Host::new(&["a"]);
    let web = host.container("web", &[("a", 2, &[])]);
    for number in 3..=250 {
        let aliases: Vec<String> = (0..40)
            .map(|n| format!("alias-{n}-of-container-{number}"))
            .collect();
        let aliases: Vec<&str> = aliases.iter().map(String::as_str).collect();
        host.name(&format!("c{number}"), "a", number, &aliases);
    }
    assert!(serde_json::to_vec(&host.state).unwrap().len() > 256 << 10);
    host.apply();
    assert_eq!(
        ask(&web, gateway("a"), Way::Udp, "alias-39-of-container-250", A),
        "10.81.0.250"
    );
}
