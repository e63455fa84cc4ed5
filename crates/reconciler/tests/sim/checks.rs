//! The laws: what no plan may do, what the host may never look like, and what it looks like when all is well.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use model::action::{Action, Noun};
use model::damage::Mend;
use model::desired::Desired;
use model::firewall::FirewallState;
use model::ledger::{Accepted, Ledger, ReplacePhase};
use model::name::{ContainerId, Name};
use model::network::{Attachment, HostNetwork};
use model::observed::{Look, Phase, overlaps};
use model::plan::Plan;
use model::spec::{ContainerSpec, RestartPolicy};
use reconciler::plan::Input;

use super::host::{Host, Real};

/// What holds of every plan.
pub fn plan(input: &Input<'_>, plan: &Plan, host: &Host, seen_gone: &BTreeSet<Name>) -> Result<(), String> {
    order(plan)?;
    for planned in &plan.actions {
        let action = &planned.action;
        if input.in_flight.contains(&action.noun()) {
            return Err(format!("{} is busy and gets another action", action.noun()));
        }
        if planned.reasons.is_empty() {
            return Err(format!("no reason for {}", action.noun()));
        }
        nothing_on_unknown(input, action)?;
        relies_on_the_ledger(plan, action)?;
        leaves_alone(input, plan, action, host, seen_gone)?;
    }
    no_port_twice(&planned_firewall(plan))?;
    addresses_once(&plan.ledger)
}

fn order(plan: &Plan) -> Result<(), String> {
    let mut last: BTreeMap<Noun, usize> = BTreeMap::new();
    for (index, planned) in plan.actions.iter().enumerate() {
        if planned.after.iter().any(|a| *a >= index) {
            return Err("an action stands before what it waits for".to_owned());
        }
        if let Some(before) = last.insert(planned.action.noun(), index)
            && !planned.after.contains(&before)
        {
            return Err(format!("two actions on {} side by side", planned.action.noun()));
        }
    }
    Ok(())
}

/// The container an action is about.
fn id_of(action: &Action) -> Option<&ContainerId> {
    match action {
        Action::PrepareContainer { instance }
        | Action::StartContainer { instance }
        | Action::RepairAttachments { instance }
        | Action::MendContainer { instance }
        | Action::DeliverContents { instance, .. } => Some(&instance.id),
        Action::UpdateContainer { id, .. }
        | Action::RestartUnhealthy { id, .. }
        | Action::StopContainer { id, .. }
        | Action::RemoveContainer { id, .. } => Some(id),
        _ => None,
    }
}

/// Invariant 2: nothing is done that relies on the absence of what could not be seen.
fn nothing_on_unknown(input: &Input<'_>, action: &Action) -> Result<(), String> {
    let seen = input.observed;
    let blind = match action {
        Action::LoadImage { .. } => seen.images.known().is_none(),
        Action::ApplyNetwork { .. } | Action::RemoveNetwork { .. } => seen.links.known().is_none(),
        Action::RepairAttachments { .. } => seen.links.known().is_none(),
        Action::ApplyFirewall { .. } => seen.firewall.known().is_none(),
        Action::ApplyDns { .. } => seen.dns.known().is_none(),
        Action::ApplyVolume { .. } | Action::RemoveVolume { .. } => seen.volumes.known().is_none(),
        _ => false,
    };
    let unseen = id_of(action).is_some_and(|id| match &seen.containers {
        Look::Unknown(_) => true,
        Look::Known(all) => matches!(all.get(id), Some(Look::Unknown(_))),
    });
    if blind || unseen {
        Err(format!("{} is acted on though it was not seen", action.noun()))
    } else {
        Ok(())
    }
}

