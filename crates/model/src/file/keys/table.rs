//! The rows. One line a key: path, what it takes, default, status, meaning.

use super::Status::{Later, Works};
use super::Type::*;
use super::{Key, Status, Type, Word};

// Statuses of features that several rows share: those of issues to come.
const BUILDS: Status = Later("builds");

const NAME: Type = Pattern(r"^[a-z0-9][a-z0-9_.-]{0,62}$", "name");
const IP: Type = Pattern(r"^[0-9a-fA-F.:]+$", "IP address");
const IP4: Type = Pattern(r"^[0-9]{1,3}(\.[0-9]{1,3}){3}$", "IPv4 address");
const IP6: Type = Pattern(r"^[0-9a-fA-F:.]+$", "IPv6 address");
const NET: Type = Pattern(r"^[0-9a-fA-F.:]+(/[0-9]{1,3})?$", "network");
const NET4: Type = Pattern(r"^[0-9]{1,3}(\.[0-9]{1,3}){3}/[0-9]{1,2}$", "IPv4 network");
const NET6: Type = Pattern(r"^[0-9a-fA-F:.]+/[0-9]{1,3}$", "IPv6 network");
const HOSTNAME: Type = Pattern(
    r"^[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?)*$",
    "host name",
);
const KEY: Type = Pattern(r"^[A-Za-z0-9+/]{43}=$", "public key of WireGuard");
const DEVICE: Type = Pattern(r"^[^/:\s]{1,15}$", "device name");
const SIGNAL: Type = Pattern(r"^([A-Za-z]+[A-Za-z0-9]*([+-][0-9]+)?|[0-9]{1,2})$", "signal");
const CAPABILITY: Type = Pattern(r"^[A-Za-z_]+$", "capability");
const USER: Type = Pattern(r"^[^:\s]+(:[^:\s]+)?$", "USER[:GROUP]");
const MODE: Type = Pattern(r"^[0-7]{3,4}$", "octal mode");
const MAC: Type = Pattern(r"^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$", "MAC address");
const CPUSET: Type = Pattern(r"^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$", "list of CPUs");
const TMPFS: Type = Pattern(r"^/.*$", "PATH[:OPTIONS]");
const HOST_DEVICE: Type = Pattern(r"^/[^:]+(:/[^:]+)?(:[rwm]{1,3})?$", "HOST[:CONTAINER][:rwm]");
const PERCENT: Type = Pattern(r"^[0-9]{1,3}%$", "percentage");
const ULIMIT: Type = Pattern(r"^(-1|unlimited|[0-9]+)(:(-1|unlimited|[0-9]+))?$", "SOFT[:HARD]");
const RUNTIME: Type = Pattern(r"^([A-Za-z0-9][A-Za-z0-9_.-]*|/.+)$", "name or path");
const REFERENCE: Type = Pattern(r"^[^\s]+$", "registry reference");
const URL: Type = Pattern(r"^https?://[^\s/@]+/?$", "URL");
const RANGE: Type = Pattern(r"^[0-9]{1,5}(-[0-9]{1,5})?$", "port or range");
const ARGUMENTS: Type = OneOf(&[Text, List(&Text)]);

