//! Networks that were there before: containers below a device of the host (macvlan, ipvlan), and on a bridge that somebody
//! else made. The hosts have eth1 on the LAN 198.51.100.0/24, whose router has 198.51.100.254 and, behind it, 203.0.113.1.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use tests::namespace::{Duty, Namespace};
use tests::{Host, Lan, http};

/// How long something may take before the test gives up. No test measures by it.
const LIMIT: Duration = Duration::from_secs(60);
const SERVE: &str = "mkdir -p /www; hostname >/www/name; exec httpd -f -p 80 -h /www";

struct World {
    lan: Lan,
    router: Namespace,
}

impl World {
    fn new() -> Self {
        let (lan, router) = (Lan::new(), Namespace::new("router", &Duty::default()));
        lan.join(&router, "198.51.100.254/24");
        router.sh(
            "ip addr add 2001:db8:1::fe/64 dev eth1 nodad; ip addr add 203.0.113.1/32 dev lo
             ip addr add 2001:db8:cafe::1/128 dev lo; echo 1 >/proc/sys/net/ipv4/ip_forward",
        );
        Self { lan, router }
    }

    /// A host on it that is 198.51.100.N.
    fn host(&self, n: usize) -> Host {
        let host = Host::new();
        self.lan.join(&host.ns, &format!("198.51.100.{n}/24"));
        host.ns
            .sh(&format!("ip addr add 2001:db8:1::{n}/64 dev eth1 nodad"));
        host
    }
}

/// `more`: further keys. Host N gives out the Nth /27 from 198.51.100.64 on.
fn lan_table(n: usize, more: &str) -> String {
    format!(
        "[network.lan]\ndriver = \"macvlan\"\nparent = \"eth1\"\nsubnet = \"198.51.100.0/24\"\ngateway = \"198.51.100.254\"\n\
         range = \"198.51.100.{}/27\"\nsubnet6 = \"2001:db8:1::/64\"\ngateway6 = \"2001:db8:1::fe\"\n\
         range6 = \"2001:db8:1::{n}:0/112\"\n{more}",
        32 + 32 * n
    )
}

fn on_lan(name: &str) -> String {
    format!("hostname = \"{name}\"\nnetworks = [\"lan\"]\n")
}

fn inside(host: &Host, name: &str, line: &str) -> String {
    let said = host.wharf(["exec", name, "sh", "-c", line]);
    assert_eq!(said.code, 0, "{line}: {said:?}\n{}", host.evidence());
    said.stdout
}

/// Polls until it is so.
fn once(what: &str, host: &Host, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LIMIT, "never: {what}\n{}", host.evidence());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn page(ns: &Namespace, ip: &str, host: &Host) -> String {
    let url = match ip.contains(':') {
        true => format!("http://[{ip}]:80/name"),
        false => format!("http://{ip}:80/name"),
    };
    let answer = http::get_within(ns, &url, LIMIT);
    let answer = answer.unwrap_or_else(|e| panic!("{url}: {e}\n{}", host.evidence()));
    answer.body.trim().to_owned()
}

fn ip(host: &Host, name: &str) -> String {
    host.container(name).networks["lan"].ip.clone().unwrap()
}

fn ip6(host: &Host, name: &str) -> String {
    host.container(name).networks["lan"].ip6.clone().unwrap()
}

fn network_error(host: &Host) -> String {
    let networks = host.status().networks;
    networks
        .into_iter()
        .find(|n| n.name == "lan")
        .and_then(|n| n.error)
        .unwrap_or_default()
}

