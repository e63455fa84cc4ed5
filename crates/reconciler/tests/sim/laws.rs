//! The laws of order, health, volumes, names and shared namespaces.

use std::collections::{BTreeMap, BTreeSet};

use model::action::{Action, Instance, Noun};
use model::desired::Desired;
use model::health::Verdict;
use model::ledger::{Accepted, ContainerEntry, Ledger, ReplacePhase, follows_registry};
use model::links::relied_on;
use model::name::Name;
use model::observed::{Phase, Reach};
use model::plan::{Op, Plan};
use model::spec::{Condition, ContainerSpec, NamespaceMode, NetworkMode, VolumeSource};
use reconciler::plan::Input;

use super::host::{Host, Joined, Real};

/// What holds of every plan.
pub fn plan(
    input: &Input<'_>,
    plan: &Plan,
    host: &Host,
    volumes_gone: &BTreeSet<Name>,
) -> Result<(), String> {
    for (index, planned) in plan.actions.iter().enumerate() {
        match &planned.action {
            Action::StartContainer { instance } => {
                starts_with_all_it_needs(input, plan, instance)?;
                starts_with_its_names(input, plan, index, instance)?;
                if planned.op != Op::Replace {
                    starts_after_others(input, plan, instance)?;
                }
            }
            Action::StopContainer { id, .. } => sharers_first(input, plan, index, id)?,
            // One that was replaced already has nobody who relies on it.
            Action::RemoveContainer { name, id, .. } if plan.ledger.accepted().any(|(_, a)| a.id == *id) => {
                removed_last(plan, index, name, host)?;
            }
            Action::DeliverContents { instance, then, .. } => {
                super::contents::ends_no_run_for_nothing(host, &plan.ledger, instance, then)?;
            }
            Action::RemoveVolume { name } => removes_what_it_may(input, name, host, volumes_gone)?,
            Action::RestartUnhealthy { id, run_no, .. } => {
                let state = input.observed.health.get(id);
                if state.is_none_or(|s| s.run_no != *run_no || s.verdict != Verdict::Unhealthy) {
                    return Err(format!("{id} is restarted though run {run_no} is not unhealthy"));
                }
            }
            _ => {}
        }
    }
    asks_for_newer_ones(input, plan)?;
    super::schedule::plan(input, plan, host)?;
    remembers_health(input, plan)
}

/// Who follows a registry has it asked in time; the time since the last answer is never much longer than asked for.
fn asks_for_newer_ones(input: &Input<'_>, plan: &Plan) -> Result<(), String> {
    for (name, accepted) in plan.ledger.accepted().filter(|(_, a)| follows_registry(&a.spec)) {
        let key = accepted.spec.image.key();
        let noun = Noun::Image(key.clone());
        let asked = plan.ledger.checked_at.get(&key);
        let late = asked.is_none_or(|at| {
            let since = input.now.duration_since(*at);
            since.is_negative() || since.unsigned_abs() > accepted.spec.update_check.mul_f64(1.11)
        });
        let excused = plan.ledger.containers[name].gone_since.is_some()
            || plan.ledger.holds.contains_key(name)
            || input.in_flight.contains(&noun)
            || input.failures.contains_key(&noun)
            || input
                .observed
                .images
                .known()
                .is_none_or(|all| !all.contains_key(&key));
        let asks = plan.actions.iter().any(|p| p.action.noun() == noun);
        if late && !excused && !asks {
            return Err(format!("nobody asks for a newer image of container {name}"));
        }
    }
    Ok(())
}

/// Who is seen to live in namespaces of this one is stopped before it.
fn sharers_first(
    input: &Input<'_>,
    plan: &Plan,
    index: usize,
    owner: &model::name::ContainerId,
) -> Result<(), String> {
    let before = reaches(plan, index);
    let seen = |id| input.observed.containers.known()?.get(id)?.known();
    for (name, accepted) in plan.ledger.accepted() {
        let joins = [&accepted.joins.net, &accepted.joins.pid, &accepted.joins.ipc];
        let lives = seen(&accepted.id)
            .is_some_and(|c| !matches!(c.phase, Phase::Prepared | Phase::Exited | Phase::Lost));
        let stopped = |i: &usize| match &plan.actions[*i].action {
            Action::StopContainer { id, .. } | Action::RemoveContainer { id, .. } => *id == accepted.id,
            _ => false,
        };
        if lives && joins.into_iter().flatten().any(|id| id == owner) && !before.iter().any(stopped) {
            return Err(format!("{owner} is stopped while {name} lives in its namespaces"));
        }
    }
    Ok(())
}

