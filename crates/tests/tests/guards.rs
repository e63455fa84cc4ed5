//! Guards: an empty config dir in the place of another one, holds, names that are somebody else's, and forwarding that is
//! for wharf's own networks alone.
#![allow(clippy::unwrap_used)]

use std::fs;

use model::status::{State, Status};
use tests::client::pids;
use tests::namespace::{Duty, Namespace};
use tests::{From, Host};

fn with_web() -> Host {
    let mut host = Host::new();
    host.write("web.toml", &host.hello_table("web", &["8080:80"]));
    host.start_agent();
    host.converge();
    host
}

fn replace_config_dir(host: &Host) {
    fs::rename(host.config_dir(), host.dir().join("aside")).unwrap();
    fs::create_dir(host.config_dir()).unwrap();
}

fn is_held(status: &Status) -> bool {
    let told = |e: &model::diagnostic::Diagnostic| {
        e.message.contains("another directory") || e.message.contains("does not exist")
    };
    status.errors.iter().any(told)
}

/// Held, whatever is asked, for longer than anything takes to be removed.
fn assert_held(host: &Host, pid: u32) {
    let held = host.until("held", is_held);
    for _ in 0..3 {
        host.wharf(["reload"]).ok();
    }
    assert_eq!(pids(&held)["web"], pid);
    assert_eq!(pids(&host.status())["web"], pid);
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
}

#[test]
fn another_directory_without_files_is_held_over_restarts_and_boots_until_it_is_said_to_be_meant() {
    let mut host = with_web();
    let pid = host.container("web").pid.unwrap();
    replace_config_dir(&host);
    assert_held(&host, pid);
    host.kill_agent();
    host.start_agent();
    assert_held(&host, pid);
    host.reboot();
    host.start_agent();
    let up = host.until("up again", |s| is_held(s) && pids(s).contains_key("web"));
    assert_held(&host, pids(&up)["web"]);
    host.wharf(["reload", "--accept-empty"]).ok();
    host.until("gone", |s| {
        s.containers.is_empty() && s.converged && s.errors.is_empty()
    });
    // From now on this is the directory.
    host.write("web.toml", &host.hello_table("web", &["8080:80"]));
    host.converge();
    host.remove("web.toml");
    host.until("gone", |s| s.containers.is_empty() && s.converged);
}

#[test]
fn a_missing_directory_is_held_until_it_is_said_to_be_meant() {
    let mut host = with_web();
    let pid = host.container("web").pid.unwrap();
    fs::remove_dir_all(host.config_dir()).unwrap();
    assert_held(&host, pid);
    host.kill_agent();
    host.start_agent();
    assert_held(&host, pid);
    host.wharf(["reload", "--accept-empty"]).ok();
    host.until("gone", |s| s.containers.is_empty() && s.converged);
    fs::create_dir(host.config_dir()).unwrap();
    host.write("web.toml", &host.hello_table("web", &["8080:80"]));
    host.wharf(["reload"]).ok();
    host.converge();
}

#[test]
fn files_that_come_back_end_the_hold() {
    let host = with_web();
    let pid = host.container("web").pid.unwrap();
    replace_config_dir(&host);
    assert_held(&host, pid);
    fs::remove_dir(host.config_dir()).unwrap();
    fs::rename(host.dir().join("aside"), host.config_dir()).unwrap();
    let status = host.converge();
    assert!(status.errors.is_empty());
    assert_eq!(pids(&status)["web"], pid);
}

#[test]
fn a_directory_that_is_unmounted_or_untrusted_is_held() {
    let host = with_web();
    let pid = host.container("web").pid.unwrap();
    let dir = host.config_dir().display().to_string();
    host.ns.sh(&format!("mount -t tmpfs -o mode=0755 none {dir}"));
    assert_held(&host, pid);
    host.ns.sh(&format!("umount {dir}"));
    host.converge();
    host.ns.sh(&format!("chmod 0777 {dir}"));
    host.until("refused", |s| {
        s.errors
            .iter()
            .any(|e| e.message.contains("writable by everybody"))
    });
    assert_eq!(pids(&host.status())["web"], pid);
    host.ns.sh(&format!("chmod 0755 {dir}"));
    assert_eq!(pids(&host.converge())["web"], pid);
}

#[test]
fn the_last_file_deleted_after_a_boot_is_a_wish() {
    let mut host = with_web();
    host.reboot();
    host.start_agent();
    host.converge();
    host.remove("web.toml");
    host.until("gone", |s| {
        s.containers.is_empty() && s.converged && s.errors.is_empty()
    });
}

