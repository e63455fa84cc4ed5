//! Volumes: made before whoever mounts them, kept unless a table said otherwise.
//!
//! A volume that only containers name is made with defaults and kept for ever. One with a table is as the table says;
//! with `keep = false` it goes when the table and all who mount it are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use model::action::{Action, Noun};
use model::ledger::VolumeEntry;
use model::name::Name;
use model::observed::{Look, ObservedVolume, Reach};
use model::paths::text;
use model::plan::{Op, Reason};
use model::shared::Shared;
use model::spec::{ContainerSpec, Origin, VolumeDriver, VolumeSource, VolumeSpec};

use super::{Blocked, Mutation, Pass, after};
use crate::diff;

/// The named volumes a table mounts.
pub(crate) fn mounted(spec: &ContainerSpec) -> impl Iterator<Item = &Name> {
    spec.volumes.iter().filter_map(|v| match &v.source {
        VolumeSource::Named(name) => Some(name),
        VolumeSource::Anonymous | VolumeSource::Bind { .. } | VolumeSource::Tmpfs { .. } => None,
    })
}

impl Pass<'_, '_> {
    /// Takes up what the tables say; stamps what they no longer do.
    pub(super) fn accept_volumes(&mut self) {
        let desired = self.input.desired;
        let now = self.input.now;
        for (name, declared) in &desired.volumes {
            let kept = self.ledger.volumes.get(name).map(|e| e.spec.clone());
            let spec = match self.in_the_way(name, &declared.spec) {
                None => declared.spec.clone(),
                // What the data is in cannot be changed under it: the rest can.
                Some(there) => Shared::new(VolumeSpec {
                    driver: there.driver,
                    device: there.device.clone(),
                    options: there.options.clone(),
                    ..VolumeSpec::clone(&declared.spec)
                }),
            };
            if self.input.observed.volumes.known().is_none() && kept.is_some() {
                continue;
            }
            let entry = VolumeEntry {
                spec,
                origin: declared.origin.clone(),
                gone_since: None,
            };
            self.ledger.volumes.insert(name.clone(), entry);
        }
        let names: Vec<Name> = self.ledger.volumes.keys().cloned().collect();
        for name in names {
            let gone = !desired.volumes.contains_key(&name) && !self.volume_is_held(&name);
            if let Some(entry) = self.ledger.volumes.get_mut(&name) {
                entry.gone_since = gone.then(|| entry.gone_since.map_or(now, |since| since.min(now)));
            }
        }
        self.forget_volumes();
    }

    /// What is there under this name, where it is not what the table wants it to be made of.
    fn in_the_way(&self, name: &Name, spec: &VolumeSpec) -> Option<&VolumeSpec> {
        let there = &self.input.observed.volumes.known()?.get(name)?.spec;
        // Of what is on a server, the way it is mounted can change: the data stay where they are.
        let options = |s: &VolumeSpec| (s.driver != VolumeDriver::Nfs).then(|| s.options.clone());
        let made = |s: &VolumeSpec| (s.driver, s.device.clone(), options(s));
        (made(there) != made(spec)).then_some(there)
    }

    fn volume_is_held(&self, name: &Name) -> bool {
        let held = &self.input.desired.held;
        let file = self.ledger.volumes.get(name).map(|e| &e.origin.file);
        held.everything || held.volumes.contains(name) || file.is_some_and(|file| held.files.contains(file))
    }

    /// Drops entries whose table is gone: at once where the data stays, else when the data is gone.
    fn forget_volumes(&mut self) {
        let seen = self.input.observed.volumes.known();
        let left: Vec<Name> = self
            .ledger
            .volumes
            .iter()
            .filter(|(name, entry)| {
                let absent = seen.is_some_and(|all| !all.contains_key(*name));
                self.volume_is_due(name) && (entry.spec.keep || (absent && !self.is_mounted(name)))
            })
            .map(|(name, _)| name.clone())
            .filter(|name| !self.busy(&Noun::Volume(name.clone())) && !self.broken(Mutation::VolumesAreLost))
            .collect();
        for name in left {
            self.ledger.volumes.remove(&name);
        }
    }

    fn volume_is_due(&self, name: &Name) -> bool {
        let since = self.ledger.volumes.get(name).and_then(|e| e.gone_since);
        let stamped = self.input.ledger.volumes.get(name).and_then(|e| e.gone_since);
        let grace = self.input.desired.settings.removal_grace;
        stamped.is_some() && since.is_some_and(|since| self.input.now >= after(since, grace))
    }

    /// Some accepted container mounts it, however that one stands.
    fn is_mounted(&self, name: &Name) -> bool {
        self.ledger
            .accepted()
            .any(|(_, a)| mounted(&a.spec).any(|v| v == name))
    }

