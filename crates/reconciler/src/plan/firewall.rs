//! The firewall's whole content, derived from what is accepted; applied when the host shows another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::action::{Action, Noun};
use model::firewall::{FirewallBridge, FirewallState, LinkRule, MOST_TARGETS, PortRule, TunnelRule};
use model::ledger::{Accepted, ContainerEntry, Ledger, ReplacePhase};
use model::name::Name;
use model::network::HostNetwork;
use model::observed::Look;
use model::plan::{Op, Reason};

use super::by_place::ByPlace;
use super::{Mutation, Pass, Ready, dns, links, overlay};

/// The accepted container that has the name's ports now.
pub(super) fn effective(entry: &ContainerEntry) -> &Accepted {
    match &entry.next {
        Some(next) if next.phase == ReplacePhase::Switching => &next.accepted,
        _ => &entry.current,
    }
}

/// What the table should hold; ports that `closed` names are left out.
pub(super) fn wanted(
    ledger: &Ledger,
    dns_ports: &BTreeMap<Name, u16>,
    closed: impl Fn(&Name, &PortRule) -> bool,
) -> FirewallState {
    let routed = ledger.networks.values().filter(|n| !n.network.is_lan());
    let bridges = routed.map(|n| {
        let dns_port = dns_ports.get(&n.network.name).copied().filter(|_| n.spec.dns);
        FirewallBridge::of(&n.network, dns_port)
    });
    let bridges: Vec<FirewallBridge> = bridges.collect();
    let networks: Vec<&HostNetwork> = ledger.networks.values().map(|n| &n.network).collect();
    // Whoever runs on as accepted may live on a network that has lost the family: that is his error, and nobody else's.
    let leads = |rule: &PortRule| {
        let mut networks = networks.iter();
        networks
            .find(|n| n.bridge == *rule.bridge)
            .is_none_or(|n| n.has_family_of(rule.target_ip))
    };
    let mut ports = Vec::new();
    for (name, entry) in &ledger.containers {
        // Whose it is says the entry: what was accepted earlier may know of no service yet.
        let service = entry.place.as_ref().map(|place| &place.service);
        let own = effective(entry).ports.iter().filter(|rule| leads(rule));
        let open = own.filter(|rule| !closed(name, rule));
        ports.extend(open.map(|rule| PortRule {
            service: service.cloned(),
            ..rule.clone()
        }));
    }
    FirewallState {
        names: asked(ledger, dns_ports, &bridges),
        bridges,
        ports: balanced(ports),
        links: links::rules(ledger),
        tunnels: overlay::rules(ledger.networks.values()),
        peers: overlay::peers(ledger.networks.values()),
    }
    .sorted()
}

/// Where the name server listens, of families that something can be published of.
fn asked(ledger: &Ledger, dns_ports: &BTreeMap<Name, u16>, bridges: &[FirewallBridge]) -> Vec<IpAddr> {
    let six = bridges.iter().any(|b| b.ip.v6().is_some());
    let has = |ip: &IpAddr| if ip.is_ipv4() { !bridges.is_empty() } else { six };
    dns::places(ledger, dns_ports).filter(has).collect()
}

