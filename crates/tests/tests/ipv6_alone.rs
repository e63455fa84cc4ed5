//! Networks without IPv4 (`ipv4 = false`) on a real host: names, published ports, the way out, what is taken and put back,
//! IPv4 lost and returned, updates without a gap.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use model::status::{ContainerStatus, Status};
use tests::load::{Client, Load};
use tests::{From, Host, client, http};

const ADDRESS: &str = Host::IPV6;
const NEIGHBOUR: &str = Host::NEIGHBOUR_IPV6;
const ALONE: &str = "[network.front]\nipv4 = false\nsubnet6 = \"fd00:90:2::/64\"\n";
const BOTH: &str = "[network.front]\nsubnet = \"10.90.2.0/24\"\nsubnet6 = \"fd00:90:2::/64\"\n";
const GATEWAY: &str = "fd00:90:2::1";
const PAGE: &str = "http://[2001:db8::1]:8080/";

/// A host that has IPv6 addresses as well, and a network that has nothing else.
fn host() -> Host {
    let host = Host::dual();
    host.write("net.toml", ALONE);
    host
}

fn inside(host: &Host, name: &str, line: &str) -> String {
    host.wharf(["exec", name, "sh", "-c", line]).ok().stdout
}

fn web(host: &Host, ports: &[&str]) -> String {
    host.hello_table("web", ports) + "networks = [\"front\"]\n"
}

fn six(row: &ContainerStatus) -> String {
    row.networks["front"].ip6.clone().unwrap()
}

fn row(status: &Status, name: &str) -> ContainerStatus {
    client::row(status, name).clone()
}

