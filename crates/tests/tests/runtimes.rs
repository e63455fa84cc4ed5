//! `runtime = "runc"` and `"crun"`: what tables ask for holds as well where another program starts the container.
#![allow(clippy::unwrap_used)]

use tests::Host;

const RUNTIMES: [&str; 3] = ["embedded", "runc", "crun"];

#[test]
fn limits_and_sysctls_hold_whoever_starts_the_container() {
    let mut host = Host::new();
    for runtime in RUNTIMES {
        let more = format!(
            "runtime = {runtime:?}\nsysctls = {{ \"net.ipv4.ip_unprivileged_port_start\" = \"1000\", \"kernel.shm_rmid_forced\" = \"1\" }}\n\
             limits = {{ memory = \"64M\", pids = 50 }}"
        );
        let table = host.busybox_table(runtime, "echo up; exec sleep 100000", &more);
        host.write(&format!("{runtime}.toml"), &table);
    }
    host.start_agent();
    host.converge();
    for runtime in RUNTIMES {
        let inside = |line: &str| {
            let said = host.wharf(["exec", runtime, "sh", "-c", line]);
            said.ok().stdout.trim().to_owned()
        };
        assert_eq!(
            inside("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced"),
            "1000\n1",
            "{runtime}"
        );
        let memory =
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
        assert_eq!(inside(memory), (64 << 20).to_string(), "{runtime}");
    }
}

#[test]
fn why_a_runtime_refused_is_said_at_each_try_also_where_there_are_limits() {
    let mut host = Host::new();
    for runtime in RUNTIMES {
        let image = host.busybox_image();
        host.write(
            &format!("{runtime}.toml"),
            &format!(
                "[container.{runtime}]\nimage = {image:?}\ncommand = [\"sleep\", \"1000\"]\nruntime = {runtime:?}\n\
                 limits = {{ memory = \"64M\" }}\nsysctls = {{ \"kernel.shmmax\" = \"nonsense\" }}\nrestart = {{ backoff = \"10ms\", backoff_max = \"10ms\" }}\n"
            ),
        );
    }
    host.expect_error("shmmax");
    host.start_agent();
    for runtime in RUNTIMES {
        let said = |h: &Host| -> Vec<String> {
            let events = h.wharf(["events", "--json"]).ok().stdout;
            let all = events.lines().filter_map(|l| serde_json::from_str(l).ok());
            let its = all.filter(|e: &serde_json::Value| e["name"] == runtime && e["type"] == "die");
            its.map(|e| e["reason"].as_str().unwrap().to_owned()).collect()
        };
        host.until(&format!("three tries of {runtime}"), |_| said(&host).len() >= 3);
        for reason in said(&host) {
            assert!(reason.contains("shmmax"), "{runtime}: {reason}");
        }
    }
}
