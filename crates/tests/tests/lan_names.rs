//! Names in containers that are on a LAN alone (macvlan), where they reach no gateway of ours: asked inside their own network
//! namespaces. The hosts have eth1 on the LAN 198.51.100.0/24, whose router has 198.51.100.254.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use tests::names::{Upstream, server};
use tests::namespace::{Duty, Namespace};
use tests::{Host, Lan};

/// How long something may take before the test gives up. No test measures by it.
const LIMIT: Duration = Duration::from_secs(60);
const SLEEP: &str = "exec sleep 1000";

struct World {
    host: Host,
    router: Namespace,
    _lan: Lan,
}

impl World {
    /// A host with `lan` and, given so, further tables; its agent does not run yet.
    fn new(more: &str) -> Self {
        let (lan, router, host) = (
            Lan::new(),
            Namespace::new("router", &Duty::default()),
            Host::new(),
        );
        lan.join(&router, "198.51.100.254/24");
        lan.join(&host.ns, "198.51.100.1/24");
        host.write(
            "lan.toml",
            &format!(
                "[network.lan]\ndriver = \"macvlan\"\nparent = \"eth1\"\nsubnet = \"198.51.100.0/24\"\n\
                 gateway = \"198.51.100.254\"\nrange = \"198.51.100.64/27\"\n{more}"
            ),
        );
        std::fs::write(host.settings(), "[dns]\nupstream = [\"192.0.2.2\"]\n").unwrap();
        Self {
            host,
            router,
            _lan: lan,
        }
    }

    fn on_lan(&self, name: &str, more: &str) {
        let more = format!("networks = [\"lan\"]\n{more}");
        self.host.write_busybox(name, SLEEP, &more);
    }

    /// Somebody on the LAN has that address.
    fn answers(&self, ip: &str) -> bool {
        let asked =
            format!("ip neigh flush all; busybox ping -c1 -W1 {ip} >/dev/null 2>&1 && echo yes || true");
        self.router.sh(&asked).contains("yes")
    }
}

fn ip(host: &Host, name: &str) -> String {
    host.container(name).networks["lan"].ip.clone().unwrap()
}

fn lookup(host: &Host, from: &str, name: &str) -> (i32, String) {
    let said = host.wharf(["exec", from, "nslookup", "-type=a", name]);
    (said.code, said.stdout)
}

fn finds(host: &Host, from: &str, name: &str, what: &str) {
    let (code, text) = lookup(host, from, name);
    assert!(
        code == 0 && text.contains(what),
        "{from} asks {name}: {code} {text}\n{}",
        host.evidence()
    );
}

/// Without an agent that would help.
fn finds_by_itself(host: &Host, pid: u32, name: &str, what: &str) {
    let within = [
        format!("--net=/proc/{pid}/ns/net"),
        format!("--mount=/proc/{pid}/ns/mnt"),
    ];
    let asks = ["nslookup", "-type=a", name].map(str::to_owned);
    let asked = host
        .ns
        .command("nsenter")
        .args(within.into_iter().chain(asks))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&asked.stdout);
    assert!(asked.status.success() && text.contains(what), "{asked:?}");
}

fn resolv_conf(host: &Host, name: &str) -> String {
    host.wharf(["exec", name, "cat", "/etc/resolv.conf"]).ok().stdout
}

