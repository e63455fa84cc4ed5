//! The shim with plain processes as payloads: what it promises whatever a container is made of.

#![allow(clippy::unwrap_used)] // a test that cannot go on should panic

mod shimhost;

use std::fs;
use std::time::Duration;

use model::observed::{Look, Phase};
use model::spec::{LogDriver, RestartPolicy};
use runtime::error::RuntimeError;
use runtime::shim::files::{lives, process};
use runtime::shim::protocol::{Answer, Command, Request, RestartCause};
use shimhost::{Host, NOTHING, kill, namespaces};

const LONG: Duration = Duration::from_secs(20);

fn sh(script: &str) -> [&str; 3] {
    ["/bin/sh", "-c", script]
}

#[test]
fn a_run_leaves_its_record_and_its_log() {
    let host = Host::new();
    let i = host.fake("job", &sh("echo one; echo two >&2; printf three; exit 7"));
    assert_eq!(host.look(&i).phase, Phase::Prepared);
    host.start(&i);
    let seen = host.exited(&i);
    let exit = seen.last_exit.unwrap();
    assert_eq!(
        (
            exit.run_no,
            exit.code,
            exit.signal,
            exit.requested,
            exit.oom_killed
        ),
        (1, 7, None, false, false)
    );
    assert!(exit.started_at <= exit.finished_at);
    // Its revision is the shim's, which may be on its way out yet.
    assert_eq!((seen.run_no, seen.restarts), (1, 0));
    let mut log = host.log(&i);
    log.sort();
    let line = |stream: &str, text: &str| (stream.to_owned(), text.to_owned());
    assert_eq!(
        log,
        [
            line("stderr", "two\n"),
            line("stdout", "one\n"),
            line("stdout", "three")
        ]
    );
    host.runtime.remove(&i.id, &i.name).unwrap();
    host.assert_gone(&i);
    host.runtime.remove(&i.id, &i.name).unwrap();
}

#[test]
fn a_payload_that_ends_is_restarted_as_the_policy_says() {
    let host = Host::new();
    let mut i = host.fake("crash", &sh("exit 3"));
    i.spec.restart.policy = RestartPolicy::Always;
    i.spec.restart.backoff = Duration::from_millis(1);
    host.write_fake(&i);
    host.start(&i);
    let seen = host.until(&i, "it was restarted often", |seen| seen.restarts >= 6);
    assert_eq!(seen.last_exit.as_ref().unwrap().code, 3);
    assert!(seen.run_no >= 6);

    // A policy that restarts no more ends it where it stands.
    let mut policy = i.shim_policy();
    policy.rev = 2;
    policy.restart.policy = RestartPolicy::No;
    host.runtime.update(&i.id, &policy).unwrap();
    let seen = host.exited(&i);
    assert_eq!(seen.last_exit.unwrap().code, 3);

    // Counts go on with the next shim.
    let (before, runs) = (seen.restarts, seen.run_no);
    host.start(&i);
    let seen = host.until(&i, "it was restarted again", |seen| seen.restarts > before);
    assert!(seen.run_no > runs);
}

#[test]
fn on_failure_ends_with_the_first_good_exit() {
    let host = Host::new();
    let marker = host.dir.path().join("count");
    let script = format!(
        "echo x >> {0}; [ $(wc -l < {0}) -ge 3 ] && exit 0; exit 1",
        marker.display()
    );
    let mut i = host.fake("flaky", &sh(&script));
    i.spec.restart.policy = RestartPolicy::OnFailure;
    host.write_fake(&i);
    host.start(&i);
    let seen = host.exited(&i);
    assert_eq!((seen.run_no, seen.restarts), (3, 2));
    assert_eq!(seen.last_exit.unwrap().code, 0);
}

