//! `wharf status --json` (INTERFACE §3): what users and their tools read.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::diagnostic::Diagnostic;

/// The whole object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub generation: u64,
    pub converged: bool,
    pub config_dir: String,
    pub firewall: String,
    /// What is to be known of that beyond its name: which program, and that it has no atomic switch.
    #[serde(default)]
    pub firewall_note: Option<String>,
    pub version: String,
    pub errors: Vec<Diagnostic>,
    pub containers: Vec<ContainerStatus>,
    pub networks: Vec<NetworkStatus>,
    pub volumes: Vec<VolumeStatus>,
    pub images: Vec<ImageStatus>,
}

/// States of a container, as the contract's table names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Pending,
    Creating,
    Running,
    Paused,
    /// Held by hand.
    Stopped,
    /// A finished job, exit 0.
    Exited,
    Backoff,
    Failed,
    Removing,
}

/// A row of `containers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    pub name: String,
    pub service: String,
    pub instance: u32,
    /// `active`, `trial`, `draining`.
    pub role: String,
    pub id: Option<String>,
    pub state: State,
    /// `none`, `starting`, `healthy`, `unhealthy`.
    pub health: String,
    pub pid: Option<u32>,
    pub restarts: u64,
    pub image: String,
    pub image_id: Option<String>,
    pub image_digest: Option<String>,
    pub created_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub oom_killed: bool,
    pub hold: Option<String>,
    pub rolled_back: Option<RolledBack>,
    pub next_run: Option<Timestamp>,
    pub last_runs: Vec<RunStatus>,
    pub networks: BTreeMap<String, EndpointStatus>,
    pub ports: Vec<PortStatus>,
    pub file: Option<String>,
    pub error: Option<String>,
}

/// A finished run of a container with a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStatus {
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub exit_code: i32,
    /// As durations are written: `1m30s`.
    pub duration: String,
}

/// An update that was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    pub at: Timestamp,
    pub reason: String,
    pub log: Vec<String>,
}

/// A container's place in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    pub device: String,
    /// None on a network without IPv4.
    pub ip: Option<String>,
    pub ip6: Option<String>,
    pub mac: String,
    pub gateway: Option<String>,
    pub gateway6: Option<String>,
}

/// One published port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    pub ip: String,
    pub host: u16,
    pub container: u16,
    pub protocol: String,
    pub allow: Vec<String>,
    /// Who can reach it: `everybody`, `sources` (those of `allow`), `host` (published on a loopback address), `nobody` (there
    /// is no firewall of ours that publishes it).
    #[serde(default)]
    pub open_to: String,
    /// Somebody else's firewall that keeps out whoever is not this host, be they let in by us.
    #[serde(default)]
    pub closed_by: Option<String>,
    /// What may keep others out and is not judged; null where all is known.
    #[serde(default)]
    pub unjudged: Option<String>,
}

/// A row of `networks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    pub name: String,
    pub driver: String,
    pub device: String,
    pub subnet: Option<String>,
    pub gateway: Option<String>,
    pub subnet6: Option<String>,
    pub gateway6: Option<String>,
    /// The part of the subnet that addresses are given out from, where it is not all of it.
    #[serde(default)]
    pub range: Option<String>,
    pub containers: Vec<String>,
    /// The other hosts of an overlay.
    #[serde(default)]
    pub peers: Vec<PeerStatus>,
    /// What this host's key for an encrypted overlay is to the others (`keys` in their tables).
    #[serde(default)]
    pub public_key: Option<String>,
    pub error: Option<String>,
}

/// Another host of an overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    pub address: String,
    /// Where it is known from: `peers`, `peers_file`, `etcd`.
    pub from: String,
    /// What it calls itself, where etcd says so.
    pub host: Option<String>,
    /// Its part of the subnet, likewise.
    pub range: Option<String>,
}

/// A row of `volumes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    pub name: String,
    pub driver: String,
    pub path: String,
    pub kept: bool,
    pub used_by: Vec<String>,
    #[serde(default)]
    pub error: Option<String>,
}

/// A row of `images`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageStatus {
    #[serde(rename = "ref")]
    pub reference: String,
    pub id: Option<String>,
    pub digest: Option<String>,
    pub size: u64,
    pub used_by: Vec<String>,
    pub error: Option<String>,
}