const PULL: &[Word] = &[
    ("always", Works),
    ("missing", Works),
    ("never", Works),
    ("newer", Works),
];
const NETWORK_MODE: &[Word] = &[
    ("bridge", Works),
    ("host", Works),
    ("none", Works),
    ("container:", Works),
];
const NAMESPACE: &[Word] = &[("private", Works), ("host", Works), ("container:", Works)];
const USERNS: &[Word] = &[("host", Works), ("auto", Later("systemd"))];
const SECCOMP: &[Word] = &[("default", Works), ("unconfined", Works)];
const POLICY: &[Word] = &[("always", Works), ("on-failure", Works), ("no", Works)];
const LOG_DRIVER: &[Word] = &[("file", Works), ("journald", Later("systemd")), ("none", Works)];
const STRATEGY: &[Word] = &[("recreate", Works), ("start-first", Works)];
const ON_FAILURE: &[Word] = &[("restart", Works), ("stop", Works), ("none", Works)];
const CONDITION: &[Word] = &[("started", Works), ("healthy", Works), ("completed", Works)];
const PROTOCOL: &[Word] = &[("tcp", Works), ("udp", Works)];
const VOLUME_TYPE: &[Word] = &[("bind", Works), ("volume", Works), ("tmpfs", Works)];
const PROPAGATION: &[Word] = &[
    ("private", Works),
    ("rprivate", Works),
    ("shared", Works),
    ("rshared", Works),
    ("slave", Works),
    ("rslave", Works),
];
const NETWORK_DRIVER: &[Word] = &[
    ("bridge", Works),
    ("macvlan", Works),
    ("ipvlan", Works),
    ("overlay", Works),
    ("ovs", Works),
];
const TUNNEL: &[Word] = &[("vxlan", Works), ("gre", Works), ("geneve", Works)];
const ENCRYPTION: &[Word] = &[("none", Works), ("wireguard", Works)];
const DATAPATH: &[Word] = &[("system", Works), ("netdev", Works)];
const VOLUME_DRIVER: &[Word] = &[
    ("local", Works),
    ("bind", Works),
    ("tmpfs", Works),
    ("nfs", Works),
];
const ON_CHANGE: &[Word] = &[
    ("restart", Works),
    ("replace", Works),
    ("none", Works),
    ("signal:", Works),
];
const FIREWALL: &[Word] = &[
    ("auto", Works),
    ("nftables", Works),
    ("iptables", Works),
    ("none", Works),
];

const fn key(path: &'static str, ty: Type, default: &'static str, status: Status, doc: &'static str) -> Key {
    Key {
        path,
        ty,
        default,
        status,
        doc,
    }
}

