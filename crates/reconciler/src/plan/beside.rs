//! Start-first, what is done: when it can be, and the steps of the one on trial and of the one that drains.

use model::action::{Action, Noun};
use model::ledger::{Accepted, ContainerEntry, ReplacePhase, Replacement};
use model::name::Name;
use model::plan::{Op, Reason, Wait};
use model::spec::{ContainerSpec, NetworkMode, RestartPolicy, UpdateStrategy, VolumeSource};

use super::resources::uses;
use super::rollout::{SETTLED, Trial};
use super::sharing::owners;
use super::sight::Sight;
use super::{Blocked, Pass};

impl Pass<'_, '_> {
    /// Why the old one has to be stopped before the new one is started, where the table asks for the other way round.
    pub(super) fn stops_first(&self, name: &Name, old: &Accepted, new: &ContainerSpec) -> Option<String> {
        if new.update.strategy != UpdateStrategy::StartFirst {
            return None;
        }
        let why = self
            .only_one(new)
            .or_else(|| (old.spec.network_mode == NetworkMode::Host).then(|| host_network("was")))
            .or_else(|| self.shared_by(name))
            .or_else(|| {
                let held = self.ledger.holds.contains_key(name);
                held.then(|| "it is to stay stopped".to_owned())
            })
            .or_else(|| {
                self.has_to_leave(old)
                    .then(|| "a network of it is made anew, or what it was joined to".to_owned())
            });
        why.map(|why| format!("cannot be updated start-first, so the old one is stopped first: {why}"))
    }

    /// What of a table allows for one instance at a time.
    fn only_one(&self, spec: &ContainerSpec) -> Option<String> {
        if spec.network_mode == NetworkMode::Host {
            return Some(host_network("is"));
        }
        if let Some((_, owner)) = owners(spec).next() {
            return Some(format!("it lives in namespaces of container {owner}"));
        }
        if let Some(fixed) = spec
            .networks
            .iter()
            .find(|n| n.ip.is_some() || n.ip6.is_some() || n.mac.is_some())
        {
            return Some(format!("its address in network {} is a fixed one", fixed.network));
        }
        if spec.restart.policy == RestartPolicy::No {
            return Some("it is a job (restart policy \"no\")".to_owned());
        }
        let mut named = spec.volumes.iter().filter_map(|v| match &v.source {
            VolumeSource::Named(volume) => Some(volume),
            VolumeSource::Anonymous | VolumeSource::Bind { .. } | VolumeSource::Tmpfs { .. } => None,
        });
        let exclusive = named.find(|v| self.is_exclusive(v))?;
        Some(format!("volume {exclusive} is exclusive"))
    }

    fn is_exclusive(&self, volume: &Name) -> bool {
        let declared = self.input.desired.volumes.get(volume).map(|d| &d.spec);
        let accepted = self.ledger.volumes.get(volume).map(|e| &e.spec);
        declared.or(accepted).is_some_and(|spec| spec.exclusive)
    }

    fn shared_by(&self, name: &Name) -> Option<String> {
        let accepted = self.ledger.accepted().map(|(by, a)| (by, &a.spec));
        let declared = self.input.desired.containers.iter().map(|(by, d)| (by, &d.spec));
        let shares = |spec: &ContainerSpec| owners(spec).any(|(_, owner)| owner == name);
        let (by, _) = accepted.chain(declared).find(|(_, spec)| shares(spec))?;
        Some(format!("container {by} lives in its namespaces"))
    }

    /// There is no address left for another one while one drains, nor in a network that is made anew.
    pub(super) fn may_try(&self, entry: &ContainerEntry, new: &ContainerSpec) -> Result<(), Blocked> {
        for usage in uses(new) {
            let network = self.ledger.networks.get(&usage.network);
            if network.is_some_and(|n| n.replacing.is_some()) {
                let why = format!("waits for network {}, which is made anew", usage.network);
                return Err(Blocked::wait(why));
            }
        }
        match &entry.draining {
            None => Ok(()),
            Some(draining) => Err(Blocked {
                until: draining.until.filter(|at| *at > self.input.now),
                ..Blocked::wait("is updated once the one before the present one has ended")
            }),
        }
    }

