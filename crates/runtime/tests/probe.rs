//! Probes, and what follows from health.

#![allow(clippy::unwrap_used)] // a test that cannot go on should panic

mod shimhost;

use std::fs;
use std::time::{Duration, Instant};

use model::action::Instance;
use model::health::OUTPUT;
use model::observed::Phase;
use model::spec::{NetworkMode, Probe, RestartPolicy};
use runtime::shim::protocol::{Answer, Command, Request};
use shimhost::{Host, busybox};

const LONG: Duration = Duration::from_secs(60);

fn shell(script: &str) -> Probe {
    Probe::Shell(script.to_owned())
}

fn http(port: u16, path: &str, status: &[u16]) -> Probe {
    Probe::Http {
        port,
        path: path.to_owned(),
        status: status.to_vec(),
        host: "127.0.0.1".to_owned(),
    }
}

/// Probes until it is healthy or not, as asked: a server takes a moment to listen.
fn until(host: &Host, i: &Instance, probe: &Probe, healthy: bool) -> String {
    let give_up = Instant::now() + Duration::from_secs(120);
    loop {
        let result = host.runtime.probe(&i.id, 1, probe, LONG);
        if result.healthy == healthy {
            return result.output;
        }
        assert!(Instant::now() < give_up, "{probe:?}: {}", result.output);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_program_says_how_it_is() {
    let host = Host::new();
    let i = busybox(&host, "asked", "exec sleep 100000");
    host.start(&i);
    host.running(&i);
    let ask = |probe: &Probe, timeout| {
        let result = host.runtime.probe(&i.id, 1, probe, timeout);
        (result.healthy, result.output)
    };
    assert_eq!(ask(&shell("echo well"), LONG), (true, "well\n".to_owned()));
    let (healthy, output) = ask(&shell("echo ill; echo badly >&2; exit 3"), LONG);
    assert!(!healthy && output.starts_with("exit code 3: "), "{output}");
    assert!(output.contains("ill\n") || output.ends_with("ill"), "{output}");
    let args = ["cat", "/etc/passwd"].map(str::to_owned).to_vec();
    assert!(ask(&Probe::Exec(args), LONG).1.starts_with("root:"));
    let (healthy, output) = ask(&Probe::Exec(vec!["nothing".to_owned()]), LONG);
    assert!(
        !healthy && output.contains("\"nothing\" was not found"),
        "{output}"
    );
    let (healthy, output) = ask(&shell("echo hm; sleep 100000"), Duration::from_millis(300));
    assert!(!healthy && output.contains("no answer within 300ms"), "{output}");

    // Its beginning is kept, and a stream that somebody holds open is not waited for; who does is killed.
    let (healthy, output) = ask(&shell("yes | head -c 1000000; sleep 100000 & exit 0"), LONG);
    assert!(healthy && output.len() == OUTPUT, "{}", output.len());
    let group = host
        .cgroups()
        .into_iter()
        .find(|dir| dir.ends_with("payload"))
        .unwrap();
    let give_up = Instant::now() + LONG;
    loop {
        let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap();
        if procs.lines().count() == 1 {
            break;
        }
        assert!(Instant::now() < give_up, "{procs}");
        std::thread::sleep(Duration::from_millis(10));
    }

    let stale = host.runtime.probe(&i.id, 2, &shell("exit 0"), LONG);
    assert!(
        !stale.healthy && stale.output.contains("run 2"),
        "{}",
        stale.output
    );
    host.runtime.stop(&i.id, "KILL", LONG).unwrap();
    for probe in [shell("exit 0"), Probe::Tcp(80), http(80, "/", &[200])] {
        let result = host.runtime.probe(&i.id, 1, &probe, LONG);
        assert!(
            !result.healthy && result.output == "it is not running",
            "{}",
            result.output
        );
    }
}

#[test]
fn a_server_is_asked_in_its_own_network() {
    let host = Host::new();
    let script = "mkdir -p /www/cgi-bin; echo hello > /www/file; printf '#!/bin/sh\\necho Status: 503; echo; echo tired\\n' > /www/cgi-bin/ill; chmod +x /www/cgi-bin/ill; httpd -p 80 -h /www; nc -ll -p 81 -e sleep 100000 & while :; do echo SSH-2.0-x | nc -l -p 82; done";
    let i = busybox(&host, "server", script);
    let before = fs::read_link("/proc/self/ns/net").unwrap();
    host.start(&i);
    assert_eq!(until(&host, &i, &Probe::Tcp(80), true), "");
    assert_eq!(
        until(&host, &i, &http(80, "/file", &[200, 204]), true),
        "HTTP status 200"
    );
    assert_eq!(
        until(&host, &i, &http(80, "file", &[200]), true),
        "HTTP status 200"
    );
    assert!(until(&host, &i, &http(80, "/none", &[200]), false).starts_with("HTTP status 404"));
    until(&host, &i, &http(80, "/none", &[404]), true);
    let output = until(&host, &i, &http(80, "/cgi-bin/ill", &[200]), false);
    assert!(
        output.starts_with("HTTP status 503") && output.contains("tired"),
        "{output}"
    );
    // A directory without a slash is answered with a redirect, which is not followed.
    assert!(until(&host, &i, &http(80, "/cgi-bin", &[200]), false).starts_with("HTTP status"));
    let refused = until(&host, &i, &Probe::Tcp(9999), false);
    assert!(
        refused.contains("127.0.0.1:9999") && refused.contains("refused"),
        "{refused}"
    );
    until(&host, &i, &Probe::Tcp(81), true);
    let silent = host
        .runtime
        .probe(&i.id, 1, &http(81, "/", &[200]), Duration::from_millis(300));
    assert!(
        !silent.healthy && silent.output.contains("no answer within 300ms"),
        "{}",
        silent.output
    );
    // Any failure but "it is no HTTP" is the listener not being there yet.
    let give_up = Instant::now() + Duration::from_secs(120);
    while !host
        .runtime
        .probe(&i.id, 1, &http(82, "/", &[200]), LONG)
        .output
        .contains("does not speak HTTP")
    {
        assert!(Instant::now() < give_up);
    }
    assert_eq!(fs::read_link("/proc/self/ns/net").unwrap(), before);
}

#[test]
fn in_the_hosts_network_the_host_is_asked() {
    // The test's own host: a namespace whose loopback is up.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let host = Host::new();
    let i = busybox(&host, "hosted", "exec sleep 100000");
    host.start(&i);
    host.running(&i);
    assert!(
        !host.runtime.probe(&i.id, 1, &Probe::Tcp(port), LONG).healthy,
        "not from its own"
    );
    let mut other = busybox(&host, "hosts", "exec sleep 100000");
    other.spec.network_mode = NetworkMode::Host;
    host.start(&other);
    host.running(&other);
    assert!(host.runtime.probe(&other.id, 1, &Probe::Tcp(port), LONG).healthy);
}

/// A container whose health is asked, with a backoff long enough to be seen.
fn checked(host: &Host, name: &str, reset_after: Duration) -> Instance {
    let mut i = host.fake(name, &["/bin/sleep", "100000"]);
    i.spec.restart.policy = RestartPolicy::Always;
    i.spec.restart.backoff = Duration::from_secs(100_000);
    i.spec.restart.backoff_max = Duration::from_secs(100_000);
    i.spec.restart.reset_after = reset_after;
    let check = model::spec::Healthcheck {
        probe: Probe::Tcp(80),
        interval: LONG,
        timeout: LONG,
        retries: 1,
        start_period: Duration::ZERO,
        start_interval: LONG,
        on_failure: model::spec::OnFailure::Restart,
    };
    i.spec.healthcheck = model::spec::HealthcheckChoice::Declared(check);
    host.write_fake(&i);
    host.start(&i);
    host.running(&i);
    i
}

fn ended_ill(host: &Host, i: &Instance, run_no: u64) {
    host.runtime
        .restart_unhealthy(&i.id, run_no, "KILL", LONG)
        .unwrap();
    host.until(i, "the run has ended", |seen| {
        seen.last_exit.as_ref().is_some_and(|exit| exit.run_no == run_no)
    });
}

#[test]
fn only_time_spent_healthy_makes_a_run_a_good_one() {
    let host = Host::new();
    let short = Duration::from_millis(1);
    let i = checked(&host, "never", short);
    ended_ill(&host, &i, 1);
    host.until(&i, "the first restart, at once", |seen| {
        seen.run_no == 2 && matches!(seen.phase, Phase::Running { .. })
    });
    // Long enough, but never healthy: the backoff grows.
    std::thread::sleep(short * 5);
    ended_ill(&host, &i, 2);
    host.until(&i, "it waits", |seen| matches!(seen.phase, Phase::Backoff { .. }));
    // What is said of a run that is over does nothing.
    host.runtime.restart_unhealthy(&i.id, 1, "KILL", LONG).unwrap();
    host.runtime.tell_health(&i.id, 1, true).unwrap();
    host.until(&i, "both are counted", |seen| seen.restarts == 2);

    let i = checked(&host, "well", short);
    for run_no in 1..4 {
        host.until(&i, "the next run, at once", |seen| {
            seen.run_no == run_no && matches!(seen.phase, Phase::Running { .. })
        });
        host.runtime.tell_health(&i.id, run_no, true).unwrap();
        host.runtime.tell_health(&i.id, run_no, true).unwrap();
        std::thread::sleep(short * 5);
        host.runtime.tell_health(&i.id, run_no, false).unwrap();
        ended_ill(&host, &i, run_no);
    }
    let seen = host.until(&i, "the third is counted", |seen| seen.restarts >= 3);
    assert!(!seen.last_exit.unwrap().requested);

    // Well for a moment is not well for so long.
    let i = checked(&host, "briefly", LONG * 60);
    host.runtime.tell_health(&i.id, 1, true).unwrap();
    ended_ill(&host, &i, 1);
    host.until(&i, "the first restart, at once", |seen| seen.run_no == 2);
    host.running(&i);
    host.runtime.tell_health(&i.id, 2, true).unwrap();
    ended_ill(&host, &i, 2);
    host.until(&i, "it waits", |seen| matches!(seen.phase, Phase::Backoff { .. }));
}

#[test]
fn the_policy_may_leave_an_unhealthy_one_ended() {
    let host = Host::new();
    let i = host.fake("last", &["/bin/sleep", "100000"]);
    host.start(&i);
    host.running(&i);
    host.runtime.restart_unhealthy(&i.id, 7, "KILL", LONG).unwrap();
    host.running(&i);
    ended_ill(&host, &i, 1);
    let seen = host.exited(&i);
    assert_eq!((seen.restarts, seen.last_exit.unwrap().requested), (0, false));
    host.runtime.restart_unhealthy(&i.id, 1, "KILL", LONG).unwrap();
    host.runtime.tell_health(&i.id, 1, true).unwrap();
}

fn open_raw(path: &std::path::Path) -> std::os::fd::OwnedFd {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
    // Long paths do not fit an address: it is reached by a short one.
    let near = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(path, near.path().join("s")).unwrap();
    let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(near.path().join("s")).unwrap()).unwrap();
    socket
}

#[test]
fn a_newer_agents_word_is_refused_and_not_hung_up_on() {
    let host = Host::new();
    let i = host.fake("older", &["/bin/sleep", "100000"]);
    host.start(&i);
    host.running(&i);
    let reply = host.ask(
        &i,
        &Request::new(Command::Exec {
            deadline_ms: None,
            sweep: false,
        }),
    );
    assert!(
        matches!(reply.answer, Answer::Refused(_)),
        "no descriptors: {reply:?}"
    );
    let socket = open_raw(&host.files(&i).socket());
    let frame = br#"{"v":9,"command":{"levitate":{}}}"#;
    rustix::net::send(&socket, frame, rustix::net::SendFlags::empty()).unwrap();
    let reply = runtime::shim::protocol::receive(&socket).unwrap();
    assert!(
        matches!(&reply.answer, Answer::Refused(why) if why.contains("does not know")),
        "{reply:?}"
    );
}

#[test]
fn limits_are_put_on_before_the_payload_and_changed_beneath_it() {
    let host = Host::new();
    let mut i = busybox(&host, "limited", "exec sleep 100000");
    i.spec.limits.pids = Some(33);
    host.start(&i);
    host.running(&i);
    let most = || {
        let dirs = host.cgroups();
        let file = dirs
            .iter()
            .map(|dir| dir.join("pids.max"))
            .find(|f| f.to_string_lossy().contains("payload/") && f.exists());
        fs::read_to_string(file.unwrap()).unwrap().trim().to_owned()
    };
    assert_eq!(most(), "33");
    let mut policy = i.shim_policy();
    policy.rev = 2;
    policy.limits.pids = Some(44);
    host.runtime.update(&i.id, &policy).unwrap();
    assert_eq!((most().as_str(), host.look(&i).rev), ("44", 2));
    policy.rev = 3;
    policy.limits.pids = Some(55);
    policy.limits.cpuset = Some("4000".to_owned());
    let refused = host.runtime.update(&i.id, &policy).unwrap_err();
    assert!(refused.to_string().contains("4000"), "{refused}");
    assert_eq!((most().as_str(), host.look(&i).rev), ("44", 2));
}
