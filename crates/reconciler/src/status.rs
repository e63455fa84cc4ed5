//! `wharf status`: what is, in the contract's words, from the same inputs as the plan.

mod beside;
mod peers;
mod reach;
mod schedule;

use std::collections::BTreeMap;

use model::action::{Action, Noun};
use model::ledger::{Accepted, ContainerEntry};
use model::name::{ContainerId, Name};
use model::network::{HostNetwork, Link};
use model::observed::{ExitRecord, ObservedContainer, Phase};
use model::plan::Plan;
use model::spec::VolumeSpec;
use model::status::{
    ContainerStatus, EndpointStatus, ImageStatus, NetworkStatus, RolledBack, State, Status, VolumeStatus,
};

use crate::plan::{Input, Sight, driver, health_of, mounted, plan};

/// The status as of these inputs. Paths and version are filled in by the agent, which knows them.
pub fn status(input: &Input<'_>) -> Status {
    // The ids of containers that would be made are shown nowhere.
    let mut ids = || ContainerId::from_bytes([0; 32]);
    status_of(input, &plan(input, &mut ids))
}

/// [`status`] with the plan made from the same inputs.
pub fn status_of(input: &Input<'_>, plan: &Plan) -> Status {
    let view = View { input, plan };
    let containers = view.containers();
    let networks = view.networks();
    let images = view.images();
    let converged = plan.is_empty()
        && input.in_flight.is_empty()
        && input.desired.errors.is_empty()
        && containers.iter().all(|c| counts(c) && c.error.is_none());
    Status {
        generation: input.ledger.generation,
        converged,
        config_dir: String::new(),
        firewall: input.observed.backend.kind.word().to_owned(),
        firewall_note: input.observed.backend.remark.clone(),
        version: String::new(),
        errors: input.desired.errors.clone(),
        containers,
        networks,
        volumes: view.volumes(),
        images,
    }
}

/// INTERFACE's table: which states count as converged.
pub fn counts(c: &ContainerStatus) -> bool {
    match c.state {
        // One on trial is to be decided about.
        State::Running => c.role != "trial" && c.health != "starting" && c.health != "unhealthy",
        State::Paused | State::Stopped | State::Exited => true,
        State::Pending | State::Creating | State::Backoff | State::Failed | State::Removing => false,
    }
}

struct View<'a> {
    input: &'a Input<'a>,
    plan: &'a Plan,
}

