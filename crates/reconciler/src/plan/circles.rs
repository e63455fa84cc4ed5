//! Circles: a trial that waits for somebody who waits, in the end, for what the old one keeps until the trial is over.

use std::collections::BTreeSet;

use model::ledger::{Accepted, ContainerEntry, ReplacePhase};
use model::name::Name;

use super::Pass;
use super::claims::{Kind, Loser, Mover, Taken};
use super::rollout::Trial;
use super::sight::Sight;

impl Pass<'_, '_> {
    /// One on trial that is still to be begun waits for what it depends on. Where that waits in turn for something the
    /// old one has, and the new one has not, neither would ever come: the old one is stopped first.
    pub(super) fn break_circles(&mut self, losers: &[Loser]) {
        let on_trial = |e: &ContainerEntry| e.next.as_ref().is_some_and(|n| n.phase == ReplacePhase::Trial);
        let names = self.ledger.containers.iter().filter(|(_, e)| on_trial(e));
        let names: Vec<Name> = names.map(|(name, _)| name.clone()).collect();
        for name in names {
            let Some((new, why)) = self.circle(&name, losers) else {
                continue;
            };
            if matches!(self.look_at(&new), Sight::Absent) {
                self.stop_first_instead(Mover::new(&name, new, Kind::Trial), &why);
            } else if let Some(entry) = self.ledger.containers.get_mut(&name)
                && let Some(next) = &mut entry.next
            {
                // What is left of a start that did not come about goes first.
                next.phase = ReplacePhase::Dropping;
            }
        }
    }

    /// One on trial that waits for somebody who waits for what the old one has; who, and for what, as a sentence.
    fn circle(&self, name: &Name, losers: &[Loser]) -> Option<(Accepted, String)> {
        let entry = self.ledger.containers.get(name)?;
        let new = &entry.next.as_ref()?.accepted;
        if self.container_busy(name) || !matches!(self.trial(name, new), Trial::Begins) {
            return None;
        }
        let mut wanting = self.wants_from(name, &entry.current, new, losers).peekable();
        wanting.peek()?;
        let waits_for = self.waits_for(name, losers);
        let (other, what) = wanting.find(|(other, _)| waits_for.contains(*other))?;
        let why = format!("container {other}, which it waits for, waits for {what}");
        Some((new.clone(), why))
    }

    /// Who wants something that this one has as long as the old one is there.
    fn wants_from<'n>(
        &'n self,
        name: &'n Name,
        old: &'n Accepted,
        new: &Accepted,
        losers: &'n [Loser],
    ) -> impl Iterator<Item = (&'n Name, String)> {
        let mut freed = Taken::default();
        freed.add(name, old);
        freed.ports.retain(|(protocol, port), _| {
            let mut kept = new.ports.iter();
            !kept.any(|r| (r.protocol, r.host_port) == (*protocol, *port))
        });
        losers.iter().filter_map(move |loser| {
            let Mover { name, accepted, .. } = &loser.mover;
            Some((name, freed.by_another(name, accepted)?.0))
        })
    }

    /// All that it waits for, directly or by others: what it depends on and is not as it asks, who has what it wants,
    /// and whose turn it is before it.
    fn waits_for(&self, name: &Name, losers: &[Loser]) -> BTreeSet<Name> {
        let mut all = BTreeSet::new();
        let mut next = vec![name.clone()];
        while let Some(name) = next.pop() {
            let losing = || losers.iter().filter(|l| l.mover.name == name);
            let accepted = self
                .ledger
                .containers
                .get(&name)
                .into_iter()
                .flat_map(|e| e.all());
            let specs = accepted
                .chain(losing().map(|l| &l.mover.accepted))
                .map(|a| &a.spec);
            let mut on: Vec<Name> = specs
                .flat_map(|spec| self.unmet(&name, spec).map(|(on, _)| on.clone()))
                .collect();
            on.extend(losing().map(|l| l.by.clone()));
            on.extend(self.members(self.service(&name)).iter().cloned());
            next.extend(on.into_iter().filter(|on| all.insert(on.clone())));
        }
        all
    }
}
