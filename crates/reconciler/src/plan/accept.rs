//! What is accepted of what the files say: new containers, changes in place, replacements.

use model::action::Joins;
use model::desired::Declared;
use model::image::Image;
use model::ledger::{Accepted, ContainerEntry, ReplacePhase, Replacement, asks_registry};
use model::name::Name;
use model::observed::Phase;
use model::shared::Shared;
use model::spec::{ContainerSpec, NetworkUse, UpdateStrategy};

use super::claims::{Kind, Mover};
use super::finish::definition;
use super::presence::Wish;
use super::resources::Leased;
use super::sight::Sight;
use super::{Blocked, Mutation, Pass};
use crate::diff::{self, Class};

impl<'a> Pass<'a, '_> {
    /// Takes up what changed. What wants something that another one has stays as it was.
    pub(super) fn accept_containers(&mut self) {
        let desired = self.input.desired;
        let mut names: Vec<Name> = self
            .ledger
            .containers
            .keys()
            .chain(desired.containers.keys())
            .cloned()
            .collect();
        names.sort();
        names.dedup();
        let (mut movers, mut refused) = (Vec::new(), Vec::new());
        for name in names {
            if self.container_busy(&name) {
                continue;
            }
            self.drop_needless(&name);
            match self.mover(&name) {
                Ok(mover) => movers.extend(mover),
                Err(blocked) => refused.push((name, blocked)),
            }
        }
        let losers = self.settle_claims(movers);
        self.go_out_of_turn(refused, &losers);
        self.free_spares();
        self.give_up_ports();
        self.find_blocked();
    }

    /// What would change for this name now, and may.
    pub(super) fn mover(&mut self, name: &Name) -> Result<Option<Mover>, Blocked> {
        let mover = match self.wish(name) {
            Wish::Declared(declared) => self.wanted(name, declared)?,
            Wish::Kept => {
                self.note_image(name)?;
                self.switch_when_prepared(name)
            }
            Wish::Gone => None,
        };
        self.in_turn(name, mover)
    }

    /// A replacement that was begun for something that is as it was again: the one that runs is what is wanted.
    fn drop_needless(&mut self, name: &Name) {
        let Some(entry) = self.ledger.containers.get(name) else {
            return;
        };
        let Some(next) = &entry.next else { return };
        let begun = self.look_at(&next.accepted).may_be_live();
        let undecided = match next.phase {
            ReplacePhase::Preparing | ReplacePhase::Trial => true,
            ReplacePhase::Switching => !begun && self.look_at(&entry.current).is_up(),
            ReplacePhase::Reverting | ReplacePhase::Dropping => false,
        };
        if !undecided || self.takes_another(&entry.current, &next.accepted) {
            return;
        }
        if let Some(entry) = self.ledger.containers.get_mut(name) {
            match &mut entry.next {
                Some(next) if next.phase == ReplacePhase::Trial => next.phase = ReplacePhase::Dropping,
                next => *next = None,
            }
        }
    }

    /// What the new one is cannot be had from the one there is.
    fn takes_another(&self, current: &Accepted, new: &Accepted) -> bool {
        diff::strongest(&current.spec, &new.spec) == Some(Class::Replace)
            || other_image(current, new.image.as_ref())
            || self.contents_take_another(current, new)
            || self.broken(Mutation::LabelsReplace)
    }

    /// What would have to change for this one.
    fn wanted(
        &mut self,
        name: &Name,
        declared: &'a Declared<ContainerSpec>,
    ) -> Result<Option<Mover>, Blocked> {
        let image = self.image(&declared.spec.image.key());
        let Some(mut entry) = self.ledger.containers.get(name).cloned() else {
            return self.new_one(name, declared, image, 1, Kind::New).map(Some);
        };
        if entry.next.as_ref().is_some_and(|n| n.phase.is_beside()) {
            return self.on_trial(name, declared, image, entry);
        }
        let old = self.look_at(&entry.current);
        let mut stopped_for_it = false;
        if let Some(next) = &mut entry.next {
            let wanted =
                same(&next.accepted, &declared.spec, image) && self.outgrown(&next.accepted).is_empty();
            if next.phase == ReplacePhase::Switching && !self.look_at(&next.accepted).may_be_live() {
                if old.is_up() {
                    // Nothing was done yet: whether it is to be done is decided afresh.
                    next.phase = ReplacePhase::Preparing;
                }
                stopped_for_it = !wanted && !old.may_be_live();
            }
            match next.phase {
                ReplacePhase::Preparing if wanted => {
                    next.accepted.origin.clone_from(&declared.origin);
                    let came = self.take_image(name, &mut next.accepted, image);
                    self.ledger.containers.insert(name.clone(), entry);
                    came?;
                    return self.switch_to_wanted(name, declared, image);
                }
                ReplacePhase::Preparing => {}
                ReplacePhase::Switching if stopped_for_it => {}
                ReplacePhase::Switching
                | ReplacePhase::Reverting
                | ReplacePhase::Trial
                | ReplacePhase::Dropping => return Ok(None),
            }
            entry.next = None;
            self.ledger.containers.insert(name.clone(), entry.clone());
        }
        let mover = self.changed(name, declared, image, entry)?;
        match mover {
            Some(mover) if stopped_for_it => self.instead(mover).map(Some),
            mover => Ok(mover),
        }
    }

    /// While it is what is wanted, a trial goes on; else it is broken off, and what is wanted taken up once it is gone.
    fn on_trial(
        &mut self,
        name: &Name,
        declared: &'a Declared<ContainerSpec>,
        image: Option<&'a Shared<Image>>,
        mut entry: ContainerEntry,
    ) -> Result<Option<Mover>, Blocked> {
        let Some(mut next) = entry.next.take() else {
            return Ok(None);
        };
        let mut came = Ok(());
        let wanted = same(&next.accepted, &declared.spec, image) && self.outgrown(&next.accepted).is_empty();
        if next.phase == ReplacePhase::Trial && wanted {
            next.accepted.origin.clone_from(&declared.origin);
            came = self.take_image(name, &mut next.accepted, image);
        } else if self.is_gone(&next.accepted) {
            self.ledger.containers.insert(name.clone(), entry.clone());
            return self.changed(name, declared, image, entry);
        } else {
            next.phase = ReplacePhase::Dropping;
        }
        entry.next = Some(next);
        self.ledger.containers.insert(name.clone(), entry);
        came.map(|()| None)
    }

    /// A running one is not stopped while the image is not there: the one to come may be another one, or the old one's.
    fn switch_to_wanted(
        &mut self,
        name: &Name,
        declared: &Declared<ContainerSpec>,
        image: Option<&Shared<Image>>,
    ) -> Result<Option<Mover>, Blocked> {
        match self.switch_when_prepared(name) {
            // While the store cannot be seen, what was decided by it before goes on.
            Some(mover)
                if mover.is_switch() && image.is_none() && self.input.observed.images.known().is_some() =>
            {
                Err(self.waits_for_image(&declared.spec.image.key()))
            }
            mover => Ok(mover),
        }
    }

    /// The old one was stopped for a replacement that is not wanted any more: the one that is takes its place, and
    /// the old one is kept in case, as before.
    fn instead(&mut self, mover: Mover) -> Result<Mover, Blocked> {
        if mover.is_direct() && mover.accepted.image.is_none() {
            return Err(self.waits_for_image(&mover.accepted.spec.image.key()));
        }
        Ok(mover.keeping_the_old_one())
    }

    fn changed(
        &mut self,
        name: &Name,
        declared: &'a Declared<ContainerSpec>,
        image: Option<&'a Shared<Image>>,
        mut entry: ContainerEntry,
    ) -> Result<Option<Mover>, Blocked> {
        let strongest = diff::strongest(&entry.current.spec, &declared.spec);
        let replace = strongest == Some(Class::Replace)
            || other_image(&entry.current, image)
            || !self.outgrown(&entry.current).is_empty()
            || (self.broken(Mutation::LabelsReplace) && entry.current.spec.labels != declared.spec.labels);
        if !replace {
            if let Some(kept) = self.ledger.containers.get_mut(name) {
                kept.current.origin.clone_from(&declared.origin);
                if strongest.is_none() {
                    kept.rejected = None;
                }
                if kept.current.spec == declared.spec {
                    // Held together with what the files say, the next pass need not compare the two.
                    kept.current.spec.clone_from(&declared.spec);
                    entry.current.spec.clone_from(&declared.spec);
                }
            }
            entry.current.origin.clone_from(&declared.origin);
            return self.in_place(name, declared, image, entry.current, strongest);
        }
        self.replacement(name, declared, image, entry)
    }

    /// The accepted container with what can change under it.
    fn in_place(
        &mut self,
        name: &Name,
        declared: &Declared<ContainerSpec>,
        image: Option<&Shared<Image>>,
        before: Accepted,
        strongest: Option<Class>,
    ) -> Result<Option<Mover>, Blocked> {
        let mut accepted = before.clone();
        accepted.spec.clone_from(&declared.spec);
        if strongest == Some(Class::Shim) {
            accepted.rev += 1;
        }
        if before.finished && before.spec.restart.policy != declared.spec.restart.policy {
            // Whether its end was the job's is for the new policy to say.
            accepted.finished = false;
            accepted.finished_run = None;
            accepted.finished_code = None;
            self.settle(&mut accepted);
        }
        // One that has its image was made before anybody said "always".
        accepted.pulled |= accepted.image.is_some() && accepted.asks_registry();
        if accepted.image.is_none() && !accepted.asks_registry() && !self.asks_first(&accepted.spec) {
            set_image(&mut accepted, image);
        }
        rename(name, &mut accepted, &declared.spec);
        let fresh = !self.look_at(&before).may_be_live();
        let of = accepted.image.clone();
        accepted.ports = self
            .ports(name, &accepted.spec, of.as_ref(), &accepted.attachments, fresh)?
            .into();
        Ok((accepted != before).then(|| Mover::new(name, accepted, Kind::InPlace)))
    }

    /// Gives one that waited for its image that image, once it is there and the registry was asked where it is to be.
    fn take_image(
        &mut self,
        name: &Name,
        accepted: &mut Accepted,
        image: Option<&Shared<Image>>,
    ) -> Result<(), Blocked> {
        let asks = accepted.asks_registry() || self.asks_first(&accepted.spec);
        if accepted.image.is_some() || image.is_none() || asks {
            return Ok(());
        }
        accepted.ports = self
            .ports(name, &accepted.spec, image, &accepted.attachments, true)?
            .into();
        set_image(accepted, image);
        Ok(())
    }

    fn replacement(
        &mut self,
        name: &Name,
        declared: &'a Declared<ContainerSpec>,
        image: Option<&'a Shared<Image>>,
        mut entry: ContainerEntry,
    ) -> Result<Option<Mover>, Blocked> {
        let contents = self.contents_of(&declared.spec);
        let wanted = definition(&declared.spec, image.and_then(|i| i.id.as_ref()), &contents);
        let sight = self.look_at(&entry.current);
        // Where the one before cannot run any more, there is nothing left to be kept from it.
        let homeless = !sight.may_be_live() && entry.current.attachments.iter().any(|a| self.is_misplaced(a));
        if !homeless && entry.rejected.as_ref().is_some_and(|r| r.fingerprint == wanted) {
            return Ok(None);
        }
        if let Sight::Unknown(why) = sight {
            return Err(Blocked::wait(format!(
                "the one to be replaced cannot be looked at: {why}"
            )));
        }
        let rev = entry.current.rev + 1;
        if !sight.may_be_live() {
            return self.new_one(name, declared, image, rev, Kind::Direct).map(Some);
        }
        if image.is_none() {
            return Err(self.waits_for_image(&declared.spec.image.key()));
        }
        let start_first = declared.spec.update.strategy == UpdateStrategy::StartFirst;
        let fallback = self.stops_first(name, &entry.current, &declared.spec);
        if start_first && fallback.is_none() {
            self.may_try(&entry, &declared.spec)?;
            self.may_replace(name)?;
            self.note_replacing(name);
            return self.new_one(name, declared, image, rev, Kind::Trial).map(Some);
        }
        self.may_replace(name)?;
        self.note_replacing(name);
        let mover = self.new_one(name, declared, image, rev, Kind::Direct)?;
        entry.next = Some(Replacement {
            accepted: mover.accepted,
            phase: ReplacePhase::Preparing,
            fallback,
        });
        self.ledger.containers.insert(name.clone(), entry);
        Ok(None)
    }

    fn new_one(
        &mut self,
        name: &Name,
        declared: &Declared<ContainerSpec>,
        image: Option<&Shared<Image>>,
        rev: u64,
        kind: Kind,
    ) -> Result<Mover, Blocked> {
        let id = (self.ids)();
        // One that is made because the store has other content is made from what was asked for just now.
        let before = self.ledger.containers.get(name).map(|e| &e.current);
        let pulled = before.is_some_and(|b| other_image(b, image));
        let asks = asks_registry(&declared.spec) || self.asks_first(&declared.spec);
        let image = image.filter(|_| pulled || !asks);
        let lease = match kind {
            Kind::Trial => Leased::Spare,
            Kind::New | Kind::InPlace | Kind::Direct | Kind::Switch => Leased::Own,
        };
        let attachments = self.attachments(name, &id, &declared.spec, lease)?;
        let ports = self.ports(name, &declared.spec, image, &attachments, true)?;
        let mut accepted = Accepted {
            id,
            rev,
            spec: declared.spec.clone(),
            origin: declared.origin.clone(),
            image_id: None,
            image_digest: None,
            image: None,
            attachments: attachments.into(),
            ports: ports.into(),
            finished: false,
            finished_run: None,
            finished_code: None,
            stale: false,
            left: Vec::new(),
            joins: Joins::default(),
            joined_run: None,
            begun_with: Default::default(),
            pulled,
            contents: self.contents_of(&declared.spec).into(),
        };
        set_image(&mut accepted, image);
        Ok(Mover::new(name, accepted, kind))
    }

    /// The replacement of this name, if all that could be done beforehand was done.
    fn switch_when_prepared(&self, name: &Name) -> Option<Mover> {
        let entry = self.ledger.containers.get(name)?;
        let next = entry
            .next
            .as_ref()
            .filter(|n| n.phase == ReplacePhase::Preparing)?;
        let kind = match self.look_at(&entry.current).may_be_live() {
            // Nothing runs that would have to be stopped with care.
            false => Kind::Direct,
            true if is_prepared(self.look_at(&next.accepted)) => Kind::Switch,
            true => return None,
        };
        Some(Mover::new(name, next.accepted.clone(), kind))
    }

    /// What is kept as last accepted may still have waited for its image.
    fn note_image(&mut self, name: &Name) -> Result<(), Blocked> {
        let Some(mut entry) = self.ledger.containers.get(name).cloned() else {
            return Ok(());
        };
        for accepted in entry.all_mut() {
            let image = self.image(&accepted.spec.image.key());
            self.take_image(name, accepted, image)?;
        }
        self.ledger.containers.insert(name.clone(), entry);
        Ok(())
    }

    /// Containers that are to be started while somebody else listens on a port of theirs.
    fn find_blocked(&mut self) {
        let mut blocked = Vec::new();
        for (name, entry) in &self.ledger.containers {
            // What is being switched had its ports before, and keeps them.
            let starts = entry.is_steady()
                && entry.gone_since.is_none()
                && !entry.current.finished
                && !self.ledger.holds.contains_key(name)
                && !self.container_busy(name)
                && !self.look_at(&entry.current).may_be_live();
            let foreign =
                |r: &model::firewall::PortRule| self.foreign_listener(r.protocol, r.at(), r.host_port);
            if starts && let Some(why) = entry.current.ports.iter().find_map(foreign) {
                blocked.push((name.clone(), why));
            }
        }
        self.blocked.extend(blocked);
    }
}