/// Of the instances of a service that differ in whom they let in, being changed one after the other, those that agree
/// with the first one: a port has one list. No more than can be told apart.
fn balanced(ports: Vec<PortRule>) -> Vec<PortRule> {
    // What stands alone has its ports for itself, and may have a thousand.
    if ports.iter().all(|rule| rule.service.is_none()) {
        return ports;
    }
    let mut first: BTreeMap<_, (Vec<_>, usize)> = BTreeMap::new();
    let mut out = Vec::new();
    for rule in ports {
        let key = (rule.protocol, rule.at(), rule.host_port);
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
        let idle = self.idle_ports();
        let wanted = wanted(&self.ledger, &self.input.observed.dns_ports, |name, rule| {
            self.blocked.contains_key(name) || idle.contains(rule)
        });
        let of_services = wanted.ports.iter().filter(|rule| rule.service.is_some());
        self.shared_ports = of_services.cloned().collect();
        self.let_through.clone_from(&wanted.links);
        let seen = match &self.input.observed.firewall {
            Look::Known(seen) => seen,
            Look::Unknown(why) => {
                let why = format!("cannot be looked at: {why}");
                self.firewall = Ready::Waits(format!("waits for the firewall, which {why}"));
                self.wait(Noun::Firewall, why, None);
                return;
            }
        };
        self.seen_ports = ByPlace::of(seen.as_ref().map_or(&[], |state| &state.ports));
        let wrong = self.input.observed.firewall_wrong.as_deref();
        let mut reasons = differences(seen.as_ref().ok_or(wrong), &wanted, &self.ledger);
        if seen.is_none() && self.input.observed.firewall_there && wanted == FirewallState::default() {
            reasons.push(Reason::because("it is damaged, and nothing needs it any more"));
        }
        let four = wanted.bridges.iter().any(|b| b.ip.v4().is_some());
        if self.input.observed.forwarding == Look::Known(false) && four {
            reasons.push(Reason::because("net.ipv4.ip_forward is off"));
        }
        let six = wanted.bridges.iter().any(|b| b.ip.v6().is_some());
        if self.input.observed.forwarding6 == Look::Known(false) && six {
            reasons.push(Reason::because("net.ipv6.conf.all.forwarding is off"));
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
            .all(|p| self.seen_ports.has(p) || !self.is_awaited(p));
        let routed = accepted.attachments.iter().filter(|a| !a.link.is_lan());
        let bridges = routed.into_iter().all(|a| {
            let network = self.ledger.networks.get(&a.network).map(|n| &n.network);
            let knows = |b: &FirewallBridge, n: &HostNetwork| {
                b.subnets().eq(n.subnets()) && (&b.bridge, b.isolated) == (&n.bridge, n.isolated)
            };
            network.is_some_and(|n| seen.bridges.iter().any(|b| knows(b, n)))
        });
        if ports && bridges && self.links_lead(accepted, seen) {
            Ready::Now
        } else {
            self.firewall.clone()
        }
    }

    /// All that it is to reach by its links it reaches.
    fn links_lead(&self, accepted: &Accepted, seen: &FirewallState) -> bool {
        let own = |rule: &&LinkRule| {
            let mut places = accepted.attachments.iter();
            places.any(|a| a.bridge == rule.bridge && a.ips().any(|ip| ip == rule.from))
        };
        let mut rules = self
            .let_through
            .iter()
            .filter(|_| !accepted.spec.links.is_empty());
        rules.all(|rule| !own(&rule) || seen.links.binary_search(rule).is_ok())
    }

    /// An instance among others gets its share of a port once it is ready.
    fn is_awaited(&self, rule: &PortRule) -> bool {
        // They are sorted.
        rule.service.is_none() || self.shared_ports.binary_search(rule).is_ok()
    }
}

/// `seen`: or what is wrong with it.
fn differences(
    seen: Result<&FirewallState, Option<&str>>,
    wanted: &FirewallState,
    ledger: &Ledger,
) -> Vec<Reason> {
    let seen = match seen {
        Ok(seen) => seen,
        Err(_) if *wanted == FirewallState::default() => return Vec::new(),
        Err(wrong) => return vec![Reason::because(wrong.unwrap_or("the table is not there"))],
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
    for tunnel in wanted.tunnels.iter().filter(|t| !seen.tunnels.contains(t)) {
        reasons.push(Reason::because(format!("peers of VXLAN {}", tunnel.vni)));
    }
    let told = |t: &TunnelRule| wanted.tunnels.iter().any(|w| (w.port, w.vni) == (t.port, t.vni));
    for tunnel in seen.tunnels.iter().filter(|t| !told(t)) {
        reasons.push(Reason::because(format!(
            "there is no VXLAN {} any more",
            tunnel.vni
        )));
    }
    if reasons.is_empty() && seen.peers != wanted.peers {
        reasons.push(Reason::because("other hosts send to networks of this one"));
    }
    if reasons.is_empty() && seen.names != wanted.names {
        reasons.push(Reason::because("names are asked at other addresses"));
    }
    reasons.extend(link_reasons(&seen.links, &wanted.links, ledger));
    // As most passes find them.
    if seen.ports == wanted.ports {
        return reasons;
    }
    let (there, kept) = (ByPlace::of(&seen.ports), ByPlace::of(&wanted.ports));
    for rule in wanted.ports.iter().filter(|r| !there.has(r)) {
        let entry = ledger.containers.get(&rule.container);
        let at = entry.map(|e| effective(e).origin.key("ports"));
        reasons.push(Reason {
            file: at.as_ref().map(|at| at.file.clone()),
            line: at.and_then(|at| at.line),
            ..Reason::because(format!("port {} of container {}", port(rule), rule.container))
        });
    }
    for rule in seen.ports.iter().filter(|r| !kept.has(r)) {
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
    let four = |b: &FirewallBridge| b.ip.v4().map(|v4| (v4.subnet.to_string(), v4.masquerade));
    let six = |b: &FirewallBridge| b.ip.v6().map(|v6| (v6.subnet.to_string(), v6.masquerade));
    let net = |of: Option<(String, bool)>| of.map_or_else(|| "none".to_owned(), |(net, _)| net);
    let masquerade = |of: Option<(String, bool)>| of.is_some_and(|(_, masquerade)| masquerade).to_string();
    let fields = [
        ("internal", seen.internal.to_string(), wanted.internal.to_string()),
        ("masquerade", masquerade(four(seen)), masquerade(four(wanted))),
        ("masquerade6", masquerade(six(seen)), masquerade(six(wanted))),
        (
            "icc",
            (!seen.isolated).to_string(),
            (!wanted.isolated).to_string(),
        ),
        ("subnet", net(four(seen)), net(four(wanted))),
        ("subnet6", net(six(seen)), net(six(wanted))),
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
    // A network that gets a family, or loses it, has it masqueraded or not: that goes without saying.
    let turned = [
        four(seen).is_some() != four(wanted).is_some(),
        six(seen).is_some() != six(wanted).is_some(),
    ];
    let told = |field: &str| match field {
        "masquerade" => !turned[0],
        "masquerade6" => !turned[1],
        _ => true,
    };
    let changed = fields
        .into_iter()
        .filter(|(field, from, to)| from != to && told(field));
    let reasons: Vec<Reason> = changed.map(one).collect();
    if reasons.is_empty() {
        return vec![Reason::because(format!("bridge {bridge} differs"))];
    }
    reasons
}

/// One for each pair of containers, whatever ports it is about.
fn link_reasons(seen: &[LinkRule], wanted: &[LinkRule], ledger: &Ledger) -> BTreeSet<Reason> {
    let new = wanted.iter().filter(|rule| seen.binary_search(rule).is_err());
    let new = new.map(|rule| Reason::because(links::described(rule, ledger)));
    let gone = seen.iter().filter(|rule| wanted.binary_search(rule).is_err());
    let gone = gone.map(|rule| Reason::because(format!("{} is no more", links::described(rule, ledger))));
    new.chain(gone).collect()
}

fn port(rule: &PortRule) -> String {
    let ip = match rule.at() {
        IpAddr::V4(ip) if ip.is_unspecified() => String::new(),
        IpAddr::V4(ip) => format!("{ip}:"),
        IpAddr::V6(ip) => format!("[{ip}]:"),
    };
    format!("{ip}{}:{}/{}", rule.host_port, rule.target_port, rule.protocol)
}
