//! The laws of networks whose containers do not reach each other (`icc = false`), and of links.

use std::net::IpAddr;

use model::action::Action;
use model::firewall::LinkRule;
use model::ledger::{Accepted, ContainerEntry, Ledger};
use model::name::Name;
use model::plan::Plan;
use model::spec::LinkSpec;

use super::host::{Host, Real};

/// No plan lets anything through that no link asks for.
pub fn plan(plan: &Plan) -> Result<(), String> {
    for planned in &plan.actions {
        if let Action::ApplyFirewall { state } = &planned.action {
            state
                .links
                .iter()
                .try_for_each(|rule| asked_for(rule, &plan.ledger))?;
        }
    }
    Ok(())
}

fn asked_for(rule: &LinkRule, ledger: &Ledger) -> Result<(), String> {
    let at =
        |accepted: &Accepted, ip: IpAddr| accepted.attachments.iter().any(|a| a.ips().any(|own| own == ip));
    let leads = |link: &LinkSpec| {
        let targets = targets(ledger, &link.container);
        targets
            .flat_map(|(_, entry)| entry.all())
            .any(|to| at(to, rule.to))
    };
    let mut from = ledger
        .accepted()
        .map(|(_, accepted)| accepted)
        .filter(|accepted| at(accepted, rule.from));
    match from.any(|accepted| accepted.spec.links.iter().any(leads)) {
        true => Ok(()),
        false => Err(format!(
            "{} is let through to {}, which no link asks for",
            rule.from, rule.to
        )),
    }
}

/// All instances of what a link names.
fn targets<'l>(
    ledger: &'l Ledger,
    service: &'l Name,
) -> impl Iterator<Item = (&'l Name, &'l ContainerEntry)> {
    let of = move |(name, entry): &(&Name, &ContainerEntry)| {
        entry.place.as_ref().map_or(*name, |place| &place.service) == service
    };
    ledger.containers.iter().filter(of)
}

/// When nothing is left to do, interfaces are cut off from their neighbours where their network says so, and links lead
/// to those that they name.
pub fn settled(host: &Host, ledger: &Ledger) -> Result<(), String> {
    for (name, entry) in &ledger.containers {
        let real = host.containers.get(&entry.current.id);
        let Some(real) = real.filter(|real| real.live()) else {
            continue;
        };
        for a in entry.current.attachments.iter() {
            let wanted = ledger
                .networks
                .get(&a.network)
                .is_some_and(|n| n.network.isolated);
            let link = host.links.get(&a.host_device);
            if link.is_some_and(|link| link.isolated != wanted) {
                return Err(format!(
                    "that {name} is isolated on {} is not {wanted}",
                    a.network
                ));
            }
        }
        for link in &entry.current.spec.links {
            for (_, target) in targets(ledger, &link.container) {
                leads(real, link, &entry.current, target, host, ledger)?;
            }
        }
    }
    Ok(())
}

fn leads(
    real: &Real,
    link: &LinkSpec,
    from: &Accepted,
    target: &ContainerEntry,
    host: &Host,
    ledger: &Ledger,
) -> Result<(), String> {
    let to = &target.current;
    let wrong = |what: String| {
        Err(format!(
            "the link of {} to {} {what}",
            real.seen.name, link.container
        ))
    };
    let mut shared = Vec::new();
    for a in from.attachments.iter() {
        let there = to.attachments.iter().find(|b| b.network == a.network);
        shared.extend(there.map(|b| (a, b)));
    }
    // Instances that are not ready are not among those that the alias leads to.
    if let (Some((_, b)), None) = (shared.first(), &target.place) {
        let hosts = host.contents.records.get(&real.seen.id).map(|r| &r.hosts);
        let led = |ip: IpAddr| {
            let line = format!("{ip}\t{}", link.alias);
            hosts.is_some_and(|all| all.iter().any(|l| l.starts_with(&line)))
        };
        if let Some(ip) = b.ips().find(|ip| !led(*ip)) {
            return wrong(format!("does not lead to {ip}"));
        }
    }
    let isolated = |name: &Name| ledger.networks.get(name).is_some_and(|n| n.network.isolated);
    for (a, b) in shared.iter().filter(|(a, _)| isolated(&a.network)) {
        for port in &to.spec.ports {
            let through = |from: IpAddr, to: IpAddr| {
                let mut rules = host.firewall.iter().flat_map(|f| &f.links);
                let lets = |r: &LinkRule| (r.protocol, r.port) == (port.protocol, port.container.0);
                rules.any(|r| (r.from, r.to) == (from, to) && lets(r))
            };
            let all = a.ips().flat_map(|from| b.ips().map(move |to| (from, to)));
            let mut closed = all.filter(|(from, to)| from.is_ipv4() == to.is_ipv4() && !through(*from, *to));
            if let Some((_, ip)) = closed.next() {
                return wrong(format!("is not let through to port {} of {ip}", port.container.0));
            }
        }
    }
    Ok(())
}