/// Invariant 5: whatever is made is in the ledger that is written before.
fn relies_on_the_ledger(plan: &Plan, action: &Action) -> Result<(), String> {
    let ids = |a: &Accepted| a.id.clone();
    let good = match action {
        Action::PrepareContainer { instance } | Action::StartContainer { instance } => {
            let entry = plan.ledger.containers.get(&instance.name);
            entry.is_some_and(|e| {
                ids(&e.current) == instance.id || e.next.iter().any(|n| ids(&n.accepted) == instance.id)
            })
        }
        Action::ApplyNetwork { network } => plan
            .ledger
            .networks
            .get(&network.name)
            .is_some_and(|n| n.network == *network),
        _ => true,
    };
    if good {
        Ok(())
    } else {
        Err(format!("{} is not in the ledger", action.noun()))
    }
}

/// A container that runs as its table says is not stopped; what is held or only just gone is not removed.
fn leaves_alone(
    input: &Input<'_>,
    plan: &Plan,
    action: &Action,
    host: &Host,
    seen_gone: &BTreeSet<Name>,
) -> Result<(), String> {
    let (id, name, removes) = match action {
        Action::StopContainer { id, name, .. } => (id, name, false),
        Action::RemoveContainer { id, name, .. } => (id, name, true),
        _ => return Ok(()),
    };
    let entry = input.ledger.containers.get(name);
    let known = entry.is_some_and(|e| e.current.id == *id);
    let desired = input.desired;
    let file_held = entry.is_some_and(|e| {
        desired.held.files.contains(&e.current.origin.file)
            || e.next
                .iter()
                .any(|n| desired.held.files.contains(&n.accepted.origin.file))
    });
    let service = super::replicas::service(input.ledger, name);
    let held = desired.held.everything || desired.held.containers.contains(service) || file_held;
    let declared = desired.containers.get(name);
    if removes && known && declared.is_none() && held {
        let kept = plan
            .ledger
            .containers
            .get(name)
            .is_some_and(|e| e.current.id == *id);
        if kept {
            return Err(format!("container {name} is held and is removed"));
        }
    }
    if removes && known && declared.is_none() && !held && !seen_gone.contains(name) {
        return Err(format!("container {name} is removed at the first look"));
    }
    let Some(real) = host.containers.get(id).filter(|r| r.running()) else {
        return Ok(());
    };
    let by_hand = plan.ledger.holds.contains_key(name);
    let damaged = input.observed.damage.get(id);
    let damaged = damaged.is_some_and(|list| list.iter().any(|d| d.mend == Mend::Restart));
    let grown = super::contents::asks_for_another(real, host, &plan.ledger);
    let moved = damaged || grown || plan.ledger.containers.get(name).is_some_and(|e| e.current.stale);
    match declared {
        Some(declared) if known && !by_hand && !moved && unchanged(real, &declared.spec, input) => {
            Err(format!("container {name} runs as its table says and is stopped"))
        }
        None if held && known && !by_hand && !moved => {
            let switching = plan.ledger.containers.get(name).is_some_and(|e| {
                e.current.id != *id
                    || e.next
                        .as_ref()
                        .is_some_and(|n| n.phase != ReplacePhase::Preparing)
            });
            if switching {
                Ok(())
            } else {
                Err(format!("container {name} is held and is stopped"))
            }
        }
        _ => Ok(()),
    }
}

/// Everything that is not changed in place is as the table says, and so is the image.
fn unchanged(real: &Real, spec: &ContainerSpec, input: &Input<'_>) -> bool {
    let Some(instance) = &real.instance else {
        return false;
    };
    let fixed = |s: &ContainerSpec| {
        let mut s = s.clone();
        s.labels.clear();
        s.ports.clear();
        s.replicas = 1;
        s.update = model::spec::UpdateSpec::default();
        s.depends_on.clear();
        s.schedule = None;
        s.randomized_delay = std::time::Duration::ZERO;
        s.persistent = true;
        s.requires_mounts.clear();
        s.after_network_online = false;
        s.pull = model::spec::PullPolicy::Missing;
        s.update_check = std::time::Duration::ZERO;
        s.healthcheck = model::spec::HealthcheckChoice::Image;
        s.limits = model::spec::Limits::default();
        s.networks.iter_mut().for_each(|n| n.aliases.clear());
        s.stop_signal = None;
        s.stop_grace_period = std::time::Duration::ZERO;
        s.restart = model::spec::RestartSpec::default();
        s
    };
    // While the store cannot be seen, a change that was accepted before goes on.
    let Some(images) = input.observed.images.known() else {
        return false;
    };
    let image = images.get(&spec.image.key());
    fixed(&instance.spec) == fixed(spec) && image.is_none_or(|i| i.id == instance.image.id)
}

