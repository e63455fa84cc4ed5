//! Single rules of the planner and the status, each with the smallest host that shows it.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where its world is not as it was made"
)]

mod sim;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use model::action::{Action, Failure, Failures, Noun};
use model::desired::Desired;
use model::image::ImageSource;
use model::ledger::{Hold, Ledger, ReplacePhase};
use model::name::{ContainerId, Name};
use model::observed::{ForeignAddress, Listener, Look, Observed, ObservedLink, Phase};
use model::plan::{Plan, fingerprint};
use model::spec::*;
use model::status::{State, Status};
use reconciler::plan::{Input, describe, describe_wait, plan};
use reconciler::resolve::resolve;
use reconciler::status::status;
use sim::host::Host;

struct Case {
    spec: ContainerSpec,
    network: Option<NetworkSpec>,
    host: Host,
    ledger: Ledger,
    failures: Failures,
    busy: BTreeSet<Noun>,
    now: Timestamp,
    ids: u8,
}

impl Case {
    /// One container `web` on the default network.
    fn new() -> Self {
        let spec = ContainerSpec::new(ImageSource::DockerArchive {
            file: "/srv/i0.tar".into(),
            reference: None,
        });
        Self {
            spec,
            network: None,
            host: Host::new(),
            ledger: Ledger::default(),
            failures: Failures::new(),
            busy: BTreeSet::new(),
            now: Timestamp::from_second(1_000_000).unwrap(),
            ids: 0,
        }
    }

    fn ports(mut self, port: u16) -> Self {
        self.spec.ports = vec![PortSpec {
            ip: None,
            host: Some((port, port)),
            container: (80, 80),
            protocol: model::firewall::Protocol::Tcp,
            allow: Vec::new(),
        }];
        self
    }

    fn desired(&self) -> Desired {
        let origin = |line| Origin {
            file: "web.toml".to_owned(),
            line,
            column: 1,
            keys: BTreeMap::new(),
        };
        let networks = self.network.iter().map(|spec| Parsed {
            name: name("n"),
            spec: spec.clone(),
            origin: origin(9),
        });
        let file = ParsedFile {
            file: "web.toml".to_owned(),
            containers: vec![Parsed {
                name: name("web"),
                spec: self.spec.clone(),
                origin: origin(1),
            }],
            networks: networks.collect(),
            ..ParsedFile::default()
        };
        resolve(&[file], &[], &Settings::default())
    }

    fn plan_of(&mut self, observed: &Observed) -> Plan {
        let desired = self.desired();
        let ids = &mut self.ids;
        let mut id = || {
            *ids += 1;
            ContainerId::from_bytes([*ids; 32])
        };
        let input = Input {
            desired: &desired,
            observed,
            ledger: &self.ledger,
            in_flight: &self.busy,
            failures: &self.failures,
            now: self.now,
        };
        plan(&input, &mut id)
    }

    fn plan(&mut self) -> Plan {
        let observed = self.host.observe();
        self.plan_of(&observed)
    }

    /// Passes until no action is left.
    fn settle(&mut self) -> Plan {
        for _ in 0..20 {
            let plan = self.plan();
            self.ledger = plan.ledger.clone();
            if plan.actions.is_empty() {
                return plan;
            }
            for planned in plan.actions.iter().filter(|p| p.after.is_empty()) {
                self.host.apply(&planned.action, self.now, false).unwrap();
            }
            self.now += SignedDuration::from_secs(3);
        }
        panic!("does not settle");
    }

    fn status(&self) -> Status {
        let (desired, observed) = (self.desired(), self.host.observe());
        status(&Input {
            desired: &desired,
            observed: &observed,
            ledger: &self.ledger,
            in_flight: &self.busy,
            failures: &self.failures,
            now: self.now,
        })
    }

