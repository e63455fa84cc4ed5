//! Shared namespaces (`container:NAME`): an owner is there before its sharers, and they begin anew when it does.
//!
//! A network or ipc namespace lasts as long as its owner's shim, a pid namespace as long as one run of its owner.

use model::action::Joins;
use model::ledger::Accepted;
use model::name::{ContainerId, Name};
use model::observed::{ObservedContainer, Phase};
use model::spec::{ContainerSpec, NamespaceMode, NetworkMode};

use super::firewall::effective;
use super::sight::{Sight, is_live};
use super::{Blocked, Mutation, Pass};

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Net,
    Pid,
    Ipc,
}

/// The containers whose namespaces a table shares.
pub(super) fn owners(spec: &ContainerSpec) -> impl Iterator<Item = (Kind, &Name)> {
    let net = match &spec.network_mode {
        NetworkMode::Container(owner) => Some((Kind::Net, owner)),
        NetworkMode::Bridge | NetworkMode::Host | NetworkMode::None => None,
    };
    let pid = other(Kind::Pid, &spec.pid);
    let ipc = other(Kind::Ipc, &spec.ipc);
    net.into_iter().chain(pid).chain(ipc)
}

fn other(kind: Kind, mode: &NamespaceMode) -> Option<(Kind, &Name)> {
    match mode {
        NamespaceMode::Container(owner) => Some((kind, owner)),
        NamespaceMode::Private | NamespaceMode::Host => None,
    }
}

/// Where a container is to begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Joined {
    joins: Joins,
    run: Option<u64>,
}

impl<'a> Pass<'a, '_> {
    /// Marks what lives in namespaces that have ended, or are about to: it is stopped, and begun in those there are
    /// then. One that is just being started may have begun in the old ones, and is marked as well.
    pub(super) fn note_owners(&mut self) {
        let mut stale = Vec::new();
        for (name, accepted) in self.ledger.accepted() {
            let may_live = self.container_busy(name) || self.look_at(accepted).may_be_live();
            let ignored = self.broken(Mutation::OwnersAreIgnored);
            if may_live && !ignored && !accepted.stale && self.lost_owner(accepted).is_some() {
                stale.push((name.clone(), accepted.id.clone()));
            }
        }
        for (name, id) in stale {
            if let Some(accepted) = self.accepted_mut(&name, &id) {
                accepted.stale = true;
            }
        }
    }

    /// The accepted container of a name with this id.
    pub(super) fn accepted_mut(&mut self, name: &Name, id: &ContainerId) -> Option<&mut Accepted> {
        let entry = self.ledger.containers.get_mut(name)?;
        entry.all_mut().find(|a| a.id == *id)
    }

    /// Why the namespaces it lives in are of no use any more.
    pub(super) fn lost_owner(&self, accepted: &Accepted) -> Option<String> {
        let joins = &accepted.joins;
        owners(&accepted.spec).find_map(|(kind, owner)| {
            let id = match kind {
                Kind::Net => joins.net.as_ref()?,
                Kind::Pid => joins.pid.as_ref()?,
                Kind::Ipc => joins.ipc.as_ref()?,
            };
            let lost = match self.sight(id) {
                Sight::Unknown(_) => false,
                Sight::Absent => true,
                Sight::Seen(c) if kind == Kind::Pid => {
                    !runs(c) || accepted.joined_run.is_some_and(|run| run != c.run_no)
                }
                Sight::Seen(c) => !is_live(c),
            };
            lost.then(|| format!("container {owner}, whose namespaces it shares, ended or was begun anew"))
        })
    }

    /// The namespaces it is to begin in, once their owners are there.
    pub(super) fn joined(&self, spec: &ContainerSpec) -> Result<Joined, Blocked> {
        let mut joined = Joined::default();
        for (kind, owner) in owners(spec) {
            let because = |why: &str| {
                Blocked::wait(format!(
                    "waits for container {owner}, whose namespaces it shares{why}"
                ))
            };
            let entry = self.ledger.containers.get(owner).ok_or_else(|| because(""))?;
            let accepted = effective(entry);
            if self.container_busy(owner) {
                return Err(because(", which is being changed"));
            }
            if accepted.finished {
                return Err(because(", which has ended"));
            }
            let Sight::Seen(seen) = self.look_at(accepted) else {
                return Err(because(""));
            };
            let there = runs(seen) || (kind != Kind::Pid && matches!(seen.phase, Phase::Backoff { .. }));
            if !there || accepted.stale {
                return Err(because(""));
            }
            let id = Some(accepted.id.clone());
            match kind {
                Kind::Net => joined.joins.net = id,
                Kind::Ipc => joined.joins.ipc = id,
                Kind::Pid => {
                    joined.joins.pid = id;
                    joined.run = Some(seen.run_no);
                }
            }
        }
        Ok(joined)
    }

    /// Remembers where it begins; gives it back as it is then.
    pub(super) fn join(&mut self, name: &Name, accepted: &Accepted, joined: Joined) -> Accepted {
        let joining = Accepted {
            joins: joined.joins,
            joined_run: joined.run,
            ..accepted.clone()
        };
        if let Some(kept) = self.accepted_mut(name, &accepted.id) {
            kept.joins.clone_from(&joining.joins);
            kept.joined_run = joining.joined_run;
        }
        joining
    }
}

fn runs(c: &ObservedContainer) -> bool {
    matches!(c.phase, Phase::Running { .. } | Phase::Paused { .. })
}