fn planned_firewall(plan: &Plan) -> FirewallState {
    let state = plan.actions.iter().find_map(|p| match &p.action {
        Action::ApplyFirewall { state } => Some(state.clone()),
        _ => None,
    });
    state.unwrap_or_default()
}

fn no_port_twice(state: &FirewallState) -> Result<(), String> {
    for (i, a) in state.ports.iter().enumerate() {
        for b in &state.ports[i + 1..] {
            // Instances of one service have their ports together.
            let together = a.service.is_some() && a.holder() == b.holder() && a.container != b.container;
            let same = a.protocol == b.protocol && a.host_port == b.host_port;
            if same && overlaps(a.at(), b.at()) && !together {
                let who = [a.container.as_str(), b.container.as_str()].join(" and ");
                return Err(format!("port {}/{} is given to {who}", a.host_port, a.protocol));
            }
        }
    }
    Ok(())
}

fn addresses_once(ledger: &Ledger) -> Result<(), String> {
    let mut given = BTreeMap::new();
    for (name, entry) in &ledger.containers {
        // One that is to take the place of the current one has its addresses.
        let next = entry.next.as_ref().filter(|n| n.phase.is_beside());
        let beside = next.map(|n| &n.accepted).into_iter();
        let beside = beside.chain(entry.draining.as_ref().map(|d| &d.accepted));
        let all = std::iter::once(&entry.current).chain(beside);
        let places = all.flat_map(|a| &a.attachments);
        for (network, ip) in places.flat_map(|a| a.ips().map(move |ip| (&a.network, ip))) {
            if let Some(other) = given.insert((network, ip), name) {
                return Err(format!("address {ip} is given to {other} and {name}"));
            }
        }
    }
    Ok(())
}

/// What the host may never look like, however things go.
pub fn truth(host: &Host) -> Result<(), String> {
    let mut at = BTreeMap::new();
    for (place, name) in host.addresses() {
        if let Some(other) = at.insert(place.clone(), name.clone())
            && other != name
        {
            return Err(format!("{other} and {name} live on {} of {}", place.1, place.0));
        }
    }
    no_port_twice(&host.firewall.clone().unwrap_or_default())
}

