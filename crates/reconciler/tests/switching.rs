//! Replacements cut in the middle, by a hold or by a stop that fails: nobody is started while another one may live on.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where its world is not as it was made"
)]

mod lab;
mod sim;

use jiff::SignedDuration;
use lab::{Lab, lines, name, spec};
use model::action::{Failure, Noun};
use model::firewall::Protocol;
use model::ledger::{Hold, ReplacePhase};
use model::name::ContainerId;
use model::plan::fingerprint;
use model::spec::PortSpec;

/// `web` runs, and its table has changed so that another one takes its place.
fn changed() -> (Lab, ContainerId) {
    let mut lab = Lab::new(&[("web", spec())]);
    assert!(lab.settle().is_empty());
    let old = lab.id("web");
    lab.spec("web").env.insert("WORD".to_owned(), "new".to_owned());
    (lab, old)
}

fn hold(lab: &mut Lab) {
    let hold = Hold {
        reason: "by hand".to_owned(),
        at: lab.now,
        fingerprint: fingerprint(&lab.containers["web"]),
    };
    lab.ledger.holds.insert(name("web"), hold);
}

fn phase(lab: &Lab, of: &str) -> Option<ReplacePhase> {
    lab.ledger.containers[of].next.as_ref().map(|n| n.phase)
}

#[test]
fn a_hold_in_the_middle_of_a_switch_stops_the_old_one_and_starts_nobody() {
    let (mut lab, old) = changed();
    lab.pass();
    // Decided and written down, and nothing of it done.
    lab.ledger = lab.plan().ledger;
    assert_eq!(phase(&lab, "web"), Some(ReplacePhase::Switching));
    hold(&mut lab);
    assert_eq!(
        lines(&lab.plan()),
        ["~ container web: is to stay stopped: by hand"]
    );
    assert_eq!(lab.plan().ledger.containers["web"].current.id, old);
    assert!(lab.settle().is_empty());
    assert_ne!(lab.id("web"), old, "the new one is what is held");
    assert!(!lab.runs("web") && lab.started.len() == 1);
    lab.ledger.holds.clear();
    assert!(lab.settle().is_empty());
    assert!(lab.runs("web"));
}

#[test]
fn a_hold_does_not_wait_for_what_a_replacement_waits_for() {
    let (mut lab, _) = changed();
    lab.spec("web").requires_mounts = vec!["/srv/nfs".into()];
    lab.pass();
    lab.pass();
    assert!(lab.runs("web"), "until the new one can be started");
    hold(&mut lab);
    lab.settle();
    assert!(lab.host.containers.values().all(|c| !c.running()));
}

#[test]
fn nobody_is_started_while_one_that_had_its_name_could_not_be_removed() {
    let mut lab = Lab::new(&[("web", spec())]);
    assert!(lab.settle().is_empty());
    let old = lab.id("web");
    // Another ledger than the one it was begun by: somebody restored a copy.
    lab.ledger.containers.get_mut("web").unwrap().current.id = ContainerId::from_bytes([7; 32]);
    let stuck = Failure {
        message: "its process does not end".to_owned(),
        id: Some(old.clone()),
        count: 9,
        at: lab.now,
        of: String::new(),
    };
    lab.failures.insert(Noun::Container(name("web")), stuck);
    let plan = lab.pass();
    assert_eq!(lines(&plan), ["? container web: its process does not end"]);
    lab.now += SignedDuration::from_hours(1);
    assert!(lab.settle().is_empty());
    assert!(lab.runs("web") && !lab.host.containers.contains_key(&old));
}

fn port(number: u16) -> PortSpec {
    PortSpec {
        ip: None,
        host: Some((number, number)),
        container: (80, 80),
        protocol: Protocol::Tcp,
        allow: Vec::new(),
    }
}

/// `api` is prepared to take port 8080 from `web`, which wanted another one for a while, and is to keep it now.
#[test]
fn of_two_that_change_who_has_a_port_keeps_it() {
    let mut lab = Lab::new(&[("api", spec()), ("web", spec())]);
    lab.spec("web").ports = vec![port(8080)];
    assert!(lab.settle().is_empty());
    let web = lab.spec("web");
    web.ports = vec![port(8081)];
    web.image = sim::image_source(1);
    lab.host.sources.insert(sim::image_source(1).key(), None);
    let api = lab.spec("api");
    api.env.insert("WORD".to_owned(), "new".to_owned());
    api.ports = vec![port(8080)];
    lab.pass();
    lab.pass();
    let waits = "? container api: waits for host port 8080/tcp, which container web still has";
    assert!(lines(&lab.plan()).contains(&waits.to_owned()));

    // The one goes on as last accepted, the other one changes what it can without letting go.
    lab.unread.insert(name("api"));
    let mut web = spec();
    web.ports = vec![port(8080)];
    web.labels.insert("tier".to_owned(), "front".to_owned());
    lab.containers.insert(name("web"), web);
    let plan = lab.pass();
    let waits = "? container api: waits for host port 8080/tcp, which container web has";
    assert!(lines(&plan).contains(&waits.to_owned()), "{:?}", lines(&plan));
    assert_eq!(plan.ledger.containers["web"].current.spec.labels["tier"], "front");
    assert_eq!(phase(&lab, "api"), Some(ReplacePhase::Preparing));
}
