//! Schedules, mounts, the network, and restarts with what is depended on: each rule with the smallest host that shows it.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where its world is not as it was made"
)]

mod lab;
mod sim;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use lab::{Lab, lines, name, spec};
use model::action::Action;
use model::ledger::Hold;
use model::observed::{Look, Phase};
use model::plan::fingerprint;
use model::spec::*;
use model::status::State;

/// A job at every full minute; the lab's clock stands at 13:46:40.
fn minutely() -> ContainerSpec {
    let mut job = spec();
    job.schedule = Some("minutely".parse().unwrap());
    job.restart.policy = RestartPolicy::No;
    job
}

/// A lab in which it is made, and waits.
fn waiting(job: ContainerSpec) -> Lab {
    let mut lab = Lab::new(&[("job", job)]);
    lab.host.around.here_since = lab.now;
    passes(&mut lab, 5);
    assert!(lab.started.is_empty());
    lab
}

fn passes(lab: &mut Lab, count: usize) {
    for _ in 0..count {
        lab.pass();
    }
}

fn at(text: &str) -> Timestamp {
    format!("1970-01-12T{text}Z").parse().unwrap()
}

fn later(lab: &mut Lab, seconds: i64) {
    lab.now += SignedDuration::from_secs(seconds);
}

fn runs(lab: &Lab) -> usize {
    lab.shown("job").last_runs.len()
}

#[test]
fn it_is_prepared_waits_without_holding_anything_up_and_is_started_when_due() {
    let mut lab = waiting(minutely());
    let plan = lab.plan();
    assert!(plan.is_empty(), "{:?}", lines(&plan));
    assert_eq!(plan.wake_at, Some(at("13:47:00")));
    assert_eq!(lab.seen("job").phase, Phase::Prepared);
    let shown = lab.shown("job");
    assert_eq!(
        (shown.state, shown.next_run),
        (State::Exited, Some(at("13:47:00")))
    );
    assert!(lab.status().converged);

    lab.now = at("13:47:00");
    lab.pass();
    assert_eq!(lab.started.len(), 1);
    assert!(lab.runs("job"));
    // What comes due meanwhile is skipped.
    later(&mut lab, 150);
    passes(&mut lab, 2);
    assert_eq!(lab.started.len(), 1);
    lab.ends("job", 0, Phase::Exited);
    let ended = lab.now;
    passes(&mut lab, 2);
    let shown = lab.shown("job");
    assert_eq!((lab.started.len(), runs(&lab)), (1, 1));
    assert_eq!(shown.last_runs[0].finished_at, ended);
    assert_eq!(shown.last_runs[0].duration, "2m39s");
    assert_eq!(shown.next_run, Some(at("13:50:00")));
    lab.now = at("13:50:00");
    lab.pass();
    assert_eq!(lab.started.len(), 2);
    assert_eq!(
        lab.started[0].id, lab.started[1].id,
        "every run is one of the same"
    );
}

#[test]
fn a_clock_that_goes_back_and_forth_repeats_no_run() {
    let mut job = minutely();
    job.schedule = Some("*:47".parse().unwrap());
    let mut lab = waiting(job);
    lab.now = at("13:47:00");
    lab.pass();
    lab.now = at("12:50:00");
    lab.pass();
    lab.ends("job", 0, Phase::Exited);
    lab.now = at("13:50:00");
    passes(&mut lab, 3);
    assert_eq!((lab.started.len(), runs(&lab)), (1, 1));
    assert_eq!(lab.shown("job").next_run, Some(at("14:47:00")));
}

#[test]
fn one_whose_start_was_cut_off_is_not_taken_for_a_run() {
    let mut lab = Lab::new(&[("job", spec())]);
    let start = loop {
        let plan = lab.plan();
        let begins = |a: &Action| matches!(a, Action::StartContainer { .. });
        let mut due = plan.actions.iter().filter(|p| p.after.is_empty());
        if let Some(start) = due.find(|p| begins(&p.action)) {
            break start.action.clone();
        }
        lab.pass();
    };
    lab.host.apply(&start, lab.now, true).unwrap_err();
    assert_eq!(lab.seen("job").phase, Phase::Created);
    lab.containers.insert(name("job"), minutely());
    lab.now = at("13:48:00");
    passes(&mut lab, 21);
    assert!(lab.runs("job"));
}

