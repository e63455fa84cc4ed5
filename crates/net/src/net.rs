//! [`Net`]: everything the agent asks of the host's network.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::Ipv4Net;
use model::firewall::{FirewallBridge, FirewallState};
use model::network::{Attachment, BridgeNetwork};
use model::observed::{ForeignAddress, Listener, ObservedLink};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_SOCK_DIAG};

use crate::error::{Doing, NetError};
use crate::link::{self, Mark};
use crate::netlink::Netlink;
use crate::{firewall, listeners, sysctl};

/// The network of one host: devices, addresses, firewall. One per agent.
///
/// Its sockets belong to the network namespace of the thread that called [`Net::new`]; kernel settings are read and
/// written in the namespace of the calling thread. Both must be the same: an agent never leaves its own.
pub struct Net {
    owner: String,
    mark: Mark,
    route: Mutex<Netlink>,
    filter: Mutex<Netlink>,
    diag: Mutex<Netlink>,
    /// See [`Net::keep_forward_guard`].
    guarded: AtomicBool,
}

impl Net {
    /// `owner`: short id of the agent's state dir. It marks devices (alias `wharf:OWNER:…`) and the firewall table.
    pub fn new(owner: &str) -> Result<Self, NetError> {
        if owner.is_empty()
            || owner.len() > 64
            || !owner.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        {
            return Err(NetError::invalid(
                "the agent's id",
                format!("{owner:?} is not letters and digits"),
            ));
        }
        let open = |protocol, name| {
            Netlink::open(protocol)
                .map(Mutex::new)
                .doing(|| format!("open a netlink socket ({name})"))
        };
        Ok(Self {
            owner: owner.to_owned(),
            mark: Mark::new(owner),
            route: open(NETLINK_ROUTE, "rtnetlink")?,
            filter: open(NETLINK_NETFILTER, "nfnetlink")?,
            diag: open(NETLINK_SOCK_DIAG, "sock_diag")?,
            guarded: AtomicBool::new(false),
        })
    }

    /// All devices with their IPv4 addresses, by name; those with our alias are ours.
    pub fn links(&self) -> Result<BTreeMap<String, ObservedLink>, NetError> {
        let (links, addresses) = self.look()?;
        let names: BTreeMap<u32, &str> = links.iter().map(|l| (l.index, l.name.as_str())).collect();
        let observe = |l: &link::Link| {
            let ours = self.mark.is_on(l);
            // A device that went away since has no setting any more.
            let localnet = || sysctl::read(&sysctl::route_localnet(&l.name)).is_ok_and(|v| v == 1);
            let observed = ObservedLink {
                kind: l.kind.clone(),
                ours,
                up: l.up,
                mtu: l.mtu,
                master: l
                    .master
                    .and_then(|index| names.get(&index))
                    .map(|name| (*name).to_owned()),
                addresses: addresses
                    .iter()
                    .filter(|a| a.index == l.index)
                    .filter_map(net_of)
                    .collect(),
                route_localnet: ours && l.kind == "bridge" && localnet(),
            };
            (l.name.clone(), observed)
        };
        Ok(links.iter().map(observe).collect())
    }

    /// IPv4 addresses of all devices that are not ours.
    pub fn foreign_addresses(&self) -> Result<Vec<ForeignAddress>, NetError> {
        let (links, addresses) = self.look()?;
        let foreign: BTreeMap<u32, &str> = links
            .iter()
            .filter(|l| !self.mark.is_on(l))
            .map(|l| (l.index, l.name.as_str()))
            .collect();
        let of = |a: &link::Address| {
            Some(ForeignAddress {
                device: (*foreign.get(&a.index)?).to_owned(),
                address: net_of(a)?,
            })
        };
        Ok(addresses.iter().filter_map(of).collect())
    }

    /// Whether the host forwards IPv4 packets.
    pub fn forwarding(&self) -> Result<bool, NetError> {
        Ok(sysctl::read(sysctl::FORWARD)? != 0)
    }

    /// Makes a network's bridge, or puts right what was changed about it; turns forwarding on.
    ///
    /// The firewall learns of the bridge before anything of it can be reached: the bridge is added to the table's
    /// content where it is missing, because `route_localnet` opens the host's loopback to it otherwise.
    /// Refuses a device of that name that is not ours.
    pub fn apply_bridge(&self, n: &BridgeNetwork) -> Result<(), NetError> {
        link::check_bridge(n)?;
        link::look_at_bridge(&mut self.route(), &self.mark, &n.bridge)?;
        self.shielded(n)?;
        link::apply_bridge(&mut self.route(), &self.mark, n)
    }

    /// Makes the firewall know the bridge, then turns forwarding on.
    fn shielded(&self, n: &BridgeNetwork) -> Result<(), NetError> {
        // Held until both are done: a removal of the table turns forwarding off again.
        let mut filter = self.filter();
        let forwarded = self.forwarding()?;
        if !forwarded {
            self.guarded.store(true, Ordering::Relaxed);
        }
        self.shield(&mut filter, n)?;
        if !forwarded {
            sysctl::ensure(sysctl::FORWARD, 1)?;
        }
        Ok(())
    }

    fn shield(&self, filter: &mut Netlink, n: &BridgeNetwork) -> Result<(), NetError> {
        let current = firewall::current(filter, &self.owner)?;
        let wanted = FirewallBridge {
            bridge: n.bridge.clone(),
            subnet: n.subnet.trunc(),
            masquerade: n.masquerade,
            internal: n.internal,
            dns_port: None,
        };
        let guarded = self.guarded.load(Ordering::Relaxed);
        let right = current
            .state
            .as_ref()
            .is_some_and(|state| state.bridges.contains(&wanted))
            && (current.guarded || !guarded);
        if right {
            return Ok(());
        }
        let mut state = current.state.unwrap_or(current.salvaged);
        state.bridges.retain(|b| b.bridge != n.bridge);
        state.bridges.push(wanted);
        // Still the same hold of the socket: no other change of ours falls between the look and this.
        firewall::apply(filter, &mut self.route(), &self.owner, &state.sorted(), guarded)
    }

