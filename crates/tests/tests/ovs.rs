//! Networks on Open vSwitch: real daemons, with the datapath that needs no kernel module.
#![allow(clippy::unwrap_used)]

mod mesh;

use std::cell::RefCell;
use std::net::{SocketAddrV4, UdpSocket};

use mesh::{Mesh, checks, once};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto};
use tests::ovs::OpenVswitch;
use tests::{From, Host};

/// Whoever it is is not there.
const A_PEER: &str = "peers = [\"192.0.2.99\"]\nlocal = \"192.0.2.1\"\n";

/// A network of one host. `more`: further keys of its `overlay` table.
fn network(more: &str) -> String {
    format!(
        "[network.shop]\ndriver = \"ovs\"\nsubnet = \"10.82.0.0/24\"\nrange = \"10.82.0.128/25\"\n\
         [network.shop.overlay]\nvni = 7\ndatapath = \"netdev\"\n{more}"
    )
}

fn write_containers(host: &Host) {
    for (name, keys) in [("a", "ports = [\"8080:80\"]\n"), ("b", "")] {
        let line = format!("mkdir -p /www; echo {name} >/www/name; exec httpd -f -p 80 -h /www");
        host.write_busybox(name, &line, &format!("networks = [\"shop\"]\n{keys}"));
    }
}

/// Containers `a` and `b` on it, running.
fn shop(more: &str) -> (Host, OpenVswitch) {
    let mut host = Host::new();
    let switch = OpenVswitch::start_on(&mut host);
    host.write("shop.toml", &network(more));
    write_containers(&host);
    host.start_agent();
    host.converge();
    (host, switch)
}

fn inside(host: &Host, name: &str, line: &str) -> String {
    let said = host.wharf(["exec", name, "sh", "-c", line]);
    assert_eq!(said.code, 0, "{name}: {line}: {said:?}\n{}", host.evidence());
    said.stdout
}

/// What another container's server says, once it does: that the container runs is not yet that it listens.
fn fetched(host: &Host, from: &str, of: &str) -> String {
    let said = RefCell::new(String::new());
    host.until(&format!("{from} gets a page of {of}"), |_| {
        let tried = host.wharf([
            "exec",
            from,
            "wget",
            "-q",
            "-O",
            "-",
            &format!("http://{of}/name"),
        ]);
        said.replace(tried.stdout);
        tried.code == 0
    });
    said.into_inner()
}

fn error_of(host: &Host, network: &str) -> Option<String> {
    let networks = host.status().networks;
    networks.into_iter().find(|n| n.name == network)?.error
}

#[test]
fn containers_of_one_host_are_on_a_bridge_of_open_vswitch() {
    let mut host = Host::new();
    let switch = OpenVswitch::start_on(&mut host);
    let six = network("peers = []\n").replacen("range", "subnet6 = \"fd00:82::/64\"\nrange", 1);
    host.write("shop.toml", &six);
    write_containers(&host);
    host.start_agent();
    host.converge();
    assert_eq!(fetched(&host, "a", "b"), "b\n");
    assert_eq!(fetched(&host, "b", "a"), "a\n");
    let six = host.container("b").networks["shop"].ip6.clone().unwrap();
    inside(
        &host,
        "a",
        &format!("ping -c1 -W5 {six} && ping -c1 -W5 fd00:82::1"),
    );
    // Published, from the LAN, from the host, and from the container itself.
    for from in [From::Neighbour, From::Host] {
        assert_eq!(host.http_get(from, "http://192.0.2.1:8080/name").body, "a\n");
    }
    assert_eq!(
        host.http_get(From::Host, "http://127.0.0.1:8080/name").body,
        "a\n"
    );
    assert_eq!(
        inside(&host, "a", "wget -q -O - http://192.0.2.1:8080/name"),
        "a\n"
    );
    assert_eq!(
        inside(&host, "b", "wget -q -O - http://192.0.2.1:8080/name"),
        "a\n"
    );
    inside(&host, "a", "ping -c1 -W5 192.0.2.2");
    assert_eq!(
        switch.vsctl("get bridge wh-shop external_ids:wharf-network"),
        "shop\n"
    );
    let shown = host.status().networks;
    let shown = shown.iter().find(|n| n.name == "shop").unwrap();
    assert_eq!((shown.driver.as_str(), shown.device.as_str()), ("ovs", "wh-shop"));
    // Gone with its table, and nothing else is.
    switch.vsctl("add-br theirs -- set bridge theirs datapath_type=netdev");
    host.remove_all();
    host.until("all is gone", |s| {
        s.networks.is_empty() && s.containers.is_empty()
    });
    once("its bridges are gone", || switch.vsctl("list-br") == "theirs\n");
    assert_eq!(switch.vsctl("--bare --columns=name list port"), "theirs\n");
    let left = host.ns.sh("ip -o link | grep -c wh- || true");
    assert_eq!(left, "0\n");
}