#[test]
fn one_that_failed_is_failed_until_one_ends_well() {
    let mut lab = waiting(minutely());
    for (time, code, state) in [("13:47:00", 3, State::Failed), ("13:48:00", 0, State::Exited)] {
        lab.now = at(time);
        lab.pass();
        lab.ends("job", code, Phase::Exited);
        lab.pass();
        assert_eq!(lab.shown("job").state, state);
    }
    let codes: Vec<i32> = lab.shown("job").last_runs.iter().map(|r| r.exit_code).collect();
    assert_eq!(codes, [0, 3]);
}

#[test]
fn ten_runs_are_remembered() {
    let mut lab = waiting(minutely());
    for minute in 0..13 {
        lab.now = at("13:47:00") + SignedDuration::from_secs(60 * minute);
        lab.pass();
        lab.ends("job", 0, Phase::Exited);
        passes(&mut lab, 2);
    }
    assert_eq!((lab.started.len(), runs(&lab)), (13, 10));
}

#[test]
fn a_run_that_was_cut_off_is_begun_again_and_one_that_ended_is_not() {
    let mut lab = waiting(minutely());
    lab.now = at("13:47:00");
    lab.pass();
    lab.reboot();
    passes(&mut lab, 4);
    assert_eq!(lab.started.len(), 2, "cut off");
    lab.ends("job", 1, Phase::Exited);
    lab.reboot();
    passes(&mut lab, 4);
    assert_eq!((lab.started.len(), runs(&lab)), (2, 1), "ended");
}

#[test]
fn runs_missed_while_nobody_was_there_are_made_up_for_once_or_not_at_all() {
    for (persistent, made_up) in [(true, 1), (false, 0)] {
        let mut job = minutely();
        job.persistent = persistent;
        let mut lab = waiting(job);
        later(&mut lab, 36_000);
        lab.host.around.here_since = lab.now;
        passes(&mut lab, 2);
        assert_eq!(lab.started.len(), made_up, "persistent = {persistent}");
        if persistent {
            lab.ends("job", 0, Phase::Exited);
            lab.pass();
        }
        // The next one comes when it is due.
        let next = lab.shown("job").next_run.unwrap();
        assert!(next.duration_since(lab.now).as_secs() <= 60, "{next}");
        lab.now = next;
        lab.pass();
        assert_eq!(lab.started.len(), made_up + 1);
    }
}

#[test]
fn a_run_that_comes_due_while_the_agent_is_only_late_is_not_missed() {
    let mut job = minutely();
    job.persistent = false;
    let mut lab = waiting(job);
    lab.now = at("13:47:20");
    lab.pass();
    assert_eq!(lab.started.len(), 1);
}

#[test]
fn another_schedule_is_counted_from_its_change() {
    let mut lab = waiting(minutely());
    lab.now = at("13:47:00");
    lab.spec("job").schedule = Some("hourly".parse().unwrap());
    passes(&mut lab, 2);
    assert!(lab.started.is_empty());
    assert_eq!(lab.shown("job").next_run, Some(at("14:00:00")));
    // The same one in other words is no other one.
    let before = lab.ledger.timetables.clone();
    lab.spec("job").schedule = Some("*:00".parse().unwrap());
    passes(&mut lab, 2);
    assert_eq!(lab.ledger.timetables, before);
}

#[test]
fn a_clock_that_is_set_back_does_not_stop_it() {
    let mut lab = waiting(minutely());
    lab.now = at("20:00:00");
    lab.pass();
    lab.ends("job", 0, Phase::Exited);
    lab.pass();
    lab.now = at("13:48:30");
    lab.pass();
    assert_eq!(lab.shown("job").next_run, Some(at("13:49:00")));
    lab.now = at("13:49:00");
    lab.pass();
    assert_eq!(lab.started.len(), 2);
}

