//! How an overlay is encrypted: by whose keys, and how the device that does it differs from that.
//!
//! Where another host is found is not looked after while it is heard: who has its key is the one, wherever it sends from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::action::Noun;
use model::name::Name;
use model::network::HostNetwork;
use model::observed::{Look, ObservedLink, ObservedWireGuard};
use model::plan::Reason;
use model::spec::OverlaySpec;
use model::wireguard::{PublicKey, WireGuard};

use super::{Blocked, Kept, Pass};
use crate::allocate::device;

impl Pass<'_, '_> {
    /// With each peer's key. Those that have none of their own are left out.
    pub(super) fn encryption(
        &mut self,
        name: &Name,
        overlay: &OverlaySpec,
        local: IpAddr,
        peers: &mut BTreeSet<IpAddr>,
        kept: Option<&Kept<'_>>,
    ) -> Result<WireGuard, Blocked> {
        let before = kept.and_then(|kept| kept.tunnel.wireguard.as_ref());
        let key = self.own_key(before)?;
        let named = self.named_keys(name, overlay, before);
        let mut trouble = None;
        if let Some(other) = named.get(&local).filter(|named| **named != key) {
            trouble = Some(format!(
                "`keys` has {other} for {local}, which is this host: its key is {key}, and hosts that go by the other do not hear it"
            ));
        }
        let mut whose = BTreeMap::from([(key, local)]);
        let mut keys = BTreeMap::new();
        for peer in peers.iter() {
            let found = named.get(peer).copied();
            let taken = found.and_then(|key| whose.get(&key).copied());
            match (found, taken) {
                (Some(key), None) => {
                    whose.insert(key, *peer);
                    keys.insert(*peer, key);
                }
                (Some(_), Some(other)) => {
                    trouble.get_or_insert(format!(
                        "peer {peer} is left out: its key is that of {other}; where a host was copied, remove one's wireguard.key from its state dir and restart its agent"
                    ));
                }
                (None, _) => {
                    trouble.get_or_insert(format!(
                        "peer {peer} is left out: `keys` of [network.{name}.overlay] lacks its public key, which `wharf network inspect {name}` shows there"
                    ));
                }
            }
        }
        peers.retain(|peer| keys.contains_key(peer));
        if let Some(why) = trouble {
            self.error(Noun::Network(name.clone()), why, None);
        }
        Ok(WireGuard {
            device: device::wireguard(name),
            key,
            port: overlay.port,
            keys,
        })
    }

    /// This host's; where it cannot be seen, the one that is in use.
    fn own_key(&self, before: Option<&WireGuard>) -> Result<PublicKey, Blocked> {
        let before = before.map(|before| before.key);
        match &self.input.observed.around.wireguard {
            Some(Look::Known(key)) => Ok(*key),
            Some(Look::Unknown(why)) => before.ok_or_else(|| Blocked::error(why.clone())),
            None => before
                .ok_or_else(|| Blocked::wait("waits for this host's key, which is about to be looked at")),
        }
    }

    /// The hosts' keys, by the table, or by etcd; of those that etcd does not name any more, the ones in use.
    fn named_keys(
        &self,
        name: &Name,
        overlay: &OverlaySpec,
        before: Option<&WireGuard>,
    ) -> BTreeMap<IpAddr, PublicKey> {
        if !overlay.by_cluster {
            return overlay.keys.clone();
        }
        let mut keys = before.map(|before| before.keys.clone()).unwrap_or_default();
        let cluster = self.input.observed.around.cluster.as_ref();
        let hosts = cluster.and_then(|cluster| cluster.networks.get(name));
        let hosts = hosts.into_iter().flat_map(|network| network.hosts.values());
        keys.extend(hosts.filter_map(|host| Some((host.address, host.key?))));
        keys
    }
}

/// How the device that encrypts differs from what was accepted, and from what the tunnel goes by.
pub(super) fn differences(
    network: &HostNetwork,
    wireguard: &WireGuard,
    tunnel: &ObservedLink,
    links: &BTreeMap<String, ObservedLink>,
) -> Vec<Reason> {
    let device = &wireguard.device;
    let because = |text: String| vec![Reason::because(text)];
    let Some(link) = links.get(device) else {
        return because(format!("device {device} is missing"));
    };
    if !link.ours || link.kind != "wireguard" {
        return because(format!("{device} is not wharf's WireGuard device"));
    }
    let seen = tunnel.tunnel.as_ref().and_then(|seen| seen.wireguard.as_ref());
    let Some(seen) = seen.filter(|_| tunnel.below.as_ref() == Some(device)) else {
        return because(format!("the tunnel does not go by {device}"));
    };
    let mtu = network.mtu.map(WireGuard::mtu);
    let wrong = [
        (!link.up).then(|| format!("{device} is down")),
        mtu.filter(|mtu| *mtu != link.mtu)
            .map(|_| format!("{device} has mtu {}", link.mtu)),
        (link.addresses6 != [wireguard.key.inside()])
            .then(|| format!("{device} has another address than {}", wireguard.key.inside())),
        (seen.key != Some(wireguard.key)).then(|| format!("{device} has another key")),
        (seen.port != wireguard.port).then(|| format!("{device} has port {}", seen.port)),
    ];
    let wrong = wrong.into_iter().flatten();
    wrong
        .chain(of_peers(device, wireguard, seen))
        .map(Reason::because)
        .collect()
}

fn of_peers(device: &str, wireguard: &WireGuard, seen: &ObservedWireGuard) -> Vec<String> {
    let mut wrong = Vec::new();
    for (key, at) in wireguard.peers() {
        match seen.peers.get(&key) {
            None => wrong.push(format!("{device} lacks the peer {}", at.ip())),
            Some(peer) if !peer.confined => {
                wrong.push(format!(
                    "{device} takes other addresses from the peer {}",
                    at.ip()
                ));
            }
            Some(peer) if peer.endpoint.is_some_and(|seen| seen != at) => {
                wrong.push(format!("{device} looks for the peer {} elsewhere", at.ip()));
            }
            Some(_) => {}
        }
    }
    let known: BTreeSet<PublicKey> = wireguard.keys.values().copied().collect();
    let others = seen.peers.keys().filter(|key| !known.contains(key));
    wrong.extend(others.map(|key| format!("{device} has {key}, which is no peer's key")));
    wrong
}
