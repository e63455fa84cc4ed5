//! `icc = false` and `links` on a real host: what a container cannot reach whatever it tries, what a link leads to, and
//! that both follow their tables and put themselves right.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tests::client::{pids, row};
use tests::{From, Host, http};

/// Long enough that only a packet that was dropped runs into it.
const PATIENCE: Duration = Duration::from_millis(500);

fn network(icc: bool) -> String {
    format!("[network.front]\nsubnet = \"10.90.2.0/24\"\nsubnet6 = \"fd00:90:2::/64\"\nicc = {icc}\n")
}

fn inside(host: &Host, name: &str, line: &str) -> String {
    let said = host.wharf(["exec", name, "sh", "-c", line]);
    said.stdout + &said.stderr
}

fn pid(host: &Host, name: &str) -> u32 {
    host.container(name).pid.unwrap()
}

/// A command line of this machine's tools in a container's network.
fn in_net_of(host: &Host, name: &str, line: &str) -> String {
    let pid = pid(host, name);
    host.ns
        .sh(&format!("nsenter --net=/proc/{pid}/ns/net bash -euc '{line}'"))
}

/// Does something on a thread in a container's network.
fn within<T: Send>(host: &Host, name: &str, work: impl FnOnce() -> T + Send) -> T {
    let net = File::open(format!("/proc/{}/ns/net", pid(host, name))).unwrap();
    std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            setns(&net, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        there.join().unwrap()
    })
}

/// Somebody in a container's network is let in there.
fn reaches(host: &Host, name: &str, to: SocketAddr) -> bool {
    within(host, name, || TcpStream::connect_timeout(&to, PATIENCE).is_ok())
}

/// A datagram from there is answered.
fn is_answered(host: &Host, name: &str, to: SocketAddr) -> bool {
    within(host, name, || {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let to = match to {
            SocketAddr::V4(to) => (to.ip().to_ipv6_mapped(), to.port()).into(),
            SocketAddr::V6(_) => to,
        };
        socket.send_to(b"?", to).is_ok() && socket.recv(&mut [0; 64]).is_ok()
    })
}

fn places(host: &Host, name: &str, port: u16) -> [SocketAddr; 2] {
    let row = host.container(name);
    let at = &row.networks["front"];
    let six: Ipv6Addr = at.ip6.as_ref().unwrap().parse().unwrap();
    let four: Ipv4Addr = at.ip.as_ref().unwrap().parse().unwrap();
    [(four, port).into(), (six, port).into()]
}

/// Datagrams that came to a socket of that container.
fn datagrams(host: &Host, name: &str) -> u64 {
    let path = format!("/proc/{}/net/snmp", pid(host, name));
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut both = names.split_whitespace().zip(values.split_whitespace());
    both.find(|(name, _)| *name == "InDatagrams")
        .unwrap()
        .1
        .parse()
        .unwrap()
}

/// A datagram for port 80 in a frame of the attacker's own making, to the victim's MAC address (packet(7)).
fn throw_frame(host: &Host, from: &str, to: &str) {
    let [own, other] = [from, to].map(|name| host.container(name).networks["front"].clone());
    let octets = |ip: &Option<String>| {
        ip.as_ref()
            .unwrap()
            .split('.')
            .map(|part| format!("{:02x}", part.parse::<u8>().unwrap()))
            .collect::<String>()
    };
    let (source, destination) = (octets(&own.ip), octets(&other.ip));
    // A header without a checksum that fits would be thrown away: it is summed up.
    let header = format!("4500001d00000000401100{}{source}{destination}", "00");
    let words = (0..header.len())
        .step_by(4)
        .map(|at| u32::from_str_radix(&header[at..at + 4], 16).unwrap());
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) & 0xffff;
    let header = format!("4500001d000000004011{sum:04x}{source}{destination}");
    let macs = [&other.mac, &own.mac].map(|mac| mac.replace(':', "")).concat();
    let frame = format!("{macs}0800{header}1267005000090000{}", "3f");
    let index = in_net_of(host, from, "ip -o link show eth0 | cut -d: -f1");
    let pid = pid(host, from);
    let script = format!(
        "socket(S, 17, 3, 0) or die $!; my $at = pack(\"S n l S C C a8\", 17, 0x0800, {}, 1, 0, 6, \"\"); \
         defined send(S, pack(\"H*\", \"{frame}\"), 0, $at) or die $!",
        index.trim()
    );
    let net = format!("--net=/proc/{pid}/ns/net");
    let sent = host
        .ns
        .command("nsenter")
        .args([&net, "perl", "-e", &script])
        .output()
        .unwrap();
    assert!(sent.status.success(), "{sent:?}");
}

