//! The firewall's whole content, derived from what is accepted; applied when the host shows another.

use std::collections::BTreeMap;

use model::action::{Action, Noun};
use model::firewall::{FirewallBridge, FirewallState, MOST_TARGETS, PortRule};
use model::ledger::{Accepted, ContainerEntry, Ledger, ReplacePhase};
use model::name::Name;
use model::observed::Look;
use model::plan::{Op, Reason};

use super::{Mutation, Pass, Ready};

/// The accepted container that has the name's ports now.
pub(super) fn effective(entry: &ContainerEntry) -> &Accepted {
    match &entry.next {
        Some(next) if next.phase == ReplacePhase::Switching => &next.accepted,
        _ => &entry.current,
    }
}

/// What the table should hold; ports of containers that `blocked` names are left out.
pub(super) fn wanted(
    ledger: &Ledger,
    dns_ports: &BTreeMap<Name, u16>,
    blocked: impl Fn(&Name) -> bool,
) -> FirewallState {
    let bridges = ledger.networks.values().map(|n| FirewallBridge {
        bridge: n.network.bridge.clone(),
        subnet: n.network.subnet,
        masquerade: n.network.masquerade,
        internal: n.network.internal,
        dns_port: dns_ports.get(&n.network.name).copied().filter(|_| n.spec.dns),
    });
    let open = ledger.containers.iter().filter(|(name, _)| !blocked(name));
    let ports = open.flat_map(|(_, entry)| {
        // Whose it is says the entry: what was accepted earlier may know of no service yet.
        let service = entry.place.as_ref().map(|place| place.service.clone());
        let rules = effective(entry).ports.iter().cloned();
        rules.map(move |rule| PortRule {
            service: service.clone(),
            ..rule
        })
    });
    FirewallState {
        bridges: bridges.collect(),
        ports: balanced(ports.collect()),
    }
    .sorted()
}

/// Of the instances of a service that differ in whom they let in, being changed one after the other, those that agree
/// with the first one: a port has one list. No more than can be told apart.
fn balanced(ports: Vec<PortRule>) -> Vec<PortRule> {
    let mut first: BTreeMap<_, (Vec<_>, usize)> = BTreeMap::new();
    let mut out = Vec::new();
    for rule in ports {
        let key = (rule.protocol, rule.host_ip, rule.host_port);
        let (allow, count) = first.entry(key).or_insert_with(|| (rule.allow.clone(), 0));
        if *allow == rule.allow && *count < MOST_TARGETS {
            *count += 1;
            out.push(rule);
        }
    }
    out
}

impl Pass<'_, '_> {
    pub(super) fn act_on_firewall(&mut self) {
        let idle = self.idle();
        let wanted = wanted(&self.ledger, &self.input.observed.dns_ports, |name| {
            self.blocked.contains_key(name) || idle.contains(name)
        });
        self.published.clone_from(&wanted.ports);
        let seen = match &self.input.observed.firewall {
            Look::Known(seen) => seen,
            Look::Unknown(why) => {
                let why = format!("cannot be looked at: {why}");
                self.firewall = Ready::Waits(format!("waits for the firewall, which {why}"));
                self.wait(Noun::Firewall, why, None);
                return;
            }
        };
        let mut reasons = differences(seen.as_ref(), &wanted, &self.ledger);
        if seen.is_none() && self.input.observed.firewall_there && wanted == FirewallState::default() {
            reasons.push(Reason::because("it is damaged, and nothing needs it any more"));
        }
        if self.input.observed.forwarding == Look::Known(false) && !wanted.bridges.is_empty() {
            reasons.push(Reason::because("net.ipv4.ip_forward is off"));
        }
        if reasons.is_empty() || self.broken(Mutation::FirewallDrifts) && seen.is_some() {
            return;
        }
        self.apply_firewall(wanted, seen.is_some(), reasons);
    }

    fn apply_firewall(&mut self, state: FirewallState, there: bool, reasons: Vec<Reason>) {
        if self.busy(&Noun::Firewall) {
            self.firewall = Ready::Waits("waits for the firewall".to_owned());
            self.wait(Noun::Firewall, "is being changed", None);
        } else if let Some(blocked) = self.resting(&Noun::Firewall, None, &state, &Default::default()) {
            self.firewall = Ready::Waits(format!("waits for the firewall: {}", blocked.why));
            self.hold_up(Noun::Firewall, blocked);
        } else {
            let empty = state == FirewallState::default();
            let op = match (there, empty) {
                (_, true) => Op::Remove,
                (false, _) => Op::Create,
                (true, _) => Op::Update,
            };
            self.firewall = Ready::After(self.act(op, Action::ApplyFirewall { state }, Vec::new(), reasons));
        }
    }

