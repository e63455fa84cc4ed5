//! What was taken of running containers behind our back: put right in place where that can be, else by a restart.

use model::action::{Action, Noun};
use model::damage::{Damage, Mend};
use model::ledger::Accepted;
use model::name::Name;
use model::plan::{Op, Reason};

use super::{Mutation, Pass};

impl Pass<'_, '_> {
    /// What is wrong with it that is put right so.
    pub(super) fn damage_of(&self, accepted: &Accepted, mend: Mend) -> Vec<Reason> {
        let found = self.input.observed.damage.get(&accepted.id);
        let found = found.filter(|_| !self.broken(Mutation::DamageStays));
        let such = |damage: &&Damage| damage.mend == mend;
        let reasons = found.into_iter().flatten().filter(such);
        reasons
            .map(|damage| Reason::because(damage.what.clone()))
            .collect()
    }

    /// Its processes stand on what is gone.
    pub(super) fn stands_on_nothing(&self, accepted: &Accepted) -> bool {
        !self.damage_of(accepted, Mend::Restart).is_empty()
    }

    /// Plans the repair that its processes do not notice; true where there is one to be made, or to be waited for.
    pub(super) fn put_right(&mut self, name: &Name, accepted: &Accepted, after: &[usize]) -> bool {
        let reasons = self.damage_of(accepted, Mend::InPlace);
        if reasons.is_empty() {
            return false;
        }
        let noun = Noun::Container(name.clone());
        if let Some(blocked) = self.resting_container(&noun, accepted) {
            self.hold_up(noun, blocked);
        } else if let Some(instance) = self.instance(name, accepted) {
            let action = Action::MendContainer { instance };
            self.act(Op::Update, action, after.to_vec(), reasons);
        }
        true
    }
}
