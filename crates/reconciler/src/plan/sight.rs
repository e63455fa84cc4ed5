//! What is seen of a container, with "could not be seen" kept apart from "is not there".

use std::collections::BTreeMap;
use std::ops::Bound;

use model::action::Noun;
use model::ledger::Accepted;
use model::name::{ContainerId, Name};
use model::observed::{Look, Observed, ObservedContainer, ObservedLink, Phase};

use super::{Mutation, Pass};

/// A look at one container.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sight<'a> {
    Unknown(&'a str),
    Absent,
    Seen(&'a ObservedContainer),
}

impl<'a> Sight<'a> {
    /// What an observation says of an id.
    pub(crate) fn of(observed: &'a model::observed::Observed, id: &ContainerId) -> Self {
        match &observed.containers {
            Look::Unknown(why) => Self::Unknown(why),
            Look::Known(all) => match all.get(id) {
                None => Self::Absent,
                Some(Look::Unknown(why)) => Self::Unknown(why),
                Some(Look::Known(container)) => Self::Seen(container),
            },
        }
    }

    /// It has a shim, and so namespaces and addresses; what cannot be seen may have.
    pub(crate) fn may_be_live(self) -> bool {
        match self {
            Self::Unknown(_) => true,
            Self::Absent => false,
            Self::Seen(c) => is_live(c),
        }
    }

    /// Its payload runs, or runs again by itself.
    pub(crate) fn is_up(self) -> bool {
        matches!(self, Self::Seen(c) if matches!(c.phase, Phase::Running { .. } | Phase::Paused { .. } | Phase::Backoff { .. }))
    }
}

/// It has a shim.
pub(crate) fn is_live(c: &ObservedContainer) -> bool {
    match c.phase {
        Phase::Created | Phase::Running { .. } | Phase::Paused { .. } | Phase::Backoff { .. } => true,
        Phase::Prepared | Phase::Exited | Phase::Lost => false,
    }
}

/// What is seen, by name.
pub(super) fn by_name(observed: &Observed) -> BTreeMap<&Name, Vec<&ObservedContainer>> {
    let mut seen: BTreeMap<&Name, Vec<&ObservedContainer>> = BTreeMap::new();
    let all = observed.containers.known().into_iter().flatten();
    for container in all.filter_map(|(_, look)| look.known()) {
        seen.entry(&container.name).or_default().push(container);
    }
    seen
}

impl<'a> Pass<'a, '_> {
    /// All that carry this name.
    pub(super) fn called(&self, name: &Name) -> &[&'a ObservedContainer] {
        self.seen.get(name).map_or(&[], Vec::as_slice)
    }

    pub(super) fn sight(&self, id: &ContainerId) -> Sight<'a> {
        match Sight::of(self.input.observed, id) {
            Sight::Unknown(_) if self.broken(Mutation::UnknownIsAbsent) => Sight::Absent,
            sight => sight,
        }
    }

    pub(super) fn look_at(&self, accepted: &Accepted) -> Sight<'a> {
        self.sight(&accepted.id)
    }

    /// Device names of ours that belong to this id and still exist; none where devices cannot be seen.
    pub(super) fn devices_of(&self, id: &ContainerId) -> Option<Vec<String>> {
        let links = self.input.observed.links.known()?;
        let prefix = crate::allocate::device::host_device_prefix(id);
        let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
        let all = links.range::<str, _>(from);
        let own = all.take_while(|(name, _)| name.starts_with(&prefix));
        let own = own.filter(|(_, link)| link.ours);
        Some(own.map(|(name, _)| name.clone()).collect())
    }

    pub(super) fn link(&self, device: &str) -> Option<&'a ObservedLink> {
        self.input.observed.links.known()?.get(device)
    }

    /// Whether some container of the ledger that uses this network has, or may have, interfaces now.
    pub(super) fn has_live_users(&self, network: &Name) -> bool {
        self.ledger.containers.iter().any(|(name, entry)| {
            let mut using = entry
                .all()
                .filter(|a| a.attachments.iter().any(|at| at.network == *network))
                .peekable();
            using.peek().is_some()
                && (self.busy(&Noun::Container(name.clone())) || using.any(|a| self.look_at(a).may_be_live()))
        })
    }
}