#[test]
fn a_program_that_cannot_be_started_is_a_failed_run() {
    let host = Host::new();
    let mut i = host.fake("gone", &["/does/not/exist"]);
    host.start(&i);
    let exit = host.exited(&i).last_exit.unwrap();
    assert_eq!(exit.code, 127);
    assert!(exit.error.unwrap().contains("No such file"));

    i.spec.restart.policy = RestartPolicy::Always;
    host.write_fake(&i);
    host.start(&i);
    let waiting = host.until(&i, "it waits", |seen| seen.restarts >= 2);
    assert!(
        matches!(waiting.phase, Phase::Backoff { .. } | Phase::Created),
        "{waiting:?}"
    );
    host.runtime.stop(&i.id, "SIGTERM", LONG).unwrap();
    assert_eq!(host.look(&i).phase, Phase::Exited);
}

#[test]
fn a_killed_payload_comes_back_in_the_same_namespaces() {
    let host = Host::new();
    let mut i = host.fake("web", &["/bin/sleep", "1000"]);
    i.spec.restart.policy = RestartPolicy::Always;
    host.write_fake(&i);
    host.start(&i);
    host.running(&i);
    let before = host.state(&i);
    let own = namespaces(before.shim.pid);
    assert_eq!(namespaces(before.payload.unwrap().pid), own);
    assert_ne!(own, namespaces(std::process::id()));
    kill(before.payload.unwrap());
    host.until(&i, "the second run", |seen| {
        seen.run_no == 2 && matches!(seen.phase, Phase::Running { .. })
    });
    let after = host.state(&i);
    assert_ne!(after.payload, before.payload);
    assert_eq!(after.shim, before.shim);
    assert_eq!(namespaces(after.payload.unwrap().pid), own);
    let seen = host.look(&i);
    let exit = seen.last_exit.unwrap();
    assert_eq!(
        (seen.restarts, exit.code, exit.signal, exit.requested),
        (1, 137, Some(9), false)
    );
}

#[test]
fn a_network_namespace_is_handed_out_and_has_only_lo_up() {
    let host = Host::new();
    let i = host.fake("net", &["/bin/sleep", "1000"]);
    let attached = std::cell::Cell::new(0);
    let attach = |_: std::os::fd::BorrowedFd<'_>| {
        attached.set(attached.get() + 1);
        Ok(())
    };
    host.runtime.start(&i, &attach).unwrap();
    host.runtime.start(&i, &attach).unwrap();
    assert_eq!(
        attached.get(),
        1,
        "interfaces are plugged in once, before the first run"
    );
    assert!(host.runtime.netns(&i.id).unwrap().is_some());
    let pid = host.running(&i);
    let devices = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    assert_eq!(
        devices.lines().filter(|line| line.contains(':')).count(),
        1,
        "{devices}"
    );
    let routes = fs::read_to_string(format!("/proc/{pid}/net/fib_trie")).unwrap();
    assert!(
        routes.contains("127.0.0.1"),
        "lo is up, so it has its address: {routes}"
    );
    host.runtime.stop(&i.id, "SIGTERM", LONG).unwrap();
    assert!(host.runtime.netns(&i.id).unwrap().is_none());
}

#[test]
fn a_stop_is_a_signal_and_then_the_end_of_patience() {
    let host = Host::new();
    let polite = host.fake(
        "polite",
        &sh("trap 'exit 5' TERM; echo up; while :; do sleep 0.01; done"),
    );
    let deaf = host.fake("deaf", &sh("trap '' TERM; echo up; while :; do sleep 0.01; done"));
    for i in [&polite, &deaf] {
        host.start(i);
        host.until(i, "its trap is set", |_| !host.log(i).is_empty());
    }
    let shim = host.runtime.shim_pidfd(&deaf.id).unwrap().unwrap();
    host.runtime.stop(&polite.id, "SIGTERM", LONG).unwrap();
    host.runtime
        .stop(&deaf.id, "SIGTERM", Duration::from_millis(50))
        .unwrap();
    drop(shim);
    for (i, code, signal) in [(&polite, 5, None), (&deaf, 137, Some(9))] {
        let seen = host.look(i);
        let exit = seen.last_exit.unwrap();
        assert_eq!(seen.phase, Phase::Exited);
        assert_eq!((exit.code, exit.signal, exit.requested), (code, signal, true));
        assert!(!host.files(i).socket().exists());
        host.runtime.stop(&i.id, "SIGTERM", LONG).unwrap();
    }
    assert!(
        host.cgroups()
            .iter()
            .all(|dir| !dir.to_string_lossy().contains("deaf-")),
        "a stopped container has no cgroups"
    );
}

