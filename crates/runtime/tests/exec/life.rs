//! How sessions end, and what ends with them.

use super::*;

/// A process that has children in sessions of their own, whose parents are gone.
const SPREAD: &str = "trap '' HUP TERM INT; setsid sh -c 'trap \"\" HUP TERM; sleep 100000 & sleep 100000; :' & sleep 100000 & echo up; sleep 100000; :";

fn all_runs(host: &Host) {
    until("all of it runs", || processes(host).len() >= 7);
}

#[test]
fn nothing_outlives_the_agents_end_of_the_connection() {
    let host = Host::new();
    let i = started(&host, "dropped");
    let before = at_rest(&host, &i);
    for tty in [false, true] {
        let mut asked = sh(SPREAD);
        asked.tty = tty;
        let session = host.runtime.exec(&i.id, &asked, None).unwrap();
        all_runs(&host);
        drop(session);
        assert_clean(&host, &i, &before);

        let session = host.runtime.exec(&i.id, &asked, None).unwrap();
        all_runs(&host);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| session.wait().unwrap());
            session.kill().unwrap();
            assert_eq!(waiting.join().unwrap().code, 137);
        });
        session.kill().unwrap();
        drop(session);
        assert_clean(&host, &i, &before);

        let session = host
            .runtime
            .exec(&i.id, &asked, Some(Duration::from_millis(300)))
            .unwrap();
        let end = session.wait().unwrap();
        assert_eq!((end.code, end.timed_out, end.error), (137, true, None));
        drop(session);
        assert_clean(&host, &i, &before);
    }
}

#[test]
fn nothing_outlives_a_killed_agent() {
    let host = Host::new();
    let i = started(&host, "orphaned");
    let before = at_rest(&host, &i);
    let mut agent = std::process::Command::new(env!("CARGO_BIN_EXE_runtime-testbin"))
        .arg("exec")
        .args([&host.roots.state, &host.roots.run])
        .args([&host.parent, i.id.as_str(), SPREAD])
        .spawn()
        .unwrap();
    all_runs(&host);
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert_clean(&host, &i, &before);
}

#[test]
fn what_is_left_in_the_background_is_the_containers() {
    let host = Host::new();
    let i = started(&host, "daemon");
    let before = at_rest(&host, &i);
    let (end, out, _) = run(
        &host,
        &i,
        &sh("setsid sleep 100000 > /dev/null 2>&1 & echo begun"),
    );
    assert_eq!((end.code, out.as_str()), (0, "begun\n"));
    until("it is one of two", || processes(&host).len() == 2);
    until("its group is gone", || exec_groups(&host).is_empty());
    assert_eq!(at_rest(&host, &i), before);
    host.runtime.stop(&i.id, "KILL", LONG).unwrap();
    host.runtime.remove(&i.id, &i.name).unwrap();
    host.assert_gone(&i);
}

#[test]
fn the_end_of_a_run_is_the_end_of_what_runs_beside_it() {
    let host = Host::new();
    let mut i = busybox(&host, "ending", "echo up; exec sleep 100000");
    i.spec.restart.policy = RestartPolicy::Always;
    host.start(&i);
    for run in 1..4 {
        host.until(&i, "it is up", |_| host.log(&i).len() == run);
        let sessions: Vec<_> = (0..5)
            .map(|_| host.runtime.exec(&i.id, &sh("sleep 100000"), None).unwrap())
            .collect();
        host.runtime.kill(&i.id, "KILL").unwrap();
        for session in &sessions {
            assert_eq!(session.wait().unwrap().code, 137);
        }
        host.until(&i, "the next run", |seen| seen.run_no == run as u64 + 1);
    }
    host.running(&i);
    assert_eq!(ok(&host, &i, "echo again"), "again\n");
    let session = host.runtime.exec(&i.id, &sh("sleep 100000"), None).unwrap();
    host.runtime.stop(&i.id, "KILL", LONG).unwrap();
    assert_eq!(session.wait().unwrap().code, 137);
    let none = host.runtime.exec(&i.id, &sh("true"), None);
    assert!(matches!(none, Err(RuntimeError::NotRunning { .. })));
    assert!(
        host.cgroups()
            .iter()
            .all(|dir| !dir.to_string_lossy().contains("ending-"))
    );
}