fn mounted(spec: &ContainerSpec) -> impl Iterator<Item = &Name> {
    spec.volumes.iter().filter_map(|v| match &v.source {
        VolumeSource::Named(name) => Some(name),
        _ => None,
    })
}

/// The accepted container that is there or on its way, as others see it.
fn in_force(entry: &ContainerEntry) -> &Accepted {
    match &entry.next {
        Some(next) if next.phase == ReplacePhase::Switching => &next.accepted,
        _ => &entry.current,
    }
}

fn starts_with_all_it_needs(input: &Input<'_>, plan: &Plan, instance: &Instance) -> Result<(), String> {
    let name = &instance.name;
    if let Some(volume) = mounted(&instance.spec).find(|v| !instance.volumes.contains_key(*v)) {
        return Err(format!("container {name} is started without its volume {volume}"));
    }
    let seen = input.observed.volumes.known();
    let there = |volume: &Name| seen.and_then(|all| all.get(volume)).map(|volume| &volume.reach);
    if let Some(volume) = mounted(&instance.spec).find(|v| there(v) != Some(&Reach::Here)) {
        return Err(format!(
            "container {name} is started though {volume} is {:?}",
            there(volume)
        ));
    }
    let mut accepted = plan.ledger.accepted().filter(|(_, a)| a.id == instance.id);
    if accepted.any(|(_, a)| a.asks_registry()) {
        return Err(format!(
            "container {name} is started before its registry was asked"
        ));
    }
    let joins = &instance.joins;
    let net = matches!(instance.spec.network_mode, NetworkMode::Container(_));
    let pid = matches!(instance.spec.pid, NamespaceMode::Container(_));
    if net != joins.net.is_some() || pid != joins.pid.is_some() {
        return Err(format!("container {name} is started in namespaces of its own"));
    }
    Ok(())
}

/// Its names are answered, or will be by then.
fn starts_with_its_names(
    input: &Input<'_>,
    plan: &Plan,
    index: usize,
    instance: &Instance,
) -> Result<(), String> {
    let before = reaches(plan, index);
    let names = before
        .iter()
        .any(|i| matches!(plan.actions[*i].action, Action::ApplyDns { .. }));
    let state = input.observed.dns.known().and_then(Option::as_ref);
    let answered = |network: &Name, ip: std::net::IpAddr| {
        let container = state.and_then(|s| s.containers.get(&instance.name));
        container
            .and_then(|c| c.endpoints.get(network))
            .is_some_and(|e| e.ips.first() == Some(&ip))
    };
    if super::rollout::is_on_trial(&plan.ledger, &instance.id) {
        // The name is the old one's until it is known to be good.
        return Ok(());
    }
    for a in &instance.attachments {
        let served = plan.ledger.networks.get(&a.network).is_some_and(|n| n.spec.dns);
        if served && !names && !a.ips().next().is_some_and(|ip| answered(&a.network, ip)) {
            return Err(format!(
                "{} is started before its name is answered",
                instance.name
            ));
        }
    }
    Ok(())
}