/// The files of the config dir.
#[rustfmt::skip]
pub const DESIRED: &[Key] = &[
    key("container", Named, "", Works, "containers by name"),
    key("container.*", Table, "", Works, "one container"),
    key("container.*.image", Image, "", Works, "the image; this or `rootfs` is required"),
    key("container.*.rootfs", Path, "", Works, "a directory used as the read-only root instead of an image"),
    key("container.*.pull", Words(PULL), "\"missing\"", Works, "when the registry is asked for the image"),
    key("container.*.update_check", Duration, "\"1h\"", Works, "how often `pull = \"newer\"` asks"),
    key("container.*.command", ARGUMENTS, "the image's", Works, "replaces the image's Cmd; a string is split as a shell does, no shell is run"),
    key("container.*.entrypoint", ARGUMENTS, "the image's", Works, "replaces the image's Entrypoint and clears its Cmd"),
    key("container.*.env", Map(&Text), "{}", Works, "environment variables, over the image's and those of `env_file`"),
    key("container.*.env_file", List(&Path), "[]", Works, "files with `NAME=value` lines, later ones over earlier ones"),
    key("container.*.user", USER, "the image's", Works, "user (and group) by name or number"),
    key("container.*.groups", List(&Text), "[]", Works, "additional groups by name or number"),
    key("container.*.working_dir", Path, "the image's", Works, "directory the program starts in"),
    key("container.*.hostname", HOSTNAME, "the container's name", Works, "host name inside"),
    key("container.*.labels", Map(&Text), "{}", Works, "labels, for you and your tools"),
    key("container.*.replicas", Integer(1, 1000), "1", Works, "how many instances run: `NAME`, `NAME-2`, …"),
    key("container.*.enabled", Boolean, "true", Works, "`false`: as if the table were not there"),
    key("container.*.ports", List(&OneOf(&[Port, Table])), "[]", Works, "published ports: `[[IP:]HOST:]CONTAINER[/tcp|udp]` or a table; no host port: a free one is picked; ranges of equal length with `-`"),
    key("container.*.ports.host", OneOf(&[Integer(1, 65535), RANGE]), "a free one", Works, "port (or range) of the host"),
    key("container.*.ports.container", OneOf(&[Integer(1, 65535), RANGE]), "", Works, "port (or range) of the container; required"),
    key("container.*.ports.protocol", Words(PROTOCOL), "\"tcp\"", Works, "transport protocol"),
    key("container.*.ports.ip", IP, "`agent.default_host_ip`, and all IPv6 addresses where a network of the container has IPv6", Works, "address of the host the port is published on; `0.0.0.0` is all IPv4, `::` all IPv6"),
    key("container.*.ports.allow", List(&NET), "[] (everybody)", Works, "sources that are let in; empty: everybody"),
    key("container.*.publish_all", Boolean, "false", Works, "publish every EXPOSEd port on a free host port"),
    key("container.*.networks", OneOf(&[List(&NAME), Named]), "[\"default\"]", Works, "networks, in the order of eth0, eth1, …"),
    key("container.*.networks.*", Table, "", Works, "one network with addresses"),
    key("container.*.networks.*.ip", IP4, "a free one", Works, "fixed IPv4 address"),
    key("container.*.networks.*.ip6", IP6, "a free one", Works, "fixed IPv6 address"),
    key("container.*.networks.*.mac", MAC, "derived from the address", Works, "fixed MAC address"),
    key("container.*.networks.*.aliases", List(&NAME), "[]", Works, "further names on that network"),
    key("container.*.networks.*.priority", Integer(-1000, 1000), "0", Works, "higher ones come first; equal ones by name"),
    key("container.*.network_mode", Words(NETWORK_MODE), "\"bridge\"", Works, "`bridge` (its `networks`), `host` (the host's own) or `none`"),
    key("container.*.links", List(&Text), "[]", Works, "containers reachable under a name, as NAME[:ALIAS], also where `icc = false`"),
    key("container.*.dns", List(&IP), "the host's", Works, "name servers in resolv.conf"),
    key("container.*.dns_search", List(&Text), "the host's", Works, "search domains in resolv.conf"),
    key("container.*.extra_hosts", Map(&IP), "{}", Works, "further lines of /etc/hosts, NAME = ADDRESS"),
    key("container.*.volumes", List(&OneOf(&[Volume, Table])), "[]", Works, "mounts: `SOURCE:TARGET[:OPTIONS]`, `TARGET` or a table"),
    key("container.*.volumes.type", Words(VOLUME_TYPE), "", Works, "what is mounted"),
    key("container.*.volumes.source", Text, "", Works, "an absolute path (bind) or a volume's name"),
    key("container.*.volumes.target", Path, "", Works, "where it appears inside"),
    key("container.*.volumes.read_only", Boolean, "false", Works, "no writing"),
    key("container.*.volumes.create", Boolean, "false", Works, "make the directory of a bind where it is missing"),
    key("container.*.volumes.propagation", Words(PROPAGATION), "\"rprivate\"", Works, "mount propagation of a bind"),
    key("container.*.volumes.require_mount", Boolean, "false", Works, "the bind's source has to be a mount point"),
    key("container.*.volumes.size", Size, "half of the memory", Works, "size of a tmpfs"),
    key("container.*.volumes.mode", MODE, "\"1777\"", Works, "mode of a tmpfs"),
    key("container.*.volumes_from", List(&Text), "[]", Works, "containers whose volumes are mounted here too, as `NAME[:ro]`"),
    key("container.*.secrets", List(&NAME), "[]", Works, "secrets that appear in /run/secrets"),
    key("container.*.configs", List(&NAME), "[]", Works, "configs that appear at their target"),
    key("container.*.read_only", Boolean, "false", Works, "the root file system cannot be written"),
    key("container.*.tmpfs", List(&TMPFS), "[]", Works, "memory file systems: `PATH[:size=64M,mode=1777]`"),
    key("container.*.init", Boolean, "false", Works, "a reaping init as pid 1"),
    key("container.*.stop_signal", SIGNAL, "the image's, else \"SIGTERM\"", Works, "signal that asks the program to end"),
    key("container.*.stop_grace_period", Duration, "\"10s\"", Works, "time it has before it is killed"),
    key("container.*.cap_add", List(&CAPABILITY), "[]", Works, "capabilities added to the default set; `ALL`"),
    key("container.*.cap_drop", List(&CAPABILITY), "[]", Works, "capabilities taken away; `ALL`"),
    key("container.*.privileged", Boolean, "false", Works, "all capabilities and devices, no seccomp, nothing masked: as good as root on the host"),
    key("container.*.no_new_privileges", Boolean, "true", Works, "programs gain nothing by setuid bits"),
    key("container.*.devices", List(&HOST_DEVICE), "[]", Works, "devices of the host: `HOST[:CONTAINER][:rwm]`"),
    key("container.*.sysctls", Map(&OneOf(&[Text, Integer(i64::MIN, i64::MAX)])), "{}", Works, "kernel settings that belong to the container: net.*, kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.*"),
    key("container.*.ulimits", Map(&OneOf(&[Integer(-1, i64::MAX), ULIMIT, Table])), "{}", Works, "limits of setrlimit(2): a number for both, \"SOFT:HARD\" or a table; -1 is unlimited"),
    key("container.*.ulimits.soft", OneOf(&[Integer(-1, i64::MAX), ULIMIT]), "", Works, "the limit that applies"),
    key("container.*.ulimits.hard", OneOf(&[Integer(-1, i64::MAX), ULIMIT]), "", Works, "how far the program may raise it"),
    key("container.*.userns", Words(USERNS), "\"host\"", Works, "user namespace"),
    key("container.*.pid", Words(NAMESPACE), "\"private\"", Works, "process ids of its own or the host's"),
    key("container.*.ipc", Words(NAMESPACE), "\"private\"", Works, "System V IPC and message queues of its own or the host's"),
    key("container.*.seccomp", OneOf(&[Words(SECCOMP), Path]), "\"default\"", Works, "system call filter"),
    key("container.*.runtime", RUNTIME, "\"embedded\"", Works, "`embedded`, or the name or path of an OCI runtime (`crun`, `runc`)"),
    key("container.*.depends_on", OneOf(&[List(&NAME), Map(&OneOf(&[Words(CONDITION), Table]))]), "{}", Works, "what must be so before it starts, NAME = \"started\", \"healthy\" or \"completed\""),
    key("container.*.depends_on.condition", Words(CONDITION), "\"started\"", Works, "what the other container must be"),
    key("container.*.depends_on.restart", Boolean, "false", Works, "restart when the other one is replaced"),
    key("container.*.requires_mounts", List(&Path), "[]", Works, "not before these are mount points (asked at a start only)"),
    key("container.*.after_network_online", Boolean, "false", Works, "not before the host's network is online (asked at a start only)"),
    key("container.*.restart", OneOf(&[Words(POLICY), Table]), "\"always\"", Works, "what follows the end of a run: a policy, or a table"),
    key("container.*.restart.policy", Words(POLICY), "\"always\"", Works, "when it is started again"),
    key("container.*.restart.backoff", Duration, "\"100ms\"", Works, "delay before the second restart in a row, doubling each time"),
    key("container.*.restart.backoff_max", Duration, "\"60s\"", Works, "the longest delay"),
    key("container.*.restart.reset_after", Duration, "\"10s\"", Works, "a run this long was a good one: the next restart is immediate again"),
    key("container.*.healthcheck", OneOf(&[Off, Table]), "the image's", Works, "`false`: no health check"),
    key("container.*.healthcheck.exec", List(&Text), "", Works, "a command inside; exit 0 is healthy"),
    key("container.*.healthcheck.shell", Text, "", Works, "the same for /bin/sh -c"),
    key("container.*.healthcheck.http", Table, "", Works, "a GET request"),
    key("container.*.healthcheck.http.port", Integer(1, 65535), "", Works, "port inside; required"),
    key("container.*.healthcheck.http.path", Text, "\"/\"", Works, "path asked for"),
    key("container.*.healthcheck.http.status", List(&Integer(100, 599)), "[200]", Works, "healthy answers"),
    key("container.*.healthcheck.http.host", Text, "\"127.0.0.1\"", Works, "address inside"),
    key("container.*.healthcheck.tcp", Integer(1, 65535), "", Works, "a port that accepts connections"),
    key("container.*.healthcheck.interval", Duration, "\"30s\"", Works, "time between two probes"),
    key("container.*.healthcheck.timeout", Duration, "\"30s\"", Works, "a probe that takes longer has failed"),
    key("container.*.healthcheck.retries", Integer(1, 1000), "3", Works, "failures in a row until it is unhealthy"),
    key("container.*.healthcheck.start_period", Duration, "\"0s\"", Works, "failures this soon do not count"),
    key("container.*.healthcheck.start_interval", Duration, "the smaller of interval and 1s", Works, "time between two probes until the first success"),
    key("container.*.healthcheck.on_failure", Words(ON_FAILURE), "\"restart\"", Works, "what an unhealthy container gets"),
    key("container.*.limits", Table, "{}", Works, "resource limits"),
    key("container.*.limits.memory", Size, "none", Works, "memory"),
    key("container.*.limits.memory_swap", Size, "none", Works, "memory and swap together"),
    key("container.*.limits.memory_reservation", Size, "none", Works, "memory kept for it under pressure"),
    key("container.*.limits.cpus", Number, "none", Works, "cores"),
    key("container.*.limits.cpu_shares", Integer(2, 262_144), "1024", Works, "share of the CPU under contention"),
    key("container.*.limits.cpuset", CPUSET, "all", Works, "cores it may run on"),
    key("container.*.limits.pids", Integer(1, 4_194_304), "none", Works, "processes and threads"),
    key("container.*.limits.blkio_weight", Integer(10, 1000), "none", Works, "share of the disks under contention"),
    key("container.*.update", Table, "{}", Works, "how a change replaces it"),
    key("container.*.update.strategy", Words(STRATEGY), "\"recreate\"", Works, "which is first when a change replaces the container: the old one stopped, or the new one started"),
    key("container.*.update.drain", Duration, "\"5s\"", Works, "how long the old one may finish what it has"),
    key("container.*.update.timeout", Duration, "\"60s\"", Works, "not healthy by then: the old one stays"),
    key("container.*.update.parallelism", Integer(1, 1000), "1", Works, "of several replicas, how many are replaced at a time"),
    key("container.*.logging", Table, "{}", Works, "what becomes of its output"),
    key("container.*.logging.driver", Words(LOG_DRIVER), "\"file\"", Works, "`file` (JSON lines) or `none`"),
    key("container.*.logging.max_size", Size, "\"10M\"", Works, "size of one file"),
    key("container.*.logging.max_files", Integer(1, 1000), "3", Works, "files kept, the current one included"),
    key("container.*.schedule", Text, "", Works, "a systemd calendar expression: run to completion then"),
    key("container.*.randomized_delay", Duration, "\"0s\"", Works, "each run is begun up to this much later, drawn for each"),
    key("container.*.persistent", Boolean, "true", Works, "a run missed while the host or the agent was off is made up for, once"),

    key("network", Named, "", Works, "networks by name; `default` is the one of containers without `networks`"),
    key("network.*", Table, "", Works, "one network"),
    key("network.*.driver", Words(NETWORK_DRIVER), "\"bridge\"", Works, "how it is made"),
    key("network.*.subnet", NET4, "a free /24 of `network.pool`", Works, "addresses of the network; a picked one is kept"),
    key("network.*.gateway", IP4, "the subnet's first address", Works, "the host's address in it; of a macvlan, an ipvlan or an adopted bridge, the LAN's router"),
    key("network.*.range", NET4, "the subnet", Works, "addresses given to containers come from this part"),
    key("network.*.internal", Boolean, "false", Works, "no way out of the host"),
    key("network.*.icc", Boolean, "true", Works, "containers of the network reach each other; false: over `links` alone"),
    key("network.*.mtu", Integer(68, 65535), "the kernel's; of an overlay, what fits between hosts", Works, "largest packet in bytes"),
    key("network.*.masquerade", Boolean, "true", Works, "what leaves the host carries the host's address"),
    key("network.*.bridge", DEVICE, "derived from the name", Works, "the bridge device's name"),
    key("network.*.dns", Boolean, "true", Works, "containers find each other by name"),
    key("network.*.subnet6", NET6, "none", Works, "IPv6 addresses of the network, beside the IPv4 ones; from /16 to /126"),
    key("network.*.gateway6", IP6, "the second of `subnet6`", Works, "the host's IPv6 address in it, or the LAN's router"),
    key("network.*.range6", NET6, "`subnet6`", Works, "IPv6 addresses given to containers"),
    key("network.*.ipv4", Boolean, "true", Works, "false: no IPv4; IPv6 alone, of `subnet6` or of a picked /64"),
    key("network.*.ipv6", Boolean, "false", Works, "pick a free /64 of settings' `network.pool6`, and keep it"),
    key("network.*.masquerade6", Boolean, "true", Works, "`masquerade` for IPv6; false where `subnet6` is routed to this host"),
    key("network.*.adopt", Boolean, "false", Works, "join the bridge of that name, which somebody else made; nothing of it is changed"),
    key("network.*.parent", DEVICE, "", Works, "the host's device under a macvlan or ipvlan; required there"),
    key("network.*.host_access", Boolean, "false", Works, "a device that lets the host reach a macvlan or ipvlan; it has the first address of `range`"),
    key("network.*.overlay", Table, "", Works, "a network over several hosts"),
    key("network.*.overlay.tunnel", Words(TUNNEL), "\"vxlan\"", Works, "encapsulation; `gre` and `geneve` with `driver = \"ovs\"`"),
    key("network.*.overlay.vni", Integer(1, 16_777_215), "", Works, "number of the virtual network, the same on every host; required"),
    key("network.*.overlay.port", Integer(1, 65535), "4789; of Geneve 6081, of WireGuard 51820", Works, "UDP port between hosts, the same on every one"),
    key("network.*.overlay.local", IP, "this host's among the peers, else what it reaches them from", Works, "this host's address towards its peers"),
    key("network.*.overlay.peers", List(&IP), "[]", Works, "the other hosts; this host's own address may be among them"),
    key("network.*.overlay.peers_file", Path, "", Works, "a file with more of them, one a line, `#` begins a comment; a change counts at once"),
    key("network.*.overlay.names", Map(&IP), "{}", Works, "containers on other hosts, NAME = ADDRESS"),
    key("network.*.overlay.encryption", Words(ENCRYPTION), "\"none\"", Works, "between hosts, of `driver = \"overlay\"`"),
    key("network.*.overlay.keys", Map(&KEY), "{}", Works, "the hosts' public keys for it, ADDRESS = KEY; `wharf network inspect` shows this host's"),
    key("network.*.overlay.datapath", Words(DATAPATH), "\"system\"", Works, "of Open vSwitch: its kernel module's, or `netdev`, without the kernel"),
    key("network.*.overlay.vlan", Integer(0, 4094), "0", Works, "of Open vSwitch: tag of containers and gateway, the same on every host; 0 for none"),

    key("volume", Named, "", Works, "volumes by name"),
    key("volume.*", Table, "", Works, "one volume"),
    key("volume.*.driver", Words(VOLUME_DRIVER), "\"local\"", Works, "where the data is"),
    key("volume.*.device", Text, "", Works, "the directory (bind) or SERVER:/PATH (nfs)"),
    key("volume.*.options", ARGUMENTS, "[]", Works, "mount options (nfs): a list, or one string with commas"),
    key("volume.*.labels", Map(&Text), "{}", Works, "labels, for you and your tools"),
    key("volume.*.keep", Boolean, "true", Works, "the data outlives the table"),
    key("volume.*.exclusive", Boolean, "false", Works, "never in two instances at once; rules out start-first"),

    key("image", Named, "", Works, "images by name, had ready ahead of use and kept"),
    key("image.*", Table, "", Works, "one image"),
    key("image.*.pull", Image, "", Works, "where it comes from; required"),
    key("image.*.build", Table, "", BUILDS, "build it from a Dockerfile"),
    key("image.*.build.context", Path, "", BUILDS, "directory the build sees; required"),
    key("image.*.build.dockerfile", Text, "\"Dockerfile\"", BUILDS, "file in the context"),
    key("image.*.build.target", Text, "the last stage", BUILDS, "stage to stop at"),
    key("image.*.build.args", Map(&Text), "{}", BUILDS, "values of ARG"),
    key("image.*.push", List(&REFERENCE), "[]", BUILDS, "registry references the built image is pushed to"),

    key("config", Named, "", Works, "files for containers, by name"),
    key("config.*", Table, "", Works, "one file"),
    key("config.*.file", Path, "", Works, "a file of the host"),
    key("config.*.content", Text, "", Works, "the content itself"),
    key("config.*.target", Path, "/NAME", Works, "where it appears inside"),
    key("config.*.mode", MODE, "\"0444\"", Works, "its mode"),
    key("config.*.uid", Integer(0, 4_294_967_294), "0", Works, "its owner"),
    key("config.*.gid", Integer(0, 4_294_967_294), "0", Works, "its group"),
    key("config.*.on_change", Words(ON_CHANGE), "\"restart\"", Works, "what a changed content does"),

    key("secret", Named, "", Works, "secrets by name"),
    key("secret.*", Table, "", Works, "one secret"),
    key("secret.*.file", Path, "", Works, "a file of the host"),
    key("secret.*.env", Text, "", Works, "a variable of the agent's environment"),
    key("secret.*.credential", Text, "", Works, "a systemd credential of the agent"),
    key("secret.*.mode", MODE, "\"0400\"", Works, "its mode"),
    key("secret.*.uid", Integer(0, 4_294_967_294), "0", Works, "its owner"),
    key("secret.*.gid", Integer(0, 4_294_967_294), "0", Works, "its group"),
    key("secret.*.on_change", Words(ON_CHANGE), "\"restart\"", Works, "what a changed content does"),
];