#[test]
fn containers_find_each_other_and_the_world_by_ipv6_alone() {
    let mut host = host();
    let check = "[container.web.healthcheck]\nhttp = { port = 80 }\nstart_interval = \"50ms\"\n";
    host.write(
        "web.toml",
        &(web(&host, &["8080:80", "[::1]:9000:80", "127.0.0.1:9001:80"]) + check),
    );
    host.write_busybox("box", "exec sleep 1000", "networks = [\"front\"]");
    let forwards = |host: &Host| host.ns.sh("cat /proc/sys/net/ipv4/ip_forward");
    let before = forwards(&host);
    host.start_agent();
    let status = host.converge();
    let (web, r#box) = (row(&status, "web"), row(&status, "box"));
    let place = &web.networks["front"];
    assert_eq!((&place.ip, &place.gateway), (&None, &None));
    assert_eq!(place.gateway6.as_deref(), Some(GATEWAY));
    assert_eq!(web.health, "healthy", "probes ask inside");
    let front = &status.networks[0];
    assert_eq!((&front.subnet, &front.gateway), (&None, &None));
    assert_eq!(front.subnet6.as_deref(), Some("fd00:90:2::/64"));

    // Names: asked at the gateway, answered with IPv6 addresses alone.
    assert!(inside(&host, "box", "cat /etc/resolv.conf").starts_with(&format!("nameserver {GATEWAY}\n")));
    assert!(inside(&host, "box", "cat /etc/hosts").contains(&format!("{}\tbox", six(&r#box))));
    assert!(inside(&host, "box", "ping -6 -c1 -W10 web").contains(&six(&web)));
    assert_ne!(host.wharf(["exec", "box", "ping", "-4", "-c1", "web"]).code, 0);
    let asked = host.wharf(["exec", "box", "nslookup", "web"]).ok().stdout;
    assert!(
        asked.contains(&six(&web)) && !asked.contains("NXDOMAIN"),
        "{asked}"
    );
    assert!(inside(&host, "box", "wget -qO- http://web/").contains("hello"));
    // The world, by the host's address and back.
    let way = inside(
        &host,
        "box",
        &format!(
            "ip -6 route show default; ping -6 -c1 -W10 {NEIGHBOUR}; ip -4 addr show dev eth0; ip -4 route"
        ),
    );
    assert!(way.contains(&format!("default via {GATEWAY} dev eth0")), "{way}");
    assert!(!way.contains("inet "), "{way}");

    // A port without an address is published on every IPv6 address, and nowhere else.
    let rows: BTreeSet<String> = web.ports.iter().map(|p| format!("{} {}", p.ip, p.host)).collect();
    assert_eq!(
        rows,
        [":: 8080", "::1 9000", "127.0.0.1 9001"]
            .map(str::to_owned)
            .into()
    );
    host.http_get(From::Neighbour, PAGE);
    host.http_get(From::Host, PAGE);
    for at in [
        "http://[::1]:8080/",
        "http://[::1]:9000/",
        "http://127.0.0.1:9001/",
    ] {
        host.http_get(From::Host, at);
    }
    for at in ["192.0.2.1:8080", "192.0.2.1:9001", "[2001:db8::1]:9000"] {
        assert!(!http::reaches(&host.neighbour, at), "{at}");
    }
    assert!(inside(&host, "box", &format!("wget -qO- {PAGE}")).contains("hello"));
    // A container's own address is none that others reach it by.
    host.neighbour
        .sh(&format!("ip -6 route add {} via {ADDRESS}", six(&web)));
    assert!(!http::reaches(&host.neighbour, &format!("[{}]:80", six(&web))));
    assert_eq!(forwards(&host), before, "nobody asked for IPv4");
    assert_eq!(host.ns.sh("ip -4 -o addr show dev wh-front"), "");

    let docker = |args: &[&str]| host.docker(args).ok().stdout;
    let places = "{{range .NetworkSettings.Networks}}{{.IPAddress}}/{{.IPPrefixLen}} {{.Gateway}}|{{.GlobalIPv6Address}}{{end}}";
    assert_eq!(
        docker(&["inspect", "-f", places, "web"]),
        format!("/0 |{}\n", six(&web))
    );
    let pools = "{{.EnableIPv6}} {{range .IPAM.Config}}{{.Subnet}} {{end}}";
    assert_eq!(
        docker(&["network", "inspect", "-f", pools, "front"]),
        "true fd00:90:2::/64 \n"
    );
}

#[test]
fn what_is_taken_is_put_back_and_all_of_it_outlives_the_agent() {
    let mut host = host();
    host.write("web.toml", &web(&host, &["8080:80"]));
    host.start_agent();
    let before = row(&host.converge(), "web");
    host.http_get(From::Neighbour, PAGE);
    let has = |host: &Host| {
        let shown = host.ns.sh("ip -6 addr show dev wh-front scope global");
        shown.contains(GATEWAY)
    };
    for damage in [
        &format!("ip -6 addr del {GATEWAY}/64 dev wh-front"),
        "ip -6 addr flush dev wh-front",
        "ip link del wh-front",
        "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding",
    ] {
        host.ns.sh(damage);
        host.until(damage, |s| {
            s.converged && has(&host) && host.ns.sh("cat /proc/sys/net/ipv6/conf/all/forwarding") == "1\n"
        });
        host.http_get(From::Neighbour, PAGE);
    }
    host.kill_agent();
    host.http_get(From::Neighbour, PAGE);
    host.start_agent();
    let after = row(&host.converge(), "web");
    assert_eq!(
        (&after.id, after.pid, six(&after)),
        (&before.id, before.pid, six(&before))
    );
    // Put away whole: the host is no router any more.
    host.remove_all();
    host.wharf(["reload"]).ok();
    host.until("empty", |s| s.converged && s.networks.is_empty());
    assert_eq!(host.ns.sh("cat /proc/sys/net/ipv6/conf/all/forwarding"), "0\n");
}

#[test]
fn a_network_loses_ipv4_and_gets_it_back() {
    let mut host = host();
    host.write("net.toml", BOTH);
    host.write("web.toml", &web(&host, &["8080:80"]));
    host.write_busybox("box", "exec sleep 1000", "networks = [\"front\"]");
    host.write("plain.toml", &host.busybox_table("plain", "exec sleep 1000", ""));
    host.start_agent();
    let first = host.converge();
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    let change = |table: &str| {
        host.write("net.toml", table);
        host.wharf(["reload"]).ok();
        host.converge()
    };
    let alone = change(ALONE);
    host.http_get(From::Neighbour, PAGE);
    assert!(!http::reaches(&host.neighbour, "192.0.2.1:8080"));
    for name in ["web", "box"] {
        let (was, is) = (row(&first, name), row(&alone, name));
        assert_eq!((&was.id, six(&was)), (&is.id, six(&is)), "{name}");
        assert_ne!(was.pid, is.pid, "it was started again");
        assert_eq!(is.networks["front"].ip, None);
    }
    assert_eq!(row(&first, "plain").pid, row(&alone, "plain").pid);
    assert!(inside(&host, "box", "wget -qO- http://web/").contains("hello"));
    assert_eq!(host.ns.sh("ip -4 -o addr show dev wh-front"), "");

    let back = change(BOTH);
    for url in ["http://192.0.2.1:8080/", PAGE] {
        host.http_get(From::Neighbour, url);
    }
    for name in ["web", "box"] {
        assert_eq!(row(&first, name).networks, row(&back, name).networks, "{name}");
    }
    assert!(
        inside(&host, "box", "ping -4 -c1 -W10 web && ping -6 -c1 -W10 web").contains("1 packets received")
    );
}

#[test]
fn an_update_start_first_and_replicas_are_served_by_ipv6() {
    let mut host = host();
    let table = |version: &str| {
        host.version_table(
            version,
            0,
            "networks = [\"front\"]\nreplicas = 2",
            "drain = \"300ms\"",
        )
    };
    let (old, new) = (table("0"), table("1"));
    host.write("web.toml", &old);
    host.start_agent();
    let before: BTreeSet<Option<String>> = host.converge().containers.iter().map(|c| c.id.clone()).collect();
    assert_eq!(before.len(), 2);
    let mut load = Load::new();
    for client in [Client::New, Client::Kept, Client::Datagram] {
        load.add(&host.neighbour, client, "[2001:db8::1]:8080");
    }
    host.write_renamed("web.toml", &new);
    host.wharf(["reload"]).ok();
    host.until("replaced", |s| {
        s.converged && s.containers.len() == 2 && s.containers.iter().all(|c| !before.contains(&c.id))
    });
    for (client, seen) in load.stop() {
        assert!(
            seen.lost.is_empty() && seen.answers > 0,
            "{client:?}: {:?}",
            seen.lost
        );
    }
}

#[test]
fn what_needs_ipv4_is_refused_where_it_is_written() {
    let host = host();
    host.write(
        "net.toml",
        "[network.front]\nipv4 = false\nsubnet = \"10.90.2.0/24\"\n",
    );
    let said = host.wharf(["validate"]);
    assert_eq!(said.code, 1);
    let why = "net.toml:3:1: `subnet` is of IPv4, and `ipv4` is false";
    assert!(said.stdout.contains(why), "{}", said.stdout);
    host.write("net.toml", ALONE);
    host.write("web.toml", &web(&host, &["192.0.2.1:8080:80"]));
    let said = host.wharf(["validate"]);
    let why = "a port of container web is published at 192.0.2.1, but none of its networks has IPv4";
    assert!(said.code == 1 && said.stdout.contains(why), "{}", said.stdout);
}
