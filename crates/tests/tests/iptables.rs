//! Hosts whose firewall is iptables, of either kind, or none: everything that is published works, is watched and put
//! right; another backend takes over between two runs of the agent.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use model::status::Status;
use tests::{Backend, From, Host, at_once, http};

const VARIANTS: [Backend; 2] = [Backend::IptablesNft, Backend::IptablesLegacy];
const LIMIT: Duration = Duration::from_secs(60);

/// A web server with ports of all kinds, somebody beside it and somebody on another network, with IPv6.
fn host(backend: Backend) -> Host {
    let mut host = Host::new();
    host.choose_firewall(backend);
    for (ns, address) in [(&host.ns, "2001:db8::1"), (&host.neighbour, "2001:db8::2")] {
        ns.sh(&format!("ip -6 addr add {address}/64 dev eth0 nodad"));
    }
    host.write(
        "net.toml",
        "[network.front]\nsubnet = \"10.90.1.0/24\"\nsubnet6 = \"fd00:90:1::/64\"\n\
         [network.back]\nsubnet = \"10.90.2.0/24\"\n",
    );
    let ports = "ports = [\"8080:80\", \"8080:80/udp\", { host = 8081, container = 80, allow = [\"198.51.100.0/24\"] }, \
                 \"127.0.0.1:8082:80\", \"7000-7002:80-82\", \"[::1]:8083:80\"]\nnetworks = [\"front\"]\n";
    let web = format!("[container.web]\nimage = {:?}\n{ports}", host.hello_image());
    host.write("web.toml", &web);
    host.write_busybox("peer", "exec sleep 1000", "networks = [\"front\"]\n");
    host.write_busybox("other", "exec sleep 1000", "networks = [\"back\"]\n");
    host
}

fn page(host: &Host, container: &str, url: &str) -> bool {
    // Where nobody answers the connection takes two minutes to fail: nobody waits for that.
    let line = format!("wget -qO- {url} & p=$!; (sleep 3; kill $p) 2>/dev/null & wait $p");
    host.wharf(["exec", container, "sh", "-c", &line])
        .stdout
        .contains("hello")
}

#[track_caller]
fn until(host: &Host, what: &str, so: impl Fn() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(
            start.elapsed() < LIMIT,
            "never {what}\n{}\n{}",
            host.evidence(),
            host.rules()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Everything that is to be reached is, by whom it is for, and by nobody else.
#[track_caller]
fn holds(host: &Host) {
    let reached = |from: From, at: &str| {
        let url = format!("http://{at}/");
        until(host, &format!("{at} from {from:?}"), || {
            http::get(host.place(from), &url).is_ok()
        });
    };
    for at in ["192.0.2.1:8080", "[2001:db8::1]:8080", "192.0.2.1:7000"] {
        reached(From::Neighbour, at);
        reached(From::Host, at);
    }
    for at in ["127.0.0.1:8080", "127.0.0.1:8082", "[::1]:8083", "192.0.2.1:8081"] {
        reached(From::Host, at);
    }
    http::ask_udp(&host.neighbour, "192.0.2.1:8080", "?").unwrap();
    until(host, "a page by name", || page(host, "peer", "http://web/"));
    for container in ["peer", "other"] {
        until(host, "a page by the host's address", || {
            page(host, container, "http://192.0.2.1:8080/")
        });
    }
    let closed = ["192.0.2.1:8081", "192.0.2.1:8082", "192.0.2.1:80"];
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(!page(host, "other", "http://10.90.1.2:80/"), "networks are apart"));
        at_once(closed, |at| {
            assert!(!http::reaches(&host.neighbour, at), "{at}\n{}", host.rules());
        });
    });
}

fn work_on(backend: Backend) {
    let mut host = host(backend);
    // What others do is not left to a full pass.
    let settings = std::fs::read_to_string(host.settings()).unwrap();
    std::fs::write(host.settings(), settings + "[agent]\nfull_pass = \"1h\"\n").unwrap();
    host.start_agent();
    let status = host.converge();
    assert_eq!(status.firewall, "iptables");
    let note = status.firewall_note.clone().unwrap();
    let which = if backend == Backend::IptablesNft {
        "iptables-nft v"
    } else {
        "iptables-legacy v"
    };
    assert!(
        note.starts_with(which) && note.contains("table by table"),
        "{note}"
    );
    let text = host.wharf(["status"]).ok().stdout;
    assert!(text.contains(&format!("firewall iptables: {note}\n")), "{text}");
    assert!(!host.rules().contains("inet wharf"));
    holds(&host);
    // Killed and started again it changes nothing.
    let before = ours(&host);
    host.kill_agent();
    holds_for_the_lan(&host);
    host.start_agent();
    host.converge();
    assert_eq!(ours(&host), before);
    // Others flush.
    for flush in ["-t nat -F", "-F", "-t mangle -F"] {
        let programs = host.dir().join("programs");
        host.ns.sh(&format!(
            "{0}/iptables {flush}; {0}/ip6tables {flush}",
            programs.display()
        ));
        until(&host, "put right", || ours(&host) == before);
        holds_for_the_lan(&host);
    }
    host.remove_all();
    host.until("all gone", |s| s.converged && s.networks.is_empty());
    assert!(!host.rules().contains("WHARF"), "{}", host.rules());
    assert_eq!(host.ns.sh("cat /proc/sys/net/ipv4/ip_forward"), "0\n");
}