#[test]
fn a_killed_shim_is_lost_and_what_it_left_is_cleaned_up_by_the_next_start() {
    let host = Host::new();
    let i = host.fake("orphan", &["/bin/sleep", "1000"]);
    host.start(&i);
    host.running(&i);
    let before = host.state(&i);
    kill(before.shim);
    host.until(&i, "the shim is gone", |seen| seen.phase == Phase::Lost);
    assert!(lives(before.payload.unwrap()), "its payload lives on");
    assert_eq!(host.look(&i).run_no, 1);
    host.start(&i);
    host.running(&i);
    assert!(
        !lives(before.payload.unwrap()),
        "no two payloads of one container"
    );
    assert_eq!(host.look(&i).run_no, 2);

    // Removed while lost: nothing is left either.
    let again = host.state(&i);
    kill(again.shim);
    host.until(&i, "the shim is gone", |seen| seen.phase == Phase::Lost);
    host.runtime.remove(&i.id, &i.name).unwrap();
    assert!(!lives(again.payload.unwrap()));
    host.assert_gone(&i);
    assert!(host.runtime.observe().unwrap().is_empty());
}

#[test]
fn a_command_about_another_run_or_revision_does_nothing() {
    let host = Host::new();
    let i = host.fake("stale", &["/bin/sleep", "1000"]);
    host.start(&i);
    let pid = host.running(&i);
    let kill = Command::Kill {
        signal: "SIGKILL".to_owned(),
    };
    for (run_no, rev) in [(Some(2), None), (None, Some(9)), (Some(1), Some(0))] {
        let request = Request {
            run_no,
            rev,
            ..Request::new(kill.clone())
        };
        let reply = host.ask(&i, &request);
        assert!(matches!(reply.answer, Answer::Stale(_)), "{reply:?}");
    }
    let mut old = i.shim_policy();
    old.rev = 0;
    let reply = host.ask(
        &i,
        &Request::new(Command::Update {
            policy: Box::new(old),
        }),
    );
    assert!(matches!(reply.answer, Answer::Stale(_)));
    assert_eq!(host.running(&i), pid);

    let restart = Request {
        run_no: Some(1),
        ..Request::new(Command::Restart {
            signal: "SIGTERM".to_owned(),
            grace_ms: 20_000,
            why: RestartCause::ByHand,
        })
    };
    let reply = host.ask(&i, &restart);
    assert_eq!((reply.answer, reply.state.run_no), (Answer::Done, 2));
    let reply = host.ask(&i, &restart);
    assert!(matches!(reply.answer, Answer::Stale(_)), "said twice, done once");
    let seen = host.look(&i);
    assert_eq!((seen.run_no, seen.restarts), (2, 0));
    assert!(seen.last_exit.unwrap().requested);

    let reply = host.ask(
        &i,
        &Request::new(Command::Kill {
            signal: "SIGNOTHING".to_owned(),
        }),
    );
    assert!(matches!(reply.answer, Answer::Refused(_)));
}

