//! Names: containers find each other, outsiders are not served, and the agent need not be there.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tests::{Host, http, process};

fn table(host: &Host, name: &str, more: &str) {
    host.write(
        &format!("{name}.toml"),
        &host.busybox_table(name, "exec sleep 1000", more),
    );
}

fn lookup(host: &Host, from: &str, name: &str) -> (i32, String) {
    let said = host.wharf(["exec", from, "nslookup", "-type=a", name]);
    (said.code, said.stdout)
}

fn ip(host: &Host, name: &str, network: &str) -> String {
    host.container(name).networks[network].ip.clone()
}

#[test]
fn containers_find_each_other_and_only_on_shared_networks() {
    let mut host = Host::new();
    host.write("net.toml", "[network.a]\n[network.b]\n");
    table(&host, "one", "networks = [\"a\"]\n");
    table(&host, "two", "networks = [\"b\"]\n");
    table(&host, "both", "networks = [\"a\", \"b\"]\n");
    table(&host, "plain", "");
    host.start_agent();
    host.converge();
    let (code, text) = lookup(&host, "one", "both");
    assert!(code == 0 && text.contains(&ip(&host, "both", "a")), "{text}");
    let (code, text) = lookup(&host, "two", "BOTH");
    assert!(code == 0 && text.contains(&ip(&host, "both", "b")), "{text}");
    for name in ["one", "two"] {
        assert_eq!(lookup(&host, "both", name).0, 0, "{name}");
    }
    // The attack: another network's names, also asked of its own gateway.
    assert_ne!(lookup(&host, "one", "two").0, 0);
    let gateway = host.container("two").networks["b"].gateway.clone().unwrap();
    let asked = host.wharf([
        "exec", "one", "timeout", "3", "nslookup", "-type=a", "two", &gateway,
    ]);
    assert!(
        asked.code != 0 && !asked.stdout.contains(&ip(&host, "two", "b")),
        "{asked:?}"
    );
    // Names on `default` too.
    table(&host, "second", "");
    host.converge();
    assert_eq!(lookup(&host, "plain", "second").0, 0);
    // A neighbour on the wire is not served.
    let asked = host
        .neighbour
        .sh("timeout 3 busybox nslookup one 192.0.2.1 2>&1 || true");
    assert!(!asked.contains(&ip(&host, "one", "a")), "{asked}");
}

#[test]
fn names_are_answered_while_the_agent_is_away_and_after_the_server_was_killed() {
    let mut host = Host::new();
    table(&host, "one", "");
    table(&host, "two", "");
    host.start_agent();
    host.converge();
    let server = name_server(&host);
    let status = std::fs::read_to_string(format!("/proc/{server}/status")).unwrap();
    let line = |key: &str| {
        status
            .lines()
            .find(|l| l.starts_with(key))
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .to_owned()
    };
    assert_ne!(line("Uid:"), "0", "unprivileged");
    assert_eq!(
        (
            line("CapEff:").as_str(),
            line("NoNewPrivs:").as_str(),
            line("Seccomp:").as_str()
        ),
        ("0000000000000000", "1", "2")
    );
    let pid = host.container("one").pid.unwrap();
    host.kill_agent();
    let asked = host
        .ns
        .command("nsenter")
        .args([
            &format!("--net=/proc/{pid}/ns/net"),
            &format!("--mount=/proc/{pid}/ns/mnt"),
            "nslookup",
            "-type=a",
            "two",
        ])
        .output()
        .unwrap();
    assert!(asked.status.success(), "{asked:?}");
    host.start_agent();
    host.converge();
    let victim = i32::try_from(server).unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(victim),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    host.until("answered again", |_| lookup(&host, "one", "two").0 == 0);
}

