//! Volumes whose directory was removed behind our back: made again, empty, and said so for as long as anybody still sees
//! the removed one.
//!
//! A running container is not restarted for it. What it mounted is the directory that was removed: no file can be made
//! there any more, but what it has open is the last there is of the data, and whoever has to save that needs it to run.

use std::collections::BTreeSet;

use jiff::Timestamp;
use model::action::Noun;
use model::name::Name;
use model::plan::Reason;
use model::spec::VolumeDriver;

use super::sight::Sight;
use super::volumes::mounted;
use super::{Blocked, Pass};

impl Pass<'_, '_> {
    /// Notes which volumes are there, and which of those that are wanted are not there any more.
    pub(super) fn note_lost_volumes(&mut self) {
        let Some(seen) = self.input.observed.volumes.known() else {
            return;
        };
        let needed = self.needed_volumes();
        let before = std::mem::take(&mut self.ledger.volumes_made);
        let removed = before
            .iter()
            .filter(|name| !seen.contains_key(*name) && needed.contains_key(*name))
            .filter(|name| !self.busy(&Noun::Volume((*name).clone())))
            .filter(|name| self.keeps_data_here(name));
        let removed: Vec<Name> = removed.cloned().collect();
        // What an action has its hands on may be away for a moment, or is about to be.
        let busy = |name: &Name| self.busy(&Noun::Volume(name.clone()));
        let there = seen.keys().filter(|name| !busy(name)).cloned();
        let as_before = before.into_iter().filter(|name| busy(name));
        self.ledger.volumes_made = there.chain(as_before).collect();
        for name in removed {
            self.ledger.volumes_lost.insert(name, self.input.now);
        }
        self.forget_lost_volumes();
    }

    /// Of another one nothing is lost with our directory: it is made again, and the data are where they were.
    fn keeps_data_here(&self, volume: &Name) -> bool {
        let driver = self.ledger.volumes.get(volume).map(|entry| entry.spec.driver);
        !matches!(driver, Some(VolumeDriver::Bind | VolumeDriver::Nfs))
    }

    /// Over once nobody wants it any more, or all who mount it were started after the loss.
    fn forget_lost_volumes(&mut self) {
        let over: Vec<Name> = self
            .ledger
            .volumes_lost
            .iter()
            .filter(|(name, since)| {
                let there = self.ledger.volumes_made.contains(*name);
                let wanted = self.needed_volumes().contains_key(*name);
                let users = self.users_of(name);
                let started_since =
                    !users.is_empty() && users.iter().all(|user| self.has_begun_after(user, **since));
                !wanted || (there && started_since)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in over {
            self.ledger.volumes_lost.remove(&name);
        }
    }

    fn users_of(&self, volume: &Name) -> BTreeSet<Name> {
        let users = self.ledger.accepted();
        users
            .filter(|(_, a)| mounted(&a.spec).any(|v| v == volume))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// What runs of it now began after that time; what will never run again counts as if it had.
    fn has_begun_after(&self, name: &Name, time: Timestamp) -> bool {
        let finished = self
            .ledger
            .containers
            .get(name)
            .is_some_and(|e| e.current.finished);
        finished || self.began(name).is_some_and(|at| at > time)
    }

    /// When what runs of it now began; none where nothing does, or that cannot be seen.
    fn began(&self, name: &Name) -> Option<Timestamp> {
        match self.look_at(&self.ledger.containers.get(name)?.current) {
            Sight::Seen(c) if Sight::Seen(c).is_up() => c.started_at,
            Sight::Seen(_) | Sight::Absent | Sight::Unknown(_) => None,
        }
    }

    /// Why a volume that was there is made again.
    pub(super) fn lost(&self, name: &Name) -> Option<Reason> {
        let lost = self.ledger.volumes_lost.contains_key(name);
        lost.then(|| {
            Reason::because("its directory was removed, and its data with it: it is made again, empty")
        })
    }

    /// Errors on the volume and on those that still see the removed directory. After everything was decided: they hold
    /// nothing up.
    pub(super) fn tell_of_lost_volumes(&mut self) {
        for (volume, since) in self.ledger.volumes_lost.clone() {
            let users = self.users_of(&volume);
            let older: Vec<Name> = users
                .into_iter()
                .filter(|user| self.began(user).is_some_and(|at| at <= since))
                .collect();
            for name in &older {
                let why = format!(
                    "still sees the removed directory of volume {volume}: save what it has open (below /proc/PID/fd), \
                     then `wharf restart {name}` gives it the new, empty one"
                );
                self.hold_up(Noun::Container(name.clone()), Blocked::error(why));
            }
            let why = format!(
                "its directory was removed behind wharf's back ({since:.0}), and its data is gone: it was made again, empty"
            );
            self.hold_up(Noun::Volume(volume), Blocked::error(why));
        }
    }
}
