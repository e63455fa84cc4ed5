//! `pull = "newer"`: when the registry is asked, and what comes of the answer.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where its world is not as it was made"
)]

mod lab;
mod sim;

use std::time::Duration;

use jiff::SignedDuration;
use lab::{Lab, lines, name, spec};
use model::action::Action;
use model::image::ImageSource;
use model::plan::Plan;
use model::spec::{ContainerSpec, PullPolicy};

const REFERENCE: &str = "registry.example/i2:latest";

fn following() -> ContainerSpec {
    let mut web = spec();
    web.image = ImageSource::Registry {
        reference: REFERENCE.to_owned(),
    };
    web.pull = PullPolicy::Newer;
    web
}

fn asks(plan: &Plan) -> usize {
    let asks = |p: &&model::plan::Planned| matches!(p.action, Action::LoadImage { refresh: true, .. });
    plan.actions.iter().filter(asks).count()
}

/// Passes until nothing but asking again is to be done; how often the registry was asked meanwhile.
fn calm(lab: &mut Lab) -> usize {
    let (mut count, mut quiet) = (0, 0);
    for _ in 0..30 {
        let plan = lab.pass();
        count += asks(&plan);
        let only_asks = plan.waits.is_empty() && plan.actions.len() == asks(&plan);
        quiet = if only_asks { quiet + 1 } else { 0 };
        if plan.is_empty() || quiet == 3 {
            return count;
        }
    }
    panic!("does not settle: {:?}", lines(&lab.plan()));
}

fn version(lab: &mut Lab, version: Option<u8>) {
    lab.host.sources.insert(REFERENCE.to_owned(), version);
}

#[test]
fn it_asks_when_the_container_is_made_and_again_each_update_check() {
    let mut lab = Lab::new(&[("web", following())]);
    assert_eq!(calm(&mut lab), 1);
    assert!(lab.runs("web"));
    let (id, image) = (lab.id("web"), lab.ledger.containers["web"].current.image_id);
    version(&mut lab, Some(2));
    let plan = lab.plan();
    assert!(plan.is_empty(), "{:?}", lines(&plan));
    let due = plan.wake_at.unwrap().duration_since(lab.now);
    let hour = SignedDuration::from_hours(1);
    assert!(
        due > hour - SignedDuration::from_mins(1) && due < hour.saturating_mul(11) / 10,
        "{due}"
    );
    assert!(lab.status().converged);
    // Its time comes: the answer replaces the container, which runs until then.
    lab.now = plan.wake_at.unwrap();
    let plan = lab.pass();
    assert_eq!(
        lines(&plan),
        [format!(
            "~ image {REFERENCE}: container web wants the registry asked every 1h (all.toml:1)"
        )]
    );
    assert!(lab.runs("web") && lab.id("web") == id);
    assert_eq!(calm(&mut lab), 0);
    assert!(lab.runs("web") && lab.id("web") != id);
    assert_ne!(lab.ledger.containers["web"].current.image_id, image);
    // Nothing new the next time: nothing happens.
    let id = lab.id("web");
    lab.now += SignedDuration::from_hours(2);
    assert_eq!(calm(&mut lab), 1);
    assert!(lab.id("web") == id && lab.seen("web").run_no == 1);
}

#[test]
fn a_registry_that_cannot_be_reached_harms_nobody_and_is_tried_again() {
    let mut lab = Lab::new(&[("web", following())]);
    calm(&mut lab);
    let id = lab.id("web");
    version(&mut lab, None);
    lab.now += SignedDuration::from_hours(2);
    assert_eq!(asks(&lab.pass()), 1);
    // Before it is tried again.
    lab.now -= SignedDuration::from_millis(2_500);
    let status = lab.status();
    assert!(status.converged, "{status:#?}");
    assert_eq!(status.containers[0].error, None);
    let said = status.images[0].error.clone().unwrap();
    assert!(said.contains("no such file"), "{said}");
    // A new definition is made from what is here.
    lab.spec("web").command = Some(vec!["other".to_owned()]);
    calm(&mut lab);
    assert!(lab.runs("web") && lab.id("web") != id);
    // It comes back.
    version(&mut lab, Some(2));
    let id = lab.id("web");
    let mut asked = 0;
    for _ in 0..20 {
        let plan = lab.pass();
        asked += asks(&plan);
        lab.now = lab.now.max(plan.wake_at.unwrap_or(lab.now));
    }
    assert!(asked > 0 && lab.id("web") != id && lab.runs("web"));
    assert_eq!(lab.status().images[0].error, None);
}

#[test]
fn one_that_is_made_while_the_registry_is_away_is_made_from_what_is_here() {
    let mut frugal = following();
    frugal.pull = PullPolicy::Missing;
    let mut lab = Lab::new(&[("old", frugal)]);
    lab.settle();
    version(&mut lab, None);
    lab.containers.insert(name("web"), following());
    lab.pass();
    assert!(!lab.runs("web"), "it is asked first");
    calm(&mut lab);
    assert!(lab.runs("web") && lab.runs("old"));
    assert_eq!(lab.shown("web").error, None);
    // With nothing here it waits, with the error.
    let mut lab = Lab::new(&[("web", following())]);
    version(&mut lab, None);
    lab.pass();
    lab.pass();
    assert!(lab.shown("web").error.unwrap().contains("no such file"));
    assert!(!lab.status().converged);
}

#[test]
fn a_digest_is_never_asked_for() {
    let mut pinned = following();
    let reference = format!("registry.example/i2@sha256:{}", "0".repeat(64));
    pinned.image = ImageSource::Registry {
        reference: reference.clone(),
    };
    let mut lab = Lab::new(&[("web", pinned)]);
    lab.host.sources.insert(reference, Some(1));
    assert_eq!(calm(&mut lab), 0);
    assert!(lab.runs("web"));
    assert_eq!(lab.plan().wake_at, None);
    assert!(lab.ledger.checked_at.is_empty());
}

#[test]
fn the_shortest_of_several_counts_and_nobody_asks_for_what_nobody_follows() {
    let mut often = following();
    often.update_check = Duration::from_secs(60);
    let mut lab = Lab::new(&[("often", often), ("seldom", following())]);
    assert_eq!(calm(&mut lab), 1);
    let wake = lab.plan().wake_at.unwrap().duration_since(lab.now);
    assert!(wake < SignedDuration::from_secs(67), "{wake}");
    lab.now += SignedDuration::from_secs(67);
    assert_eq!(calm(&mut lab), 1);
    lab.containers.remove("often");
    lab.spec("seldom").pull = PullPolicy::Missing;
    calm(&mut lab);
    assert_eq!(lab.plan().wake_at, None);
    assert!(lab.ledger.checked_at.is_empty());
    assert_eq!(lab.seen("seldom").run_no, 1);
}

#[test]
fn a_clock_that_was_set_back_asks_early_and_an_old_ledger_at_once() {
    let mut lab = Lab::new(&[("web", following())]);
    calm(&mut lab);
    lab.now -= SignedDuration::from_hours(5);
    assert_eq!(calm(&mut lab), 1);
    lab.ledger.checked_at.clear();
    assert_eq!(calm(&mut lab), 1);
    assert_eq!(lab.seen("web").run_no, 1);
}