#[test]
fn names_resolve_behind_an_input_chain_that_drops() {
    let mut host = Host::new();
    // As ufw leaves it.
    let theirs = "iptables-nft -P INPUT DROP; iptables-nft -A INPUT -i lo -j ACCEPT;
        iptables-nft -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
    host.ns.sh(theirs);
    let before = foreign_rules(&host);
    table(&host, "one", "");
    table(&host, "two", "");
    host.start_agent();
    host.converge();
    assert_eq!(lookup(&host, "one", "two").0, 0);
    assert_eq!(foreign_rules(&host), before);
    // Nothing else of the host is open for it: neither to containers nor to neighbours.
    let gateway = host.container("one").networks["default"].gateway.clone().unwrap();
    let server = host.ns.within(|| TcpListener::bind("0.0.0.0:8053").unwrap());
    assert!(http::reaches(&host.ns, "127.0.0.1:8053"));
    let knock = format!("nc -w 2 {gateway} 8053 </dev/null");
    assert_ne!(host.wharf(["exec", "one", "sh", "-c", &knock]).code, 0);
    assert!(!http::reaches(&host.neighbour, "192.0.2.1:8053"));
    drop(server);
    // Their reload flushes it; it comes back.
    host.ns.sh(&format!("iptables-nft -F INPUT; {theirs}"));
    host.until("answered again", |_| lookup(&host, "one", "two").0 == 0);
    assert_eq!(foreign_rules(&host), before);
    host.remove_all();
    host.until("gone", |s| s.containers.is_empty() && s.converged);
    let left = host.ns.sh("iptables-save");
    assert!(!left.contains("WHARF"), "{left}");
}

/// Rules of iptables that are not ours.
fn foreign_rules(host: &Host) -> Vec<String> {
    let saved = host.ns.sh("iptables-save -t filter");
    let theirs = saved
        .lines()
        .filter(|l| l.starts_with("-A") && !l.contains("WHARF"));
    theirs.map(str::to_owned).collect()
}

#[test]
fn other_names_are_asked_of_the_upstream() {
    let mut host = Host::new();
    std::fs::write(host.settings(), "[dns]\nupstream = [\"192.0.2.2\"]\n").unwrap();
    host.write("net.toml", "[network.closed]\ninternal = true\n");
    table(&host, "open", "");
    table(&host, "shut", "networks = [\"closed\"]\n");
    host.start_agent();
    host.converge();
    let upstream = Upstream::start(&host);
    let (code, text) = lookup(&host, "open", "www.example");
    assert!(code == 0 && text.contains("203.0.113.7"), "{code} {text}");
    assert_ne!(
        lookup(&host, "shut", "www.example").0,
        0,
        "an internal network asks nobody"
    );
    assert_eq!(lookup(&host, "shut", "shut").0, 0);
    drop(upstream);
}

/// The pid of the host's own.
fn name_server(host: &Host) -> u32 {
    let own = format!("WHARF_RUN_DIR={}", host.run_dir().display());
    let is = |pid: &u32| {
        let read = |what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
        let environ = read("environ");
        read("cmdline") == b"wharf\0dns\0" && environ.split(|&b| b == 0).any(|v| v == own.as_bytes())
    };
    process::pids().find(is).expect("it is a process of its own")
}

/// A server on the neighbour that knows one address for every name.
struct Upstream {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Upstream {
    fn start(host: &Host) -> Self {
        let (udp, tcp) = host.neighbour.within(|| {
            (
                UdpSocket::bind("0.0.0.0:53").unwrap(),
                TcpListener::bind("0.0.0.0:53").unwrap(),
            )
        });
        udp.set_read_timeout(Some(std::time::Duration::from_millis(50)))
            .unwrap();
        tcp.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (a, b) = (Arc::clone(&stop), Arc::clone(&stop));
        let datagrams = std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while !a.load(Ordering::Relaxed) {
                if let Ok((n, from)) = udp.recv_from(&mut buffer) {
                    udp.send_to(&answer(&buffer[..n]), from).unwrap();
                }
            }
        });
        let streams = std::thread::spawn(move || {
            while !b.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = tcp.accept() else {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                let mut head = [0; 2];
                if stream.read_exact(&mut head).is_ok() {
                    let mut query = vec![0; usize::from(u16::from_be_bytes(head))];
                    stream.read_exact(&mut query).unwrap();
                    let reply = answer(&query);
                    stream
                        .write_all(&u16::try_from(reply.len()).unwrap().to_be_bytes())
                        .unwrap();
                    stream.write_all(&reply).unwrap();
                }
            }
        });
        Self {
            stop,
            threads: vec![datagrams, streams],
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// The question back with one A record (RFC 1035, section 4).
fn answer(query: &[u8]) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|&b| b == 0).unwrap() + 5;
    let mut reply = query[..end].to_vec();
    reply[2] = 0x81;
    reply[3] = 0x80;
    reply[4..12].copy_from_slice(&[0, 1, 0, 1, 0, 0, 0, 0]);
    reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 7]);
    reply
}
