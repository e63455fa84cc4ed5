//! The laws of replicas: whom traffic goes to, how many are away for a change, and what they share.

use std::collections::BTreeMap;

use model::action::Action;
use model::firewall::{FirewallState, PortRule, Protocol};
use model::health::Verdict;
use model::ledger::{Accepted, ContainerEntry, Ledger, ReplacePhase};
use model::name::Name;
use model::observed::Phase;
use model::plan::Plan;
use reconciler::plan::Input;

use super::host::Host;

/// What holds of every plan.
pub fn plan(input: &Input<'_>, plan: &Plan) -> Result<(), String> {
    few_are_away(input, plan)?;
    for planned in &plan.actions {
        if let Action::ApplyFirewall { state } = &planned.action {
            for rules in shared(state) {
                those_that_are_ready(input, &plan.ledger, &rules)?;
            }
        }
    }
    Ok(())
}

/// The service a container is of.
pub fn service<'a>(ledger: &'a Ledger, name: &'a Name) -> &'a Name {
    let place = ledger.containers.get(name).and_then(|e| e.place.as_ref());
    place.map_or(name, |p| &p.service)
}

/// What a name in another table means.
pub fn instances<'a>(input: &Input<'a>, name: &'a Name) -> Vec<&'a Name> {
    let declared = input
        .desired
        .places
        .iter()
        .filter(|(_, place)| place.service == *name);
    let all: Vec<&Name> = declared.map(|(name, _)| name).collect();
    if all.is_empty() { vec![name] } else { all }
}

fn is_away(entry: &ContainerEntry) -> bool {
    let phase = entry.next.as_ref().map(|n| n.phase);
    matches!(phase, Some(ReplacePhase::Switching | ReplacePhase::Reverting))
}

/// A replacement begins when few enough others of its service are in the middle of one.
fn few_are_away(input: &Input<'_>, plan: &Plan) -> Result<(), String> {
    for (name, entry) in plan.ledger.containers.iter().filter(|(_, e)| is_away(e)) {
        let before = input.ledger.containers.get(name).is_some_and(is_away);
        let (Some(place), Some(next), false) = (&entry.place, &entry.next, before) else {
            continue;
        };
        let of_it = |e: &&ContainerEntry| e.place.as_ref().is_some_and(|p| p.service == place.service);
        let wanted = |e: &&ContainerEntry| e.gone_since.is_none();
        let all = plan.ledger.containers.values();
        let away = all.filter(of_it).filter(wanted).filter(|e| is_away(e)).count();
        let most = next.accepted.spec.update.parallelism as usize;
        if away > most {
            return Err(format!(
                "{away} instances of {} are replaced at a time, {most} may be",
                place.service
            ));
        }
    }
    Ok(())
}

fn shared(state: &FirewallState) -> Vec<Vec<&PortRule>> {
    type Key = (Protocol, std::net::IpAddr, u16);
    let mut groups: BTreeMap<Key, Vec<&PortRule>> = BTreeMap::new();
    for rule in state.ports.iter().filter(|r| r.service.is_some()) {
        let key = (rule.protocol, rule.at(), rule.host_port);
        groups.entry(key).or_default().push(rule);
    }
    groups.into_values().collect()
}

/// No traffic to an instance that is not ready while a ready one of its port is there.
fn those_that_are_ready(input: &Input<'_>, ledger: &Ledger, rules: &[&PortRule]) -> Result<(), String> {
    let ready = |rule: &&&PortRule| {
        let entry = ledger.containers.get(&rule.container);
        entry.is_some_and(|e| is_ready(input, in_force(e)))
    };
    let count = rules.iter().filter(ready).count();
    match rules.iter().find(|rule| !ready(rule)) {
        Some(rule) if count > 0 => Err(format!(
            "{} gets a share of port {} and is not ready, which others are",
            rule.container, rule.host_port
        )),
        _ => Ok(()),
    }
}

fn in_force(entry: &ContainerEntry) -> &Accepted {
    match &entry.next {
        Some(next) if next.phase == ReplacePhase::Switching => &next.accepted,
        _ => &entry.current,
    }
}

fn is_ready(input: &Input<'_>, accepted: &Accepted) -> bool {
    let all = input.observed.containers.known();
    let seen = all
        .and_then(|all| all.get(&accepted.id))
        .and_then(|look| look.known());
    let Some(seen) = seen.filter(|c| matches!(c.phase, Phase::Running { .. })) else {
        return false;
    };
    let check = model::health::check(&accepted.spec.healthcheck, accepted.image.as_deref());
    let state = input.observed.health.get(&accepted.id);
    let healthy = state.is_some_and(|s| s.verdict == Verdict::Healthy && s.run_no == seen.run_no);
    check.is_none() || healthy
}

/// Every host port of a service leads to somebody.
pub fn settled(host: &Host, ledger: &Ledger) -> Result<(), String> {
    for entry in ledger.containers.values() {
        for rule in entry.current.ports.iter().filter(|r| r.service.is_some()) {
            let key = |r: &PortRule| (r.protocol, r.at(), r.host_port);
            let mut there = host.firewall.iter().flat_map(|f| &f.ports);
            if !there.any(|r| key(r) == key(rule) && r.holder() == rule.holder()) {
                return Err(format!(
                    "port {} of {} leads nowhere",
                    rule.host_port,
                    rule.holder()
                ));
            }
        }
    }
    Ok(())
}
