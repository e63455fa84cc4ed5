//! Replicas: each rule with the smallest host that shows it.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where its world is not as it was made"
)]

mod lab;
mod sim;

use lab::{Lab, check, dependency, name, spec};
use model::action::Action;
use model::firewall::Protocol;
use model::health::Verdict;
use model::observed::Phase;
use model::plan::Plan;
use model::spec::*;
use model::status::State;

const ALL: [&str; 3] = ["web", "web-2", "web-3"];

fn published(host: Option<u16>) -> PortSpec {
    PortSpec {
        ip: None,
        host: host.map(|port| (port, port)),
        container: (80, 80),
        protocol: Protocol::Tcp,
        allow: Vec::new(),
    }
}

fn replicated() -> ContainerSpec {
    let mut web = spec();
    web.replicas = 3;
    web.ports = vec![published(Some(8080))];
    web
}

fn service() -> Lab {
    Lab::new(&[("web", replicated())])
}

/// Three instances that are asked for their health, all healthy.
fn checked() -> Lab {
    let mut lab = service();
    lab.spec("web").healthcheck = check(OnFailure::None);
    lab.settle();
    well(&mut lab, &ALL);
    lab.settle();
    lab
}

fn well(lab: &mut Lab, names: &[&str]) {
    for name in names {
        lab.found(name, Verdict::Healthy, "");
    }
}

/// Who has port 8080 on the host.
fn behind(lab: &Lab) -> Vec<String> {
    let state = lab.host.firewall.clone().unwrap();
    let mut all: Vec<String> = state.ports.iter().map(|p| p.container.to_string()).collect();
    all.sort();
    all
}

/// Who answers to a name.
fn answers(lab: &Lab, to: &str) -> Vec<String> {
    let state = lab.host.dns.clone().unwrap();
    let has = |c: &model::dns::DnsContainer| c.endpoints.values().any(|e| e.names.iter().any(|n| n == to));
    let all = state.containers.iter().filter(|(_, c)| has(c));
    all.map(|(name, _)| name.to_string()).collect()
}

fn stopped(plan: &Plan) -> Vec<String> {
    let one = |p: &model::plan::Planned| match &p.action {
        Action::StopContainer { name, .. } | Action::RemoveContainer { name, .. } => Some(name.to_string()),
        _ => None,
    };
    plan.actions.iter().filter_map(one).collect()
}

fn error(lab: &Lab) -> String {
    lab.desired().errors[0].message.clone()
}

#[test]
fn a_table_with_replicas_is_as_many_containers_that_share_its_port() {
    let mut lab = service();
    assert!(lab.settle().is_empty());
    assert!(ALL.iter().all(|name| lab.runs(name)));
    assert_eq!(behind(&lab), ALL);
    let shown = lab.shown("web-2");
    assert_eq!((shown.service.as_str(), shown.instance), ("web", 2));
    let first = lab.shown("web");
    assert_eq!((first.service.as_str(), first.instance), ("web", 1));
    let started: Vec<(String, u32)> = lab
        .started
        .iter()
        .map(|i| (i.service.to_string(), i.number))
        .collect();
    assert_eq!(started, [1, 2, 3].map(|n| ("web".to_owned(), n)));
    let mut addresses: Vec<_> = lab
        .started
        .iter()
        .map(|i| i.attachments[0].v4().unwrap().ip)
        .collect();
    addresses.dedup();
    assert_eq!(addresses.len(), 3);
    assert!(lab.status().converged);
}

#[test]
fn scaling_keeps_the_low_numbers_and_what_runs() {
    let mut lab = service();
    lab.settle();
    let ids = ALL.map(|name| lab.id(name));
    lab.spec("web").replicas = 1;
    lab.settle();
    assert_eq!(lab.host.containers.len(), 1);
    assert_eq!(lab.id("web"), ids[0]);
    assert!(lab.ledger.containers["web"].place.is_none());
    assert_eq!(behind(&lab), ["web"]);
    lab.spec("web").replicas = 2;
    lab.settle();
    assert_eq!(lab.id("web"), ids[0]);
    assert_ne!(lab.id("web-2"), ids[1]);
    assert_eq!(behind(&lab), ["web", "web-2"]);
    let runs: Vec<u64> = ["web", "web-2"].iter().map(|n| lab.seen(n).run_no).collect();
    assert_eq!(runs, [1, 1]);
}