    /// Whether what this container needs of the firewall is in force, or will be.
    pub(super) fn firewall_for(&self, accepted: &Accepted) -> Ready {
        let Some(seen) = self.input.observed.firewall.known().and_then(Option::as_ref) else {
            return self.firewall.clone();
        };
        let ports = accepted
            .ports
            .iter()
            .all(|p| seen.ports.iter().any(|s| same_port(s, p)) || !self.is_awaited(p));
        let bridges = accepted.attachments.iter().all(|a| {
            let network = self.ledger.networks.get(&a.network).map(|n| &n.network);
            network.is_some_and(|n| {
                seen.bridges
                    .iter()
                    .any(|b| b.bridge == n.bridge && b.subnet == n.subnet)
            })
        });
        if ports && bridges {
            Ready::Now
        } else {
            self.firewall.clone()
        }
    }

    /// An instance among others gets its share of a port once it is ready.
    fn is_awaited(&self, rule: &PortRule) -> bool {
        rule.service.is_none() || self.published.contains(rule)
    }
}

/// Equal but for the names, which are for messages only.
fn same_port(a: &PortRule, b: &PortRule) -> bool {
    // Every port is compared with all others: no copies are made. Whoever adds a field is asked here.
    let PortRule {
        protocol,
        host_ip,
        host_port,
        target_ip,
        target_port,
        bridge,
        allow,
        container: _,
        service: _,
    } = a;
    (protocol, host_ip, host_port) == (&b.protocol, &b.host_ip, &b.host_port)
        && (target_ip, target_port) == (&b.target_ip, &b.target_port)
        && (bridge, allow) == (&b.bridge, &b.allow)
}

fn differences(seen: Option<&FirewallState>, wanted: &FirewallState, ledger: &Ledger) -> Vec<Reason> {
    let Some(seen) = seen else {
        let nothing = *wanted == FirewallState::default();
        let because = Reason::because("the table is not there");
        return if nothing { Vec::new() } else { vec![because] };
    };
    if *wanted == FirewallState::default() {
        return vec![Reason::because("nothing needs it any more")];
    }
    let mut reasons = Vec::new();
    for bridge in wanted.bridges.iter().filter(|b| !seen.bridges.contains(b)) {
        reasons.extend(bridge_differs(bridge, seen, ledger));
    }
    for bridge in seen
        .bridges
        .iter()
        .filter(|b| !wanted.bridges.iter().any(|w| w.bridge == b.bridge))
    {
        reasons.push(Reason::because(format!(
            "bridge {} is no longer used",
            bridge.bridge
        )));
    }
    for rule in wanted
        .ports
        .iter()
        .filter(|r| !seen.ports.iter().any(|s| same_port(s, r)))
    {
        let entry = ledger.containers.get(&rule.container);
        let at = entry.map(|e| effective(e).origin.key("ports"));
        reasons.push(Reason {
            file: at.as_ref().map(|at| at.file.clone()),
            line: at.and_then(|at| at.line),
            ..Reason::because(format!("port {} of container {}", port(rule), rule.container))
        });
    }
    for rule in seen
        .ports
        .iter()
        .filter(|r| !wanted.ports.iter().any(|w| same_port(r, w)))
    {
        // Others of its service have the port still.
        let left =
            |w: &&PortRule| w.host_port == rule.host_port && w.service.is_some() && w.service == rule.service;
        let why = match wanted.ports.iter().find(left) {
            Some(_) => format!("port {} goes to container {} no more", port(rule), rule.container),
            None => format!("port {} is no longer published so", port(rule)),
        };
        reasons.push(Reason::because(why));
    }
    reasons
}

/// A bridge that the table lacks, or speaks of otherwise: by the network's keys, where it is for them.
fn bridge_differs(wanted: &FirewallBridge, seen: &FirewallState, ledger: &Ledger) -> Vec<Reason> {
    let bridge = &wanted.bridge;
    let Some(seen) = seen.bridges.iter().find(|b| b.bridge == *bridge) else {
        return vec![Reason::because(format!("bridge {bridge} is missing"))];
    };
    let mut networks = ledger.networks.values();
    let entry = networks.find(|n| n.network.bridge == *bridge);
    let fields = [
        ("internal", seen.internal.to_string(), wanted.internal.to_string()),
        (
            "masquerade",
            seen.masquerade.to_string(),
            wanted.masquerade.to_string(),
        ),
        ("subnet", seen.subnet.to_string(), wanted.subnet.to_string()),
    ];
    let one = |(field, from, to): (&str, String, String)| {
        let at = entry.map(|e| e.origin.key(field));
        Reason {
            field: entry.map_or_else(
                || format!("bridge {bridge}: {field}"),
                |e| format!("network {}: {field}", e.network.name),
            ),
            from: Some(from),
            to: Some(to),
            file: at.as_ref().map(|at| at.file.clone()).filter(|f| !f.is_empty()),
            line: at.and_then(|at| at.line),
        }
    };
    let changed = fields.into_iter().filter(|(_, from, to)| from != to);
    let reasons: Vec<Reason> = changed.map(one).collect();
    if reasons.is_empty() {
        return vec![Reason::because(format!("bridge {bridge} differs"))];
    }
    reasons
}

fn port(rule: &PortRule) -> String {
    let ip = rule.host_ip.map(|ip| format!("{ip}:")).unwrap_or_default();
    format!("{ip}{}:{}/{}", rule.host_port, rule.target_port, rule.protocol)
}
