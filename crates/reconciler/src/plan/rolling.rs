//! Rolling: of a replicated service no more than `update.parallelism` instances are away for a change at a time.

use model::action::Noun;
use model::ledger::{Accepted, ContainerEntry, ReplacePhase};
use model::name::Name;
use model::observed::Phase;

use super::accept::other_image;
use super::claims::Mover;
use super::presence::Wish;
use super::sight::Sight;
use super::{Blocked, Mutation, Pass, finish::definition};

impl Pass<'_, '_> {
    /// Whether an instance may be replaced now: few enough others of its service are away, and none of them failed with
    /// the same definition. One that stands alone always may.
    ///
    /// To be asked where a replacement begins, which [`Pass::note_replacing`] is to be told then.
    pub(super) fn may_replace(&self, name: &Name) -> Result<(), Blocked> {
        let Some(place) = self.place(name) else {
            return Ok(());
        };
        let others = self.others(name, &place.service);
        if let Some(wanted) = self.to_come(name) {
            for (other, entry) in &others {
                if let Some(rejected) = entry.rejected.as_ref().filter(|r| r.fingerprint == wanted) {
                    return Err(Blocked::error(format!(
                        "stays as it was, as the change failed on container {other}: {}",
                        rejected.reason
                    )));
                }
            }
        }
        self.has_turn(name, "replaced")
    }

    /// Whether so few others of its service are away that this one may be as well. `what` is to happen to it.
    pub(super) fn has_turn(&self, name: &Name, what: &str) -> Result<(), Blocked> {
        let Some(place) = self.place(name).filter(|_| !self.broken(Mutation::AllAtOnce)) else {
            return Ok(());
        };
        let service = &place.service;
        let others = self.others(name, service);
        let most = self.parallelism(name, service);
        let entry = self.ledger.containers.get(name);
        // One that is not up itself is missed already: it waits for those alone that a change took away.
        let missed = entry.is_none_or(|e| !self.is_well(&e.current));
        // Nobody is even prepared before its turn, as that may fail; two that are prepared do not wait for each other.
        let begins = entry.is_none_or(|e| e.next.is_none());
        // Those that come up only after it, it need not wait for; nor, where it is stopped in any case, for those that are
        // down: they may wait for the network that it leaves.
        let leaves = entry.is_some_and(|e| self.has_to_leave(&e.current));
        let stuck = |other: &Name| leaves || self.stuck.get(name).is_some_and(|all| all.contains(other));
        let absent = |other: &Name, entry: &ContainerEntry| {
            let why = self.absent(other, entry).filter(|_| !stuck(other))?;
            (!missed || self.is_updated(other, &entry.current)).then_some(why)
        };
        let away = others.iter().filter_map(|(other, entry)| {
            let why = self.updating(other, entry, begins);
            Some((*other, why.or_else(|| absent(other, entry))?))
        });
        let away: Vec<(&Name, String)> = away.collect();
        match away.first() {
            Some((other, why)) if away.len() >= most => Err(Blocked::wait(format!(
                "is {what} once container {other}, which {why}, is up: at most {most} of {service} at a time"
            ))),
            _ => Ok(()),
        }
    }

    pub(super) fn others<'n>(
        &'n self,
        name: &Name,
        service: &'n Name,
    ) -> Vec<(&'n Name, &'n ContainerEntry)> {
        let others = self.instances(service).into_iter().filter(|other| *other != name);
        let others = others.filter_map(|other| Some((other, self.ledger.containers.get(other)?)));
        others.collect()
    }

    /// A replacement, or a restart, of this name begins in this pass.
    pub(super) fn note_replacing(&mut self, name: &Name) {
        self.replacing.insert(name.clone());
    }

    /// A change that would stop a running instance waits for its turn.
    pub(super) fn in_turn(&mut self, name: &Name, mover: Option<Mover>) -> Result<Option<Mover>, Blocked> {
        if mover.as_ref().is_some_and(Mover::is_switch) {
            self.may_replace(name)?;
            self.note_replacing(name);
        }
        Ok(mover)
    }

    /// The definition that an instance is to get.
    fn to_come(&self, name: &Name) -> Option<String> {
        let next = self.ledger.containers.get(name).and_then(|e| e.next.as_ref());
        if let Some(next) = next {
            let accepted = &next.accepted;
            return Some(definition(
                &accepted.spec,
                accepted.image_id.as_ref(),
                &accepted.contents,
            ));
        }
        let Wish::Declared(declared) = self.wish(name) else {
            return None;
        };
        let image = self.image(&declared.spec.image.key());
        let contents = self.contents_of(&declared.spec);
        Some(definition(
            &declared.spec,
            image.and_then(|i| i.id.as_ref()),
            &contents,
        ))
    }

    fn parallelism(&self, name: &Name, service: &Name) -> usize {
        let least = match self.wish(name) {
            Wish::Declared(declared) => Some(declared.spec.update.parallelism),
            Wish::Kept | Wish::Gone => {
                // What was accepted last counts, be it in force or on its way; of instances that were accepted from
                // different tables, the one that lets the fewest go.
                let instances = self.instances(service).into_iter();
                let entries = instances.filter_map(|name| self.ledger.containers.get(name));
                let specs = entries.map(|e| e.next.as_ref().map_or(&e.current.spec, |n| &n.accepted.spec));
                specs.map(|spec| spec.update.parallelism).min()
            }
        };
        let least = usize::try_from(least.unwrap_or(1)).unwrap_or(usize::MAX);
        least.max(1)
    }

    /// Why an instance counts as being updated. `prepared`: so is one whose successor is only prepared.
    fn updating(&self, name: &Name, entry: &ContainerEntry, prepared: bool) -> Option<String> {
        if entry.current.stale || self.restarting.contains(name) {
            return Some("is being restarted".to_owned());
        }
        let next = entry.next.as_ref();
        let under_way = next.is_some_and(|n| prepared || n.phase != ReplacePhase::Preparing);
        if under_way || self.replacing.contains(name) {
            return Some("is being replaced".to_owned());
        }
        None
    }

    /// It is what its table says, with the image and the contents there are: what keeps it down is not yet to be changed.
    fn is_updated(&self, name: &Name, current: &Accepted) -> bool {
        let Wish::Declared(declared) = self.wish(name) else {
            return false;
        };
        let image = self.image(&declared.spec.image.key());
        current.spec == declared.spec
            && !other_image(current, image)
            && self.outgrown(current).is_empty()
            && !self.awaits_contents(current)
    }

    /// Why an instance is not up; none where it is, or has done its job.
    fn absent(&self, name: &Name, entry: &ContainerEntry) -> Option<String> {
        let current = &entry.current;
        if current.finished || self.is_well(current) && !self.busy(&Noun::Container(name.clone())) {
            return None;
        }
        Some(self.sentence(name, current))
    }

    fn sentence(&self, name: &Name, accepted: &Accepted) -> String {
        if let Some(hold) = self.ledger.holds.get(name) {
            return format!("is stopped ({})", hold.reason);
        }
        let paused =
            matches!(self.look_at(accepted), Sight::Seen(c) if matches!(c.phase, Phase::Paused { .. }));
        match self.health(accepted) {
            _ if paused => "is paused".to_owned(),
            Some(health) => health.sentence(),
            None if self.payload_runs(accepted) => "is being changed".to_owned(),
            None => "is not running".to_owned(),
        }
    }
}
