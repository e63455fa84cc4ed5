//! Overlays: three hosts on one LAN, three agents, one network over all of them.
#![allow(clippy::unwrap_used)]

mod mesh;

use std::time::Duration;

use mesh::{Mesh, checks, once};
use tests::{Host, Lan, binary, http};

#[test]
fn containers_of_three_hosts_are_on_one_network() {
    let mesh = Mesh::new();
    checks::all_reach_each_other(&mesh);
    let shown = mesh.hosts[0].status().networks;
    let shown = shown.iter().find(|n| n.name == "mesh").unwrap();
    assert_eq!(shown.driver, "overlay");
}

#[test]
fn packets_are_as_long_as_fits_and_the_sender_refuses_longer_ones() {
    checks::packets_fit(&Mesh::new(), 1450);
}

#[test]
fn ipv6_goes_along() {
    checks::ipv6_goes_along(&Mesh::with_ipv6(), 1450);
}

#[test]
fn a_network_may_have_ipv6_alone() {
    let mesh = Mesh::with_ipv6_alone();
    checks::ipv6_goes_along(&mesh, 1450);
    let shown = mesh.hosts[0].status().networks;
    let shown = shown.iter().find(|n| n.name == "mesh").unwrap();
    assert_eq!(
        (&shown.subnet, shown.subnet6.as_deref()),
        (&None, Some("fd81::/64"))
    );
    for line in ["ip -4 -o addr show dev wh-mesh", "ip -4 route show dev wh-mesh"] {
        assert_eq!(mesh.hosts[0].ns.sh(line), "");
    }
    // What keeps the gateway on its side is put back.
    let host = &mesh.hosts[0];
    let tunnel = host.ns.sh("ip -o link show type vxlan | cut -d: -f2 | tr -d ' '");
    let tunnel = tunnel.trim();
    // While there is nothing to hang it on, tc fails.
    let filters = || {
        host.ns
            .sh(&format!("tc filter show dev {tunnel} egress 2>&1 || true"))
    };
    let sealed = filters();
    assert!(sealed.contains("bpf"), "{sealed}");
    host.ns.sh(&format!("tc qdisc del dev {tunnel} clsact"));
    once("it is sealed again", || filters() == sealed);
    mesh.until_reaches(1, 2);
}

#[test]
fn the_gateway_never_crosses() {
    checks::the_gateway_never_crosses(&Mesh::new());
}

#[test]
fn a_killed_agent_loses_no_flow() {
    checks::a_killed_agent_loses_no_flow(&mut Mesh::new());
}

#[test]
fn a_host_that_is_no_peer_any_more_is_cut_off() {
    checks::a_host_that_is_no_peer_any_more_is_cut_off(&Mesh::new());
}

