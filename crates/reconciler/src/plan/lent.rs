//! `volumes_from`: whoever has its volumes from another container needs them to be there, and no more of that one.
//!
//! What the other's image has at their places is put into them when that one is first started, so the first start is
//! waited for. After that it may be stopped, finished, failed or replaced: the volumes stay.

use model::ledger::{Accepted, ContainerEntry};
use model::name::Name;
use model::observed::Phase;
use model::spec::ContainerSpec;

use super::firewall::effective;
use super::sight::Sight;
use super::{Blocked, Pass};
use crate::resolve::lenders;

impl Pass<'_, '_> {
    /// The volumes a container has from others were given what is in those others' images.
    pub(super) fn volumes_are_lent(&self, spec: &ContainerSpec) -> Result<(), Blocked> {
        for owner in lenders(spec) {
            for name in self.instances(&owner) {
                match self.ledger.containers.get(name) {
                    Some(entry) => {
                        self.was_begun(name, entry)?;
                        names_its_own(name, effective(entry), spec)?;
                    }
                    None if self.input.desired.containers.contains_key(name) => {
                        return Err(Blocked::wait(not_yet(name)));
                    }
                    // Its table is gone, and this one is as it was accepted before that.
                    None => {}
                }
            }
        }
        Ok(())
    }

    fn was_begun(&self, name: &Name, entry: &ContainerEntry) -> Result<(), Blocked> {
        let begun = |a: &Accepted| match self.look_at(a) {
            Sight::Absent => false,
            Sight::Seen(c) => !matches!(c.phase, Phase::Prepared | Phase::Created),
            Sight::Unknown(_) => true,
        };
        if entry.all().any(|a| a.finished || begun(a)) || self.ledger.holds.contains_key(name) {
            return Ok(());
        }
        Err(Blocked::wait(not_yet(name)))
    }
}

fn not_yet(name: &Name) -> String {
    format!("waits for the first start of container {name}, whose volumes it mounts")
}

/// What an image declares to be a volume is its container's alone, unless a table says otherwise: nobody else would see
/// it, and be surprised.
fn names_its_own(name: &Name, owner: &Accepted, spec: &ContainerSpec) -> Result<(), Blocked> {
    let declared = owner.image.iter().flat_map(|image| &image.config.volumes);
    let named = |target: &str| {
        let of = |spec: &ContainerSpec| {
            let volumes = spec.volumes.iter().map(|v| &v.target);
            let mut targets = volumes.chain(spec.tmpfs.iter().map(|t| &t.target));
            targets.any(|t| t.trim_end_matches('/') == target)
        };
        of(&owner.spec) || of(spec)
    };
    let mut unnamed = declared.map(|t| t.trim_end_matches('/')).filter(|t| !named(t));
    match unnamed.next() {
        None => Ok(()),
        Some(target) => Err(Blocked::error(format!(
            "volumes_from: the image of container {name} declares a volume at {target}, which is that container's alone \
             until its table names it: add {target:?} to its `volumes`"
        ))),
    }
}
