//! Overlays: whom a tunnel goes to, where it begins, and how long packets may be, by the table, the file of peers and the
//! host's routes.
//!
//! Peers, VNI and the like are changed on the tunnel alone: no container notices. What was decided stays as long as the
//! host shows nothing else: a route that is away for a moment changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use model::action::Noun;
use model::ledger::NetworkEntry;
use model::name::Name;
use model::network::{Driver, HostNetwork, Tunnel};
use model::observed::{Look, ObservedLink};
use model::plan::Reason;
use model::spec::{NetworkDriver, NetworkSpec, OverlaySpec};
use model::surroundings::Way;

use super::{Blocked, Pass};
use crate::allocate::device;

/// What VXLAN puts around a frame, and the frame's own header (RFC 7348), by the family of what carries it.
const AROUND4: u32 = 20 + 8 + 8 + 14;
const AROUND6: u32 = 40 + 8 + 8 + 14;
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
        let overlay = spec.overlay.as_ref();
        let Some(overlay) = overlay.filter(|_| spec.driver == NetworkDriver::Overlay) else {
            return Ok((Driver::default(), spec.mtu));
        };
        let kept = before.and_then(|entry| match &entry.network.driver {
            Driver::Overlay(tunnel) => Some(Kept { entry, tunnel }),
            _ => None,
        });
        let named = self.named_peers(name, overlay, kept.as_ref());
        let local = self.local(overlay, &named, kept.as_ref(), spec)?;
        let own = |peer: &IpAddr| *peer == local || self.way(peer) == Some(Way::Own);
        let (peers, others): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = named
            .iter()
            .filter(|peer| !own(peer))
            .partition(|peer| peer.is_ipv4() == local.is_ipv4());
        let mtu = self.mtu(spec, local, &peers, kept.as_ref());
        if let Some(other) = others.first() {
            let why = format!("peer {other} is left out: the tunnel begins at {local}, of the other family");
            self.error(Noun::Network(name.clone()), why, None);
        }
        let tunnel = Tunnel {
            kind: overlay.tunnel.clone(),
            device: device::tunnel(name),
            // The reader asks for it.
            vni: overlay.vni.unwrap_or_default(),
            port: overlay.port,
            local,
            peers: peers.into_iter().collect(),
            encryption: overlay.encryption.clone(),
        };
        Ok((Driver::Overlay(tunnel), Some(mtu)))
    }

    /// Those of the table and of its file; of a file that cannot be read, those it named last.
    fn named_peers(&mut self, name: &Name, overlay: &OverlaySpec, kept: Option<&Kept<'_>>) -> Vec<IpAddr> {
        let mut named = overlay.peers.clone();
        let Some(file) = &overlay.peers_file else {
            return named;
        };
        let why = match self.input.observed.around.peers.get(file) {
            Some(Look::Known(peers)) => {
                named.extend(peers);
                return named;
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
        named
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
        let same = unwritten.filter(|kept| kept.tunnel.local.is_ipv4() == local.is_ipv4());
        let before = same.and_then(|kept| kept.entry.network.mtu);
        spec.mtu.or(before).unwrap_or_else(|| {
            let mut ways = peers.iter().chain([&WORLD]).filter_map(|to| match self.way(to) {
                Some(Way::From { mtu, .. }) => Some(mtu),
                _ => None,
            });
            let around = if local.is_ipv4() { AROUND4 } else { AROUND6 };
            let between = ways.next().unwrap_or(USUAL_MTU);
            between.saturating_sub(around).max(LEAST_MTU)
        })
    }

    fn way(&self, to: &IpAddr) -> Option<Way> {
        self.input.observed.around.ways.get(to).copied()
    }
}

/// How the tunnel differs from what was accepted; nothing where the network has none.
pub(super) fn differences(network: &HostNetwork, links: &BTreeMap<String, ObservedLink>) -> Vec<Reason> {
    let Driver::Overlay(tunnel) = &network.driver else {
        return Vec::new();
    };
    let device = &tunnel.device;
    let Some(link) = links.get(device) else {
        return vec![Reason::because(format!("tunnel {device} is missing"))];
    };
    let Some(seen) = link.tunnel.as_ref().filter(|_| link.ours) else {
        return vec![Reason::because(format!("{device} is not wharf's tunnel"))];
    };
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
        seen.local == Some(tunnel.local),
        format!("{device} begins at {}", end(seen.local)),
    );
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
    for peer in tunnel.peers.iter().filter(|peer| !seen.peers.contains(peer)) {
        check(false, format!("{device} lacks the peer {peer}"));
    }
    for peer in seen.peers.iter().filter(|peer| !tunnel.peers.contains(peer)) {
        check(false, format!("{device} has {peer}, which is no peer"));
    }
    reasons
}

/// Who may send to the tunnels of these networks.
pub(super) fn rules<'a>(entries: impl Iterator<Item = &'a NetworkEntry>) -> Vec<model::firewall::TunnelRule> {
    let tunnels = entries.filter_map(|entry| match &entry.network.driver {
        Driver::Overlay(tunnel) if tunnel.encryption == "none" => Some(tunnel.rule()),
        _ => None,
    });
    tunnels.collect()
}

/// Names of containers on other hosts.
pub(super) fn hosts(spec: &NetworkSpec) -> BTreeMap<String, Vec<IpAddr>> {
    let names = spec.overlay.iter().flat_map(|overlay| &overlay.names);
    names.map(|(name, ip)| (name.to_string(), vec![*ip])).collect()
}
