//! `update.strategy = "start-first"`: trial, promotion, draining, and what takes them back.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where its world is not as it was made"
)]

mod lab;
mod sim;

use std::time::Duration;

use jiff::SignedDuration;
use lab::{Lab, check, dependency, lines, name, spec};
use model::action::Action;
use model::health::{HealthState, Verdict};
use model::ledger::{Accepted, ReplacePhase};
use model::name::ContainerId;
use model::observed::Phase;
use model::plan::Plan;
use model::spec::*;

fn start_first() -> ContainerSpec {
    let mut spec = spec();
    spec.healthcheck = check(OnFailure::Restart);
    spec.update = UpdateSpec {
        strategy: UpdateStrategy::StartFirst,
        drain: Duration::from_secs(7),
        timeout: Duration::from_secs(60),
        ..UpdateSpec::default()
    };
    spec.ports = vec![port()];
    spec
}

fn port() -> PortSpec {
    PortSpec {
        ip: None,
        host: Some((8080, 8080)),
        container: (80, 80),
        protocol: model::firewall::Protocol::Tcp,
        allow: Vec::new(),
    }
}

/// `web` runs and is healthy.
fn running(spec: ContainerSpec) -> Lab {
    let mut lab = Lab::new(&[("web", spec)]);
    lab.settle();
    if lab.host.health.contains_key(&lab.id("web")) {
        lab.found("web", Verdict::Healthy, "");
    }
    lab.settle();
    assert!(lab.runs("web"));
    lab
}

fn change(lab: &mut Lab, word: &str) {
    lab.spec("web").env.insert("WORD".to_owned(), word.to_owned());
}

fn trial(lab: &Lab) -> Option<Accepted> {
    let next = lab.ledger.containers["web"].next.as_ref()?;
    (next.phase == ReplacePhase::Trial).then(|| next.accepted.clone())
}

fn draining(lab: &Lab) -> Option<ContainerId> {
    let draining = lab.ledger.containers["web"].draining.as_ref()?;
    Some(draining.accepted.id.clone())
}

fn found(lab: &mut Lab, id: &ContainerId, verdict: Verdict) {
    let state = HealthState {
        verdict,
        output: "no answer".to_owned(),
        probed_at: Some(lab.now),
        ..HealthState::new(1, lab.now)
    };
    lab.host.health.insert(id.clone(), state);
}

/// Passes until the one on trial runs.
fn tried(lab: &mut Lab) -> Accepted {
    for _ in 0..5 {
        lab.pass();
        if let Some(trial) = trial(lab)
            && lab.host.containers.get(&trial.id).is_some_and(|c| c.running())
        {
            return trial;
        }
    }
    panic!("nothing is tried: {:?}", lab.ledger.containers["web"]);
}

fn leads_to(lab: &Lab) -> std::net::IpAddr {
    lab.host.firewall.as_ref().unwrap().ports[0].target_ip
}

fn ends(plan: &Plan) -> Vec<ContainerId> {
    let end = |a: &Action| match a {
        Action::StopContainer { id, .. } | Action::RemoveContainer { id, .. } => Some(id.clone()),
        _ => None,
    };
    plan.actions.iter().filter_map(|p| end(&p.action)).collect()
}

