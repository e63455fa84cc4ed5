//! Limits on this machine's control groups.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::action::Instance;
use model::spec::{Limits, RestartPolicy, RuntimeChoice};
use runtime::cgroup::{Hierarchies, Mode};

use super::shimhost::{Host, kill};
use super::{beside, container, said, until_said};

/// A file of the payload's control group, by its v1 controller and the names it has on v1 and v2.
fn group_file(host: &Host, i: &Instance, controller: &str, v1: &str, v2: &str) -> PathBuf {
    let (root, name) = match Hierarchies::detect().unwrap().mode() {
        Mode::V2 => ("/sys/fs/cgroup".to_owned(), v2),
        Mode::V1 | Mode::Hybrid => (format!("/sys/fs/cgroup/{controller}"), v1),
    };
    let group = format!(
        "{}/{}-{}/payload",
        host.parent.trim_matches('/'),
        i.name,
        i.id.short()
    );
    Path::new(&root).join(group).join(name)
}

fn says(host: &Host, i: &Instance, controller: &str, v1: &str, v2: &str) -> String {
    let file = group_file(host, i, controller, v1, v2);
    fs::read_to_string(file).unwrap().trim().to_owned()
}

fn limited(host: &Host, name: &str, limits: Limits, script: &str) -> Instance {
    let mut i = container(host, name, script);
    i.spec.limits = limits;
    i
}

/// Gives it other limits while it runs.
fn change(host: &Host, i: &mut Instance, limits: Limits) -> Result<(), String> {
    i.rev += 1;
    i.spec.limits = limits;
    host.runtime
        .update(&i.id, &i.shim_policy())
        .map_err(|e| e.to_string())
}

/// Memory, and no way round it by swapping.
fn memory(bytes: u64) -> Limits {
    Limits {
        memory: Some(bytes),
        memory_swap: Some(bytes),
        ..Limits::default()
    }
}

#[test]
fn a_container_over_its_memory_is_killed_and_recorded() {
    let host = Host::new();
    // tail keeps what has no line ends.
    let i = limited(&host, "eater", memory(16 << 20), "exec tail /dev/zero");
    host.start(&i);
    let exit = host.exited(&i).last_exit.unwrap();
    assert_eq!((exit.signal, exit.code, exit.oom_killed), (Some(9), 137, true));

    let child = limited(
        &host,
        "parent",
        memory(16 << 20),
        "tail /dev/zero; echo survived; exit 7",
    );
    host.start(&child);
    let exit = host.exited(&child).last_exit.unwrap();
    assert_eq!((exit.code, exit.oom_killed), (7, true), "any process counts");

    let killed = limited(&host, "killed", memory(16 << 20), "exec sleep 1000");
    host.start(&killed);
    host.running(&killed);
    kill(host.state(&killed).payload.unwrap());
    let exit = host.exited(&killed).last_exit.unwrap();
    assert_eq!((exit.signal, exit.oom_killed), (Some(9), false));
}