    /// The steps of an entry with a trial: the one that has names and ports comes first.
    pub(super) fn drive_beside(
        &mut self,
        name: &Name,
        entry: &ContainerEntry,
        next: &Replacement,
        after: Vec<usize>,
        reasons: Vec<Reason>,
    ) {
        let begun = self.actions.len();
        self.drive_current(name, &entry.current, after.clone());
        if self.actions.len() > begun {
            return;
        }
        if next.phase == ReplacePhase::Trial {
            return self.drive_trial(name, &next.accepted, after, reasons);
        }
        let why = match &entry.rejected {
            Some(rejected) => format!("the update is taken back: {}", rejected.reason),
            None => "its trial is broken off".to_owned(),
        };
        if self
            .remove_one(name, &next.accepted, vec![Reason::because(why)], after)
            .is_none()
        {
            self.look_soon();
        }
    }

    fn drive_trial(&mut self, name: &Name, new: &Accepted, after: Vec<usize>, reasons: Vec<Reason>) {
        let state = self.trial(name, new);
        if let Trial::Begins = state {
            match self.trial_needs(name, new) {
                Err(blocked) => self.also_wait(name, blocked),
                Ok(needs) => self.start_trial(name, new, [after, needs].concat(), reasons),
            }
            return;
        }
        let until = match state {
            Trial::Open { until } => until,
            _ => Some(self.later(SETTLED)),
        };
        let why = match (self.look_at(new), self.health(new)) {
            (Sight::Unknown(why), _) => {
                format!("the new one, on trial beside it, cannot be looked at: {why}")
            }
            (_, Some(health)) => {
                let timeout = model::units::format_duration(new.spec.update.timeout);
                format!(
                    "the new one, on trial beside it, has {timeout} to become healthy: it {}",
                    health.sentence()
                )
            }
            _ => {
                let settled = model::units::format_duration(SETTLED);
                format!("the new one takes its place once it has run for {settled}")
            }
        };
        let wait = Blocked::wait(why);
        self.also_wait(name, Blocked { until, ..wait });
    }

    fn start_trial(&mut self, name: &Name, new: &Accepted, mut after: Vec<usize>, reasons: Vec<Reason>) {
        let Some(mut instance) = self.instance(name, new) else {
            return;
        };
        // An end is for us to judge, and not for its shim to make good.
        instance.spec.restart.policy = RestartPolicy::No;
        after.sort_unstable();
        after.dedup();
        self.act(Op::Replace, Action::StartContainer { instance }, after, reasons);
    }

    /// The one before: removed once its time is over and nothing else of its name is in the plan.
    pub(super) fn drive_draining(&mut self, name: &Name, entry: &ContainerEntry, begun: usize) {
        let Some(draining) = &entry.draining else { return };
        let noun = Noun::Container(name.clone());
        let due = draining.until.is_some_and(|at| at <= self.input.now);
        let acted = self.actions.iter().skip(begun).any(|p| p.action.noun() == noun);
        if due && !acted {
            let why = format!("{} was replaced, and has drained", draining.accepted.id.short());
            let removed = self.remove_one(name, &draining.accepted, vec![Reason::because(why)], Vec::new());
            if removed.is_none() {
                self.look_soon();
            }
            return;
        }
        let why = match draining.until {
            Some(_) => "was replaced: the one before ends what it has begun",
            None => "was replaced: names and ports are moved to the new one",
        };
        let until = draining.until.filter(|_| !due);
        self.also_wait(
            name,
            Blocked {
                until,
                ..Blocked::wait(why)
            },
        );
    }

    /// A wait beside others of the same container: its deadline counts as well.
    fn also_wait(&mut self, name: &Name, blocked: Blocked) {
        self.waits.push(Wait {
            noun: Noun::Container(name.clone()),
            reasons: vec![Reason::because(blocked.why)],
            until: blocked.until,
            error: blocked.error,
        });
    }

    /// What rests after a failure may not have been able to say until when.
    fn look_soon(&mut self) {
        let soon = self.later(SETTLED);
        self.wake_by(soon);
    }
}

/// What became of a trial in this pass.
pub(super) fn rolled(before: &ContainerEntry, after: &ContainerEntry) -> Option<Reason> {
    let new = after.current.id.short();
    if let Some(draining) = &after.draining
        && draining.accepted.id == before.current.id
    {
        let old = draining.accepted.id.short();
        let why = format!("{new} is good and takes the place of {old}, which drains: names and ports move");
        return Some(Reason::because(why));
    }
    let phase = after.next.as_ref().map(|n| n.phase);
    let rejected = after
        .rejected
        .as_ref()
        .filter(|r| before.rejected.as_ref() != Some(*r));
    let rejected = rejected.filter(|_| phase == Some(ReplacePhase::Dropping))?;
    let why = format!("the update is taken back, {new} goes on: {}", rejected.reason);
    Some(Reason::because(why))
}

fn host_network(is: &str) -> String {
    format!("its network {is} the host's")
}
