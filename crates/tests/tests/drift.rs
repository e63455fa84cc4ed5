//! Drift: what somebody else changes or removes is put right, and containers are left alone meanwhile.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use tests::{From, Host, cgroups, http};

fn host_with_web() -> Host {
    let mut host = Host::new();
    host.write("web.toml", &host.hello_table("web", &["8080:80", "8080:80/udp"]));
    host.start_agent();
    host.converge();
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    host
}

/// What somebody does to the host, and what puts it right again is not part of it.
fn damages(host: &Host) -> Vec<(&'static str, String)> {
    let web = host.container("web");
    let network = host.status().networks[0].clone();
    let (bridge, gateway) = (network.device, network.gateway.unwrap());
    // Not from /sys, which shows the devices of the namespace it was mounted in.
    let ports = host.ns.sh(&format!("ip -o link show master {bridge}"));
    let veth = ports.split([':', '@']).nth(1).unwrap().trim().to_owned();
    let pid = web.pid.unwrap();
    vec![
        ("ruleset", "nft flush ruleset".to_owned()),
        ("table", "nft delete table inet wharf || true".to_owned()),
        ("address", format!("ip addr del {gateway}/24 dev {bridge}")),
        ("bridge down", format!("ip link set {bridge} down")),
        ("bridge", format!("ip link del {bridge}")),
        (
            "forwarding entry",
            format!(
                "bridge fdb del $(ip -o link show {bridge} | grep -o 'ether [^ ]*' | cut -c7-) dev {bridge} self"
            ),
        ),
        ("veth", format!("ip link del {veth}")),
        ("master", format!("ip link set {veth} nomaster")),
        ("veth down", format!("ip link set {veth} down")),
        (
            "route",
            format!("ip route del {} dev {bridge}", network.subnet.unwrap()),
        ),
        ("forwarding", "echo 0 > /proc/sys/net/ipv4/ip_forward".to_owned()),
        (
            "bridge forwarding",
            format!("echo 0 > /proc/sys/net/ipv4/conf/{bridge}/forwarding"),
        ),
        (
            "inside",
            format!("nsenter --net=/proc/{pid}/ns/net ip link del eth0"),
        ),
    ]
}

#[test]
fn slow_what_is_flushed_or_deleted_comes_back_and_no_container_is_touched() {
    let host = host_with_web();
    let before = host.container("web");
    for (what, line) in damages(&host) {
        // The host end of the veth is named after the container: the same after a repair.
        host.ns.sh(&line);
        let start = Instant::now();
        let mut answered = false;
        while !answered && start.elapsed() < Duration::from_secs(20) {
            answered = http::get(&host.neighbour, "http://192.0.2.1:8080/").is_ok();
        }
        assert!(answered, "{what}: no answer any more\n{}", host.evidence());
        host.converge();
        let after = host.container("web");
        assert_eq!((after.pid, after.restarts), (before.pid, 0), "{what}");
        assert!(
            http::get(&host.neighbour, "http://192.0.2.1:8080/").is_ok(),
            "{what}"
        );
    }
}

#[test]
fn a_single_element_is_put_back() {
    let host = host_with_web();
    let listed = host.ns.sh("nft -j list table inet wharf");
    let maps: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let any = maps["nftables"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|v| v.get("map"))
        .find(|m| m["elem"].to_string().contains("8080"))
        .unwrap_or_else(|| panic!("no map holds the port: {listed}"));
    let name = any["name"].as_str().unwrap();
    // Where the kernel knows an owner, the table cannot be touched at all.
    let flushed = host
        .ns
        .command("nft")
        .args(["flush", "map", "inet", "wharf", name])
        .output()
        .unwrap();
    host.until("answering", |_| {
        http::get(&host.neighbour, "http://192.0.2.1:8080/").is_ok()
    });
    host.converge();
    let again = host.ns.sh("nft list table inet wharf");
    assert!(again.contains("8080"), "{flushed:?} {again}");
}

