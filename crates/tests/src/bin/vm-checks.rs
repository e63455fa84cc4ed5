//! What takes more of the kernel than every machine has: encrypted overlays, and Open vSwitch with its part of the kernel.
//! `./test --vm` runs it in user-mode Linux, beside the tests of `tests/vm/checks`; each check is a line of its output.
#![allow(
    clippy::unwrap_used,
    reason = "a check stops where its world is not as it was made"
)]

#[path = "../../tests/mesh/mod.rs"]
mod mesh;

use std::panic::{catch_unwind, set_hook};
use std::process::ExitCode;

use mesh::{ALL, Mesh, checks, frames, inject, once, pairs};
use tests::namespace::Namespace;

const CHECKS: &[(&str, fn())] = &[
    (
        "encrypted hosts reach each other, and nothing of it is seen",
        encrypted,
    ),
    (
        "an encrypted overlay takes nothing that is not encrypted",
        refuses_what_is_open,
    ),
    ("damage to what encrypts is repaired", damage),
    ("a killed agent loses no encrypted flow", killed_agent),
    ("a host without a key any more is cut off", cut_off),
    (
        "a host keeps its key over a restart, and takes another one when told",
        keys,
    ),
    ("hosts on IPv6 are encrypted", encrypted_on_ipv6),
    ("encryption is turned off and on", turned_off_and_on),
    ("Open vSwitch with the kernel's datapath: VXLAN", || {
        switches("vxlan", 1450)
    }),
    ("Open vSwitch with the kernel's datapath: Geneve", || {
        switches("geneve", 1450)
    }),
    ("Open vSwitch with the kernel's datapath: GRE", || {
        switches("gre", 1458)
    }),
];

