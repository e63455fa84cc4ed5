//! What somebody takes of running containers and of volumes behind the agent's back.

use std::collections::BTreeMap;

use model::action::Instance;
use model::damage::{Damage, Mend};
use model::name::{ContainerId, Name};
use model::observed::Reach;

use super::host::Host;
use super::rng::Rng;

/// What is wrong, each with the shim whose container it is of: the next one stands on what was made anew.
pub type Damages = BTreeMap<ContainerId, Vec<(u64, Damage)>>;

impl Host {
    /// Something of a container, or a whole volume, is taken away; or, as if it were on a server, its mount or that server.
    pub fn take_away(&mut self, rng: &mut Rng) {
        if rng.one_in(4) {
            let volumes: Vec<Name> = self.volumes.keys().cloned().collect();
            if !volumes.is_empty() {
                self.lose(&rng.pick(&volumes).clone(), rng);
            }
            return;
        }
        let live = self.containers.iter().filter(|(_, c)| c.live());
        let live: Vec<ContainerId> = live.map(|(id, _)| id.clone()).collect();
        if !live.is_empty() {
            let mend = *rng.pick(&[Mend::InPlace, Mend::Restart]);
            let id = rng.pick(&live).clone();
            self.damage(&id, mend);
        }
    }

    fn lose(&mut self, volume: &Name, rng: &mut Rng) {
        let reach = match rng.below(6) {
            0 => Reach::Unmounted,
            1 => Reach::Silent("no answer for 5 s".to_owned()),
            _ => return drop(self.volumes.remove(volume)),
        };
        if let Some(volume) = self.volumes.get_mut(volume) {
            volume.reach = reach;
        }
    }

    pub fn damage(&mut self, id: &ContainerId, mend: Mend) {
        let what = match mend {
            Mend::InPlace => "its bundle is gone",
            Mend::Restart => "its writable layer is gone",
        };
        let damage = Damage {
            what: what.to_owned(),
            mend,
        };
        let shim = self.containers[id].shim;
        self.damages.entry(id.clone()).or_default().push((shim, damage));
    }

    /// What is wrong with those that live now.
    pub fn damaged(&self) -> BTreeMap<ContainerId, Vec<Damage>> {
        let of = |(id, list): (&ContainerId, &Vec<(u64, Damage)>)| {
            let real = self.containers.get(id).filter(|c| c.live())?;
            let own = list.iter().filter(|(shim, _)| *shim == real.shim);
            let own: Vec<Damage> = own.map(|(_, damage)| damage.clone()).collect();
            (!own.is_empty()).then(|| (id.clone(), own))
        };
        self.damages.iter().filter_map(of).collect()
    }

    /// Cut off halfway, the first thing is right again.
    pub(super) fn mend(&mut self, instance: &Instance, half: bool) {
        let Some(list) = self.damages.get_mut(&instance.id) else {
            return;
        };
        let first = list.iter().position(|(_, d)| d.mend == Mend::InPlace);
        match (half, first) {
            (true, Some(at)) => drop(list.remove(at)),
            (true, None) => {}
            (false, _) => list.retain(|(_, d)| d.mend != Mend::InPlace),
        }
    }
}