#[test]
fn damage_in_open_vswitch_is_repaired() {
    let (host, switch) = shop(A_PEER);
    let pids = || ["a", "b"].map(|name| host.container(name).pid);
    let before = pids();
    let outer = switch.vsctl("--bare --columns=name find bridge external_ids:wharf-role=tunnels");
    let outer = outer.trim();
    let tunnel = switch.vsctl("--bare --columns=name find interface type=vxlan");
    let tunnel = tunnel.trim();
    let port = host
        .ns
        .sh("ip -o link show type veth | grep -o 'wh-[0-9a-f]*\\.0' | head -1");
    let port = port.trim();
    let image = || {
        let mut lines = Vec::new();
        for bridge in ["wh-shop", outer] {
            let ports = switch.ask("ovs-vsctl", &format!("list-ports {bridge}"))?;
            let flows = switch.ask(
                "ovs-ofctl",
                &format!("-O OpenFlow13 --no-stats dump-flows {bridge}"),
            )?;
            let flows = flows.lines().filter(|l| l.contains("cookie=0x776861"));
            lines.extend(ports.lines().chain(flows).map(|line| format!("{bridge} {line}")));
        }
        for columns in [
            "name,type,options,mtu_request list interface",
            "name,tag,protected list port",
        ] {
            let rows = format!("--format=csv --no-headings --columns={columns}");
            lines.extend(switch.ask("ovs-vsctl", &rows)?.lines().map(str::to_owned));
        }
        lines.sort();
        Some(lines)
    };
    let whole = image();
    assert!(whole.as_ref().is_some_and(|lines| lines.len() > 10), "{whole:?}");
    let damages = [
        format!("vsctl del-br {outer}"),
        format!("vsctl del-port {tunnel}"),
        format!("vsctl set interface {tunnel} options:remote_ip=192.0.2.98"),
        format!("vsctl set interface {tunnel} options:key=8"),
        format!("vsctl set port {tunnel} protected=false"),
        format!("vsctl del-port {port}"),
        format!("vsctl set port {port} tag=9"),
        "vsctl set port wh-shop tag=9".to_owned(),
        "vsctl set interface wh-shop mtu_request=1200".to_owned(),
        "vsctl set-fail-mode wh-shop secure".to_owned(),
        format!("ofctl del-flows {outer}"),
        "ofctl del-flows wh-shop".to_owned(),
        "vsctl del-br wh-shop".to_owned(),
    ];
    for damage in damages {
        let (tool, args) = damage.split_once(' ').unwrap();
        match tool {
            "vsctl" => drop(switch.vsctl(args)),
            _ => {
                // Nobody tells of flows: a full pass finds them.
                switch.ofctl(args);
                host.wharf(["reload"]).ok();
            }
        }
        once(&damage, || image() == whole);
        host.converge();
        assert_eq!(
            inside(&host, "a", "wget -q -O - http://b/name"),
            "b\n",
            "{damage}"
        );
        assert_eq!(
            host.http_get(From::Neighbour, "http://192.0.2.1:8080/name").body,
            "a\n"
        );
    }
    assert_eq!(pids(), before);
}