fn main() -> ExitCode {
    // Each line of it is shown below the check's own.
    set_hook(Box::new(|panic| {
        panic
            .to_string()
            .lines()
            .for_each(|line| println!("        {line}"));
    }));
    let only = std::env::args().nth(1).unwrap_or_default();
    let mut code = ExitCode::SUCCESS;
    for (name, check) in CHECKS.iter().filter(|(name, _)| name.contains(&only)) {
        match catch_unwind(*check) {
            Ok(()) => println!("ok      {name}"),
            Err(_) => {
                println!("FAILED  {name}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn encrypted() {
    let mesh = Mesh::encrypted();
    let watch = frames(&mesh.lan);
    checks::all_reach_each_other(&mesh);
    checks::packets_fit(&mesh, 1370);
    let seen = watch.stop();
    assert!(seen.is_empty(), "{seen:?}");
    let host = &mesh.hosts[0];
    let private = std::fs::read_to_string(host.state_dir().join("wireguard.key")).unwrap();
    let shown = host.evidence() + &host.wharf(["status", "--json"]).stdout;
    assert!(!shown.contains(private.trim()));
}

fn refuses_what_is_open() {
    let mesh = Mesh::encrypted();
    let receiver = mesh.within(1, || std::net::UdpSocket::bind("0.0.0.0:7000").unwrap());
    receiver.set_nonblocking(true).unwrap();
    let inside = text(
        &mesh.hosts[0].ns,
        "ip -o -6 addr show dev $(ip -o link show type wireguard | cut -d: -f2 | tr -d ' ') | grep -o 'fe80:[0-9a-f:]*'",
    );
    mesh.stranger.sh("ip addr add 2001:db8::66/64 dev eth1 nodad");
    mesh.hosts[0].ns.sh("ip addr add 2001:db8::1/64 dev eth1 nodad");
    let ways = [
        "local 198.51.100.66 remote 198.51.100.1".to_owned(),
        "local 2001:db8::66 remote 2001:db8::1".to_owned(),
        // To the address inside, on the LAN's link.
        format!("dev eth1 local fe80::66 remote {inside}"),
    ];
    mesh.stranger.sh("ip addr add fe80::66/64 dev eth1 nodad");
    let mac = text(
        &mesh.hosts[0].ns,
        "ip -o link show eth1 | grep -o 'ether [0-9a-f:]*' | cut -d' ' -f2",
    );
    mesh.stranger
        .sh(&format!("ip neigh replace {inside} lladdr {mac} dev eth1"));
    for way in ways {
        mesh.stranger.sh(&format!(
            "ip link add v type vxlan id 4200 dstport 4789 {way}
             ip addr add 10.81.9.9/16 dev v; ip link set v up
             ip neigh add 10.81.1.1 lladdr 02:57:0a:51:01:01 dev v"
        ));
        inject(&mesh.stranger);
        // A datagram of a peer that was sent later has come: so would the other.
        let (sent, got) = mesh.round(2, 1);
        assert_eq!(sent, got);
        let nothing = receiver.recv(&mut [0; 64]).unwrap_err();
        assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock, "{way}");
        mesh.stranger.sh("ip link del v");
    }
}

fn damage() {
    let mesh = Mesh::encrypted();
    let host = &mesh.hosts[0];
    let device = text(&host.ns, "ip -o link show type wireguard | cut -d: -f2");
    let tunnel = text(&host.ns, "ip -o link show type vxlan | cut -d: -f2");
    let other = mesh.public_key(2);
    let pids = mesh.pids();
    let image = || {
        let lines = format!(
            "ip -o link show {device} | grep -o 'mtu [0-9]*\\|,UP'; ip -o -6 addr show dev {device} | grep -o 'fe80[0-9a-f:/]*'
             wg show {device} public-key; wg show {device} listen-port; wg show {device} allowed-ips | sort
             wg show {device} endpoints | sort; bridge fdb show dev {tunnel} | grep 00:00:00:00:00:00 | sort"
        );
        host.ns
            .command("bash")
            .args(["-c", &lines])
            .output()
            .unwrap()
            .stdout
    };
    let whole = image();
    let damages = [
        format!("ip link del {device}"),
        format!("ip link del {tunnel}"),
        format!("ip link set {device} down"),
        format!("ip link set {device} mtu 1400"),
        format!("ip -6 addr flush dev {device}"),
        format!("wg set {device} peer {other} remove"),
        format!("wg set {device} peer {other} allowed-ips ::/0"),
        format!("wg set {device} listen-port 5555"),
        format!("wg set {device} peer $(wg genkey | wg pubkey) allowed-ips fd00::/8"),
        format!("wg set {device} private-key <(wg genkey)"),
        // Nobody is heard there, and it is looked for where its table says.
        format!(
            "wg set {device} peer {other} remove; wg set {device} peer {other} endpoint 198.51.100.99:51820"
        ),
    ];
    for damage in damages {
        host.ns.sh(&damage);
        host.wharf(["reload"]).ok();
        once(&damage, || image() == whole);
        host.converge();
        mesh.until_reaches(1, 2);
        mesh.until_reaches(2, 1);
    }
    assert_eq!(mesh.pids(), pids);
}

fn killed_agent() {
    checks::a_killed_agent_loses_no_flow(&mut Mesh::encrypted());
}

fn cut_off() {
    checks::a_host_that_is_no_peer_any_more_is_cut_off(&Mesh::encrypted());
}

fn keys() {
    let mut mesh = Mesh::encrypted();
    let before = mesh.public_key(1);
    mesh.hosts[0].kill_agent();
    mesh.hosts[0].start_agent();
    mesh.hosts[0].converge();
    assert_eq!(mesh.public_key(1), before);
    // Another one: nobody hears it until they are told.
    let file = mesh.hosts[0].state_dir().join("wireguard.key");
    let fresh = text(&mesh.hosts[0].ns, "wg genkey");
    std::fs::write(&file, fresh).unwrap();
    mesh.hosts[0].wharf(["reload"]).ok();
    mesh.hosts[0].until("the other key is in use", |s| {
        s.networks
            .iter()
            .any(|n| n.public_key.as_ref().is_some_and(|key| *key != before))
    });
    once("it is not heard", || !mesh.reaches(2, 1));
    mesh.exchange_keys();
    for (from, to) in pairs() {
        mesh.until_reaches(from, to);
    }
}

fn encrypted_on_ipv6() {
    let mesh = Mesh::encrypted_on_ipv6();
    checks::packets_fit(&mesh, 1350);
    for (from, to) in pairs() {
        mesh.until_reaches(from, to);
    }
}

fn turned_off_and_on() {
    let mut mesh = Mesh::encrypted();
    for made in [mesh::Made::Kernel, mesh::Made::Encrypted] {
        mesh.remake(made);
        for (from, to) in pairs() {
            mesh.until_reaches(from, to);
        }
        for host in &mesh.hosts {
            let left = host.ns.sh("ip -o link show type wireguard | wc -l");
            assert_eq!(left.trim() == "1", made == mesh::Made::Encrypted, "{left}");
        }
    }
    // A network that goes takes what encrypts it along.
    mesh.hosts[0].remove_all();
    once("all is gone", || {
        mesh.hosts[0]
            .ns
            .sh("ip -o link show type wireguard; ip -o link show type vxlan")
            .is_empty()
    });
}

fn switches(tunnel: &'static str, mtu: usize) {
    let mut mesh = Mesh::of_kernel_switches(tunnel);
    checks::all_reach_each_other(&mesh);
    checks::packets_fit(&mesh, mtu);
    checks::the_gateway_never_crosses(&mesh);
    checks::a_killed_agent_loses_no_flow(&mut mesh);
    for n in ALL {
        let shown = mesh.switches[n - 1].vsctl("get bridge wh-mesh datapath_type");
        assert!(shown.trim().trim_matches('"') != "netdev", "{shown}");
    }
}

/// What a line of shell prints there, without the end of its line.
fn text(ns: &Namespace, line: &str) -> String {
    let script = ["-euc", line];
    let out = ns.command("bash").args(script).output().unwrap();
    assert!(out.status.success(), "{line}: {out:?}");
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}
