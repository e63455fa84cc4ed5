//! Circles: a change that waits for somebody who waits, in the end, for what the old one keeps until the change is made.
//! One on trial waits for what it depends on, an instance for the others of its service to be up, and one that shares
//! namespaces for their owner.

use std::collections::BTreeSet;

use model::action::Noun;
use model::firewall::Protocol;
use model::ledger::{Accepted, ContainerEntry, ReplacePhase};
use model::name::Name;

use super::claims::{Kind, Loser, Mover, Taken};
use super::firewall::effective;
use super::presence::Wish;
use super::rollout::Trial;
use super::sharing::owners;
use super::sight::Sight;
use super::{Blocked, Pass};
use crate::resolve::each_port;

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
        let kept = new.ports.iter().map(|r| (r.protocol, r.host_port)).collect();
        let freed = Taken::freed(name, &entry.current, &kept, None);
        let mut wanting = wants(&freed, losers).peekable();
        wanting.peek()?;
        let waits_for = self.waits_for(name, losers);
        let (other, what) = wanting.find(|(other, _)| waits_for.contains(*other))?;
        let why = format!("container {other}, which it waits for, waits for {what}");
        Some((new.clone(), why))
    }

    /// One that was stopped for a replacement is kept in case, and its ports and addresses with it. Where the replacement
    /// waits, in the end, for somebody who wants those, there is no way back.
    pub(super) fn let_go(&mut self, losers: &[Loser]) {
        let entries = self.ledger.containers.iter();
        let kept = entries.filter(|(name, entry)| self.is_in_its_own_way(name, entry, losers));
        let kept: Vec<Name> = kept.map(|(name, _)| name.clone()).collect();
        for name in kept {
            if let Some(entry) = self.ledger.containers.get_mut(&name)
                && let Some(next) = entry.next.take()
            {
                entry.current = next.accepted;
                // Who wants it has it in the next pass.
                self.wake_by(self.input.now);
            }
        }
    }

    fn is_in_its_own_way(&self, name: &Name, entry: &ContainerEntry, losers: &[Loser]) -> bool {
        let next = entry.next.as_ref();
        let Some(next) = next.filter(|n| n.phase == ReplacePhase::Switching && !losers.is_empty()) else {
            return false;
        };
        let lives = [&entry.current, &next.accepted]
            .iter()
            .any(|a| self.look_at(a).may_be_live());
        if lives || self.container_busy(name) {
            return false;
        }
        let kept = next.accepted.ports.iter().map(|r| (r.protocol, r.host_port));
        let freed = Taken::freed(name, &entry.current, &kept.collect(), Some(&next.accepted));
        let waits_for = self.waits_for(name, losers);
        wants(&freed, losers).any(|(other, _)| waits_for.contains(other))
    }

    /// Instances that are to be replaced and wait for others of their service, which are down and stay so until that was
    /// done: they wait in the end for one who wants what the old one has, and the new one has not. Those do not count as
    /// missed.
    pub(super) fn go_out_of_turn(&mut self, refused: Vec<(Name, Blocked)>, losers: &[Loser]) {
        let mut movers = Vec::new();
        for (name, mut blocked) in refused {
            let stuck = self.stuck_on(&name, losers);
            if !stuck.is_empty() {
                self.stuck.insert(name.clone(), stuck);
                match self.mover(&name) {
                    Ok(mover) => {
                        movers.extend(mover);
                        continue;
                    }
                    Err(other) => blocked = other,
                }
            }
            self.hold_up(Noun::Container(name), blocked);
        }
        if !movers.is_empty() {
            self.settle_claims(movers);
        }
    }

    /// The other instances of its service that are down for want of what waits for this one to be replaced.
    fn stuck_on(&self, name: &Name, losers: &[Loser]) -> BTreeSet<Name> {
        let entry = self.ledger.containers.get(name);
        let (Some(entry), Some(place)) = (entry.filter(|_| !losers.is_empty()), self.place(name)) else {
            return BTreeSet::new();
        };
        let kept = self.ports_to_come(name, entry);
        let freed = Taken::freed(name, &entry.current, &kept, None);
        let wanting: BTreeSet<&Name> = wants(&freed, losers).map(|(other, _)| other).collect();
        let is_down = |other: &Name, entry: &ContainerEntry| match self.look_at(effective(entry)) {
            Sight::Unknown(_) => false,
            _ if self.container_busy(other) || self.ledger.holds.contains_key(other) => false,
            sight => !sight.is_up(),
        };
        let comes_after = |on: &Name| {
            wanting.contains(on) || self.waits_for(on, losers).iter().any(|n| wanting.contains(n))
        };
        let others = self.others(name, &place.service).into_iter();
        let stuck = others.filter(|(other, entry)| {
            is_down(other, entry) && self.waits_itself(other, losers).iter().any(comes_after)
        });
        stuck.map(|(other, _)| other.clone()).collect()
    }

    /// The host ports that the one to take its place names.
    fn ports_to_come(&self, name: &Name, entry: &ContainerEntry) -> BTreeSet<(Protocol, u16)> {
        let spec = match (&entry.next, self.wish(name)) {
            (Some(next), _) => &next.accepted.spec,
            (None, Wish::Declared(declared)) => &declared.spec,
            (None, Wish::Kept | Wish::Gone) => &entry.current.spec,
        };
        let each = spec.ports.iter();
        let each = each.flat_map(|port| each_port(port).map(|(host, _)| (port.protocol, host)));
        each.filter_map(|(protocol, host)| Some((protocol, host?)))
            .collect()
    }

    /// All that it waits for, directly or by others: what it depends on and is not as it asks, who has what it wants,
    /// and whose turn it is before it.
    fn waits_for(&self, name: &Name, losers: &[Loser]) -> BTreeSet<Name> {
        let mut all = BTreeSet::new();
        let mut next = vec![name.clone()];
        while let Some(name) = next.pop() {
            let mut on = self.waits_itself(&name, losers);
            on.extend(self.members(self.service(&name)).iter().cloned());
            next.extend(on.into_iter().filter(|on| all.insert(on.clone())));
        }
        all
    }

    /// What it depends on and is not as it asks, whose namespaces it waits for, and who has what it wants.
    fn waits_itself(&self, name: &Name, losers: &[Loser]) -> Vec<Name> {
        let losing = || losers.iter().filter(|l| l.mover.name == *name);
        let entry = self.ledger.containers.get(name);
        let accepted = entry.into_iter().flat_map(|e| e.all());
        let accepted = accepted.chain(losing().map(|l| &l.mover.accepted));
        let waits = accepted.flat_map(|a| {
            let unmet = self.unmet(name, &a.spec).map(|(on, _)| on);
            let down = !self.look_at(a).is_up() && self.joined(&a.spec).is_err();
            let owners = owners(&a.spec).filter(move |_| down).map(|(_, owner)| owner);
            unmet.chain(owners).cloned().collect::<Vec<_>>()
        });
        waits.chain(losing().map(|l| l.by.clone())).collect()
    }
}

/// Who wants something of this.
fn wants<'n>(freed: &Taken, losers: &'n [Loser]) -> impl Iterator<Item = (&'n Name, String)> {
    losers.iter().filter_map(|loser| {
        let Mover { name, accepted, .. } = &loser.mover;
        Some((name, freed.by_another(name, accepted)?.0))
    })
}