#[test]
fn an_external_runtimes_container_is_entered_as_well() {
    let host = Host::new();
    let mut i = busybox(&host, "runc", "echo up; exec sleep 100000");
    i.spec.runtime = RuntimeChoice::External("runc".to_owned());
    host.start(&i);
    host.until(&i, "it is up", |_| host.log(&i).len() == 1);
    let before = at_rest(&host, &i);
    assert_eq!(
        ok(&host, &i, "hostname; readlink /proc/1/exe"),
        "runc\n/bin/busybox\n"
    );
    let mut asked = sh("tty; exit 3");
    asked.tty = true;
    let (end, out, _) = run(&host, &i, &asked);
    assert!(end.code == 3 && out.starts_with("/dev/pts/"), "{out}");
    drop(host.runtime.exec(&i.id, &sh(SPREAD), None).unwrap());
    assert_clean(&host, &i, &before);
}

#[test]
fn a_paused_container_stands_still_and_runs_nothing() {
    let host = Host::new();
    let i = busybox(&host, "paused", "while :; do echo x; sleep 0.01; done");
    host.start(&i);
    host.until(&i, "it speaks", |_| host.log(&i).len() > 3);
    let session = host
        .runtime
        .exec(&i.id, &sh("while :; do echo y; done"), None)
        .unwrap();
    let payload = host.running(&i);
    host.runtime.pause(&i.id).unwrap();
    host.runtime.pause(&i.id).unwrap();
    assert_eq!(host.look(&i).phase, Phase::Paused { pid: payload });
    let refused = host.runtime.exec(&i.id, &sh("true"), None);
    assert!(
        matches!(&refused, Err(e) if e.to_string().contains("paused")),
        "{refused:?}"
    );
    // What was written before is read; then nothing comes any more, however long it is looked at.
    let ticks = |pid: u32| -> String {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<_> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        fields[11..13].join(" ")
    };
    let still = [ticks(payload), ticks(session.pid)];
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(5));
        assert_eq!([ticks(payload), ticks(session.pid)], still);
    }
    host.runtime.unpause(&i.id).unwrap();
    host.runtime.unpause(&i.id).unwrap();
    assert_eq!(host.look(&i).phase, Phase::Running { pid: payload });
    let lines = host.log(&i).len();
    host.until(&i, "it goes on", |_| host.log(&i).len() > lines);

    // Let go of while it stands still, a process dies no later than it would have run on.
    host.runtime.pause(&i.id).unwrap();
    drop(session);
    host.runtime.unpause(&i.id).unwrap();
    until("it is gone", || exec_groups(&host).is_empty());

    // Neither a stop nor a kill waits for somebody to let it go on.
    host.runtime.pause(&i.id).unwrap();
    host.runtime.kill(&i.id, "SIGKILL").unwrap();
    assert_eq!(host.exited(&i).last_exit.unwrap().signal, Some(9));
    host.start(&i);
    host.running(&i);
    host.runtime.pause(&i.id).unwrap();
    host.runtime.stop(&i.id, "SIGKILL", LONG).unwrap();
    assert_eq!(host.look(&i).phase, Phase::Exited);
    assert!(matches!(
        host.runtime.pause(&i.id),
        Err(RuntimeError::NotRunning { .. })
    ));
}

/// Whoever let go of it finds it running, without waiting; and paused where somebody else wants it so.
#[test]
fn a_frozen_container_runs_when_the_last_one_has_let_go() {
    let host = Host::new();
    let i = busybox(&host, "frozen", "while :; do sleep 0.01; done");
    host.start(&i);
    let payload = host.running(&i);
    let freeze = || host.runtime.freeze(&i.id).unwrap().unwrap();
    let (running, paused) = (Phase::Running { pid: payload }, Phase::Paused { pid: payload });
    for _ in 0..20 {
        let frozen = freeze();
        assert_eq!(host.look(&i).phase, paused);
        drop(frozen);
        assert_eq!(host.look(&i).phase, running);
    }
    let (first, second) = (freeze(), freeze());
    drop(first);
    assert_eq!(host.look(&i).phase, paused);
    drop(second);
    assert_eq!(host.look(&i).phase, running);

    let frozen = freeze();
    host.runtime.pause(&i.id).unwrap();
    drop(frozen);
    assert_eq!(host.look(&i).phase, paused);
    host.runtime.unpause(&i.id).unwrap();
    assert_eq!(host.look(&i).phase, running);

    // Let go of by hand in between, it is no matter any more.
    let frozen = freeze();
    host.runtime.unpause(&i.id).unwrap();
    assert_eq!(host.look(&i).phase, running);
    drop(frozen);
    assert_eq!(host.look(&i).phase, running);
    let frozen = freeze();
    host.runtime.stop(&i.id, "SIGKILL", LONG).unwrap();
    drop(frozen);
    assert_eq!(host.look(&i).phase, Phase::Exited);
    assert!(host.runtime.freeze(&i.id).unwrap().is_none());
}