#[test]
fn the_delay_is_drawn_once_for_each_time_and_stays_within_its_bounds() {
    let mut job = minutely();
    job.randomized_delay = Duration::from_secs(30);
    let mut delays = BTreeSet::new();
    for hour in 0..20 {
        let mut lab = Lab::new(&[("job", job.clone())]);
        lab.now = at("01:00:30") + SignedDuration::from_hours(hour);
        passes(&mut lab, 5);
        let full = at("01:01:00") + SignedDuration::from_hours(hour);
        let due = lab.shown("job").next_run.unwrap();
        let delay = due.duration_since(full);
        assert!((0..=30_000).contains(&delay.as_millis()), "{delay}");
        assert_eq!(
            lab.shown("job").next_run,
            Some(due),
            "asked again, it is the same"
        );
        delays.insert(delay);
        lab.now = due - SignedDuration::from_millis(1);
        lab.pass();
        assert!(lab.started.is_empty());
        lab.now = due;
        lab.pass();
        assert_eq!(lab.started.len(), 1);
    }
    assert!(delays.len() > 10, "{delays:?}");
}

#[test]
fn what_is_held_is_not_run_and_nothing_is_owed_afterwards() {
    let mut lab = waiting(minutely());
    let hold = Hold {
        reason: "by hand".to_owned(),
        at: lab.now,
        fingerprint: fingerprint(lab.spec("job")),
    };
    lab.ledger.holds.insert(name("job"), hold);
    lab.now = at("13:50:10");
    passes(&mut lab, 2);
    assert_eq!(lab.shown("job").state, State::Stopped);
    assert_eq!(lab.shown("job").next_run, None);
    lab.ledger.holds.clear();
    passes(&mut lab, 2);
    assert!(lab.started.is_empty());
    lab.now = at("13:51:00");
    lab.pass();
    assert_eq!(lab.started.len(), 1);
}

#[test]
fn a_new_definition_waits_for_its_time_and_takes_the_place_of_a_run() {
    let mut lab = waiting(minutely());
    lab.spec("job").command = Some(vec!["other".to_owned()]);
    let before = lab.id("job");
    passes(&mut lab, 1);
    assert!(lab.started.is_empty() && lab.id("job") != before);
    lab.now = at("13:47:00");
    lab.pass();
    lab.spec("job").command = Some(vec!["another".to_owned()]);
    passes(&mut lab, 6);
    assert_eq!(lab.started.len(), 2);
    assert_eq!(lab.started[1].spec.command, Some(vec!["another".to_owned()]));
}

#[test]
fn what_it_depends_on_is_waited_for_at_each_run() {
    let mut job = minutely();
    job.requires_mounts = vec!["/srv/nfs".into()];
    let mut lab = waiting(job);
    lab.now = at("13:47:00");
    lab.pass();
    assert!(lab.started.is_empty());
    assert_eq!(lab.shown("job").state, State::Pending);
    assert!(lab.shown("job").error.unwrap().contains("/srv/nfs"));
    later(&mut lab, 300);
    lab.host.around.mounts = Look::Known(BTreeSet::from(["/srv/nfs".into()]));
    passes(&mut lab, 3);
    assert_eq!(lab.started.len(), 1, "what came due meanwhile was skipped");
}

#[test]
fn a_schedule_taken_away_leaves_a_job_that_runs_once() {
    let mut lab = waiting(minutely());
    lab.spec("job").schedule = None;
    passes(&mut lab, 3);
    assert_eq!(lab.started.len(), 1);
    assert!(lab.ledger.timetables.is_empty());
}

