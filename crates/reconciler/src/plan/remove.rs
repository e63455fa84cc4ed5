//! Removal: what is gone for long enough, what was replaced, and what the ledger does not know.

use std::collections::BTreeSet;
use std::time::Duration;

use model::action::{Action, Noun};
use model::ledger::{Accepted, ContainerEntry};
use model::name::{ContainerId, Name};
use model::network::HostNetwork;
use model::observed::{Look, ObservedContainer};
use model::plan::{Op, Reason};

use super::presence::Wish;
use super::sight::{Sight, is_live};
use super::{Blocked, Mutation, Pass, after};

/// What a container gets to end itself where nobody knows its table any more.
const STRAY_GRACE: Duration = Duration::from_secs(10);

impl Pass<'_, '_> {
    /// Removes containers whose table is gone, and those nobody knows.
    pub(super) fn remove_containers(&mut self) {
        for name in self.order.clone() {
            if !matches!(self.wish(&name), Wish::Gone) || self.container_busy(&name) {
                continue;
            }
            if let Some(entry) = self.ledger.containers.get(&name).cloned() {
                self.remove_gone(&name, &entry);
            }
        }
        self.remove_unknown();
    }

    fn remove_gone(&mut self, name: &Name, entry: &ContainerEntry) {
        let noun = Noun::Container(name.clone());
        if !self.is_removed_now(name, entry) {
            let due = self.removal_due(entry);
            let why = self.why_gone(name);
            return self.wait(
                noun,
                format!("{why}: it is removed unless it comes back"),
                Some(due),
            );
        }
        let file = Some(entry.current.origin.file.clone()).filter(|f| !f.is_empty());
        let gone = Reason {
            file,
            ..Reason::because(self.why_gone(name))
        };
        if let Some(by) = self.removed_before(name) {
            let why = format!("is removed once container {by}, which relies on it, is");
            return self.wait(noun, why, None);
        }
        let mut last = self.remove_strays(name, entry);
        last.extend(self.stops_before(name));
        last.extend(self.out_of_traffic(name));
        // The current one last.
        let all: Vec<&Accepted> = entry.all().collect();
        for accepted in all.into_iter().rev() {
            match self.removable(accepted) {
                Removable::Unseen(why) => return self.wait(noun, why, None),
                Removable::Absent => {}
                Removable::There => {
                    match self.stop_sharers(name, &accepted.id) {
                        Ok(sharers) => last.extend(sharers),
                        Err(blocked) => return self.hold_up(noun, blocked),
                    }
                    last.sort_unstable();
                    last.dedup();
                    last = self
                        .remove_one(name, accepted, vec![gone.clone()], last)
                        .into_iter()
                        .collect();
                }
            }
        }
    }

    /// A first look stamps, a second one removes: editors and version control remove and make anew.
    pub(super) fn is_removed_now(&self, name: &Name, entry: &ContainerEntry) -> bool {
        let before = self.input.ledger.containers.get(name);
        before.is_some_and(|e| e.gone_since.is_some()) && self.input.now >= self.removal_due(entry)
    }

    fn removal_due(&self, entry: &ContainerEntry) -> jiff::Timestamp {
        let since = entry.gone_since.unwrap_or(self.input.now);
        after(since, self.input.desired.settings.removal_grace)
    }

    /// Drops from the ledger what is gone from the files and from the host, before anybody asks who has what.
    pub(super) fn forget_containers(&mut self) {
        let now = self.input.now;
        let grace = self.input.desired.settings.removal_grace;
        let stamped = |name: &Name| self.input.ledger.containers.get(name).and_then(|e| e.gone_since);
        let absent = |e: &ContainerEntry| e.all().all(|a| matches!(self.removable(a), Removable::Absent));
        let left: Vec<Name> = self
            .ledger
            .containers
            .iter()
            .filter(|(name, e)| {
                let due = e.gone_since.is_some_and(|since| now >= after(since, grace));
                due && stamped(name).is_some() && !self.container_busy(name) && absent(e)
            })
            .map(|(name, _)| name.clone())
            .filter(|name| self.called(name).is_empty())
            .collect();
        if left.is_empty() {
            return;
        }
        for name in left {
            self.forget(&name);
        }
        // Who is the last one of a service now is of none.
        self.note_places();
    }

