//! Overlays: whom a tunnel goes to, where it begins, and how long packets may be, by the table, the file of peers and the
//! host's routes.
//!
//! Peers, VNI and the like are changed on the tunnel alone: no container notices. What was decided stays as long as the
//! host shows nothing else: a route that is away for a moment changes nothing.

mod encryption;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use model::action::Noun;
use model::firewall::{Carrier, PeerRule};
use model::ledger::NetworkEntry;
use model::name::Name;
use model::network::{Driver, HostNetwork, Tunnel};
use model::observed::{Look, ObservedLink, ObservedTunnel};
use model::plan::Reason;
use model::spec::{NetworkDriver, NetworkSpec, OverlaySpec};
use model::surroundings::{Surroundings, Way};

use super::{Blocked, Pass, cluster};
use crate::allocate::device;

/// Headers, in bytes: of what carries a tunnel, of the frame in it, and of a frame's VLAN tag, which goes along.
const IPV4: u32 = 20;
const IPV6: u32 = 40;
const ETHERNET: u32 = 14;
const VLAN: u32 = 4;
const UDP: u32 = 8;
/// Header and tag of a message of WireGuard that carries data.
const WIREGUARD: u32 = 16 + 16;
/// Where no route says how long packets may be.
const USUAL_MTU: u32 = 1500;
/// Every host that does IP takes this much (RFC 791).
const LEAST_MTU: u32 = 576;
/// As what is to be the world among [`model::surroundings::Surroundings::ways`].
const WORLD: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What a network had before it is decided anew.
struct Kept<'a> {
    entry: &'a NetworkEntry,
    tunnel: &'a Tunnel,
}

impl Pass<'_, '_> {
    /// What the network is made of, and its mtu.
    pub(super) fn decide_driver(
        &mut self,
        name: &Name,
        spec: &NetworkSpec,
        before: Option<&NetworkEntry>,
    ) -> Result<(Driver, Option<u32>), Blocked> {
        if let Some(driver) = self.decide_below(spec, before) {
            return Ok((driver, spec.mtu));
        }
        let overlay = spec.overlay.as_ref();
        let over_hosts = matches!(spec.driver, NetworkDriver::Overlay | NetworkDriver::Ovs);
        let Some(overlay) = overlay.filter(|_| over_hosts) else {
            return Ok((Driver::Bridge { adopt: spec.adopt }, spec.mtu));
        };
        let kept = before.filter(|entry| entry.spec.driver == spec.driver);
        let kept = kept.and_then(|entry| {
            let tunnel = entry.network.driver.tunnel()?;
            Some(Kept { entry, tunnel })
        });
        let named = self.named_peers(name, overlay, kept.as_ref())?;
        let local = self.local(overlay, &named, kept.as_ref(), spec)?;
        let own = |peer: &IpAddr| *peer == local || self.way(peer) == Some(Way::Own);
        let (mut peers, others): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = named
            .iter()
            .filter(|peer| !own(peer))
            .partition(|peer| peer.is_ipv4() == local.is_ipv4());
        let mtu = self.mtu(spec, local, &peers, kept.as_ref());
        if let Some(other) = others.first() {
            let why = format!("peer {other} is left out: the tunnel begins at {local}, of the other family");
            self.error(Noun::Network(name.clone()), why, None);
        }
        let wireguard = match overlay.is_encrypted() {
            true => Some(self.encryption(name, overlay, local, &mut peers, kept.as_ref())?),
            false => None,
        };
        let tunnel = Tunnel {
            kind: overlay.tunnel.clone(),
            device: device::tunnel(name),
            // The reader asks for it.
            vni: overlay.vni.unwrap_or_default(),
            port: overlay.carried_port(),
            local,
            peers: peers.into_iter().collect(),
            wireguard,
        };
        let driver = match spec.driver {
            NetworkDriver::Ovs => Driver::Ovs {
                tunnel,
                datapath: overlay.datapath.clone(),
                vlan: overlay.vlan,
            },
            _ => Driver::Overlay(tunnel),
        };
        Ok((driver, Some(mtu)))
    }

    /// Why a network of Open vSwitch can be neither made nor put right now.
    pub(super) fn lacks_switch(&self, network: &HostNetwork) -> Option<Blocked> {
        match (&network.driver, &self.input.observed.around.switch) {
            (Driver::Ovs { .. }, Look::Unknown(why)) => Some(Blocked::error(why.clone())),
            _ => None,
        }
    }