#[test]
fn it_is_tried_beside_the_old_one_promoted_and_the_old_one_drains() {
    let mut lab = running(start_first());
    let old = lab.id("web");
    change(&mut lab, "new");
    let new = tried(&mut lab);
    let old_ip = lab.ledger.containers["web"].current.attachments[0]
        .v4()
        .unwrap()
        .ip;
    assert_ne!(
        new.attachments[0].v4().unwrap().ip,
        old_ip,
        "an address of its own"
    );
    assert_ne!(
        new.attachments[0].mac,
        lab.ledger.containers["web"].current.attachments[0].mac
    );
    assert_eq!(leads_to(&lab), old_ip);
    let instance = lab.started.last().unwrap();
    assert_eq!(
        (&instance.id, instance.spec.restart.policy),
        (&new.id, RestartPolicy::No)
    );
    let roles: Vec<String> = lab.status().containers.into_iter().map(|c| c.role).collect();
    assert_eq!(roles, ["active", "trial"]);
    assert!(!lab.status().converged);

    found(&mut lab, &new.id, Verdict::Healthy);
    let plan = lab.pass();
    assert_eq!(
        (lab.id("web"), draining(&lab)),
        (new.id.clone(), Some(old.clone()))
    );
    assert_eq!(
        leads_to(&lab),
        new.attachments[0].v4().unwrap().ip,
        "in the very same pass"
    );
    let names = &lab.host.dns.as_ref().unwrap().containers["web"].endpoints[&name("default")];
    assert_eq!(
        names.ips,
        [std::net::IpAddr::V4(new.attachments[0].v4().unwrap().ip)]
    );
    assert!(ends(&plan).is_empty());
    assert!(lab.runs("web") && lab.host.containers[&old].running());

    // Its shim gets the table's policy, and the old one its time.
    lab.pass();
    let real = lab.host.containers[&new.id].instance.as_ref().unwrap();
    assert_eq!(real.spec.restart.policy, RestartPolicy::Always);
    assert_eq!(lab.status().containers[1].role, "draining");
    let until = lab.ledger.containers["web"]
        .draining
        .as_ref()
        .unwrap()
        .until
        .unwrap();
    while lab.now < until {
        assert!(ends(&lab.pass()).is_empty());
        assert!(lab.host.containers[&old].running());
    }
    lab.settle();
    assert!(!lab.host.containers.contains_key(&old));
    assert_eq!(lab.status().containers.len(), 1);
    assert!(lab.status().converged);
    let keys: Vec<&String> = lab.ledger.leases.keys().collect();
    assert_eq!(keys, ["default/web"], "the old one's lease is free");
}

#[test]
fn one_that_is_not_healthy_in_time_is_taken_back_and_not_tried_again() {
    let mut lab = running(start_first());
    let old = lab.id("web");
    change(&mut lab, "bad");
    let new = tried(&mut lab);
    found(&mut lab, &new.id, Verdict::Unhealthy);
    for _ in 0..30 {
        let plan = lab.pass();
        assert!(!ends(&plan).contains(&old));
    }
    assert_eq!((lab.id("web"), lab.runs("web")), (old.clone(), true));
    assert!(!lab.host.containers.contains_key(&new.id));
    let back = lab.shown("web").rolled_back.unwrap();
    assert_eq!(
        back.reason,
        "the new one was not healthy within 1m: it is unhealthy: no answer"
    );
    let started = lab.started.len();
    lab.settle();
    assert_eq!(lab.started.len(), started, "it is not tried again");
    change(&mut lab, "better");
    let newer = tried(&mut lab);
    found(&mut lab, &newer.id, Verdict::Healthy);
    lab.pass();
    assert_eq!(lab.id("web"), newer.id);
    assert_eq!(lab.shown("web").rolled_back, None);
}

#[test]
fn one_whose_process_ends_is_taken_back_at_once() {
    let mut lab = running(start_first());
    let old = lab.id("web");
    change(&mut lab, "bad");
    let new = tried(&mut lab);
    lab.host.end(&new.id, lab.now, 3, false, Phase::Exited);
    lab.settle();
    let back = lab.shown("web").rolled_back.unwrap();
    assert_eq!(
        back.reason,
        "the new one did not stay up: it ended with exit code 3"
    );
    assert_eq!((lab.id("web"), lab.runs("web")), (old, true));
}

#[test]
fn one_that_cannot_be_created_is_taken_back() {
    let mut lab = running(start_first());
    let old = lab.id("web");
    lab.spec("web").command = Some(vec!["bad".to_owned()]);
    lab.settle();
    assert_eq!((lab.id("web"), lab.runs("web")), (old, true));
    assert_eq!(lab.shown("web").rolled_back.unwrap().reason, "no such program");
    assert_eq!(lab.host.containers.len(), 1);
}

