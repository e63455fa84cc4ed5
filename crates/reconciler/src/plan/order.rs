//! Order: what a container waits for before it starts, and who is stopped before whom.

use std::collections::{BTreeMap, BTreeSet};

use model::health::Verdict;
use model::ledger::{Accepted, ContainerEntry};
use model::links::relied_on;
use model::name::Name;
use model::observed::Phase;
use model::spec::{Condition, ContainerSpec};

use super::firewall::effective;
use super::health::check;
use super::presence::Wish;
use super::sharing::owners;
use super::sight::Sight;
use super::{Blocked, Mutation, Pass};

impl Pass<'_, '_> {
    /// `depends_on` and `links`: everything they name is as they say.
    pub(super) fn dependencies(&self, name: &Name, spec: &ContainerSpec) -> Result<(), Blocked> {
        match self.unmet(name, spec).next() {
            None => Ok(()),
            Some((_, blocked)) => Err(blocked),
        }
    }

    /// What they name and is not as they say.
    pub(super) fn unmet<'n>(
        &'n self,
        name: &Name,
        spec: &'n ContainerSpec,
    ) -> impl Iterator<Item = (&'n Name, Blocked)> {
        let taken_back = self
            .ledger
            .containers
            .get(name)
            .is_some_and(|e| e.rejected.is_some());
        let (there, wanted) = (&self.ledger.containers, &self.input.desired.containers);
        // One that was taken back may name what its table no longer does, and what is gone for good by now.
        let gone = move |n: &Name| taken_back && !there.contains_key(n) && !wanted.contains_key(n);
        let ignored = self.broken(Mutation::DependentsStartEarly);
        let depends = spec
            .depends_on
            .iter()
            .map(|(on, dependency)| (on, dependency.condition));
        // What is linked to has begun, if nothing more is asked of it.
        let linked = spec
            .links
            .iter()
            .map(|link| (&link.container, Condition::Started));
        let linked = linked.filter(|(on, _)| !spec.depends_on.contains_key(*on));
        let wanted = depends.chain(linked).filter(move |(n, _)| !ignored && !gone(n));
        let each =
            wanted.flat_map(|(on, condition)| self.instances(on).into_iter().map(move |n| (n, condition)));
        each.filter_map(|(on, condition)| Some((on, self.unmet_by(on, condition)?)))
    }

    fn unmet_by(&self, on: &Name, condition: Condition) -> Option<Blocked> {
        let because = |why: &str| match condition {
            Condition::Started => format!("waits for container {on} to have started{why}"),
            Condition::Healthy => format!("waits for container {on} to be healthy{why}"),
            Condition::Completed => format!("waits for container {on} to have completed{why}"),
        };
        let Some(entry) = self.ledger.containers.get(on) else {
            return Some(Blocked::wait(because("")));
        };
        match self.met(on, entry, condition) {
            Met::Yes => None,
            Met::NotYet(why) => Some(Blocked::wait(because(&why))),
            Met::Stuck(why) => Some(Blocked::error(because(&why))),
        }
    }

    pub(super) fn met(&self, on: &Name, entry: &ContainerEntry, condition: Condition) -> Met {
        match condition {
            Condition::Started => self.has_started(entry),
            Condition::Healthy => self.is_healthy(on, entry),
            Condition::Completed => self.has_completed(on, entry),
        }
    }

    fn has_started(&self, entry: &ContainerEntry) -> Met {
        let accepted = effective(entry);
        if accepted.finished || self.payload_runs(accepted) {
            Met::Yes
        } else {
            Met::NotYet(String::new())
        }
    }

    fn is_healthy(&self, on: &Name, entry: &ContainerEntry) -> Met {
        let accepted = effective(entry);
        if accepted.image.is_some() && check(accepted).is_none() {
            return Met::Stuck(format!(
                ", but nothing asks for its health: give it a [container.{on}.healthcheck], or depend on it with \"started\""
            ));
        }
        if accepted.finished {
            return Met::Stuck(", which has ended".to_owned());
        }
        match self.health(accepted) {
            Some(health) if health.verdict == Verdict::Healthy => Met::Yes,
            Some(health) => Met::NotYet(format!(", which {}", health.sentence())),
            None => Met::NotYet(String::new()),
        }
    }

    fn has_completed(&self, on: &Name, entry: &ContainerEntry) -> Met {
        let accepted = effective(entry);
        if !accepted.finished {
            return Met::NotYet(String::new());
        }
        let seen = match self.look_at(accepted) {
            Sight::Seen(c) => c.last_exit.as_ref().map(|exit| exit.code),
            Sight::Absent | Sight::Unknown(_) => None,
        };
        match accepted.finished_code.or(seen) {
            Some(0) => Met::Yes,
            Some(code) => Met::Stuck(format!(
                ", which failed with exit code {code}; once that is put right, `wharf start {on}` runs it again"
            )),
            None => Met::NotYet(String::new()),
        }
    }

    pub(super) fn payload_runs(&self, accepted: &Accepted) -> bool {
        matches!(self.look_at(accepted), Sight::Seen(c) if matches!(c.phase, Phase::Running { .. } | Phase::Paused { .. }))
    }

    /// Decides the order containers are gone through: each after all that rely on it, so that those are stopped first.
    pub(super) fn put_in_order(&mut self) {
        let mut waiting: BTreeMap<&Name, usize> = BTreeMap::new();
        let mut on: BTreeMap<&Name, BTreeSet<&Name>> = BTreeMap::new();
        for name in self.ledger.containers.keys() {
            waiting.insert(name, 0);
        }
        for (name, accepted) in self.ledger.accepted() {
            let targets = on.entry(name).or_default();
            targets.extend(relied_on(&accepted.spec).flat_map(|on| self.members(on)));
            targets.extend(owners(&accepted.spec).map(|(_, owner)| owner));
        }
        for target in on.values().flatten() {
            if let Some(count) = waiting.get_mut(target) {
                *count += 1;
            }
        }
        let mut ready: BTreeSet<&Name> = waiting
            .iter()
            .filter(|(_, n)| **n == 0)
            .map(|(n, _)| *n)
            .collect();
        let mut order = Vec::new();
        // Definitions accepted at different times may go in a circle: that is cut at any place.
        while let Some(name) = ready
            .pop_first()
            .or_else(|| waiting.first_key_value().map(|(n, _)| *n))
        {
            if waiting.remove(name).is_none() {
                continue;
            }
            order.push(name.clone());
            for target in on.get(name).into_iter().flatten() {
                if let Some(count) = waiting.get_mut(target) {
                    *count -= 1;
                    if *count == 0 {
                        ready.insert(target);
                    }
                }
            }
        }
        let mut relies: BTreeMap<Name, Vec<Name>> = BTreeMap::new();
        let place: BTreeMap<&Name, usize> = order.iter().zip(0..).collect();
        for (name, targets) in &on {
            for target in targets.iter().filter(|t| place.get(*t) > place.get(name)) {
                let by = relies.entry((*target).clone()).or_default();
                by.push((*name).clone());
            }
        }
        self.relies = relies;
        self.order = order;
    }

    /// Stops in this plan of containers that rely on this one.
    pub(super) fn stops_before(&self, name: &Name) -> Vec<usize> {
        let by = self.relies.get(name).into_iter().flatten();
        let by = by.filter(|_| !self.broken(Mutation::StopsInAnyOrder));
        by.filter_map(|n| self.stopping.get(n).copied()).collect()
    }

    /// Another one that is to be removed as well, has to be before this one, and is not in this plan.
    pub(super) fn removed_before(&self, name: &Name) -> Option<Name> {
        let mut by = self.relies.get(name).into_iter().flatten();
        by.find(|other| {
            let Some(entry) = self.ledger.containers.get(*other) else {
                return false;
            };
            let mut all = entry.all();
            matches!(self.wish(other), Wish::Gone)
                && (self.container_busy(other)
                    || all.any(|a| self.look_at(a).may_be_live() && self.ends(&a.id).is_none()))
        })
        .cloned()
        .filter(|_| !self.broken(Mutation::StopsInAnyOrder))
    }
}

/// Whether a condition holds, and what is to be said where it does not.
pub(super) enum Met {
    Yes,
    NotYet(String),
    /// It will not by itself.
    Stuck(String),
}