#[test]
fn containers_of_a_macvlan_are_hosts_of_the_lan() {
    let world = World::new();
    let mut hosts = [world.host(1), world.host(2)];
    for (n, host) in (1..).zip(&mut hosts) {
        host.write("lan.toml", &lan_table(n, ""));
        host.write_busybox(&format!("web{n}"), SERVE, &on_lan(&format!("web{n}")));
        host.start_agent();
        host.converge();
    }
    let [one, two] = &mut hosts;
    one.write(
        "fixed.toml",
        &(one.busybox_table("fixed", SERVE, "hostname = \"fixed\"\n")
            + "[container.fixed.networks.lan]\nip = \"198.51.100.200\"\nip6 = \"2001:db8:1::200\"\nmac = \"02:00:00:00:00:77\"\n"),
    );
    one.converge();
    for (host, name) in [(&*one, "web1"), (&*one, "fixed"), (&*two, "web2")] {
        assert_eq!(page(&world.router, &ip(host, name), host), name);
        assert_eq!(page(&world.router, &ip6(host, name), host), name);
    }
    let (ip1, ip2) = (ip(one, "web1"), ip(two, "web2"));
    assert!(
        ip1.starts_with("198.51.100.") && ip6(one, "web1").starts_with("2001:db8:1::1:"),
        "{ip1}"
    );
    // Of this host and of the other one.
    for other in ["198.51.100.200", &ip2, "203.0.113.1", "2001:db8:cafe::1"] {
        inside(one, "web1", &format!("ping -c1 -W5 {other}"));
    }
    assert!(inside(two, "web2", &format!("wget -qO- http://{ip1}/name")).contains("web1"));
    assert_eq!(
        inside(one, "fixed", "cat /sys/class/net/eth0/address"),
        "02:00:00:00:00:77\n"
    );
    // Whoever has it has nothing of the host; the kernel keeps the host itself from it.
    let devices = one.ns.sh("ip -o link");
    assert!(!devices.contains("wh-"), "{devices}");
    assert_eq!(one.ns.sh("nft list tables"), "");
    assert!(!http::reaches(&one.ns, &format!("{ip1}:80")));
    let status = one.status();
    let shown = &status.networks[0];
    assert_eq!(
        (shown.driver.as_str(), shown.device.as_str()),
        ("macvlan", "eth1")
    );
    let told = one.docker(["network", "inspect", "lan"]).ok().stdout;
    assert!(
        told.contains("\"macvlan_mode\": \"bridge\"") && told.contains("\"parent\": \"eth1\""),
        "{told}"
    );
    // The agent comes and goes; a stopped one is no host of the LAN any more.
    let pid = one.container("web1").pid;
    one.kill_agent();
    assert_eq!(page(&world.router, &ip1, one), "web1");
    one.start_agent();
    one.converge();
    assert_eq!(one.container("web1").pid, pid);
    one.wharf(["stop", "web1"]).ok();
    once("its address is nobody's", one, || {
        !http::reaches(&world.router, &format!("{ip1}:80"))
    });
    one.wharf(["start", "web1"]).ok();
    assert_eq!(page(&world.router, &ip(one, "web1"), one), "web1");
    one.wharf(["kill", "web1"]).ok();
    assert_eq!(page(&world.router, &ip(one, "web1"), one), "web1");
}

