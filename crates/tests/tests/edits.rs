//! What a change does, and what it leaves alone.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use tests::client::pids;
use tests::{From, Host, http};

fn table(host: &Host, n: usize, more: &str) -> String {
    host.hello_table(&format!("c{n:02}"), &[&format!("{}:80", 8000 + n)]) + more
}

/// `count` containers, one file each.
fn many(count: usize) -> (Host, BTreeMap<String, u32>) {
    let mut host = Host::new();
    for n in 0..count {
        host.write(&format!("c{n:02}.toml"), &table(&host, n, ""));
    }
    host.start_agent();
    let pids = pids(&host.converge());
    assert_eq!(pids.len(), count);
    (host, pids)
}

/// What differs, by name.
fn changed(before: &BTreeMap<String, u32>, after: &BTreeMap<String, u32>) -> Vec<String> {
    let names = before.keys().chain(after.keys());
    let mut changed: Vec<String> = names
        .filter(|n| before.get(*n) != after.get(*n))
        .cloned()
        .collect();
    changed.sort();
    changed.dedup();
    changed
}

fn reload_and_pids(host: &Host) -> BTreeMap<String, u32> {
    host.wharf(["reload"]).ok();
    pids(&host.converge())
}

#[test]
fn slow_editing_one_of_fifty_keeps_the_other_forty_nine() {
    let (host, before) = many(50);
    for n in [0, 49] {
        host.http_get(From::Neighbour, &format!("http://192.0.2.1:{}/", 8000 + n));
    }
    host.write_renamed("c07.toml", &table(&host, 7, "env = { EDITED = \"yes\" }\n"));
    let after = reload_and_pids(&host);
    assert_eq!(changed(&before, &after), ["c07"]);
    host.http_get(From::Neighbour, "http://192.0.2.1:8007/");
    host.remove("c08.toml");
    host.until("c08 gone", |s| s.containers.len() == 49);
    assert_eq!(changed(&after, &reload_and_pids(&host)), ["c08"]);
    host.remove_all();
    host.until("all gone", |s| s.containers.is_empty());
}

#[test]
fn what_does_not_matter_changes_nothing() {
    let (host, before) = many(3);
    let image = host.hello_image();
    let generation = host.status().generation;
    // Comments, order, spelling.
    host.write(
        "c00.toml",
        &format!("# a word\n[container.c00]\nports = ['8000:80']\n\nimage = '{image}' # same\n"),
    );
    assert_eq!(changed(&before, &reload_and_pids(&host)), [""; 0]);
    // Moved to another file, together with another one's.
    host.write("all.toml", &(table(&host, 1, "") + &table(&host, 2, "")));
    host.remove("c01.toml");
    host.remove("c02.toml");
    assert_eq!(changed(&before, &reload_and_pids(&host)), [""; 0]);
    let status = host.until("moved", |s| {
        s.containers
            .iter()
            .all(|c| c.name == "c00" || c.file.as_deref() == Some("all.toml"))
    });
    assert!(status.errors.is_empty(), "{:?}", status.errors);
    assert_eq!(
        status.generation, generation,
        "nothing was accepted that was not there before"
    );
}

