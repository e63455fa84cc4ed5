//! Limits: changed in place, refused where they cannot be kept.
#![allow(clippy::unwrap_used)]

use model::status::State;
use tests::Host;

fn limited(host: &Host, limits: &str) -> String {
    host.busybox_table(
        "box",
        "exec sleep 1000",
        &format!("[container.box.limits]\n{limits}"),
    )
}

fn inside(host: &Host, line: &str) -> String {
    host.wharf(["exec", "box", "sh", "-c", line]).ok().stdout
}

/// Reads one of the container's control group files, on a v1 or v2 host.
fn group_file(host: &Host, v1: (&str, &str), v2: &str) -> String {
    let pid = host.container("box").pid.unwrap();
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let of = |controller: &str| {
        groups.lines().find_map(|l| {
            let mut parts = l.splitn(3, ':').skip(1);
            let list = parts.next()?;
            list.split(',')
                .any(|c| c == controller)
                .then(|| parts.next().unwrap().to_owned())
        })
    };
    let path = match of(v1.0) {
        Some(path) => format!("/sys/fs/cgroup/{}{path}/{}", v1.0, v1.1),
        None => format!("/sys/fs/cgroup{}/{v2}", of("").unwrap()),
    };
    std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{path}: {e}"))
        .trim()
        .to_owned()
}

#[test]
fn limits_change_on_the_running_container() {
    let mut host = Host::new();
    host.write(
        "box.toml",
        &limited(&host, "memory = \"64M\"\npids = 50\ncpuset = \"0\"\n"),
    );
    host.start_agent();
    let before = host.converge();
    let memory = || group_file(&host, ("memory", "memory.limit_in_bytes"), "memory.max");
    let pids = || group_file(&host, ("pids", "pids.max"), "pids.max");
    assert_eq!((memory(), pids()), ((64 << 20).to_string(), "50".to_owned()));
    assert_eq!(
        inside(&host, "grep Cpus_allowed_list /proc/self/status | cut -f2"),
        "0\n"
    );
    host.write("box.toml", &limited(&host, "memory = \"96M\"\n"));
    host.wharf(["reload"]).ok();
    let after = host.converge();
    assert_eq!(memory(), (96 << 20).to_string());
    assert_eq!(pids(), "max", "a limit that is gone is lifted");
    assert_eq!(before.containers[0].pid, after.containers[0].pid);
}

#[test]
fn a_limit_that_cannot_be_kept_is_an_error_on_that_container() {
    let mut host = Host::new();
    host.write("box.toml", &limited(&host, "cpuset = \"4000-4001\"\n"));
    host.write("web.toml", &host.hello_table("web", &[]));
    host.start_agent();
    host.wait_for("web");
    let seen = host.until_state("box", State::Failed);
    assert!(seen.error.as_ref().unwrap().contains("cpuset"), "{seen:?}");
    host.write("box.toml", &limited(&host, "cpuset = \"0\"\n"));
    host.converge();
}