#[test]
fn a_hold_lasts_over_a_boot() {
    let mut host = with_web();
    host.wharf(["stop", "web"]).ok();
    host.until_state("web", State::Stopped);
    host.reboot();
    host.start_agent();
    let status = host.converge();
    assert_eq!(status.containers[0].state, State::Stopped);
    assert!(status.containers[0].hold.is_some());
    host.wharf(["start", "web"]).ok();
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
}

#[test]
fn a_change_of_its_table_ends_a_hold_and_the_same_table_spelled_otherwise_does_not() {
    let mut host = with_web();
    host.wharf(["stop", "web"]).ok();
    let web = host.hello_table("web", &["8080:80"]);
    host.write("web.toml", &format!("# It is to rest.\n{web}\n"));
    host.wharf(["reload"]).ok();
    assert_eq!(host.container("web").state, State::Stopped);
    host.kill_agent();
    host.start_agent();
    assert_eq!(host.converge().containers[0].state, State::Stopped);
    host.write("web.toml", &(web + "stop_grace_period = \"3s\"\n"));
    let status = host.until("it runs", |s| s.converged && pids(s).contains_key("web"));
    assert!(status.containers[0].hold.is_none());
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
}

#[test]
fn names_that_are_somebody_elses_are_errors_that_say_whose() {
    let mut host = Host::new();
    host.ns
        .sh("ip link add taken type bridge; ip link add veiled type veth peer name veiled-peer");
    let listener = host
        .ns
        .command("busybox")
        .args(["nc", "-l", "-p", "9999"])
        .stdin(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let listener = Reaped(listener);
    let network = |name: &str, device: &str| format!("[network.{name}]\nbridge = \"{device}\"\n");
    host.write(
        "networks.toml",
        &(network("one", "taken") + &network("two", "veiled")),
    );
    host.write("web.toml", &host.hello_table("web", &["9999:80"]));
    host.start_agent();
    let status = host.until("told", |s| {
        s.networks.iter().filter(|n| n.error.is_some()).count() == 2
            && s.containers.iter().any(|c| c.error.is_some())
    });
    let error = |name: &str| -> String {
        let found = status.networks.iter().find(|n| n.name == name).unwrap();
        found.error.clone().unwrap()
    };
    assert!(
        error("one").contains("bridge taken is there already and is not wharf's"),
        "{status:#?}"
    );
    assert!(
        error("two").contains("veth veiled is there already and is not wharf's"),
        "{status:#?}"
    );
    let pid = listener.0.id();
    let told = status.containers[0].error.as_ref().unwrap();
    assert!(
        told.contains(&format!("process {pid} (busybox)")) && told.contains("9999"),
        "{told}"
    );
    assert!(
        host.ns.sh("ip -o link").contains("taken"),
        "nothing foreign is touched"
    );
    drop(listener);
    host.until("started", |s| pids(s).contains_key("web"));
}

/// Ended and waited for.
struct Reaped(std::process::Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What a bridge passes on comes to the packet filter as if it were forwarded, where the kernel is told so.
#[test]
fn somebody_elses_bridge_goes_on_while_forwarding_is_for_ours_alone() {
    let mut host = Host::new();
    let settings = "/proc/sys/net/ipv4/ip_forward /proc/sys/net/bridge/bridge-nf-call-iptables";
    host.ns.sh(&format!("set -- {settings}; echo 0 >$1; echo 1 >$2"));
    host.write("web.toml", &host.hello_table("web", &["8080:80"]));
    host.start_agent();
    host.converge();
    assert_eq!(host.ns.sh(&format!("cat {settings}")), "1\n1\n");
    // Made while the agent runs.
    host.ns
        .sh("ip link add virbr0 type bridge forward_delay 0; ip link set virbr0 up");
    let guests = ["one", "two"].map(|name| Namespace::new(name, &Duty::default()));
    for (n, guest) in (1..).zip(&guests) {
        host.ns.sh(&format!(
            "ip link add vnet{n} type veth peer name eth0 netns /proc/{}/ns/net; ip link set vnet{n} master virbr0 up",
            guest.pid()
        ));
        guest.sh(&format!(
            "ip addr add 198.51.100.{n}/24 dev eth0; ip link set eth0 up"
        ));
    }
    let known = || {
        host.ns
            .sh("nft list set inet wharf bridges_of_others")
            .contains("virbr0")
    };
    host.until("the bridge is known", |_| known());
    guests[0].sh("busybox ping -c1 -W10 198.51.100.2");
    host.ns.sh("ip link del virbr0");
    host.until("the bridge is forgotten", |s| s.converged && !known());
    assert_eq!(
        host.http_get(From::Neighbour, "http://192.0.2.1:8080/").status,
        200
    );
}