fn starts_after_others(input: &Input<'_>, plan: &Plan, instance: &Instance) -> Result<(), String> {
    let depends = instance.spec.depends_on.iter().map(|(on, d)| (on, d.condition));
    let links = instance
        .spec
        .links
        .iter()
        .map(|link| (&link.container, Condition::Started));
    let all = depends.chain(links).flat_map(|(on, condition)| {
        super::replicas::instances(input, on)
            .into_iter()
            .map(move |n| (n, condition))
    });
    for (on, condition) in all {
        let Some(entry) = plan.ledger.containers.get(on) else {
            let mine = plan.ledger.containers.get(&instance.name);
            if mine.is_some_and(|e| e.rejected.is_some()) {
                continue;
            }
            return Err(format!("container {} is started without {on}", instance.name));
        };
        let accepted = in_force(entry);
        let all = input.observed.containers.known();
        let seen = all
            .and_then(|all| all.get(&accepted.id))
            .and_then(|look| look.known());
        let runs = seen.is_some_and(|c| matches!(c.phase, Phase::Running { .. } | Phase::Paused { .. }));
        let health = input.observed.health.get(&accepted.id);
        let met = match condition {
            Condition::Started => runs || accepted.finished,
            Condition::Healthy => {
                let of_this_run = health.filter(|s| seen.is_some_and(|c| c.run_no == s.run_no));
                runs && of_this_run.is_some_and(|s| s.verdict == Verdict::Healthy)
            }
            Condition::Completed => accepted.finished && accepted.finished_code == Some(0),
        };
        if !met {
            return Err(format!(
                "container {} is started before {on} is {condition:?}",
                instance.name
            ));
        }
    }
    Ok(())
}

/// A dependency is on all instances of a service, namespaces are those of one container.
fn relies_on(spec: &ContainerSpec, name: &Name, service: &Name) -> bool {
    let net = matches!(&spec.network_mode, NetworkMode::Container(n) if n == name);
    let pid = matches!(&spec.pid, NamespaceMode::Container(n) if n == name);
    net || pid || relied_on(spec).any(|on| on == service)
}

/// Of two whose tables are gone, the one that relies on the other goes first.
fn removed_last(plan: &Plan, index: usize, name: &Name, host: &Host) -> Result<(), String> {
    let gone = |n: &Name| {
        let entry = plan.ledger.containers.get(n);
        entry.is_some_and(|e| e.gone_since.is_some())
    };
    if !gone(name) {
        return Ok(());
    }
    let after = reaches(plan, index);
    for real in host.containers.values().filter(|r| r.live()) {
        let other = &real.seen.name;
        let accepted = plan.ledger.accepted().find(|(_, a)| a.id == real.seen.id);
        let service = super::replicas::service(&plan.ledger, name);
        let relies = accepted.is_some_and(|(_, a)| relies_on(&a.spec, name, service));
        let before = plan.actions.iter().enumerate().any(|(i, p)| {
            after.contains(&i)
                && matches!(&p.action, Action::RemoveContainer { id, .. } if *id == real.seen.id)
        });
        if relies && gone(other) && other != name && !before {
            return Err(format!(
                "{name} is removed while {other}, which relies on it, runs"
            ));
        }
    }
    Ok(())
}

/// Everything an action comes after.
fn reaches(plan: &Plan, index: usize) -> BTreeSet<usize> {
    let mut all = BTreeSet::new();
    let mut next = plan.actions[index].after.clone();
    while let Some(i) = next.pop() {
        if all.insert(i) {
            next.extend(&plan.actions[i].after);
        }
    }
    all
}

fn removes_what_it_may(
    input: &Input<'_>,
    name: &Name,
    host: &Host,
    gone: &BTreeSet<Name>,
) -> Result<(), String> {
    let entry = input.ledger.volumes.get(name);
    if entry.is_none_or(|e| e.spec.keep) {
        return Err(format!("volume {name} is to be kept, and is removed"));
    }
    if !gone.contains(name) {
        return Err(format!("volume {name} is removed at the first look"));
    }
    let uses = |r: &&Real| r.live() && r.instance.iter().any(|i| mounted(&i.spec).any(|v| v == name));
    match host.containers.values().find(uses) {
        Some(user) => Err(format!("volume {name} is removed under {}", user.seen.name)),
        None => Ok(()),
    }
}