    /// Those of the table and of its file; of a file that cannot be read, those it named last. Where it names neither,
    /// those that are found by etcd.
    fn named_peers(
        &mut self,
        name: &Name,
        overlay: &OverlaySpec,
        kept: Option<&Kept<'_>>,
    ) -> Result<Vec<IpAddr>, Blocked> {
        if overlay.by_cluster {
            return self.found_peers(name, kept.map(|kept| kept.tunnel));
        }
        let mut named = overlay.peers.clone();
        let Some(file) = &overlay.peers_file else {
            return Ok(named);
        };
        let why = match self.input.observed.around.peers.get(file) {
            Some(Look::Known(peers)) => {
                named.extend(peers);
                return Ok(named);
            }
            Some(Look::Unknown(why)) => Some(why),
            // Not looked at yet.
            None => None,
        };
        if let Some(kept) = kept {
            let before = kept.entry.spec.overlay.as_ref();
            let of_table = |peer: &IpAddr| before.is_some_and(|b| b.peers.contains(peer));
            named.extend(kept.tunnel.peers.iter().filter(|peer| !of_table(peer)));
        }
        if let Some(why) = why {
            let why = format!("`peers_file`: {why}; the peers that it named last stay");
            self.error(Noun::Network(name.clone()), why, None);
        }
        Ok(named)
    }

    /// This host's end: the written one, the one that is among the peers, or what the peers are reached from.
    fn local(
        &self,
        overlay: &OverlaySpec,
        named: &[IpAddr],
        kept: Option<&Kept<'_>>,
        spec: &NetworkSpec,
    ) -> Result<IpAddr, Blocked> {
        let before = kept.map(|kept| kept.tunnel.local);
        if let Some(local) = overlay.local {
            if self.way(&local) == Some(Way::Own) || before == Some(local) {
                return Ok(local);
            }
            return Err(Blocked::wait(format!(
                "waits for the address {local}: it is the overlay's `local`, and this host does not have it"
            )));
        }
        let own = |ip: &IpAddr| self.way(ip) == Some(Way::Own);
        if let Some(listed) = named.iter().copied().find(own) {
            return Ok(listed);
        }
        let same = kept.is_some_and(|kept| *kept.entry.spec == *spec);
        if let Some(local) = before.filter(|local| same && own(local)) {
            return Ok(local);
        }
        let sources = named.iter().chain([&WORLD]).filter_map(|to| match self.way(to) {
            Some(Way::From { source, .. }) => Some(source),
            _ => None,
        });
        let family = named.first().map(IpAddr::is_ipv4);
        let mut fitting = sources.filter(|source| family.is_none_or(|v4| source.is_ipv4() == v4));
        fitting.next().or(before).ok_or_else(|| {
            Blocked::wait(
                "waits for a route to its peers, which says what address to send from; or write `local` to say it",
            )
        })
    }

    /// Packets of containers fit into packets between the hosts.
    fn mtu(
        &self,
        spec: &NetworkSpec,
        local: IpAddr,
        peers: &BTreeSet<IpAddr>,
        kept: Option<&Kept<'_>>,
    ) -> u32 {
        let unwritten = kept.filter(|kept| kept.entry.spec.mtu.is_none());
        let overlay = spec.overlay.as_ref();
        let around = |overlay: &OverlaySpec| around(overlay, local);
        let same = unwritten.filter(|kept| {
            let before = kept.entry.spec.overlay.as_ref();
            let same_family = kept.tunnel.local.is_ipv4() == local.is_ipv4();
            same_family && before.map(around) == overlay.map(around)
        });
        let before = same.and_then(|kept| kept.entry.network.mtu);
        spec.mtu.or(before).unwrap_or_else(|| {
            let mut ways = peers.iter().chain([&WORLD]).filter_map(|to| match self.way(to) {
                Some(Way::From { mtu, .. }) => Some(mtu),
                _ => None,
            });
            let between = ways.next().unwrap_or(USUAL_MTU);
            let around = overlay.map_or(0, around);
            between.saturating_sub(around).max(LEAST_MTU)
        })
    }