/// Its rules, in no order of chains, without counters.
fn ours(host: &Host) -> Vec<String> {
    let rules = host.rules();
    let of_wharf = rules
        .lines()
        .filter(|line| line.starts_with("-A") && line.contains("WHARF-"));
    let mut rules: Vec<String> = of_wharf.map(str::to_owned).collect();
    rules.sort();
    rules
}

fn holds_for_the_lan(host: &Host) {
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    assert!(!http::reaches(&host.neighbour, "192.0.2.1:8081"));
}

#[test]
fn ports_names_and_networks_work_on_iptables_nft() {
    work_on(Backend::IptablesNft);
}

#[test]
fn ports_names_and_networks_work_on_iptables_legacy() {
    work_on(Backend::IptablesLegacy);
}

#[test]
fn the_backend_is_changed_between_two_runs_of_the_agent() {
    let mut host = host(Backend::Nftables);
    host.start_agent();
    let status = host.converge();
    assert_eq!(
        (status.firewall.as_str(), &status.firewall_note),
        ("nftables", &None)
    );
    let pids = tests::client::pids(&status);
    for backend in [VARIANTS[1], VARIANTS[0], Backend::Nftables] {
        host.stop_agent();
        host.choose_firewall(backend);
        host.start_agent();
        let status = host.until("as chosen", |s| s.converged && s.firewall == backend.word());
        assert_eq!(tests::client::pids(&status), pids, "containers are not touched");
        holds(&host);
        let rules = host.rules();
        let is = [rules.contains("inet wharf"), rules.contains("WHARF-DNAT")];
        assert_eq!(
            is,
            [backend == Backend::Nftables, backend != Backend::Nftables],
            "{rules}"
        );
        let of = |variant: &str| host.ns.sh(&format!("iptables-{variant}-save")).contains("WHARF");
        assert_eq!(
            [of("nft"), of("legacy")],
            [
                backend == Backend::IptablesNft,
                backend == Backend::IptablesLegacy
            ]
        );
    }
}

#[test]
fn settings_that_cannot_be_read_change_no_backend() {
    let mut host = host(Backend::IptablesNft);
    host.start_agent();
    host.converge();
    host.stop_agent();
    std::fs::write(host.settings(), "[firewall]\nbackend = \"iptabels\"\n").unwrap();
    host.start_agent();
    let status = host.until("told", |s| !s.errors.is_empty());
    assert!(status.errors[0].message.contains("iptabels"), "{status:?}");
    assert_eq!(status.firewall, "iptables");
    holds_for_the_lan(&host);
}

#[test]
fn without_a_firewall_nothing_is_published_and_that_is_said() {
    let mut host = host(Backend::Nftables);
    host.ns.sh("echo 0 > /proc/sys/net/ipv4/ip_forward");
    host.start_agent();
    host.converge();
    holds_for_the_lan(&host);
    host.stop_agent();
    host.choose_firewall(Backend::None);
    host.start_agent();
    let status = host.until("none", |s| s.converged && s.firewall == "none");
    assert!(!host.rules().contains("wharf"), "{}", host.rules());
    assert_eq!(host.ns.sh("cat /proc/sys/net/ipv4/ip_forward"), "0\n");
    assert!(!http::reaches(&host.neighbour, "192.0.2.1:8080"));
    let rows = &tests::client::row(&status, "web").ports;
    for row in rows {
        let relayed = row.ip == "::1" || row.ip == "::";
        let wanted = if relayed { "host" } else { "nobody" };
        assert_eq!(row.open_to, wanted, "{row:?}");
    }
    let text = host.wharf(["status", "web"]).ok().stdout;
    assert!(text.contains("is published by nobody"), "{text}");
    // That needs no firewall: a process serves it. And containers of one network reach each other.
    host.http_get(From::Host, "http://[::1]:8083/");
    until(&host, "a page by name", || page(&host, "peer", "http://web/"));
    // What somebody sets up himself stays: nobody looks at it.
    host.ns.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
    host.wharf(["reload"]).ok();
    host.converge();
    assert_eq!(host.ns.sh("cat /proc/sys/net/ipv4/ip_forward"), "1\n");
    host.remove_all();
    host.until("all gone", |s| s.converged && s.networks.is_empty());
    assert_eq!(host.ns.sh("cat /proc/sys/net/ipv4/ip_forward"), "1\n");
}

#[test]
fn a_host_without_iptables_is_told_what_to_install() {
    let mut host = host(Backend::IptablesNft);
    // In the host's own mount namespace: where the programs are, there are none.
    let programs = host.dir().join("programs");
    for program in ["iptables-restore", "iptables-save"] {
        std::fs::remove_file(programs.join(program)).unwrap();
    }
    let program = "$(readlink -f /usr/sbin/iptables-restore)";
    host.ns.sh(&format!("mount --bind /dev/null {program}"));
    host.expect_error("there is no program iptables-restore");
    host.start_agent();
    let missing = |s: &Status| {
        let rows = s.containers.iter().filter_map(|c| c.error.as_deref());
        rows.chain(s.networks.iter().filter_map(|n| n.error.as_deref()))
            .any(|e| e.contains("install the package iptables"))
    };
    let status = host.until("told", missing);
    assert!(!status.converged && status.firewall == "iptables");
    // It goes on as soon as there are some.
    host.ns.sh(&format!("umount {program}"));
    host.choose_firewall(Backend::IptablesNft);
    host.wharf(["reload"]).ok();
    host.converge();
    holds_for_the_lan(&host);
}
