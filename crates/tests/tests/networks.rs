//! Ports and networks: several of them, fixed addresses, aliases, allow lists, every EXPOSEd port.
#![allow(clippy::unwrap_used)]

use tests::{From, Host, http};

fn inside(host: &Host, name: &str, line: &str) -> String {
    host.wharf(["exec", name, "sh", "-c", line]).ok().stdout
}

#[test]
fn several_networks_come_in_their_order() {
    let mut host = Host::new();
    host.write(
        "net.toml",
        "[network.back]\nsubnet = \"10.90.1.0/24\"\ninternal = true\n[network.front]\nsubnet = \"10.90.2.0/24\"\nmtu = 1400\nbridge = \"br-front\"\n",
    );
    host.write(
        "box.toml",
        &host.busybox_table(
            "box",
            "exec sleep 1000",
            "networks = [\"back\", \"front\"]\nports = [\"8080:80\"]\n",
        ),
    );
    host.start_agent();
    let status = host.converge();
    let box_ = &status.containers[0];
    assert_eq!(
        (
            box_.networks["back"].device.as_str(),
            box_.networks["front"].device.as_str()
        ),
        ("eth0", "eth1")
    );
    let addresses = inside(&host, "box", "ip -4 -o addr show | awk '{print $2, $4}'");
    assert!(
        addresses.contains("eth0 10.90.1.") && addresses.contains("eth1 10.90.2."),
        "{addresses}"
    );
    // The first one with a way out has the default route.
    let route = inside(&host, "box", "ip route show default");
    assert!(route.contains("via 10.90.2.1 dev eth1"), "{route}");
    assert_eq!(inside(&host, "box", "cat /sys/class/net/eth1/mtu"), "1400\n");
    host.ns.sh("ip link show br-front");
}

#[test]
fn fixed_addresses_and_further_names() {
    let mut host = Host::new();
    host.write("net.toml", "[network.front]\nsubnet = \"10.90.2.0/24\"\n");
    host.write(
        "box.toml",
        &(host.busybox_table("box", "exec sleep 1000", "")
            + "[container.box.networks]\nfront = { ip = \"10.90.2.77\", mac = \"02:00:00:00:00:77\", aliases = [\"www\"] }\n"),
    );
    host.write(
        "peer.toml",
        &host.busybox_table("peer", "exec sleep 1000", "networks = [\"front\"]\n"),
    );
    host.start_agent();
    host.converge();
    assert_eq!(
        inside(&host, "box", "cat /sys/class/net/eth0/address"),
        "02:00:00:00:00:77\n"
    );
    let found = inside(&host, "peer", "ping -c1 -W5 www >/dev/null && ping -c1 -W5 box");
    assert!(found.contains("10.90.2.77"), "{found}");
}

#[test]
fn allow_lets_in_who_is_on_it() {
    let mut host = Host::new();
    let ports = |allow: &str| {
        format!(
            "[container.web]\nimage = {:?}\nports = [{{ host = 8080, container = 80, allow = [{allow}] }}, \"8081:80\"]\n",
            host.hello_image()
        )
    };
    let (mine, other) = (
        ports("\"192.0.2.0/24\""),
        ports("\"198.51.100.0/24\", \"203.0.113.7\""),
    );
    host.write("web.toml", &mine);
    host.start_agent();
    host.converge();
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    let pid = host.container("web").pid;
    host.write("web.toml", &other);
    host.wharf(["reload"]).ok();
    host.converge();
    assert_eq!(host.container("web").pid, pid, "in place");
    assert!(!http::reaches(&host.neighbour, "192.0.2.1:8080"));
    host.http_get(From::Neighbour, "http://192.0.2.1:8081/");
    let shown = host.status().containers[0].ports[0].allow.clone();
    assert_eq!(shown, ["198.51.100.0/24", "203.0.113.7/32"]);
    // Nor by routing the container's address at us.
    let ip = host.container("web").networks["default"].ip.clone().unwrap();
    host.neighbour.sh(&format!("ip route add {ip} via 192.0.2.1"));
    assert!(!http::reaches(&host.neighbour, &format!("{ip}:80")));
    host.write("web.toml", &mine);
    host.wharf(["reload"]).ok();
    host.converge();
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
}

#[test]
fn allow_lists_hold_for_udp_and_for_containers_of_other_networks() {
    let mut host = Host::new();
    let image = host.hello_image();
    let ports = |tcp: &str, udp: &str| {
        format!(
            "[container.web]\nimage = {image:?}\nports = [{{ host = 8080, container = 80, allow = [{tcp:?}] }}, {{ host = 8080, container = 80, protocol = \"udp\", allow = [{udp:?}] }}]\n"
        )
    };
    let (first, second) = (
        ports("192.0.2.0/24", "203.0.113.0/24"),
        ports("10.90.3.0/24", "192.0.2.0/24"),
    );
    host.write("net.toml", "[network.other]\nsubnet = \"10.90.3.0/24\"\n");
    host.write(
        "box.toml",
        &host.busybox_table("box", "exec sleep 1000", "networks = [\"other\"]\n"),
    );
    host.write("web.toml", &first);
    host.start_agent();
    host.converge();
    let line = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 192.0.2.1 8080";
    let fetch = || host.wharf(["exec", "box", "sh", "-c", line]);
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    assert!(http::ask_udp(&host.neighbour, "192.0.2.1:8080", "?").is_err());
    assert_ne!(fetch().code, 0);
    host.write("web.toml", &second);
    host.wharf(["reload"]).ok();
    host.converge();
    assert!(!http::reaches(&host.neighbour, "192.0.2.1:8080"));
    let page = fetch();
    assert!(page.code == 0 && page.stdout.contains("hello"), "{page:?}");
    http::ask_udp(&host.neighbour, "192.0.2.1:8080", "?").unwrap();
}