/// The agent's settings.
#[rustfmt::skip]
pub const SETTINGS: &[Key] = &[
    key("agent", Table, "", Works, "the agent itself"),
    key("agent.removal_grace", Duration, "\"2s\"", Works, "how long a table must be gone before what it made is removed"),
    key("agent.full_pass", Duration, "\"30s\"", Works, "the longest time between two looks at everything"),
    key("agent.default_host_ip", IP4, "\"0.0.0.0\"", Works, "where a port without an address is published; other than `0.0.0.0`, there alone and on no IPv6 address"),
    key("agent.registries", Table, "", Works, "registries of images that name none"),
    key("agent.registries.search", List(&REFERENCE), "[\"docker.io\"]", Works, "where an image that names no registry is looked for"),
    key("network", Table, "", Works, "networks"),
    key("network.pool", List(&NET4), "[\"10.88.0.0/16\"]", Works, "subnets of networks that name none are /24s of these"),
    key("network.pool6", NET6, "one of fd00::/8, made at random once (RFC 4193)", Works, "networks with `ipv6 = true` get /64s of this"),
    key("firewall", Table, "", Works, "published ports and masquerading"),
    key("firewall.backend", Words(FIREWALL), "\"auto\"", Works, "what they are made with"),
    key("dns", Table, "", Works, "name resolution of containers"),
    key("dns.upstream", List(&IP), "the host's resolv.conf", Works, "servers asked for names that are no container's"),
    key("registry", Named, "", Works, "registries by HOST[:PORT]"),
    key("registry.*", Table, "", Works, "one registry"),
    key("registry.*.insecure", Boolean, "true on the loopback", Works, "http, or https with any certificate"),
    key("registry.*.mirror_of", REFERENCE, "", Works, "ask here first for that registry's images"),
    key("registry.*.ca", Path, "the host's", Works, "certificates of authorities (PEM) that are trusted besides the host's"),
    key("registry.*.username", Text, "", Works, "who logs in"),
    key("registry.*.password_file", Path, "", Works, "file with the password"),
    key("gc", Table, "", Works, "removal of images that nothing uses"),
    key("gc.max_age", Duration, "\"168h\"", Works, "unused this long; `\"0s\"`: however long"),
    key("gc.keep_free", PERCENT, "\"10%\"", Works, "or sooner, where less of the state dir's file system is free; `\"0%\"`: however full it is"),
    key("cluster", Table, "", Works, "where overlays without `peers` and `peers_file` find their other hosts"),
    key("cluster.etcd", List(&URL), "", Works, "URLs of etcd's members, asked in this order; required"),
    key("cluster.host", IP, "what etcd is reached from", Works, "this host's address towards the others"),
    key("cluster.lease", Duration, "\"5m\"", Works, "how long the others count this host as there without hearing of it; from 5s to 24h"),
    key("cluster.ca", Path, "the host's", Works, "certificates that are trusted for https, PEM"),
    key("host", Table, "", Later("systemd"), "this host"),
    key("host.labels", Map(&Text), "{}", Later("systemd"), "labels of this host"),
];