#[test]
fn what_a_stranger_sends_is_dropped_until_he_is_a_peer() {
    let mesh = Mesh::new();
    let file = mesh.hosts[0].dir().join("peers");
    let say = |text: &str| {
        let fresh = file.with_extension("new");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, &file).unwrap();
    };
    say("# nobody else yet\n");
    mesh.write(
        1,
        &mesh::ALL,
        &format!("peers_file = {:?}\n", file.display().to_string()),
    );
    mesh.hosts[0].wharf(["reload"]).ok();
    mesh.hosts[0].converge();
    let pids = mesh.pids();
    // The stranger knows everything but is no peer. A virtual network of his and the host's own at the same port works.
    mesh.stranger.sh(
        "ip link add v type vxlan id 4200 dstport 4789 local 198.51.100.66 remote 198.51.100.1
         ip addr add 10.81.9.9/16 dev v; ip link set v up
         ip neigh add 10.81.1.1 lladdr 02:57:0a:51:01:01 dev v
         ip link add w type vxlan id 77 dstport 4789 local 198.51.100.66 remote 198.51.100.1
         ip addr add 10.77.0.2/24 dev w; ip link set w up",
    );
    mesh.hosts[0].ns.sh(
        "ip link add own type vxlan id 77 dstport 4789 local 198.51.100.1 remote 198.51.100.66
         ip addr add 10.77.0.1/24 dev own; ip link set own up",
    );
    mesh.stranger.sh("busybox ping -c1 -W5 10.77.0.1");
    let receiver = mesh.within(1, || std::net::UdpSocket::bind("0.0.0.0:7000").unwrap());
    receiver.set_nonblocking(true).unwrap();
    let inject = || mesh::inject(&mesh.stranger);
    let mut buffer = [0; 64];
    inject();
    // A datagram of a peer that was sent later has come: so would the other.
    let (sent, got) = mesh.round(2, 1);
    assert_eq!(sent, got);
    let nothing = receiver.recv(&mut buffer).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    // One line in the file, and he is let in.
    say("198.51.100.66 # let in\n");
    once("the new peer's datagram comes", || {
        inject();
        receiver.recv(&mut buffer).is_ok()
    });
    // A file that makes no sense changes nothing, and is told.
    say("198.51.100.66\nnobody\n");
    let told = mesh.hosts[0].until("the error is told", |s| {
        s.networks.iter().any(|n| n.error.is_some())
    });
    let error = told.networks.iter().find_map(|n| n.error.clone()).unwrap();
    assert!(error.contains("\"nobody\" in line 2"), "{error}");
    inject();
    once("he is let in still", || {
        inject();
        receiver.recv(&mut buffer).is_ok()
    });
    say("# nobody again\n");
    mesh.hosts[0].until("all is well", |s| s.converged);
    while receiver.recv(&mut buffer).is_ok() {}
    inject();
    let (sent, got) = mesh.round(2, 1);
    assert_eq!(sent, got);
    assert!(receiver.recv(&mut buffer).is_err());
    assert_eq!(mesh.pids(), pids);
}

/// As ufw leaves it: what no rule is about is dropped.
#[test]
fn peers_come_past_an_input_chain_that_drops() {
    let mut mesh = Mesh::new();
    let reached = |mesh: &Mesh| [(2, 1), (1, 3)].map(|(from, to)| mesh.until_reaches(from, to));
    mesh.hosts[0].ns.sh("iptables-nft -P INPUT DROP");
    reached(&mesh);
    mesh.hosts[0].ns.sh("iptables-nft -F INPUT");
    once("put back", || mesh.hosts[0].rules().contains("-j WHARF-INPUT"));
    reached(&mesh);
    // It is that way they come by.
    mesh.hosts[0].kill_agent();
    mesh.hosts[0].ns.sh("iptables-nft -F INPUT");
    assert!(!mesh.reaches(2, 1), "{}", mesh.hosts[0].rules());
    mesh.hosts[0].start_agent();
    reached(&mesh);
}

#[test]
fn damage_to_a_tunnel_is_repaired() {
    let mesh = Mesh::new();
    let host = &mesh.hosts[0];
    let tunnel = host.ns.sh("ip -o link show type vxlan | cut -d: -f2 | tr -d ' '");
    let tunnel = tunnel.trim();
    let pids = mesh.pids();
    let damages = [
        format!("ip link del {tunnel}"),
        format!("ip link set {tunnel} down"),
        format!("ip link set {tunnel} nomaster"),
        format!("ip link set {tunnel} mtu 1000"),
        format!("bridge fdb del 00:00:00:00:00:00 dev {tunnel} dst 198.51.100.2 self"),
        format!("bridge fdb append 00:00:00:00:00:00 dev {tunnel} dst 198.51.100.66 self permanent"),
        format!("tc qdisc del dev {tunnel} clsact"),
        format!("tc filter del dev {tunnel} egress"),
    ];
    let image = || {
        let lines = format!(
            "ip -o -d link show {tunnel} | grep -o 'master [a-z-]*\\|mtu [0-9]*\\|vxlan id.*dstport [0-9]*\\|,UP'
             bridge fdb show dev {tunnel} | grep 00:00:00:00:00:00 | sort
             tc filter show dev {tunnel} ingress; tc filter show dev {tunnel} egress"
        );
        host.ns
            .command("bash")
            .args(["-c", &lines])
            .output()
            .unwrap()
            .stdout
    };
    let whole = image();
    for damage in damages {
        host.ns.sh(&damage);
        once(&damage, || image() == whole);
        host.converge();
        mesh.until_reaches(1, 2);
    }
    assert_eq!(mesh.pids(), pids);
}

