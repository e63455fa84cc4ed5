//! Volumes on servers: mounted before whoever needs them, and again when they are not; waited for while they do not answer.
#![allow(clippy::unwrap_used)]

mod lab;
mod sim;

use lab::{Lab, lines, name, spec};
use model::observed::Reach;
use model::spec::{VolumeDriver, VolumeSource, VolumeSpec, VolumeUse};

fn nfs(device: &str, options: &[&str]) -> VolumeSpec {
    VolumeSpec {
        driver: VolumeDriver::Nfs,
        device: Some(device.into()),
        options: options.iter().map(|&o| o.to_owned()).collect(),
        ..VolumeSpec::default()
    }
}

/// `web` mounts `far`, `other` nothing.
fn with_far() -> Lab {
    let mut web = spec();
    web.volumes = vec![VolumeUse {
        source: VolumeSource::Named(name("far")),
        target: "/data".into(),
        read_only: false,
    }];
    let mut lab = Lab::new(&[("web", web), ("other", spec())]);
    lab.volumes.insert(name("far"), nfs("nas:/srv", &[]));
    lab
}

fn reach(lab: &mut Lab, reach: Reach) {
    lab.host.volumes.get_mut("far").unwrap().reach = reach;
}

#[test]
fn what_is_not_mounted_is_mounted_again_and_nothing_was_lost() {
    let mut lab = with_far();
    lab.settle();
    assert!(lab.runs("web"));
    reach(&mut lab, Reach::Unmounted);
    assert_eq!(lines(&lab.plan()), ["~ volume far: is not mounted"]);
    let restarts = lab.started.len();
    assert!(lab.settle().is_empty());
    assert_eq!(lab.started.len(), restarts, "who runs is left alone");
    assert_eq!(lab.host.volumes["far"].reach, Reach::Here);
}

#[test]
fn nobody_is_started_with_what_is_not_mounted() {
    let mut lab = with_far();
    lab.settle();
    lab.spec("web").env.insert("A".into(), "1".into());
    reach(&mut lab, Reach::Unmounted);
    let plan = lab.plan();
    let said = lines(&plan);
    assert_eq!(said[0], "~ volume far: is not mounted", "{said:?}");
    assert!(
        said.contains(&"? container web: waits for volume far".to_owned()),
        "{said:?}"
    );
    assert!(lab.settle().is_empty());
    assert!(lab.runs("web"));
}

#[test]
fn a_server_that_does_not_answer_holds_up_only_who_is_to_be_started_with_it() {
    let mut lab = with_far();
    lab.settle();
    reach(&mut lab, Reach::Silent("no answer for 5 s".into()));
    let said = lab.settle();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].starts_with("? volume far: is on nas:/srv, which does not answer (no answer for 5 s)"),
        "{said:?}"
    );
    assert!(lab.runs("web") && lab.runs("other"));
    let shown = lab.status();
    assert!(shown.volumes[0].error.is_some() && !shown.converged);

    lab.spec("web").env.insert("A".into(), "1".into());
    lab.spec("other").env.insert("A".into(), "1".into());
    let running = lab.started.len();
    let said = lab.settle();
    assert!(
        said.iter()
            .any(|line| line.starts_with("? container web: waits for volume far, which is on nas:/srv")),
        "{said:?}"
    );
    assert_eq!(lab.started.len(), running + 1, "the other one is replaced");
    assert!(lab.runs("web"), "the old one runs meanwhile");

    reach(&mut lab, Reach::Here);
    assert!(lab.settle().is_empty());
    assert_eq!(lab.started.len(), running + 2);
}

#[test]
fn other_options_are_taken_up_and_another_device_is_not() {
    let mut lab = with_far();
    lab.settle();
    let running = lab.started.len();
    lab.volumes.insert(name("far"), nfs("nas:/srv", &["soft"]));
    let said = lines(&lab.plan());
    assert!(said[0].starts_with("~ volume far: options"), "{said:?}");
    assert!(lab.settle().is_empty());
    assert_eq!(lab.host.volumes["far"].spec.options, ["soft"]);
    assert_eq!(lab.started.len(), running);

    lab.volumes.insert(name("far"), nfs("nas:/other", &["soft"]));
    let said = lab.settle();
    assert!(
        said[0].starts_with("? volume far: is there already with device nas:/srv, and its data is not moved"),
        "{said:?}"
    );
    assert_eq!(
        lab.host.volumes["far"].spec.device.as_deref(),
        Some("nas:/srv".as_ref())
    );
}

#[test]
fn one_that_nobody_declares_any_more_is_mounted_for_whoever_needs_it() {
    let mut lab = with_far();
    lab.settle();
    lab.volumes.clear();
    for _ in 0..4 {
        lab.now += jiff::SignedDuration::from_mins(1);
        lab.settle();
    }
    assert!(lab.ledger.volumes.is_empty());
    reach(&mut lab, Reach::Unmounted);
    assert_eq!(lines(&lab.plan()), ["~ volume far: is not mounted"]);
    assert!(lab.settle().is_empty());
    let there = &lab.host.volumes["far"];
    assert_eq!(
        (there.spec.driver, &there.reach),
        (VolumeDriver::Nfs, &Reach::Here)
    );
}
