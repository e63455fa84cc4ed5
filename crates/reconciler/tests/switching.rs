//! Replacements cut in the middle, by a hold or by a stop that fails: nobody is started while another one may live on.
//! And containers that begin again because their network changed: each by itself, and none for nothing.

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
use model::observed::{ForeignAddress6, Phase};
use model::plan::fingerprint;
use model::spec::{ContainerSpec, NetworkMode, NetworkSpec, NetworkUse, PortSpec};

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

/// Its table was moved to a file that is gone by now, while the one it came from cannot be read.
#[test]
fn what_takes_the_place_of_another_one_is_of_its_own_file() {
    let (mut lab, old) = changed();
    lab.pass();
    let entry = lab.ledger.containers.get_mut("web").unwrap();
    entry.current.origin.file = "old.toml".to_owned();
    lab.broken.insert("old.toml".to_owned());
    lab.containers.remove("web");
    lab.ends("web", 137, Phase::Lost);
    let plan = lab.plan();
    let entry = &plan.ledger.containers["web"];
    assert!(entry.current.id != old && entry.gone_since.is_some());
}

/// `web` is to live with `app`, which is to have the port that `web` had, once `other` has let go of another one.
#[test]
fn one_that_was_stopped_does_not_keep_what_the_next_one_waits_for() {
    let mut lab = Lab::new(&[("other", spec()), ("web", spec())]);
    let subnet = |text: &str| NetworkSpec {
        subnet: Some(text.parse().unwrap()),
        ..NetworkSpec::default()
    };
    lab.networks.insert(name("n"), subnet("10.80.0.0/24"));
    lab.spec("other").ports = vec![port(8081)];
    lab.spec("web").ports = vec![port(8080)];
    lab.spec("web").networks = vec![NetworkUse::new(name("n"))];
    assert!(lab.settle().is_empty());
    // It has to leave its network at once.
    lab.networks.insert(name("n"), subnet("10.80.1.0/24"));
    let mut web = spec();
    web.network_mode = NetworkMode::Container(name("app"));
    lab.containers.insert(name("web"), web);
    let mut app = spec();
    app.ports = vec![port(8080), port(8081)];
    lab.containers.insert(name("app"), app);
    lab.containers.remove("other");
    assert_eq!(lab.settle(), [""; 0]);
    assert!(lab.runs("web") && lab.runs("app"));
}

/// `app` took the port of `web`, which was to have another one and went back to what it was.
#[test]
fn a_port_that_was_given_up_stays_with_its_taker_when_a_network_changes() {
    let mut lab = Lab::new(&[("web", spec())]);
    let subnet = |text: &str| NetworkSpec {
        subnet: Some(text.parse().unwrap()),
        ..NetworkSpec::default()
    };
    lab.networks.insert(name("n"), subnet("10.80.0.0/24"));
    lab.spec("web").networks = vec![NetworkUse::new(name("n"))];
    lab.spec("web").ports = vec![port(8080)];
    assert!(lab.settle().is_empty());
    lab.spec("web").ports = vec![port(8081)];
    lab.spec("web").command = Some(vec!["bad".to_owned()]);
    lab.pass();
    let mut app = spec();
    app.ports = vec![port(8080)];
    lab.containers.insert(name("app"), app);
    let published = |lab: &Lab| -> Vec<String> {
        let state = lab.host.firewall.as_ref().unwrap();
        state.ports.iter().map(|p| p.container.to_string()).collect()
    };
    lab.settle();
    assert_eq!(published(&lab), ["app"]);
    lab.networks.insert(name("n"), subnet("10.80.1.0/24"));
    lab.settle();
    assert!(lab.runs("web") && lab.ledger.containers["web"].rejected.is_some());
    assert_eq!(published(&lab), ["app"]);
}

fn dual(subnet6: Option<&str>) -> NetworkSpec {
    NetworkSpec {
        subnet: Some("10.80.0.0/24".parse().unwrap()),
        subnet6: subnet6.map(|net| net.parse().unwrap()),
        ipv6: subnet6.is_some(),
        ..NetworkSpec::default()
    }
}

/// Containers that run on a network of IPv4.
fn on_one_network(containers: &[(&str, ContainerSpec)]) -> Lab {
    let mut lab = Lab::new(containers);
    lab.networks.insert(name("n"), dual(None));
    for (of, _) in containers {
        lab.spec(of).networks = vec![NetworkUse::new(name("n"))];
    }
    assert_eq!(lab.settle(), [""; 0]);
    lab
}

