//! The names containers resolve, derived from what is accepted; given to the name server when it has others.
//!
//! A container is started once its own names are answered: they are part of what "started" promises. One that runs is
//! never touched for the name server's sake.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use model::action::{Action, Noun};
use model::dns::{DnsContainer, DnsEndpoint, DnsNetwork, DnsState, INSIDE};
use model::ledger::{Accepted, ContainerEntry, Ledger, NetworkEntry};
use model::name::Name;
use model::network::{Attachment, HostNetwork};
use model::observed::Look;
use model::plan::{Op, Reason};
use model::spec::{NetworkMode, Settings};
use model::surroundings::Surroundings;

use super::firewall::effective;
use super::{Mutation, Pass, Ready, Sight, overlay};

/// Names listed in a reason before the rest is only counted.
const LISTED: usize = 4;

/// What the name server should know.
///
/// `idle`: instances of replicated services that do not answer to the name of all.
pub(super) fn wanted(
    ledger: &Ledger,
    settings: &Settings,
    around: &Surroundings,
    idle: &BTreeSet<Name>,
) -> DnsState {
    let with_names = ledger.networks.iter().filter(|(_, n)| n.spec.dns);
    let networks = with_names.map(|(name, n)| {
        let network = DnsNetwork {
            gateways: gateways(&n.network),
            subnets: subnets(&n.network),
            bridge: n.network.bridge.clone(),
            internal: n.network.internal,
            hosts: overlay::hosts(n, around),
        };
        (name.clone(), network)
    });
    let mut state = DnsState {
        networks: networks.collect(),
        ..DnsState::default()
    };
    for accepted in ledger.containers.values().flat_map(ContainerEntry::all) {
        let own = served(ledger, accepted).flat_map(|(a, _)| a.ips()).next();
        let asks = own.filter(|_| asks_inside(ledger, accepted));
        state.inside.extend(asks.map(|ip| (accepted.id.clone(), ip)));
    }
    if state.inside.is_empty() && state.networks.values().all(|n| n.gateways.is_empty()) {
        return DnsState::default();
    }
    state.upstreams.clone_from(&settings.upstream);
    for (name, entry) in &ledger.containers {
        for beside in beside(entry) {
            let all: BTreeSet<Name> = served(ledger, beside).map(|(a, _)| a.network.clone()).collect();
            let ips = served(ledger, beside).flat_map(|(a, _)| a.ips());
            state.guests.extend(ips.map(|ip| (ip, all.clone())));
        }
        let endpoints = served(ledger, effective(entry)).map(|(a, _)| {
            let endpoint = DnsEndpoint {
                ips: addresses(a),
                names: names(entry, a, idle.contains(name)),
            };
            (a.network.clone(), endpoint)
        });
        let container = DnsContainer {
            endpoints: endpoints.collect(),
        };
        if !container.endpoints.is_empty() {
            state.containers.insert(name.clone(), container);
        }
    }
    state
}

/// Its places in networks that have the name server.
fn served<'l>(
    ledger: &'l Ledger,
    accepted: &'l Accepted,
) -> impl Iterator<Item = (&'l Attachment, &'l NetworkEntry)> {
    let places = accepted.attachments.iter();
    let entry = |a: &'l Attachment| Some((a, ledger.networks.get(&a.network)?));
    places.filter_map(entry).filter(|(_, n)| n.spec.dns)
}

/// It reaches no gateway of ours, and so asks in its own network namespace.
fn asks_inside(ledger: &Ledger, accepted: &Accepted) -> bool {
    let mut places = served(ledger, accepted).peekable();
    accepted.spec.dns.is_empty()
        && places.peek().is_some()
        && places.all(|(_, n)| gateways(&n.network).is_empty())
}

/// Those that run beside the one its name leads to.
fn beside(entry: &ContainerEntry) -> impl Iterator<Item = &Accepted> {
    let tried = entry.next.as_ref().filter(|n| n.phase.is_beside());
    let draining = entry.draining.as_ref().map(|d| &d.accepted);
    tried.map(|n| &n.accepted).into_iter().chain(draining)
}

/// The host's addresses at whose port 53 the name server listens.
pub(super) fn places<'l>(
    ledger: &'l Ledger,
    other_ports: &'l BTreeMap<Name, u16>,
) -> impl Iterator<Item = IpAddr> + 'l {
    let served = ledger.networks.iter().filter(|(_, n)| n.spec.dns);
    let usual = served.filter(|(name, _)| !other_ports.contains_key(*name));
    usual.flat_map(|(_, n)| gateways(&n.network))
}