#[test]
fn one_that_goes_is_out_of_the_traffic_before_it_is_stopped() {
    let mut lab = service();
    lab.settle();
    lab.spec("web").replicas = 2;
    let plan = loop {
        let plan = lab.pass();
        if !stopped(&plan).is_empty() {
            break plan;
        }
    };
    assert_eq!(stopped(&plan), ["web-3"]);
    let [firewall, dns] = ["firewall", "dns"].map(|kind| {
        let at = plan.actions.iter().position(|p| p.action.noun().kind() == kind);
        at.unwrap()
    });
    let stop = plan.actions.last().unwrap();
    assert!(stop.after.contains(&firewall) && stop.after.contains(&dns));
    assert_eq!(behind(&lab), ["web", "web-2"]);
}

#[test]
fn a_picked_port_is_picked_once_for_all() {
    let mut lab = service();
    lab.spec("web").ports = vec![published(None)];
    lab.settle();
    let ports = |lab: &Lab| -> Vec<u16> {
        let state = lab.host.firewall.clone().unwrap();
        state.ports.iter().map(|p| p.host_port).collect()
    };
    assert_eq!(ports(&lab), [32_768; 3]);
    lab.spec("web").replicas = 1;
    lab.settle();
    assert_eq!(ports(&lab), [32_768]);
    lab.containers.insert(name("other"), {
        let mut other = spec();
        other.ports = vec![published(None)];
        other
    });
    lab.settle();
    assert_eq!(ports(&lab), [32_768, 32_769]);
}

#[test]
fn another_service_does_not_get_the_port() {
    let mut lab = service();
    lab.settle();
    // Not in the files together, which would be an error: the one goes while the other comes.
    let table = lab.containers.remove("web").unwrap();
    let mut other = table.clone();
    other.replicas = 2;
    lab.containers.insert(name("other"), other);
    let plan = lab.pass();
    assert!(lab::lines(&plan).iter().any(|line| {
        line == "? container other: waits for host port 8080/tcp, which container web still has"
    }));
    lab.settle();
    assert_eq!(behind(&lab), ["other", "other-2"]);
}

#[test]
fn traffic_is_for_those_that_are_healthy() {
    let mut lab = checked();
    assert_eq!(behind(&lab), ALL);
    lab.found("web-2", Verdict::Unhealthy, "no");
    lab.settle();
    assert_eq!(behind(&lab), ["web", "web-3"]);
    assert_eq!(answers(&lab, "web"), ["web", "web-3"]);
    assert_eq!(answers(&lab, "web-2"), ["web-2"]);
    assert_eq!(answers(&lab, "web-1"), ["web"]);
    lab.found("web-2", Verdict::Healthy, "");
    lab.settle();
    assert_eq!(behind(&lab), ALL);
    assert_eq!(answers(&lab, "web"), ALL);
}

#[test]
fn where_none_is_healthy_those_that_run_keep_the_traffic() {
    let mut lab = checked();
    for name in ALL {
        lab.found(name, Verdict::Unhealthy, "no");
    }
    lab.ends("web-3", 1, Phase::Lost);
    lab.failures.insert(
        model::action::Noun::Container(name("web-3")),
        model::action::Failure {
            message: "no".to_owned(),
            id: Some(lab.id("web-3")),
            count: 9,
            at: lab.now,
            of: String::new(),
        },
    );
    lab.pass();
    assert_eq!(behind(&lab), ["web", "web-2"]);
}

