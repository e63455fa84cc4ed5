//! What of the files is taken up by this pass without an action of its own, so that the plan shows every change once.

use model::action::{Action, Noun};
use model::plan::{Reason, TakenUp};

use super::Pass;
use super::beside::rolled;
use crate::diff::{self, Change, Class};

impl Pass<'_, '_> {
    /// Changes between the ledger as it was and as it will be, of what stays the same thing.
    pub(super) fn taken_up(&self) -> Vec<TakenUp> {
        let (before, after) = (self.input.ledger, &self.ledger);
        let containers = after.containers.iter().filter_map(|(name, entry)| {
            let old = &before.containers.get(name)?.current;
            let new = &entry.current;
            if old.id != new.id || old.spec == new.spec {
                return None;
            }
            let told = |p: &&model::plan::Planned| matches!(&p.action, Action::UpdateContainer { id, .. } if *id == new.id);
            let told = self.actions.iter().any(|p| told(&p));
            let mut changes = diff::container(&old.spec, &new.spec, &new.origin);
            changes.retain(|c| c.class < Class::Shim || (c.class == Class::Shim && !told));
            Some((Noun::Container(name.clone()), changes))
        });
        let networks = after.networks.iter().filter_map(|(name, entry)| {
            let old = before.networks.get(name)?;
            let noun = Noun::Network(name.clone());
            let mut actions = self.actions.iter().filter(|p| p.action.noun() == noun).peekable();
            let mut changes = diff::network(&old.spec, &entry.spec, &entry.origin);
            if actions.peek().is_some() {
                let told: Vec<&Reason> = actions.flat_map(|p| &p.reasons).collect();
                changes.retain(|c| !told.iter().any(|r| r.field == c.reason.field));
            }
            Some((noun, changes))
        });
        let volumes = after.volumes.iter().filter_map(|(name, entry)| {
            let old = before.volumes.get(name).filter(|old| old.spec != entry.spec)?;
            let noun = Noun::Volume(name.clone());
            let acted = self.actions.iter().any(|p| p.action.noun() == noun);
            let changes = diff::volume(&old.spec, &entry.spec, &entry.origin);
            (!acted).then_some((noun, changes))
        });
        let all = containers.chain(networks).chain(volumes);
        let all = all.filter_map(|(noun, changes)| taken_up(noun, changes));
        let rolled = after.containers.iter().filter_map(|(name, entry)| {
            let reasons = vec![rolled(before.containers.get(name)?, entry)?];
            let noun = Noun::Container(name.clone());
            Some(TakenUp { noun, reasons })
        });
        all.chain(rolled).collect()
    }
}

fn taken_up(noun: Noun, changes: Vec<Change>) -> Option<TakenUp> {
    let reasons: Vec<_> = changes.into_iter().map(|c| c.reason).collect();
    (!reasons.is_empty()).then_some(TakenUp { noun, reasons })
}
