//! Replicas: who is an instance of what, and which instances are ready for traffic.

use std::collections::{BTreeMap, BTreeSet};

use model::firewall::PortRule;
use model::health::Verdict;
use model::ledger::{Accepted, ContainerEntry};
use model::name::Name;
use model::observed::Phase;
use model::replica::Place;

use super::firewall::effective;
use super::presence::Wish;
use super::sight::Sight;
use super::{Mutation, Pass};

/// The instances of each replicated service in the order of their numbers, those that are about to go included.
pub(super) type Services = BTreeMap<Name, Vec<Name>>;

impl Pass<'_, '_> {
    /// Notes of every container whose instance it is. What is not declared now stays what it was.
    pub(super) fn note_places(&mut self) {
        let desired = self.input.desired;
        for (name, entry) in &mut self.ledger.containers {
            if desired.containers.contains_key(name) {
                entry.place = desired.places.get(name).cloned();
            }
        }
        self.keep_first();
        let kept = self.ledger.containers.iter();
        let kept = kept.filter_map(|(name, e)| Some((e.place.as_ref()?, name)));
        let declared = desired.places.iter().map(|(name, place)| (place, name));
        let all: BTreeMap<&Place, &Name> = kept.chain(declared).collect();
        let mut services = Services::new();
        for (place, name) in all {
            let instances = services.entry(place.service.clone()).or_default();
            instances.push(name.clone());
        }
        // Wanted alone, and not accepted yet, while others of it have not gone.
        for (service, instances) in &mut services {
            if desired.containers.contains_key(service) && !instances.contains(service) {
                instances.insert(0, service.clone());
            }
        }
        self.services = services;
    }

    /// What is left alone is of its service until the others have gone.
    fn keep_first(&mut self) {
        let others = self.ledger.containers.values();
        let others = others.filter_map(|e| e.place.as_ref().filter(|place| place.number > 1));
        let services: BTreeSet<Name> = others.map(|place| place.service.clone()).collect();
        for service in services {
            if let Some(entry) = self.ledger.containers.get_mut(&service) {
                entry.place.get_or_insert_with(|| Place::first(&service));
            }
        }
    }

    /// The place of one that is taken up now.
    pub(super) fn place_to_be(&self, name: &Name) -> Option<Place> {
        let left = || self.services.contains_key(name).then(|| Place::first(name));
        let declared = self.input.desired.places.get(name);
        declared.cloned().or_else(left)
    }

    /// Which instance of which replicated service it is; none where it stands alone.
    pub(super) fn place(&self, name: &Name) -> Option<&Place> {
        let entry = self.ledger.containers.get(name);
        let kept = entry.map(|e| e.place.as_ref());
        kept.unwrap_or_else(|| self.input.desired.places.get(name))
    }

    /// The service it is of: its own name where it stands alone.
    pub(super) fn service<'n>(&'n self, name: &'n Name) -> &'n Name {
        self.place(name).map_or(name, |place| &place.service)
    }

    /// What a name in another table means: all instances that are wanted of a replicated service, else that container.
    pub(super) fn instances<'n>(&'n self, name: &'n Name) -> Vec<&'n Name> {
        let all = self.services.get(name).into_iter().flatten();
        let others = all.filter(|n| *n != name && !matches!(self.wish(n), Wish::Gone));
        // The first one is always meant, though it may not have been accepted yet.
        std::iter::once(name).chain(others).collect()
    }

    /// The same, with those that are about to go.
    pub(super) fn members<'n>(&'n self, name: &'n Name) -> &'n [Name] {
        let all = self.services.get(name).map(Vec::as_slice);
        all.unwrap_or(std::slice::from_ref(name))
    }

    /// Why nobody wants a container any more, as a sentence.
    pub(super) fn why_gone(&self, name: &Name) -> String {
        let desired = &self.input.desired.containers;
        let fewer = self.place(name).filter(|place| place.number > 1);
        match fewer.and_then(|place| Some((&place.service, desired.get(&place.service)?))) {
            Some((service, declared)) => format!("{service} has replicas = {} now", declared.spec.replicas),
            None => "its table is gone".to_owned(),
        }
    }

    /// Its payload runs, and is healthy where that is asked.
    pub(super) fn is_well(&self, accepted: &Accepted) -> bool {
        let Sight::Seen(seen) = self.look_at(accepted) else {
            return false;
        };
        let health = self.health(accepted);
        matches!(seen.phase, Phase::Running { .. }) && health.is_none_or(|h| h.verdict == Verdict::Healthy)
    }

