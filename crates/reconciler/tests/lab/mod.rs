//! A bench for single rules over several containers: tables made in code, and the simulated host.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod mesh;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use model::action::{Action, Failure, Failures, Instance};
use model::desired::Desired;
use model::health::{HealthState, Verdict};
use model::image::ImageSource;
use model::ledger::Ledger;
use model::name::{ContainerId, Name};
use model::observed::{ObservedContainer, Phase};
use model::plan::Plan;
use model::spec::*;
use model::status::{ContainerStatus, Status};
use reconciler::plan::{Input, describe, describe_wait, plan};
use reconciler::resolve::resolve;
use reconciler::status::status;

use crate::sim::host::Host;
use crate::sim::note;

pub struct Lab {
    pub containers: BTreeMap<Name, ContainerSpec>,
    pub networks: BTreeMap<Name, NetworkSpec>,
    pub volumes: BTreeMap<Name, VolumeSpec>,
    pub configs: BTreeMap<Name, MountedFileSpec>,
    pub secrets: BTreeMap<Name, MountedFileSpec>,
    /// Containers whose tables cannot be read now.
    pub unread: BTreeSet<Name>,
    /// Files that cannot be read now.
    pub broken: BTreeSet<String>,
    pub settings: Settings,
    pub host: Host,
    pub ledger: Ledger,
    pub failures: Failures,
    pub now: Timestamp,
    /// Every instance that was started, in order.
    pub started: Vec<Instance>,
    ids: u64,
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A container of an archive that says nothing of health.
pub fn spec() -> ContainerSpec {
    ContainerSpec::new(ImageSource::DockerArchive {
        file: "/srv/i0.tar".into(),
        reference: None,
    })
}

pub fn check(on_failure: OnFailure) -> HealthcheckChoice {
    HealthcheckChoice::Declared(Healthcheck {
        probe: Probe::Tcp(80),
        interval: Duration::from_secs(30),
        timeout: Duration::from_secs(5),
        retries: 3,
        start_period: Duration::ZERO,
        start_interval: Duration::from_secs(1),
        on_failure,
    })
}

pub fn dependency(condition: Condition) -> Dependency {
    Dependency {
        condition,
        restart: false,
    }
}

pub fn lines(plan: &Plan) -> Vec<String> {
    let actions = plan.actions.iter().map(describe);
    actions.chain(plan.waits.iter().map(describe_wait)).collect()
}

impl Lab {
    pub fn new(containers: &[(&str, ContainerSpec)]) -> Self {
        Self {
            containers: containers.iter().map(|(n, s)| (name(n), s.clone())).collect(),
            networks: BTreeMap::new(),
            volumes: BTreeMap::new(),
            configs: BTreeMap::new(),
            secrets: BTreeMap::new(),
            unread: BTreeSet::new(),
            broken: BTreeSet::new(),
            settings: Settings::default(),
            host: Host::new(),
            ledger: Ledger::default(),
            failures: Failures::new(),
            now: Timestamp::from_second(1_000_000).unwrap(),
            started: Vec::new(),
            ids: 0,
        }
    }

    pub fn spec(&mut self, of: &str) -> &mut ContainerSpec {
        self.containers.get_mut(of).unwrap()
    }

    pub fn desired(&self) -> Desired {
        let origin = || Origin {
            file: "all.toml".to_owned(),
            line: 1,
            column: 1,
            keys: BTreeMap::new(),
        };
        fn parsed<T: Clone>(map: &BTreeMap<Name, T>, origin: impl Fn() -> Origin) -> Vec<Parsed<T>> {
            let one = |(name, spec): (&Name, &T)| Parsed {
                name: name.clone(),
                spec: spec.clone(),
                origin: origin(),
            };
            map.iter().map(one).collect()
        }
        let mut readable = self.containers.clone();
        readable.retain(|name, _| !self.unread.contains(name));
        let file = ParsedFile {
            file: "all.toml".to_owned(),
            containers: parsed(&readable, origin),
            networks: parsed(&self.networks, origin),
            volumes: parsed(&self.volumes, origin),
            configs: parsed(&self.configs, origin),
            secrets: parsed(&self.secrets, origin),
            ..ParsedFile::default()
        };
        let mut desired = resolve(&[file], &[], &self.settings);
        desired.held.containers.extend(self.unread.iter().cloned());
        desired.held.files.extend(self.broken.iter().cloned());
        desired
    }

