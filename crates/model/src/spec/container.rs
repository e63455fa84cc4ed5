//! `[container.NAME]`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::calendar::Calendar;
use crate::firewall::Protocol;
use crate::image::ImageSource;
use crate::name::{Name, NameError};
use crate::network::MacAddr;

/// A whole container table. `None` and empty mean "as the image says" where the image has a say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// `image` or `rootfs`.
    pub image: ImageSource,
    pub pull: PullPolicy,
    pub update_check: Duration,
    pub command: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub env: BTreeMap<String, String>,
    pub env_file: Vec<PathBuf>,
    pub user: Option<String>,
    pub groups: Vec<String>,
    pub working_dir: Option<String>,
    /// The container's name when none.
    pub hostname: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub replicas: u32,
    pub enabled: bool,
    pub ports: Vec<PortSpec>,
    pub publish_all: bool,
    /// In the order of eth0, eth1, …; empty with mode bridge: the network `default`.
    pub networks: Vec<NetworkUse>,
    pub network_mode: NetworkMode,
    pub links: Vec<LinkSpec>,
    pub dns: Vec<IpAddr>,
    pub dns_search: Vec<String>,
    pub extra_hosts: BTreeMap<String, IpAddr>,
    pub volumes: Vec<VolumeUse>,
    pub volumes_from: Vec<String>,
    pub secrets: Vec<Name>,
    pub configs: Vec<Name>,
    pub read_only: bool,
    /// Targets of `tmpfs = […]` with the options after a colon, as docker's `--tmpfs`.
    pub tmpfs: Vec<TmpfsMount>,
    pub init: bool,
    /// A signal's name with SIG (`SIGTERM`).
    pub stop_signal: Option<String>,
    pub stop_grace_period: Duration,
    /// Without `CAP_`, upper case; `ALL` is kept as it is.
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub privileged: bool,
    pub no_new_privileges: bool,
    pub devices: Vec<DeviceUse>,
    pub sysctls: BTreeMap<String, String>,
    pub ulimits: BTreeMap<String, Ulimit>,
    pub userns: UserNamespace,
    pub pid: NamespaceMode,
    pub ipc: NamespaceMode,
    pub seccomp: Seccomp,
    pub runtime: RuntimeChoice,
    pub depends_on: BTreeMap<Name, Dependency>,
    pub requires_mounts: Vec<PathBuf>,
    pub after_network_online: bool,
    pub restart: RestartSpec,
    pub healthcheck: HealthcheckChoice,
    pub limits: Limits,
    pub update: UpdateSpec,
    pub logging: Logging,
    pub schedule: Option<Calendar>,
    pub randomized_delay: Duration,
    pub persistent: bool,
}

impl ContainerSpec {
    /// A table that says nothing but its image.
    pub fn new(image: ImageSource) -> Self {
        Self {
            image,
            pull: PullPolicy::Missing,
            update_check: Duration::from_secs(3600),
            command: None,
            entrypoint: None,
            env: BTreeMap::new(),
            env_file: Vec::new(),
            user: None,
            groups: Vec::new(),
            working_dir: None,
            hostname: None,
            labels: BTreeMap::new(),
            replicas: 1,
            enabled: true,
            ports: Vec::new(),
            publish_all: false,
            networks: Vec::new(),
            network_mode: NetworkMode::Bridge,
            links: Vec::new(),
            dns: Vec::new(),
            dns_search: Vec::new(),
            extra_hosts: BTreeMap::new(),
            volumes: Vec::new(),
            volumes_from: Vec::new(),
            secrets: Vec::new(),
            configs: Vec::new(),
            read_only: false,
            tmpfs: Vec::new(),
            init: false,
            stop_signal: None,
            stop_grace_period: Duration::from_secs(10),
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            privileged: false,
            no_new_privileges: true,
            devices: Vec::new(),
            sysctls: BTreeMap::new(),
            ulimits: BTreeMap::new(),
            userns: UserNamespace::Host,
            pid: NamespaceMode::Private,
            ipc: NamespaceMode::Private,
            seccomp: Seccomp::Default,
            runtime: RuntimeChoice::Embedded,
            depends_on: BTreeMap::new(),
            requires_mounts: Vec::new(),
            after_network_online: false,
            restart: RestartSpec::default(),
            healthcheck: HealthcheckChoice::Image,
            limits: Limits::default(),
            update: UpdateSpec::default(),
            logging: Logging::default(),
            schedule: None,
            randomized_delay: Duration::ZERO,
            persistent: true,
        }
    }
}

/// `pull`: when the registry is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PullPolicy {
    Always,
    Missing,
    Never,
    Newer,
}

/// One entry of `ports`, a range or a single port. Ranges have equal lengths on both sides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortSpec {
    /// None: settings' `default_host_ip`.
    pub ip: Option<IpAddr>,
    /// First and last host port; none: wharf picks.
    pub host: Option<(u16, u16)>,
    /// First and last container port.
    pub container: (u16, u16),
    pub protocol: Protocol,
    pub allow: Vec<IpNet>,
}

/// One entry of `links`; as text `NAME:ALIAS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkSpec {
    pub container: Name,
    pub alias: Name,
}

