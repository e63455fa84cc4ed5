//! The shim with real containers: prepared, started, restarted, stopped, removed by the agent's own calls.

#![allow(clippy::unwrap_used)] // a test that cannot go on should panic

mod shimhost;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use model::action::Instance;
use model::image::ImageSource;
use model::observed::{Look, Phase};
use model::spec::{NamespaceMode, NetworkMode, RestartPolicy, RuntimeChoice};
use runtime::error::RuntimeError;
use shimhost::{Host, instance, kill, namespaces};

const LONG: Duration = Duration::from_secs(20);

/// A root with busybox, and an instance that runs this script in it.
fn container(host: &Host, name: &str, script: &str) -> Instance {
    let root = host.dir.path().join("rootfs");
    if !root.exists() {
        for dir in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
        for tool in [
            "sh", "sleep", "echo", "cat", "readlink", "hostname", "seq", "kill",
        ] {
            symlink("busybox", root.join("bin").join(tool)).unwrap();
        }
    }
    let mut i = instance(name, &["/bin/sh", "-c", script]);
    i.image.layers = vec![root.clone()];
    i.spec.image = ImageSource::Rootfs { dir: root };
    i
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

#[test]
fn a_container_is_prepared_started_stopped_and_removed_without_a_trace() {
    let host = Host::new();
    let before = mounts();
    let i = container(
        &host,
        "web",
        "hostname; readlink /proc/self/ns/net; echo kept > /kept; trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done",
    );
    host.runtime.prepare(&i).unwrap();
    assert_eq!(host.look(&i).phase, Phase::Prepared);
    host.runtime.prepare(&i).unwrap();
    host.start(&i);
    host.until(&i, "it is ready", |_| host.log(&i).len() == 3);
    let net = host.state(&i).shim.pid;
    let log = host.log(&i);
    assert_eq!(log[0].1, "web\n");
    assert_eq!(PathBuf::from(log[1].1.trim()), namespaces(net)[0]);
    assert_eq!(mounts(), before, "nothing is mounted on the host");
    assert_eq!(
        fs::read_to_string(host.files(&i).state.join("upper/kept")).unwrap(),
        "kept\n"
    );
    host.runtime.stop(&i.id, "SIGTERM", LONG).unwrap();
    let exit = host.look(&i).last_exit.unwrap();
    assert_eq!((exit.code, exit.requested), (3, true));

    // What it wrote is there when it is started again.
    host.start(&i);
    host.until(&i, "it is ready again", |_| host.log(&i).len() == 6);
    assert_eq!(host.look(&i).run_no, 2);
    host.runtime.remove(&i.id, &i.name).unwrap();
    host.assert_gone(&i);
    assert_eq!(mounts(), before);
}

#[test]
fn a_killed_container_comes_back_with_its_files_and_namespaces() {
    let host = Host::new();
    let mut i = container(&host, "crash", "echo run >> /runs; cat /runs; exec sleep 1000");
    i.spec.restart.policy = RestartPolicy::Always;
    i.spec.restart.backoff = Duration::from_millis(1);
    host.start(&i);
    host.running(&i);
    let first = host.state(&i);
    let own = namespaces(first.payload.unwrap().pid);
    assert_eq!(own, namespaces(first.shim.pid));
    let mut lines = 0;
    for run in 2..5 {
        lines += run - 1;
        host.until(&i, "it has spoken", |_| host.log(&i).len() == lines);
        kill(host.state(&i).payload.unwrap());
        host.until(&i, "the next run", |seen| {
            seen.run_no == run as u64 && matches!(seen.phase, Phase::Running { .. })
        });
        assert_eq!(namespaces(host.state(&i).payload.unwrap().pid), own);
    }
    assert_eq!(host.state(&i).shim, first.shim);
    let seen = host.look(&i);
    assert_eq!(seen.restarts, 3);
    let exit = seen.last_exit.unwrap();
    assert_eq!((exit.signal, exit.code, exit.oom_killed), (Some(9), 137, false));
    host.until(&i, "all have spoken", |_| host.log(&i).len() == lines + 4);
}

#[test]
fn a_killed_shim_leaves_nothing_that_the_next_start_does_not_find() {
    let host = Host::new();
    let before = mounts();
    let i = container(&host, "orphan", "sleep 1000 & exec sleep 1000");
    host.start(&i);
    host.running(&i);
    for _ in 0..3 {
        let state = host.state(&i);
        kill(state.shim);
        host.until(&i, "the shim is gone", |seen| seen.phase == Phase::Lost);
        host.start(&i);
        host.running(&i);
        assert!(!runtime::shim::files::lives(state.payload.unwrap()));
    }
    host.runtime.remove(&i.id, &i.name).unwrap();
    host.assert_gone(&i);
    assert_eq!(mounts(), before);
}

#[test]
fn what_cannot_work_is_said_before_anything_is_started() {
    let host = Host::new();
    let mut i = container(&host, "broken", "exit 0");
    i.spec.command = Some(vec!["/bin/nothing".to_owned()]);
    let error = host.runtime.prepare(&i).unwrap_err();
    assert!(matches!(error, RuntimeError::Prepare(_)), "{error}");
    assert!(error.to_string().contains("/bin/nothing"), "{error}");
    assert!(host.runtime.start(&i, &shimhost::NOTHING).is_err());
    assert_eq!(host.look(&i).phase, Phase::Prepared);
    let mut i = container(&host, "nobody", "exit 0");
    i.spec.user = Some("nobody-here".to_owned());
    assert!(host.runtime.prepare(&i).is_err());
    host.runtime.remove(&i.id, &i.name).unwrap();
    host.assert_gone(&i);
}

#[test]
fn the_hosts_network_is_joined_where_asked() {
    let host = Host::new();
    let mut i = container(&host, "hosted", "exec sleep 1000");
    i.spec.network_mode = NetworkMode::Host;
    host.start(&i);
    let pid = host.running(&i);
    assert!(host.runtime.netns(&i.id).unwrap().is_none());
    let (own, hosts) = (namespaces(pid), namespaces(std::process::id()));
    assert_eq!(own[0], hosts[0]);
    assert!(own[1] != hosts[1] && own[2] != hosts[2]);
}

#[test]
fn processes_that_share_the_hosts_pids_end_with_the_run() {
    let host = Host::new();
    let mut i = container(
        &host,
        "loose",
        "sleep 1000 & sleep 1000 & echo up; exec sleep 1000",
    );
    i.spec.pid = NamespaceMode::Host;
    host.start(&i);
    host.until(&i, "it is up", |_| host.log(&i).len() == 1);
    host.runtime.stop(&i.id, "SIGTERM", LONG).unwrap();
    assert_eq!(host.look(&i).last_exit.unwrap().signal, Some(15));
    assert!(
        host.cgroups()
            .iter()
            .all(|dir| !dir.to_string_lossy().contains("loose-"))
    );
}

#[test]
fn an_external_runtimes_payload_is_kept_as_well() {
    let host = Host::new();
    let mut i = container(&host, "runc", "echo up; cat /proc/self/status; exec sleep 1000");
    i.spec.runtime = RuntimeChoice::External("runc".to_owned());
    i.spec.restart.policy = RestartPolicy::Always;
    host.start(&i);
    host.until(&i, "it is up", |_| {
        host.log(&i).iter().any(|(_, line)| line.starts_with("SigBlk"))
    });
    let blocked = host
        .log(&i)
        .iter()
        .find_map(|(_, line)| line.strip_prefix("SigBlk:\t").map(str::to_owned));
    assert_eq!(blocked.unwrap().trim(), "0000000000000000");
    let first = host.state(&i);
    assert_eq!(namespaces(first.payload.unwrap().pid), namespaces(first.shim.pid));
    kill(first.payload.unwrap());
    host.until(&i, "the second run", |seen| {
        seen.run_no == 2 && matches!(seen.phase, Phase::Running { .. })
    });
    host.runtime.stop(&i.id, "SIGKILL", LONG).unwrap();
    host.runtime.remove(&i.id, &i.name).unwrap();
    host.assert_gone(&i);
}

#[test]
fn an_agent_killed_at_any_instant_of_a_start_is_followed_by_one_that_completes_it() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let host = Host::new();
    let before = mounts();
    let mut seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
    println!("seed {seed}");
    let mut found = [0; 4];
    for _ in 0..25 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let i = container(&host, "victim", "exec sleep 1000");
        let mut agent = Command::new(env!("CARGO_BIN_EXE_runtime-testbin"))
            .arg("agent")
            .args([&host.roots.state, &host.roots.run])
            .arg(&host.parent)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let json = serde_json::to_vec(&i).unwrap();
        agent.stdin.take().unwrap().write_all(&json).unwrap();
        std::thread::sleep(Duration::from_micros(seed % 40_000));
        agent.kill().unwrap();
        agent.wait().unwrap();
        let phase = host.runtime.observe_one(&i.id);
        let kind = match phase {
            None => 0,
            Some(Look::Known(ref seen)) if seen.phase == Phase::Prepared => 1,
            Some(Look::Known(ref seen)) if seen.phase == Phase::Created => 2,
            _ => 3,
        };
        found[kind] += 1;
        host.runtime.sweep().unwrap();
        host.start(&i);
        host.running(&i);
        let group = host
            .cgroups()
            .into_iter()
            .find(|dir| dir.ends_with("payload"))
            .unwrap();
        let pids = fs::read_to_string(group.join("cgroup.procs")).unwrap();
        assert_eq!(pids.lines().count(), 1, "one payload: {pids}");
        assert_eq!(host.look(&i).run_no, 1, "started once");
        host.runtime.remove(&i.id, &i.name).unwrap();
        host.assert_gone(&i);
    }
    println!("killed before anything, prepared, with a shim, later: {found:?}");
    assert_eq!(mounts(), before);
    assert!(host.runtime.observe().unwrap().is_empty());
}