impl View<'_> {
    fn containers(&self) -> Vec<ContainerStatus> {
        let (desired, ledger) = (self.input.desired, self.input.ledger);
        let mut names: Vec<&Name> = desired
            .containers
            .keys()
            .chain(ledger.containers.keys())
            .chain(&desired.held.containers)
            .collect();
        names.sort();
        names.dedup();
        let rows = names.into_iter().flat_map(|name| {
            let active = self.container(name);
            let entry = ledger.containers.get(name);
            let others = entry.map(|e| self.beside(e, &active)).unwrap_or_default();
            std::iter::once(active).chain(others)
        });
        rows.collect()
    }

    fn container(&self, name: &Name) -> ContainerStatus {
        let entry = self.input.ledger.containers.get(name);
        let accepted = entry.map(|e| self.shown(e));
        let seen = accepted.and_then(|a| self.seen(a));
        let declared = self.input.desired.containers.get(name);
        let place = entry.map_or_else(|| self.input.desired.places.get(name), |e| e.place.as_ref());
        let spec = accepted.map(|a| &a.spec).or(declared.map(|d| &d.spec));
        let file = declared
            .map(|d| &d.origin.file)
            .or(accepted.map(|a| &a.origin.file));
        let hold = self.input.ledger.holds.get(name);
        let state = self.state(name, entry, accepted, seen);
        let health = accepted.and_then(|a| health_of(self.input.observed, a));
        let health = health.map_or("none", |h| h.verdict.as_str());
        let exit = seen.and_then(|c| c.last_exit.as_ref());
        let up = seen.filter(|c| runs(c));
        let rejected = entry.and_then(|e| e.rejected.as_ref());
        let rolled_back = rejected.map(|r| RolledBack {
            at: r.at,
            reason: r.reason.clone(),
            log: r.log.clone(),
        });
        ContainerStatus {
            name: name.to_string(),
            service: place.map_or(name, |p| &p.service).to_string(),
            instance: place.map_or(1, |p| p.number),
            role: "active".to_owned(),
            id: accepted.map(|a| a.id.to_string()),
            state,
            health: health.to_owned(),
            pid: seen.and_then(pid),
            restarts: seen.map_or(0, |c| c.restarts),
            image: spec.map(|s| s.image.key()).unwrap_or_default(),
            image_id: accepted.and_then(|a| a.image_id).map(|d| d.to_string()),
            image_digest: accepted.and_then(|a| a.image_digest).map(|d| d.to_string()),
            created_at: seen.map(|c| c.created_at),
            started_at: seen.and_then(|c| c.started_at).or(exit.map(|e| e.started_at)),
            finished_at: exit.filter(|_| up.is_none()).map(|e| e.finished_at),
            exit_code: exit.filter(|_| up.is_none()).map(|e| e.code),
            signal: exit.filter(|_| up.is_none()).and_then(|e| e.signal),
            oom_killed: exit.is_some_and(|e| e.oom_killed) && up.is_none(),
            hold: hold.map(|h| h.reason.clone()),
            rolled_back,
            next_run: accepted.and_then(|a| self.next_run(name, a)),
            last_runs: self.last_runs(name),
            networks: accepted.map(endpoints).unwrap_or_default(),
            ports: accepted.map(|a| self.ports(a)).unwrap_or_default(),
            file: file.filter(|f| !f.is_empty()).cloned(),
            error: self.error(
                name,
                entry,
                exit.filter(|_| up.is_none()).and_then(|e| ending(state, e)),
                state == State::Running && health == "starting",
            ),
        }
    }

    /// Of a replacement under way the one that runs; where none does, the one that is to.
    fn shown<'e>(&self, entry: &'e ContainerEntry) -> &'e Accepted {
        let up = |a: &Accepted| self.seen(a).is_some_and(is_up);
        match &entry.next {
            Some(next) if !entry.is_steady() && !up(&entry.current) && up(&next.accepted) => &next.accepted,
            _ => &entry.current,
        }
    }

    fn seen(&self, accepted: &Accepted) -> Option<&ObservedContainer> {
        match Sight::of(self.input.observed, &accepted.id) {
            Sight::Seen(c) => Some(c),
            Sight::Absent | Sight::Unknown(_) => None,
        }
    }

    fn state(
        &self,
        name: &Name,
        entry: Option<&ContainerEntry>,
        accepted: Option<&Accepted>,
        seen: Option<&ObservedContainer>,
    ) -> State {
        if entry.is_some_and(|e| e.gone_since.is_some()) {
            return State::Removing;
        }
        match seen.map(|c| &c.phase) {
            Some(Phase::Running { .. }) => return State::Running,
            Some(Phase::Paused { .. }) => return State::Paused,
            Some(Phase::Backoff { .. }) => return State::Backoff,
            _ => {}
        }
        if entry.is_some() && self.input.ledger.holds.contains_key(name) {
            return State::Stopped;
        }
        if accepted.is_some_and(|a| a.finished) {
            let failed = seen
                .and_then(|c| c.last_exit.as_ref())
                .is_some_and(|exit| exit.code != 0);
            return if failed { State::Failed } else { State::Exited };
        }
        if accepted.is_some_and(|a| self.is_ready_for_its_time(name, a)) {
            return State::Exited;
        }
        self.state_before_start(name)
    }

    fn state_before_start(&self, name: &Name) -> State {
        let noun = Noun::Container(name.clone());
        let starts =
            |a: &Action| matches!(a, Action::StartContainer { .. } | Action::PrepareContainer { .. });
        if self.input.in_flight.contains(&noun)
            || self
                .plan
                .actions
                .iter()
                .any(|p| p.action.noun() == noun && starts(&p.action))
        {
            return State::Creating;
        }
        let wrong = self.plan.waits.iter().any(|w| w.noun == noun && w.error);
        let refused =
            !self.input.ledger.containers.contains_key(name) && self.table_error("container", name).is_some();
        if wrong || refused {
            State::Failed
        } else {
            State::Pending
        }
    }

    /// What is wrong with it, the latest first.
    fn error(
        &self,
        name: &Name,
        entry: Option<&ContainerEntry>,
        exit: Option<String>,
        starting: bool,
    ) -> Option<String> {
        let noun = Noun::Container(name.clone());
        self.wait_error(&noun)
            .or_else(|| self.table_error("container", name))
            .or_else(|| {
                entry?
                    .rejected
                    .as_ref()
                    .map(|r| format!("the change was not taken: {}", r.reason))
            })
            .or(exit)
            // That its health has no verdict yet is said where its health is.
            .or_else(|| self.pending_reason(&noun).filter(|_| !starting))
    }

    fn wait_error(&self, noun: &Noun) -> Option<String> {
        let wait = self.plan.waits.iter().find(|w| w.noun == *noun && w.error)?;
        wait.reasons.first().map(|r| r.field.clone())
    }

    /// What a pending one waits for is worth knowing, though nothing is wrong.
    fn pending_reason(&self, noun: &Noun) -> Option<String> {
        let wait = self.plan.waits.iter().find(|w| w.noun == *noun && !w.error)?;
        let busy = self.input.in_flight.contains(noun);
        wait.reasons.first().filter(|_| !busy).map(|r| r.field.clone())
    }

    fn table_error(&self, kind: &str, name: &Name) -> Option<String> {
        let table = format!("{kind}.{name}");
        let error = self
            .input
            .desired
            .errors
            .iter()
            .find(|e| e.tables.contains(&table))?;
        Some(format!("{}: {}", error.at, error.message))
    }

    fn networks(&self) -> Vec<NetworkStatus> {
        let (desired, ledger) = (self.input.desired, self.input.ledger);
        let declared = desired
            .networks
            .iter()
            .filter(|(_, n)| !n.origin.file.is_empty())
            .map(|(name, _)| name);
        let mut names: Vec<&Name> = ledger
            .networks
            .keys()
            .chain(declared)
            .chain(&desired.held.networks)
            .collect();
        names.sort();
        names.dedup();
        names.into_iter().map(|name| self.network(name)).collect()
    }

    fn network(&self, name: &Name) -> NetworkStatus {
        let entry = self.input.ledger.networks.get(name);
        let network = entry.map(|n| &n.network);
        let (v4, v6) = (
            network.and_then(HostNetwork::v4),
            network.and_then(HostNetwork::v6),
        );
        let uses = |a: &Accepted| a.attachments.iter().any(|at| at.network == *name);
        let containers = self
            .input
            .ledger
            .containers
            .iter()
            .filter(|(_, e)| uses(self.shown(e)));
        NetworkStatus {
            name: name.to_string(),
            driver: network.map_or("bridge", |n| n.driver.word()).to_owned(),
            device: network.map(|n| n.device().to_owned()).unwrap_or_default(),
            subnet: v4.map(|v4| v4.subnet.to_string()),
            gateway: v4.map(|v4| v4.gateway.to_string()),
            subnet6: v6.map(|v6| v6.subnet.to_string()),
            gateway6: v6.map(|v6| v6.gateway.to_string()),
            containers: containers.map(|(name, _)| name.to_string()).collect(),
            range: v4.and_then(|v4| v4.range).map(|range| range.to_string()),
            peers: entry.map(|entry| self.peers(entry)).unwrap_or_default(),
            public_key: entry.and_then(peers::public_key),
            error: self
                .wait_error(&Noun::Network(name.clone()))
                .or_else(|| self.table_error("network", name))
                .or_else(|| self.foreign_drops(name))
                .or_else(|| self.cluster_trouble(name)),
        }
    }

    /// Those of tables, of containers, and those that are only kept.
    fn volumes(&self) -> Vec<VolumeStatus> {
        let (desired, ledger) = (self.input.desired, self.input.ledger);
        let there = self.input.observed.volumes.known();
        let names = desired
            .volumes
            .keys()
            .chain(&desired.held.volumes)
            .chain(ledger.volumes.keys())
            .chain(there.into_iter().flatten().map(|(name, _)| name));
        let mut used: BTreeMap<&Name, Vec<String>> = names.map(|name| (name, Vec::new())).collect();
        for (name, entry) in &ledger.containers {
            for volume in mounted(&self.shown(entry).spec) {
                let by = used.entry(volume).or_default();
                if by.last().is_none_or(|last| last != name.as_str()) {
                    by.push(name.to_string());
                }
            }
        }
        let one = |(name, used_by): (&Name, Vec<String>)| {
            let seen = there.and_then(|all| all.get(name));
            let accepted = ledger.volumes.get(name).map(|e| &*e.spec);
            let declared = desired.volumes.get(name).map(|d| &*d.spec);
            let default = VolumeSpec::default();
            let spec = accepted
                .or(seen.map(|v| &v.spec))
                .or(declared)
                .unwrap_or(&default);
            VolumeStatus {
                name: name.to_string(),
                driver: driver(spec).to_owned(),
                path: seen.map(|v| v.path.display().to_string()).unwrap_or_default(),
                kept: accepted.or(declared).is_none_or(|s| s.keep),
                used_by,
                error: self
                    .wait_error(&Noun::Volume(name.clone()))
                    .or_else(|| self.table_error("volume", name)),
            }
        };
        used.into_iter().map(one).collect()
    }

    /// A registry that could not be asked whether it has a newer one keeps nobody from running.
    fn not_asked(&self, key: &str) -> Option<String> {
        let failure = self.input.failures.get(&Noun::Image(key.to_owned()))?;
        Some(format!(
            "whether there is a newer one is not known: {}",
            failure.message
        ))
    }

    fn images(&self) -> Vec<ImageStatus> {
        let here = self.input.observed.images.known();
        let wanted = self.input.desired.containers.values().map(|c| c.spec.image.key());
        let mut keys: Vec<String> = wanted
            .chain(self.input.desired.images.keys().cloned())
            .chain(here.into_iter().flatten().map(|(key, _)| key.clone()))
            .collect();
        keys.sort();
        keys.dedup();
        let one = |key: String| {
            let image = here.and_then(|all| all.get(&key));
            let using = self
                .input
                .ledger
                .containers
                .iter()
                .filter(|(_, e)| self.shown(e).spec.image.key() == key);
            ImageStatus {
                id: image.and_then(|i| i.id).map(|d| d.to_string()),
                digest: image.and_then(|i| i.digest).map(|d| d.to_string()),
                size: image.map_or(0, |i| i.size),
                used_by: using.map(|(name, _)| name.to_string()).collect(),
                error: self
                    .wait_error(&Noun::Image(key.clone()))
                    .or_else(|| image.and_then(|_| self.not_asked(&key))),
                reference: key,
            }
        };
        keys.into_iter().map(one).collect()
    }
}