/// Everything an attacker tries gets through, or nothing of it.
fn attack(host: &Host, gets_through: bool) {
    let [v4, v6] = places(host, "db", 80);
    for to in [v4, v6] {
        assert_eq!(reaches(host, "evil", to), gets_through, "{to}");
    }
    // By a neighbour entry of its own, and a route that says it is on the link.
    let mac = host.container("db").networks["front"].mac.clone();
    for (family, ip) in [("-4", v4.ip()), ("-6", v6.ip())] {
        in_net_of(
            host,
            "evil",
            &format!(
                "ip neigh replace {ip} lladdr {mac} dev eth0 nud permanent; ip {family} route replace {ip} dev eth0 metric 1"
            ),
        );
    }
    for to in [v4, v6] {
        assert_eq!(reaches(host, "evil", to), gets_through, "{to} on the link");
    }
    let shown = in_net_of(host, "db", "ip -6 -o addr show dev eth0 scope link");
    let of_link: Ipv6Addr = shown
        .split_whitespace()
        .find_map(|word| word.split('/').next()?.parse().ok())
        .unwrap();
    let index = in_net_of(host, "evil", "ip -o link show eth0 | cut -d: -f1");
    let of_link = SocketAddrV6::new(of_link, 80, 0, index.trim().parse().unwrap());
    assert_eq!(reaches(host, "evil", of_link.into()), gets_through, "{of_link}");
    let before = datagrams(host, "db");
    throw_frame(host, "evil", "db");
    http::ask_udp(&host.ns, &v4.to_string(), "?").unwrap();
    assert_eq!(
        datagrams(host, "db") - before,
        1 + u64::from(gets_through),
        "a frame"
    );
    for ip in [v4.ip(), v6.ip()] {
        in_net_of(
            host,
            "evil",
            &format!("ip neigh del {ip} dev eth0; ip route del {ip} dev eth0 metric 1"),
        );
    }
}

fn isolated(bridge_nf: bool) -> Host {
    let mut host = Host::new();
    for family in ["ip", "ip6"] {
        let path = format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables");
        host.ns.sh(&format!(
            "test ! -e {path} || echo {} > {path}",
            u8::from(bridge_nf)
        ));
    }
    host.write("net.toml", &network(false));
    let on_front = "networks = [\"front\"]\n";
    host.write("db.toml", &(host.hello_table("db", &["8080:80"]) + on_front));
    host.write_busybox(
        "web",
        "exec sleep 1000",
        &format!("links = [\"db:database\"]\n{on_front}"),
    );
    host.write_busybox(
        "evil",
        "exec sleep 1000",
        &format!("cap_add = [\"NET_ADMIN\"]\n{on_front}"),
    );
    host.start_agent();
    host.converge();
    host
}

