//! One case a key: its value before and after. `@NAME@` stands for things on the host, `@N@` for the case's number.

use std::collections::BTreeMap;

use reconciler::diff::Class;

/// What an edited key belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A key of the container's own table.
    Container,
    /// A key of a network's table; a container lives in it.
    Network,
    /// A key of a volume's table; a container mounts it.
    Volume,
    /// The same, and the change is refused.
    Refused,
    /// A key of an image's table; a container is made of it.
    Image,
    /// The same, and no container names the table.
    OtherImage,
    /// A key of a config's table; a container has it.
    Config,
    /// A key of a secret's table; a container has it.
    Secret,
}

type Pair = (&'static str, &'static str);

#[derive(Clone, Debug)]
pub struct Case {
    pub kind: Kind,
    pub path: &'static str,
    /// The table's key it stands in, with its value; none where it is not written.
    pub before: Option<&'static str>,
    pub after: Option<&'static str>,
    /// Further keys of the table, which stay; those of a full table that do not go with it are `-`.
    pub with: Vec<Pair>,
    /// Where this very edit does something else than the key's class says.
    pub class: Option<Class>,
}

/// What all of them share.
pub const AROUND: &str = r#"
[container.anchor]
image = "@IMAGE@"
command = ["sleep", "100000"]
stop_signal = "SIGKILL"
networks = ["front"]
healthcheck = { exec = ["true"] }
[network.front]
subnet = "10.76.0.0/16"
subnet6 = "fd76::/64"
"#;

/// The same of files that containers see.
pub const FILES: &str = r#"
[config.conf]
content = "x"
target = "/conf"
[secret.key]
file = "@DIR@/env-a"
"#;

