//! The checks are checked: a host is a machine of its own, leaves nothing, and the leak counter finds what is planted.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::images::{self, Compression, LayerBuilder};
use tests::leaks::{Kind, Snapshot};
use tests::{From, Host, cgroups, http, process};

/// A process that counts as the host's, in namespaces of its own where asked.
fn plant_process(host: &Host, unshare: &[&str]) -> Child {
    let mut command = host.ns.command("unshare");
    command
        .args(unshare)
        .args(["--", "sleep", "1000"])
        .env("WHARF_RUN_DIR", host.run_dir());
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    let there = || {
        process::of_host(&host.run_dir(), host.cgroup_parent())
            .iter()
            .any(|p| p.command == "sleep 1000")
    };
    for _ in 0..1000 {
        if there() {
            return child;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    panic!("`sleep` does not come up: {:?}", child.wait());
}

fn leaked(host: &Host, before: &Snapshot) -> Vec<(Kind, String)> {
    Snapshot::take(host)
        .since(before)
        .into_iter()
        .map(|t| (t.kind, t.what))
        .collect()
}

/// Exactly one thing was found, of this kind, and it says what it is.
#[track_caller]
fn assert_found(host: &Host, before: &Snapshot, kind: Kind, word: &str) {
    let found = leaked(host, before);
    assert!(
        found.iter().any(|(k, what)| *k == kind && what.contains(word)),
        "no {kind:?} with {word:?} in {found:#?}"
    );
}

fn at_rest() -> (Host, Snapshot) {
    let host = Host::new();
    let before = Snapshot::take(&host);
    assert_eq!(leaked(&host, &before), [], "a host at rest leaks nothing");
    (host, before)
}

#[test]
fn a_planted_process_is_found() {
    let (host, before) = at_rest();
    let mut child = plant_process(&host, &[]);
    assert_found(&host, &before, Kind::Process, "sleep 1000");
    assert!(
        leaked(&host, &before)
            .iter()
            .all(|(kind, _)| *kind == Kind::Process),
        "it is in no namespace of its own"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(leaked(&host, &before), []);
}

#[test]
fn a_planted_namespace_is_found_where_a_process_is_in_it() {
    let (host, before) = at_rest();
    let mut child = plant_process(&host, &["--net", "--ipc"]);
    assert_found(&host, &before, Kind::Namespace, "net:[");
    assert_found(&host, &before, Kind::Namespace, "ipc:[");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(leaked(&host, &before), []);
}

#[test]
fn a_planted_namespace_is_found_where_it_is_bound() {
    let (host, before) = at_rest();
    host.ns.sh(&format!(
        "touch {0}/ns; unshare --net={0}/ns true",
        host.dir().display()
    ));
    assert_found(&host, &before, Kind::Namespace, "net:[");
}

#[test]
fn a_planted_mount_is_found() {
    let (host, before) = at_rest();
    host.ns.sh("mount -t tmpfs none /mnt");
    assert_found(&host, &before, Kind::Mount, "/mnt tmpfs");
}

#[test]
fn a_planted_device_is_found() {
    let (host, before) = at_rest();
    host.ns.sh("ip link add wh-forgotten type bridge");
    assert_found(&host, &before, Kind::Device, "wh-forgotten");
}

#[test]
fn a_planted_cgroup_is_found_and_removed_with_the_host() {
    let (host, before) = at_rest();
    let mount = cgroups::mounts().into_iter().next().unwrap();
    let group = mount
        .join(host.cgroup_parent().trim_start_matches('/'))
        .join("web-0123456789ab/payload");
    fs::create_dir_all(&group).unwrap();
    assert_found(&host, &before, Kind::Cgroup, "web-0123456789ab/payload");
    drop(host);
    assert!(!group.parent().unwrap().exists());
}

#[test]
fn a_planted_firewall_element_chain_and_table_is_found() {
    let (host, before) = at_rest();
    host.ns
        .sh("nft 'add table inet t; add map inet t ports { type inet_service : ipv4_addr; }'");
    let before = {
        assert_found(&host, &before, Kind::Firewall, "ports");
        Snapshot::take(&host)
    };
    host.ns.sh("nft add element inet t ports '{ 8080 : 10.88.0.2 }'");
    assert_found(&host, &before, Kind::Firewall, "8080");
    host.ns
        .sh("nft 'delete element inet t ports { 8080 }; add chain inet t forgotten'");
    assert_found(&host, &before, Kind::Firewall, "forgotten");
}

#[test]
fn planted_files_are_found() {
    let (host, before) = at_rest();
    let places = [
        "run/containers/0123",
        "state/ledger.json.new",
        "state/store/tmp/x",
        "state/store/layers/y.tmp",
        "state/containers/z",
    ];
    for place in places {
        let path: PathBuf = host.dir().join(place);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        assert_found(&host, &before, Kind::File, place);
    }
    let found = leaked(&host, &before);
    fs::create_dir_all(host.state_dir().join("store/blobs/sha256/aa")).unwrap();
    assert_eq!(leaked(&host, &before), found, "what the store keeps is no leak");
}

#[test]
fn a_dropped_host_ends_its_processes_and_removes_its_files() {
    let host = Host::new();
    let (dir, run, parent) = (
        host.dir().to_owned(),
        host.run_dir(),
        host.cgroup_parent().to_owned(),
    );
    let mut child = plant_process(&host, &["--net", "--mount", "--pid", "--fork", "--kill-child"]);
    drop(host);
    child.wait().unwrap();
    assert!(!dir.exists());
    assert_eq!(process::of_host(&run, &parent), std::collections::BTreeSet::new());
}

#[test]
fn a_panicking_test_leaves_nothing_either() {
    let places = std::sync::Mutex::new(None);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let host = Host::new();
        drop(plant_process(&host, &["--net"]));
        *places.lock().unwrap() = Some((
            host.dir().to_owned(),
            host.run_dir(),
            host.cgroup_parent().to_owned(),
        ));
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    let (dir, run, parent) = places.into_inner().unwrap().unwrap();
    assert!(!dir.exists());
    assert_eq!(process::of_host(&run, &parent), std::collections::BTreeSet::new());
}

#[test]
fn an_error_line_fails_the_test_unless_it_was_expected() {
    let told = |expected: bool| {
        std::panic::catch_unwind(move || {
            let mut host = Host::new();
            fs::write(
                host.log_path(),
                "2026-01-01T00:00:00Z ERROR wharf: the sea is rough\n",
            )
            .unwrap();
            if expected {
                host.expect_error("the sea is rough");
            }
        })
    };
    assert!(told(false).is_err());
    assert!(told(true).is_ok());
}

#[test]
fn host_and_neighbour_talk_over_the_wire_and_with_nobody_else() {
    let host = Host::new();
    let mut server = host
        .ns
        .command(images::hello_program())
        .arg("8080")
        // Should this test fail, the host ends it: it holds the runner's standard error.
        .env("WHARF_RUN_DIR", host.run_dir())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    for (from, address) in [
        (From::Host, "127.0.0.1"),
        (From::Host, "192.0.2.1"),
        (From::Neighbour, "192.0.2.1"),
    ] {
        let page = host.http_get(from, &format!("http://{address}:8080/"));
        assert_eq!(page.status, 200);
        assert!(page.body.starts_with("hello from host\n"), "{page:?}");
    }
    let line = http::ask_udp(&host.neighbour, "192.0.2.1:8080", "?").unwrap();
    assert!(line.starts_with("hello from host, pid "), "{line}");
    assert!(!http::reaches(&host.neighbour, "192.0.2.1:8081"));
    assert!(
        host.ns.sh("ip -o link").lines().count() == 2,
        "loopback and the wire, nothing of the machine"
    );
    // SIGTERM ends it at once.
    kill(Pid::from_raw(server.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(0));
}

#[test]
fn images_made_here_are_images_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let gzip = LayerBuilder::new()
        .compressed(Compression::Gzip)
        .file("a", 0o644, b"a");
    let zstd = LayerBuilder::new()
        .compressed(Compression::Zstd)
        .file("b", 0o644, b"b");
    let image = images::busybox().layer(gzip).layer(zstd);
    image.oci_dir(&dir.path().join("layout"));
    image.oci_archive(&dir.path().join("oci.tar"));
    image.docker_archive(&dir.path().join("docker.tar"), "docker.io/library/busybox:test");
    for source in ["oci:layout", "oci-archive:oci.tar", "docker-archive:docker.tar"] {
        let out = Command::new("skopeo")
            .current_dir(dir.path())
            .args(["inspect", "--config", source])
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{source}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        let config: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(
            config["rootfs"]["diff_ids"].as_array().unwrap().len(),
            3,
            "{source}"
        );
    }
    let copy = Command::new("skopeo")
        .current_dir(dir.path())
        .args(["copy", "--insecure-policy", "oci:layout", "dir:copied"])
        .output()
        .unwrap();
    assert!(copy.status.success(), "{}", String::from_utf8_lossy(&copy.stderr));
}