/// A verdict is in the ledger as soon as it was seen.
fn remembers_health(input: &Input<'_>, plan: &Plan) -> Result<(), String> {
    let check = |a: &Accepted| model::health::check(&a.spec.healthcheck, a.image.as_deref());
    let before: BTreeMap<_, _> = input.ledger.accepted().map(|(_, a)| (&a.id, check(a))).collect();
    let Some(all) = input.observed.containers.known() else {
        return Ok(());
    };
    for (name, accepted) in plan.ledger.accepted() {
        let id = &accepted.id;
        let run = all.get(id).and_then(|l| l.known()).map(|c| c.run_no);
        let state = input.observed.health.get(id).filter(|s| run == Some(s.run_no));
        let same = check(accepted).is_some() && before.get(id) == Some(&check(accepted));
        let kept = plan.ledger.health.get(id);
        let noted = |verdict, run| kept.is_some_and(|k| (k.verdict, k.run_no) == (verdict, run));
        if let Some(state) = state.filter(|s| same && !noted(s.verdict, s.run_no)) {
            return Err(format!("that {name} is {:?} is not remembered", state.verdict));
        }
    }
    let known: BTreeSet<_> = plan.ledger.accepted().map(|(_, a)| &a.id).collect();
    match plan.ledger.health.keys().find(|id| !known.contains(id)) {
        Some(id) => Err(format!("the health of {id}, which is gone, is remembered")),
        None => Ok(()),
    }
}

/// What the host looks like when there is nothing left to do.
pub fn settled(host: &Host, desired: &Desired, ledger: &Ledger) -> Result<(), String> {
    super::schedule::settled(host, ledger)?;
    let mut used = BTreeSet::new();
    for real in host.containers.values() {
        let Some(instance) = &real.instance else { continue };
        let name = &instance.name;
        for volume in mounted(&instance.spec) {
            used.insert(volume);
            if host
                .volumes
                .get(volume)
                .is_none_or(|there| there.reach != Reach::Here)
            {
                return Err(format!("volume {volume} of {name} is not there"));
            }
        }
        if real.live() {
            super::contents::has_everything(real, &instance.spec, host, ledger)?;
            lives_where_it_should(real, host, ledger)?;
            answers(instance, host, ledger)?;
        }
    }
    for (name, declared) in &desired.volumes {
        let there = host
            .volumes
            .get(name)
            .ok_or(format!("volume {name} is not there"))?;
        if there.spec != *declared.spec {
            return Err(format!("volume {name} is not as its table says"));
        }
    }
    let going = ledger
        .volumes
        .iter()
        .find(|(n, e)| e.gone_since.is_some() && !e.spec.keep && !used.contains(n));
    match going {
        Some((name, _)) => Err(format!("volume {name} is still there")),
        None => Ok(()),
    }
}

fn lives_where_it_should(real: &Real, host: &Host, ledger: &Ledger) -> Result<(), String> {
    let name = &real.seen.name;
    for joined in &real.joined {
        let (Joined::Shim(id, _) | Joined::Run(id, _)) = joined;
        let owner = host
            .containers
            .get(id)
            .ok_or(format!("{name} lives in namespaces of one that is gone"))?;
        let same = match joined {
            Joined::Shim(_, shim) => owner.live() && owner.shim == *shim,
            Joined::Run(_, run) => owner.running() && owner.seen.run_no == *run,
        };
        let current = ledger.containers.get(&owner.seen.name).map(|e| &e.current.id);
        if !same || current != Some(id) {
            return Err(format!(
                "{name} lives in namespaces that {} has left",
                owner.seen.name
            ));
        }
    }
    Ok(())
}

fn answers(instance: &Instance, host: &Host, ledger: &Ledger) -> Result<(), String> {
    for a in &instance.attachments {
        let served = ledger.networks.get(&a.network).is_some_and(|n| n.spec.dns);
        let state = host.dns.as_ref();
        let endpoint = state
            .and_then(|s| s.containers.get(&instance.name))
            .and_then(|c| c.endpoints.get(&a.network));
        let place = ledger
            .containers
            .get(&instance.name)
            .and_then(|e| e.place.as_ref());
        let name = place.map(|p| p.numbered()).or(a.aliases.first().cloned());
        let right =
            endpoint.is_some_and(|e| e.ips.iter().copied().eq(a.ips()) && e.names.first() == name.as_ref());
        if served != right {
            return Err(format!(
                "the name of {} on {} is not answered as it should",
                instance.name, a.network
            ));
        }
    }
    Ok(())
}
