//! Health, order and shared namespaces: each rule with the smallest host that shows it.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where its world is not as it was made"
)]

mod lab;
mod sim;

use lab::{Lab, check, dependency, lines, name, spec};
use model::action::{Action, Noun};
use model::health::Verdict;
use model::name::ContainerId;
use model::observed::Phase;
use model::spec::*;
use model::status::State;

fn checked(on_failure: OnFailure) -> Lab {
    let mut web = spec();
    web.healthcheck = check(on_failure);
    Lab::new(&[("web", web)])
}

#[test]
fn what_has_no_verdict_yet_is_not_converged_and_what_is_healthy_is() {
    let mut lab = checked(OnFailure::Restart);
    assert_eq!(
        lab.settle(),
        ["? container web: runs, and its health check has no verdict yet"]
    );
    let shown = lab.shown("web");
    assert_eq!(
        (shown.state, shown.health.as_str(), shown.error),
        (State::Running, "starting", None)
    );
    assert!(!lab.status().converged);
    lab.found("web", Verdict::Healthy, "");
    assert!(lab.settle().is_empty());
    assert_eq!(lab.shown("web").health, "healthy");
    assert!(lab.status().converged);
}

#[test]
fn an_unhealthy_run_is_ended_and_the_next_one_begins_anew() {
    let mut lab = checked(OnFailure::Restart);
    lab.settle();
    lab.found("web", Verdict::Unhealthy, "\n  connection refused\nmore");
    assert!(!lab.status().converged);
    let plan = lab.pass();
    assert_eq!(
        lines(&plan),
        ["~ container web: is unhealthy: connection refused"]
    );
    assert!(matches!(
        plan.actions[0].action,
        Action::RestartUnhealthy { run_no: 1, .. }
    ));
    assert_eq!(lab.ledger.health[&lab.id("web")].verdict, Verdict::Unhealthy);
    lab.host.tick(lab.now);
    assert_eq!(lab.seen("web").run_no, 2);
    assert_eq!(
        lab.settle(),
        ["? container web: runs, and its health check has no verdict yet"]
    );
    // What was found of the run before says nothing of this one.
    assert_eq!(lab.shown("web").health, "starting");
}

#[test]
fn a_verdict_is_written_down_when_it_changes_and_not_at_each_probe() {
    let mut lab = checked(OnFailure::None);
    lab.settle();
    lab.found("web", Verdict::Healthy, "");
    lab.settle();
    let before = lab.ledger.clone();
    lab.now += jiff::SignedDuration::from_secs(100);
    lab.found("web", Verdict::Healthy, "");
    assert_eq!(lab.plan().ledger, before);
    lab.found("web", Verdict::Unhealthy, "no");
    assert_ne!(lab.plan().ledger, before);
    // A new agent goes on with it.
    lab.host.forget();
    assert!(lab.settle().is_empty());
    assert_eq!(lab.shown("web").health, "healthy");
    lab.containers.clear();
    lab.settle();
    assert!(lab.ledger.health.is_empty());
}

#[test]
fn on_failure_stop_is_a_hold_that_says_why_and_how_to_lift_it() {
    let mut lab = checked(OnFailure::Stop);
    lab.settle();
    lab.found("web", Verdict::Unhealthy, "no answer");
    assert!(lab.settle().is_empty());
    let shown = lab.shown("web");
    let why =
        "is unhealthy: no answer; stopped for that by on_failure = \"stop\": `wharf start web` runs it again";
    assert_eq!((shown.state, shown.hold.as_deref()), (State::Stopped, Some(why)));
    lab.reboot();
    lab.settle();
    assert!(!lab.runs("web"), "it holds over a reboot");
    lab.ledger.holds.clear();
    lab.settle();
    assert!(lab.runs("web"));
}

#[test]
fn on_failure_none_is_an_error_and_nothing_more() {
    let mut lab = checked(OnFailure::None);
    lab.settle();
    lab.found("web", Verdict::Unhealthy, "no answer");
    assert_eq!(lab.settle(), ["? container web: is unhealthy: no answer"]);
    let shown = lab.shown("web");
    assert_eq!(
        (shown.state, shown.health.as_str()),
        (State::Running, "unhealthy")
    );
    assert_eq!(shown.error.as_deref(), Some("is unhealthy: no answer"));
    assert_eq!(lab.seen("web").run_no, 1);
}