#[test]
fn a_zone_nobody_knows_is_an_error_of_that_container() {
    let mut job = minutely();
    job.schedule = Some("daily Atlantis/Capital".parse().unwrap());
    let mut lab = Lab::new(&[("job", job)]);
    passes(&mut lab, 4);
    let shown = lab.shown("job");
    assert_eq!((shown.state, shown.next_run), (State::Failed, None));
    assert!(shown.error.unwrap().contains("Atlantis/Capital"));
}

#[test]
fn mounts_and_the_network_are_asked_for_at_a_start_only() {
    let mut web = spec();
    web.requires_mounts = vec!["/srv/nfs".into()];
    web.after_network_online = true;
    let mut lab = Lab::new(&[("web", web)]);
    assert_eq!(
        lab.settle(),
        ["? container web: waits for /srv/nfs to be a mount point"]
    );
    lab.host.around.mounts = Look::Unknown("no /proc".to_owned());
    let unseen = "? container web: cannot see whether /srv/nfs is a mount point: no /proc";
    assert_eq!(lab.settle(), [unseen]);
    lab.host.around.mounts = Look::Known(BTreeSet::from(["/srv/nfs".into()]));
    assert!(lab.settle()[0].contains("to be online"));
    lab.host.around.online = Look::Known(true);
    assert!(lab.settle().is_empty());
    assert!(lab.runs("web"));
    lab.host.around = Default::default();
    assert!(lab.settle().is_empty());
    // A new one would be started without them: the old one stays meanwhile.
    lab.spec("web").command = Some(vec!["other".to_owned()]);
    let waits = lab.settle();
    assert!(
        waits.iter().any(|w| w.starts_with("? container web")),
        "{waits:?}"
    );
    assert!(lab.runs("web"));
}

#[test]
fn it_is_restarted_once_what_it_depends_on_was_replaced_and_is_well() {
    let mut db = spec();
    db.healthcheck = lab::check(OnFailure::None);
    let (mut web, mut other) = (spec(), spec());
    let healthy = |restart| Dependency {
        condition: Condition::Healthy,
        restart,
    };
    web.depends_on.insert(name("db"), healthy(true));
    other.depends_on.insert(name("db"), healthy(false));
    let mut lab = Lab::new(&[("db", db), ("other", other), ("web", web)]);
    let well = |lab: &mut Lab| {
        passes(lab, 4);
        lab.found("db", model::health::Verdict::Healthy, "");
        assert!(lab.settle().is_empty());
    };
    well(&mut lab);
    let runs = |lab: &Lab| (lab.seen("web").run_no, lab.seen("other").run_no);
    assert_eq!(runs(&lab), (1, 1));
    lab.spec("db").command = Some(vec!["other".to_owned()]);
    passes(&mut lab, 6);
    assert_eq!(runs(&lab), (1, 1), "until it is healthy they run on");
    well(&mut lab);
    assert_eq!(runs(&lab), (2, 1));
    // What is asked for while it runs counts from then on.
    lab.spec("other").depends_on.insert(name("db"), healthy(true));
    assert!(lab.settle().is_empty());
    assert_eq!(runs(&lab), (2, 1));
    lab.spec("db").command = Some(vec!["third".to_owned()]);
    passes(&mut lab, 4);
    well(&mut lab);
    assert_eq!(runs(&lab), (3, 2));
}

#[test]
fn a_start_that_was_cut_off_and_is_owed_no_more_is_taken_back() {
    let mut lab = waiting(minutely());
    let instance = lab.host.containers[&lab.id("job")].instance.clone().unwrap();
    let start = Action::StartContainer {
        instance: Box::new(instance),
    };
    assert!(lab.host.apply(&start, lab.now, true).is_err());
    assert_eq!(lab.seen("job").phase, Phase::Created);
    let plan = lab.pass();
    let why = "~ container job: its start was cut off, and no run of it is due now";
    assert_eq!(lines(&plan), [why]);
    assert!(lab.plan().is_empty());
    lab.now = at("13:47:00");
    lab.pass();
    assert!(lab.runs("job"));
}