    pub fn plan(&mut self) -> Plan {
        self.host.follow(&self.ledger);
        let (desired, observed) = (self.desired(), self.host.observe());
        let ids = &mut self.ids;
        let mut id = || {
            *ids += 1;
            {
                let mut b = [0; 32];
                for part in b.chunks_exact_mut(8) {
                    part.copy_from_slice(&ids.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
                }
                ContainerId::from_bytes(b)
            }
        };
        let input = Input {
            desired: &desired,
            observed: &observed,
            ledger: &self.ledger,
            in_flight: &BTreeSet::new(),
            failures: &self.failures,
            now: self.now,
        };
        plan(&input, &mut id)
    }

    /// One pass, and the actions of it that wait for no other.
    pub fn pass(&mut self) -> Plan {
        let plan = self.plan();
        self.ledger = plan.ledger.clone();
        for planned in plan.actions.iter().filter(|p| p.after.is_empty()) {
            let action = &planned.action;
            let noun = action.noun();
            match self.host.apply(action, self.now, false) {
                Ok(()) => {
                    self.failures.remove(&noun);
                    note(&mut self.ledger, action, self.now);
                    if let Action::StartContainer { instance } = action {
                        self.started.push((**instance).clone());
                    }
                }
                Err(message) => {
                    let (id, of) = action.subject();
                    let (count, at) = (1, self.now);
                    let failure = Failure {
                        message,
                        id,
                        count,
                        at,
                        of,
                    };
                    self.failures.insert(noun, failure);
                }
            }
        }
        self.now += SignedDuration::from_secs(3);
        plan
    }

    /// Passes until no action is left, nor a deadline; that last plan, as text.
    pub fn settle(&mut self) -> Vec<String> {
        for _ in 0..30 {
            let plan = self.pass();
            if plan.actions.is_empty() && plan.wake_at.is_none() {
                return lines(&plan);
            }
        }
        panic!("does not settle: {:?}", lines(&self.plan()));
    }

    pub fn status(&self) -> Status {
        let (desired, observed) = (self.desired(), self.host.observe());
        status(&Input {
            desired: &desired,
            observed: &observed,
            ledger: &self.ledger,
            in_flight: &BTreeSet::new(),
            failures: &self.failures,
            now: self.now,
        })
    }

    pub fn shown(&self, of: &str) -> ContainerStatus {
        let all = self.status().containers;
        all.into_iter().find(|c| c.name == of).unwrap()
    }

    pub fn id(&self, of: &str) -> ContainerId {
        self.ledger.containers[of].current.id.clone()
    }

    pub fn seen(&self, of: &str) -> &ObservedContainer {
        &self.host.containers[&self.id(of)].seen
    }

    pub fn runs(&self, of: &str) -> bool {
        let entry = self.ledger.containers.get(of);
        entry.is_some_and(|e| {
            self.host
                .containers
                .get(&e.current.id)
                .is_some_and(|c| c.running())
        })
    }

    pub fn ends(&mut self, of: &str, code: i32, phase: Phase) {
        let id = self.id(of);
        self.host.end(&id, self.now, code, false, phase);
    }

    /// A probe's verdict on the run there is.
    pub fn found(&mut self, of: &str, verdict: Verdict, output: &str) {
        let id = self.id(of);
        let run_no = self.seen(of).run_no;
        let state = HealthState {
            verdict,
            output: output.to_owned(),
            probed_at: Some(self.now),
            ..HealthState::new(run_no, self.now)
        };
        self.host.health.insert(id, state);
    }

    /// The machine comes up again.
    pub fn reboot(&mut self) {
        let ids: Vec<ContainerId> = self.host.containers.keys().cloned().collect();
        for id in ids {
            self.host.end(&id, self.now, 137, false, Phase::Lost);
        }
        self.host.links.clear();
        self.host.firewall = None;
        self.host.dns = None;
        self.host.forget();
    }
}
