//! The other hosts of a network, and where they are known from.

use std::net::IpAddr;

use model::ledger::NetworkEntry;
use model::name::Name;
use model::status::PeerStatus;

use super::View;
use crate::plan::cluster::is_found;

/// What the other hosts know this one as, where it is encrypted.
pub(super) fn public_key(entry: &NetworkEntry) -> Option<String> {
    let wireguard = entry.network.driver.tunnel()?.wireguard.as_ref()?;
    Some(wireguard.key.to_string())
}

impl View<'_> {
    /// Those that its tunnel goes to.
    pub(super) fn peers(&self, entry: &NetworkEntry) -> Vec<PeerStatus> {
        let tunnel = entry.network.driver.tunnel();
        let peers = tunnel.into_iter().flat_map(|tunnel| &tunnel.peers);
        peers.map(|peer| self.peer(entry, *peer)).collect()
    }

    fn peer(&self, entry: &NetworkEntry, address: IpAddr) -> PeerStatus {
        let around = &self.input.observed.around;
        let overlay = entry.spec.overlay.as_ref();
        let in_table = overlay.is_some_and(|overlay| overlay.peers.contains(&address));
        let from = match is_found(&entry.spec) {
            true => "etcd",
            false if in_table => "peers",
            false => "peers_file",
        };
        let seen = around.cluster.as_ref().filter(|_| is_found(&entry.spec));
        let seen = seen.and_then(|c| c.networks.get(&entry.network.name));
        let host = seen.and_then(|seen| seen.hosts.values().find(|host| host.address == address));
        PeerStatus {
            address: address.to_string(),
            from: from.to_owned(),
            host: host.map(|host| host.name.clone()),
            range: host.map(|host| host.range.to_string()),
        }
    }

    /// That etcd is away keeps nobody from running, and what it said last stays.
    pub(super) fn cluster_trouble(&self, name: &Name) -> Option<String> {
        let entry = self.input.ledger.networks.get(name)?;
        let cluster = self.input.observed.around.cluster.as_ref()?;
        let trouble = cluster.trouble.as_ref().filter(|_| is_found(&entry.spec))?;
        Some(format!("{trouble}; the peers that were known last stay"))
    }
}