/// `slow` is not stopped yet: the last try failed just now.
#[test]
fn a_network_that_gets_ipv6_has_each_container_begin_again_as_soon_as_that_one_has_stopped() {
    let mut lab = on_one_network(&[("slow", spec()), ("web", spec())]);
    let runs = |lab: &Lab, of: &str| lab.runs(of).then(|| lab.seen(of).run_no);
    let (slow, web) = (runs(&lab, "slow"), runs(&lab, "web"));
    let stuck = Failure {
        message: "its process does not end".to_owned(),
        id: Some(lab.id("slow")),
        count: 9,
        at: lab.now,
        of: String::new(),
    };
    lab.failures.insert(Noun::Container(name("slow")), stuck);
    lab.networks.insert(name("n"), dual(Some("fd00:80::/64")));
    lab.pass();
    assert_eq!(runs(&lab, "web"), None);
    lab.pass();
    assert_eq!(runs(&lab, "web"), web.map(|run| run + 1));
    assert_eq!(runs(&lab, "slow"), slow);
    lab.now += SignedDuration::from_hours(1);
    assert_eq!(lab.settle(), [""; 0]);
    assert_eq!(runs(&lab, "slow"), slow.map(|run| run + 1));
    assert!(lab.ledger.accepted().all(|(_, a)| a.left.is_empty()));
}

/// What a stale one lives on is its own until it has stopped: `box` is to have the address that `web` had.
#[test]
fn an_address_that_is_not_left_yet_is_nobody_elses() {
    let mut lab = on_one_network(&[("web", spec())]);
    lab.networks.insert(name("n"), dual(Some("fd00:80::/64")));
    assert_eq!(lab.settle(), [""; 0]);
    let stuck = Failure {
        message: "its process does not end".to_owned(),
        id: Some(lab.id("web")),
        count: 9,
        at: lab.now,
        of: String::new(),
    };
    lab.failures.insert(Noun::Container(name("web")), stuck);
    let network = lab.networks.get_mut("n").unwrap();
    network.subnet6 = Some("fd00:80::/112".parse().unwrap());
    network.range6 = Some("fd00:80::8/125".parse().unwrap());
    lab.pass();
    assert_eq!(
        lab.ledger.containers["web"].current.left,
        [(name("n"), "fd00:80::2".parse().unwrap())]
    );
    let mut box_ = spec();
    let at = NetworkUse {
        ip6: Some("fd00:80::2".parse().unwrap()),
        ..NetworkUse::new(name("n"))
    };
    box_.networks = vec![at];
    lab.containers.insert(name("box"), box_);
    lab.pass();
    let waits = "? container box: waits for address fd00:80::2 in network n, which container web still has"
        .to_owned();
    let said = lines(&lab.pass());
    assert!(said.contains(&waits), "{said:?}");
    lab.now += SignedDuration::from_hours(1);
    assert_eq!(lab.settle(), [""; 0]);
    assert!(lab.runs("box") && lab.runs("web"));
}

#[test]
fn nobody_is_stopped_for_what_a_network_cannot_become() {
    let mut lab = on_one_network(&[("web", spec())]);
    let begun = lab.seen("web").run_no;
    let foreign = lab.host.foreign6.len();
    lab.host.foreign6.push(ForeignAddress6 {
        device: "eth1".to_owned(),
        address: "fd00:80::99/64".parse().unwrap(),
    });
    lab.networks.insert(name("n"), dual(Some("fd00:80::/64")));
    for _ in 0..4 {
        lab.pass();
        assert!(lab.runs("web") && lab.seen("web").run_no == begun);
    }
    lab.host.foreign6.truncate(foreign);
    assert_eq!(lab.settle(), [""; 0]);
    assert!(lab.runs("web") && lab.seen("web").run_no == begun + 1);
}

#[test]
fn instances_of_a_service_take_turns_in_leaving_a_place_that_leads_on() {
    let mut web = spec();
    web.replicas = 3;
    let mut lab = on_one_network(&[("web", web)]);
    let all = ["web", "web-2", "web-3"];
    let up = |lab: &Lab| all.iter().filter(|of| lab.runs(of)).count();
    let begun: Vec<u64> = all.iter().map(|of| lab.seen(of).run_no).collect();
    for subnet6 in [Some("fd00:80::/64"), Some("fd00:81::/64"), None] {
        lab.networks.insert(name("n"), dual(subnet6));
        for _ in 0..12 {
            lab.pass();
            assert!(up(&lab) >= 2, "{:?}", lines(&lab.plan()));
        }
        assert_eq!(lab.settle(), [""; 0]);
    }
    let runs: Vec<u64> = all.iter().map(|of| lab.seen(of).run_no - 3).collect();
    assert_eq!(runs, begun);
}
