//! IPv6 beside IPv4 on a real host: containers, published ports, a network that gets it, updates without a gap.
#![allow(clippy::unwrap_used)]

use std::net::Ipv6Addr;

use model::status::Status;
use tests::load::{Client, Load};
use tests::{From, Host, http, process};

const ADDRESS: &str = Host::IPV6;
const NEIGHBOUR: &str = Host::NEIGHBOUR_IPV6;
const FRONT: &str = "[network.front]\nsubnet = \"10.90.2.0/24\"\n";
const FRONT6: &str = "subnet6 = \"fd00:90:2::/64\"\n";

/// A host that has IPv6 addresses as well, and its network with IPv6.
fn host() -> Host {
    let host = Host::dual();
    host.write("net.toml", &format!("{FRONT}{FRONT6}"));
    host
}

fn inside(host: &Host, name: &str, line: &str) -> String {
    host.wharf(["exec", name, "sh", "-c", line]).ok().stdout
}

fn six(status: &Status, name: &str) -> Ipv6Addr {
    let row = tests::client::row(status, name);
    row.networks["front"].ip6.as_ref().unwrap().parse().unwrap()
}

fn web(host: &Host, ports: &[&str]) -> String {
    host.hello_table("web", ports) + "networks = [\"front\"]\n"
}

#[test]
fn containers_have_addresses_of_both_families_and_names_that_lead_to_both() {
    let mut host = host();
    host.write("web.toml", &web(&host, &[]));
    host.write_busybox("box", "exec sleep 1000", "networks = [\"front\"]");
    host.write_busybox("plain", "exec sleep 1000", "");
    host.start_agent();
    let status = host.converge();
    let (web, front) = (six(&status, "web"), &status.networks[1]);
    assert_eq!(front.subnet6.as_deref(), Some("fd00:90:2::/64"));
    assert_eq!(front.gateway6.as_deref(), Some("fd00:90:2::1"));
    let place = &tests::client::row(&status, "box").networks["front"];
    assert_eq!(place.gateway6.as_deref(), Some("fd00:90:2::1"));
    let ask = format!("wget -qO- http://[{web}]/");
    host.until("web answers", |_| {
        host.wharf(["exec", "box", "sh", "-c", &ask]).code == 0
    });
    let page = inside(&host, "box", &ask);
    assert!(page.contains("hello"), "{page}");
    let pings = inside(&host, "box", "ping -6 -c1 -W10 web && ping -4 -c1 -W10 web");
    assert!(pings.contains(&web.to_string()), "{pings}");
    let names = inside(&host, "box", "cat /etc/hosts");
    assert!(
        names.contains(&format!("{}\tbox", six(&status, "box"))),
        "{names}"
    );
    // By the host's address, out of the network and back.
    let way = inside(
        &host,
        "box",
        &format!("ip -6 route show default; ping -6 -c1 -W10 {NEIGHBOUR}"),
    );
    assert!(way.contains("default via fd00:90:2::1 dev eth0"), "{way}");
    // On a network that did not ask for it there is none.
    let none = inside(
        &host,
        "plain",
        "ip -6 addr show dev eth0; ip -6 route show dev eth0",
    );
    assert_eq!(none, "");
    let docker = |args: &[&str]| host.docker(args).ok().stdout;
    let networks = "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}/{{.GlobalIPv6PrefixLen}} {{.IPv6Gateway}}{{end}}";
    assert_eq!(
        docker(&["inspect", "-f", networks, "web"]),
        format!("{web}/64 fd00:90:2::1\n")
    );
    let network = docker(&[
        "network",
        "inspect",
        "-f",
        "{{.EnableIPv6}} {{range .IPAM.Config}}{{.Subnet}} {{end}}",
        "front",
    ]);
    assert_eq!(network, "true 10.90.2.0/24 fd00:90:2::/64 \n");
}