/// What it looks like when there is nothing left to do: everything wanted, and nothing else.
pub fn settled(host: &Host, desired: &Desired, ledger: &Ledger) -> Result<(), String> {
    if let Some((id, list)) = host.damaged().first_key_value() {
        return Err(format!("container {id} is still damaged: {list:?}"));
    }
    if let Some(error) = desired.errors.first() {
        return Err(format!(
            "the files still contradict each other: {}",
            error.message
        ));
    }
    let names: BTreeSet<&Name> = host.containers.values().map(|c| &c.seen.name).collect();
    let wanted: BTreeSet<&Name> = desired.containers.keys().collect();
    if names != wanted || host.containers.len() != wanted.len() {
        return Err(format!("there are containers {names:?}, wanted are {wanted:?}"));
    }
    let with_devices = ledger.networks.values().filter(|n| has_device(&n.network));
    let mut devices: BTreeSet<String> = with_devices.map(|n| n.network.bridge.clone()).collect();
    let mut ports = 0;
    for real in host.containers.values() {
        let name = &real.seen.name;
        // A definition that failed once is not tried again: then it is the one before that has to run.
        let entry = ledger
            .containers
            .get(name)
            .ok_or(format!("container {name} is not in the ledger"))?;
        let spec = if entry.rejected.is_some() {
            &entry.current.spec
        } else {
            &desired.containers[name].spec
        };
        settled_container(real, spec, host)?;
        let instance = real.instance.as_ref().ok_or("no instance")?;
        if real.live() {
            let ends = instance.attachments.iter().filter(|a| !a.link.is_inside_alone());
            devices.extend(ends.map(|a| a.host_device.clone()));
        }
        if !instance.attachments.is_empty() {
            // One that has ended may have been begun on its networks as they were.
            let places = &entry.current.attachments;
            // What is published is so on networks that this host is the gateway of.
            let routed = || places.iter().filter(|a| !a.link.is_lan());
            let has = |family: fn(&Attachment) -> bool| usize::from(routed().any(family));
            let families = has(|a| a.v4().is_some()) + has(|a| a.v6().is_some());
            ports += families * spec.ports.iter().collect::<BTreeSet<_>>().len();
            settled_ports(spec, host, name, families)?;
            settled_addresses(name, places, ledger)?;
            let at = |a: &Attachment| (a.network.clone(), a.ip.clone());
            if real.live() && !instance.attachments.iter().map(at).eq(places.iter().map(at)) {
                return Err(format!("container {name} lives elsewhere than is accepted"));
            }
        }
    }
    let published = host.firewall.as_ref().map_or(0, |f| f.ports.len());
    if published > ports {
        return Err(format!("{published} ports are published, {ports} are wanted"));
    }
    let links: BTreeSet<String> = host
        .links
        .iter()
        .filter(|(_, l)| l.ours)
        .map(|(n, _)| n.clone())
        .collect();
    if links != devices {
        return Err(format!("there are devices {links:?}, wanted are {devices:?}"));
    }
    settled_networks(host, desired, ledger)
}

fn settled_container(real: &Real, spec: &ContainerSpec, host: &Host) -> Result<(), String> {
    let name = &real.seen.name;
    let instance = real.instance.as_ref().ok_or("no instance")?;
    let waits = spec.schedule.is_some() && !real.live();
    let finished = waits || spec.restart.policy != RestartPolicy::Always && real.seen.phase == Phase::Exited;
    if !matches!(real.seen.phase, Phase::Running { .. } | Phase::Backoff { .. }) && !finished {
        return Err(format!("container {name} is {:?}", real.seen.phase));
    }
    if instance.spec.command != spec.command
        || instance.spec.env != spec.env
        || instance.spec.image != spec.image
    {
        return Err(format!("container {name} runs with another definition"));
    }
    for a in instance.attachments.iter().filter(|a| !a.link.is_inside_alone()) {
        let device = host.links.get(&a.host_device);
        if real.live() && !device.is_some_and(|l| l.up && l.master.as_deref() == Some(&a.bridge)) {
            return Err(format!("container {name} is cut off from {}", a.network));
        }
    }
    Ok(())
}

/// It has what its networks have, and a way out by each family that one of them leads out by.
fn settled_addresses(name: &Name, places: &[Attachment], ledger: &Ledger) -> Result<(), String> {
    let (mut ways, mut taken) = ([0; 2], [0; 2]);
    for a in places {
        let network = &ledger.networks.get(&a.network).ok_or("no network")?.network;
        let fits4 = match (network.v4(), a.v4()) {
            (Some(network), Some(a)) => network.subnet.contains(&a.ip) && a.ip != network.gateway,
            (four, own) => four.is_none() && own.is_none(),
        };
        let fits6 = match (network.v6(), a.v6()) {
            (Some(network), Some(a)) => network.subnet.contains(&a.ip) && a.ip != network.gateway,
            (six, own) => six.is_none() && own.is_none(),
        };
        if !fits4 || !fits6 {
            return Err(format!("{name} has {:?} in network {}", a.ip, a.network));
        }
        ways[0] |= usize::from(!network.internal && network.v4().is_some());
        ways[1] |= usize::from(!network.internal && network.v6().is_some());
        taken[0] += usize::from(a.v4().is_some_and(|v4| v4.gateway.is_some()));
        taken[1] += usize::from(a.v6().is_some_and(|v6| v6.gateway.is_some()));
    }
    match (0..2).all(|of| taken[of] >= ways[of] && taken[of] <= 1) {
        true => Ok(()),
        false => Err(format!("{name} has {taken:?} default routes of IPv4 and IPv6")),
    }
}