/// Where the host has an address in it: a network that was there before, without `host_access`, has none.
fn gateways(network: &HostNetwork) -> Vec<IpAddr> {
    network.host_addresses().iter().map(IpNet::addr).collect()
}

fn subnets(network: &HostNetwork) -> Vec<IpNet> {
    network.subnets().collect()
}

/// What its names lead to there.
pub(super) fn addresses(at: &Attachment) -> Vec<IpAddr> {
    at.ips().collect()
}

/// The names of one place. An instance of a replicated service has its number's name always, and the names of all while
/// it is ready.
fn names(entry: &ContainerEntry, at: &Attachment, idle: bool) -> Vec<String> {
    let Some(place) = &entry.place else {
        return at.aliases.clone();
    };
    let own = place.numbered();
    let mut names = vec![own.clone()];
    if !idle {
        names.push(place.service.to_string());
        // The first of these is the container's name: one of the two above.
        names.extend(at.aliases.iter().skip(1).filter(|alias| **alias != own).cloned());
    }
    names
}

impl Pass<'_, '_> {
    pub(super) fn act_on_dns(&mut self) {
        let around = &self.input.observed.around;
        self.unready = self.idle();
        let wanted = wanted(&self.ledger, &self.input.desired.settings, around, &self.unready);
        self.names.clone_from(&wanted);
        let seen = match &self.input.observed.dns {
            Look::Known(seen) => seen,
            Look::Unknown(why) if wanted == DnsState::default() => {
                self.dns = Ready::Waits(format!(
                    "waits for the name server, which cannot be looked at: {why}"
                ));
                return;
            }
            Look::Unknown(why) => {
                let why = format!("cannot be looked at: {why}");
                self.dns = Ready::Waits(format!("waits for the name server, which {why}"));
                return self.wait(Noun::Dns, why, None);
            }
        };
        let mut reasons = differences(seen.as_ref(), &wanted);
        if seen.is_some() {
            reasons.extend(self.unheard(&wanted));
        }
        if reasons.is_empty() {
            return;
        }
        if self.busy(&Noun::Dns) {
            self.dns = Ready::Waits("waits for the name server".to_owned());
            self.wait(Noun::Dns, "is being changed", None);
        } else if let Some(blocked) = self.resting(&Noun::Dns, None, &wanted, &Default::default()) {
            self.dns = Ready::Waits(format!("waits for the name server: {}", blocked.why));
            self.hold_up(Noun::Dns, blocked);
        } else {
            let op = match (seen.is_some(), wanted == DnsState::default()) {
                (_, true) => Op::Remove,
                (false, _) => Op::Create,
                (true, _) => Op::Update,
            };
            let action = Action::ApplyDns { state: wanted };
            self.dns = Ready::After(self.act(op, action, Vec::new(), reasons));
        }
    }

    /// Containers that run, and that the name server does not hear in their network namespaces. Of one that is being
    /// started the start sees to that.
    fn unheard(&self, wanted: &DnsState) -> Vec<Reason> {
        let observed = self.input.observed;
        let unheard = wanted
            .inside
            .keys()
            .filter_map(|id| match Sight::of(observed, id) {
                sight @ Sight::Seen(c) if sight.is_up() && !observed.dns_inside.contains(id) => Some(&c.name),
                _ => None,
            });
        let unheard = unheard.filter(|name| !self.container_busy(name));
        let because = |name| format!("it does not listen in the network namespace of container {name}");
        unheard.map(because).map(Reason::because).collect()
    }

    /// Whether this container's names are answered where it is, or will be.
    pub(super) fn dns_for(&self, name: &Name, accepted: &Accepted) -> Ready {
        let state = &self.names;
        let mut places = accepted
            .attachments
            .iter()
            .filter_map(|a| Some((&a.network, state.networks.get(&a.network)?)))
            .peekable();
        if places.peek().is_none() || self.broken(Mutation::NamesComeLate) {
            return Ready::Now;
        }
        let seen = self.input.observed.dns.known().and_then(Option::as_ref);
        let answered = seen.is_some_and(|seen| {
            seen.containers.get(name) == state.containers.get(name)
                && seen.inside.get(&accepted.id) == state.inside.get(&accepted.id)
                && asks(accepted, seen, state)
                && places.all(|(network, wanted)| seen.networks.get(network) == Some(wanted))
        });
        if answered { Ready::Now } else { self.dns.clone() }
    }