#[test]
fn the_host_reaches_its_containers_by_a_device_of_its_own() {
    let world = World::new();
    let mut host = world.host(1);
    host.write("lan.toml", &lan_table(1, "host_access = true\n"));
    for name in ["a", "b"] {
        host.write_busybox(name, SERVE, &on_lan(name));
    }
    host.start_agent();
    host.converge();
    let reaches = |host: &Host| {
        let all = [ip(host, "a"), ip6(host, "a"), ip(host, "b")];
        all.iter().for_each(|at| drop(page(&host.ns, at, host)));
    };
    reaches(&host);
    let shown = host
        .ns
        .sh("ip -d link show wh-lan; ip -4 addr show wh-lan; ip route show dev wh-lan");
    for part in [
        "macvlan mode bridge",
        "alias wharf:",
        "inet 198.51.100.65/27",
        "198.51.100.64/27",
    ] {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }
    let status = host.status();
    assert_eq!(status.networks[0].device, "wh-lan");
    // And they the host, where names are asked as well.
    inside(&host, "a", "ping -c1 -W5 198.51.100.65 && ping -c1 -W5 b");
    assert!(inside(&host, "a", "cat /etc/resolv.conf").contains("nameserver 198.51.100.65"));
    // The LAN finds the host's own address where it was.
    world
        .router
        .sh("ip neigh flush all; busybox ping -c1 -W5 198.51.100.1");
    let mac = host
        .ns
        .sh("cat /sys/class/net/eth1/address || ip -o link show eth1");
    let known = world.router.sh("ip neigh show 198.51.100.1");
    let found = known
        .split_whitespace()
        .find(|w| w.matches(':').count() == 5)
        .unwrap();
    assert!(
        host.ns.sh("ip -o link show eth1").contains(found),
        "{mac} {known}"
    );
    let pids = tests::client::pids(&host.status());
    for damage in [
        "ip link del wh-lan",
        "ip link set wh-lan down",
        "ip addr flush dev wh-lan",
        "ip route del 198.51.100.64/27 dev wh-lan",
        "ip -6 addr flush dev wh-lan scope global",
        "ip addr add 10.99.0.1/24 dev wh-lan",
    ] {
        host.ns.sh(damage);
        let right = || {
            let v4 = host.ns.sh("ip -4 -o addr show wh-lan 2>&1 || true");
            let v6 = host.ns.sh("ip -6 -o addr show wh-lan scope global 2>&1 || true");
            let route = host
                .ns
                .sh("ip route show 198.51.100.64/27 dev wh-lan 2>&1 || true");
            v4.contains("198.51.100.65/27")
                && !v4.contains("10.99.0.1")
                && v6.contains("2001:db8:1::1:")
                && route.contains("198.51.100.65")
        };
        once(damage, &host, right);
        reaches(&host);
    }
    host.converge();
    assert_eq!(
        tests::client::pids(&host.status()),
        pids,
        "no container was touched"
    );
    host.write_renamed("lan.toml", &lan_table(1, ""));
    host.wharf(["reload"]).ok();
    host.converge();
    assert!(!host.ns.sh("ip -o link").contains("wh-lan"));
    assert_eq!(page(&world.router, &ip(&host, "a"), &host), "a");
    host.remove_all();
    host.wharf(["reload"]).ok();
    host.converge();
    assert!(!host.ns.sh("ip -o link").contains("wh-"));
}

#[test]
fn a_parent_that_is_missing_or_down_is_waited_for() {
    let world = World::new();
    let mut host = Host::new();
    host.write("lan.toml", &lan_table(1, ""));
    host.write_busybox("web", SERVE, &on_lan("web"));
    host.start_agent();
    once("the network says so", &host, || {
        network_error(&host).contains("eth1 is not there")
    });
    world.lan.join(&host.ns, "198.51.100.1/24");
    host.converge();
    assert_eq!(page(&world.router, &ip(&host, "web"), &host), "web");
    let pid = host.container("web").pid;
    host.ns.sh("ip link set eth1 down");
    once("the network says so", &host, || {
        network_error(&host).contains("eth1 is down")
    });
    assert_eq!(host.container("web").pid, pid);
    host.ns.sh("ip link set eth1 up");
    host.converge();
    assert_eq!(page(&world.router, &ip(&host, "web"), &host), "web");
    assert_eq!(host.container("web").pid, pid);
    // What was below it goes with it: on another one of that name, the container is started again.
    host.ns.sh("ip link del eth1");
    once("the network says so", &host, || {
        network_error(&host).contains("eth1 is not there")
    });
    assert_eq!(host.container("web").pid, pid);
    world.lan.join(&host.ns, "198.51.100.1/24");
    host.converge();
    assert_eq!(page(&world.router, &ip(&host, "web"), &host), "web");
    assert_ne!(host.container("web").pid, pid);
    // Not more than the parent carries.
    host.write_renamed("lan.toml", &lan_table(1, "mtu = 9000\n"));
    host.wharf(["reload"]).ok();
    once("the network says so", &host, || {
        network_error(&host).contains("mtu 9000 is above that of eth1")
    });
    host.write_renamed("lan.toml", &lan_table(1, "mtu = 1400\n"));
    host.wharf(["reload"]).ok();
    host.converge();
    assert_eq!(inside(&host, "web", "cat /sys/class/net/eth0/mtu"), "1400\n");
}

