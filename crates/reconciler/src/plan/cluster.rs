//! Networks whose hosts find each other by etcd: whom it names, and which part of the subnet is this host's.
//!
//! What etcd said last stays while it is away. A part that was leased to this host and is another one's by now is given
//! up: who has an address in it is started again with another one, since the other host rightly gives out the same.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use model::action::Noun;
use model::cluster::ClusterNetwork;
use model::ledger::NetworkEntry;
use model::name::Name;
use model::network::Tunnel;
use model::spec::NetworkSpec;
use model::surroundings::{Surroundings, Way};

use super::{Blocked, Pass};

const UNREGISTERED: &str = "waits to be registered in etcd, which says whose addresses are whose";

impl Pass<'_, '_> {
    /// The other hosts, and this one where it has the address it is registered with. Nothing is decided before this host
    /// was registered once: another one could have the same addresses.
    pub(super) fn found_peers(&mut self, name: &Name, kept: Option<&Tunnel>) -> Result<Vec<IpAddr>, Blocked> {
        let around = &self.input.observed.around;
        let seen = around.cluster.as_ref().and_then(|c| c.networks.get(name));
        let Some(seen) = seen.filter(|seen| seen.range.is_some()) else {
            return self.unregistered(name, seen, kept);
        };
        let mut named: Vec<IpAddr> = seen.hosts.values().map(|host| host.address).collect();
        let registered = seen.address;
        let own = |ip: &IpAddr| around.ways.get(ip) == Some(&Way::Own);
        let mut why = refusals(seen);
        match registered {
            Some(address) if own(&address) => named.push(address),
            // The way to it is looked at from now on.
            Some(address) if around.ways.contains_key(&address) => {
                why.push(format!(
                    "{address} is registered as this host's address, which does not have it"
                ));
            }
            _ => {}
        }
        if let Some(why) = why.into_iter().next() {
            self.error(Noun::Network(name.clone()), why, None);
        }
        Ok(named)
    }

    fn unregistered(
        &mut self,
        name: &Name,
        seen: Option<&ClusterNetwork>,
        kept: Option<&Tunnel>,
    ) -> Result<Vec<IpAddr>, Blocked> {
        let trouble = self.input.observed.around.cluster.as_ref();
        let trouble = trouble.and_then(|c| c.trouble.clone());
        let refused = seen.and_then(|seen| seen.refused.clone());
        match kept {
            Some(kept) => {
                if let Some(why) = refused {
                    let why = format!("{why}; it stays as it was");
                    self.error(Noun::Network(name.clone()), why, None);
                }
                Ok(kept.peers.iter().copied().chain([kept.local]).collect())
            }
            None => Err(
                match refused.or(trouble.map(|why| format!("{UNREGISTERED}: {why}"))) {
                    Some(why) => Blocked::error(why),
                    None => Blocked::wait(UNREGISTERED),
                },
            ),
        }
    }

    /// The part of the subnet that addresses are given out from.
    pub(super) fn decide_range(
        &self,
        name: &Name,
        spec: &NetworkSpec,
        before: Option<&NetworkEntry>,
    ) -> Result<Option<Ipv4Net>, Blocked> {
        if spec.range.is_some() || !is_found(spec) {
            return Ok(spec.range);
        }
        let cluster = self.input.observed.around.cluster.as_ref();
        let leased = cluster.and_then(|c| c.networks.get(name)?.range);
        let inside = |range: &Ipv4Net| spec.subnet.is_none_or(|subnet| subnet.contains(range));
        let kept = before.and_then(|entry| entry.network.v4()?.range);
        match leased.filter(inside).or(kept.filter(inside)) {
            Some(range) => Ok(Some(range)),
            None => Err(Blocked::wait(
                "waits for its part of the subnet, which etcd leases to this host",
            )),
        }
    }

    /// It is outside of the part that etcd leased to this host, and no table asks for it.
    pub(super) fn is_out_of_lease(&self, entry: &NetworkEntry, ip: Ipv4Addr) -> bool {
        let network = &entry.network;
        let range = network.v4().and_then(|v4| v4.range);
        let outside = range.is_some_and(|range| !range.contains(&ip));
        let written = || {
            let mut uses = self.ledger.accepted().flat_map(|(_, a)| &a.spec.networks);
            uses.any(|usage| usage.network == network.name && usage.ip == Some(ip))
        };
        is_found(&entry.spec) && entry.spec.range.is_none() && outside && !written()
    }
}

/// Its hosts find each other by etcd.
pub(crate) fn is_found(spec: &NetworkSpec) -> bool {
    spec.overlay.as_ref().is_some_and(|overlay| overlay.by_cluster)
}

fn refusals(seen: &ClusterNetwork) -> Vec<String> {
    seen.refused.iter().chain(&seen.left_out).cloned().collect()
}

/// Names of containers on the other hosts, as far as they lead into this network.
pub(super) fn names(entry: &NetworkEntry, around: &Surroundings) -> BTreeMap<String, Vec<IpAddr>> {
    let mut all: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    let seen = around.cluster.as_ref().filter(|_| is_found(&entry.spec));
    let Some(seen) = seen.and_then(|c| c.networks.get(&entry.network.name)) else {
        return all;
    };
    let subnets: Vec<IpNet> = entry.network.subnets().collect();
    let inside = |ip: &&IpAddr| subnets.iter().any(|net| net.contains(*ip));
    for (name, ips) in seen.hosts.values().flat_map(|host| &host.names) {
        let ips: Vec<IpAddr> = ips.iter().filter(inside).copied().collect();
        if !ips.is_empty() {
            all.entry(name.clone()).or_default().extend(ips);
        }
    }
    for ips in all.values_mut() {
        ips.sort();
        ips.dedup();
    }
    all
}