/// Has its interfaces known by the names of the table.
fn rename(name: &Name, accepted: &mut Accepted, spec: &ContainerSpec) {
    let wanted = |usage: &NetworkUse| -> Vec<String> {
        let names = std::iter::once(name).chain(&usage.aliases);
        names.map(ToString::to_string).collect()
    };
    // What is not changed goes on being held together with others.
    for (index, usage) in spec.networks.iter().enumerate() {
        let names = wanted(usage);
        if accepted
            .attachments
            .get(index)
            .is_some_and(|a| a.aliases != names)
        {
            accepted.attachments[index].aliases = names;
        }
    }
}

/// Whether it is what the table says, made from the image there is (one that is not there is no other one).
fn same(accepted: &Accepted, spec: &Shared<ContainerSpec>, image: Option<&Shared<Image>>) -> bool {
    accepted.spec == *spec && !other_image(accepted, image)
}

pub(super) fn other_image(accepted: &Accepted, image: Option<&Shared<Image>>) -> bool {
    matches!((&accepted.image, image), (Some(a), Some(b)) if a.key == b.key && a.id != b.id)
}

fn set_image(accepted: &mut Accepted, image: Option<&Shared<Image>>) {
    accepted.image = image.cloned();
    accepted.image_id = image.and_then(|i| i.id);
    accepted.image_digest = image.and_then(|i| i.digest);
}

/// All that can fail without stopping the old one was done.
pub(super) fn is_prepared(sight: Sight<'_>) -> bool {
    matches!(sight, Sight::Seen(c) if matches!(c.phase, Phase::Prepared | Phase::Created))
}

/// What tells an image's content: the digest of its manifest, of its config where there is none.
pub(super) fn content_text(accepted: &Accepted) -> String {
    let digest = accepted.image_digest.or(accepted.image_id);
    digest.map_or_else(|| "none".to_owned(), |d| d.to_string())
}