#[test]
fn a_network_goes_on_by_itself_once_open_vswitch_is_there() {
    let mut host = Host::new();
    let switch = OpenVswitch::install(&mut host);
    host.write("shop.toml", &network("peers = []\n"));
    host.write_busybox("other", "exec sleep 1000", "");
    write_containers(&host);
    host.start_agent();
    // It alone waits.
    host.wait_for("other");
    host.until("the network says why", |_| {
        error_of(&host, "shop")
            .is_some_and(|e| e.contains("Open vSwitch is not running") && e.contains("OVS_RUNDIR"))
    });
    switch.start();
    host.converge();
    assert_eq!(fetched(&host, "a", "b"), "b\n");
    let pids = || ["a", "b"].map(|name| host.container(name).pid);
    let before = pids();
    // Both daemons killed and started again; nobody touches the containers.
    switch.kill("ovs-vswitchd");
    host.until("the network says that its switch is gone", |_| {
        error_of(&host, "shop").is_some_and(|e| e.contains("ovs-vswitchd is not running"))
    });
    switch.start_switch();
    host.converge();
    assert_eq!(fetched(&host, "a", "b"), "b\n");
    switch.kill("ovs-vswitchd");
    switch.kill("ovsdb-server");
    host.until("the network says that all of it is gone", |_| {
        error_of(&host, "shop").is_some_and(|e| e.contains("Open vSwitch is not running"))
    });
    switch.start();
    host.converge();
    assert_eq!(fetched(&host, "a", "b"), "b\n");
    assert_eq!(
        host.http_get(From::Neighbour, "http://192.0.2.1:8080/name").body,
        "a\n"
    );
    assert_eq!(pids(), before);
}

#[test]
fn what_is_somebody_elses_is_left_alone_and_told() {
    let mut host = Host::new();
    let switch = OpenVswitch::start_on(&mut host);
    switch.vsctl("add-br wh-shop -- set bridge wh-shop datapath_type=netdev");
    host.write("shop.toml", &network("peers = []\n"));
    let kernel = network("peers = []\n")
        .replace("shop", "kernel")
        .replace("netdev", "system");
    host.write(
        "kernel.toml",
        &kernel.replace("10.82", "10.83").replace("vni = 7", "vni = 8"),
    );
    host.start_agent();
    host.until("the bridge of somebody else is told", |_| {
        error_of(&host, "shop").is_some_and(|e| e.contains("wh-shop is there already and is not wharf's"))
    });
    // This kernel has no module of it; on one that has, there is nothing to tell.
    if !host.ns.sh("ls /sys/module").contains("openvswitch") {
        host.until("the kernel without a datapath is told", |_| {
            error_of(&host, "kernel")
                .is_some_and(|e| e.contains("modprobe openvswitch") && e.contains("netdev"))
        });
    }
    switch.vsctl("del-br wh-shop");
    host.until("the network is made", |s| {
        s.networks.iter().any(|n| n.name == "shop" && n.error.is_none())
            && switch.vsctl("list-br").contains("wh-shop")
    });
}

/// Edits of the keys that only Open vSwitch has; what each does stands in docs/changes.md.
#[test]
fn a_vlan_is_on_every_port_and_another_tunnel_makes_the_network_anew() {
    let (host, switch) = shop(&format!("vlan = 7\n{A_PEER}"));
    assert_eq!(fetched(&host, "a", "b"), "b\n");
    assert_eq!(
        host.http_get(From::Neighbour, "http://192.0.2.1:8080/name").body,
        "a\n"
    );
    assert_eq!(switch.vsctl("get port wh-shop tag"), "7\n");
    // The tag goes along in the tunnel.
    assert_eq!(inside(&host, "a", "cat /sys/class/net/eth0/mtu"), "1446\n");
    host.write("shop.toml", &network(&format!("vlan = 8\n{A_PEER}")));
    let before = host.container("a");
    host.until("the other tag is there", |s| {
        s.converged && switch.vsctl("get port wh-shop tag") == "8\n"
    });
    assert_eq!(fetched(&host, "a", "b"), "b\n");
    let after = host.container("a");
    assert_eq!(before.id, after.id);
    host.write("shop.toml", &network(&format!("tunnel = \"gre\"\n{A_PEER}")));
    host.until("the other tunnel is there", |s| {
        s.converged && !switch.vsctl("find interface type=gre").is_empty()
    });
    assert_eq!(switch.vsctl("find interface type=vxlan"), "");
    assert_eq!(inside(&host, "a", "cat /sys/class/net/eth0/mtu"), "1458\n");
    assert_eq!(fetched(&host, "a", "b"), "b\n");
    assert_ne!(host.container("a").pid, after.pid);
}