    /// Makes what is missing, puts right what differs.
    pub(super) fn act_on_volumes(&mut self) {
        for (name, by) in self.needed_volumes() {
            if let Err(blocked) = self.act_on_volume(&name, by) {
                self.hold_up(Noun::Volume(name), blocked);
            }
        }
    }

    /// Declared ones, and those of containers that stay; with who it is that mounts them.
    pub(super) fn needed_volumes(&self) -> BTreeMap<Name, Option<Name>> {
        let declared = self.ledger.volumes.iter().filter(|(_, e)| e.gone_since.is_none());
        let mut needed: BTreeMap<Name, Option<Name>> = declared.map(|(n, _)| (n.clone(), None)).collect();
        for (by, accepted) in self.ledger.accepted() {
            let stays = self
                .ledger
                .containers
                .get(by)
                .is_some_and(|e| e.gone_since.is_none());
            for name in mounted(&accepted.spec).filter(|_| stays) {
                needed
                    .entry(name.clone())
                    .or_default()
                    .get_or_insert_with(|| by.clone());
            }
        }
        needed
    }

    fn act_on_volume(&mut self, name: &Name, by: Option<Name>) -> Result<(), Blocked> {
        let noun = Noun::Volume(name.clone());
        let there = match &self.input.observed.volumes {
            Look::Known(all) => all.get(name),
            Look::Unknown(why) => return Err(Blocked::wait(format!("cannot be looked at: {why}"))),
        };
        let entry = self.ledger.volumes.get(name).cloned();
        // What only containers name is as they find it.
        let spec = match (&entry, there) {
            (Some(entry), _) => entry.spec.clone(),
            (None, Some(there)) => Shared::new(there.spec.clone()),
            (None, None) => Shared::default(),
        };
        if let Some(there) = there.filter(|t| t.spec == *spec) {
            match &there.reach {
                Reach::Here => return self.told_of_another_kind(name),
                Reach::Silent(why) => return Err(silent(&spec, why)),
                Reach::Unmounted => {}
            }
        }
        if self.busy(&noun) {
            return Err(Blocked::wait("is being changed"));
        }
        if let Some(blocked) = self.resting(&noun, None, &spec, &Default::default()) {
            return Err(blocked);
        }
        let (op, reasons) = match there {
            Some(there) => (
                Op::Update,
                changed(there, &spec, entry.as_ref().map(|e| &*e.origin)),
            ),
            None => {
                let reason = self.lost(name);
                (
                    Op::Create,
                    vec![reason.unwrap_or_else(|| self.created(entry.as_ref(), by.as_ref()))],
                )
            }
        };
        let action = Action::ApplyVolume {
            name: name.clone(),
            spec: VolumeSpec::clone(&spec),
        };
        self.act(op, action, Vec::new(), reasons);
        Ok(())
    }

    fn told_of_another_kind(&self, name: &Name) -> Result<(), Blocked> {
        let Some(declared) = self.input.desired.volumes.get(name) else {
            return Ok(());
        };
        match self.in_the_way(name, &declared.spec) {
            None => Ok(()),
            Some(there) => Err(Blocked::error(format!(
                "is there already with {}, and its data is not moved; give the volume another name, or remove its \
                 containers' use of it and then `wharf volume rm {name}`",
                made_of(there, &declared.spec)
            ))),
        }
    }

    /// Where the data of everything a table mounts is, once all of it is there.
    pub(super) fn volumes_for(&self, spec: &ContainerSpec) -> Result<BTreeMap<Name, PathBuf>, Blocked> {
        let mut paths = BTreeMap::new();
        for name in mounted(spec) {
            let noun = Noun::Volume(name.clone());
            let is_said = self.said.contains(&noun);
            let said = is_said
                .then(|| self.waits.iter().find(|w| w.noun == noun))
                .flatten();
            let why = said.and_then(|w| w.reasons.first()).map(|r| r.field.as_str());
            let text = || match why {
                Some(why) => format!("waits for volume {name}, which {why}"),
                None => format!("waits for volume {name}"),
            };
            let there = self.input.observed.volumes.known().and_then(|all| all.get(name));
            match there {
                Some(volume) if volume.reach == Reach::Here && !said.is_some_and(|w| w.error) => {
                    paths.insert(name.clone(), volume.path.clone());
                }
                _ => {
                    let error = said.is_some_and(|w| w.error);
                    return Err(Blocked {
                        why: text(),
                        until: None,
                        error,
                    });
                }
            }
        }
        Ok(paths)
    }

    /// The same for what runs: whatever can be seen.
    pub(super) fn known_paths(&self, spec: &ContainerSpec) -> BTreeMap<Name, PathBuf> {
        let all = self.input.observed.volumes.known();
        let path = |name: &Name| Some((name.clone(), all?.get(name)?.path.clone()));
        mounted(spec).filter_map(path).collect()
    }