fn settled_ports(spec: &ContainerSpec, host: &Host, name: &Name, families: usize) -> Result<(), String> {
    for port in spec.ports.iter().filter_map(|p| Some((p, p.host?.0))) {
        let (entry, number) = port;
        let rules = host.firewall.iter().flat_map(|f| &f.ports);
        let mine: Vec<_> = rules
            .filter(|r| r.protocol == entry.protocol && r.host_port == number)
            .collect();
        // Among instances of a service only those that are ready: see `replicas::settled`.
        let shared = mine.first().is_some_and(|r| r.service.is_some());
        let count = mine.iter().filter(|r| r.container == *name).count();
        if count > families || count < families && !shared {
            return Err(format!(
                "port {number}/{} of container {name} is not published",
                entry.protocol
            ));
        }
    }
    Ok(())
}

/// The host has a device of it.
fn has_device(network: &HostNetwork) -> bool {
    network
        .driver
        .below()
        .map_or(!network.is_lan(), |below| below.host_access)
}

fn settled_lan(network: &HostNetwork, host: &Host) -> Result<(), String> {
    let device = host.links.get(&network.bridge);
    let has = device.map(|link| {
        link.addresses
            .iter()
            .map(|net| IpNet::V4(*net))
            .collect::<Vec<_>>()
    });
    let wanted = has_device(network).then(|| network.host_addresses());
    match has == wanted {
        true => Ok(()),
        false => Err(format!(
            "in network {} the host has {has:?}, wanted is {wanted:?}",
            network.name
        )),
    }
}

fn settled_networks(host: &Host, desired: &Desired, ledger: &Ledger) -> Result<(), String> {
    let declared = desired.networks.iter().filter(|(_, n)| !n.origin.file.is_empty());
    for (name, network) in declared {
        let entry = ledger
            .networks
            .get(name)
            .ok_or(format!("network {name} is not there"))?;
        if entry.network.is_lan() {
            settled_lan(&entry.network, host)?;
            continue;
        }
        let link = host
            .links
            .get(&entry.network.bridge)
            .ok_or(format!("network {name} has no bridge"))?;
        let nets: Vec<_> = entry.network.v4().iter().map(|v4| v4.subnet).collect();
        let on: Vec<_> = link.addresses.iter().map(|a| a.trunc()).collect();
        let written = network.spec.subnet.is_none_or(|net| nets == [net]);
        if on != nets || network.spec.ipv4 == nets.is_empty() || !written {
            return Err(format!("network {name} is not on {nets:?}"));
        }
        let has: Vec<_> = link.addresses6.iter().map(|net| net.trunc()).collect();
        let wanted: Vec<_> = entry.network.v6().iter().map(|v6| v6.subnet).collect();
        let written = network.spec.subnet6.is_none_or(|net| wanted == [net]);
        if has != wanted || network.spec.has_ipv6() == wanted.is_empty() || !written {
            return Err(format!("network {name} has IPv6 {has:?}, wanted is {wanted:?}"));
        }
    }
    let routed = ledger.networks.values().filter(|n| !n.network.is_lan());
    let wanted = routed.count();
    let bridges = host.firewall.as_ref().map_or(0, |f| f.bridges.len());
    if bridges != wanted {
        Err(format!("{bridges} bridges in the firewall, {wanted} wanted"))
    } else {
        Ok(())
    }
}