    fn way(&self, to: &IpAddr) -> Option<Way> {
        self.input.observed.around.ways.get(to).copied()
    }
}

/// What a tunnel puts around a packet of a container, in bytes.
fn around(overlay: &OverlaySpec, local: IpAddr) -> u32 {
    let between = if local.is_ipv4() { IPV4 } else { IPV6 };
    // What is encrypted is carried by IPv6, whatever is between the hosts.
    let carried = match overlay.is_encrypted() {
        true => between + UDP + WIREGUARD + IPV6,
        false => between,
    };
    let tunnel = match overlay.tunnel.as_str() {
        // Its header and a key (RFC 2784, RFC 2890).
        "gre" => 4 + 4,
        // VXLAN (RFC 7348), or Geneve without options, of which we write none (RFC 8926).
        _ => UDP + 8,
    };
    let tag = if overlay.vlan == 0 { 0 } else { VLAN };
    carried + tunnel + ETHERNET + tag
}

/// How the tunnel differs from what was accepted; nothing where the network has none.
pub(super) fn differences(network: &HostNetwork, links: &BTreeMap<String, ObservedLink>) -> Vec<Reason> {
    match &network.driver {
        Driver::Overlay(tunnel) => of_kernel(network, tunnel, links),
        Driver::Ovs { tunnel, .. } => of_switch(network, tunnel, links.get(&network.bridge)),
        Driver::Bridge { .. } | Driver::Macvlan(_) | Driver::Ipvlan(_) => Vec::new(),
    }
}

/// The same of a network of Open vSwitch; that its device is missing is told with the device.
fn of_switch(network: &HostNetwork, tunnel: &Tunnel, link: Option<&ObservedLink>) -> Vec<Reason> {
    let (Some(link), Driver::Ovs { datapath, vlan, .. }) = (link, &network.driver) else {
        return Vec::new();
    };
    let device = &network.bridge;
    let unknown = || {
        vec![Reason::because(format!(
            "{device} is no bridge of Open vSwitch of wharf's"
        ))]
    };
    let Some((seen, switch)) = link
        .tunnel
        .as_ref()
        .and_then(|seen| Some((seen, seen.switch.as_ref()?)))
    else {
        return unknown();
    };
    let mut reasons = of_tunnel(device, seen, tunnel);
    let mut check = |good: bool, text: String| {
        if !good {
            reasons.push(Reason::because(text));
        }
    };
    check(
        switch.kind == tunnel.kind,
        format!("{device} has tunnels of kind {}", switch.kind),
    );
    check(
        switch.datapath == *datapath,
        format!("{device} has the datapath {}", switch.datapath),
    );
    check(switch.vlan == *vlan, format!("{device} has VLAN {}", switch.vlan));
    let gateway = network.v4().map(|v4| v4.gateway);
    let gateway6 = network.v6().map(|v6| v6.gateway);
    let made_for = (Some(switch.gateway), switch.gateway6, switch.mtu);
    check(
        made_for == (gateway, gateway6, network.mtu),
        format!("{device} was made for another gateway or mtu"),
    );
    check(
        switch.whole,
        format!("{device}, its ports or its tunnels were changed in Open vSwitch"),
    );
    check(seen.sealed, format!("{device} lets the gateway through"));
    reasons
}

fn of_kernel(network: &HostNetwork, tunnel: &Tunnel, links: &BTreeMap<String, ObservedLink>) -> Vec<Reason> {
    let device = &tunnel.device;
    let Some(link) = links.get(device) else {
        return vec![Reason::because(format!("tunnel {device} is missing"))];
    };
    let Some(seen) = link.tunnel.as_ref().filter(|_| link.ours) else {
        return vec![Reason::because(format!("{device} is not wharf's tunnel"))];
    };
    let mut reasons = of_tunnel(device, seen, tunnel);
    let mut check = |good: bool, text: String| {
        if !good {
            reasons.push(Reason::because(text));
        }
    };
    check(link.up, format!("{device} is down"));
    check(
        link.master.as_ref() == Some(&network.bridge),
        format!("{device} is no port of {}", network.bridge),
    );
    check(
        network.mtu.is_none_or(|mtu| mtu == link.mtu),
        format!("{device} has mtu {}", link.mtu),
    );
    // Off its bridge, it is not known whose gateway.
    let sealed = seen.sealed || link.master.as_ref() != Some(&network.bridge);
    check(sealed, format!("{device} lets the gateway through"));
    if let Some(wireguard) = &tunnel.wireguard {
        reasons.extend(encryption::differences(network, wireguard, link, links));
    }
    reasons
}