#[test]
fn an_unhealthy_job_is_killed_and_left() {
    let mut lab = checked(OnFailure::Restart);
    lab.spec("web").restart.policy = RestartPolicy::No;
    lab.settle();
    lab.found("web", Verdict::Unhealthy, "");
    assert!(lab.settle().is_empty());
    let shown = lab.shown("web");
    assert_eq!(
        (shown.state, shown.exit_code, lab.seen("web").run_no),
        (State::Failed, Some(137), 1)
    );
}

#[test]
fn another_check_is_told_in_place_and_begins_with_no_verdict() {
    let mut lab = checked(OnFailure::None);
    lab.settle();
    lab.found("web", Verdict::Unhealthy, "no");
    lab.settle();
    let id = lab.id("web");
    lab.spec("web").healthcheck = HealthcheckChoice::Off;
    let plan = lab.pass();
    let told = plan.actions.iter().find_map(|p| match &p.action {
        Action::UpdateContainer { policy, .. } => Some(policy.checked),
        _ => None,
    });
    assert_eq!(told, Some(false));
    assert!(lab.ledger.health.is_empty());
    assert!(lab.settle().is_empty());
    assert_eq!((lab.id("web"), lab.shown("web").health.as_str()), (id, "none"));
}

/// `web` that waits for `db`.
fn pair(condition: Condition, db: ContainerSpec) -> Lab {
    let mut web = spec();
    web.depends_on.insert(name("db"), dependency(condition));
    Lab::new(&[("db", db), ("web", web)])
}

#[test]
fn healthy_is_waited_for_and_what_runs_stays_when_it_no_longer_is() {
    let mut db = spec();
    db.healthcheck = check(OnFailure::None);
    let mut lab = pair(Condition::Healthy, db);
    let said = lab.settle();
    assert!(
        said.contains(&"? container web: waits for container db to be healthy, which is starting".to_owned()),
        "{said:?}"
    );
    lab.found("db", Verdict::Unhealthy, "no");
    let said = lab.settle();
    assert!(
        said.contains(
            &"? container web: waits for container db to be healthy, which is unhealthy: no".to_owned()
        ),
        "{said:?}"
    );
    lab.found("db", Verdict::Healthy, "");
    lab.settle();
    assert!(lab.runs("web"));
    lab.found("db", Verdict::Unhealthy, "no");
    lab.settle();
    assert!(lab.runs("web"));
    assert_eq!(lab.seen("web").run_no, 1);
    // After a reboot the health of the boot before does not count.
    lab.found("db", Verdict::Healthy, "");
    lab.settle();
    lab.reboot();
    lab.settle();
    assert!(lab.runs("db") && !lab.runs("web"));
    lab.found("db", Verdict::Healthy, "");
    lab.settle();
    assert!(lab.runs("web"));
}

#[test]
fn health_that_nobody_asks_for_is_an_error_on_whoever_waits_for_it() {
    let mut lab = pair(Condition::Healthy, spec());
    let why = "waits for container db to be healthy, but nothing asks for its health: give it a \
               [container.db.healthcheck], or depend on it with \"started\"";
    assert_eq!(lab.settle(), [format!("? container web: {why}")]);
    assert_eq!(lab.shown("web").state, State::Failed);
    lab.spec("db").healthcheck = HealthcheckChoice::Off;
    let errors = lab.desired().errors;
    assert_eq!(
        errors[0].message,
        "container web waits for db to be healthy, whose health check is off"
    );
}

