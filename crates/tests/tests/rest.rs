//! A pass with nothing to do does nothing: it makes no system call that changes anything.
#![allow(clippy::unwrap_used)]

use std::fs;

use tests::client::pids;
use tests::{Host, calls};

/// Two networks, ports, a volume, a config and a check: whatever a pass looks at.
fn busy_host() -> Host {
    let mut host = Host::new();
    host.write(
        "nets.toml",
        "[network.front]\n[network.back]\n[config.page]\ncontent = \"hello\"\n",
    );
    for n in 0..12 {
        let name = format!("web{n}");
        let port = format!("{}:80", 8000 + n);
        let text = host.hello_table(&name, &[&port]);
        let network = if n % 2 == 0 { "front" } else { "back" };
        host.write(
            &format!("{name}.toml"),
            &format!("{text}networks = [\"{network}\"]\n"),
        );
    }
    for n in 0..12 {
        let more = "volumes = [\"data:/data\"]\nconfigs = [\"page\"]\nlimits.pids = 50\n";
        let text = host.busybox_table(&format!("box{n}"), "exec sleep 1000", more);
        host.write(&format!("box{n}.toml"), &text);
    }
    host.start_agent();
    host.converge();
    host
}

#[test]
fn slow_a_full_pass_over_a_host_that_is_as_wished_changes_nothing() {
    let host = busy_host();
    let before = host.status();
    let log = host.dir().join("calls");
    calls::traced(host.agent_pid().unwrap(), &log, || {
        for _ in 0..3 {
            host.wharf(["reload"]).ok();
        }
    });
    let changes = calls::changes(&log);
    assert!(changes.is_empty(), "{}", changes.join("\n"));
    // It did look: at the directory, at the containers, at the kernel's network.
    let all = fs::read_to_string(&log).unwrap();
    for looked_at in ["containers.d", "/cgroup", "NETLINK"] {
        assert!(all.contains(looked_at), "{looked_at} is not in the trace");
    }
    assert_eq!(pids(&host.status()), pids(&before));
}

#[test]
fn a_change_is_seen_for_what_it_is() {
    let mut host = Host::new();
    host.write("web.toml", &host.hello_table("web", &["8080:80"]));
    host.start_agent();
    host.converge();
    let log = host.dir().join("calls");
    calls::traced(host.agent_pid().unwrap(), &log, || {
        host.remove("web.toml");
        host.until("removed", |s| s.converged && s.containers.is_empty());
    });
    let changes = calls::changes(&log);
    // The ledger is replaced, the container's directory goes, its device, its port and its processes.
    for (call, about) in [
        ("rename", "ledger.json"),
        ("unlink", "container"),
        ("sendto", "NETLINK"),
        ("open", "O_CREAT"),
    ] {
        let found = changes
            .iter()
            .any(|line| line.contains(call) && line.contains(about));
        assert!(
            found,
            "{call} … {about} is not among them:\n{}",
            changes.join("\n")
        );
    }
}
