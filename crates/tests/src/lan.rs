//! A network that several hosts are on: a bridge in a namespace of its own, a wire to each member.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::namespace::{Duty, Namespace};

/// The bridge. It has no address: nobody is on it but its members.
#[derive(Debug)]
pub struct Lan {
    pub ns: Namespace,
    members: AtomicUsize,
}

impl Default for Lan {
    fn default() -> Self {
        Self::new()
    }
}

impl Lan {
    /// Nobody is on it yet.
    pub fn new() -> Self {
        let ns = Namespace::new("lan", &Duty::default());
        ns.sh("ip link add lan0 type bridge; ip link set lan0 up");
        Self {
            ns,
            members: AtomicUsize::new(0),
        }
    }

    /// Puts a namespace on it: a device `eth1` with this address, prefix included.
    pub fn join(&self, member: &Namespace, address: &str) {
        let port = format!("port{}", self.members.fetch_add(1, Ordering::Relaxed));
        let lan = self.ns.pid();
        let no_duplicates = if address.contains(':') { "nodad" } else { "" };
        member.sh(&format!(
            "ip link add eth1 type veth peer name {port} netns /proc/{lan}/ns/net
             ip addr add {address} dev eth1 {no_duplicates}; ip link set eth1 up"
        ));
        self.ns
            .sh(&format!("ip link set {port} master lan0; ip link set {port} up"));
    }
}