    /// Removes a bridge of ours; absent is fine.
    pub fn remove_bridge(&self, bridge: &str) -> Result<(), NetError> {
        link::remove_bridge(&mut self.route(), &self.mark, bridge)
    }

    /// Connects a network namespace, or puts right what is wrong with the connection; a right one is left alone.
    ///
    /// `whose`: for messages and the device's alias (the container's name or id).
    pub fn attach(&self, netns: BorrowedFd<'_>, a: &Attachment, whose: &str) -> Result<(), NetError> {
        link::attach(&mut self.route(), &self.mark, netns, a, whose)
    }

    /// Removes a host end of ours, and with it the container's; absent is fine.
    pub fn detach(&self, host_device: &str) -> Result<(), NetError> {
        link::detach(&mut self.route(), &self.mark, host_device)
    }

    /// What our table holds, read back from the kernel; none where there is no table, or where its chains, rules or
    /// sets are not exactly what they must be, or where flows to changed UDP ports are to be forgotten yet. An error
    /// where the table is somebody else's.
    pub fn firewall(&self) -> Result<Option<FirewallState>, NetError> {
        let current = firewall::current(&mut self.filter(), &self.owner)?;
        if current.guarded {
            self.guarded.store(true, Ordering::Relaxed);
        }
        Ok(current.state)
    }

    /// Makes our table hold this, in one transaction from whatever there is.
    ///
    /// Flows to UDP ports that changed are forgotten, so that they follow the change.
    ///
    /// Where there are bridges, forwarding is on afterwards: the table that guards it is there first.
    pub fn apply_firewall(&self, state: &FirewallState) -> Result<(), NetError> {
        // Held until forwarding is on: see `shielded`.
        let mut filter = self.filter();
        let forward = !state.bridges.is_empty() && !self.forwarding()?;
        if forward {
            self.guarded.store(true, Ordering::Relaxed);
        }
        let guarded = self.guarded.load(Ordering::Relaxed);
        firewall::apply(&mut filter, &mut self.route(), &self.owner, state, guarded)?;
        if forward {
            sysctl::ensure(sysctl::FORWARD, 1)?;
        }
        Ok(())
    }

    /// Removes our table; absent is fine. The host's loopback is closed to our bridges first.
    ///
    /// Where forwarding was off before us it is turned off again before its guard goes with the table; from then on
    /// [`Net::forward_guard`] says no.
    pub fn remove_firewall(&self) -> Result<(), NetError> {
        let mut filter = self.filter();
        // Also an answer to whose the table is, before anything is touched.
        let current = firewall::current(&mut filter, &self.owner)?;
        for link in self
            .look()?
            .0
            .iter()
            .filter(|l| l.kind == "bridge" && self.mark.is_on(l))
        {
            sysctl::ensure(&sysctl::route_localnet(&link.name), 0)?;
        }
        if current.guarded || self.forward_guard() {
            sysctl::ensure(sysctl::FORWARD, 0)?;
        }
        firewall::remove(&mut filter, &mut self.route(), &self.owner)?;
        self.guarded.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Forwarding was off on this host before us, so what concerns no bridge of ours is not forwarded.
    ///
    /// [`Net::apply_bridge`] finds that out and the table keeps it; whoever wants it to last when the table is lost
    /// (a foreign `nft flush ruleset`) remembers it and says so with [`Net::keep_forward_guard`] after [`Net::new`].
    pub fn forward_guard(&self) -> bool {
        self.guarded.load(Ordering::Relaxed)
    }

    /// See [`Net::forward_guard`]; takes effect with the next change of the firewall.
    pub fn keep_forward_guard(&self) {
        self.guarded.store(true, Ordering::Relaxed);
    }

    /// Sockets that hold a port of the host, without their holders.
    pub fn listeners(&self) -> Result<Vec<Listener>, NetError> {
        let doing = || "list the host's sockets (kernel modules tcp_diag, udp_diag)".to_owned();
        listeners::listeners(&mut lock(&self.diag)).doing(doing)
    }

    /// Pid and command name of whoever holds it. Costly: looks through /proc.
    pub fn listener_holder(&self, listener: &Listener) -> Option<(u32, String)> {
        listeners::holder(&mut lock(&self.diag), listener)
    }

    fn look(&self) -> Result<(Vec<link::Link>, Vec<link::Address>), NetError> {
        let mut route = self.route();
        let links = link::links(&mut route).doing(|| "list the network devices".to_owned())?;
        let addresses = link::addresses(&mut route).doing(|| "list the addresses".to_owned())?;
        Ok((links, addresses))
    }

    fn route(&self) -> MutexGuard<'_, Netlink> {
        lock(&self.route)
    }

    fn filter(&self) -> MutexGuard<'_, Netlink> {
        lock(&self.filter)
    }
}

/// A conversation that panicked left at most an unread answer, which the next one skips by its number.
fn lock(socket: &Mutex<Netlink>) -> MutexGuard<'_, Netlink> {
    socket.lock().unwrap_or_else(PoisonError::into_inner)
}

fn net_of(a: &link::Address) -> Option<Ipv4Net> {
    Ipv4Net::new(a.ip, a.prefix).ok()
}