#[test]
fn a_job_is_waited_for_once() {
    let mut job = spec();
    job.restart.policy = RestartPolicy::No;
    let mut lab = pair(Condition::Completed, job);
    assert_eq!(
        lab.settle(),
        ["? container web: waits for container db to have completed"]
    );
    lab.ends("db", 3, Phase::Exited);
    let why = "waits for container db to have completed, which failed with exit code 3; once that is put right, \
               `wharf start db` runs it again";
    assert_eq!(lab.settle(), [format!("? container web: {why}")]);
    let shown = lab.shown("db");
    assert_eq!(
        (shown.state, shown.error.as_deref()),
        (State::Failed, Some("its latest run ended with exit code 3"))
    );
    lab.ledger.containers.get_mut("db").unwrap().current.finished = false;
    lab.settle();
    lab.ends("db", 0, Phase::Exited);
    assert!(lab.settle().is_empty());
    assert!(lab.runs("web"));
    lab.reboot();
    assert!(lab.settle().is_empty());
    assert!(lab.runs("web"));
    assert_eq!(lab.seen("db").run_no, 2, "it is not repeated");
}

#[test]
fn a_job_that_a_power_loss_cut_off_is_run_again_before_its_dependents() {
    let mut job = spec();
    job.restart.policy = RestartPolicy::No;
    let mut lab = pair(Condition::Completed, job);
    lab.settle();
    lab.reboot();
    lab.settle();
    assert_eq!(lab.seen("db").run_no, 2);
    assert!(!lab.runs("web"));
}

#[test]
fn what_relies_on_another_is_removed_first() {
    let mut lab = pair(Condition::Started, spec());
    lab.settle();
    lab.containers.clear();
    lab.pass();
    let plan = lab.pass();
    assert_eq!(
        lines(&plan),
        [
            "- container web: its table is gone (all.toml)",
            "- container db: its table is gone (all.toml)"
        ]
    );
    assert_eq!(
        (plan.actions[0].after.len(), &plan.actions[1].after),
        (0, &vec![0])
    );
    lab.settle();
    assert!(lab.host.containers.is_empty());
}

/// `side` that shares a namespace of `main`.
fn sharing(side: impl FnOnce(&mut ContainerSpec)) -> Lab {
    let mut spec_of_side = spec();
    side(&mut spec_of_side);
    Lab::new(&[("a-side", spec_of_side), ("main", spec())])
}

#[test]
fn a_sharer_of_a_network_begins_after_its_owner_and_again_with_each_new_one() {
    let mut lab = sharing(|s| s.network_mode = NetworkMode::Container(name("main")));
    assert!(lab.settle().is_empty());
    let order: Vec<&str> = lab.started.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(order, ["main", "a-side"]);
    assert_eq!(lab.started[1].joins.net, Some(lab.id("main")));
    assert_eq!(
        lab.started[1].dns, lab.started[0].dns,
        "it resolves as its owner does"
    );
    // Lost and begun again.
    lab.ends("main", 137, Phase::Lost);
    let plan = lab.pass();
    let why =
        "container main, whose namespaces it shares, ended or was begun anew: it is started again there";
    assert!(
        lines(&plan).contains(&format!("-/+ container a-side: {why} [stop]")),
        "{:?}",
        lines(&plan)
    );
    assert!(lab.settle().is_empty());
    assert_eq!((lab.seen("main").run_no, lab.seen("a-side").run_no), (2, 2));
    // Another one in its place.
    lab.spec("main").command = Some(vec!["other".to_owned()]);
    assert!(lab.settle().is_empty());
    assert_eq!(lab.started.last().unwrap().joins.net, Some(lab.id("main")));
    assert_eq!(lab.seen("a-side").run_no, 3);
    // A restart by its shim keeps the network namespace.
    let id = lab.id("main");
    lab.host
        .apply(
            &Action::RestartUnhealthy {
                id,
                name: name("main"),
                run_no: 1,
                signal: "SIGTERM".to_owned(),
                grace: std::time::Duration::ZERO,
            },
            lab.now,
            false,
        )
        .unwrap();
    lab.host.tick(lab.now + jiff::SignedDuration::from_secs(1));
    assert_eq!(lab.seen("main").run_no, 2);
    assert!(lab.settle().is_empty());
    assert_eq!(lab.seen("a-side").run_no, 3);
}

