//! Schedules, mounts and the network that containers wait for, and restarts with what they depend on.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use model::status::{State, Status};
use tests::Host;
use tests::client::row;

/// Waits for the clock alone.
fn sleep_until(at: Timestamp) {
    while Timestamp::now() <= at {
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_schedule_is_kept_also_after_the_agent_was_killed() {
    let mut host = Host::new();
    host.write_busybox("tick", "echo ran", "schedule = \"*:*:0/1\"\n");
    host.start_agent();
    let runs = |n: usize| move |s: &Status| row(s, "tick").last_runs.len() >= n;
    host.until("two runs", runs(2));
    host.kill_agent();
    host.start_agent();
    host.until("four runs", runs(4));
    let tick = host.container("tick");
    assert!(tick.next_run.is_some(), "{tick:?}");
    let began: Vec<Timestamp> = tick.last_runs.iter().map(|r| r.started_at).collect();
    assert!(
        began
            .windows(2)
            .all(|pair| pair[0].as_second() > pair[1].as_second()),
        "the latest first, and one a second: {began:?}"
    );
    assert!(tick.last_runs.iter().all(|r| r.exit_code == 0), "{tick:?}");
    let lines = host.wharf(["logs", "tick"]).ok().stdout.lines().count();
    assert!(lines >= tick.last_runs.len());
}

#[test]
fn what_waits_for_its_time_is_converged_and_runs_once_when_asked() {
    let mut host = Host::new();
    host.write_busybox(
        "yearly",
        "echo ran; exit $(cat /code 2>/dev/null || echo 0)",
        "schedule = \"yearly\"\n",
    );
    host.start_agent();
    host.converge();
    let waiting = host.container("yearly");
    assert_eq!((waiting.state, waiting.exit_code), (State::Exited, None));
    assert_eq!((waiting.started_at, waiting.error.as_deref()), (None, None));
    let next = waiting.next_run.unwrap();
    assert!(next > Timestamp::now());
    assert_eq!(host.wharf(["wait", "yearly"]).code, 0);
    assert_eq!(host.wharf(["plan"]).code, 0);

    host.wharf(["start", "yearly"]).ok();
    let done = host.until("it ran", |s| row(s, "yearly").last_runs.len() == 1);
    let ran = row(&done, "yearly").clone();
    assert_eq!((ran.state, ran.exit_code), (State::Exited, Some(0)));
    assert_eq!(ran.next_run, Some(next), "its time stays");
    // Nobody repeats what has ended, and another schedule is no reason to run.
    host.reboot();
    host.start_agent();
    host.write_busybox(
        "yearly",
        "echo ran; exit $(cat /code 2>/dev/null || echo 0)",
        "schedule = \"*-12-31 12:00 UTC\"\n",
    );
    host.wharf(["reload"]).ok();
    host.converge();
    let after = host.container("yearly");
    assert_eq!(after.last_runs, ran.last_runs);
    assert!(after.next_run.is_some() && after.next_run != ran.next_run);
    assert_eq!(host.wharf(["logs", "yearly"]).ok().stdout, "ran\n");
}

#[test]
fn a_run_that_failed_is_shown_until_one_does_well() {
    let mut host = Host::new();
    let line = "if [ -e /tried ]; then exit 0; fi; touch /tried; exit 7";
    host.write_busybox("job", line, "schedule = \"yearly\"\n");
    host.start_agent();
    host.converge();
    host.wharf(["start", "job"]).ok();
    let failed = host.until_state("job", State::Failed);
    assert_eq!(failed.exit_code, Some(7));
    host.until("written down", |s| row(s, "job").last_runs.len() == 1);
    host.wharf(["start", "job"]).ok();
    host.until("written down", |s| row(s, "job").last_runs.len() == 2);
    host.converge();
    let codes: Vec<i32> = host
        .container("job")
        .last_runs
        .iter()
        .map(|r| r.exit_code)
        .collect();
    assert_eq!(codes, [0, 7]);
}

#[test]
fn a_run_missed_while_nobody_was_there_is_made_up_for_where_that_is_asked() {
    let mut host = Host::new();
    host.start_agent();
    // On a busy machine the time may come before the agent is killed: then another one is tried.
    loop {
        let due = Timestamp::now() + SignedDuration::from_secs(4);
        let at = due.strftime("%Y-%m-%d %H:%M:%S UTC");
        for (name, persistent) in [("late", true), ("never", false)] {
            let more = format!("schedule = \"{at}\"\npersistent = {persistent}\n");
            host.write_busybox(name, "echo ran", &more);
        }
        host.wharf(["reload"]).ok();
        host.converge();
        let ready = host.container("late").next_run.is_some();
        host.kill_agent();
        let in_time = Timestamp::now().as_second() < due.as_second();
        sleep_until(due);
        host.start_agent();
        if ready && in_time {
            break;
        }
        host.remove_all();
        host.converge();
    }
    host.until("made up for", |s| !row(s, "late").last_runs.is_empty());
    host.converge();
    assert_eq!(host.wharf(["logs", "late"]).ok().stdout, "ran\n");
    assert_eq!(host.wharf(["logs", "never"]).ok().stdout, "");
    for name in ["late", "never"] {
        assert_eq!(host.container(name).next_run, None, "its only time is over");
    }
}

#[test]
fn a_run_that_was_cut_off_is_repeated() {
    let mut host = Host::new();
    host.write_busybox(
        "job",
        "[ -e /second ] && again=1; touch /second; echo began; [ -z $again ] || exit 0; exec sleep 1000",
        "schedule = \"yearly\"\n",
    );
    host.start_agent();
    host.converge();
    host.wharf(["start", "job"]).ok();
    host.until_state("job", State::Running);
    host.until("it began", |_| {
        host.wharf(["logs", "job"]).ok().stdout == "began\n"
    });
    host.reboot();
    host.start_agent();
    host.until("it ran to its end", |s| !row(s, "job").last_runs.is_empty());
    host.converge();
    assert_eq!(host.wharf(["logs", "job"]).ok().stdout, "began\nbegan\n");
}

#[test]
fn it_waits_for_a_mount_point_and_stays_when_that_goes() {
    let mut host = Host::new();
    let path = host.dir().join("my data");
    std::fs::create_dir(&path).unwrap();
    let path = path.display();
    host.write_busybox(
        "web",
        "exec sleep 1000",
        &format!("requires_mounts = [\"{path}\"]\n"),
    );
    host.start_agent();
    host.until("it says what it waits for", |s| {
        let web = s.containers.iter().find(|c| c.name == "web");
        let says = |e: &String| e.contains("mount point");
        web.is_some_and(|w| w.state == State::Pending && w.error.as_ref().is_some_and(says))
    });
    assert_eq!(host.wharf(["plan"]).code, 4);
    host.ns.sh(&format!("mount -t tmpfs none '{path}'"));
    host.converge();
    let web = host.container("web");
    host.ns.sh(&format!("umount '{path}'"));
    host.wharf(["reload"]).ok();
    host.converge();
    assert_eq!(host.container("web").pid, web.pid);
}

#[test]
fn it_waits_for_the_network_to_be_online() {
    let mut host = Host::new();
    host.ns.sh("ip route del default");
    host.write_busybox("web", "exec sleep 1000", "after_network_online = true\n");
    host.write_busybox("other", "exec sleep 1000", "");
    host.start_agent();
    host.until_state("other", State::Running);
    let web = host.until_state("web", State::Pending);
    assert!(web.error.is_some_and(|e| e.contains("online")));
    host.ns
        .sh(&format!("ip route add default via {}", tests::host::NEIGHBOUR));
    host.converge();
    let web = host.container("web");
    // What runs is left alone.
    host.ns.sh("ip route del default");
    host.wharf(["reload"]).ok();
    host.converge();
    assert_eq!(host.container("web").pid, web.pid);
}

#[test]
fn a_way_out_by_ipv6_alone_is_noticed_at_once() {
    let mut host = Host::new();
    host.ns.sh("ip route del default");
    // No look that is due by itself comes to help.
    std::fs::write(host.settings(), "[agent]\nfull_pass = \"1h\"\n").unwrap();
    host.write_busybox("web", "exec sleep 1000", "after_network_online = true\n");
    host.start_agent();
    host.until_state("web", State::Pending);
    host.ns
        .sh("ip -6 addr add 2001:db8::1/64 dev eth0 nodad; ip -6 route add default via 2001:db8::2 dev eth0");
    // Nobody asks the agent for anything meanwhile.
    let begun = || host.log().contains("start: run 1 kind=container name=web");
    let start = std::time::Instant::now();
    while !begun() {
        assert!(start.elapsed() < Duration::from_secs(60), "{}", host.evidence());
        std::thread::sleep(Duration::from_millis(20));
    }
    host.converge();
}

#[test]
fn it_is_restarted_with_what_it_depends_on() {
    let mut host = Host::new();
    host.write_busybox("db", "exec sleep 1000", "");
    host.write_busybox(
        "web",
        "exec sleep 1000",
        "depends_on = { db = { condition = \"started\", restart = true } }\n",
    );
    host.write_busybox("other", "exec sleep 1000", "depends_on = [\"db\"]\n");
    host.start_agent();
    let before = host.converge();
    // A restart of the same one is no replacement.
    host.wharf(["restart", "db"]).ok();
    let same = host.converge();
    assert_eq!(row(&same, "web").pid, row(&before, "web").pid);
    host.write_busybox("db", "exec sleep 1001", "");
    host.wharf(["reload"]).ok();
    let after = host.until("web was restarted", |s| {
        let (web, db) = (row(s, "web"), row(s, "db"));
        let anew = web.pid.is_some() && web.pid != row(&before, "web").pid;
        anew && db.id != row(&before, "db").id
    });
    assert_eq!(
        row(&after, "web").id,
        row(&before, "web").id,
        "the same, begun anew"
    );
    host.converge();
    assert!(host.container("web").started_at > host.container("db").started_at);
    assert_eq!(host.container("other").pid, row(&before, "other").pid);
}

#[test]
fn a_schedule_that_cannot_be_is_refused() {
    let host = Host::new();
    let said = |more: &str| {
        host.write_busybox("job", "true", more);
        let said = host.wharf(["validate"]);
        assert_eq!(said.code, 1, "{more}: {said:?}");
        said.stdout
    };
    assert!(said("schedule = \"*-*-* 25:00\"\n").contains("\"25\" is no hour"));
    assert!(said("schedule = \"Fri..Mon\"\n").contains("backwards"));
    assert!(said("schedule = \"daily\"\nrestart = \"always\"\n").contains("restart policy"));
    assert!(said("persistent = true\n").contains("without a schedule"));
    let unknown = "schedule = \"daily Atlantis/Capital\"\n";
    host.write_busybox("job", "true", unknown);
    assert_eq!(
        host.wharf(["validate"]).code,
        0,
        "the host's zones are not the files' affair"
    );
}

#[test]
fn a_time_zone_the_host_does_not_know_is_said() {
    let mut host = Host::new();
    host.write_busybox("job", "true", "schedule = \"daily Atlantis/Capital\"\n");
    host.start_agent();
    let job = host.until_state("job", State::Failed);
    assert!(job.error.is_some_and(|e| e.contains("Atlantis/Capital")));
}
