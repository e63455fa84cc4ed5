//! Whole-agent tests on hosts made of namespaces.
//!
//! A [`Host`] is a machine as far as the agent can see: network, mount and host name of its own, a neighbour on a wire,
//! directories and a cgroup parent of its own. The real `wharf` binary runs on it. Everything goes away with the value,
//! also when the test panics or is killed. [`leaks`] counts what is left behind; [`images`] makes images without
//! anybody's tools.
//!
//! This crate is test code from end to end: it may panic.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

pub mod agent;
pub mod backends;
pub mod binary;
pub mod calls;
pub mod cgroups;
pub mod client;
pub mod cutter;
pub mod docker;
pub mod engines;
pub mod etcd;
pub mod firewalls;
pub mod host;
pub mod http;
pub mod images;
pub mod lan;
pub mod leaks;
pub mod load;
pub mod memory;
pub mod mock;
pub mod names;
pub mod namespace;
pub mod ovs;
pub mod process;
pub mod pty;
pub mod random;
pub mod registry;
pub mod survey;
pub mod systemd_host;
pub mod together;

pub use backends::Backend;
pub use etcd::Etcd;
pub use host::{From, Host};
pub use lan::Lan;
pub use systemd_host::SystemdHost;
pub use together::at_once;