#[test]
fn a_foreign_forward_chain_that_drops_does_not_make_ports_dead() {
    let mut host = Host::new();
    // As ufw and Docker leave it.
    host.ns
        .sh("iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -s 203.0.113.0/24 -j DROP");
    host.write("web.toml", &host.hello_table("web", &["8080:80"]));
    host.write("box.toml", &host.busybox_table("box", "exec sleep 1000", ""));
    host.start_agent();
    host.converge();
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    let out = host.wharf(["exec", "box", "ping", "-c1", "-W5", "192.0.2.2"]);
    assert_eq!(out.code, 0, "{out:?}");
    // Their reload flushes it; it comes back.
    host.ns
        .sh("iptables-nft -F FORWARD; iptables-nft -A FORWARD -s 203.0.113.0/24 -j DROP");
    host.until("answering", |_| {
        http::get(&host.neighbour, "http://192.0.2.1:8080/").is_ok()
    });
    let rules = host.ns.sh("iptables-nft -S");
    assert!(
        rules.contains("-P FORWARD DROP") && rules.contains("203.0.113.0/24"),
        "{rules}"
    );
    host.remove_all();
    host.until("gone", |s| s.containers.is_empty() && s.converged);
    let rules = host.ns.sh("iptables-nft -S");
    assert!(
        !rules.to_lowercase().contains("wharf"),
        "nothing of ours is left: {rules}"
    );
    assert!(rules.contains("203.0.113.0/24"), "{rules}");
}

#[test]
fn what_was_flushed_and_deleted_without_an_agent_is_put_right_by_the_next_one() {
    let mut host = host_with_web();
    let before = host.container("web");
    let bridge = host.status().networks[0].device.clone();
    host.kill_agent();
    // The table outlives its owner, but is no longer protected.
    host.ns.sh(&format!(
        "nft flush ruleset; ip link del {bridge}; echo 0 >/proc/sys/net/ipv4/ip_forward"
    ));
    assert!(!http::reaches(&host.neighbour, "192.0.2.1:8080"));
    host.start_agent();
    host.converge();
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    let after = host.container("web");
    assert_eq!((after.pid, after.restarts), (before.pid, 0));
}

#[test]
fn a_damaged_table_goes_when_nothing_needs_it_any_more() {
    let mut host = host_with_web();
    host.kill_agent();
    host.ns.sh("nft add rule inet wharf forward counter");
    host.remove_all();
    host.start_agent();
    host.until("gone", |s| s.containers.is_empty() && s.converged);
    // Nothing wanted from the start: no bridge, no port.
    host.kill_agent();
    let owner = host.ns.sh("nft list tables");
    assert!(!owner.contains("wharf"), "{owner}");
}

#[test]
fn what_a_container_does_to_its_own_network_stays_its_own_affair() {
    let host = host_with_web();
    host.write(
        "box.toml",
        &host.busybox_table("box", "exec sleep 1000", "cap_add = [\"NET_ADMIN\"]\n"),
    );
    host.converge();
    let devices = || {
        host.ns
            .sh("ip -o link; ip -4 -o addr; ip route; nft list ruleset")
    };
    let before = devices();
    // Another one's address, another MAC, no routes, forwarding.
    let web = host.container("web").networks["default"].ip.clone().unwrap();
    let line = format!(
        "ip addr add {web}/32 dev eth0; ip route flush dev eth0; ip addr flush dev eth0; ip link set eth0 address 02:00:00:00:00:99; true"
    );
    host.wharf(["exec", "box", "sh", "-c", &line]).ok();
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    host.converge();
    assert_eq!(devices(), before);
    assert_eq!(host.container("web").restarts, 0);
}

#[test]
fn a_killed_process_and_a_removed_cgroup() {
    let host = host_with_web();
    let before = host.container("web");
    // A group with processes inside cannot be removed by anybody.
    let is_lived_in = |group: &std::path::PathBuf| {
        std::fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|pids| !pids.is_empty())
    };
    let groups: Vec<_> = cgroups::below(host.cgroup_parent())
        .into_iter()
        .filter(is_lived_in)
        .collect();
    assert!(!groups.is_empty(), "the container has groups of its own");
    for group in groups {
        assert!(std::fs::remove_dir(&group).is_err(), "{group:?}");
    }
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    let pid = i32::try_from(before.pid.unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    let after = host.until("counted", |s| {
        s.containers[0].restarts == 1 && s.containers[0].pid.is_some()
    });
    assert_eq!(after.containers[0].id, before.id);
}