/// One wish, said twice: `@IMAGE@` and `@DIR@` stand for things of the host.
const SAID: [&str; 2] = [
    r#"
[container.web]
image = "@IMAGE@"
command = ["sleep", "100000"]
stop_signal = "SIGKILL"
stop_grace_period = "60s"
env = { A = "1", B = "2" }
labels = { x = "1", y = "2" }
ports = ["8080:80", "9000:90/udp", "7000-7002:7000-7002"]
networks = ["front", "back"]
extra_hosts = { "a.example" = "10.0.0.9", "b.example" = "10.0.0.10" }
volumes = ["data:/data:ro", "/mine", { type = "bind", source = "@DIR@/bind", target = "/bind" }, { type = "tmpfs", target = "/mem", size = "64M" }]
tmpfs = ["/run", "/tmp"]
configs = ["conf", "more"]
secrets = ["key", "own"]
cap_add = ["NET_ADMIN", "SYS_NICE"]
groups = ["10", "11"]
devices = ["/dev/null:/dev/nothing", "/dev/zero:/dev/nought"]
sysctls = { "net.ipv4.ip_unprivileged_port_start" = "1000", "net.ipv4.ip_default_ttl" = "65" }
ulimits = { nofile = 1000 }
depends_on = ["db"]
requires_mounts = ["/proc", "/"]
restart = { policy = "always", backoff = "1s", backoff_max = "2m" }
healthcheck = { exec = ["true"], interval = "90s" }
limits = { memory = "64M", cpus = 1 }
logging = { max_size = "1M" }
update = { drain = "2m", timeout = "120s" }

[container.db]
image = "@IMAGE@"
command = "sleep 100000"
stop_signal = "KILL"

[container.many]
image = "@IMAGE@"
command = ["sleep", "100000"]
stop_signal = "SIGKILL"
replicas = 2
ports = ["8090:80"]
networks = ["front"]

[container.job]
image = "@IMAGE@"
command = ["true"]
schedule = "yearly"
randomized_delay = "2m"

[network.front]
subnet = "10.81.0.0/24"
[network.back]

[volume.data]
labels = { a = "1", b = "2" }

[config.conf]
content = "one\ntwo\n"
target = "/etc/conf"
[config.more]
file = "@DIR@/file"

[secret.key]
file = "@DIR@/file"
[secret.own]
file = "@DIR@/file"
mode = "0440"
uid = 7
"#,
    r#"
# The same.
secret.own = { uid = 0o7, mode = "440", gid = 0, file = '@DIR@/file' }
config.more = { target = "/more", mode = "0444", uid = 0, gid = 0, on_change = "restart", file = "@DIR@/file" }

[volume.data]
driver = "local"
exclusive = false
keep = true
labels.b = "2"
labels.a = "1"

[secret.key]
mode = "0400"
on_change = "restart"
file = "@DIR@/file"

[config.conf]
target = "/etc/conf"
content = """
one
two
"""

[network.back]
driver = "bridge"
internal = false
masquerade = true
dns = true

[network.front]
internal = false
subnet = "10.81.0.0/24"

[container.job]
schedule = "*-01-01 00:00:00"
persistent = true
randomized_delay = "120s"
restart = "no"
command = ["true"]
image = "@IMAGE@"

[container.many]
ports = [{ container = 80, host = 8090 }]
networks = { front = { priority = 0 } }
replicas = 0x2
stop_signal = "SIGKILL"
command = ["sleep", "100000"]
image = "@IMAGE@"

[container.db]
stop_signal = "SIGKILL"
command = ["sleep", "100000"]
image = "@IMAGE@"

[container.web.update]
timeout = "2m"
drain = "1m60s"
strategy = "recreate"

[container.web.logging]
driver = "file"
max_size = 1048576
max_files = 3

[container.web.limits]
cpus = 1.0
memory = 67108864

[container.web.healthcheck]
interval = "1m30s"
retries = 3
exec = ["true"]

[container.web.restart]
backoff_max = "120s"
backoff = "1000ms"
reset_after = "10s"

[container.web]
requires_mounts = ["/", "/proc"]
depends_on = { db = { condition = "started", restart = false } }
ulimits = { nofile = { soft = 1000, hard = 1000 } }
sysctls = { "net.ipv4.ip_default_ttl" = "65", "net.ipv4.ip_unprivileged_port_start" = "1000" }
devices = ["/dev/zero:/dev/nought:rwm", "/dev/null:/dev/nothing:rwm"]
groups = ["11", "10"]
cap_add = ["SYS_NICE", "CAP_NET_ADMIN"]
secrets = ["own", "key"]
configs = ["more", "conf"]
tmpfs = ["/tmp", "/run"]
volumes = [
    { type = "tmpfs", target = "/mem", size = 67108864 },
    "@DIR@/bind:/bind",
    "/mine",
    { type = "volume", target = "/data", source = "data", read_only = true },
]
extra_hosts = { "b.example" = "10.0.0.10", "a.example" = "10.0.0.9" }
networks = ["front", "back"]
network_mode = "bridge"
ports = [{ host = 9000, container = 90, protocol = "udp" }, "7000-7002:7000-7002/tcp", "8080:80/tcp"]
publish_all = false
labels.y = "2"
labels.x = "1"
env.B = "2"
env.A = "1"
stop_grace_period = "1m"
stop_signal = "KILL"
command = "sleep 100000"
image = "@IMAGE@"
replicas = 1
enabled = true
pull = "missing"
read_only = false
init = false
privileged = false
no_new_privileges = true
userns = "host"
pid = "private"
ipc = "private"
seccomp = "default"
runtime = "embedded"
"#,
];