/// Polls until it is so.
fn once(what: &str, host: &Host, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LIMIT, "never: {what}\n{}", host.evidence());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn end(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

fn descriptors(host: &Host) -> usize {
    let dir = format!("/proc/{}/fd", server(host));
    std::fs::read_dir(dir).unwrap().count()
}

/// Without those of connections that it has not yet seen the end of.
fn descriptors_at_rest(host: &Host) -> usize {
    let mut looks = vec![descriptors(host)];
    let start = Instant::now();
    while looks
        .iter()
        .rev()
        .take(10)
        .any(|count| Some(count) != looks.last())
        || looks.len() < 10
    {
        assert!(
            start.elapsed() < LIMIT,
            "never at rest: {looks:?}\n{}",
            host.evidence()
        );
        std::thread::sleep(Duration::from_millis(20));
        looks.push(descriptors(host));
    }
    descriptors(host)
}

#[test]
fn containers_of_a_lan_find_each_other_and_the_world() {
    let mut world = World::new(
        "[network.own]\n[network.mute]\ndriver = \"macvlan\"\nparent = \"eth1\"\n\
        subnet = \"203.0.113.0/24\"\nrange = \"203.0.113.64/27\"\ndns = false\n",
    );
    world.on_lan("one", "");
    world.on_lan("two", "replicas = 2\n");
    world.on_lan("own", "dns = [\"192.0.2.9\"]\n");
    let host = &mut world.host;
    host.write(
        "named.toml",
        &(host.busybox_table("named", SLEEP, "") + "[container.named.networks.lan]\naliases = [\"www\"]\n"),
    );
    host.write_busybox("mute", SLEEP, "networks = [\"mute\"]\n");
    host.write_busybox("sharer", SLEEP, "network_mode = \"container:one\"\n");
    host.write_busybox("both", SLEEP, "networks = [\"own\", \"lan\"]\n");
    let _upstream = Upstream::start(host);
    host.start_agent();
    host.converge();
    for from in ["one", "sharer"] {
        let text = resolv_conf(host, from);
        assert!(
            text.contains("nameserver 127.0.0.11\n") && text.contains("ndots:0"),
            "{text}"
        );
        finds(host, from, "one", &ip(host, "one"));
        for name in ["two", "two-1", "two-2", "named", "www", "both"] {
            assert_eq!(lookup(host, from, name).0, 0, "{from} asks {name}");
        }
        finds(host, from, "two", &ip(host, "two-2"));
        finds(host, from, "www.lan", &ip(host, "named"));
        // What is no container's is asked by the host, for which the container is a stranger on the LAN.
        finds(host, from, "www.example", "203.0.113.7");
    }
    finds(host, "two-2", "one", &ip(host, "one"));
    // Whoever reaches a gateway asks there, and those with servers of their own ask these.
    finds(host, "both", "one", &ip(host, "one"));
    assert!(!resolv_conf(host, "both").contains("127.0.0.11"));
    assert!(resolv_conf(host, "own").contains("nameserver 192.0.2.9\n"));
    assert!(!resolv_conf(host, "mute").contains("127.0.0.11"));
    finds(host, "one", "own", &ip(host, "own"));
    assert_ne!(lookup(host, "one", "mute").0, 0);
    let plan = host.wharf(["plan"]);
    assert_eq!(plan.code, 0, "{plan:?}");
}

#[test]
fn names_are_answered_whatever_of_ours_is_killed() {
    let mut world = World::new("");
    world.on_lan("one", "");
    world.on_lan("two", "");
    let host = &mut world.host;
    host.start_agent();
    host.converge();
    let (two, pid) = (ip(host, "two"), host.container("one").pid.unwrap());
    host.kill_agent();
    finds_by_itself(host, pid, "two", &two);
    host.start_agent();
    host.converge();
    finds(host, "one", "two", &two);
    // With the agent, and without one.
    let first = server(host);
    end(first);
    host.until("answered again", |_| lookup(host, "one", "two").0 == 0);
    let second = server(host);
    assert_ne!(first, second);
    host.kill_agent();
    end(second);
    host.start_agent();
    host.converge();
    finds(host, "one", "two", &two);
    assert_eq!(host.container("one").pid, Some(pid), "no container was touched");
    // A run that crashes keeps its network, one that is started again by hand has a new one.
    host.wharf(["kill", "one"]).ok();
    host.until("runs again", |_| lookup(host, "one", "two").0 == 0);
    host.wharf(["restart", "one"]).ok();
    finds(host, "one", "two", &two);
    host.wharf(["stop", "one"]).ok();
    host.wharf(["start", "one"]).ok();
    finds(host, "one", "two", &two);
    // Its shim is killed: all of it is new.
    let shim = tests::process::parent(host.container("one").pid.unwrap());
    end(shim);
    host.until("runs again", |_| lookup(host, "one", "two").0 == 0);
    host.converge();
}

#[test]
fn one_that_is_gone_leaves_nothing_on_the_lan() {
    let mut world = World::new("");
    world.on_lan("stays", "");
    world.host.start_agent();
    world.host.converge();
    let before = descriptors_at_rest(&world.host);
    world.on_lan("goes", "");
    world.on_lan("ends", "restart = \"no\"\n");
    world.host.converge();
    let (goes, ends) = (ip(&world.host, "goes"), ip(&world.host, "ends"));
    once("both are on the LAN", &world.host, || {
        world.answers(&goes) && world.answers(&ends)
    });
    assert_eq!(descriptors_at_rest(&world.host), before + 6);
    world.host.remove("goes.toml");
    world.host.converge();
    once("the removed one is off the LAN", &world.host, || {
        !world.answers(&goes)
    });
    // Nobody is there to tell of this end.
    let pid = world.host.container("ends").pid.unwrap();
    world.host.kill_agent();
    end(pid);
    once("the ended one is off the LAN", &world.host, || {
        !world.answers(&ends)
    });
    once("their sockets are closed", &world.host, || {
        descriptors(&world.host) == before
    });
    world.host.start_agent();
    finds(&world.host, "stays", "stays", &ip(&world.host, "stays"));
}

#[test]
fn a_name_server_of_the_containers_own_has_port_53() {
    let mut world = World::new("");
    // As a server of names for the LAN has it.
    let image = tests::images::server("dnsmasq");
    let table = format!(
        "[container.names]\nimage = {image:?}\ncommand = [\"--address=/router.example/198.51.100.254\"]\nnetworks = [\"lan\"]\n"
    );
    world.host.write("names.toml", &table);
    world.on_lan("one", "");
    world.host.start_agent();
    world.host.converge();
    let at = ip(&world.host, "names");
    let asks = format!("busybox nslookup -type=a router.example {at} 2>&1 || true");
    once("it answers the LAN", &world.host, || {
        world.router.sh(&asks).contains("198.51.100.254")
    });
    finds(&world.host, "names", "one", &ip(&world.host, "one"));
    finds(&world.host, "one", "names", &at);
}