/// What any tunnel has.
fn of_tunnel(device: &str, seen: &ObservedTunnel, tunnel: &Tunnel) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let mut check = |good: bool, text: String| {
        if !good {
            reasons.push(Reason::because(text));
        }
    };
    let end = |local: Option<IpAddr>| local.map_or_else(|| "anywhere".to_owned(), |ip| ip.to_string());
    check(seen.vni == tunnel.vni, format!("{device} has VNI {}", seen.vni));
    check(
        seen.port == tunnel.port,
        format!("{device} has port {}", seen.port),
    );
    check(
        seen.local == Some(tunnel.source()),
        format!("{device} begins at {}", end(seen.local)),
    );
    let targets = tunnel.targets();
    for peer in targets.iter().filter(|peer| !seen.peers.contains(peer)) {
        check(false, format!("{device} lacks the peer {peer}"));
    }
    for peer in seen.peers.iter().filter(|peer| !targets.contains(peer)) {
        check(false, format!("{device} has {peer}, which is no peer"));
    }
    reasons
}

/// What of an overlay is not changed on the devices there are, by its keys; nothing of other networks.
pub(super) fn make(network: &HostNetwork) -> Vec<(&'static str, String)> {
    match &network.driver {
        Driver::Ovs {
            tunnel,
            datapath,
            vlan,
        } => vec![
            ("overlay.tunnel", tunnel.kind.clone()),
            ("overlay.datapath", datapath.clone()),
            ("overlay.vlan", vlan.to_string()),
        ],
        // Its packets are of another size.
        Driver::Overlay(tunnel) => {
            let word = if tunnel.wireguard.is_some() {
                "wireguard"
            } else {
                "none"
            };
            vec![("overlay.encryption", word.to_owned())]
        }
        _ => Vec::new(),
    }
}

/// Who may send to the tunnels of these networks. Those of Open vSwitch take nothing but from their peers by themselves.
pub(super) fn rules<'a>(entries: impl Iterator<Item = &'a NetworkEntry>) -> Vec<model::firewall::TunnelRule> {
    let tunnels = entries.filter_map(|entry| match &entry.network.driver {
        Driver::Overlay(tunnel) => tunnel.rule(),
        _ => None,
    });
    tunnels.collect()
}

/// What the other hosts send to this one, where the kernel takes it: the userspace datapath of Open vSwitch takes it before
/// any filter.
pub(super) fn peers<'a>(entries: impl Iterator<Item = &'a NetworkEntry>) -> Vec<PeerRule> {
    let carried = entries.filter(|entry| match &entry.network.driver {
        Driver::Ovs { datapath, .. } => datapath != "netdev",
        _ => true,
    });
    let of = |entry: &'a NetworkEntry| {
        let tunnel = entry.network.driver.tunnel()?;
        let rule = |peer: &IpAddr, carrier| PeerRule {
            bridge: entry.network.bridge.clone(),
            peer: *peer,
            carrier,
        };
        let carrier = match tunnel.kind.as_str() {
            "gre" => Carrier::Gre,
            _ => Carrier::Udp { port: tunnel.port },
        };
        let mut rules: Vec<PeerRule> = tunnel.targets().iter().map(|ip| rule(ip, carrier)).collect();
        if let Some(wireguard) = &tunnel.wireguard {
            // That comes first; what was inside of it is for the host as well.
            let port = Carrier::Udp { port: wireguard.port };
            rules.extend(tunnel.peers.iter().map(|ip| rule(ip, port)));
        }
        Some(rules)
    };
    carried.filter_map(of).flatten().collect()
}

/// Names of containers on other hosts: those that are found by etcd, and before them those of the table.
pub(super) fn hosts(entry: &NetworkEntry, around: &Surroundings) -> BTreeMap<String, Vec<IpAddr>> {
    let names = entry.spec.overlay.iter().flat_map(|overlay| &overlay.names);
    let mut all = cluster::names(entry, around);
    all.extend(names.map(|(name, ip)| (name.to_string(), vec![*ip])));
    all
}
