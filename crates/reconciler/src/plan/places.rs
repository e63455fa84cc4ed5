//! Who has which address and whose namespaces are shared, looked up instead of searched for: noted once when everything
//! is accepted, and kept up while containers are acted on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::ledger::Accepted;
use model::name::{ContainerId, Name};
use model::network::Attachment;

use super::Pass;

#[derive(Default)]
pub(super) struct Places {
    /// By the addresses they are accepted with, and those they have not left yet.
    by_address: BTreeMap<(Name, IpAddr), Vec<Name>>,
    /// Those in whose namespaces others were begun.
    owners: BTreeSet<ContainerId>,
}

impl Pass<'_, '_> {
    pub(super) fn note_who_lives_where(&mut self) {
        let mut places = Places::default();
        for (name, accepted) in self.ledger.accepted() {
            for (network, ip) in homes(accepted) {
                let at = places.by_address.entry((network.clone(), ip)).or_default();
                at.push(name.clone());
            }
            let joins = &accepted.joins;
            let owners = [&joins.net, &joins.pid, &joins.ipc].into_iter().flatten();
            places.owners.extend(owners.cloned());
        }
        self.places = places;
    }

    /// Somebody begins in namespaces of these.
    pub(super) fn note_joined<'n>(&mut self, owners: impl Iterator<Item = &'n ContainerId>) {
        self.places.owners.extend(owners.cloned());
    }

    /// Somebody may live in namespaces of this one.
    pub(super) fn has_sharers(&self, id: &ContainerId) -> bool {
        self.places.owners.contains(id)
    }

    /// Those that may live on an address of this place, in the order of their names.
    pub(super) fn around(&self, place: &Attachment) -> BTreeSet<&Name> {
        let at = |ip| self.places.by_address.get(&(place.network.clone(), ip));
        place.ips().filter_map(at).flatten().collect()
    }
}

/// Where it lives, or is to live, by network.
pub(super) fn homes(accepted: &Accepted) -> impl Iterator<Item = (&Name, IpAddr)> {
    let places = accepted.attachments.iter();
    let is = places.flat_map(|a| a.ips().map(move |ip| (&a.network, ip)));
    is.chain(accepted.left.iter().map(|(network, ip)| (network, *ip)))
}