#[test]
fn a_stop_by_hand_takes_one_out_of_the_traffic() {
    let mut lab = service();
    lab.settle();
    let fingerprint = model::plan::fingerprint(&lab.ledger.containers["web-2"].current.spec);
    let hold = model::ledger::Hold {
        reason: "by hand".to_owned(),
        at: lab.now,
        fingerprint,
    };
    lab.ledger.holds.insert(name("web-2"), hold);
    lab.settle();
    assert_eq!(lab.shown("web-2").state, State::Stopped);
    assert_eq!(behind(&lab), ["web", "web-3"]);
    assert!(lab.runs("web") && lab.runs("web-3"));
}

#[test]
fn a_change_goes_through_them_one_after_the_other() {
    let mut lab = checked();
    let old = ALL.map(|name| lab.id(name));
    lab.spec("web").command = Some(vec!["v2".to_owned()]);
    let mut order: Vec<String> = Vec::new();
    for _ in 0..40 {
        let plan = lab.pass();
        for name in stopped(&plan) {
            if order.contains(&name) {
                continue;
            }
            // Those replaced before are up again.
            let up =
                |n: &&String| lab.ledger.health.get(&lab.id(n)).map(|h| h.verdict) == Some(Verdict::Healthy);
            assert!(
                order.iter().all(|n| up(&n)),
                "{name} is replaced while {order:?} are not up"
            );
            order.push(name);
        }
        let running: Vec<&str> = ALL.into_iter().filter(|n| lab.runs(n)).collect();
        assert!(running.len() >= 2, "only {running:?} run");
        well(&mut lab, &running);
    }
    assert_eq!(order, ALL);
    assert!(lab.settle().is_empty());
    assert!(ALL.iter().zip(&old).all(|(name, id)| lab.id(name) != *id));
    assert_eq!(behind(&lab), ALL);
}

#[test]
fn as_many_at_a_time_as_parallelism_says() {
    let mut lab = checked();
    lab.spec("web").update.parallelism = 2;
    lab.spec("web").command = Some(vec!["v2".to_owned()]);
    let mut most = 0;
    for _ in 0..40 {
        lab.pass();
        let running: Vec<&str> = ALL.into_iter().filter(|n| lab.runs(n)).collect();
        most = most.max(3 - running.len());
        well(&mut lab, &running);
    }
    assert_eq!(most, 2);
    assert!(lab.settle().is_empty());
}

#[test]
fn one_that_does_not_get_healthy_stops_the_roll() {
    let mut lab = checked();
    lab.spec("web").command = Some(vec!["v2".to_owned()]);
    lab.settle();
    lab.found("web", Verdict::Unhealthy, "no");
    assert_eq!(
        lab.settle(),
        [
            "? container web-2: is replaced once container web, which is unhealthy: no, is up: at most 1 of web at a time",
            "? container web-3: is replaced once container web, which is unhealthy: no, is up: at most 1 of web at a time",
            "? container web: is unhealthy: no",
        ]
    );
    assert!(!lab.status().converged);
    // What is put right goes to the one that is away, and on from there.
    lab.spec("web").command = Some(vec!["v3".to_owned()]);
    for _ in 0..30 {
        lab.pass();
        let running: Vec<&str> = ALL.into_iter().filter(|n| lab.runs(n)).collect();
        well(&mut lab, &running);
    }
    assert!(lab.settle().is_empty());
    assert_eq!(
        lab.ledger.containers["web-3"].current.spec.command,
        Some(vec!["v3".to_owned()])
    );
}

#[test]
fn one_that_fails_keeps_the_others_from_being_tried() {
    let mut lab = checked();
    lab.spec("web").command = Some(vec!["bad".to_owned()]);
    let end = loop {
        let plan = lab.pass();
        if plan.actions.is_empty() && plan.wake_at.is_none() {
            break lab::lines(&plan);
        }
        let running: Vec<&str> = ALL.into_iter().filter(|n| lab.runs(n)).collect();
        well(&mut lab, &running);
    };
    assert_eq!(end.len(), 2, "{end:?}");
    for (line, name) in end.iter().zip(["web-2", "web-3"]) {
        let start = format!("? container {name}: stays as it was, as the change failed on container web: ");
        assert!(line.starts_with(&start), "{line}");
    }
    assert!(ALL.iter().all(|name| lab.runs(name)));
    let shown = lab.shown("web-2");
    assert_eq!(shown.state, State::Running);
    assert!(
        shown
            .error
            .unwrap()
            .contains("the change failed on container web")
    );
}