/// How the latest run ended, where that is what is wrong.
fn ending(state: State, exit: &ExitRecord) -> Option<String> {
    let wrong = matches!(state, State::Backoff | State::Failed);
    exit.error.clone().or_else(|| {
        let memory = if exit.oom_killed { ", out of memory" } else { "" };
        let signal = exit
            .signal
            .map(|n| format!(" (signal {n}{memory})"))
            .unwrap_or_default();
        let text = format!("its latest run ended with exit code {}{signal}", exit.code);
        wrong.then_some(text)
    })
}

/// Its payload is there: what its last run ended by is of no interest now.
fn runs(c: &ObservedContainer) -> bool {
    matches!(c.phase, Phase::Running { .. } | Phase::Paused { .. })
}

fn is_up(c: &ObservedContainer) -> bool {
    matches!(
        c.phase,
        Phase::Running { .. } | Phase::Paused { .. } | Phase::Backoff { .. }
    )
}

fn pid(c: &ObservedContainer) -> Option<u32> {
    match c.phase {
        Phase::Running { pid } | Phase::Paused { pid } => Some(pid),
        Phase::Prepared | Phase::Created | Phase::Backoff { .. } | Phase::Exited | Phase::Lost => None,
    }
}

fn endpoints(accepted: &Accepted) -> BTreeMap<String, EndpointStatus> {
    let one = |a: &model::network::Attachment| EndpointStatus {
        device: a.device.clone(),
        ip: a.v4().map(|v4| v4.ip.to_string()),
        ip6: a.v6().map(|v6| v6.ip.to_string()),
        // That of the parent, which is not ours.
        mac: match a.link {
            Link::Ipvlan(_) => String::new(),
            _ => a.mac.to_string(),
        },
        gateway: a.v4().and_then(|v4| v4.gateway).map(|g| g.to_string()),
        gateway6: a.v6().and_then(|v6| v6.gateway).map(|g| g.to_string()),
    };
    accepted
        .attachments
        .iter()
        .map(|a| (a.network.to_string(), one(a)))
        .collect()
}