/// A full table: every key that goes with the others.
const FULL: &[Pair] = &[
    ("image", r#""@IMAGE@""#),
    ("pull", r#""missing""#),
    ("command", r#"["sleep", "100000"]"#),
    ("env", r#"{ A = "1" }"#),
    ("env_file", r#"["@DIR@/env-a"]"#),
    ("user", r#""0:0""#),
    ("groups", r#"["10"]"#),
    ("working_dir", r#""/srv""#),
    ("hostname", r#""case""#),
    ("labels", r#"{ tier = "front" }"#),
    ("replicas", "1"),
    ("enabled", "true"),
    (
        "ports",
        r#"[{ host = @PORT@, container = 80, protocol = "tcp", ip = "0.0.0.0", allow = ["192.168.0.0/16"] }]"#,
    ),
    ("publish_all", "false"),
    (
        "networks",
        r#"{ front = { aliases = ["alias-@N@"], priority = 0 } }"#,
    ),
    ("network_mode", r#""bridge""#),
    ("dns", r#"["192.0.2.9"]"#),
    ("dns_search", r#"["example"]"#),
    ("extra_hosts", r#"{ "git.example" = "10.0.0.9" }"#),
    (
        "volumes",
        r#"["data-@N@:/data", "/anonymous", { type = "bind", source = "@DIR@/bind-a", target = "/bind" }]"#,
    ),
    ("volumes_from", "[]"),
    ("read_only", "false"),
    ("tmpfs", r#"["/run"]"#),
    ("init", "false"),
    ("stop_signal", r#""SIGKILL""#),
    ("stop_grace_period", r#""1s""#),
    ("cap_add", r#"["NET_ADMIN"]"#),
    ("cap_drop", r#"["MKNOD"]"#),
    ("privileged", "false"),
    ("no_new_privileges", "true"),
    ("devices", r#"["/dev/null:/dev/nothing"]"#),
    ("sysctls", r#"{ "net.ipv4.ip_unprivileged_port_start" = "1000" }"#),
    ("ulimits", "{ nofile = 1000 }"),
    ("userns", r#""host""#),
    ("pid", r#""private""#),
    ("ipc", r#""private""#),
    ("seccomp", r#""default""#),
    ("runtime", r#""embedded""#),
    ("depends_on", r#"{ anchor = "started" }"#),
    (
        "restart",
        r#"{ policy = "always", backoff = "100ms", backoff_max = "60s", reset_after = "10s" }"#,
    ),
    (
        "healthcheck",
        r#"{ exec = ["true"], interval = "30s", timeout = "20s" }"#,
    ),
    ("limits", r#"{ memory = "64M", pids = 100 }"#),
    ("update", r#"{ strategy = "recreate" }"#),
    (
        "logging",
        r#"{ driver = "file", max_size = "1M", max_files = 3 }"#,
    ),
];

type Row = (&'static str, &'static str, &'static str);
type RowWith = (&'static str, &'static str, &'static str, &'static [Pair]);

/// Keys of the container's table that need nothing but what a full table has. An empty value: it is not written.
#[rustfmt::skip]
const CONTAINER: &[Row] = &[
    ("image", r#""@IMAGE@""#, r#""@OTHER@""#),
    ("pull", r#""missing""#, r#""never""#),
    ("command", r#"["sleep", "100000"]"#, r#"["sleep", "100001"]"#),
    ("entrypoint", "", r#"["/bin/busybox"]"#),
    ("env", r#"{ A = "1" }"#, r#"{ A = "2" }"#),
    ("env_file", r#"["@DIR@/env-a"]"#, r#"["@DIR@/env-b"]"#),
    ("user", r#""0:0""#, r#""1000:1000""#),
    ("groups", r#"["10"]"#, r#"["10", "11"]"#),
    ("working_dir", r#""/srv""#, r#""/tmp""#),
    ("hostname", r#""case""#, r#""other""#),
    ("labels", r#"{ tier = "front" }"#, r#"{ tier = "back" }"#),
    ("replicas", "1", "2"),
    ("enabled", "true", "false"),
    ("ports", "[]", r#"["@PORT@:81"]"#),
    ("ports.host", r#"[{ host = @PORT@, container = 80 }]"#, r#"[{ host = 2@N3@, container = 80 }]"#),
    ("ports.container", r#"[{ host = @PORT@, container = 80 }]"#, r#"[{ host = @PORT@, container = 81 }]"#),
    ("ports.protocol", r#"[{ host = @PORT@, container = 80 }]"#, r#"[{ host = @PORT@, container = 80, protocol = "udp" }]"#),
    ("ports.ip", r#"[{ host = @PORT@, container = 80 }]"#, r#"[{ host = @PORT@, container = 80, ip = "127.0.0.1" }]"#),
    ("ports.allow", r#"[{ host = @PORT@, container = 80, allow = ["10.0.0.0/8"] }]"#, r#"[{ host = @PORT@, container = 80, allow = ["10.0.0.0/9"] }]"#),
    ("publish_all", "false", "true"),
    ("networks", r#"["front"]"#, r#"["front", "default"]"#),
    ("networks.*.ip", "{ front = {} }", r#"{ front = { ip = "10.76.200.@N@" } }"#),
    ("networks.*.ip6", "{ front = {} }", r#"{ front = { ip6 = "fd76::77:@N@" } }"#),
    ("networks.*.mac", "{ front = {} }", r#"{ front = { mac = "02:aa:00:00:00:@HEX@" } }"#),
    ("networks.*.aliases", r#"{ front = { aliases = ["alias-@N@"] } }"#, r#"{ front = { aliases = ["other-@N@"] } }"#),
    ("networks.*.priority", "{ front = { priority = 0 } }", "{ front = { priority = 1 } }"),
    ("dns", r#"["192.0.2.9"]"#, r#"["192.0.2.10"]"#),
    ("dns_search", r#"["example"]"#, r#"["example", "test"]"#),
    ("extra_hosts", r#"{ "git.example" = "10.0.0.9" }"#, r#"{ "git.example" = "10.0.0.10" }"#),
    ("volumes", r#"["data-@N@:/data"]"#, r#"["data-@N@:/data", "more-@N@:/more"]"#),
    ("volumes.type", r#"[{ type = "volume", source = "data-@N@", target = "/data" }]"#, r#"[{ type = "tmpfs", target = "/data" }]"#),
    ("volumes.source", r#"[{ type = "bind", source = "@DIR@/bind-a", target = "/bind" }]"#, r#"[{ type = "bind", source = "@DIR@/bind-b", target = "/bind" }]"#),
    ("volumes.target", r#"[{ type = "bind", source = "@DIR@/bind-a", target = "/bind" }]"#, r#"[{ type = "bind", source = "@DIR@/bind-a", target = "/other" }]"#),
    ("volumes.read_only", r#"[{ type = "bind", source = "@DIR@/bind-a", target = "/bind" }]"#, r#"[{ type = "bind", source = "@DIR@/bind-a", target = "/bind", read_only = true }]"#),
    ("volumes.create", r#"[{ type = "bind", source = "@DIR@/bind-a", target = "/bind" }]"#, r#"[{ type = "bind", source = "@DIR@/bind-a", target = "/bind", create = true }]"#),
    ("volumes.propagation", r#"[{ type = "bind", source = "@DIR@/bind-a", target = "/bind" }]"#, r#"[{ type = "bind", source = "@DIR@/bind-a", target = "/bind", propagation = "private" }]"#),
    ("volumes.require_mount", r#"[{ type = "bind", source = "/proc", target = "/bind" }]"#, r#"[{ type = "bind", source = "/proc", target = "/bind", require_mount = true }]"#),
    ("volumes.size", r#"[{ type = "tmpfs", target = "/mem", size = "1M" }]"#, r#"[{ type = "tmpfs", target = "/mem", size = "2M" }]"#),
    ("volumes.mode", r#"[{ type = "tmpfs", target = "/mem", mode = "1777" }]"#, r#"[{ type = "tmpfs", target = "/mem", mode = "0755" }]"#),
    ("volumes_from", "[]", r#"["anchor"]"#),
    ("read_only", "false", "true"),
    ("tmpfs", r#"["/run"]"#, r#"["/run", "/run2"]"#),
    ("init", "false", "true"),
    ("stop_signal", r#""SIGKILL""#, r#""SIGTERM""#),
    ("stop_grace_period", r#""1s""#, r#""2s""#),
    ("cap_add", r#"["NET_ADMIN"]"#, r#"["NET_ADMIN", "SYS_NICE"]"#),
    ("cap_drop", r#"["MKNOD"]"#, r#"["MKNOD", "CHOWN"]"#),
    ("no_new_privileges", "true", "false"),
    ("devices", r#"["/dev/null:/dev/nothing"]"#, r#"["/dev/null:/dev/nothing", "/dev/zero:/dev/nought"]"#),
    ("sysctls", r#"{ "net.ipv4.ip_unprivileged_port_start" = "1000" }"#, r#"{ "net.ipv4.ip_unprivileged_port_start" = "1001" }"#),
    ("ulimits", "{ nofile = 1000 }", "{ nofile = 1001 }"),
    ("ulimits.soft", "{ nofile = { soft = 1000, hard = 2000 } }", "{ nofile = { soft = 1001, hard = 2000 } }"),
    ("ulimits.hard", "{ nofile = { soft = 1000, hard = 2000 } }", "{ nofile = { soft = 1000, hard = 2001 } }"),
    ("pid", r#""private""#, r#""host""#),
    ("ipc", r#""private""#, r#""host""#),
    ("seccomp", r#""default""#, r#""@DIR@/seccomp.json""#),
    
    ("links", r#"["anchor:one"]"#, r#"["anchor:two"]"#),
    ("depends_on", "{}", r#"{ anchor = "started" }"#),
    ("depends_on.condition", r#"{ anchor = { condition = "started" } }"#, r#"{ anchor = { condition = "healthy" } }"#),
    ("depends_on.restart", r#"{ anchor = { condition = "started" } }"#, r#"{ anchor = { condition = "started", restart = true } }"#),
    ("requires_mounts", r#"["/proc"]"#, r#"["/proc", "/"]"#),
    ("after_network_online", "false", "true"),
    ("restart", r#""always""#, r#""on-failure""#),
    ("restart.policy", r#"{ policy = "always" }"#, r#"{ policy = "no" }"#),
    ("restart.backoff", r#"{ backoff = "100ms" }"#, r#"{ backoff = "200ms" }"#),
    ("restart.backoff_max", r#"{ backoff_max = "60s" }"#, r#"{ backoff_max = "50s" }"#),
    ("restart.reset_after", r#"{ reset_after = "10s" }"#, r#"{ reset_after = "11s" }"#),
    ("healthcheck", r#"{ exec = ["true"] }"#, "false"),
    ("healthcheck.exec", r#"{ exec = ["true"] }"#, r#"{ exec = ["true", "x"] }"#),
    ("healthcheck.shell", r#"{ shell = "true" }"#, r#"{ shell = "true; true" }"#),
    ("healthcheck.interval", r#"{ exec = ["true"], interval = "30s" }"#, r#"{ exec = ["true"], interval = "31s" }"#),
    ("healthcheck.timeout", r#"{ exec = ["true"], timeout = "30s" }"#, r#"{ exec = ["true"], timeout = "31s" }"#),
    ("healthcheck.retries", r#"{ exec = ["true"], retries = 3 }"#, r#"{ exec = ["true"], retries = 4 }"#),
    ("healthcheck.start_period", r#"{ exec = ["true"], start_period = "1s" }"#, r#"{ exec = ["true"], start_period = "2s" }"#),
    ("healthcheck.start_interval", r#"{ exec = ["true"], start_interval = "1s" }"#, r#"{ exec = ["true"], start_interval = "2s" }"#),
    ("healthcheck.on_failure", r#"{ exec = ["true"] }"#, r#"{ exec = ["true"], on_failure = "none" }"#),
    ("limits.memory", r#"{ memory = "64M" }"#, r#"{ memory = "65M" }"#),
    ("limits.memory_swap", r#"{ memory = "64M" }"#, r#"{ memory = "64M", memory_swap = "128M" }"#),
    ("limits.memory_reservation", r#"{ memory = "64M" }"#, r#"{ memory = "64M", memory_reservation = "32M" }"#),
    ("limits.cpus", "{ cpus = 1.0 }", "{ cpus = 0.9 }"),
    ("limits.cpu_shares", "{ cpu_shares = 1024 }", "{ cpu_shares = 1000 }"),
    ("limits.cpuset", r#"{}"#, r#"{ cpuset = "0" }"#),
    ("limits.pids", "{ pids = 100 }", "{ pids = 101 }"),
    ("limits.blkio_weight", "{ blkio_weight = 100 }", "{ blkio_weight = 200 }"),
    ("update.strategy", r#"{ strategy = "recreate" }"#, r#"{ strategy = "start-first" }"#),
    ("update.drain", r#"{ drain = "5s" }"#, r#"{ drain = "6s" }"#),
    ("update.timeout", r#"{ timeout = "60s" }"#, r#"{ timeout = "61s" }"#),
    ("update.parallelism", "{ parallelism = 1 }", "{ parallelism = 2 }"),
    ("logging.driver", r#"{ driver = "file" }"#, r#"{ driver = "none" }"#),
    ("logging.max_size", r#"{ max_size = "1M" }"#, r#"{ max_size = "2M" }"#),
    ("logging.max_files", "{ max_files = 3 }", "{ max_files = 4 }"),
];

const JOB: &[Pair] = &[("restart", r#""no""#), ("healthcheck", "-"), ("update", "-")];
const YEARLY: &[Pair] = &[
    ("restart", r#""no""#),
    ("healthcheck", "-"),
    ("update", "-"),
    ("schedule", r#""yearly""#),
];
const ALONE: &[Pair] = &[
    ("ports", "-"),
    ("publish_all", "-"),
    ("networks", "-"),
    ("dns", "-"),
    ("dns_search", "-"),
    ("extra_hosts", "-"),
    ("sysctls", "-"),
    ("hostname", "-"),
];

/// Those that need something else beside them.
#[rustfmt::skip]
const CONTAINER_WITH: &[RowWith] = &[
    ("rootfs", r#""@DIR@/root-a""#, r#""@DIR@/root-b""#, &[("image", "-"), ("pull", "-"), ("volumes", "-"), ("working_dir", "-"), ("user", "-")]),
    ("update_check", r#""1h""#, r#""2h""#, &[("pull", r#""newer""#)]),
    ("network_mode", r#""bridge""#, r#""none""#, ALONE),
    ("privileged", "false", "true", &[("cap_add", "-"), ("cap_drop", "-"), ("devices", "-"), ("seccomp", "-"), ("no_new_privileges", "-")]),
    ("healthcheck.http", r#"{ http = { port = 80 } }"#, r#"{ http = { port = 80, path = "/x" } }"#, HTTP),
    ("healthcheck.http.port", r#"{ http = { port = 80 } }"#, r#"{ http = { port = 81 } }"#, HTTP),
    ("healthcheck.http.path", r#"{ http = { port = 80 } }"#, r#"{ http = { port = 80, path = "/x" } }"#, HTTP),
    ("healthcheck.http.status", r#"{ http = { port = 80 } }"#, r#"{ http = { port = 80, status = [200, 204] } }"#, HTTP),
    ("healthcheck.http.host", r#"{ http = { port = 80 } }"#, r#"{ http = { port = 80, host = "127.0.0.2" } }"#, HTTP),
    ("healthcheck.tcp", "{ tcp = 80 }", "{ tcp = 81 }", HTTP),
    ("schedule", r#""yearly""#, r#""*-03-01""#, JOB),
    ("randomized_delay", r#""0s""#, r#""1h""#, YEARLY),
    ("persistent", "true", "false", YEARLY),
    ("runtime", r#""embedded""#, r#""runc""#, &[]),
    ("secrets", "[]", r#"["key"]"#, &[]),
    ("configs", "[]", r#"["conf"]"#, &[]),
];

/// A server on two ports that answers every path.
const HTTP: &[Pair] = &[(
    "command",
    r#"["sh", "-c", "mkdir /www && echo hi >/www/index.html && echo hi >/www/x && httpd -p 81 -h /www && exec httpd -f -p 80 -h /www"]"#,
)];

#[rustfmt::skip]
const NETWORK: &[Row] = &[
    ("subnet", r#""10.77.@N@.0/24""#, r#""10.78.@N@.0/24""#),
    ("gateway", r#""10.77.@N@.1""#, r#""10.77.@N@.254""#),
    ("range", r#""10.77.@N@.0/25""#, r#""10.77.@N@.128/25""#),
    ("internal", "false", "true"),
    ("icc", "true", "false"),
    ("mtu", "1500", "1400"),
    ("masquerade", "true", "false"),
    ("bridge", r#""br-a@N@""#, r#""br-b@N@""#),
    ("dns", "true", "false"),
    ("subnet6", r#""fd77:@N@::/64""#, r#""fd78:@N@::/64""#),
    ("gateway6", r#""fd77:@N@::1""#, r#""fd77:@N@::fe""#),
    ("range6", r#""fd77:@N@::/80""#, r#""fd77:@N@::/72""#),
    ("ipv4", "true", "false"),
    ("ipv6", "false", "true"),
    ("masquerade6", "true", "false"),
    // One goes with the other.
    ("driver", r#""bridge""#, "\"overlay\"\noverlay = { vni = 1@N@, peers = [] }"),
    ("parent", r#""par-a""#, r#""par-b""#),
    ("host_access", "false", "true"),
    ("overlay.vni", "{ vni = 2@N@, peers = [] }", "{ vni = 3@N@, peers = [] }"),
    ("overlay.port", "{ vni = 4@N@, peers = [] }", "{ vni = 4@N@, peers = [], port = 4790 }"),
    ("overlay.local", r#"{ vni = 5@N@, peers = [], local = "192.0.2.1" }"#, r#"{ vni = 5@N@, peers = [], local = "192.0.2.7" }"#),
    ("overlay.peers", r#"{ vni = 6@N@, peers = ["192.0.2.2"] }"#, r#"{ vni = 6@N@, peers = ["192.0.2.3"] }"#),
    ("overlay.peers_file", r#"{ vni = 7@N@, peers_file = "@DIR@/peers-a" }"#, r#"{ vni = 7@N@, peers_file = "@DIR@/peers-b" }"#),
    ("overlay.names", "{ vni = 8@N@, peers = [] }", r#"{ vni = 8@N@, peers = [], names = { far = "10.77.@N@.9" } }"#),
];

#[rustfmt::skip]
const VOLUME: &[Row] = &[
    ("labels", r#"{ a = "1" }"#, r#"{ a = "2" }"#),
    ("keep", "true", "false"),
    ("exclusive", "false", "true"),
];

/// Where a config or a secret has its content from. The agent's environment and its credentials have both of theirs.
const CONFIG_SOURCES: &[Row] = &[
    ("file", r#""@DIR@/env-a""#, r#""@DIR@/env-b""#),
    ("content", r#""a""#, r#""b""#),
];
const SECRET_SOURCES: &[Row] = &[
    ("file", r#""@DIR@/env-a""#, r#""@DIR@/env-b""#),
    ("env", r#""WHARF_TEST_A""#, r#""WHARF_TEST_B""#),
    ("credential", r#""key-a""#, r#""key-b""#),
];
/// How it appears inside.
const APPEARANCE: &[Row] = &[
    ("mode", r#""0440""#, r#""0400""#),
    ("uid", "0", "1"),
    ("gid", "0", "1"),
];
/// Every word of `on_change`. No process in a container ends by this signal, as pid 1 or otherwise.
pub const WAYS: [&str; 4] = [r#""restart""#, r#""signal:URG""#, r#""replace""#, r#""none""#];

fn some(text: &'static str) -> Option<&'static str> {
    Some(text).filter(|text| !text.is_empty())
}

/// The key's path in the table of keys, from the one in the table here.
fn path(kind: &str, key: &str) -> &'static str {
    let path = format!("{kind}.*.{key}");
    let known = model::file::keys::DESIRED.iter().find(|k| k.path == path);
    known.unwrap_or_else(|| panic!("there is no key {path}")).path
}

fn case(kind: Kind, table: &str, (key, before, after): Row, with: &[Pair]) -> Case {
    Case {
        kind,
        path: path(table, key),
        before: some(before),
        after: some(after),
        with: with.to_vec(),
        class: None,
    }
}

pub fn all() -> Vec<Case> {
    let mut all: Vec<Case> = Vec::new();
    all.extend(
        CONTAINER
            .iter()
            .map(|row| case(Kind::Container, "container", *row, &[])),
    );
    all.extend(
        CONTAINER_WITH
            .iter()
            .map(|(key, a, b, with)| case(Kind::Container, "container", (key, a, b), with)),
    );
    all.extend(NETWORK.iter().map(|row| {
        let with: &[Pair] = match row.0 {
            "gateway" | "range" => &[("subnet", r#""10.77.@N@.0/24""#)],
            "ipv4" | "gateway6" | "range6" | "masquerade6" => &[("subnet6", r#""fd77:@N@::/64""#)],
            "parent" => &[("driver", r#""macvlan""#), ("subnet", r#""10.79.@N@.0/24""#)],
            "host_access" => &[
                ("driver", r#""macvlan""#),
                ("parent", r#""par-a""#),
                ("subnet", r#""10.79.@N@.0/24""#),
                ("range", r#""10.79.@N@.128/25""#),
            ],
            key if key.starts_with("overlay.") => &[
                ("driver", r#""overlay""#),
                ("subnet", r#""10.77.@N@.0/24""#),
                ("range", r#""10.77.@N@.128/25""#),
            ],
            _ => &[],
        };
        case(Kind::Network, "network", *row, with)
    }));
    // Who was begun without a way out gets one by being started again.
    all.push(Case {
        class: Some(Class::Restart),
        ..case(Kind::Network, "network", ("internal", "true", "false"), &[])
    });
    all.extend(VOLUME.iter().map(|row| case(Kind::Volume, "volume", *row, &[])));
    let bind: &[Pair] = &[("driver", r#""bind""#)];
    all.push(case(
        Kind::Refused,
        "volume",
        ("driver", r#""local""#, r#""tmpfs""#),
        &[],
    ));
    all.push(case(
        Kind::Refused,
        "volume",
        ("device", r#""@DIR@/bind-a""#, r#""@DIR@/bind-b""#),
        bind,
    ));
    all.push(Case {
        // The container names the table, and so is made of another image.
        class: Some(Class::Replace),
        ..case(
            Kind::Image,
            "image",
            ("pull", r#""@IMAGE@""#, r#""@OTHER@""#),
            &[],
        )
    });
    let pull = ("pull", r#""@IMAGE@""#, r#""@OTHER@""#);
    all.push(case(Kind::OtherImage, "image", pull, &[]));
    all.extend(delivered(Kind::Config, "config", CONFIG_SOURCES));
    all.extend(delivered(Kind::Secret, "secret", SECRET_SOURCES));
    let target = ("target", r#""/a.conf""#, r#""/b.conf""#);
    all.push(case(Kind::Config, "config", target, &[("content", r#""x""#)]));
    all
}

/// The keys that configs and secrets have in common: each that acts by `on_change`, in each of its ways.
fn delivered(kind: Kind, table: &str, sources: &[Row]) -> Vec<Case> {
    let mut all = Vec::new();
    let (source, content, _) = sources[0];
    for way in WAYS {
        let way = ("on_change", way);
        let of_source = sources.iter().map(|row| case(kind, table, *row, &[way]));
        let looks = APPEARANCE.iter();
        let of_looks = looks.map(|row| case(kind, table, *row, &[way, (source, content)]));
        all.extend(of_source.chain(of_looks));
    }
    let on_change = ("on_change", WAYS[0], WAYS[3]);
    all.push(case(kind, table, on_change, &[(source, content)]));
    all
}

impl Case {
    /// The container that is looked at.
    pub fn container(&self, number: usize) -> String {
        let what = match self
            .with
            .iter()
            .any(|(key, value)| (*key, *value) == ("restart", r#""no""#))
        {
            true => "job",
            false => "case",
        };
        format!("{what}-{number:03}")
    }

    /// What its table says of changes.
    pub fn on_change(&self) -> Option<&'static str> {
        let said = self.with.iter().find(|(key, _)| *key == "on_change");
        said.map(|(_, way)| *way)
    }

    /// The key in the table: `ports` for `container.*.ports.allow`.
    fn key(&self) -> &'static str {
        self.path.split('.').nth(2).unwrap()
    }

    /// Its tables, before or after the edit.
    pub fn table(&self, number: usize, after: bool) -> String {
        let value = if after { self.after } else { self.before };
        let name = self.container(number);
        let mut full: BTreeMap<&str, &str> = FULL.iter().copied().collect();
        let mut more = String::new();
        match self.kind {
            Kind::Container => {
                full.extend(self.with.iter().copied());
                full.remove(self.key());
                full.extend(value.map(|value| (self.key(), value)));
            }
            Kind::Network => {
                full.insert("networks", r#"["net-@N@"]"#);
                full.remove("dns");
                // What is not led through this host is not published, and at an IPv4 address nothing that has none.
                if matches!(self.key(), "parent" | "host_access" | "ipv4") {
                    full.remove("ports");
                    full.remove("publish_all");
                }
                more = self.own("network", "net-@N@", value);
            }
            Kind::Volume | Kind::Refused => more = self.own("volume", "data-@N@", value),
            Kind::Image => {
                full.insert("image", r#""image-@N@""#);
                more = self.own("image", "image-@N@", value);
            }
            Kind::OtherImage => more = self.own("image", "image-@N@", value),
            Kind::Config => {
                full.insert("configs", r#"["conf-@N@"]"#);
                more = self.own("config", "conf-@N@", value);
            }
            Kind::Secret => {
                full.insert("secrets", r#"["key-@N@"]"#);
                more = self.own("secret", "key-@N@", value);
            }
        }
        let keys = full.iter().filter(|(_, value)| **value != "-");
        let text: String = keys.map(|(key, value)| format!("{key} = {value}\n")).collect();
        let text = format!("[container.{name}]\n{text}{more}");
        text.replace("@PORT@", &format!("{}", 10_000 + number))
            .replace("@N3@", &format!("{number:04}"))
            .replace("@HEX@", &format!("{number:02x}"))
            .replace("@N@", &number.to_string())
    }

    fn own(&self, kind: &str, name: &str, value: Option<&str>) -> String {
        let key = value.map(|value| (self.key(), value));
        let keys = self.with.iter().copied().chain(key);
        let text: String = keys.map(|(key, value)| format!("{key} = {value}\n")).collect();
        format!("[{kind}.{name}]\n{text}")
    }
}