    /// Removes what no table and no container wants any more, where its table said so.
    pub(super) fn remove_volumes(&mut self) {
        let names: Vec<Name> = self.ledger.volumes.keys().cloned().collect();
        for name in names {
            self.remove_volume(&name);
        }
    }

    fn remove_volume(&mut self, name: &Name) {
        let Some(entry) = self.ledger.volumes.get(name).cloned() else {
            return;
        };
        let Some(since) = entry.gone_since else { return };
        let goes = !entry.spec.keep || self.broken(Mutation::VolumesAreLost);
        if !goes || self.is_mounted(name) {
            return;
        }
        let noun = Noun::Volume(name.clone());
        if self.busy(&noun) {
            return self.wait(noun, "is being changed", None);
        }
        if !self.volume_is_due(name) {
            let due = after(since, self.input.desired.settings.removal_grace);
            let why = "its table is gone, and keep = false: it is removed unless it comes back";
            return self.wait(noun, why, Some(due));
        }
        match &self.input.observed.volumes {
            Look::Known(all) if !all.contains_key(name) => return,
            Look::Known(_) => {}
            Look::Unknown(why) => {
                let why = format!("cannot be looked at, so it is not removed: {why}");
                return self.wait(noun, why, None);
            }
        }
        if self.somebody_unknown_is_there() {
            return self.wait(noun, "waits for containers that are being removed", None);
        }
        if let Some(blocked) = self.resting(&noun, None, &(), &Default::default()) {
            return self.hold_up(noun, blocked);
        }
        let reason = Reason {
            file: Some(entry.origin.file.clone()).filter(|f| !f.is_empty()),
            ..Reason::because("its table is gone, and keep = false")
        };
        // Its table may come back before that is done: then it is missed, and nobody else's doing.
        self.ledger.volumes_made.remove(name);
        let action = Action::RemoveVolume { name: name.clone() };
        self.act(Op::Remove, action, Vec::new(), vec![reason]);
    }

    /// Why one is made: its table, or the mount of a container.
    fn created(&self, entry: Option<&VolumeEntry>, by: Option<&Name>) -> Reason {
        let (text, at) = match (entry, by) {
            (Some(entry), _) => ("is declared".to_owned(), Some(entry.origin.location())),
            (None, Some(by)) => {
                let container = self.ledger.containers.get(by);
                let at = container.map(|e| e.current.origin.key("volumes"));
                (format!("container {by} mounts it"), at)
            }
            (None, None) => ("is mounted".to_owned(), None),
        };
        Reason {
            file: at.as_ref().map(|at| at.file.clone()).filter(|f| !f.is_empty()),
            line: at.and_then(|at| at.line),
            ..Reason::because(text)
        }
    }

    /// There is, or may be, a container that the ledger does not know: what that one mounts cannot be told.
    fn somebody_unknown_is_there(&self) -> bool {
        let known: BTreeSet<_> = self.ledger.accepted().map(|(_, a)| &a.id).collect();
        match self.input.observed.containers.known() {
            None => true,
            Some(all) => all.keys().any(|id| !known.contains(id)),
        }
    }
}

fn changed(there: &ObservedVolume, spec: &VolumeSpec, origin: Option<&Origin>) -> Vec<Reason> {
    let nowhere = Origin::default();
    let changes = diff::volume(&there.spec, spec, origin.unwrap_or(&nowhere));
    let unmounted = (there.reach == Reach::Unmounted).then(|| Reason::because("is not mounted"));
    changes
        .into_iter()
        .map(|change| change.reason)
        .chain(unmounted)
        .collect()
}

/// What tells it from what is wanted.
fn made_of(there: &VolumeSpec, wanted: &VolumeSpec) -> String {
    match &there.device {
        Some(device) if there.driver == wanted.driver => format!("device {}", text(device)),
        _ => format!("driver {}", driver(there)),
    }
}

/// It is mounted already, and there is nothing to do about it but to wait.
fn silent(spec: &VolumeSpec, why: &str) -> Blocked {
    let device = spec.device.as_deref().map(text).unwrap_or_default();
    Blocked::error(format!(
        "is on {device}, which does not answer ({why}): who runs waits for it, nobody else is started with it, and it \
         goes on by itself when it answers"
    ))
}

/// As tables write it.
pub(crate) fn driver(spec: &VolumeSpec) -> &'static str {
    use VolumeDriver::{Bind, Local, Nfs, Tmpfs};
    match spec.driver {
        Local => "local",
        Bind => "bind",
        Tmpfs => "tmpfs",
        Nfs => "nfs",
    }
}