#[test]
fn a_sharer_of_a_pid_namespace_begins_again_with_each_run_of_its_owner() {
    let mut lab = sharing(|s| s.pid = NamespaceMode::Container(name("main")));
    lab.spec("main").healthcheck = check(OnFailure::Restart);
    lab.settle();
    lab.found("main", Verdict::Unhealthy, "");
    lab.pass();
    lab.host.tick(lab.now);
    lab.settle();
    assert_eq!((lab.seen("main").run_no, lab.seen("a-side").run_no), (2, 2));
    assert_eq!(lab.ledger.containers["a-side"].current.joined_run, Some(2));
}

#[test]
fn a_namespace_is_asked_of_the_one_it_belongs_to() {
    let mut c = spec();
    c.ipc = NamespaceMode::Container(name("b"));
    let mut b = spec();
    b.ipc = NamespaceMode::Container(name("a"));
    let lab = Lab::new(&[("a", spec()), ("b", b), ("c", c)]);
    let errors = lab.desired().errors;
    assert_eq!(
        errors[0].message,
        "ipc = \"container:b\" of container c names one that itself shares that of a"
    );
}

#[test]
fn a_crash_loop_says_how_the_latest_run_ended() {
    let mut lab = checked(OnFailure::Restart);
    lab.settle();
    let id = lab.id("web");
    lab.found("web", Verdict::Unhealthy, "");
    lab.pass();
    let real = lab.host.containers.get_mut(&id).unwrap();
    real.seen.last_exit = Some(model::observed::ExitRecord {
        run_no: 1,
        code: 137,
        signal: Some(9),
        oom_killed: true,
        started_at: lab.now,
        finished_at: lab.now,
        requested: false,
        error: None,
    });
    let shown = lab.shown("web");
    let why = "its latest run ended with exit code 137 (signal 9, out of memory)";
    assert_eq!((shown.state, shown.error.as_deref()), (State::Backoff, Some(why)));
}

/// How often `a-side` was started.
fn starts_of_side(lab: &Lab) -> usize {
    lab.started.iter().filter(|i| i.name.as_str() == "a-side").count()
}

/// Passes until `main` is stopped: none before may find `a-side` running with it.
fn stops_side_first(lab: &mut Lab) {
    for _ in 0..20 {
        let id = lab.id("main");
        let plan = lab.pass();
        let stops = |p: &model::plan::Planned| match &p.action {
            Action::StopContainer { id: of, .. } => *of == id && p.after.is_empty(),
            _ => false,
        };
        if plan.actions.iter().any(stops) {
            assert!(!lab.runs("a-side"), "{:?}", lines(&plan));
            return;
        }
    }
    panic!("main is never stopped");
}

#[test]
fn a_sharer_is_stopped_before_its_owner_and_begun_again_after_it() {
    for of in ["network", "pid", "ipc"] {
        let main = || NamespaceMode::Container(name("main"));
        let mut lab = sharing(|s| match of {
            "network" => s.network_mode = NetworkMode::Container(name("main")),
            "pid" => s.pid = main(),
            _ => s.ipc = main(),
        });
        assert!(lab.settle().is_empty());
        lab.spec("main").command = Some(vec!["other".to_owned()]);
        stops_side_first(&mut lab);
        assert!(lab.settle().is_empty());
        assert!(lab.runs("a-side") && lab.runs("main"), "{of}");
        assert_eq!(starts_of_side(&lab), 2, "{of}");
    }
}

#[test]
fn a_sharer_is_stopped_before_its_owner_is_by_hand_and_waits_for_its_start() {
    let mut lab = sharing(|s| s.network_mode = NetworkMode::Container(name("main")));
    lab.settle();
    let hold = model::ledger::Hold {
        reason: "stopped by hand".to_owned(),
        at: lab.now,
        fingerprint: model::plan::fingerprint(&lab.containers["main"]),
    };
    lab.ledger.holds.insert(name("main"), hold);
    stops_side_first(&mut lab);
    let why =
        "? container a-side: waits for container main, whose namespaces it shares, which is to stay stopped";
    assert_eq!(lab.settle(), [why]);
    lab.ledger.holds.clear();
    assert!(lab.settle().is_empty());
    assert!(lab.runs("a-side"));
}