#[test]
fn another_vni_port_and_end_are_taken_up_in_place() {
    let mesh = Mesh::new();
    let pids = mesh.pids();
    for n in mesh::ALL {
        let more = format!("local = \"198.51.100.{n}\"\n");
        mesh.write_as(n, &mesh::ALL, &more, "vni = 4300\nport = 8472\n");
        mesh.hosts[n - 1].wharf(["reload"]).ok();
        mesh.hosts[n - 1].converge();
    }
    for (from, to) in mesh::pairs() {
        mesh.until_reaches(from, to);
    }
    let shown = mesh.hosts[0].ns.sh("ip -d link show type vxlan");
    assert!(
        shown.contains("vxlan id 4300 local 198.51.100.1") && shown.contains("dstport 8472"),
        "{shown}"
    );
    assert_eq!(mesh.pids(), pids);
    // A network that goes takes its tunnel along.
    mesh.hosts[0].remove_all();
    mesh.hosts[0].until("all is gone", |s| s.networks.iter().all(|n| n.name != "mesh"));
    once("the tunnel is gone", || {
        mesh.hosts[0].ns.sh("ip -o link show type vxlan").is_empty()
    });
    assert!(!http::reaches(&mesh.hosts[0].neighbour, "192.0.2.1:8080"));
}

#[test]
fn the_hosts_may_be_on_ipv6() {
    let mesh = Mesh::on_ipv6();
    assert_eq!(mesh.inside(1, "cat /sys/class/net/eth0/mtu"), "1430\n");
    for (from, to) in mesh::pairs() {
        mesh.until_reaches(from, to);
    }
    // A stranger is none of them on IPv6 either.
    mesh.stranger.sh(
        "ip link add v type vxlan id 4200 dstport 4789 local 2001:db8::66 remote 2001:db8::1
         ip addr add 10.81.9.9/16 dev v; ip link set v up; ip neigh add 10.81.1.1 lladdr 02:57:0a:51:01:01 dev v",
    );
    let receiver = mesh.within(1, || std::net::UdpSocket::bind("0.0.0.0:7000").unwrap());
    receiver.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    mesh::inject(&mesh.stranger);
    assert!(receiver.recv(&mut [0; 64]).is_err());
}

