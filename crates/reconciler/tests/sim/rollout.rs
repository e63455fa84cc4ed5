//! The laws of start-first: who has names and ports, when the new one takes over, and how long the old one stays.

use std::collections::BTreeMap;

use model::action::Action;
use model::health::Verdict;
use model::ledger::{Accepted, ContainerEntry, Ledger, ReplacePhase};
use model::name::{ContainerId, Name};
use model::observed::Phase;
use model::plan::Plan;
use reconciler::plan::Input;

use super::host::{Host, Real};

/// Whether it is tried beside another one.
pub fn is_on_trial(ledger: &Ledger, id: &ContainerId) -> bool {
    let mut entries = ledger.containers.values();
    entries.any(|e| {
        let next = e.next.as_ref().filter(|n| n.phase == ReplacePhase::Trial);
        next.is_some_and(|n| n.accepted.id == *id)
    })
}

/// What holds of every plan.
pub fn plan(input: &Input<'_>, plan: &Plan, host: &Host) -> Result<(), String> {
    for (name, entry) in &plan.ledger.containers {
        if let Some(before) = input.ledger.containers.get(name) {
            takes_over_ready(input, name, before, entry)?;
        }
        for accepted in beside(entry) {
            nobody_is_led_to(plan, name, accepted)?;
        }
    }
    for planned in &plan.actions {
        let (Action::StopContainer { id, name, .. } | Action::RemoveContainer { id, name, .. }) =
            &planned.action
        else {
            continue;
        };
        if let Some(entry) = plan.ledger.containers.get(name) {
            stays_for_now(input, plan, host, name, entry, id)?;
        }
    }
    Ok(())
}

fn beside(entry: &ContainerEntry) -> impl Iterator<Item = &Accepted> {
    let trial = entry.next.as_ref().filter(|n| n.phase.is_beside());
    let draining = entry.draining.as_ref().map(|d| &d.accepted);
    trial.map(|n| &n.accepted).into_iter().chain(draining)
}

/// One on trial takes the place of another one when it runs, and is healthy where that is asked.
fn takes_over_ready(
    input: &Input<'_>,
    name: &Name,
    before: &ContainerEntry,
    after: &ContainerEntry,
) -> Result<(), String> {
    let trial = before.next.as_ref().filter(|n| n.phase == ReplacePhase::Trial);
    let Some(trial) = trial.filter(|n| n.accepted.id == after.current.id) else {
        return Ok(());
    };
    let id = &trial.accepted.id;
    let all = input.observed.containers.known();
    let seen = all.and_then(|all| all.get(id)).and_then(|look| look.known());
    let runs = seen.is_some_and(|c| matches!(c.phase, Phase::Running { .. }));
    let check = model::health::check(&trial.accepted.spec.healthcheck, trial.accepted.image.as_deref());
    let state = input.observed.health.get(id);
    let healthy =
        state.is_some_and(|s| s.verdict == Verdict::Healthy && seen.is_some_and(|c| c.run_no == s.run_no));
    if runs && (check.is_none() || healthy) {
        Ok(())
    } else {
        Err(format!("{id} takes over as {name} and is not ready"))
    }
}

/// Neither a port nor a name leads to one that is on trial or drains.
fn nobody_is_led_to(plan: &Plan, name: &Name, accepted: &Accepted) -> Result<(), String> {
    let places = accepted.attachments.iter();
    let ips: Vec<_> = places
        .flat_map(|a| a.ips().map(move |ip| (&a.network, ip)))
        .collect();
    for planned in &plan.actions {
        let led = match &planned.action {
            Action::ApplyFirewall { state } => state
                .ports
                .iter()
                .any(|r| ips.iter().any(|(_, ip)| *ip == r.target_ip) && r.container == *name),
            Action::ApplyDns { state } => state.containers.get(name).is_some_and(|c| {
                let mut at = c
                    .endpoints
                    .iter()
                    .flat_map(|(n, e)| e.ips.iter().map(move |ip| (n, ip)));
                at.any(|(network, ip)| ips.iter().any(|(n, own)| *n == network && ip == own))
            }),
            _ => false,
        };
        if led {
            return Err(format!("{name} is led to {}, which is beside", accepted.id));
        }
    }
    Ok(())
}

/// The old one runs on while the new one is tried, and one that drains until nobody is led to it any more.
fn stays_for_now(
    input: &Input<'_>,
    plan: &Plan,
    host: &Host,
    name: &Name,
    entry: &ContainerEntry,
    id: &ContainerId,
) -> Result<(), String> {
    let running = host.containers.get(id).is_some_and(Real::running);
    let excused = plan.ledger.holds.contains_key(name) || entry.gone_since.is_some();
    if !running || excused {
        return Ok(());
    }
    let tried = entry.next.as_ref().is_some_and(|n| n.phase.is_beside());
    let damaged = input.observed.damage.contains_key(id);
    if entry.current.id == *id && tried && !entry.current.stale && !damaged {
        return Err(format!("{name} is stopped while another one is only tried"));
    }
    let draining = entry.draining.as_ref().filter(|d| d.accepted.id == *id);
    let Some(draining) = draining else { return Ok(()) };
    let places = &draining.accepted.attachments;
    let led = host
        .firewall
        .iter()
        .flat_map(|f| &f.ports)
        .any(|r| r.container == *name && places.iter().any(|a| a.ips().any(|ip| ip == r.target_ip)));
    let moved = places.iter().any(|a| {
        let network = plan.ledger.networks.get(&a.network);
        network.is_none_or(|n| n.replacing.is_some() || n.network.bridge != a.bridge)
    });
    if led && !draining.accepted.stale && !moved {
        return Err(format!(
            "{name}: the one before is removed while its ports still lead to it"
        ));
    }
    Ok(())
}

/// Two that are of one name live on addresses of their own as well.
pub fn truth(host: &Host) -> Result<(), String> {
    let mut at = BTreeMap::new();
    let live = host.containers.values().filter(|c| c.live());
    for instance in live.filter_map(|c| c.instance.as_ref()) {
        for a in &instance.attachments {
            for ip in a.ips() {
                if let Some(other) = at.insert((&a.bridge, ip), &instance.id) {
                    return Err(format!("{other} and {} live on {ip}", instance.id));
                }
            }
        }
    }
    Ok(())
}

/// When nothing is left to do nobody is beside anybody, and shims work by the policy of the table.
pub fn settled(host: &Host, ledger: &Ledger) -> Result<(), String> {
    for (name, entry) in &ledger.containers {
        if let Some(accepted) = beside(entry).next() {
            return Err(format!("{name}: {} is still beside", accepted.id));
        }
        let real = host.containers.get(&entry.current.id).filter(|r| r.live());
        let instance = real.and_then(|r| r.instance.as_ref());
        if instance.is_some_and(|i| i.spec.restart.policy != entry.current.spec.restart.policy) {
            return Err(format!("the shim of {name} works by another restart policy"));
        }
    }
    match ledger.leases.keys().find(|key| key.ends_with('+')) {
        Some(key) => Err(format!("{key} is still leased")),
        None => Ok(()),
    }
}