#[test]
fn who_depends_on_a_service_waits_for_all_of_it() {
    let mut front = spec();
    front
        .depends_on
        .insert(name("web"), dependency(Condition::Healthy));
    let mut lab = service();
    lab.spec("web").healthcheck = check(OnFailure::None);
    lab.containers.insert(name("front"), front);
    lab.settle();
    well(&mut lab, &["web", "web-2"]);
    assert!(lab.settle().iter().any(|line| {
        line == "? container front: waits for container web-3 to be healthy, which is starting"
    }));
    assert!(!lab.runs("front"));
    well(&mut lab, &["web-3"]);
    assert!(lab.settle().is_empty());
    assert!(lab.runs("front"));
}

#[test]
fn names_of_instances_are_taken_and_have_to_be_names() {
    let mut lab = service();
    lab.containers.insert(name("web-3"), spec());
    assert_eq!(error(&lab), "container web-3 has the name of an instance of web");
    assert!(lab.desired().containers.is_empty());
    lab.containers.remove("web-3");
    lab.containers.insert(name("web-1"), spec());
    assert_eq!(error(&lab), "container web-1 has the name of an instance of web");
    let long = "n".repeat(62);
    let mut lab = Lab::new(&[(&long, replicated())]);
    assert!(error(&lab).starts_with(&format!("container {long} has too long a name for 3 replicas")));
    lab.spec(&long).replicas = 1;
    assert!(lab.desired().errors.is_empty());
}

#[test]
fn what_is_held_stays_with_all_its_instances() {
    let mut lab = service();
    lab.settle();
    // A clash: whoever takes part in it stays as it was.
    lab.containers.insert(name("web-4"), spec());
    lab.spec("web").replicas = 4;
    lab.settle();
    assert!(ALL.iter().all(|name| lab.runs(name)));
    assert_eq!(lab.host.containers.len(), 3);
}

#[test]
fn an_instance_that_is_held_stays_one_when_another_one_takes_its_place() {
    let mut lab = service();
    lab.spec("web").update.parallelism = 3;
    lab.settle();
    lab.spec("web").env.insert("WORD".to_owned(), "new".to_owned());
    lab.pass();
    let ids = ALL.map(|name| lab.id(name));
    // The machine goes down, and its table has an error when it comes up.
    lab.containers.insert(name("web-4"), spec());
    lab.spec("web").replicas = 4;
    lab.reboot();
    lab.settle();
    assert!(ALL.iter().all(|name| lab.runs(name)));
    assert_ne!(ALL.map(|name| lab.id(name)), ids, "those that were prepared");
    assert_eq!(ALL.map(|name| lab.shown(name).service), ["web"; 3]);
    assert_eq!(behind(&lab), ALL);
}

#[test]
fn a_container_becomes_an_instance_of_another_table() {
    let mut lab = Lab::new(&[("web", spec()), ("web-2", spec())]);
    lab.settle();
    let ids = ["web", "web-2"].map(|n| lab.id(n));
    lab.containers.remove("web-2");
    lab.spec("web").replicas = 2;
    lab.settle();
    assert_eq!(["web", "web-2"].map(|n| lab.id(n)), ids, "the same definition");
    assert_eq!(lab.shown("web-2").service, "web");
    assert_eq!(answers(&lab, "web"), ["web", "web-2"]);
}