fn nothing_but_a_link_leads_to_a_neighbour(bridge_nf: bool) {
    let host = isolated(bridge_nf);
    let [v4, v6] = places(&host, "db", 80);
    let icc = "{{index .Options \"com.docker.network.bridge.enable_icc\"}}";
    let shown = host
        .docker(["network", "inspect", "-f", icc, "front"])
        .ok()
        .stdout;
    assert_eq!(shown, "false\n");
    attack(&host, false);
    // The link, by its alias and by both families; to the exposed port, and not the other way round.
    assert!(inside(&host, "web", "wget -qO- http://database/").contains("hello"));
    assert!(inside(&host, "web", &format!("wget -qO- http://[{}]/", v6.ip())).contains("hello"));
    for to in [v4, v6] {
        assert!(!is_answered(&host, "web", to), "UDP is not exposed");
    }
    host.ns
        .within(|| TcpStream::connect_timeout(&v4, Duration::from_secs(10)).unwrap());
    for to in places(&host, "web", 7) {
        let refused = host
            .ns
            .within(|| TcpStream::connect_timeout(&to, Duration::from_secs(10)));
        assert!(refused.is_err(), "the host is told that nobody listens");
        assert!(!reaches(&host, "db", to));
    }
    // Names, the world, itself, and those who come to published ports.
    let ping = inside(
        &host,
        "evil",
        "ping -4 -c1 -W1 db; ping -c1 -W10 192.0.2.2; ping -4 -c1 -W10 evil",
    );
    assert!(
        ping.contains(&format!("({})", v4.ip())) && ping.matches(" 0% packet loss").count() == 2,
        "{ping}"
    );
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    host.http_get(From::Host, "http://192.0.2.1:8080/");
    for published in ["192.0.2.1:8080", "10.90.2.1:8080"] {
        assert!(!reaches(&host, "evil", published.parse().unwrap()), "{published}");
    }
}

#[test]
fn nothing_but_a_link_leads_to_a_neighbour_without_bridge_nf() {
    nothing_but_a_link_leads_to_a_neighbour(false);
}

#[test]
fn nothing_but_a_link_leads_to_a_neighbour_with_bridge_nf() {
    nothing_but_a_link_leads_to_a_neighbour(true);
}

#[test]
fn isolation_comes_and_goes_while_containers_run_and_is_put_right() {
    let host = isolated(true);
    let before = pids(&host.status());
    for icc in [true, false] {
        host.write("net.toml", &network(icc));
        host.wharf(["reload"]).ok();
        host.converge();
        attack(&host, icc);
        let answered = || is_answered(&host, "evil", places(&host, "db", 80)[0]);
        if icc {
            host.until("it is answered", |_| answered());
        } else {
            assert!(!answered());
        }
        assert_eq!(pids(&host.status()), before, "in place");
    }
    let plan = host.wharf(["plan"]);
    assert_eq!(plan.code, 0, "{plan:?}");
    // Somebody lets the ports reach each other.
    let line = "for port in /sys/class/net/*/brport/isolated; do echo 0 > $port; done";
    host.ns.sh(&format!("mount -t sysfs sysfs /sys; {line}"));
    let all = "! grep -L 1 /sys/class/net/*/brport/isolated | grep .";
    host.ns.sh(&format!(
        "for i in $(seq 2000); do ({all}) && exit; sleep 0.01; done; exit 1"
    ));
    host.converge();
    attack(&host, false);
}

fn hosts_of(host: &Host, name: &str) -> String {
    inside(host, name, "grep database /etc/hosts")
}

/// Until the hosts file says so.
fn until_hosts(host: &Host, name: &str, wanted: impl Fn(&str) -> bool) {
    host.until("the hosts file", |_| wanted(&hosts_of(host, name)));
}