/// A datagram from 10.81.9.9 to port 7000 of c1, as a frame.
fn frame() -> Vec<u8> {
    const WORDS: &[u8] = b"injected";
    let length = u16::try_from(8 + WORDS.len()).unwrap();
    let mut ip = vec![
        0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 81, 9, 9, 10, 81, 1, 1,
    ];
    ip[2..4].copy_from_slice(&(20 + length).to_be_bytes());
    let words = ip
        .chunks(2)
        .map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!u16::try_from(sum).unwrap()).to_be_bytes());
    // Without a checksum of its own.
    let udp = [7000, 7000, length, 0].map(u16::to_be_bytes).concat();
    let ethernet = [2, 0x57, 10, 81, 1, 1, 2, 0, 0, 0, 0, 0x66, 8, 0];
    [&ethernet[..], &ip, &udp, WORDS].concat()
}

/// Sends it to host 1 in a tunnel of this kind, from the stranger's own address.
fn inject(mesh: &Mesh, tunnel: &str) {
    let number = 4200_u32;
    let vni = (number << 8).to_be_bytes();
    let (header, port) = match tunnel {
        "vxlan" => ([[8, 0, 0, 0], vni].concat(), 4789),
        // Ethernet in it.
        "geneve" => ([[0, 0, 0x65, 0x58], vni].concat(), 6081),
        _ => ([[0x20, 0, 0x65, 0x58], number.to_be_bytes()].concat(), 0),
    };
    let packet = [header, frame()].concat();
    let to = SocketAddrV4::new([198, 51, 100, 1].into(), port);
    mesh.stranger.within(|| {
        if port != 0 {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(&packet, to).unwrap();
            return;
        }
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::GRE)).unwrap();
        rustix::net::sendto(&socket, &packet, SendFlags::empty(), &to).unwrap();
    });
}

/// What a stranger sends is not taken until he is a peer.
fn strangers_are_kept_out(mesh: &Mesh, tunnel: &str) {
    let receiver = mesh.within(1, || UdpSocket::bind("0.0.0.0:7000").unwrap());
    receiver.set_nonblocking(true).unwrap();
    let got = || receiver.recv(&mut [0; 64]).is_ok();
    inject(mesh, tunnel);
    // A datagram of a peer that was sent later has come: so would the other.
    let (sent, came) = mesh.round(2, 1);
    assert_eq!(sent, came);
    assert!(!got());
    mesh.write(1, &[1, 2, 3, 66], "");
    mesh.hosts[0].wharf(["reload"]).ok();
    mesh.hosts[0].converge();
    once("the new peer's datagram comes", || {
        inject(mesh, tunnel);
        got()
    });
}

/// All that is to hold of an overlay (see [`checks`]), and of Open vSwitch.
fn over_three_hosts(tunnel: &'static str, mtu: usize) {
    let mut mesh = Mesh::of_switches(tunnel);
    checks::all_reach_each_other(&mesh);
    checks::packets_fit(&mesh, mtu);
    checks::the_gateway_never_crosses(&mesh);
    checks::a_killed_agent_loses_no_flow(&mut mesh);
    checks::a_host_that_is_no_peer_any_more_is_cut_off(&mesh);
    strangers_are_kept_out(&mesh, tunnel);
    // What was there before is there still.
    for switch in &mesh.switches {
        assert_eq!(switch.vsctl("list-ports br-eth1"), "eth1\n");
    }
}

#[test]
fn slow_three_hosts_over_vxlan() {
    over_three_hosts("vxlan", 1500 - 50);
}

#[test]
fn slow_three_hosts_over_gre() {
    over_three_hosts("gre", 1500 - 42);
}

#[test]
fn slow_three_hosts_over_geneve() {
    over_three_hosts("geneve", 1500 - 50);
}

#[test]
fn slow_the_hosts_may_be_on_ipv6() {
    let mesh = Mesh::of_switches_on_ipv6("geneve");
    assert_eq!(mesh.inside(1, "cat /sys/class/net/eth0/mtu"), "1430\n");
    mesh.inside(1, "wget -q -O - http://c2/data | sha256sum");
}
