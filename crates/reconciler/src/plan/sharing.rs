//! Shared namespaces (`container:NAME`): an owner is there before its sharers, they are stopped before it is, and begin
//! anew when it does.
//!
//! A network or ipc namespace lasts as long as its owner's shim, a pid namespace as long as one run of its owner.

use model::action::{Action, Joins, Noun};
use model::ledger::{Accepted, ReplacePhase};
use model::name::{ContainerId, Name};
use model::observed::{ObservedContainer, Phase};
use model::plan::{Op, Reason};
use model::spec::{ContainerSpec, NamespaceMode, NetworkMode};

use super::firewall::effective;
use super::presence::Wish;
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
            if let Some(why) = self.is_to_end(owner, accepted) {
                return Err(because(why));
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

    /// An owner that still runs and is about to be stopped: who began in its namespaces now would be stopped with it.
    fn is_to_end(&self, owner: &Name, accepted: &Accepted) -> Option<&'static str> {
        if self.broken(Mutation::StopsInAnyOrder) {
            None
        } else if self.ledger.holds.contains_key(owner) {
            Some(", which is to stay stopped")
        } else if matches!(self.wish(owner), Wish::Gone) {
            Some(", which is about to be removed")
        } else if self.stands_on_nothing(accepted) {
            Some(", which is about to be started anew")
        } else {
            None
        }
    }

    /// Of both, the owner of the network is replaced first: who went before would be stopped for it a second time.
    pub(super) fn owner_is_ready(&self, spec: &ContainerSpec) -> Result<(), Blocked> {
        let mut networks = owners(spec).filter(|(kind, _)| *kind == Kind::Net);
        let changing = networks.find(|(_, owner)| {
            let next = self.ledger.containers.get(*owner).and_then(|e| e.next.as_ref());
            next.is_some_and(|n| n.phase == ReplacePhase::Preparing)
        });
        match changing {
            Some((_, owner)) => Err(Blocked::wait(format!(
                "is replaced once container {owner}, whose namespaces it shares, is"
            ))),
            None => Ok(()),
        }
    }

    /// Stops those that live in the namespaces of this one, which is to be stopped after them: the actions that do so.
    pub(super) fn stop_sharers(&mut self, owner: &Name, id: &ContainerId) -> Result<Vec<usize>, Blocked> {
        if self.broken(Mutation::StopsInAnyOrder) {
            return Ok(Vec::new());
        }
        self.may_stop_sharers(id)?;
        Ok(self.stop_each_sharer(owner, id))
    }

    /// Of those who live there, and of those who live with them, nobody is in the middle of something.
    fn may_stop_sharers(&self, id: &ContainerId) -> Result<(), Blocked> {
        let sharers = self.sharers(id).into_iter();
        for (name, sharer) in sharers.filter(|(_, sharer)| self.ends(&sharer.id).is_none()) {
            let noun = Noun::Container(name.clone());
            let because = |why: &str| {
                Blocked::wait(format!(
                    "is stopped once container {name}, which shares its namespaces, is{why}"
                ))
            };
            if self.container_busy(&name) {
                return Err(because(": that is being changed"));
            }
            if let Some(blocked) = self.resting_stop(&noun, &sharer) {
                return Err(Blocked {
                    until: blocked.until,
                    ..because(&format!(": {}", blocked.why))
                });
            }
            self.may_stop_sharers(&sharer.id)?;
        }
        Ok(())
    }

    fn stop_each_sharer(&mut self, owner: &Name, id: &ContainerId) -> Vec<usize> {
        let mut stops = Vec::new();
        for (name, sharer) in self.sharers(id) {
            // By its id: of another one of its name, on trial or draining, the plan may say something else.
            let index = match self.ends(&sharer.id) {
                Some(index) => index,
                None => {
                    let before = self.stop_each_sharer(&name, &sharer.id);
                    self.stop_sharer(owner, &name, &sharer, before)
                }
            };
            stops.push(index);
        }
        stops
    }

    /// What is seen to live in namespaces of the container with this id.
    fn sharers(&self, id: &ContainerId) -> Vec<(Name, Accepted)> {
        if !self.has_sharers(id) {
            return Vec::new();
        }
        let joins = |a: &Accepted| {
            let all = [&a.joins.net, &a.joins.pid, &a.joins.ipc];
            all.into_iter().flatten().any(|of| of == id)
        };
        let lives = |a: &Accepted| matches!(self.look_at(a), Sight::Seen(c) if is_live(c));
        let all = self.ledger.accepted().filter(|(_, a)| joins(a) && lives(a));
        all.map(|(name, a)| (name.clone(), a.clone())).collect()
    }

    fn stop_sharer(&mut self, owner: &Name, name: &Name, sharer: &Accepted, mut after: Vec<usize>) -> usize {
        let noun = Noun::Container(name.clone());
        // What was decided about it before that was known comes first.
        let mine = self.actions.iter().rposition(|p| p.action.noun() == noun);
        after.extend(mine);
        after.extend(self.stops_before(name));
        after.extend(self.out_of_traffic(name));
        after.sort_unstable();
        after.dedup();
        let why = format!(
            "shares namespaces of container {owner}, which is stopped next: it is started again once that is there"
        );
        let action = Action::StopContainer {
            id: sharer.id.clone(),
            name: name.clone(),
            signal: sharer.stop_signal(),
            grace: sharer.spec.stop_grace_period,
        };
        // From now on it is of no use where it lives, whatever comes between.
        if let Some(kept) = self.accepted_mut(name, &sharer.id) {
            kept.stale = true;
        }
        let index = self.act(Op::Replace, action, after, vec![Reason::because(why)]);
        self.stopping.insert(name.clone(), index);
        index
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
        let joins = &joining.joins;
        self.note_joined([&joins.net, &joins.pid, &joins.ipc].into_iter().flatten());
        joining
    }
}

fn runs(c: &ObservedContainer) -> bool {
    matches!(c.phase, Phase::Running { .. } | Phase::Paused { .. })
}
