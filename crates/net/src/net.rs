//! [`Net`]: everything the agent asks of the host's network. What it asks of the firewall is in `net/rules.rs`.

mod devices;
mod encryption;
mod forwarding;
mod rules;
mod switch;

pub use rules::FirewallLook;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::{Ipv4Net, Ipv6Net};
use model::firewall::Backend as Kind;
use model::network::{Attachment, Driver, HostNetwork, Link};
use model::observed::{ForeignAddress, ForeignAddress6, Ipv6State, Listener, ObservedLink};
use model::surroundings::Way;
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_SOCK_DIAG};

use crate::error::{Doing, NetError};
use crate::firewall::{Backend, FirewallOptions};
use crate::link::{self, Mark};
use crate::netlink::Netlink;
use crate::ovs::{self, Switch};
use crate::relay::Relay;
use crate::wireguard::KeyFile;
use crate::{firewall, listeners, sysctl};
use devices::Devices;

/// The network of one host: devices, addresses, firewall. One per agent.
///
/// Its sockets belong to the network namespace of the thread that called [`Net::new`]; kernel settings are read and
/// written in the namespace of the calling thread. Both must be the same: an agent never leaves its own.
pub struct Net {
    backend: Backend,
    mark: Mark,
    route: Mutex<Netlink>,
    filter: Mutex<Netlink>,
    diag: Mutex<Netlink>,
    generic: Mutex<Netlink>,
    devices: Mutex<Devices>,
    ruleset: Mutex<Option<firewall::Current>>,
    /// What firewalld said last.
    asked: Mutex<Option<firewall::Asked>>,
    /// See [`Net::keep_forward_guard`].
    guarded: AtomicBool,
    /// See [`Net::keep_forward_guard6`].
    guarded6: AtomicBool,
    /// Serves ports on loopback addresses that the firewall cannot.
    relay: Option<Relay>,
    switch: Arc<Switch>,
    keys: KeyFile,
}

impl Net {
    /// `owner`: short id of the agent's state dir. It marks devices (alias `wharf:OWNER:…`) and the firewall table.
    ///
    /// Where the kernel has tables with an owner (from Linux 6.9 on), nobody else can change or flush ours from the
    /// first [`Net::apply_firewall`] on. When the agent ends the table stays, for anybody to change, and is taken over
    /// here again.
    pub fn new(owner: &str) -> Result<Self, NetError> {
        Self::with_firewall(owner, FirewallOptions::default())
    }

    /// As on a kernel without such tables: others can change ours, and it is put right after them.
    pub fn sharing_its_table(owner: &str) -> Result<Self, NetError> {
        let shared = true;
        let options = FirewallOptions {
            shared,
            ..FirewallOptions::default()
        };
        Self::with_firewall(owner, options)
    }

    /// With the firewall kept as these say.
    pub fn with_firewall(owner: &str, options: FirewallOptions) -> Result<Self, NetError> {
        if owner.is_empty()
            || owner.len() > 64
            || !owner.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        {
            return Err(NetError::invalid(
                "the agent's id",
                format!("{owner:?} is not letters and digits"),
            ));
        }
        let open =
            |protocol, name| Netlink::open(protocol).doing(|| format!("open a netlink socket ({name})"));
        let mut filter = open(NETLINK_NETFILTER, "nfnetlink")?;
        let backend = Backend::new(&mut filter, owner, options)?;
        Ok(Self {
            mark: Mark::new(owner, backend.kind != Kind::None),
            backend,
            route: Mutex::new(open(NETLINK_ROUTE, "rtnetlink")?),
            filter: Mutex::new(filter),
            diag: Mutex::new(open(NETLINK_SOCK_DIAG, "sock_diag")?),
            generic: Mutex::new(open(NETLINK_GENERIC, "generic netlink")?),
            devices: Mutex::new(Devices::default()),
            ruleset: Mutex::default(),
            asked: Mutex::default(),
            guarded: AtomicBool::new(false),
            guarded6: AtomicBool::new(false),
            relay: None,
            switch: Arc::new(Switch::new(owner)),
            keys: KeyFile::default(),
        })
    }

    /// All devices with their addresses, by name; those with our alias are ours. An address of a bridge of ours
    /// without its routes, or whose bridge has lost the forwarding entry of itself, is left out: it is as good as none.
    pub fn links(&self) -> Result<BTreeMap<String, ObservedLink>, NetError> {
        let mut links = self.devices(|seen| seen.links.clone())?;
        if let Some(Ok(shown)) = self.switch.look() {
            shown.into_links(&mut links);
        }
        self.see_encryption(&mut links)?;
        let is_bridge = |l: &ObservedLink| l.ours && (l.kind == "bridge" || l.kind == ovs::KIND);
        for (name, link) in links.iter_mut().filter(|(_, l)| is_bridge(l)) {
            // A device that went away since has no settings any more. Of these the kernel tells no change.
            let of_ipv4 = self.publishes() && !link.addresses.is_empty();
            link.route_localnet = !of_ipv4 || sysctl::bridge_settings_are_on(name);
            if link.ipv6 == Ipv6State::On && !sysctl::bridge_settings6_are_on(name, self.publishes()) {
                link.ipv6 = Ipv6State::Wrong;
            }
        }
        Ok(links)
    }

    /// IPv4 addresses of all devices that are not ours.
    pub fn foreign_addresses(&self) -> Result<Vec<ForeignAddress>, NetError> {
        self.devices(|seen| seen.foreign.clone())
    }

