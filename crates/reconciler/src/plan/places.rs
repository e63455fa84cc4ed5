//! Who has which address and whose namespaces are shared, looked up instead of searched for: noted once when everything
//! is accepted, and kept up while containers are acted on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::name::{ContainerId, Name};
use model::network::Attachment;

use super::Pass;

#[derive(Default)]
pub(super) struct Places {
    /// By the addresses they are accepted with.
    by_address: BTreeMap<(Name, IpAddr), Vec<Name>>,
    /// Those that may live at another place than is written.
    stale: BTreeSet<Name>,
    /// Those in whose namespaces others were begun.
    owners: BTreeSet<ContainerId>,
}

impl Pass<'_, '_> {
    pub(super) fn note_who_lives_where(&mut self) {
        let mut places = Places::default();
        for (name, accepted) in self.ledger.accepted() {
            for a in &accepted.attachments {
                for ip in a.ips() {
                    let at = places.by_address.entry((a.network.clone(), ip)).or_default();
                    at.push(name.clone());
                }
            }
            if accepted.stale {
                places.stale.insert(name.clone());
            }
            let joins = &accepted.joins;
            let owners = [&joins.net, &joins.pid, &joins.ipc].into_iter().flatten();
            places.owners.extend(owners.cloned());
        }
        self.places = places;
    }

    /// This one is of no use where it lives from now on.
    pub(super) fn note_stale(&mut self, name: &Name) {
        self.places.stale.insert(name.clone());
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
        let there = place.ips().filter_map(at).flatten();
        there.chain(&self.places.stale).collect()
    }
}