#[test]
fn ports_are_published_for_the_families_they_name() {
    let mut host = host();
    let at = format!("[{ADDRESS}]:8081:80");
    host.write(
        "web.toml",
        &web(
            &host,
            &["8080:80", "8080:80/udp", &at, "0.0.0.0:8082:80", "[::]:8083:80"],
        ),
    );
    host.write_busybox("box", "exec sleep 1000", "networks = [\"front\"]");
    host.start_agent();
    let status = host.converge();
    let rows = &tests::client::row(&status, "web").ports;
    let rows: Vec<String> = rows
        .iter()
        .map(|p| format!("{} {}/{}", p.ip, p.host, p.protocol))
        .collect();
    let mut wanted = vec![
        "0.0.0.0 8080/tcp",
        ":: 8080/tcp",
        "0.0.0.0 8080/udp",
        ":: 8080/udp",
        "0.0.0.0 8082/tcp",
        ":: 8083/tcp",
        "2001:db8::1 8081/tcp",
    ];
    let mut shown = rows.clone();
    shown.sort();
    wanted.sort_unstable();
    assert_eq!(shown, wanted);
    let listed = host.wharf(["port", "web"]).ok().stdout;
    assert!(
        listed.contains("80/tcp -> [::]:8080\n") && listed.contains("80/tcp -> [2001:db8::1]:8081\n"),
        "{listed}"
    );
    for from in [From::Neighbour, From::Host] {
        for at in [
            "192.0.2.1:8080",
            "192.0.2.1:8082",
            "[2001:db8::1]:8080",
            "[2001:db8::1]:8081",
            "[2001:db8::1]:8083",
        ] {
            host.http_get(from, &format!("http://{at}/"));
        }
        for at in ["[2001:db8::1]:8082", "192.0.2.1:8081", "192.0.2.1:8083"] {
            assert!(!http::reaches(host.place(from), at), "{at} from {from:?}");
        }
        for at in ["192.0.2.1:8080", "[2001:db8::1]:8080"] {
            http::ask_udp(host.place(from), at, "?").unwrap();
        }
    }
    // By the host's address from a container, and from the very one it leads to.
    let page = inside(&host, "box", &format!("wget -qO- http://[{ADDRESS}]:8080/"));
    assert!(page.contains("hello"), "{page}");
    // A container's own address is none that others reach it by.
    let web = six(&status, "web");
    host.neighbour.sh(&format!("ip -6 route add {web} via {ADDRESS}"));
    assert!(!http::reaches(&host.neighbour, &format!("[{web}]:80")));
    // The host is no router any more when nobody needs it to be one.
    let forwarding = || host.ns.sh("cat /proc/sys/net/ipv6/conf/all/forwarding");
    assert_eq!(forwarding(), "1\n");
    host.remove_all();
    host.wharf(["reload"]).ok();
    host.until("empty", |s| {
        s.converged && s.containers.is_empty() && s.networks.is_empty()
    });
    assert_eq!((forwarding().as_str(), relay(&host)), ("0\n", None));
}

#[test]
fn who_is_let_in_is_asked_of_both_families() {
    let mut host = host();
    let table = |allow: &str| {
        let ports = format!(
            "ports = [{{ host = 8080, container = 80, allow = [{allow}] }}]\nnetworks = [\"front\"]\n"
        );
        format!("[container.web]\nimage = {:?}\n{ports}", host.hello_image())
    };
    let (six, four) = (table("\"2001:db8::/64\""), table("\"192.0.2.0/24\""));
    host.write("web.toml", &six);
    host.start_agent();
    host.converge();
    host.http_get(From::Neighbour, "http://[2001:db8::1]:8080/");
    assert!(!http::reaches(&host.neighbour, "192.0.2.1:8080"));
    let pid = host.container("web").pid;
    host.write("web.toml", &four);
    host.wharf(["reload"]).ok();
    host.converge();
    assert_eq!(host.container("web").pid, pid, "in place");
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    assert!(!http::reaches(&host.neighbour, "[2001:db8::1]:8080"));
}

fn relay(host: &Host) -> Option<u32> {
    let all = process::of_host(&host.run_dir(), host.cgroup_parent());
    let relay = all.into_iter().find(|p| p.command.contains("wharf relay"));
    relay.map(|p| p.pid)
}

#[test]
fn ports_on_the_loopback_address_are_served_while_the_agent_is_away() {
    let mut host = host();
    host.write(
        "web.toml",
        &web(&host, &["8080:80", "[::1]:9000:80", "[::1]:9000:80/udp"]),
    );
    // One without IPv6 is reached all the same.
    host.write("plain.toml", &host.hello_table("plain", &["[::1]:9100:80"]));
    host.start_agent();
    let status = host.converge();
    assert_eq!(tests::client::row(&status, "web").ports[2].open_to, "host");
    let served = |host: &Host| {
        for port in [8080, 9000, 9100] {
            host.http_get(From::Host, &format!("http://[::1]:{port}/"));
        }
        http::ask_udp(&host.ns, "[::1]:9000", "?").unwrap();
    };
    served(&host);
    for at in ["[2001:db8::1]:9000", "192.0.2.1:9000"] {
        assert!(!http::reaches(&host.neighbour, at), "{at}");
    }
    host.kill_agent();
    served(&host);
    host.start_agent();
    host.converge();
    let old = relay(&host).unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(old).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    host.until("another relay", |s| {
        s.converged && relay(&host).is_some_and(|new| new != old)
    });
    served(&host);
    // What is on it is no program of somebody else, for a container that begins again neither.
    host.wharf(["restart", "web"]).ok();
    host.converge();
    served(&host);
    host.remove("plain.toml");
    host.write("web.toml", &web(&host, &["0.0.0.0:8080:80"]));
    host.wharf(["reload"]).ok();
    host.until("without a relay", |s| s.converged && relay(&host).is_none());
}