    /// Name servers for a container's resolv.conf; none: the host's.
    pub(super) fn name_servers(&self, accepted: &Accepted) -> Vec<IpAddr> {
        let spec = &accepted.spec;
        if !spec.dns.is_empty() {
            return spec.dns.clone();
        }
        let owner = match &spec.network_mode {
            NetworkMode::Container(owner) => self.ledger.containers.get(owner).map(effective),
            NetworkMode::Bridge | NetworkMode::Host | NetworkMode::None => None,
        };
        let place = owner.unwrap_or(accepted);
        if owner.is_some() && !place.spec.dns.is_empty() {
            return place.spec.dns.clone();
        }
        if asks_inside(&self.ledger, place) {
            return vec![INSIDE.into()];
        }
        served(&self.ledger, place)
            .map(|(_, n)| n)
            // The other gateways are the same server's, and some libraries ask all at once.
            .filter_map(|n| gateways(&n.network).into_iter().next())
            .collect()
    }
}

/// As one beside the one its name leads to, it may ask.
fn asks(accepted: &Accepted, seen: &DnsState, wanted: &DnsState) -> bool {
    let mut ips = accepted.attachments.iter().flat_map(Attachment::ips);
    ips.all(|ip| seen.guests.get(&ip) == wanted.guests.get(&ip))
}

fn differences(seen: Option<&DnsState>, wanted: &DnsState) -> Vec<Reason> {
    let nothing = DnsState::default();
    let Some(seen) = seen else {
        let because = Reason::because("the name server does not run");
        return if *wanted == nothing {
            Vec::new()
        } else {
            vec![because]
        };
    };
    if seen == wanted {
        return Vec::new();
    }
    if *wanted == nothing {
        return vec![Reason::because("no network has it any more")];
    }
    let mut reasons = Vec::new();
    let mut say = |what: &str, names: Vec<Name>| {
        if !names.is_empty() {
            reasons.push(Reason::because(format!("{what} {}", listed(&names))));
        }
    };
    say("names of network", changed(&seen.networks, &wanted.networks));
    say("no more names of network", gone(&seen.networks, &wanted.networks));
    let containers = changed(&seen.containers, &wanted.containers);
    let fewer = |name: &Name| has_fewer(seen.containers.get(name), wanted.containers.get(name));
    let (fewer, others) = containers.into_iter().partition(fewer);
    say("names of container", others);
    say("fewer names of container", fewer);
    say(
        "no more names of container",
        gone(&seen.containers, &wanted.containers),
    );
    if seen.upstreams != wanted.upstreams {
        reasons.push(Reason::because("other servers are asked for all other names"));
    }
    if wanted
        .guests
        .iter()
        .any(|(ip, of)| seen.guests.get(ip) != Some(of))
    {
        reasons.push(Reason::because("one that is on trial or drains asks as well"));
    } else if seen.guests != wanted.guests {
        reasons.push(Reason::because("one that was on trial or drained asks no more"));
    }
    if seen.inside != wanted.inside && reasons.is_empty() {
        reasons.push(Reason::because(
            "other containers ask in their own network namespaces",
        ));
    }
    reasons
}

/// Those that are new, or that something else is said of.
fn changed<T: PartialEq>(seen: &BTreeMap<Name, T>, wanted: &BTreeMap<Name, T>) -> Vec<Name> {
    let new = wanted.iter().filter(|(name, w)| seen.get(*name) != Some(w));
    new.map(|(name, _)| name.clone()).collect()
}

/// It is where it was, and answers to nothing new.
fn has_fewer(seen: Option<&DnsContainer>, wanted: Option<&DnsContainer>) -> bool {
    let (Some(seen), Some(wanted)) = (seen, wanted) else {
        return false;
    };
    wanted.endpoints.iter().all(|(network, is)| {
        let was = seen.endpoints.get(network);
        was.is_some_and(|was| was.ips == is.ips && is.names.iter().all(|name| was.names.contains(name)))
    })
}

fn gone<T>(seen: &BTreeMap<Name, T>, wanted: &BTreeMap<Name, T>) -> Vec<Name> {
    let gone = seen.keys().filter(|name| !wanted.contains_key(*name));
    gone.cloned().collect()
}

fn listed(names: &[Name]) -> String {
    let first: Vec<&str> = names.iter().take(LISTED).map(Name::as_str).collect();
    match names.len().checked_sub(LISTED).filter(|more| *more > 0) {
        Some(more) => format!("{} and {more} more", first.join(", ")),
        None => first.join(", "),
    }
}