#[test]
fn without_a_check_it_has_to_run_for_a_moment() {
    let mut spec = start_first();
    spec.healthcheck = HealthcheckChoice::Off;
    let mut lab = running(spec);
    change(&mut lab, "new");
    let new = tried(&mut lab);
    let started = lab.host.containers[&new.id].seen.started_at.unwrap();
    lab.now = started + SignedDuration::from_millis(999);
    let plan = lab.plan();
    assert_eq!(plan.wake_at, Some(started + SignedDuration::from_secs(1)));
    assert_ne!(plan.ledger.containers["web"].current.id, new.id);
    lab.now = started + SignedDuration::from_secs(1);
    assert_eq!(lab.plan().ledger.containers["web"].current.id, new.id);
}

#[test]
fn a_change_on_trial_drops_it_and_tries_the_newer_one() {
    let mut lab = running(start_first());
    let old = lab.id("web");
    change(&mut lab, "first");
    let first = tried(&mut lab);
    change(&mut lab, "second");
    let plan = lab.pass();
    assert_eq!(ends(&plan), std::slice::from_ref(&first.id));
    let second = tried(&mut lab);
    assert_ne!(second.id, first.id);
    assert_eq!(lab.ledger.containers["web"].rejected, None);
    found(&mut lab, &second.id, Verdict::Healthy);
    lab.pass();
    assert_eq!((lab.id("web"), draining(&lab)), (second.id, Some(old)));
}

#[test]
fn a_definition_put_back_ends_the_trial() {
    let mut lab = running(start_first());
    let old = lab.id("web");
    change(&mut lab, "new");
    tried(&mut lab);
    lab.spec("web").env.clear();
    lab.settle();
    assert_eq!((lab.id("web"), lab.runs("web")), (old, true));
    assert_eq!(lab.host.containers.len(), 1);
    assert!(lab.ledger.containers["web"].next.is_none());
}

#[test]
fn after_a_reboot_the_old_one_is_begun_and_the_new_one_tried_again() {
    let mut lab = running(start_first());
    let old = lab.id("web");
    change(&mut lab, "new");
    tried(&mut lab);
    lab.reboot();
    for _ in 0..4 {
        lab.pass();
    }
    assert!(
        lab.host.containers[&old].running(),
        "it is there before the trial is over"
    );
    found(&mut lab, &old, Verdict::Healthy);
    let again = tried(&mut lab);
    found(&mut lab, &again.id, Verdict::Healthy);
    lab.pass();
    assert_eq!(lab.id("web"), again.id);
}

#[test]
fn a_table_that_goes_takes_both_along() {
    for promoted in [false, true] {
        let mut lab = running(start_first());
        change(&mut lab, "new");
        let new = tried(&mut lab);
        if promoted {
            found(&mut lab, &new.id, Verdict::Healthy);
            lab.pass();
        }
        lab.containers.clear();
        lab.settle();
        assert!(lab.host.containers.is_empty(), "promoted: {promoted}");
        assert!(!lab.ledger.leases.keys().any(|k| k.ends_with('+')));
    }
}

