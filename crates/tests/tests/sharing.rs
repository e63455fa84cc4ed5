//! Shared namespaces over changes of their owner: who lives in them is stopped before it is, and begins again after it.
#![allow(clippy::unwrap_used)]

use model::status::{State, Status};
use serde_json::Value;
use tests::Host;
use tests::client::{pids, row};

/// Told to stop, it asks its owner's server for a page, and writes down whether there was one.
const LAST_QUESTION: &str = "trap 'wget -qO- http://127.0.0.1/ >/dev/null && echo served; exit 0' TERM; echo ready; while true; do sleep 0.05; done";

fn owner(host: &Host, more: &str) -> String {
    host.hello_table("owner", &["8080:80"])
        + more
        + "\n[container.owner.update]\nstrategy = \"start-first\"\n"
}

/// `owner` that serves a page, and `side` in its network.
fn pair() -> Host {
    let mut host = Host::new();
    host.write("owner.toml", &owner(&host, ""));
    let side = host.busybox_table("side", LAST_QUESTION, "network_mode = \"container:owner\"\n");
    let side = side.replace("stop_signal = \"SIGKILL\"", "stop_signal = \"SIGTERM\"");
    host.write("side.toml", &side);
    host.start_agent();
    host.converge();
    // Whoever is stopped before that is stopped without its last question.
    host.until("it has set its trap", |_| said(&host).contains("ready"));
    host
}

fn said(host: &Host) -> String {
    host.wharf(["logs", "side"]).ok().stdout
}

fn served(host: &Host) -> usize {
    said(host).lines().filter(|line| *line == "served").count()
}

fn reaches_its_owner(host: &Host) {
    let page = host
        .wharf(["exec", "side", "wget", "-qO-", "http://127.0.0.1/"])
        .ok();
    assert!(!page.stdout.is_empty());
}

fn another(status: &Status, before: &Status, name: &str) -> bool {
    let pid = row(status, name).pid;
    pid.is_some() && pid != row(before, name).pid
}

#[test]
fn a_sharer_stops_while_its_owner_still_serves_and_follows_the_new_one() {
    let host = pair();
    let before = host.status();
    host.write("owner.toml", &owner(&host, "env = { A = \"1\" }"));
    host.until("both are others", |s| {
        s.converged && ["owner", "side"].iter().all(|name| another(s, &before, name))
    });
    assert_eq!(served(&host), 1, "{}", host.evidence());
    reaches_its_owner(&host);
    // A container in its namespaces cannot be in two: it is said why it was not started beside the old one.
    let events = host.wharf(["events", "--json"]).ok().stdout;
    let events: Vec<Value> = events.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let told = |e: &&Value| {
        e["name"] == "owner"
            && e["reason"]
                .as_str()
                .unwrap()
                .contains("container side lives in its")
    };
    assert!(events.iter().any(|e| told(&e)), "{events:#?}");
    // Their processes: what is left of each is cleared away side by side.
    let ends: Vec<&str> = events
        .iter()
        .filter(|e| e["kind"] == "container" && e["type"] == "die")
        .map(|e| e["name"].as_str().unwrap())
        .collect();
    assert_eq!(ends, ["side", "owner"]);
}

#[test]
fn an_owner_stopped_by_hand_takes_its_sharers_with_it_and_brings_them_back() {
    let host = pair();
    let before = host.status();
    host.wharf(["stop", "owner"]).ok();
    let held = host.until("both are stopped", |s| {
        row(s, "owner").state == State::Stopped && pids(s).is_empty()
    });
    assert_eq!(served(&host), 1, "{}", host.evidence());
    let why = row(&held, "side").error.clone().unwrap_or_default();
    assert!(why.contains("waits for container owner"), "{why}");
    let said = host.wharf(["plan"]);
    assert_eq!(said.code, 4);
    assert!(
        said.stdout.contains(
            "? container side: waits for container owner, whose namespaces it shares, which is to stay stopped"
        ),
        "{said:?}"
    );
    host.wharf(["start", "owner"]).ok();
    let after = host.converge();
    assert!(another(&after, &before, "side"));
    reaches_its_owner(&host);
}