#[test]
fn an_external_runtimes_container_is_limited_as_well_and_each_run_anew() {
    let host = Host::new();
    let mut i = limited(&host, "eater", memory(32 << 20), "exec tail /dev/zero");
    i.spec.runtime = RuntimeChoice::External("runc".to_owned());
    i.spec.restart.policy = RestartPolicy::Always;
    i.spec.restart.backoff = Duration::from_millis(1);
    i.spec.restart.backoff_max = Duration::from_millis(1);
    host.start(&i);
    for run in 1..=3 {
        let seen = host.until(&i, "the run has ended", |seen| {
            seen.last_exit.as_ref().is_some_and(|e| e.run_no >= run)
        });
        let exit = seen.last_exit.unwrap();
        assert_eq!((exit.signal, exit.oom_killed), (Some(9), true), "{exit:?}");
    }
    host.runtime
        .stop(&i.id, "SIGKILL", Duration::from_secs(20))
        .unwrap();
    let mut quiet = limited(&host, "quiet", memory(32 << 20), "echo up; exec sleep 1000");
    quiet.spec.runtime = RuntimeChoice::External("runc".to_owned());
    host.start(&quiet);
    until_said(&host, &quiet, "up");
    let max = says(&host, &quiet, "memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(max, (32 << 20).to_string());
}

#[test]
fn a_fork_bomb_stops_at_pids() {
    let host = Host::new();
    let pids = Limits {
        pids: Some(20),
        ..Limits::default()
    };
    let script = "(while :; do sleep 1000 & done) 2>/dev/null; echo full; exec sleep 1000";
    let i = limited(&host, "bomb", pids, script);
    host.start(&i);
    until_said(&host, &i, "full");
    let now: u64 = says(&host, &i, "pids", "pids.current", "pids.current")
        .parse()
        .unwrap();
    assert!((10..=20).contains(&now), "{now}");
    let events = says(&host, &i, "pids", "pids.events", "pids.events");
    let refused = events.lines().find_map(|l| l.strip_prefix("max ")).unwrap();
    assert!(refused.parse::<u64>().unwrap() > 0, "{events}");
}

#[test]
fn one_process_is_enough_for_a_container_of_one() {
    let host = Host::new();
    let one = Limits {
        pids: Some(1),
        ..Limits::default()
    };
    let i = limited(&host, "one", one, "echo alone; sleep 0; echo two");
    host.start(&i);
    assert_ne!(
        host.exited(&i).last_exit.unwrap().code,
        0,
        "there was room for two"
    );
    assert!(said(&host, &i).starts_with("alone\n"));
}

#[test]
fn a_quota_throttles_and_goes_in_place() {
    let host = Host::new();
    let some = Limits {
        cpus_milli: Some(50),
        ..Limits::default()
    };
    let mut i = limited(&host, "busy", some, "while :; do :; done");
    host.start(&i);
    host.until(&i, "it was throttled", |_| {
        let stat = says(&host, &i, "cpu", "cpu.stat", "cpu.stat");
        let count = stat.lines().find_map(|l| l.strip_prefix("nr_throttled "));
        count.unwrap().parse::<u64>().unwrap() > 0
    });
    let quota = |i: &Instance| says(&host, i, "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert!(["5000", "5000 100000"].contains(&quota(&i).as_str()));
    let run = host.look(&i).run_no;
    change(&host, &mut i, Limits::default()).unwrap();
    assert!(["-1", "max 100000"].contains(&quota(&i).as_str()));
    assert_eq!(host.look(&i).run_no, run);
}

fn cores_of(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("Cpus_allowed_list:\t"));
    line.unwrap().to_owned()
}

#[test]
fn a_cpuset_is_what_the_container_sees_and_changes_in_place() {
    let host = Host::new();
    let cores = |list: &str| Limits {
        cpuset: Some(list.to_owned()),
        ..Limits::default()
    };
    let script = "grep Cpus_allowed_list /proc/self/status; exec sleep 1000";
    let mut i = limited(&host, "pinned", cores("0"), script);
    host.start(&i);
    until_said(&host, &i, "Cpus_allowed_list:\t0\n");
    let seen = beside(&host, &i, "grep Cpus_allowed_list /proc/self/status");
    assert_eq!(seen, "Cpus_allowed_list:\t0\n");
    let pid = host.running(&i);
    let all = cores_of(std::process::id());
    change(&host, &mut i, Limits::default()).unwrap();
    assert_eq!(cores_of(pid), all);

    let mut plain = limited(&host, "plain", Limits::default(), "sleep 1000 & exec sleep 1000");
    host.start(&plain);
    let pid = host.running(&plain);
    assert_eq!(cores_of(pid), all);
    change(&host, &mut plain, cores("0")).unwrap();
    assert_eq!(cores_of(pid), "0");
    host.runtime.remove(&plain.id, &plain.name).unwrap();
    host.assert_gone(&plain);
}

#[test]
fn every_limit_is_in_its_file_and_out_of_it_again() {
    let host = Host::new();
    let all = Limits {
        memory: Some(64 << 20),
        memory_swap: Some(96 << 20),
        memory_reservation: Some(32 << 20),
        cpus_milli: Some(1500),
        cpu_shares: Some(2048),
        cpuset: Some("0".to_owned()),
        pids: Some(50),
        blkio_weight: Some(300),
    };
    let mut i = limited(&host, "all", all.clone(), "exec sleep 1000");
    host.start(&i);
    host.running(&i);
    // v1's file, v2's file, what either says, with and without limits.
    let files = [
        (
            "memory",
            "memory.limit_in_bytes",
            "memory.max",
            ["67108864", "67108864"],
        ),
        (
            "memory",
            "memory.memsw.limit_in_bytes",
            "memory.swap.max",
            ["100663296", "33554432"],
        ),
        (
            "memory",
            "memory.soft_limit_in_bytes",
            "memory.low",
            ["33554432", "33554432"],
        ),
        ("cpu", "cpu.cfs_quota_us", "cpu.max", ["150000", "150000 100000"]),
        ("cpu", "cpu.shares", "cpu.weight", ["2048", "174"]),
        ("pids", "pids.max", "pids.max", ["50", "50"]),
        ("blkio", "blkio.bfq.weight", "io.weight", ["300", "default 2930"]),
    ];
    let read = |i: &Instance| -> Vec<String> {
        files
            .iter()
            .map(|(c, v1, v2, _)| says(&host, i, c, v1, v2))
            .collect()
    };
    for (now, (_, v1, _, [on_v1, on_v2])) in read(&i).iter().zip(files) {
        assert!(now == on_v1 || now == on_v2, "{v1}: {now}");
    }
    let bare = container(&host, "bare", "exec sleep 1000");
    host.start(&bare);
    host.running(&bare);
    change(&host, &mut i, Limits::default()).unwrap();
    assert_eq!(read(&i), read(&bare), "as if there had never been one");
    // Up and down again while it runs: the order of memory and swap holds.
    for size in [200 << 20, 20 << 20, 100 << 20] {
        change(&host, &mut i, memory(size)).unwrap();
        assert_eq!(read(&i)[0], size.to_string());
    }
    change(&host, &mut i, all).unwrap();
    assert_eq!(read(&i)[0], "67108864");
}

#[test]
fn what_cannot_be_enforced_is_refused_before_anything_starts() {
    let host = Host::new();
    let cores = Limits {
        cpuset: Some("0-4000".to_owned()),
        ..Limits::default()
    };
    let i = limited(&host, "wide", cores, "true");
    let error = host.runtime.prepare(&i).unwrap_err().to_string();
    assert!(
        error.starts_with("container wide: limits.cpuset = \"0-4000\" names cores"),
        "{error}"
    );
    let left: Vec<_> = host.cgroups();
    assert!(
        !left.iter().any(|dir| dir.to_string_lossy().contains("check-")),
        "{left:?}"
    );
    let fine = limited(&host, "fine", memory(64 << 20), "true");
    host.runtime.prepare(&fine).unwrap();
    let left: Vec<_> = host.cgroups();
    assert!(
        !left.iter().any(|dir| dir.to_string_lossy().contains("check-")),
        "{left:?}"
    );
}

/// v1 refuses such a limit; v2 takes it and ends the container, as the kernel's document says.
#[test]
fn memory_in_use_is_not_limited_away_silently() {
    let host = Host::new();
    let script = "x=$(head -c 30000000 /dev/zero | tr '\\0' a); echo got ${#x}; while :; do sleep 1000; done";
    let mut i = limited(&host, "full", memory(256 << 20), script);
    host.start(&i);
    until_said(&host, &i, "got 30000000");
    let lowered = change(&host, &mut i, memory(4 << 20));
    if Hierarchies::detect().unwrap().mode() == Mode::V2 {
        assert!(host.exited(&i).last_exit.unwrap().oom_killed);
        return;
    }
    let error = lowered.unwrap_err();
    assert!(error.contains("limits.memory cannot be lowered"), "{error}");
    let max = says(&host, &i, "memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(max, (256 << 20).to_string(), "the old limit stays");
    host.runtime
        .stop(&i.id, "SIGKILL", Duration::from_secs(20))
        .unwrap();
}