#[test]
fn it_says_why_the_old_one_has_to_be_stopped_first() {
    let exclusive = VolumeSpec {
        exclusive: true,
        ..VolumeSpec::default()
    };
    type Case = (&'static str, fn(&mut ContainerSpec));
    let cases: [Case; 4] = [
        ("its network is the host's", |s| {
            s.network_mode = NetworkMode::Host;
            s.ports.clear();
        }),
        ("its address in network n0 is a fixed one", |s| {
            let mut fixed = NetworkUse::new(name("n0"));
            fixed.ip = Some([10, 80, 0, 9].into());
            s.networks = vec![fixed];
        }),
        ("volume data is exclusive", |s| {
            s.volumes.push(VolumeUse {
                source: VolumeSource::Named(name("data")),
                target: "/data".to_owned(),
                read_only: false,
            });
        }),
        ("it is a job (restart policy \"no\")", |s| {
            s.restart.policy = RestartPolicy::No;
        }),
    ];
    for (why, make) in cases {
        let mut spec = start_first();
        make(&mut spec);
        let mut lab = Lab::new(&[("web", spec)]);
        lab.volumes.insert(name("data"), exclusive.clone());
        let n0 = NetworkSpec {
            subnet: Some("10.80.0.0/24".parse().unwrap()),
            ..NetworkSpec::default()
        };
        lab.networks.insert(name("n0"), n0);
        lab.settle();
        let old = lab.id("web");
        change(&mut lab, "new");
        let plan = lab.pass();
        let text = lab::lines(&plan).join("\n");
        let said = format!("cannot be updated start-first, so the old one is stopped first: {why}");
        assert!(text.contains(&said), "{why}: {text}");
        lab.settle();
        assert_ne!(lab.id("web"), old);
        assert_eq!(lab.host.containers.len(), 1, "{why}");
    }
}

#[test]
fn a_hold_that_is_lifted_does_not_end_one_that_ports_still_lead_to() {
    let mut lab = running(start_first());
    let old = lab.id("web");
    change(&mut lab, "new");
    let new = tried(&mut lab);
    found(&mut lab, &new.id, Verdict::Healthy);
    // Promoted, and nothing of it done yet.
    lab.ledger = lab.plan().ledger;
    assert_eq!(draining(&lab), Some(old));
    let hold = model::ledger::Hold {
        reason: "by hand".to_owned(),
        at: lab.now,
        fingerprint: model::plan::fingerprint(&lab.containers["web"]),
    };
    lab.ledger.holds.insert(name("web"), hold);
    lab.ledger = lab.plan().ledger;
    lab.ledger.holds.clear();
    let plan = lab.pass();
    assert!(ends(&plan).is_empty(), "{:?}", lab::lines(&plan));
    assert_eq!(leads_to(&lab), new.attachments[0].v4().unwrap().ip);
    lab.settle();
    assert_eq!((lab.id("web"), lab.host.containers.len()), (new.id, 1));
}

#[test]
fn two_that_swap_their_ports_are_stopped_first_and_keep_their_addresses() {
    let mut api = start_first();
    api.ports[0].host = Some((9090, 9090));
    let mut lab = Lab::new(&[("api", api), ("web", start_first())]);
    let both = ["api", "web"];
    let well = |lab: &mut Lab| {
        lab.settle();
        both.iter().for_each(|n| lab.found(n, Verdict::Healthy, ""));
        lab.settle();
    };
    let places = |lab: &Lab| both.map(|n| lab.ledger.containers[n].current.attachments[0].v4().unwrap().ip);
    well(&mut lab);
    let (ids, before) = (both.map(|n| lab.id(n)), places(&lab));
    for (of, port) in [("api", 8080), ("web", 9090)] {
        lab.spec(of).ports[0].host = Some((port, port));
        lab.spec(of).env.insert("WORD".to_owned(), "new".to_owned());
    }
    well(&mut lab);
    assert!(both.iter().zip(ids).all(|(n, id)| lab.runs(n) && lab.id(n) != id));
    assert_eq!(places(&lab), before);
    assert!(!lab.ledger.leases.keys().any(|k| k.ends_with('+')));
}

#[test]
fn a_second_update_waits_until_the_one_before_is_gone() {
    let mut lab = running(start_first());
    change(&mut lab, "second");
    let second = tried(&mut lab);
    found(&mut lab, &second.id, Verdict::Healthy);
    lab.pass();
    change(&mut lab, "third");
    let plan = lab.pass();
    assert!(trial(&lab).is_none());
    assert!(
        lab::lines(&plan).iter().any(|l| l.contains("is updated once")),
        "{:?}",
        lab::lines(&plan)
    );
    let third = tried(&mut lab);
    assert_eq!(draining(&lab), None);
    assert_ne!(third.id, second.id);
}

#[test]
fn others_depend_on_the_active_one() {
    let mut app = spec();
    app.depends_on
        .insert(name("web"), lab::dependency(Condition::Healthy));
    let mut lab = running(start_first());
    change(&mut lab, "new");
    let new = tried(&mut lab);
    lab.containers.insert(name("app"), app);
    lab.pass();
    lab.pass();
    lab.pass();
    assert!(lab.runs("app"), "the old one is healthy");
    let app = lab.seen("app").run_no;
    found(&mut lab, &new.id, Verdict::Healthy);
    lab.settle();
    assert_eq!(lab.seen("app").run_no, app, "and nobody minds the update");
}

/// The one before is on a network that gets a way out, which it lacks then; the present one is not.
#[test]
fn one_that_is_cut_off_while_it_drains_stays_until_names_and_ports_have_moved() {
    let mut web = start_first();
    web.networks = vec![NetworkUse::new(name("back")), NetworkUse::new(name("front"))];
    let mut lab = Lab::new(&[("web", web)]);
    for (net, internal) in [("back", true), ("front", false)] {
        let network = NetworkSpec {
            internal,
            ..NetworkSpec::default()
        };
        lab.networks.insert(name(net), network);
    }
    lab.settle();
    lab.found("web", Verdict::Healthy, "");
    lab.settle();
    let old = lab.id("web");
    lab.spec("web").networks.remove(0);
    let new = tried(&mut lab);
    found(&mut lab, &new.id, Verdict::Healthy);
    // Its shim is told by which policy it works from now on, and names and ports have still to move.
    let plan = lab.plan();
    for planned in &plan.actions {
        if matches!(planned.action, Action::UpdateContainer { .. }) {
            lab.host.apply(&planned.action, lab.now, false).unwrap();
        }
    }
    lab.ledger = plan.ledger;
    assert_eq!(draining(&lab), Some(old.clone()));
    lab.networks.get_mut("back").unwrap().internal = false;
    let plan = lab.pass();
    assert!(!ends(&plan).contains(&old), "{:?}", lines(&plan));
    let plan = lab.pass();
    assert!(
        ends(&plan).contains(&old),
        "and not for its time: {:?}",
        lines(&plan)
    );
}

#[test]
fn what_it_depends_on_and_wants_the_old_ones_port_has_the_old_one_stopped_first() {
    let mut lab = running(start_first());
    let old = lab.id("web");
    let mut other = port();
    other.host = Some((8081, 8081));
    let api = dependency(Condition::Started);
    change(&mut lab, "new");
    let web = lab.spec("web");
    web.ports = vec![other];
    web.depends_on.insert(name("proxy"), api);
    // It waits as well, and is not what is waited for.
    web.depends_on.insert(name("db"), api);
    let mut proxy = spec();
    proxy.ports = vec![port()];
    lab.containers.insert(name("proxy"), proxy);
    lab.containers.insert(name("db"), spec());
    lab.spec("db").depends_on.insert(name("proxy"), api);
    lab.pass();
    let next = lab.ledger.containers["web"].next.clone().unwrap();
    assert_eq!((next.phase, lab.runs("web")), (ReplacePhase::Trial, true));
    lab.pass();
    let next = lab.ledger.containers["web"].next.clone().unwrap();
    assert_eq!(
        next.fallback.unwrap(),
        "cannot be updated start-first, so the old one is stopped first: container proxy, which it waits for, \
         waits for host port 8080/tcp"
    );
    lab.settle();
    assert!(lab.runs("proxy") && lab.runs("db") && lab.runs("web"));
    assert!(!lab.host.containers.contains_key(&old));
}

#[test]
fn what_it_depends_on_may_take_its_time_while_others_want_the_old_ones_port() {
    let mut lab = running(start_first());
    let mut other = port();
    other.host = Some((8081, 8081));
    change(&mut lab, "new");
    let web = lab.spec("web");
    web.ports = vec![other];
    web.depends_on.insert(name("db"), dependency(Condition::Started));
    let mut db = spec();
    db.requires_mounts = vec!["/srv/nfs".into()];
    lab.containers.insert(name("db"), db);
    let mut proxy = spec();
    proxy.ports = vec![port()];
    lab.containers.insert(name("proxy"), proxy);
    lab.settle();
    assert!(lab.runs("web") && trial(&lab).is_some());
    lab.spec("db").requires_mounts.clear();
    let new = tried(&mut lab);
    found(&mut lab, &new.id, Verdict::Healthy);
    lab.settle();
    assert!(lab.runs("proxy") && lab.runs("db") && lab.id("web") == new.id);
}
