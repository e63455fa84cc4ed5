//! Names: containers find each other, outsiders are not served, and the agent need not be there.
#![allow(clippy::unwrap_used)]

use std::net::{TcpListener, UdpSocket};

use tests::names::{Upstream, server as name_server};
use tests::{Host, http};

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
    host.container(name).networks[network].ip.clone().unwrap()
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
    // Nor where he sends what he asks of a gateway's address to us.
    let gateway = host.container("one").networks["a"].gateway.clone().unwrap();
    let asked = host.neighbour.sh(&format!(
        "ip route add {gateway} via 192.0.2.1; timeout 3 busybox nslookup one {gateway} 2>&1 || true"
    ));
    assert!(!asked.contains(&ip(&host, "one", "a")), "{asked}");
}

/// The first thing each of them does is to look up its own name, its alias and its address.
#[test]
fn names_are_answered_before_what_has_them_is_started() {
    let mut host = Host::new();
    let count = 8;
    host.start_agent();
    for n in 0..count {
        let line = format!(
            "nslookup -type=a job{n} && nslookup -type=a alias{n} && exec nslookup $(hostname -i | cut -d' ' -f1)"
        );
        let more = format!("restart = \"no\"\nnetworks = {{ default = {{ aliases = [\"alias{n}\"] }} }}\n");
        host.write_busybox(&format!("job{n}"), &line, &more);
    }
    let over = host.until("all have run", |s| {
        s.containers.len() == count && s.containers.iter().all(|c| c.exit_code.is_some())
    });
    for container in over.containers {
        let name = &container.name;
        assert_eq!(
            container.exit_code,
            Some(0),
            "{name}: {}",
            host.wharf(["logs", name]).stdout
        );
    }
}

/// A search domain is for names that are no container's; with it, a name is one of that domain.
#[test]
fn search_domains_are_for_other_names() {
    let mut host = Host::new();
    std::fs::write(host.settings(), "[dns]\nupstream = [\"192.0.2.2\"]\n").unwrap();
    table(&host, "one", "dns_search = [\"corp.example\"]\n");
    table(&host, "two", "");
    host.start_agent();
    host.converge();
    let upstream = Upstream::start(&host);
    let text = host.wharf(["exec", "one", "cat", "/etc/resolv.conf"]).ok().stdout;
    let has = |line: &str| text.lines().any(|l| l == line);
    assert!(has("search corp.example") && has("options ndots:0"), "{text}");
    assert_eq!(lookup(&host, "one", "two").0, 0);
    let (code, text) = lookup(&host, "one", "two.corp.example");
    assert!(code == 0 && text.contains("203.0.113.7"), "{text}");
    // (This nslookup tries the search domain in any case.)
    assert_eq!(upstream.asked(), ["two.corp.example"]);
}

/// Somebody has port 53 on all addresses: what is asked there at either gateway reaches the name server.
#[test]
fn names_are_answered_at_both_gateways_where_port_53_is_taken() {
    let mut host = Host::new();
    let held = host.ns.within(|| UdpSocket::bind("[::]:53").unwrap());
    host.write("net.toml", "[network.six]\nsubnet6 = \"fd00:90:7::/64\"\n");
    table(&host, "one", "networks = [\"six\"]\n");
    table(&host, "two", "networks = [\"six\"]\n");
    host.start_agent();
    host.converge();
    let place = host.container("one").networks["six"].clone();
    let two = host.container("two").networks["six"].clone();
    for gateway in [place.gateway.unwrap(), place.gateway6.unwrap()] {
        let said = host.wharf(["exec", "one", "nslookup", "two", &gateway]);
        let has = |ip: &str| said.stdout.contains(ip);
        assert!(
            said.code == 0 && has(two.ip.as_ref().unwrap()) && has(two.ip6.as_ref().unwrap()),
            "{gateway}: {said:?}"
        );
    }
    drop(held);
}

/// What containers ask is nobody's business: no log, event or record of the agent has it.
#[test]
fn what_containers_ask_is_written_down_nowhere() {
    let mut host = Host::new();
    std::fs::write(host.settings(), "[dns]\nupstream = [\"192.0.2.2\"]\n").unwrap();
    table(&host, "one", "");
    host.start_agent();
    host.converge();
    let upstream = Upstream::start(&host);
    let pid = host.container("one").pid.unwrap();
    let gateway = host.container("one").networks["default"].gateway.clone().unwrap();
    for name in ["xyzzy", "xyzzy.example", "xyzzy.*?.example", "Xyzzy.default"] {
        let net = format!("--net=/proc/{pid}/ns/net");
        let mut asks = host.ns.command("nsenter");
        asks.args([&net, "busybox", "nslookup", "-type=a", name, &gateway]);
        asks.output().unwrap();
    }
    assert!(upstream.asked().iter().any(|name| name == "xyzzy.example"));
    // The server is replaced and given everything anew meanwhile.
    let server = i32::try_from(name_server(&host)).unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(server),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    host.until("answered again", |_| lookup(&host, "one", "one").0 == 0);
    let events = host.wharf(["events"]).stdout;
    assert!(!host.log().to_lowercase().contains("xyzzy") && !events.to_lowercase().contains("xyzzy"));
    for dir in [host.state_dir(), host.run_dir()] {
        let found = host.ns.sh(&format!("grep -rli xyzzy {} || true", dir.display()));
        assert_eq!(found, "");
    }
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