impl TryFrom<String> for LinkSpec {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let (container, alias) = text.split_once(':').unwrap_or((&text, &text));
        let (container, alias) = (container.parse()?, alias.parse()?);
        Ok(Self { container, alias })
    }
}

impl From<LinkSpec> for String {
    fn from(link: LinkSpec) -> Self {
        format!("{}:{}", link.container, link.alias)
    }
}

/// One entry of `networks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkUse {
    pub network: Name,
    pub ip: Option<Ipv4Addr>,
    pub ip6: Option<Ipv6Addr>,
    pub mac: Option<MacAddr>,
    pub aliases: Vec<Name>,
    pub priority: i32,
}

impl NetworkUse {
    /// A network by its name alone.
    pub fn new(network: Name) -> Self {
        Self {
            network,
            ip: None,
            ip6: None,
            mac: None,
            aliases: Vec::new(),
            priority: 0,
        }
    }
}

/// `network_mode`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    Bridge,
    Host,
    None,
    Container(Name),
}

/// `pid` and `ipc`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceMode {
    Private,
    Host,
    Container(Name),
}

/// `userns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserNamespace {
    Host,
    Auto,
}

/// One entry of `volumes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeUse {
    pub source: VolumeSource,
    /// Absolute path inside.
    pub target: String,
    pub read_only: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeSource {
    Named(Name),
    Anonymous,
    Bind {
        source: PathBuf,
        create: bool,
        propagation: Propagation,
        require_mount: bool,
    },
    Tmpfs {
        size: Option<u64>,
        mode: Option<u32>,
    },
}

/// Mount propagation of a bind (mount_namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    Private,
    Rprivate,
    Shared,
    Rshared,
    Slave,
    Rslave,
}

/// One entry of `tmpfs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TmpfsMount {
    pub target: String,
    pub size: Option<u64>,
    pub mode: Option<u32>,
}

/// One entry of `devices`: `/dev/fuse`, `/dev/x:/dev/y:rwm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceUse {
    pub host: PathBuf,
    pub container: PathBuf,
    /// Some of `rwm`.
    pub access: String,
}

/// A limit of setrlimit(2); `None` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

/// `seccomp`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    Default,
    Unconfined,
    Profile(PathBuf),
}

/// `runtime`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeChoice {
    Embedded,
    /// The name or path of an OCI runtime.
    External(String),
}

/// One entry of `depends_on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    pub condition: Condition,
    pub restart: bool,
}

/// What a dependency must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    Started,
    Healthy,
    Completed,
}

/// `[container.NAME.restart]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartSpec {
    pub policy: RestartPolicy,
    /// Delay before the second restart in a row, doubling up to `backoff_max`.
    pub backoff: Duration,
    pub backoff_max: Duration,
    /// A run this long was a good one.
    pub reset_after: Duration,
}

impl Default for RestartSpec {
    fn default() -> Self {
        Self {
            policy: RestartPolicy::Always,
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_secs(60),
            reset_after: Duration::from_secs(10),
        }
    }
}

/// `restart.policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    Always,
    OnFailure,
    No,
}

/// `healthcheck`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthcheckChoice {
    /// Not written: the image's, if it has one.
    Image,
    /// `healthcheck = false`.
    Off,
    Declared(Healthcheck),
}

/// A declared health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthcheck {
    pub probe: Probe,
    pub interval: Duration,
    pub timeout: Duration,
    pub retries: u32,
    pub start_period: Duration,
    pub start_interval: Duration,
    pub on_failure: OnFailure,
}

/// How it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    Exec(Vec<String>),
    Shell(String),
    Http {
        port: u16,
        path: String,
        status: Vec<u16>,
        host: String,
    },
    Tcp(u16),
}

/// What an unhealthy verdict does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    Restart,
    Stop,
    None,
}

/// `[container.NAME.limits]`. Bytes, cores, weights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub memory: Option<u64>,
    pub memory_swap: Option<u64>,
    pub memory_reservation: Option<u64>,
    /// Thousandths of a core.
    pub cpus_milli: Option<u64>,
    pub cpu_shares: Option<u64>,
    pub cpuset: Option<String>,
    pub pids: Option<u64>,
    pub blkio_weight: Option<u16>,
}

/// `[container.NAME.update]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateSpec {
    pub strategy: UpdateStrategy,
    pub drain: Duration,
    pub timeout: Duration,
    pub parallelism: u32,
}

impl Default for UpdateSpec {
    fn default() -> Self {
        Self {
            strategy: UpdateStrategy::Recreate,
            drain: Duration::from_secs(5),
            timeout: Duration::from_secs(60),
            parallelism: 1,
        }
    }
}

/// `update.strategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateStrategy {
    Recreate,
    StartFirst,
}

/// `[container.NAME.logging]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logging {
    pub driver: LogDriver,
    /// Bytes of one file.
    pub max_size: u64,
    /// Files kept, the current one included.
    pub max_files: u32,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            driver: LogDriver::File,
            max_size: 10 << 20,
            max_files: 3,
        }
    }
}

/// `logging.driver`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogDriver {
    File,
    Journald,
    None,
}