#[test]
fn an_address_that_is_taken_is_said_and_had_when_it_is_free() {
    let mut host = Host::new();
    host.write("net.toml", "[network.front]\nsubnet = \"10.90.2.0/24\"\n");
    let table = |host: &Host, name: &str| {
        host.busybox_table(name, "exec sleep 1000", "")
            + &format!("[container.{name}.networks]\nfront = {{ ip = \"10.90.2.77\" }}\n")
    };
    host.write("one.toml", &table(&host, "one"));
    host.write("two.toml", &table(&host, "two"));
    let told = host.wharf(["validate"]);
    let text = told.stdout + &told.stderr;
    assert!(
        told.code != 0 && text.contains("10.90.2.77") && text.contains("one") && text.contains("two"),
        "{text}"
    );
    // One that has the address already keeps it; the other gets it when that one is gone.
    host.remove("two.toml");
    host.start_agent();
    host.converge();
    let pid = host.container("one").pid;
    host.write("two.toml", &table(&host, "two"));
    host.until("refused", |s| {
        s.errors.iter().any(|e| e.message.contains("10.90.2.77"))
    });
    assert_eq!(host.container("one").pid, pid);
    host.remove("one.toml");
    host.until("taken over", |s| {
        s.converged
            && s.containers.len() == 1
            && s.containers[0].name == "two"
            && s.containers[0].pid.is_some()
    });
    assert_eq!(
        host.container("two").networks["front"].ip.as_deref(),
        Some("10.90.2.77")
    );
}

#[test]
fn every_exposed_port_gets_a_port_and_keeps_it() {
    let mut host = Host::new();
    host.write(
        "web.toml",
        &format!(
            "[container.web]\nimage = {:?}\npublish_all = true\n",
            host.hello_image()
        ),
    );
    host.start_agent();
    let status = host.converge();
    let port = &status.containers[0].ports[0];
    assert_eq!(port.container, 80);
    host.http_get(From::Neighbour, &format!("http://192.0.2.1:{}/", port.host));
    host.kill_agent();
    host.start_agent();
    assert_eq!(host.converge().containers[0].ports, status.containers[0].ports);
}

#[test]
fn containers_live_in_another_ones_network() {
    let mut host = Host::new();
    host.write("owner.toml", &host.hello_table("owner", &["8080:80"]));
    host.write(
        "side.toml",
        &host.busybox_table("side", "exec sleep 1000", "network_mode = \"container:owner\"\n"),
    );
    host.start_agent();
    host.converge();
    let page = inside(&host, "side", "wget -qO- http://127.0.0.1/");
    assert!(!page.is_empty());
    let ip = host.container("owner").networks["default"].ip.clone().unwrap();
    assert!(inside(&host, "side", "ip -4 -o addr show eth0").contains(&ip));
    // The owner is replaced: the other one follows.
    let before = host.container("side");
    host.write(
        "owner.toml",
        &(host.hello_table("owner", &["8080:80"]) + "env = { A = \"1\" }\n"),
    );
    host.until("followed", |s| {
        s.converged
            && s.containers
                .iter()
                .any(|c| c.name == "side" && c.pid.is_some() && c.pid != before.pid)
    });
    assert!(!inside(&host, "side", "wget -qO- http://127.0.0.1/").is_empty());
}

#[test]
fn pids_and_ipc_can_be_shared() {
    let mut host = Host::new();
    host.write("owner.toml", &host.busybox_table("owner", "exec sleep 1001", ""));
    host.write(
        "side.toml",
        &host.busybox_table(
            "side",
            "exec sleep 1002",
            "pid = \"container:owner\"\nipc = \"container:owner\"\n",
        ),
    );
    host.start_agent();
    host.converge();
    let seen = inside(&host, "side", "ps -o args");
    assert!(
        seen.contains("sleep 1001") && seen.contains("sleep 1002"),
        "{seen}"
    );
    let ipc = |name| inside(&host, name, "readlink /proc/self/ns/ipc");
    assert_eq!(ipc("owner"), ipc("side"));
    // A pid namespace dies with its first process: whoever shares it is begun anew after it.
    host.wharf(["kill", "owner"]).ok();
    host.until("both again", |s| {
        s.converged
            && s.containers.iter().all(|c| c.pid.is_some())
            && s.containers.iter().any(|c| c.name == "owner" && c.restarts == 1)
    });
    let seen = inside(&host, "side", "ps -o args");
    assert!(
        seen.contains("sleep 1001") && seen.contains("sleep 1002"),
        "{seen}"
    );
}