#[test]
fn nothing_of_the_agent_is_inherited() {
    let host = Host::new();
    // A descriptor without CLOEXEC, as a careless library leaves behind.
    let file = fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    let i = host.fake("clean", &["/bin/sleep", "1000"]);
    host.start(&i);
    let shim = host.state(&i).shim.pid;
    let read = |name: &str| fs::read(format!("/proc/{shim}/{name}")).unwrap();
    let args = read("cmdline");
    assert_eq!(args, b"wharf\0shim\0clean\0");
    let env = String::from_utf8(read("environ")).unwrap();
    let mut keys: Vec<_> = env
        .split_terminator('\0')
        .filter_map(|entry| entry.split_once('=').map(|(key, _)| key))
        .collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        ["PATH", "WHARF_CONTAINER_ID", "WHARF_RUN_DIR", "WHARF_STATE_DIR"]
    );
    assert_eq!(read("comm"), b"wharf\n");
    let mut targets = Vec::new();
    for entry in fs::read_dir(format!("/proc/{shim}/fd")).unwrap().flatten() {
        // The last caller's connection may be forgotten meanwhile.
        if let Ok(target) = fs::read_link(entry.path()) {
            targets.push(target.display().to_string());
        }
    }
    let lock = host.files(&i).lock().display().to_string();
    let known = |target: &String| {
        ["/dev/null", lock.as_str()].contains(&target.as_str())
            || [
                "pipe:",
                "socket:",
                "anon_inode:[signalfd]",
                "anon_inode:[pidfd]",
                "pidfd:",
            ]
            .iter()
            .any(|kind| target.starts_with(kind))
    };
    assert!(targets.iter().all(known), "{targets:?}");
    assert_eq!(
        targets.iter().filter(|t| *t == "/dev/null").count(),
        3,
        "{targets:?}"
    );
    let stat = fs::read_to_string(format!("/proc/{shim}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_ne!(fields[1], std::process::id().to_string(), "no child of the agent");
    assert_eq!(fields[4], "0", "no terminal");
}

#[test]
fn an_agent_that_died_half_way_is_followed_by_one_that_goes_on() {
    let host = Host::new();
    let i = host.fake("half", &["/bin/sleep", "1000"]);
    // It died while attaching: the shim waits, and is taken on.
    let failed = host.runtime.start(&i, &|_| Err("no such bridge".to_owned()));
    assert!(matches!(failed, Err(RuntimeError::Attach { .. })));
    assert_eq!(host.look(&i).phase, Phase::Created);
    let shim = host.state(&i).shim;
    host.start(&i);
    host.running(&i);
    assert_eq!(host.state(&i).shim, shim);
    host.runtime.remove(&i.id, &i.name).unwrap();

    // It died after a shim had died before its first run.
    let i = host.fake("half2", &["/bin/sleep", "1000"]);
    assert!(host.runtime.start(&i, &|_| Err(String::new())).is_err());
    kill(host.state(&i).shim);
    host.until(&i, "the shim is gone", |seen| seen.phase == Phase::Lost);
    host.start(&i);
    host.running(&i);

    // It died while making or removing directories.
    let containers = host.roots.state.join("containers");
    fs::create_dir(containers.join(format!(".new-{}", "a".repeat(64)))).unwrap();
    fs::create_dir(containers.join(format!(".gone-{}", "b".repeat(64)))).unwrap();
    fs::create_dir(containers.join("c".repeat(64))).unwrap();
    fs::write(containers.join("c".repeat(64)).join("container.json"), "").unwrap();
    fs::create_dir(host.roots.run.join("containers").join("d".repeat(64))).unwrap();
    assert_eq!(host.runtime.observe().unwrap().len(), 1);
    host.runtime.sweep().unwrap();
    for root in [&host.roots.state, &host.roots.run] {
        assert_eq!(fs::read_dir(root.join("containers")).unwrap().count(), 1);
    }
    host.running(&i);
}

#[test]
fn another_boot_has_nothing_running() {
    let host = Host::new();
    let i = host.fake("booted", &["/bin/sleep", "1000"]);
    host.start(&i);
    host.running(&i);
    let state = host.state(&i);
    let files = host.files(&i);
    let said = fs::read_to_string(files.shim_state()).unwrap();
    kill(state.shim);
    host.until(&i, "the shim is gone", |seen| seen.phase == Phase::Lost);
    fs::write(files.shim_state(), said.replace(&state.boot_id, "another")).unwrap();
    assert_eq!(host.look(&i).phase, Phase::Lost);
    host.runtime.sweep().unwrap();
    assert!(!files.run.exists());
    let seen = host.look(&i);
    assert_eq!((seen.phase, seen.run_no), (Phase::Lost, 1));
}

#[test]
fn a_log_of_a_hundred_thousand_lines_is_whole_and_in_order() {
    let host = Host::new();
    let mut i = host.fake("chatty", &["/usr/bin/seq", "100000"]);
    i.spec.logging.max_size = 1 << 20;
    i.spec.logging.max_files = 50;
    host.write_fake(&i);
    host.start(&i);
    host.exited(&i);
    let log = host.log(&i);
    assert_eq!(log.len(), 100_000);
    for (n, (stream, line)) in log.iter().enumerate() {
        assert_eq!(
            (stream.as_str(), line.trim_end()),
            ("stdout", (n + 1).to_string().as_str())
        );
    }
    assert!(runtime::log::file::path(&host.files(&i).log(), 3).exists());
}

#[test]
fn lines_of_a_killed_run_are_kept_and_a_log_can_be_switched_off() {
    let host = Host::new();
    let i = host.fake("last", &sh("echo words; echo more; exec sleep 1000"));
    host.start(&i);
    host.running(&i);
    host.until(&i, "it has spoken", |_| host.log(&i).len() == 2);
    host.runtime.kill(&i.id, "KILL").unwrap();
    assert_eq!(host.exited(&i).last_exit.unwrap().signal, Some(9));
    assert_eq!(host.log(&i)[1].1, "more\n");

    let mut silent = host.fake("silent", &sh("echo never"));
    silent.spec.logging.driver = LogDriver::None;
    host.write_fake(&silent);
    host.start(&silent);
    host.exited(&silent);
    assert!(host.log(&silent).is_empty());
}

#[test]
fn a_shim_that_is_asked_to_end_stops_its_payload_first() {
    let host = Host::new();
    let mut i = host.fake(
        "shutdown",
        &sh("trap 'exit 4' HUP; echo up; while :; do sleep 0.01; done"),
    );
    i.spec.stop_signal = Some("SIGHUP".to_owned());
    i.spec.restart.policy = RestartPolicy::Always;
    host.write_fake(&i);
    host.start(&i);
    host.until(&i, "its trap is set", |_| !host.log(&i).is_empty());
    let shim = host.runtime.shim_pidfd(&i.id).unwrap().unwrap();
    rustix::process::pidfd_send_signal(&shim, rustix::process::Signal::TERM).unwrap();
    let exit = host.exited(&i).last_exit.unwrap();
    assert_eq!((exit.code, exit.requested), (4, true));
}

#[test]
fn the_agent_is_told_to_look() {
    let host = Host::new();
    let socket = std::os::unix::net::UnixDatagram::bind(host.roots.run.join("agent.sock")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let i = host.fake("told", &sh("exit 0"));
    host.start(&i);
    let mut frame = [0; 200];
    let len = socket.recv(&mut frame).unwrap();
    assert_eq!(frame[..len], *format!("{{\"id\":\"{}\"}}", i.id).as_bytes());
    host.exited(&i);
}

#[test]
fn what_cannot_be_seen_is_unknown_and_not_gone() {
    let host = Host::new();
    let i = host.fake("torn", &["/bin/sleep", "1000"]);
    let record = host.files(&i).container();
    fs::remove_file(&record).unwrap();
    fs::create_dir(&record).unwrap();
    let all = host.runtime.observe().unwrap();
    assert!(matches!(all[&i.id], Look::Unknown(_)));
    fs::remove_dir(&record).unwrap();
    // Who it is, the run dir knows as well.
    fs::write(&record, "{ torn").unwrap();
    assert_eq!(host.look(&i).name, i.name);
    host.write_fake(&i);
    assert_eq!(host.look(&i).phase, Phase::Prepared);
    assert!(process(1).is_some());
    assert!(matches!(
        host.runtime.kill(&i.id, "SIGTERM"),
        Err(RuntimeError::NotRunning { .. })
    ));
    host.runtime.start(&i, &NOTHING).unwrap();
}

#[test]
fn a_shim_is_small() {
    let host = Host::new();
    let all: Vec<_> = (0..20)
        .map(|n| host.fake(&format!("small-{n}"), &["/bin/sleep", "1000"]))
        .collect();
    for i in &all {
        host.start(i);
        host.running(i);
    }
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", host.state(&all[7]).shim.pid)).unwrap();
    println!("{rollup}");
    let kib = |key: &str| -> u64 {
        let line = rollup.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    // What only this one has; the rest is shared among all of them. Half of the product's bound (0.6 MB a shim).
    assert!(kib("Private_Dirty:") <= 300, "{rollup}");
}
