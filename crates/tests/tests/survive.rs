//! It survives: the agent's death, a shim's, a power cut; and clean removal leaves nothing.
#![allow(clippy::unwrap_used)]

use model::status::State;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::client::pids;
use tests::leaks::Snapshot;
use tests::{From, Host, process, survey};

/// A host with two containers, one of them with ports, and its snapshot at rest before.
fn with_two() -> (Host, Snapshot) {
    let mut host = Host::new();
    host.start_agent();
    host.converge();
    let rest = Snapshot::take(&host);
    host.write("web.toml", &host.hello_table("web", &["8080:80", "8080:80/udp"]));
    host.write("two.toml", &host.hello_table("two", &[]));
    host.converge();
    (host, rest)
}

#[test]
fn killing_the_agent_stops_nothing_and_the_next_one_takes_all_back() {
    let (mut host, _) = with_two();
    let before = host.status();
    for _ in 0..3 {
        host.kill_agent();
        host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
        host.http_get(From::Host, "http://127.0.0.1:8080/");
        host.start_agent();
        let after = host.converge();
        assert_eq!(pids(&before), pids(&after));
        assert_eq!(
            before.containers, after.containers,
            "not even a time or a count differs"
        );
    }
    assert_eq!(survey::orphans(&host, &host.status()), []);
}

#[test]
fn what_changed_while_the_agent_was_away_is_made_so() {
    let (mut host, rest) = with_two();
    let before = pids(&host.status());
    host.kill_agent();
    host.remove("two.toml");
    host.write("three.toml", &host.hello_table("three", &["8083:80"]));
    host.start_agent();
    host.until("two gone", |s| s.containers.len() == 2 && s.converged);
    assert_eq!(before["web"], pids(&host.status())["web"]);
    host.http_get(From::Neighbour, "http://192.0.2.1:8083/");
    host.remove_all();
    host.until("empty", |s| s.containers.is_empty() && s.converged);
    host.assert_no_leaks(&rest);
}

#[test]
fn a_payload_that_dies_is_started_again_with_or_without_an_agent() {
    let (mut host, _) = with_two();
    let before = host.container("web");
    kill(Pid::from_raw(before.pid.unwrap() as i32), Signal::SIGKILL).unwrap();
    let again = |s: &model::status::Status| {
        s.containers
            .iter()
            .any(|c| c.name == "web" && c.restarts == 1 && c.pid.is_some())
    };
    let after = host
        .until("restarted", again)
        .containers
        .into_iter()
        .find(|c| c.name == "web")
        .unwrap();
    assert_ne!(before.pid, after.pid);
    assert_eq!((&before.id, &before.networks), (&after.id, &after.networks));
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    host.kill_agent();
    kill(Pid::from_raw(after.pid.unwrap() as i32), Signal::SIGKILL).unwrap();
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    host.start_agent();
    assert_eq!(host.until_state("web", State::Running).restarts, 2);
}

#[test]
fn a_killed_shim_is_cleaned_up_after_and_its_container_comes_back() {
    let (host, rest) = with_two();
    let shim = process::of_host(&host.run_dir(), host.cgroup_parent())
        .into_iter()
        .find(|p| p.command.contains("wharf shim") && p.command.contains("web"))
        .expect("the shim shows as `wharf shim web`");
    let before = host.container("web");
    kill(Pid::from_raw(shim.pid as i32), Signal::SIGKILL).unwrap();
    host.until("another pid", |s| {
        s.converged && pids(s).get("web").is_some_and(|p| Some(*p) != before.pid)
    });
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    assert_eq!(survey::orphans(&host, &host.status()), []);
    host.remove_all();
    host.until("empty", |s| s.containers.is_empty() && s.converged);
    host.assert_no_leaks(&rest);
}

#[test]
fn after_a_power_cut_everything_runs_again() {
    let (mut host, _) = with_two();
    let before = host.container("web");
    host.reboot();
    host.start_agent();
    host.converge();
    let after = host.container("web");
    assert_eq!(before.networks, after.networks, "addresses are leases, they last");
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    assert_eq!(survey::orphans(&host, &host.status()), []);
}

#[test]
fn a_hold_lasts_over_a_restart_of_the_agent() {
    let (mut host, _) = with_two();
    host.wharf(["stop", "web"]).ok();
    host.until_state("web", State::Stopped);
    host.kill_agent();
    host.start_agent();
    let status = host.converge();
    assert_eq!(
        status.containers.iter().find(|c| c.name == "web").unwrap().state,
        State::Stopped
    );
    host.wharf(["start", "web"]).ok();
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
}

#[test]
fn what_is_broken_behind_its_back_is_put_right() {
    let (host, _) = with_two();
    let before = pids(&host.status());
    host.ns
        .sh("nft flush ruleset || true; nft delete table inet wharf 2>/dev/null || true");
    host.wharf(["reload"]).ok();
    host.converge();
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    let bridge = host.status().networks[0].device.clone();
    host.ns.sh(&format!("ip link set {bridge} down"));
    host.wharf(["reload"]).ok();
    host.converge();
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    assert_eq!(before, pids(&host.status()), "no container was touched for it");
}

#[test]
fn a_second_agent_is_refused_with_the_first_ones_pid() {
    let mut host = Host::new();
    host.start_agent();
    let first = host.agent_pid().unwrap();
    let second = host
        .wharf_command()
        .args(["agent", "--settings"])
        .arg(host.settings())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains(&first.to_string()), "{said}");
}

#[test]
fn two_hosts_do_not_disturb_each_other() {
    let (one, _) = with_two();
    let (mut two, _) = with_two();
    two.remove_all();
    two.until("empty", |s| s.containers.is_empty() && s.converged);
    two.stop_agent();
    drop(two);
    one.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    assert_eq!(one.status().containers.len(), 2);
}