#[test]
fn a_linked_container_is_known_by_alias_and_environment_and_followed() {
    let mut host = Host::new();
    let db = |more: &str| {
        let table = host.hello_table("db", &["9000-9001:9000-9001/udp"]);
        table + &format!("env = {{ PASS = \"word\", MORE = \"{more}\" }}\n")
    };
    let (first, second, last) = (
        db("1"),
        db("2") + "[container.db.networks.default]\nip = \"10.88.7.77\"\n",
        db("3") + "[container.db.update]\nstrategy = \"start-first\"\ndrain = \"0s\"\n",
    );
    host.write(
        "net.toml",
        "[network.default]\nsubnet = \"10.88.7.0/24\"\nicc = false\n",
    );
    host.write(
        "web.toml",
        &host.busybox_table("web", "exec sleep 1000", "links = [\"db:database\"]\n"),
    );
    host.start_agent();
    // Not before there is somebody to be linked to.
    let refused = host.wharf(["validate"]);
    assert!(
        refused.code == 1
            && refused
                .stdout
                .contains("names container db, which is not declared"),
        "{refused:?}"
    );
    host.write("db.toml", &first);
    host.wharf(["reload"]).ok();
    let status = host.converge();
    let (web, ip) = (
        row(&status, "web").pid,
        row(&status, "db").networks["default"].ip.clone().unwrap(),
    );
    assert!(row(&status, "db").started_at < row(&status, "web").started_at);
    assert_eq!(hosts_of(&host, "web"), format!("{ip}\tdatabase db\n"));
    let env = inside(
        &host,
        "web",
        "tr '\\0' '\\n' < /proc/1/environ | grep ^DATABASE_ | grep -v 900 | sort",
    );
    assert_eq!(
        env,
        format!(
            "DATABASE_ENV_MORE=1\nDATABASE_ENV_PASS=word\nDATABASE_NAME=/web/database\nDATABASE_PORT=tcp://{ip}:80\n\
             DATABASE_PORT_80_TCP=tcp://{ip}:80\nDATABASE_PORT_80_TCP_ADDR={ip}\nDATABASE_PORT_80_TCP_PORT=80\n\
             DATABASE_PORT_80_TCP_PROTO=tcp\n"
        )
    );
    let ranges = inside(&host, "web", "tr '\\0' '\\n' < /proc/1/environ | grep _END=");
    assert!(
        ranges.contains(&format!("DATABASE_PORT_9000_UDP_END=udp://{ip}:9001")),
        "{ranges}"
    );
    let links = host
        .docker(["inspect", "-f", "{{json .HostConfig.Links}}", "web"])
        .ok()
        .stdout;
    assert_eq!(links, "[\"/db:/web/database\"]\n");
    // Another address, by a replacement that stops the old one first, and by one that does not.
    host.write("db.toml", &second);
    host.wharf(["reload"]).ok();
    until_hosts(&host, "web", |hosts| hosts == "10.88.7.77\tdatabase db\n");
    host.converge();
    assert!(inside(&host, "web", "wget -qO- http://database/").contains("hello"));
    host.write("db.toml", &last);
    host.wharf(["reload"]).ok();
    let moved = |hosts: &str| !hosts.contains("10.88.7.77") && hosts.ends_with("\tdatabase db\n");
    until_hosts(&host, "web", moved);
    let db = |host: &Host| host.container("db").networks["default"].ip.clone().unwrap();
    host.converge();
    assert_eq!(hosts_of(&host, "web"), format!("{}\tdatabase db\n", db(&host)));
    assert!(inside(&host, "web", "wget -qO- http://database/").contains("hello"));
    assert_eq!(host.container("web").pid, web, "nobody was started again for it");
    assert!(
        inside(&host, "web", "tr '\\0' '\\n' < /proc/1/environ")
            .contains(&format!("DATABASE_PORT=tcp://{ip}:80"))
    );
    // Started again, it is told anew.
    host.wharf(["stop", "web"]).ok();
    host.wharf(["start", "web"]).ok();
    host.converge();
    let told = inside(&host, "web", "tr '\\0' '\\n' < /proc/1/environ");
    assert!(
        told.contains(&format!("DATABASE_PORT=tcp://{}:80", db(&host)))
            && told.contains("DATABASE_ENV_MORE=3"),
        "{told}"
    );
}

#[test]
fn a_link_to_a_replicated_one_leads_to_all_of_its_instances() {
    let mut host = Host::new();
    host.write("net.toml", &network(false));
    let table = |replicas: u32| {
        host.hello_table("db", &[]) + &format!("networks = [\"front\"]\nreplicas = {replicas}\n")
    };
    let (two, one) = (table(2), table(1));
    host.write("db.toml", &two);
    host.write_busybox(
        "web",
        "exec sleep 1000",
        "links = [\"db:database\"]\nnetworks = [\"front\"]\n",
    );
    host.start_agent();
    host.converge();
    until_hosts(&host, "web", |hosts| hosts.lines().count() == 4);
    for name in ["db", "db-2"] {
        for to in places(&host, name, 80) {
            assert!(hosts_of(&host, "web").contains(&format!("{}\tdatabase db\n", to.ip())));
            assert!(reaches(&host, "web", to), "{to}");
        }
    }
    let web = host.container("web").pid;
    host.write("db.toml", &one);
    host.wharf(["reload"]).ok();
    until_hosts(&host, "web", |hosts| hosts.lines().count() == 2);
    host.converge();
    assert_eq!(host.container("web").pid, web);
}