    /// IPv6 addresses of all devices that are not ours, but for those that are of the link or of the host alone.
    pub fn foreign_addresses6(&self) -> Result<Vec<ForeignAddress6>, NetError> {
        self.devices(|seen| seen.foreign6.clone())
    }

    /// Whether the host forwards IPv4 packets. Without a firewall of ours that is not asked: it is as it must be.
    pub fn forwarding(&self) -> Result<bool, NetError> {
        Ok(!self.publishes() || sysctl::read(sysctl::FORWARD)? != 0)
    }

    /// Whether the host has a way to the network that is not ours: a device that is up with a default route, and an
    /// address of global scope.
    pub fn is_online(&self) -> Result<bool, NetError> {
        link::is_online(&mut self.route(), &self.mark).doing(|| "see whether the host is online".to_owned())
    }

    /// How the host reaches an address, by the main routes of now; none where no route leads there. 0.0.0.0: the world.
    pub fn way_to(&self, to: IpAddr) -> Result<Option<Way>, NetError> {
        link::way_to(&mut self.route(), to).doing(|| format!("look up the route to {to}"))
    }

    /// Makes a network's bridge, and the tunnel of an overlay, or puts right what was changed about them; turns
    /// forwarding on. The firewall learns of a tunnel's peers before the tunnel does.
    ///
    /// The firewall learns of the bridge before anything of it can be reached: the bridge is added to the table's
    /// content where it is missing, because `route_localnet` opens the host's loopback to it otherwise.
    /// Refuses a device of that name that is not ours. Of a network that was there before, it makes what the host has of
    /// it, or takes it away where nothing asks for it.
    pub fn apply_bridge(&self, n: &HostNetwork) -> Result<(), NetError> {
        link::check_bridge(n)?;
        if n.is_lan() {
            return link::apply_lan(&mut self.route(), &self.mark, n);
        }
        forwarding::check(n)?;
        ovs::check(n)?;
        if let Driver::Ovs { .. } = n.driver {
            return self.apply_switch(n);
        }
        if let Driver::Overlay(tunnel) = &n.driver {
            link::check_tunnel(n, tunnel)?;
        }
        link::look_at_bridge(&mut self.route(), &self.mark, &n.bridge)?;
        let below = self.encrypt(n)?;
        self.shielded(n)?;
        link::apply_bridge(&mut self.route(), &self.mark, n)?;
        match &n.driver {
            Driver::Overlay(tunnel) => link::apply_tunnel(&mut self.route(), &self.mark, n, tunnel, below),
            _ => Ok(()),
        }
    }

    /// Removes a bridge of ours; absent is fine.
    pub fn remove_bridge(&self, bridge: &str) -> Result<(), NetError> {
        if self.remove_from_switch(bridge)? {
            return Ok(());
        }
        link::remove_bridge(&mut self.route(), &self.mark, bridge)
    }

    /// Connects a network namespace, or puts right what is wrong with the connection; a right one is left alone.
    ///
    /// `whose`: for messages and the device's alias (the container's name or id).
    pub fn attach(&self, netns: BorrowedFd<'_>, a: &Attachment, whose: &str) -> Result<(), NetError> {
        if let Link::Ovs { .. } = a.link {
            return self.attach_to_switch(netns, a, whose);
        }
        link::attach(&mut self.route(), &self.mark, netns, a, whose)
    }

    /// Removes a host end of ours, and with it the container's; absent is fine.
    pub fn detach(&self, host_device: &str) -> Result<(), NetError> {
        self.detach_from_switch(host_device)?;
        link::detach(&mut self.route(), &self.mark, host_device)
    }

    /// Has ports on `[::1]`, and on 127.0.0.1 those of containers without IPv4, served by this relay. Without one they are
    /// not.
    #[must_use]
    pub fn with_relay(self, relay: Relay) -> Self {
        let relay = Some(relay);
        Self { relay, ..self }
    }

    /// What was given to [`Net::with_relay`].
    pub fn relay(&self) -> Option<&Relay> {
        self.relay.as_ref()
    }

    /// Sockets that hold a port of the host, without their holders, and without those of our relay.
    pub fn listeners(&self) -> Result<Vec<Listener>, NetError> {
        let doing = || "list the host's sockets (kernel modules tcp_diag, udp_diag)".to_owned();
        let own = self
            .relay
            .as_ref()
            .map(Relay::sockets)
            .transpose()?
            .unwrap_or_default();
        listeners::listeners(&mut lock(&self.diag), &own).doing(doing)
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
pub(crate) fn lock<T>(socket: &Mutex<T>) -> MutexGuard<'_, T> {
    socket.lock().unwrap_or_else(PoisonError::into_inner)
}

fn net_of(a: &link::Address) -> Option<Ipv4Net> {
    match a.ip {
        IpAddr::V4(ip) => Ipv4Net::new(ip, a.prefix).ok(),
        IpAddr::V6(_) => None,
    }
}

fn any6_of(a: &link::Address) -> Option<Ipv6Net> {
    match a.ip {
        IpAddr::V6(ip) => Ipv6Net::new(ip, a.prefix).ok(),
        IpAddr::V4(_) => None,
    }
}

/// None where it is of the link or of the host alone.
fn net6_of(a: &link::Address) -> Option<Ipv6Net> {
    any6_of(a).filter(|net| !net.addr().is_unicast_link_local() && !net.addr().is_loopback())
}
