//! What was taken of containers and volumes behind the agent's back: each rule with the smallest host that shows it.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where its world is not as it was made"
)]

mod lab;
mod sim;

use lab::{Lab, lines, name, spec};
use model::action::Action;
use model::damage::Mend;
use model::spec::{VolumeSource, VolumeUse};
use model::status::State;

fn with_web() -> Lab {
    let mut lab = Lab::new(&[("web", spec())]);
    assert!(lab.settle().is_empty());
    lab
}

fn with_volume() -> Lab {
    let mut db = spec();
    db.volumes = vec![VolumeUse {
        source: VolumeSource::Named(name("data")),
        target: "/data".to_owned(),
        read_only: false,
    }];
    let mut lab = Lab::new(&[("db", db), ("web", spec())]);
    assert!(lab.settle().is_empty());
    lab
}

#[test]
fn what_can_be_is_mended_in_place() {
    let mut lab = with_web();
    let (id, before) = (lab.id("web"), lab.seen("web").clone());
    lab.host.damage(&id, Mend::InPlace);
    let plan = lab.plan();
    assert_eq!(lines(&plan), ["~ container web: its bundle is gone"]);
    assert!(matches!(plan.actions[0].action, Action::MendContainer { .. }));
    assert!(lab.settle().is_empty());
    assert_eq!(*lab.seen("web"), before);
}

#[test]
fn what_its_processes_stand_on_costs_a_restart() {
    let mut lab = with_web();
    let (id, before) = (lab.id("web"), lab.seen("web").clone());
    lab.host.damage(&id, Mend::Restart);
    let plan = lab.plan();
    assert_eq!(lines(&plan), ["~ container web: its writable layer is gone"]);
    assert!(matches!(plan.actions[0].action, Action::StopContainer { .. }));
    assert!(lab.settle().is_empty());
    let after = lab.seen("web");
    assert_eq!((&after.id, after.run_no), (&before.id, before.run_no + 1));
}

#[test]
fn a_removed_volume_is_made_again_and_said_to_be_lost_until_its_users_are_restarted() {
    let mut lab = with_volume();
    let run = lab.seen("db").run_no;
    lab.host.volumes.remove("data");
    let plan = lab.plan();
    assert!(
        lines(&plan)[0].contains("its directory was removed, and its data with it"),
        "{:?}",
        lines(&plan)
    );
    let told = lab.settle();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(lab.host.volumes.contains_key("data"));
    assert_eq!(lab.seen("db").run_no, run, "it is left running");
    let shown = lab.shown("db");
    assert_eq!(shown.state, State::Running);
    assert!(shown.error.unwrap().contains("wharf restart db"));
    assert_eq!(lab.shown("web").error, None);
    let volume = lab.status().volumes.remove(0);
    assert!(volume.error.unwrap().contains("its data is gone"));
    // Restarted, it sees the new one.
    lab.ends("db", 1, model::observed::Phase::Lost);
    assert!(lab.settle().is_empty());
    assert_eq!(lab.shown("db").error, None);
    assert!(lab.status().converged);
}

#[test]
fn a_volume_removed_by_hand_when_nothing_wants_it_is_not_lost() {
    let mut lab = with_volume();
    lab.containers.remove("db");
    lab.now += jiff::SignedDuration::from_secs(60);
    assert!(lab.settle().is_empty());
    lab.host.volumes.remove("data");
    assert!(lab.settle().is_empty());
    let again = with_volume().containers["db"].clone();
    lab.containers.insert(name("db"), again);
    assert!(lab.settle().is_empty(), "it is a new one");
}