    fn id(&self) -> ContainerId {
        self.ledger.containers["web"].current.id.clone()
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn lines(plan: &Plan) -> Vec<String> {
    plan.actions
        .iter()
        .map(describe)
        .chain(plan.waits.iter().map(describe_wait))
        .collect()
}

#[test]
fn a_port_somebody_listens_on_is_an_error_that_names_him_until_he_is_gone() {
    let mut case = Case::new().ports(8080);
    case.host.listeners.push(Listener {
        protocol: model::firewall::Protocol::Tcp,
        ip: "127.0.0.1".parse().unwrap(),
        port: 8080,
        holder: Some((42, "nginx".to_owned())),
    });
    let plan = case.settle();
    let error = "host port 8080/tcp is taken: process 42 (nginx) listens on 127.0.0.1:8080/tcp; stop it or publish another port";
    assert_eq!(lines(&plan), [format!("? container web: {error}")]);
    assert!(plan.waits[0].error && plan.wake_at.is_some());
    assert!(
        case.host.firewall.as_ref().unwrap().ports.is_empty(),
        "his connections are not taken away"
    );
    let status = case.status();
    assert_eq!(
        (status.converged, status.containers[0].state),
        (false, State::Failed)
    );
    assert_eq!(status.containers[0].error.as_deref(), Some(error));
    case.host.listeners.clear();
    assert!(case.settle().is_empty());
    assert!(case.status().converged);
}

#[test]
fn a_listener_that_comes_later_stops_nothing_that_runs() {
    let mut case = Case::new().ports(8080);
    case.settle();
    case.host.listeners.push(Listener {
        protocol: model::firewall::Protocol::Tcp,
        ip: "::".parse().unwrap(),
        port: 8080,
        holder: None,
    });
    assert!(case.plan().is_empty());
}

#[test]
fn a_subnet_the_host_has_is_an_error_on_the_network_and_its_containers_wait() {
    let mut case = Case::new();
    let subnet = Some("10.1.0.0/24".parse().unwrap());
    case.network = Some(NetworkSpec {
        subnet,
        ..NetworkSpec::default()
    });
    case.spec.networks = vec![NetworkUse::new(name("n"))];
    let address = "10.1.0.7/16".parse().unwrap();
    case.host.foreign.push(ForeignAddress {
        device: "eth1".to_owned(),
        address,
    });
    let said = lines(&case.settle());
    let error = "subnet 10.1.0.0/24 collides with 10.1.0.7/16 on the host's eth1; use another subnet";
    assert!(said.contains(&format!("? network n: {error}")), "{said:?}");
    assert!(
        said.contains(&format!("? container web: waits for network n: {error}")),
        "{said:?}"
    );
    assert_eq!(case.status().networks[0].error.as_deref(), Some(error));
}

#[test]
fn a_device_that_is_not_ours_is_left_alone() {
    let mut case = Case::new();
    let link = ObservedLink {
        kind: "bridge".to_owned(),
        ours: false,
        up: true,
        index: 0,
        below: None,
        mtu: 1500,
        master: None,
        isolated: false,
        addresses: Vec::new(),
        route_localnet: false,
        addresses6: Vec::new(),
        ipv6: model::observed::Ipv6State::Off,
        tunnel: None,
    };
    case.host.links.insert("wh-default".to_owned(), link.clone());
    let said = lines(&case.settle());
    assert!(
        said[0].contains("bridge wh-default is there already and is not wharf's"),
        "{said:?}"
    );
    assert_eq!(case.host.links["wh-default"], link);
}

#[test]
fn a_hold_stops_it_and_another_definition_lifts_it() {
    let mut case = Case::new();
    case.settle();
    let hold = Hold {
        reason: "by hand".to_owned(),
        at: case.now,
        fingerprint: fingerprint(&case.spec),
    };
    case.ledger.holds.insert(name("web"), hold);
    assert!(case.settle().is_empty());
    assert_eq!(case.host.containers[&case.id()].seen.phase, Phase::Exited);
    let status = case.status();
    assert_eq!(
        (status.converged, status.containers[0].state),
        (true, State::Stopped)
    );
    case.spec.labels.insert("a".to_owned(), "b".to_owned());
    case.settle();
    assert!(case.ledger.holds.is_empty());
    assert!(case.host.containers[&case.id()].running());
}

#[test]
fn a_job_that_ended_is_over_and_one_that_was_cut_off_is_not() {
    let mut case = Case::new();
    case.spec.restart.policy = RestartPolicy::No;
    case.settle();
    let id = case.id();
    case.host.end(&id, case.now, 137, false, Phase::Lost);
    case.settle();
    assert_eq!(case.host.containers[&id].seen.run_no, 2, "cut off: run again");
    case.host.end(&id, case.now, 3, false, Phase::Exited);
    assert!(case.settle().is_empty());
    assert_eq!(case.status().containers[0].state, State::Failed);
    assert_eq!(case.host.containers[&id].seen.run_no, 2, "ended: over");
    // `wharf start`
    case.ledger.containers.get_mut("web").unwrap().current.finished = false;
    case.settle();
    assert_eq!(case.host.containers[&id].seen.run_no, 3);
    case.host.end(&id, case.now, 0, false, Phase::Exited);
    case.settle();
    assert_eq!(case.status().containers[0].state, State::Exited);
    assert!(case.status().converged);
}

#[test]
fn a_failure_rests_longer_each_time_and_not_at_all_for_another_definition() {
    let mut case = Case::new();
    case.settle();
    let id = case.id();
    case.host.end(&id, case.now, 1, false, Phase::Lost);
    let fail = |case: &mut Case, count| {
        let failure = Failure {
            message: "no".to_owned(),
            id: Some(id.clone()),
            count,
            at: case.now,
            of: fingerprint(&case.spec),
        };
        case.failures.insert(Noun::Container(name("web")), failure);
    };
    for (count, millis) in [(1, 100), (2, 200), (20, 60_000)] {
        fail(&mut case, count);
        let plan = case.plan();
        assert!(plan.actions.is_empty());
        assert_eq!(plan.wake_at, Some(case.now + SignedDuration::from_millis(millis)));
        assert_eq!(case.status().containers[0].state, State::Failed);
        case.now = plan.wake_at.unwrap();
        assert_eq!(case.plan().actions.len(), 1);
    }
    fail(&mut case, 20);
    case.now -= SignedDuration::from_hours(1);
    assert_eq!(
        case.plan().actions.len(),
        1,
        "a clock that was set back delays nothing"
    );
    case.now += SignedDuration::from_hours(1);
    case.spec.labels.insert("a".to_owned(), "b".to_owned());
    assert_eq!(
        case.plan().actions.len(),
        1,
        "another definition is tried at once"
    );
}

#[test]
fn what_cannot_be_seen_is_waited_for() {
    let mut case = Case::new().ports(8080);
    case.settle();
    let why = || "the look failed".to_owned();
    let blind = Observed {
        images: Look::Unknown(why()),
        links: Look::Unknown(why()),
        foreign_addresses: Look::Unknown(why()),
        foreign_addresses6: Look::Unknown(why()),
        forwarding: Look::Unknown(why()),
        forwarding6: Look::Unknown(why()),
        firewall: Look::Unknown(why()),
        firewall_there: true,
        firewall_wrong: None,
        foreign_drops: Vec::new(),
        backend: Default::default(),
        around: Default::default(),
        listeners: Look::Unknown(why()),
        dns: Look::Unknown(why()),
        dns_ports: Default::default(),
        dns_inside: Default::default(),
        damage: Default::default(),
        volumes: Look::Unknown(why()),
        contents: BTreeMap::new(),
        delivered: BTreeMap::new(),
        health: Default::default(),
        containers: Look::Unknown(why()),
    };
    let plan = case.plan_of(&blind);
    assert!(plan.actions.is_empty());
    assert!(!plan.waits.is_empty());
    assert_eq!(plan.ledger, case.ledger);
}

#[test]
fn a_damaged_table_that_nothing_needs_is_removed_once() {
    let mut case = Case::new();
    case.settle();
    let plan_on = |there: bool| {
        let observed = Observed {
            firewall: Look::Known(None),
            firewall_there: there,
            ..Host::new().observe()
        };
        let (failures, in_flight) = (Failures::new(), BTreeSet::new());
        let (desired, ledger) = (Desired::default(), Ledger::default());
        let input = Input {
            desired: &desired,
            observed: &observed,
            ledger: &ledger,
            in_flight: &in_flight,
            failures: &failures,
            now: case.now,
        };
        let mut ids = || ContainerId::from_bytes([1; 32]);
        let described = plan(&input, &mut ids);
        described.actions.iter().map(describe).collect::<Vec<_>>()
    };
    assert_eq!(plan_on(false), Vec::<String>::new());
    let told = plan_on(true);
    assert!(
        told.len() == 1 && told[0].contains("damaged, and nothing needs it any more"),
        "{told:?}"
    );
}

#[test]
fn a_container_nobody_knows_is_removed_with_a_reason() {
    let mut case = Case::new();
    case.settle();
    let mut stray = case.host.containers[&case.id()].clone();
    stray.seen.id = ContainerId::from_bytes([0xee; 32]);
    stray.seen.name = name("stray");
    stray.instance = None;
    case.host.containers.insert(stray.seen.id.clone(), stray);
    let plan = case.plan();
    assert_eq!(
        lines(&plan),
        ["- container stray: eeeeeeeeeeee is not in the ledger"]
    );
    assert!(matches!(plan.actions[0].action, Action::RemoveContainer { .. }));
}

#[test]
fn an_image_with_other_content_replaces_the_container() {
    let mut case = Case::new();
    case.settle();
    let before = case.id();
    case.host.sources.insert(case.spec.image.key(), Some(2));
    case.settle();
    assert_ne!(case.id(), before);
    assert_eq!(case.host.containers.len(), 1);
    let old_address = &case.ledger.leases["default/web"];
    assert_eq!(
        case.ledger.containers["web"].current.attachments[0]
            .v4()
            .unwrap()
            .ip,
        *old_address.ip.v4().unwrap(),
        "it keeps its address"
    );
}

/// A replacement whose switch is decided, and waits for the firewall with the old one still running.
fn about_to_switch() -> Case {
    let mut case = Case::new().ports(8080);
    case.settle();
    case.spec.command = Some(vec!["other".to_owned()]);
    let mut case = case.ports(8081);
    let prepare = case.plan();
    case.host
        .apply(&prepare.actions[0].action, case.now, false)
        .unwrap();
    case.ledger = prepare.ledger;
    case.busy.insert(Noun::Firewall);
    case.ledger = case.plan().ledger;
    assert_eq!(phase(&case), Some(ReplacePhase::Switching));
    assert!(case.plan().actions.is_empty());
    case
}

fn phase(case: &Case) -> Option<ReplacePhase> {
    case.ledger.containers["web"].next.as_ref().map(|n| n.phase)
}

#[test]
fn a_switch_that_was_not_begun_is_called_off_when_the_table_changes_back() {
    let mut case = about_to_switch();
    let old = case.id();
    case.spec.command = None;
    // Not all as it was: what differs now needs no other container.
    case.spec.labels.insert("a".to_owned(), "b".to_owned());
    let mut case = case.ports(8080);
    case.busy.clear();
    case.settle();
    assert_eq!((case.id(), phase(&case)), (old.clone(), None));
    assert_eq!(case.host.containers[&old].seen.run_no, 1, "it was never stopped");
    assert_eq!(case.host.containers.len(), 1);
}

#[test]
fn nothing_is_stopped_for_an_image_that_is_being_changed() {
    let mut case = about_to_switch();
    case.busy.clear();
    case.host.store.clear();
    let plan = case.plan();
    let stops = |plan: &Plan| {
        let stop = |p: &model::plan::Planned| matches!(p.action, Action::StopContainer { .. });
        plan.actions.iter().any(stop)
    };
    assert!(!stops(&plan), "{:?}", lines(&plan));
    case.settle();
    assert_eq!(*case.ledger.containers["web"].current.spec, case.spec);
    assert_eq!(case.host.containers.len(), 1);
}

#[test]
fn what_is_wanted_now_takes_the_place_of_a_replacement_the_old_one_was_stopped_for() {
    let mut case = about_to_switch();
    let old = case.id();
    case.host.end(&old, case.now, 143, true, Phase::Exited);
    case.spec.command = Some(vec!["bad".to_owned()]);
    case.busy.clear();
    let plan = case.plan();
    let entry = &plan.ledger.containers["web"];
    assert_eq!(entry.current.id, old, "kept in case the new one fails");
    let next = entry.next.as_ref().unwrap();
    assert_eq!(
        (next.phase, &*next.accepted.spec),
        (ReplacePhase::Switching, &case.spec)
    );
    case.spec = ContainerSpec::clone(&entry.current.spec);
    case.settle();
    assert_eq!(
        (case.id(), phase(&case)),
        (old.clone(), None),
        "or it is taken back"
    );
    assert!(case.host.containers[&old].running());
}

#[test]
fn a_container_leaves_a_network_that_waits_for_it() {
    let net = |octet| NetworkSpec {
        subnet: Some(format!("10.80.{octet}.0/24").parse().unwrap()),
        ..NetworkSpec::default()
    };
    let mut case = Case::new();
    case.network = Some(net(0));
    case.spec.networks = vec![NetworkUse::new(name("n"))];
    case.spec.networks[0].ip = Some("10.80.0.100".parse().unwrap());
    case.settle();
    case.network = Some(net(1));
    case.spec.networks[0].ip = None;
    case.settle();
    let current = &case.ledger.containers["web"].current;
    assert!(
        current.attachments[0]
            .v4()
            .unwrap()
            .ip
            .to_string()
            .starts_with("10.80.1.")
    );
    assert!(case.host.containers[&current.id].running());
}

#[test]
fn a_finished_job_runs_again_when_its_policy_says_always() {
    let mut case = Case::new();
    case.spec.restart.policy = RestartPolicy::No;
    case.settle();
    let id = case.id();
    case.host.end(&id, case.now, 0, false, Phase::Exited);
    case.settle();
    case.spec.restart.policy = RestartPolicy::OnFailure;
    assert!(case.settle().is_empty());
    assert!(!case.host.containers[&id].running(), "it did not fail");
    case.spec.restart.policy = RestartPolicy::Always;
    case.settle();
    assert!(case.host.containers[&id].running());
}
