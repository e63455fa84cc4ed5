//! Health: probes of all kinds, what a verdict does, and that it outlives the agent.
#![allow(clippy::unwrap_used)]

use model::status::{State, Status};
use serde_json::json;
use tests::images::busybox;
use tests::{Host, process};

/// Healthy while `/tmp/ok` is there.
const CHECK: &str =
    "exec = [\"test\", \"-e\", \"/tmp/ok\"]\ninterval = \"50ms\"\nstart_interval = \"50ms\"\nretries = 2\n";

fn checked(host: &Host, line: &str, check: &str) -> String {
    host.busybox_table("web", line, &format!("[container.web.healthcheck]\n{check}"))
}

/// A host whose container `web` has this check, and runs.
fn host_with(line: &str, check: &str) -> Host {
    let mut host = Host::new();
    host.write("web.toml", &checked(&host, line, check));
    host.start_agent();
    host.until_state("web", State::Running);
    host
}

fn is(health: &'static str) -> impl Fn(&Status) -> bool {
    move |s| s.containers.iter().any(|c| c.name == "web" && c.health == health)
}

fn touch(host: &Host) {
    host.wharf(["exec", "web", "touch", "/tmp/ok"]).ok();
}

#[test]
fn it_is_starting_until_a_probe_succeeds_and_wait_waits() {
    let host = host_with("exec sleep 1000", &format!("{CHECK}start_period = \"10m\"\n"));
    assert_eq!(host.container("web").health, "starting");
    let early = host.wharf(["wait", "web", "--timeout", "300ms"]);
    assert_eq!(early.code, 3, "{early:?}");
    assert!(early.stderr.contains("starting"), "{early:?}");
    assert!(!host.status().converged);
    touch(&host);
    host.wait_for("web");
    let web = host.container("web");
    assert_eq!((web.health.as_str(), web.restarts), ("healthy", 0));
    assert!(host.converge().converged);
}

#[test]
fn failed_health_restarts_it_counted_until_it_is_well() {
    let host = host_with("exec sleep 1000", CHECK);
    let before = host.until_state("web", State::Running);
    let ill = host.until("restarted for its health", |s| s.containers[0].restarts >= 2);
    assert_ne!(ill.containers[0].pid, before.pid);
    assert_eq!(ill.containers[0].id, before.id.clone());
    assert!(!ill.converged);
    // It may be between two runs.
    host.until("touched", |_| {
        host.wharf(["exec", "web", "touch", "/tmp/ok"]).code == 0
    });
    host.until("well", is("healthy"));
    let well = host.converge();
    assert!(!process::alive(before.pid.unwrap()));
    let events = host.wharf(["events"]).ok().stdout;
    assert!(events.contains("unhealthy"), "{events}");
    assert!(well.containers[0].restarts >= 2);
}

#[test]
fn failed_health_may_hold_it() {
    let host = host_with(
        "touch /tmp/ok; exec sleep 1000",
        &format!("{CHECK}on_failure = \"stop\"\n"),
    );
    host.until("healthy", is("healthy"));
    host.wharf(["exec", "web", "rm", "/tmp/ok"]).ok();
    let held = host.until_state("web", State::Stopped);
    assert!(held.hold.unwrap().contains("health"), "says why");
    host.until("converged: a hold is where it should be", |s| s.converged);
    host.wharf(["start", "web"]).ok();
    host.until("healthy again", is("healthy"));
}

#[test]
fn failed_health_may_be_shown_only() {
    let host = host_with(
        "touch /tmp/ok; exec sleep 1000",
        &format!("{CHECK}on_failure = \"none\"\n"),
    );
    host.until("healthy", is("healthy"));
    let before = host.container("web").pid;
    host.wharf(["exec", "web", "rm", "/tmp/ok"]).ok();
    host.until("unhealthy", is("unhealthy"));
    let seen = host.status();
    assert_eq!((seen.containers[0].pid, seen.converged), (before, false));
    assert_eq!(host.wharf(["wait", "web", "--timeout", "100ms"]).code, 3);
    touch(&host);
    host.until("healthy again", is("healthy"));
    assert_eq!(host.container("web").pid, before);
}

#[test]
fn http_tcp_and_shell_are_asked_inside() {
    let mut host = Host::new();
    let check = |name: &str, check: &str| {
        format!(
            "[container.{name}]\nimage = {:?}\nhealthcheck = {{ {check}, interval = \"50ms\", retries = 1, on_failure = \"none\" }}\n",
            host.hello_image()
        )
    };
    let all = check("a", "http = { port = 80 }")
        + &check("b", "http = { port = 80, path = \"/x\", status = [204] }")
        + &check("c", "tcp = 80")
        + &check("d", "tcp = 81")
        + &check("e", "exec = [\"/not-there\"]");
    host.write("all.toml", &all);
    host.start_agent();
    for (name, health) in [
        ("a", "healthy"),
        ("b", "unhealthy"),
        ("c", "healthy"),
        ("d", "unhealthy"),
        ("e", "unhealthy"),
    ] {
        let seen = |s: &Status| s.containers.iter().any(|c| c.name == name && c.health == health);
        host.until(&format!("{name} {health}"), seen);
    }
    let why = host.wharf(["wait", "b", "--timeout", "10ms"]);
    assert!(why.stderr.contains("unhealthy"), "{why:?}");
}

#[test]
fn an_images_check_counts_unless_it_is_turned_off() {
    let mut host = Host::new();
    let image = busybox().cmd(&["sleep", "1000"]).set(
        "Healthcheck",
        json!({ "Test": ["CMD-SHELL", "test -e /bin/sh"], "Interval": 50_000_000 }),
    );
    let image = host.oci_dir("checked", &image);
    host.write(
        "all.toml",
        &format!("[container.web]\nimage = {image:?}\nstop_signal = \"SIGKILL\"\n[container.off]\nimage = {image:?}\nstop_signal = \"SIGKILL\"\nhealthcheck = false\n"),
    );
    host.start_agent();
    let status = host.converge();
    let health: Vec<(&str, &str)> = status
        .containers
        .iter()
        .map(|c| (c.name.as_str(), c.health.as_str()))
        .collect();
    assert_eq!(health, [("off", "none"), ("web", "healthy")]);
}

#[test]
fn a_verdict_outlives_the_agent_and_not_the_check() {
    let mut host = host_with("touch /tmp/ok; exec sleep 1000", CHECK);
    host.until("healthy", is("healthy"));
    let before = host.container("web");
    host.kill_agent();
    host.start_agent();
    let after = host.container("web");
    assert_eq!((after.health.as_str(), after.pid), ("healthy", before.pid));
    // Another check begins anew, on the running container.
    host.write(
        "web.toml",
        &checked(
            &host,
            "touch /tmp/ok; exec sleep 1000",
            "exec = [\"false\"]\nstart_period = \"10m\"\n",
        ),
    );
    host.until("starting", is("starting"));
    assert_eq!(host.container("web").pid, before.pid);
}

#[test]
fn a_crash_loop_shows_what_it_said_last() {
    let host = {
        let mut host = Host::new();
        let web = host.busybox_table("web", "echo bind: Address already in use >&2; exit 3", "");
        host.write("web.toml", &web);
        host.start_agent();
        host
    };
    host.until("its last words are shown", |s| {
        let web = &s.containers[0];
        let words = |e: &String| e.contains("Address already in use") && e.contains('3');
        web.state == State::Backoff && web.error.as_ref().is_some_and(words)
    });
    // It may be running again for a moment.
    host.until("said in the table too", |_| {
        let text = host.wharf(["status"]).stdout;
        text.contains("Address already in use")
    });
}
