//! Bridges, veth pairs, the firewall table and the look at host ports, over netlink.
//!
//! Blocking calls, no program of the host is run but those of iptables, where that is the backend; firewalld, where it is, is asked over D-Bus. What is not marked as this agent's is never changed.

mod apart;
mod dbus;
pub mod dns;
mod error;
mod firewall;
mod link;
mod listeners;
mod monitor;
mod names;
mod net;
mod netlink;
mod netns;
mod ovs;
pub mod relay;
mod sys;
mod sysctl;
mod wireguard;

pub use dbus::CallError;
pub use error::NetError;
pub use firewall::{FirewallOptions, LegacyWatch};
pub use monitor::{Changer, Monitor, MonitorEvent};
pub use names::{bridge_name, host_device_name};
pub use net::{FirewallLook, Net};
pub use netlink::KernelError;
pub use ovs::{SwitchError, SwitchWatch};
pub use sysctl::{bridge_setting_files, bridge_settings_are_on};
