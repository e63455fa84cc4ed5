//! How long a pass takes with so many containers: `cargo bench -p reconciler --bench plan`. Best of several, in
//! milliseconds. Twice as many containers should take about twice as long.

#![allow(
    clippy::unwrap_used,
    reason = "a measurement stops where its world is not as it was made"
)]

#[path = "../tests/lab/mod.rs"]
mod lab;
#[path = "../tests/sim/mod.rs"]
mod sim;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use model::action::Action;
use model::desired::Desired;
use model::firewall::Protocol;
use model::name::ContainerId;
use model::plan::Plan;
use model::spec::{ContainerSpec, NetworkSpec, NetworkUse, PortSpec};
use reconciler::plan::{Input, plan};

use lab::{Lab, name, spec};

const SIZES: [usize; 4] = [250, 500, 1_000, 2_000];
/// A /24 has 253 addresses.
const A_NETWORK: usize = 200;
const TRIES: usize = 5;

fn main() {
    println!("containers  nothing there  all to start  half started  nothing to do   (ms)");
    for size in SIZES {
        let [new, pending, half, idle] = measure(size).map(|took| took.as_secs_f64() * 1_000.0);
        println!("{size:>10}  {new:>13.1}  {pending:>12.1}  {half:>12.1}  {idle:>13.1}");
    }
    println!("one port more for a container with so many   (ms)");
    for size in SIZES {
        println!(
            "{size:>10}  {:>13.1}",
            one_port_more(size).as_secs_f64() * 1_000.0
        );
    }
}

/// A container with so many ports gets another one.
fn one_port_more(size: usize) -> Duration {
    let with = |count: usize| ContainerSpec {
        ports: (0..count).map(port).collect(),
        ..spec()
    };
    let mut lab = Lab::new(&[("c", with(size))]);
    loop {
        let desired = lab.desired();
        let (_, plan) = planned(&mut lab, &desired);
        if plan.actions.is_empty() {
            break;
        }
        carry_out(&mut lab, plan, |_| true);
    }
    lab.containers = Lab::new(&[("c", with(size + 1))]).containers;
    let desired = lab.desired();
    let (took, plan) = best(&mut lab, &desired);
    assert!(!plan.actions.is_empty(), "the port is missing");
    took
}

/// From an empty host to one on which all runs: what planning took at each of four moments.
fn measure(size: usize) -> [Duration; 4] {
    let mut lab = filled(size);
    let desired = lab.desired();
    let (new, first) = best(&mut lab, &desired);
    carry_out(&mut lab, first, |action| {
        !matches!(action, Action::StartContainer { .. })
    });
    // The image came, so ports and names are accepted anew.
    let (_, second) = best(&mut lab, &desired);
    carry_out(&mut lab, second, |action| {
        !matches!(action, Action::StartContainer { .. })
    });
    let (pending, third) = best(&mut lab, &desired);
    let starts = |plan: &Plan| {
        let start = |p: &&model::plan::Planned| matches!(p.action, Action::StartContainer { .. });
        plan.actions.iter().filter(start).count()
    };
    assert_eq!(starts(&third), size, "all are to be started");
    let mut count = 0;
    carry_out(&mut lab, third, |_| {
        count += 1;
        count <= size / 2
    });
    let (half, fourth) = best(&mut lab, &desired);
    carry_out(&mut lab, fourth, |_| true);
    let (_, fifth) = best(&mut lab, &desired);
    carry_out(&mut lab, fifth, |_| true);
    let (idle, last) = best(&mut lab, &desired);
    assert!(last.actions.is_empty(), "all runs");
    [new, pending, half, idle]
}

fn filled(size: usize) -> Lab {
    let named: Vec<(String, ContainerSpec)> = (0..size).map(|n| (format!("c{n}"), container(n))).collect();
    let list: Vec<(&str, ContainerSpec)> = named.iter().map(|(n, s)| (n.as_str(), s.clone())).collect();
    let mut lab = Lab::new(&list);
    let networks = (0..=size / A_NETWORK).map(|n| (name(&format!("n{n}")), NetworkSpec::default()));
    lab.networks = networks.collect();
    lab
}

fn container(number: usize) -> ContainerSpec {
    let mut spec = spec();
    let network = name(&format!("n{}", number / A_NETWORK));
    spec.networks = vec![NetworkUse::new(network)];
    spec.ports = vec![port(number)];
    spec
}

fn port(number: usize) -> PortSpec {
    let host = 10_000 + u16::try_from(number).unwrap();
    PortSpec {
        ip: None,
        host: Some((host, host)),
        container: (80, 80),
        protocol: Protocol::Tcp,
        allow: Vec::new(),
    }
}

fn best(lab: &mut Lab, desired: &Desired) -> (Duration, Plan) {
    let tries = (0..TRIES).map(|_| planned(lab, desired));
    tries.min_by_key(|(took, _)| *took).unwrap()
}

fn planned(lab: &mut Lab, desired: &Desired) -> (Duration, Plan) {
    lab.host.follow(&lab.ledger);
    let observed = lab.host.observe();
    let in_flight = BTreeSet::new();
    let input = Input {
        desired,
        observed: &observed,
        ledger: &lab.ledger,
        in_flight: &in_flight,
        failures: &lab.failures,
        now: lab.now,
    };
    let mut next = 0_u64;
    let mut ids = || {
        next += 1;
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&next.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        ContainerId::from_bytes(bytes)
    };
    let begun = Instant::now();
    let plan = plan(&input, &mut ids);
    (begun.elapsed(), plan)
}

fn carry_out(lab: &mut Lab, plan: Plan, mut wanted: impl FnMut(&Action) -> bool) {
    lab.ledger = plan.ledger;
    for planned in plan.actions {
        if wanted(&planned.action) {
            lab.host.apply(&planned.action, lab.now, false).unwrap();
        }
    }
}