    /// Instances of replicated services that do not answer to the name of all now: those that are not ready, or about to
    /// be stopped, while another one of the service is ready.
    ///
    /// Where none is ready those that run do: what is asked of a service that is just starting, or whose check is
    /// wrong, may be answered all the same, and a refusal says more than a name that nobody has. Where none runs all
    /// do, as a container that stands alone does: its port and its name are there before it is.
    pub(super) fn idle(&self) -> BTreeSet<Name> {
        let mut idle = BTreeSet::new();
        for ranked in self.ranked() {
            let best = ranked.iter().map(|(rank, _)| *rank).max();
            let others = ranked.into_iter().filter(|(rank, _)| Some(*rank) < best);
            idle.extend(others.map(|(_, name)| name.clone()));
        }
        idle
    }

    /// The same of published ports, each by itself: while a service is changed not all of it may publish the same.
    pub(super) fn idle_ports(&self) -> BTreeSet<PortRule> {
        let mut idle = BTreeSet::new();
        for ranked in self.ranked() {
            let mut by_port: BTreeMap<_, Vec<(Readiness, &PortRule)>> = BTreeMap::new();
            for (rank, name) in ranked {
                let entry = self.ledger.containers.get(name);
                for rule in entry.map(effective).into_iter().flat_map(|a| &a.ports) {
                    let at = by_port.entry((rule.protocol, rule.host_port)).or_default();
                    at.push((rank, rule));
                }
            }
            // One on every address does for one on a certain address, and not the other way round.
            let does_for = |a: &PortRule, b: &PortRule| {
                let (a, b) = (a.at(), b.at());
                a == b || a.is_unspecified() && a.is_ipv4() == b.is_ipv4()
            };
            for all in by_port.values() {
                let better = |rank, rule| all.iter().any(|(other, by)| *other > rank && does_for(by, rule));
                let others = all.iter().filter(|(rank, rule)| better(*rank, rule));
                idle.extend(others.map(|(_, rule)| (*rule).clone()));
            }
        }
        idle
    }

    /// The instances there are of each service that has several, with how good they are for traffic.
    fn ranked(&self) -> Vec<Vec<(Readiness, &Name)>> {
        if self.broken(Mutation::UnreadyGetTraffic) {
            return Vec::new();
        }
        let several = self.services.values().filter(|all| all.len() > 1);
        let ranked = several.map(|all| {
            let there = all
                .iter()
                .filter(|name| self.ledger.containers.contains_key(*name));
            there.map(|name| (self.readiness(name), name)).collect()
        });
        ranked.collect()
    }

    fn readiness(&self, name: &Name) -> Readiness {
        let Some(entry) = self.ledger.containers.get(name) else {
            return Readiness::Down;
        };
        let accepted = effective(entry);
        let runs =
            matches!(self.look_at(accepted), Sight::Seen(c) if matches!(c.phase, Phase::Running { .. }));
        match (runs, self.is_well(accepted)) {
            (false, _) => Readiness::Down,
            (true, well) if self.is_leaving(name, entry) => Readiness::Leaves { well },
            (true, false) => Readiness::Runs,
            (true, true) => Readiness::Ready,
        }
    }

    /// It is stopped in this plan, or as soon as that can be.
    fn is_leaving(&self, name: &Name, entry: &ContainerEntry) -> bool {
        self.ledger.holds.contains_key(name)
            || effective(entry).stale
            || self.restarting.contains(name)
            || (matches!(self.wish(name), Wish::Gone) && self.is_removed_now(name, entry))
    }

    /// The action that takes an instance out of the traffic, where it is in this plan: to be waited for before it is
    /// stopped, so that nobody is led to one that is not there.
    pub(super) fn out_of_traffic(&self, name: &Name) -> Vec<usize> {
        if self.place(name).is_none() {
            return Vec::new();
        }
        let ready = [&self.firewall, &self.dns].into_iter();
        let index = ready.filter_map(|ready| match ready {
            super::Ready::After(index) => Some(*index),
            super::Ready::Now | super::Ready::Waits(_) => None,
        });
        index.collect()
    }
}

/// How good an instance is for traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Readiness {
    Down,
    /// About to be stopped; until then better than none.
    Leaves {
        well: bool,
    },
    Runs,
    Ready,
}