/// With a config of which a change restarts.
fn configured() -> Lab {
    let mut lab = service();
    lab.spec("web").healthcheck = check(OnFailure::None);
    lab.spec("web").configs = vec![name("x0")];
    let config = MountedFileSpec {
        source: FileSource::File("/srv/x0".into()),
        target: None,
        mode: 0o444,
        uid: 0,
        gid: 0,
        on_change: model::content::OnChange::Restart,
    };
    lab.configs.insert(name("x0"), config);
    lab.settle();
    well(&mut lab, &ALL);
    lab.settle();
    lab
}

fn runs_of(lab: &Lab) -> [u64; 3] {
    ALL.map(|name| lab.seen(name).run_no)
}

#[test]
fn a_config_that_changed_restarts_one_instance_after_the_other() {
    let mut lab = configured();
    lab.host
        .contents
        .set("config x0", model::observed::Look::Known("other"));
    let waits = |lab: &mut Lab| lab::lines(&lab.plan());
    let said = waits(&mut lab);
    let why = "? container web-2: is restarted with what changed once container web, which is being restarted, is up: at most 1 of web at a time";
    assert!(said.contains(&why.to_owned()), "{said:?}");
    for (done, name) in ALL.iter().enumerate() {
        for _ in 0..6 {
            let served = behind(&lab);
            let before = runs_of(&lab);
            lab.pass();
            // Nobody is led to one that is restarted in this pass.
            for (i, of) in ALL.iter().enumerate() {
                let restarted = runs_of(&lab)[i] != before[i];
                assert!(!(restarted && served.iter().any(|s| s == of)), "{of} is led to");
            }
            let restarted = runs_of(&lab).iter().filter(|run| **run > 1).count();
            assert!(restarted <= done + 1, "{:?}", runs_of(&lab));
        }
        assert_eq!(lab.seen(name).run_no, 2);
        // No verdict yet: the others wait for it.
        well(&mut lab, &[name]);
    }
    assert!(lab.settle().is_empty());
    assert_eq!((runs_of(&lab), behind(&lab).len()), ([2, 2, 2], 3));
}

#[test]
fn parallelism_holds_for_restarts_as_well() {
    let mut lab = configured();
    lab.spec("web").update.parallelism = 2;
    lab.settle();
    lab.host
        .contents
        .set("config x0", model::observed::Look::Known("other"));
    for _ in 0..6 {
        lab.pass();
    }
    assert_eq!(runs_of(&lab), [2, 2, 1]);
}

#[test]
fn instances_that_are_all_down_do_not_wait_for_each_other_to_be_mended() {
    let mut lab = configured();
    for name in ALL {
        lab.found(name, Verdict::Unhealthy, "the config is wrong");
    }
    lab.settle();
    lab.host
        .contents
        .set("config x0", model::observed::Look::Known("right"));
    for name in ALL {
        for _ in 0..6 {
            lab.pass();
        }
        well(&mut lab, &[name]);
    }
    assert!(lab.settle().is_empty());
    assert_eq!(runs_of(&lab), [2, 2, 2]);
}

#[test]
fn those_that_are_restarted_with_what_they_depend_on_go_one_after_the_other() {
    let mut lab = service();
    lab.containers.insert(name("db"), spec());
    lab.spec("web").healthcheck = check(OnFailure::None);
    let mut on = dependency(Condition::Started);
    on.restart = true;
    lab.spec("web").depends_on.insert(name("db"), on);
    lab.settle();
    well(&mut lab, &ALL);
    lab.settle();
    lab.spec("db").command = Some(vec!["other".to_owned()]);
    for (done, name) in ALL.iter().enumerate() {
        for _ in 0..12 {
            lab.pass();
            let restarted = runs_of(&lab).iter().filter(|run| **run > 1).count();
            assert!(restarted <= done + 1, "{:?}", runs_of(&lab));
        }
        assert_eq!(lab.seen(name).run_no, 2);
        well(&mut lab, &[name]);
    }
    assert!(lab.settle().is_empty());
    assert_eq!(runs_of(&lab), [2, 2, 2]);
}

