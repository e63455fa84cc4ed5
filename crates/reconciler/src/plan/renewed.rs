//! `depends_on` with `restart = true`: who is begun anew because what it depends on was replaced.

use std::collections::BTreeMap;

use model::action::Noun;
use model::ledger::Accepted;
use model::name::{ContainerId, Name};
use model::spec::Condition;

use super::firewall::effective;
use super::order::Met;
use super::{Mutation, Pass};

impl Pass<'_, '_> {
    /// Marks those to be stopped and begun anew. Until the replaced one is as it should be again, they run on.
    pub(super) fn note_renewed(&mut self) {
        let (mut stale, mut new) = (Vec::new(), Vec::new());
        for (name, entry) in &self.ledger.containers {
            let current = &entry.current;
            let live = !self.container_busy(name) && self.look_at(current).may_be_live();
            if !live || current.stale || !current.spec.depends_on.values().any(|d| d.restart) {
                continue;
            }
            if self.renewed(current).is_some() && !self.broken(Mutation::RenewedIsIgnored) {
                stale.push((name.clone(), current.id.clone()));
            } else if self
                .now_there(current)
                .keys()
                .any(|on| !current.begun_with.contains_key(on))
            {
                // The wish came while it ran: it counts from here.
                new.push((name.clone(), current.clone()));
            }
        }
        for (name, id) in stale {
            if let Err(blocked) = self.has_turn(&name, "restarted") {
                self.hold_up(Noun::Container(name), blocked);
                continue;
            }
            self.note_replacing(&name);
            if let Some(accepted) = self.accepted_mut(&name, &id) {
                accepted.stale = true;
            }
        }
        for (name, current) in new {
            let mut with = self.now_there(&current);
            with.extend(current.begun_with);
            if let Some(accepted) = self.accepted_mut(&name, &current.id) {
                accepted.begun_with = with;
            }
        }
    }

    /// Which of what it depends on was replaced since it was begun, and is as it should be again.
    pub(super) fn renewed(&self, accepted: &Accepted) -> Option<String> {
        let (on, _) = self.restarting(accepted).into_iter().find(|(on, condition)| {
            let was = accepted.begun_with.get(*on);
            let entry = self.ledger.containers.get(*on);
            let is = entry.map(|e| &effective(e).id);
            was.is_some()
                && is.is_some()
                && was != is
                && entry.is_some_and(|e| matches!(self.met(on, e, *condition), Met::Yes))
        })?;
        Some(format!(
            "container {on}, which it depends on with restart = true, was replaced"
        ))
    }

    /// Remembers what it is begun with.
    pub(super) fn note_begun_with(&mut self, name: &Name, accepted: &Accepted) {
        let with = self.now_there(accepted);
        if let Some(kept) = self.accepted_mut(name, &accepted.id) {
            kept.begun_with = with;
        }
    }

    fn now_there(&self, accepted: &Accepted) -> BTreeMap<Name, ContainerId> {
        let id = |on: &Name| Some(effective(self.ledger.containers.get(on)?).id.clone());
        let all = self.restarting(accepted).into_iter();
        all.filter_map(|(on, _)| Some((on.clone(), id(on)?))).collect()
    }

    /// The containers that it is to be restarted with, and what each is to be then.
    fn restarting<'n>(&'n self, accepted: &'n Accepted) -> Vec<(&'n Name, Condition)> {
        let wanted = accepted.spec.depends_on.iter().filter(|(_, d)| d.restart);
        let each = wanted.flat_map(|(on, d)| self.instances(on).into_iter().map(|n| (n, d.condition)));
        each.collect()
    }
}
