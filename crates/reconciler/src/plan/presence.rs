//! What is wished for each name: as declared, as last accepted, or nothing more; and holds by hand.

use model::desired::Declared;
use model::ledger::ContainerEntry;
use model::name::Name;
use model::plan::fingerprint;
use model::spec::{ContainerSpec, Origin};

use super::{Mutation, Pass};

/// The wish for one name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish<'a> {
    Declared(&'a Declared<ContainerSpec>),
    /// Its declaration cannot be trusted now: it stays as last accepted.
    Kept,
    Gone,
}

impl<'a> Pass<'a, '_> {
    pub(super) fn wish(&self, name: &Name) -> Wish<'a> {
        let desired = self.input.desired;
        if let Some(declared) = desired.containers.get(name) {
            return Wish::Declared(declared);
        }
        let from_broken = |entry: &ContainerEntry| {
            let next = entry
                .next
                .as_ref()
                .is_some_and(|n| self.file_is_held(&n.accepted.origin));
            next || self.file_is_held(&entry.current.origin)
        };
        let held = desired.held.everything
            || desired.held.containers.contains(self.service(name))
            || self.ledger.containers.get(name).is_some_and(from_broken);
        if held && !self.broken(Mutation::BrokenIsGone) {
            Wish::Kept
        } else {
            Wish::Gone
        }
    }

    pub(super) fn network_is_held(&self, name: &Name) -> bool {
        let held = &self.input.desired.held;
        held.everything
            || held.networks.contains(name)
            || self
                .ledger
                .networks
                .get(name)
                .is_some_and(|n| self.file_is_held(&n.origin))
    }

    fn file_is_held(&self, origin: &Origin) -> bool {
        self.input.desired.held.files.contains(&origin.file)
    }

    /// Stamps what is gone and lifts holds whose definition changed.
    pub(super) fn mark_presence(&mut self) {
        self.stamp_gone();
        self.lift_holds();
    }

    /// Once more after replacements went on: what came of one may be of another file, which counts for it from then on.
    pub(super) fn stamp_gone(&mut self) {
        let names: Vec<Name> = self.ledger.containers.keys().cloned().collect();
        for name in names {
            self.stamp(&name);
        }
    }

    /// The same of one, which may have become what another file says.
    pub(super) fn stamp(&mut self, name: &Name) {
        let now = self.input.now;
        let gone = matches!(self.wish(name), Wish::Gone);
        if let Some(entry) = self.ledger.containers.get_mut(name) {
            // A stamp from the future is a clock that was set back.
            entry.gone_since = gone.then(|| entry.gone_since.map_or(now, |since| since.min(now)));
        }
    }

    fn lift_holds(&mut self) {
        let mut holds = std::mem::take(&mut self.ledger.holds);
        holds.retain(|name, hold| {
            let entry = self.ledger.containers.get(name);
            let declared = match self.wish(name) {
                Wish::Declared(declared) => fingerprint(&declared.spec),
                Wish::Kept => return true,
                Wish::Gone => return entry.is_some(),
            };
            let under_change = entry.filter(|e| e.next.is_some() || e.rejected.is_some());
            if under_change.is_some_and(|e| fingerprint(&e.current.spec) == hold.fingerprint) {
                if under_change.is_some_and(|e| e.next.is_some()) {
                    // Put on while the definition was on its way in: it is meant for what comes of it.
                    hold.fingerprint.clone_from(&declared);
                }
                return true;
            }
            hold.fingerprint == declared
        });
        self.ledger.holds = holds;
    }
}