#[test]
fn an_equal_value_spelled_otherwise_changes_nothing() {
    let mut host = Host::new();
    std::fs::create_dir(host.dir().join("bind")).unwrap();
    std::fs::write(host.dir().join("file"), "x").unwrap();
    let (image, dir) = (host.busybox_image(), host.dir().display().to_string());
    let said = SAID.map(|text| text.replace("@IMAGE@", &image).replace("@DIR@", &dir));
    host.write("all.toml", &said[0]);
    host.start_agent();
    let before = host.converge();
    for text in [&said[1], &said[0], &said[1]] {
        host.write_renamed("all.toml", text);
        let plan = host.wharf(["plan"]);
        assert_eq!(
            (plan.code, plan.stdout.as_str()),
            (0, "nothing to do\n"),
            "{plan:?}"
        );
        assert_eq!(changed(&pids(&before), &reload_and_pids(&host)), [""; 0]);
    }
    let after = host.status();
    let ids = |s: &model::status::Status| -> Vec<_> { s.containers.iter().map(|c| c.id.clone()).collect() };
    assert_eq!(ids(&after), ids(&before));
}

#[test]
fn ports_and_labels_change_on_the_running_container() {
    let (host, before) = many(2);
    host.write(
        "c00.toml",
        &(host.hello_table("c00", &["8500:80", "8501:80/udp"]) + "labels = { tier = \"front\" }\n"),
    );
    assert_eq!(changed(&before, &reload_and_pids(&host)), [""; 0]);
    host.http_get(From::Neighbour, "http://192.0.2.1:8500/");
    host.http_get(From::Host, "http://127.0.0.1:8500/");
    assert!(http::ask_udp(&host.neighbour, "192.0.2.1:8501", "?").is_ok());
    assert!(
        !http::reaches(&host.neighbour, "192.0.2.1:8000"),
        "the port before is closed"
    );
    // A port moves from one running container to another.
    host.write("c00.toml", &host.hello_table("c00", &["8001:80"]));
    host.write("c01.toml", &host.hello_table("c01", &["8500:80"]));
    assert_eq!(changed(&before, &reload_and_pids(&host)), [""; 0]);
    assert!(
        host.http_get(From::Neighbour, "http://192.0.2.1:8500/")
            .body
            .contains("hello from")
    );
}

#[test]
fn the_plan_says_what_it_would_do_and_does_nothing() {
    let (host, before) = many(1);
    let converged = host.wharf(["plan"]);
    assert_eq!(converged.code, 0, "{converged:?}");
    host.wharf(["stop", "c00"]).ok();
    assert_eq!(host.wharf(["plan"]).code, 0, "a hold is as wished");
    host.wharf(["start", "c00"]).ok();
    let after = pids(&host.converge());
    assert_eq!(changed(&before, &after), ["c00"]);
}
