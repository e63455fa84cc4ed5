//! Events: every transition with its reason, kept over restarts of the agent.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use model::event::Event;
use model::status::State;
use tests::Host;

fn events(host: &Host, more: &[&str]) -> Vec<Event> {
    let said = host.wharf([&["events", "--json"], more].concat()).ok().stdout;
    said.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn until_event(host: &Host, kind: &str, name: &str, what: &str, reason: &str) -> Event {
    let is = |e: &Event| {
        (e.kind.as_str(), e.name.as_str(), e.what.as_str()) == (kind, name, what) && e.reason.contains(reason)
    };
    host.until(&format!("event {kind} {name} {what}: {reason}"), |_| {
        events(host, &[]).iter().any(is)
    });
    events(host, &[]).into_iter().find(is).unwrap()
}

#[test]
fn a_containers_life_is_told_with_reasons() {
    let mut host = Host::new();
    host.start_agent();
    let table = |more: &str| host.busybox_table("box", "exec sleep 1000", more);
    host.write("box.toml", &table(""));
    host.converge();
    until_event(&host, "agent", "wharf", "start", "version");
    until_event(&host, "network", "default", "apply", "a container uses it");
    until_event(&host, "container", "box", "create", "is declared (box.toml:1)");
    until_event(&host, "container", "box", "start", "run 1");
    host.wharf(["pause", "box"]).ok();
    host.wharf(["unpause", "box"]).ok();
    until_event(&host, "container", "box", "pause", "");
    until_event(&host, "container", "box", "unpause", "");
    host.wharf(["kill", "box"]).ok();
    let died = until_event(&host, "container", "box", "die", "signal 9");
    assert_eq!(died.attributes["exitCode"], "137");
    until_event(&host, "container", "box", "start", "restarted by its policy");
    host.wharf(["stop", "box"]).ok();
    host.until_state("box", State::Stopped);
    until_event(&host, "container", "box", "hold", "");
    host.wharf(["start", "box"]).ok();
    host.converge();
    until_event(&host, "container", "box", "release", "");
    host.write("box.toml", &table("env = { A = \"1\" }\n"));
    until_event(&host, "container", "box", "replace", "took the place of");
    host.write("broken.toml", "[container.x\n");
    until_event(&host, "config", "broken.toml:1:13", "error", "");
    host.remove_all();
    host.until("gone", |s| s.containers.is_empty() && s.converged);
    until_event(&host, "container", "box", "gone", "its table is gone");
    until_event(&host, "container", "box", "remove", "its table is gone");
    until_event(&host, "network", "default", "remove", "");
}

#[test]
fn they_are_kept_over_restarts_and_asked_for_by_time() {
    let mut host = Host::new();
    host.start_agent();
    host.write("box.toml", &host.busybox_table("box", "exec sleep 1000", ""));
    host.converge();
    let before = events(&host, &[]);
    host.kill_agent();
    let path = host.state_dir().join("events.jsonl");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // A power cut in the middle of a line.
    let mut text = fs::read_to_string(&path).unwrap();
    text.push_str("{\"time\":\"2026-");
    fs::write(&path, text).unwrap();
    host.start_agent();
    host.converge();
    let after = events(&host, &[]);
    assert_eq!(after[..before.len()], before);
    let started: Vec<&Event> = after
        .iter()
        .filter(|e| e.kind == "agent" && e.what == "start")
        .collect();
    assert_eq!(started.len(), 2);
    let middle = started[1].time.to_string();
    let since = events(&host, &["--since", &middle]);
    assert_eq!((&since[0], since.len()), (started[1], after.len() - before.len()));
    assert_eq!(events(&host, &["--until", &middle]), before);
}