#[test]
fn a_network_gets_ipv6_while_it_is_used_and_keeps_it() {
    let mut host = host();
    host.write("net.toml", FRONT);
    host.write("web.toml", &web(&host, &["8080:80"]));
    host.start_agent();
    let before = tests::client::row(&host.converge(), "web").clone();
    let index = || host.ns.sh("ip -o link show wh-front | cut -d: -f1");
    let device = index();
    assert!(!http::reaches(&host.neighbour, "[2001:db8::1]:8080"));
    host.write("net.toml", &format!("{FRONT}ipv6 = true\n"));
    host.wharf(["reload"]).ok();
    let status = host.converge();
    let now = tests::client::row(&status, "web").clone();
    let place = |c: &model::status::ContainerStatus| c.networks["front"].clone();
    assert_eq!(
        (&now.id, place(&now).ip, index()),
        (&before.id, place(&before).ip, device)
    );
    assert_ne!(now.pid, before.pid, "it was started again");
    host.http_get(From::Neighbour, "http://[2001:db8::1]:8080/");
    let subnet = status.networks[0].subnet6.clone().unwrap();
    assert!(subnet.starts_with("fd") && subnet.ends_with("/64"), "{subnet}");
    let address = six(&status, "web");

    // It is the same after a restart, and for another agent.
    host.wharf(["restart", "web"]).ok();
    host.kill_agent();
    host.start_agent();
    let status = host.converge();
    assert_eq!(
        (six(&status, "web"), status.networks[0].subnet6.clone()),
        (address, Some(subnet))
    );

    // What is taken of it is put back.
    let gateway = status.networks[0].gateway6.clone().unwrap();
    let has = || {
        host.ns
            .sh("ip -6 addr show dev wh-front scope global")
            .contains(&gateway)
    };
    let back = |what: &str| {
        host.until(what, |_| has());
        host.http_get(From::Neighbour, "http://[2001:db8::1]:8080/");
    };
    host.ns.sh(&format!("ip -6 addr del {gateway}/64 dev wh-front"));
    back("given its address again");
    host.ns.sh("ip -6 addr flush dev wh-front");
    back("given its addresses again");
    host.ns.sh("echo 0 > /proc/sys/net/ipv6/conf/all/forwarding");
    host.until("forwarding again", |_| {
        host.ns.sh("cat /proc/sys/net/ipv6/conf/all/forwarding") == "1\n"
    });
    back("reached again");

    host.write("net.toml", FRONT);
    host.wharf(["reload"]).ok();
    let status = host.converge();
    assert_eq!(
        (
            tests::client::row(&status, "web").networks["front"].ip6.clone(),
            has()
        ),
        (None, false)
    );
    assert!(!http::reaches(&host.neighbour, "[2001:db8::1]:8080"));
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
}

#[test]
fn an_update_start_first_loses_nobody_of_either_family() {
    let mut host = host();
    let table = |version: &str| host.version_table(version, 0, "networks = [\"front\"]", "drain = \"300ms\"");
    let (old, new) = (table("0"), table("1"));
    host.write("web.toml", &old);
    host.start_agent();
    let before = tests::client::row(&host.converge(), "web").clone();
    let mut load = Load::new();
    for at in ["192.0.2.1:8080", "[2001:db8::1]:8080"] {
        for client in [Client::New, Client::Kept, Client::Datagram, Client::Flow] {
            load.add(&host.neighbour, client, at);
        }
    }
    host.write_renamed("web.toml", &new);
    host.wharf(["reload"]).ok();
    let status = host.until("replaced", |s| {
        s.containers.len() == 1 && s.containers[0].id != before.id && s.converged
    });
    assert_ne!(
        status.containers[0].networks["front"].ip6,
        before.networks["front"].ip6
    );
    for (client, seen) in load.stop() {
        assert!(
            seen.lost.is_empty() && seen.answers > 0,
            "{client:?}: {:?}",
            seen.lost
        );
        assert!(
            seen.versions.len() <= 2,
            "{client:?} goes back: {:?}",
            seen.versions
        );
    }
}