#[test]
fn ipvlan_works_or_says_what_the_kernel_lacks() {
    let world = World::new();
    let mut host = world.host(1);
    let has = host
        .ns
        .sh("ip link add ipvl0 link eth1 type ipvlan mode l2 2>&1 && ip link del ipvl0 && echo yes || true");
    host.write("lan.toml", &lan_table(1, "").replace("macvlan", "ipvlan"));
    host.write_busybox("web", SERVE, &on_lan("web"));
    host.start_agent();
    if has.contains("yes") {
        host.converge();
        assert_eq!(page(&world.router, &ip(&host, "web"), &host), "web");
        return;
    }
    let lacks = "this kernel has no ipvlan (module ipvlan): ";
    let status = host.until("the container says so", |status| {
        let web = status.containers.iter().find(|c| c.name == "web");
        web.and_then(|c| c.error.as_ref())
            .is_some_and(|e| e.contains(lacks))
    });
    assert_eq!(status.networks[0].driver, "ipvlan");
    host.expect_error(lacks);
}

#[test]
fn several_networks_of_different_drivers_come_in_their_order() {
    let world = World::new();
    let mut host = world.host(1);
    host.write("lan.toml", &lan_table(1, ""));
    host.write("own.toml", "[network.own]\nsubnet = \"10.90.1.0/24\"\n");
    let table = host.busybox_table(
        "web",
        SERVE,
        "hostname = \"web\"\nnetworks = [\"own\", \"lan\"]\nports = [\"8080:80\"]\n",
    );
    host.write("web.toml", &table);
    host.write_busybox("peer", "exec sleep 1000", "networks = [\"own\"]\n");
    // The first one with a way out has the default route.
    let out = host.busybox_table("out", "exec sleep 1000", "networks = [\"lan\", \"own\"]\n");
    host.write("out.toml", &out);
    host.start_agent();
    host.converge();
    let addresses = inside(&host, "web", "ip -4 -o addr show | awk '{print $2, $4}'");
    assert!(
        addresses.contains("eth0 10.90.1.") && addresses.contains("eth1 198.51.100."),
        "{addresses}"
    );
    let route = inside(&host, "web", "ip route show default");
    assert!(route.contains("via 10.90.1.1 dev eth0"), "{route}");
    let route = inside(&host, "out", "ip route show default");
    assert!(route.contains("via 198.51.100.254 dev eth0"), "{route}");
    host.http_get(tests::From::Neighbour, "http://192.0.2.1:8080/name");
    assert_eq!(page(&world.router, &ip(&host, "web"), &host), "web");
    inside(&host, "peer", "ping -c1 -W5 web");
    // Asked over the network that has a name server, of all that it is on.
    let names = inside(&host, "out", "nslookup web");
    assert!(names.contains(&ip(&host, "web")), "{names}");
    host.write_renamed("web.toml", &table.replace("\"own\", \"lan\"", "\"lan\", \"own\""));
    let refused = host.wharf(["validate"]);
    assert!(
        refused.code == 1 && refused.stdout.contains("its default route is over network lan"),
        "{refused:?}"
    );
}