    /// The same for networks.
    pub(super) fn forget_networks(&mut self) {
        let Some(links) = self.input.observed.links.known() else {
            return;
        };
        let there = |bridge: &str| links.get(bridge).is_some_and(|l| l.ours);
        let left: Vec<Name> = self
            .ledger
            .networks
            .iter()
            .filter(|(name, entry)| {
                let mut both = std::iter::once(&entry.network).chain(&entry.replacing);
                let noun = Noun::Network((*name).clone());
                self.is_due(name)
                    && !self.busy(&noun)
                    && !self.is_used(name)
                    && !both.any(|n| there(&n.bridge))
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in left {
            self.ledger.networks.remove(&name);
            let of = format!("{name}/");
            self.ledger.leases.retain(|key, _| !key.starts_with(&of));
        }
    }

    /// Its time before removal is over. A network without a table has none: it lasts as long as it is used.
    fn is_due(&self, name: &Name) -> bool {
        let Some((entry, since)) = self
            .ledger
            .networks
            .get(name)
            .and_then(|e| Some((e, e.gone_since?)))
        else {
            return false;
        };
        let stamped = self
            .input
            .ledger
            .networks
            .get(name)
            .is_some_and(|n| n.gone_since.is_some());
        let due = after(since, self.input.desired.settings.removal_grace);
        entry.origin.file.is_empty() || (stamped && self.input.now >= due)
    }

    fn forget(&mut self, name: &Name) {
        let service = self.service(name).clone();
        self.ledger.containers.remove(name);
        self.ledger.holds.remove(name);
        self.ledger.timetables.remove(name);
        if !self
            .ledger
            .containers
            .keys()
            .any(|other| *self.service(other) == service)
        {
            let of_port = format!("{service}/");
            self.ledger
                .picked_ports
                .retain(|key, _| !key.starts_with(&of_port));
        }
        let of_lease = format!("/{name}");
        for (_, lease) in self
            .ledger
            .leases
            .iter_mut()
            .filter(|(key, _)| key.ends_with(&of_lease))
        {
            lease.used_at = self.input.now;
        }
    }

    fn removable(&self, accepted: &Accepted) -> Removable {
        match (self.look_at(accepted), self.devices_of(&accepted.id)) {
            (Sight::Unknown(why), _) => {
                Removable::Unseen(format!("cannot be looked at, so it is not removed: {why}"))
            }
            (Sight::Seen(_), _) => Removable::There,
            (Sight::Absent, None) if !accepted.attachments.is_empty() => {
                Removable::Unseen("cannot see whether interfaces of it are left".to_owned())
            }
            (Sight::Absent, Some(devices)) if !devices.is_empty() => Removable::There,
            (Sight::Absent, _) => Removable::Absent,
        }
    }

    /// Removes one container of a name.
    pub(super) fn remove_one(
        &mut self,
        name: &Name,
        accepted: &Accepted,
        reasons: Vec<Reason>,
        after: Vec<usize>,
    ) -> Option<usize> {
        let noun = Noun::Container(name.clone());
        if let Sight::Unknown(why) = self.look_at(accepted) {
            self.wait(
                noun,
                format!("cannot be looked at, so it is not removed: {why}"),
                None,
            );
            return None;
        }
        if let Some(blocked) = self.resting_stop(&noun, accepted) {
            self.hold_up(noun, blocked);
            return None;
        }
        let mut host_devices: Vec<String> = accepted
            .attachments
            .iter()
            .map(|a| a.host_device.clone())
            .collect();
        host_devices.extend(self.devices_of(&accepted.id).unwrap_or_default());
        host_devices.sort();
        host_devices.dedup();
        let action = Action::RemoveContainer {
            id: accepted.id.clone(),
            name: name.clone(),
            signal: accepted.stop_signal(),
            grace: accepted.spec.stop_grace_period,
            host_devices,
        };
        let index = self.act(Op::Remove, action, after, reasons);
        self.stopping.insert(name.clone(), index);
        Some(index)
    }

    /// Removes what carries the name and is not, or no longer, the one accepted under it: what else is done about the name
    /// comes after these.
    pub(super) fn remove_strays(&mut self, name: &Name, entry: &ContainerEntry) -> Vec<usize> {
        let known: BTreeSet<_> = entry.all().map(|a| &a.id).collect();
        let called = self.called(name).iter();
        let strays: Vec<&ObservedContainer> = called.filter(|c| !known.contains(&c.id)).copied().collect();
        // One that shares namespaces may be stopped in this plan already.
        let mut last: Vec<usize> = self.stopping.get(name).copied().into_iter().collect();
        for stray in strays {
            let why = if entry.rejected.is_some() {
                "was not taken, or replaced"
            } else {
                "was replaced"
            };
            last = self.remove_stray(stray, Some(&entry.current), why, last);
        }
        last
    }

    /// One that carries the name without being accepted under it, and that this plan does not remove, may live on any
    /// address of the name.
    pub(super) fn nobody_left_behind(&self, name: &Name) -> Result<(), Blocked> {
        let entry = self.ledger.containers.get(name);
        let known: BTreeSet<_> = entry.iter().flat_map(|e| e.all()).map(|a| &a.id).collect();
        let removed = |of: &ContainerId| {
            let mut actions = self.actions.iter();
            actions.any(|p| matches!(&p.action, Action::RemoveContainer { id, .. } if id == of))
        };
        let mut strays = self.called(name).iter().filter(|c| is_live(c));
        match strays.find(|c| !known.contains(&c.id) && !removed(&c.id)) {
            None => Ok(()),
            Some(stray) => Err(Blocked::wait(format!(
                "waits for {}, which had its name before, to be removed",
                stray.id.short()
            ))),
        }
    }

    /// Removes containers of names that the ledger does not hold.
    fn remove_unknown(&mut self) {
        if self.input.desired.held.everything {
            return;
        }
        let strays: Vec<ObservedContainer> = self
            .strays()
            .filter(|c| {
                !self.ledger.containers.contains_key(&c.name)
                    && !self.input.ledger.containers.contains_key(&c.name)
            })
            .filter(|c| {
                !self.input.desired.held.containers.contains(&c.name) && !self.container_busy(&c.name)
            })
            .cloned()
            .collect();
        for stray in strays {
            self.remove_stray(&stray, None, "is not in the ledger", Vec::new());
        }
    }

    fn strays(&self) -> impl Iterator<Item = &ObservedContainer> {
        self.input
            .observed
            .containers
            .known()
            .into_iter()
            .flatten()
            .filter_map(|(_, look)| look.known())
    }

    /// The action of this plan that ends the container with this id.
    pub(super) fn ends(&self, of: &ContainerId) -> Option<usize> {
        let ends = |action: &Action| match action {
            Action::StopContainer { id, .. } | Action::RemoveContainer { id, .. } => id == of,
            _ => false,
        };
        self.actions.iter().position(|p| ends(&p.action))
    }

    fn remove_stray(
        &mut self,
        stray: &ObservedContainer,
        like: Option<&Accepted>,
        why: &str,
        after: Vec<usize>,
    ) -> Vec<usize> {
        let noun = Noun::Container(stray.name.clone());
        let backoff = like.map(|a| a.spec.restart).unwrap_or_default();
        if let Some(blocked) = self.resting_stray(&noun, &stray.id, &backoff) {
            self.hold_up(noun, blocked);
            return after;
        }
        let action = Action::RemoveContainer {
            id: stray.id.clone(),
            name: stray.name.clone(),
            signal: like.map_or_else(|| "SIGTERM".to_owned(), Accepted::stop_signal),
            grace: like.map_or(STRAY_GRACE, |a| a.spec.stop_grace_period),
            host_devices: self.devices_of(&stray.id).unwrap_or_default(),
        };
        let id12 = stray.id.short();
        vec![self.act(
            Op::Remove,
            action,
            after,
            vec![Reason::because(format!("{id12} {why}"))],
        )]
    }

    fn resting_stray(
        &self,
        noun: &Noun,
        id: &ContainerId,
        backoff: &model::spec::RestartSpec,
    ) -> Option<Blocked> {
        // Removals are booked without a fingerprint, so what is compared here does not matter.
        self.resting(noun, Some(id), id, backoff)
    }

    /// Removes networks nobody needs, after their containers.
    pub(super) fn remove_networks(&mut self) {
        let names: Vec<Name> = self.ledger.networks.keys().cloned().collect();
        for name in names {
            self.remove_network(&name);
        }
        self.remove_unknown_bridges();
    }

    fn remove_network(&mut self, name: &Name) {
        let Some(entry) = self.ledger.networks.get(name).cloned() else {
            return;
        };
        let Some(since) = entry.gone_since else { return };
        let noun = Noun::Network(name.clone());
        if self.busy(&noun) || self.is_used(name) {
            return;
        }
        let declared = !entry.origin.file.is_empty();
        if !self.is_due(name) {
            let due = after(since, self.input.desired.settings.removal_grace);
            return self.wait(
                noun,
                "its table is gone: it is removed unless it comes back",
                Some(due),
            );
        }
        let links = match &self.input.observed.links {
            Look::Known(links) => links,
            Look::Unknown(why) => {
                let why = format!("cannot be looked at, so it is not removed: {why}");
                return self.wait(noun, why, None);
            }
        };
        let file = Some(entry.origin.file.clone()).filter(|f| !f.is_empty());
        let why = if declared {
            "its table is gone"
        } else {
            "no container uses it any more"
        };
        let both = std::iter::once(&entry.network).chain(&entry.replacing);
        let devices: BTreeSet<String> = both.map(|n| n.bridge.clone()).collect();
        let there: Vec<String> = devices
            .into_iter()
            .filter(|d| links.get(d).is_some_and(|l| l.ours))
            .collect();
        let mut after = Vec::new();
        for bridge in there {
            if let Some(blocked) = self.resting(&noun, None, &bridge, &Default::default()) {
                return self.hold_up(noun, blocked);
            }
            let reason = Reason {
                file: file.clone(),
                ..Reason::because(why)
            };
            let action = Action::RemoveNetwork {
                name: name.clone(),
                bridge,
            };
            after = vec![self.act(Op::Remove, action, after, vec![reason])];
        }
    }

    /// Whether an accepted container has a place in it, however it stands.
    fn is_used(&self, name: &Name) -> bool {
        let entries = self.ledger.containers.values();
        entries
            .flat_map(ContainerEntry::all)
            .any(|a| a.attachments.iter().any(|at| at.network == *name))
    }

    /// Bridges with our mark that no network has: left by changes that a crash cut in two.
    fn remove_unknown_bridges(&mut self) {
        if self.input.desired.held.everything {
            return;
        }
        let Some(links) = self.input.observed.links.known() else {
            return;
        };
        let known: BTreeSet<&str> = [self.input.ledger, &self.ledger]
            .iter()
            .flat_map(|l| l.networks.values())
            .flat_map(|n| std::iter::once(&n.network).chain(&n.replacing))
            .flat_map(HostNetwork::devices)
            .collect();
        let strays: Vec<String> = links
            .iter()
            .filter(|(_, l)| l.ours || self.broken(Mutation::ForeignIsTouched))
            .filter(|(name, l)| {
                let kinds = ["bridge", "vxlan", "wireguard", "macvlan", "ipvlan", "ovs"];
                kinds.contains(&l.kind.as_str()) && !known.contains(name.as_str())
            })
            .map(|(name, _)| name.clone())
            .collect();
        for bridge in strays {
            let Ok(name) = bridge.to_ascii_lowercase().parse::<Name>() else {
                continue;
            };
            let noun = Noun::Network(name.clone());
            let rests = self.resting(&noun, None, &bridge, &Default::default());
            if !self.busy(&noun) && rests.is_none() {
                let reasons = vec![Reason::because("no network has this device")];
                self.act(
                    Op::Remove,
                    Action::RemoveNetwork { name, bridge },
                    Vec::new(),
                    reasons,
                );
            }
        }
    }
}

/// Whether something of a container is left to be removed.
enum Removable {
    Unseen(String),
    There,
    Absent,
}