#[test]
fn a_sharer_is_stopped_before_its_owner_though_another_one_of_its_name_is_removed() {
    let mut lab = sharing(|s| s.network_mode = NetworkMode::Container(name("main")));
    lab.settle();
    // It is to move out, and is tried beside the one that lives there.
    let side = lab.spec("a-side");
    side.network_mode = NetworkMode::Bridge;
    side.update.strategy = UpdateStrategy::StartFirst;
    side.healthcheck = check(OnFailure::None);
    let trial = |lab: &Lab| {
        lab.ledger.containers["a-side"]
            .next
            .clone()
            .map(|n| n.accepted.id)
    };
    while trial(&lab).is_none_or(|id| !lab.host.containers.contains_key(&id)) {
        lab.pass();
    }
    // Both at once: another definition, and its owner is to stop.
    lab.spec("a-side").command = Some(vec!["other".to_owned()]);
    let hold = model::ledger::Hold {
        reason: "stopped by hand".to_owned(),
        at: lab.now,
        fingerprint: model::plan::fingerprint(&lab.containers["main"]),
    };
    lab.ledger.holds.insert(name("main"), hold);
    let of = [lab.id("main"), lab.id("a-side")];
    let plan = lab.pass();
    let stops = |id: &ContainerId| {
        let mut actions = plan.actions.iter();
        actions.any(|p| matches!(&p.action, Action::StopContainer { id: of, .. } if of == id))
    };
    assert!(of.iter().all(stops), "{:?}", lines(&plan));
    stops_side_first(&mut lab);
}

#[test]
fn what_is_left_of_a_sharer_goes_once_that_was_stopped_for_its_owner() {
    let mut lab = sharing(|s| s.network_mode = NetworkMode::Container(name("main")));
    lab.settle();
    let mut left = lab.host.containers[&lab.id("a-side")].clone();
    left.seen.id = ContainerId::from_bytes([7; 32]);
    left.seen.phase = Phase::Exited;
    lab.containers.remove("a-side");
    lab.pass();
    // All at once: its time is over, one that it replaced is found, and its owner is to stop.
    lab.host.containers.insert(left.seen.id.clone(), left);
    let hold = model::ledger::Hold {
        reason: "stopped by hand".to_owned(),
        at: lab.now,
        fingerprint: model::plan::fingerprint(&lab.containers["main"]),
    };
    lab.ledger.holds.insert(name("main"), hold);
    let plan = lab.plan();
    let noun = Noun::Container(name("a-side"));
    let own = plan
        .actions
        .iter()
        .enumerate()
        .filter(|(_, p)| p.action.noun() == noun);
    let own: Vec<usize> = own.map(|(index, _)| index).collect();
    assert_eq!(own.len(), 3, "{:?}", lines(&plan));
    for pair in own.windows(2) {
        assert!(
            plan.actions[pair[1]].after.contains(&pair[0]),
            "{:?}",
            plan.actions
        );
    }
    lab.settle();
    assert_eq!(lab.host.containers.len(), 1);
}

#[test]
fn both_replaced_at_once_a_sharer_is_stopped_once() {
    let mut lab = sharing(|s| s.network_mode = NetworkMode::Container(name("main")));
    lab.settle();
    for name in ["a-side", "main"] {
        lab.spec(name).command = Some(vec!["other".to_owned()]);
    }
    stops_side_first(&mut lab);
    assert!(lab.settle().is_empty());
    assert_eq!(starts_of_side(&lab), 2);
    assert_eq!(
        lab.started.last().unwrap().spec.command,
        Some(vec!["other".to_owned()])
    );
}

#[test]
fn what_has_an_error_in_its_table_comes_up_after_a_reboot_as_it_was() {
    let mut lab = Lab::new(&[("web", spec())]);
    assert!(lab.settle().is_empty());
    let id = lab.id("web");
    lab.spec("web")
        .depends_on
        .insert(name("nobody"), dependency(Condition::Started));
    assert!(!lab.desired().errors.is_empty());
    lab.reboot();
    assert!(lab.settle().is_empty(), "its network is made again as well");
    assert!(lab.runs("web") && lab.id("web") == id);
}