#[test]
fn a_bridge_that_is_adopted_stays_what_it_is() {
    let world = World::new();
    let mut host = world.host(1);
    let adopt = "[network.lan]\nbridge = \"br0\"\nadopt = true\nsubnet = \"198.51.100.0/24\"\nrange = \"198.51.100.64/27\"\nsubnet6 = \"2001:db8:1::/64\"\nrange6 = \"2001:db8:1::1:0/112\"\n";
    host.write("lan.toml", &adopt.replace("adopt = true\n", ""));
    for name in ["a", "b"] {
        host.write_busybox(name, SERVE, &on_lan(name));
    }
    host.ns.sh(
        "ip link add br0 type bridge; ip link set br0 mtu 1480; ip link set br0 up
         ip addr flush dev eth1; ip link set eth1 address 02:00:00:00:00:01 mtu 1480 master br0
         ip addr add 198.51.100.1/24 dev br0; ip addr add 198.51.100.17/24 dev br0
         ip addr add 2001:db8:1::1/64 dev br0 nodad",
    );
    // Forwarding entries, which come and go with what is on it, are left out.
    let bridge = |host: &Host| {
        host.ns.sh("ip -d link show br0 | sed -E 's/ (hello|tcn|topology_change|gc)_timer +[0-9.]+//g'
            ip -o addr show br0 scope global | tr -s ' ' | cut -d' ' -f3,4; ip route show dev br0; cat /proc/sys/net/ipv4/conf/br0/*; bridge vlan show dev br0")
    };
    once("its port has a carrier", &host, || {
        bridge(&host).contains("state UP")
    });
    let before = bridge(&host);
    host.start_agent();
    let not_ours = "bridge br0 is there already and is not wharf's";
    once("it is somebody's", &host, || {
        network_error(&host).contains(not_ours)
    });
    host.write_renamed("lan.toml", adopt);
    host.wharf(["reload"]).ok();
    host.converge();
    for name in ["a", "b"] {
        assert_eq!(page(&world.router, &ip(&host, name), &host), name);
        assert_eq!(page(&world.router, &ip6(&host, name), &host), name);
        assert_eq!(page(&host.ns, &ip(&host, name), &host), name);
    }
    let b = ip(&host, "b");
    inside(
        &host,
        "a",
        &format!("ping -c1 -W5 {b}; ping -c1 -W5 198.51.100.254"),
    );
    assert_eq!(inside(&host, "a", "cat /sys/class/net/eth0/mtu"), "1480\n");
    let route = inside(&host, "a", "ip route show default");
    assert!(route.contains("via 198.51.100.1 dev eth0"), "{route}");
    assert_eq!(bridge(&host), before);
    assert_eq!(host.ns.sh("nft list tables"), "");
    // Its ports of ours are ours.
    let port = host
        .ns
        .sh("ip -o link show master br0 | grep -o 'wh-[^@]*' | head -1")
        .trim()
        .to_owned();
    for damage in [
        format!("ip link set {port} nomaster"),
        format!("ip link del {port}"),
    ] {
        host.ns.sh(&damage);
        once(&damage, &host, || {
            host.ns.sh("ip -o link show master br0").matches("wh-").count() == 2
        });
        host.converge();
        for name in ["a", "b"] {
            assert_eq!(page(&world.router, &ip(&host, name), &host), name);
        }
    }
    // The LAN's router is the way out where the table says so.
    host.write_renamed("lan.toml", &format!("{adopt}gateway = \"198.51.100.254\"\n"));
    host.wharf(["reload"]).ok();
    host.converge();
    inside(&host, "a", "ping -c1 -W5 203.0.113.1");
    // Gone and made again by whoever owns it.
    let pid = host.container("a").pid;
    host.ns.sh("ip link del br0");
    once("the network says so", &host, || {
        network_error(&host).contains("br0, which it adopts, is not there")
    });
    host.ns
        .sh("ip link add br0 type bridge; ip link set br0 up; ip link set eth1 master br0");
    host.converge();
    assert_eq!(page(&world.router, &ip(&host, "a"), &host), "a");
    assert_eq!(host.container("a").pid, pid);
    let before = bridge(&host);
    host.remove_all();
    host.wharf(["reload"]).ok();
    host.converge();
    assert_eq!(bridge(&host), before);
    assert!(!host.ns.sh("ip -o link").contains("wh-"));
}

#[test]
fn a_bridge_that_is_adopted_no_more_is_wharfs_to_make() {
    let mut host = Host::new();
    let table = "[network.lan]\nbridge = \"br0\"\nsubnet = \"10.91.0.0/24\"\n";
    let adopt = format!("{table}adopt = true\n");
    host.ns
        .sh("ip link add br0 type bridge; ip link set br0 up; ip addr add 10.91.0.1/24 dev br0");
    host.write("lan.toml", &adopt);
    host.write_busybox("web", SERVE, &on_lan("web"));
    host.start_agent();
    host.converge();
    assert_eq!(page(&host.ns, &ip(&host, "web"), &host), "web");
    let before = host.container("web");
    host.ns.sh("ip link del br0");
    host.write_renamed("lan.toml", table);
    host.wharf(["reload"]).ok();
    host.converge();
    assert!(host.ns.sh("ip link show br0").contains("alias wharf:"));
    assert_eq!(page(&host.ns, &ip(&host, "web"), &host), "web");
    let after = host.container("web");
    assert!(
        after.id == before.id && after.pid != before.pid,
        "{before:?} {after:?}"
    );
    host.remove_all();
    host.wharf(["reload"]).ok();
    host.converge();
    assert!(!host.ns.sh("ip -o link").contains("br0"));
}
