//! The main job: drop a file, a page answers. Every example of the repository runs here as it is written.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Command;

use model::status::State;
use tests::binary::{repository, wharf};
use tests::leaks::Snapshot;
use tests::{From, Host, http};

/// The example's image where the example says it is: on a machine of its own, below a /srv of its own.
fn with_quickstart_image() -> Host {
    let host = Host::new();
    host.ns.sh(&format!(
        "mount -t tmpfs srv /srv; mkdir /srv/quickstart; {}/examples/quickstart/make-image /srv/quickstart",
        repository().display()
    ));
    host
}

#[test]
fn the_quickstart_runs_as_written() {
    let mut host = with_quickstart_image();
    host.start_agent();
    host.converge();
    let rest = Snapshot::take(&host);
    host.write(
        "web.toml",
        &fs::read_to_string(repository().join("examples/quickstart/web.toml")).unwrap(),
    );
    host.wait_for("web");
    for (from, address) in [
        (From::Neighbour, "192.0.2.1"),
        (From::Host, "192.0.2.1"),
        (From::Host, "127.0.0.1"),
    ] {
        let page = host.http_get(from, &format!("http://{address}:8080/"));
        assert_eq!(page.status, 200);
        assert!(page.body.starts_with("hello from web\npid 1\n"), "{page:?}");
    }
    let web = host.container("web");
    assert_eq!(
        (web.state, web.restarts, web.file.as_deref()),
        (State::Running, 0, Some("web.toml"))
    );
    assert_eq!(
        web.ports
            .iter()
            .map(|p| (p.host, p.container))
            .collect::<Vec<_>>(),
        [(8080, 80)]
    );
    host.remove("web.toml");
    host.until("empty", |s| s.containers.is_empty());
    host.converge();
    host.assert_no_leaks(&rest);
    assert!(host.stop_agent().success());
}

#[test]
fn the_demo_fetches_its_page_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = Command::new(repository().join("demo"))
        .arg("--once")
        .env("WHARF_BIN", wharf())
        .env("TMPDIR", dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(said.contains("hello from web\npid 1\n"), "{said}");
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "its temporary directory is removed"
    );
}

#[test]
fn only_what_is_published_is_reachable_from_outside() {
    let mut host = Host::new();
    host.start_agent();
    let ports = [
        "8080:80",
        "127.0.0.1:8081:80",
        "192.0.2.1:8082:80",
        "9000-9002:80-82",
        "8083:80/udp",
    ];
    host.write("web.toml", &host.hello_table("web", &ports));
    host.wait_for("web");
    let web = host.container("web");
    let ip = web.networks.values().next().unwrap().ip.as_ref().unwrap();
    for port in [8080, 8082, 9000] {
        host.http_get(From::Neighbour, &format!("http://192.0.2.1:{port}/"));
    }
    host.http_get(From::Host, "http://127.0.0.1:8081/");
    host.http_get(From::Host, &format!("http://{ip}/"));
    assert!(
        http::ask_udp(&host.neighbour, "192.0.2.1:8083", "?")
            .unwrap()
            .starts_with("hello")
    );
    for closed in [
        "192.0.2.1:8081",
        "192.0.2.1:80",
        "192.0.2.1:8083",
        "192.0.2.1:9001",
    ] {
        assert!(!http::reaches(&host.neighbour, closed), "{closed}");
    }
    // A neighbour that routes the subnet to us gets nowhere either.
    let subnet = format!("{}.0/24", ip.rsplit_once('.').unwrap().0);
    host.neighbour.sh(&format!("ip route add {subnet} via 192.0.2.1"));
    assert!(
        !http::reaches(&host.neighbour, &format!("{ip}:80")),
        "the container's own address is closed from outside"
    );
}

#[test]
fn slow_nginx_of_others_tools_serves_its_page_from_both_archives() {
    let (oci, docker) = tests::images::nginx();
    let mut host = Host::new();
    host.start_agent();
    let table = |image: &str, port: u16| {
        format!("[container.nginx-{port}]\nimage = {image:?}\nports = [\"{port}:80\"]\n")
    };
    host.write(
        "oci.toml",
        &table(&format!("oci-archive:{}", oci.display()), 8080),
    );
    host.write(
        "docker.toml",
        &table(&format!("docker-archive:{}", docker.display()), 8081),
    );
    host.converge();
    for port in [8080, 8081] {
        let page = host.http_get(From::Neighbour, &format!("http://192.0.2.1:{port}/"));
        assert_eq!(
            (page.status, page.body.trim()),
            (200, "<h1>nginx from a Debian package</h1>")
        );
    }
}

#[test]
fn once_converges_and_leaves_the_containers_running() {
    let host = Host::new();
    host.write("web.toml", &host.hello_table("web", &["8080:80"]));
    let code = host.spawn_agent(&["--once"]).wait().unwrap().code();
    assert_eq!(code, Some(0), "{}", host.log_tail(60));
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
}

#[test]
fn a_container_in_the_hosts_network_and_one_without_any() {
    let mut host = Host::new();
    host.start_agent();
    let image = host.hello_image();
    host.write(
        "in.toml",
        &format!("[container.in]\nimage = {image:?}\nnetwork_mode = \"host\"\ncommand = [\"8070\"]\n"),
    );
    host.write(
        "none.toml",
        &format!("[container.none]\nimage = {image:?}\nnetwork_mode = \"none\"\n"),
    );
    host.wait_for("in");
    host.wait_for("none");
    host.http_get(From::Neighbour, "http://192.0.2.1:8070/");
    let links = host.ns.sh(&format!(
        "nsenter --net=/proc/{}/ns/net ip -o link",
        host.container("none").pid.unwrap()
    ));
    assert_eq!(links.lines().count(), 1, "the loopback alone: {links}");
}