#[test]
fn one_instance_is_not_what_a_table_can_depend_on() {
    let mut lab = service();
    let mut front = spec();
    front
        .depends_on
        .insert(name("web-2"), dependency(Condition::Started));
    lab.containers.insert(name("front"), front);
    let desired = lab.desired();
    let told = &desired.errors[0];
    assert_eq!(
        told.message,
        "container front names web-2, which is one of the 3 instances of container web"
    );
    assert_eq!(told.hint.as_deref(), Some("write web, which means all of them"));
    assert_eq!(desired.errors.len(), 1);
}

/// A service is changed one instance after the other: until all of it is, not all of it publishes the same.
#[test]
fn each_port_leads_to_those_who_publish_it_be_they_ready_or_not() {
    let mut lab = checked();
    let web = lab.spec("web");
    web.env.insert("WORD".to_owned(), "new".to_owned());
    web.ports = vec![published(Some(8081))];
    let old = lab.id("web");
    while lab.id("web") == old {
        lab.pass();
    }
    lab.settle();
    assert!(lab.host.health[&lab.id("web-2")].verdict == Verdict::Healthy && lab.runs("web"));
    let state = lab.host.firewall.clone().unwrap();
    let ports: Vec<_> = state
        .ports
        .iter()
        .map(|p| (p.host_port, p.container.as_str()))
        .collect();
    assert_eq!(ports, [(8080, "web-2"), (8080, "web-3"), (8081, "web")]);
    assert_eq!(answers(&lab, "web"), ["web-2", "web-3"], "the name is one of all");
}

/// Its table goes and comes back with fewer, when the first one was removed already and the others were not.
#[test]
fn one_that_comes_back_alone_has_no_traffic_before_it_is_up() {
    let mut lab = service();
    lab.settle();
    let first = lab.id("web");
    lab.ends("web", 0, Phase::Exited);
    lab.host.containers.remove(&first);
    lab.ledger.containers.remove("web");
    lab.spec("web").replicas = 1;
    lab.pass();
    assert_eq!(behind(&lab), ["web-2", "web-3"]);
    assert!(lab.settle().is_empty());
    assert_eq!(behind(&lab), ["web"]);
}

/// Two are down and wait for `db`, which waits for a port that the third one gives away.
#[test]
fn an_instance_does_not_wait_for_others_that_wait_for_it_in_the_end() {
    let mut lab = service();
    lab.settle();
    let mut db = spec();
    db.ports = vec![published(Some(8080))];
    lab.containers.insert(name("db"), db);
    let web = lab.spec("web");
    web.ports = Vec::new();
    web.env.insert("WORD".to_owned(), "new".to_owned());
    web.depends_on.insert(name("db"), dependency(Condition::Started));
    for of in ["web-2", "web-3"] {
        lab.ends(of, 137, Phase::Lost);
    }
    assert!(lab.settle().is_empty());
    assert!(["db", "web", "web-2", "web-3"].iter().all(|of| lab.runs(of)));
    assert_eq!(behind(&lab), ["db"]);
}

/// The others wait for a network that is made anew, which waits for the first one to leave it.
#[test]
fn an_instance_that_has_to_leave_its_network_does_not_wait_for_its_turn() {
    let mut web = NetworkUse::new(name("n"));
    web.ip = Some("10.80.0.101".parse().unwrap());
    let mut lab = Lab::new(&[("web", spec())]);
    let subnet = |text: &str| NetworkSpec {
        subnet: Some(text.parse().unwrap()),
        ..NetworkSpec::default()
    };
    lab.networks.insert(name("n"), subnet("10.80.0.0/24"));
    lab.spec("web").networks = vec![web];
    assert!(lab.settle().is_empty());
    lab.networks.insert(name("n"), subnet("10.80.1.0/24"));
    lab.spec("web").networks = vec![NetworkUse::new(name("n"))];
    lab.spec("web").replicas = 3;
    assert_eq!(lab.settle(), [""; 0]);
    assert!(ALL.iter().all(|name| lab.runs(name)));
}