#[test]
fn the_example_is_as_it_says() {
    let lan = Lan::new();
    let example = binary::repository().join("examples/overlay");
    let hosts = [1, 2].map(|n| {
        let mut host = Host::new();
        // Here it is the LAN that these addresses are on.
        host.ns.sh("ip addr flush dev eth0; mount -t tmpfs srv /srv");
        lan.join(&host.ns, &format!("192.0.2.{n}/24"));
        let (file, container) = [("host-a.toml", "page"), ("host-b.toml", "db")][n - 1];
        host.start_agent();
        let make = "mkdir -p /srv/overlay && ../quickstart/make-image /srv/overlay";
        let readme = std::fs::read_to_string(example.join("README.md")).unwrap();
        assert!(
            readme.contains(make)
                && readme.contains(file)
                && readme.contains(&format!("wharf wait {container}"))
        );
        host.ns.sh(&format!("cd {}; {make}", example.display()));
        host.write(file, &std::fs::read_to_string(example.join(file)).unwrap());
        host
    });
    hosts[0].wait_for("page");
    hosts[1].wait_for("db");
    let asked = [("page", "10.80.2.10", "db"), ("db", "10.80.1.1", "page")];
    for (host, (from, address, name)) in hosts.iter().zip(asked) {
        let pid = host.container(from).pid.unwrap();
        let inside = |line: &str| {
            let args = ["-n", "-t", &pid.to_string(), "--", "busybox", "sh", "-c", line];
            let out = std::process::Command::new("nsenter").args(args).output().unwrap();
            String::from_utf8_lossy(&out.stdout).into_owned()
        };
        once(&format!("{from} reaches {address}"), || {
            inside(&format!("busybox wget -q -O - http://{address}/")).contains(name)
        });
        let found = inside(&format!("busybox nslookup -type=a {name} 10.80.0.1"));
        assert!(found.contains(address), "{found}");
    }
    let page = http::get_within(&hosts[1].ns, "http://192.0.2.1:8087/", mesh::LIMIT).unwrap();
    assert!(page.body.contains("page"), "{page:?}");
}

/// What a kernel with WireGuard does is checked by `./test --vm`; where this one has it, that it does so at all.
#[test]
fn a_kernel_without_wireguard_is_told_and_nothing_goes_out_in_clear() {
    let mut host = Host::new();
    let probe = host
        .neighbour
        .command("ip")
        .args(["link", "add", "type", "wireguard"])
        .output();
    let has_wireguard = probe.unwrap().status.success();
    let table = |encryption: &str| {
        format!(
            "[network.mesh]\ndriver = \"overlay\"\nsubnet = \"10.81.0.0/16\"\nrange = \"10.81.1.0/24\"\n\
             [network.mesh.overlay]\nvni = 4200\npeers = [\"192.0.2.2\"]\n{encryption}"
        )
    };
    host.write("mesh.toml", &table(""));
    host.start_agent();
    host.converge();
    let open = |host: &Host| host.ns.sh("ip -o link show type vxlan");
    assert!(open(&host).contains("wh-"));
    let key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
    let encryption = format!("encryption = \"wireguard\"\nkeys = {{ \"192.0.2.2\" = {key:?} }}\n");
    host.write_renamed("mesh.toml", &table(&encryption));
    if has_wireguard {
        host.until("it is encrypted", |s| {
            s.converged && s.networks[0].public_key.is_some()
        });
        return;
    }
    let told = host.until("it is told", |s| {
        s.networks
            .iter()
            .any(|n| n.error.as_ref().is_some_and(|e| e.contains("no WireGuard")))
    });
    let network = told.networks.iter().find(|n| n.name == "mesh").unwrap();
    let error = network.error.as_ref().unwrap();
    assert!(error.contains("module wireguard"), "{error}");
    assert!(!told.converged);
    assert_eq!(open(&host), "", "the open tunnel is gone");
    // The key is there, to be told to the other hosts; the private half is root's alone.
    let own = network.public_key.clone().unwrap();
    let inspected = host.wharf(["network", "inspect", "mesh"]).ok().stdout;
    assert!(inspected.contains(&own), "{inspected}");
    let file = host.state_dir().join("wireguard.key");
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let private = std::fs::read_to_string(&file).unwrap();
    let all = [
        host.evidence(),
        inspected,
        host.wharf(["status", "--json"]).stdout,
    ]
    .concat();
    assert!(!all.contains(private.trim()));
    // It is the same after a restart, and an encryption that is taken back leaves nothing of it.
    host.kill_agent();
    host.start_agent();
    let again = host.until("it is told again", |s| {
        s.networks.iter().any(|n| n.public_key.is_some())
    });
    let again = again.networks.iter().find_map(|n| n.public_key.clone());
    assert_eq!(again, Some(own));
    host.write_renamed("mesh.toml", &table(""));
    host.converge();
    assert!(open(&host).contains("wh-"));
}
