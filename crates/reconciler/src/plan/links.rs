//! Links: where they lead, what the containers that have them are told, and what is let through for them.
//!
//! The environment is told once, when a container is made. `/etc/hosts` and the firewall follow the linked container to
//! whatever address it has: while one takes another's place both are let through, until the older one has gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::firewall::{LinkRule, Protocol};
use model::ledger::{Accepted, ContainerEntry, Ledger};
use model::links::{self, Linked};
use model::name::Name;
use model::network::Attachment;
use model::plan::Reason;
use model::spec::{ContainerSpec, LinkSpec};

use super::firewall::effective;
use super::published::exposed;
use super::{Blocked, Pass};

/// Ports that a link leads to at most: an image that exposes more means "whatever comes".
const MOST_PORTS: usize = 256;

/// What is let through between containers that do not reach each other otherwise.
pub(super) fn rules(ledger: &Ledger) -> Vec<LinkRule> {
    if !ledger.networks.values().any(|n| n.network.isolated) {
        return Vec::new();
    }
    let mut services: BTreeMap<&Name, Vec<&ContainerEntry>> = BTreeMap::new();
    for (name, entry) in &ledger.containers {
        let service = entry.place.as_ref().map_or(name, |place| &place.service);
        services.entry(service).or_default().push(entry);
    }
    let mut rules = Vec::new();
    for from in ledger.accepted().map(|(_, accepted)| accepted) {
        let targets = from
            .spec
            .links
            .iter()
            .filter_map(|link| services.get(&link.container));
        for to in targets.flatten().flat_map(|entry| reached(entry)) {
            rules.extend(between(ledger, from, to));
        }
    }
    rules
}

/// Who is led to by the name: the one that has it, and the one before, which ends what it has begun.
fn reached(entry: &ContainerEntry) -> impl Iterator<Item = &Accepted> {
    let draining = entry.draining.as_ref().map(|draining| &draining.accepted);
    std::iter::once(effective(entry)).chain(draining)
}

/// On networks as they are now: whoever still has a place on one as it was is given another.
fn between(ledger: &Ledger, from: &Accepted, to: &Accepted) -> Vec<LinkRule> {
    let ports = ports(to);
    let mut rules = Vec::new();
    for a in from.attachments.iter() {
        let network = ledger.networks.get(&a.network).map(|entry| &entry.network);
        let Some(network) = network.filter(|network| network.isolated) else {
            continue;
        };
        let there = to.attachments.iter().filter(|b| b.network == a.network);
        let pairs = there.flat_map(|b| a.ips().flat_map(move |x| b.ips().map(move |y| (x, y))));
        let inside =
            |(x, y): &(IpAddr, IpAddr)| network.subnets().any(|net| net.contains(x) && net.contains(y));
        for (from, to) in pairs.filter(inside) {
            rules.extend(ports.iter().map(|(protocol, port)| LinkRule {
                bridge: network.bridge.clone(),
                from,
                to,
                protocol: *protocol,
                port: *port,
            }));
        }
    }
    rules
}

/// What a container listens on as far as its image and its table say, TCP first; no more than can be told.
fn ports(of: &Accepted) -> Vec<(Protocol, u16)> {
    let image = of
        .image
        .as_ref()
        .map_or(&[][..], |image| &image.config.exposed_ports);
    let exposed = exposed(image);
    let all = exposed.iter().chain(&of.spec.ports);
    let each = all.flat_map(|p| (p.container.0..=p.container.1).map(|port| (p.protocol, port)));
    let each: BTreeSet<(Protocol, u16)> = each.collect();
    each.into_iter().take(MOST_PORTS + 1).collect()
}

/// The image's, what the table says instead in its place.
fn environment(of: &Accepted) -> Vec<String> {
    let image = of.image.as_ref().map_or(&[][..], |image| &image.config.env);
    let own = |entry: &&String| {
        let name = entry.split('=').next().unwrap_or_default();
        !of.spec.env.contains_key(name)
    };
    let table = of.spec.env.iter().map(|(name, value)| format!("{name}={value}"));
    image.iter().filter(own).cloned().chain(table).collect()
}

impl Pass<'_, '_> {
    /// What a container is told of those it is linked to, as they are now.
    pub(super) fn links_of(&self, accepted: &Accepted) -> Vec<Linked> {
        let links = accepted.spec.links.iter();
        links.map(|link| self.linked(accepted, link)).collect()
    }

    fn linked(&self, accepted: &Accepted, link: &LinkSpec) -> Linked {
        let instances = self.instances(&link.container).into_iter();
        let there: Vec<(&Name, &Accepted)> = instances
            .filter_map(|name| Some((name, effective(self.ledger.containers.get(name)?))))
            .collect();
        let first = there.first().map(|(_, first)| *first);
        let network = first
            .and_then(|first| shared(accepted, first))
            .map(|at| &at.network);
        let ips = |of: &Accepted| -> Vec<IpAddr> {
            let at = of.attachments.iter().find(|at| Some(&at.network) == network);
            at.into_iter().flat_map(Attachment::ips).collect()
        };
        let ready = there.iter().filter(|(name, _)| !self.unready.contains(*name));
        Linked {
            target: link.container.clone(),
            alias: link.alias.to_string(),
            ips: ready.flat_map(|(_, of)| ips(of)).collect(),
            ip: first.and_then(|first| ips(first).into_iter().next()),
            ports: first.map(ports).unwrap_or_default(),
            env: first.map(environment).unwrap_or_default(),
        }
    }

    /// Why its hosts file does not lead where its links lead now; `had`: the lines it has.
    pub(super) fn led_elsewhere(&self, accepted: &Accepted, had: &[String]) -> Option<Reason> {
        if accepted.spec.links.is_empty() {
            return None;
        }
        let links = self.links_of(accepted);
        if links::lines(&links) == had {
            return None;
        }
        let is_news = |link: &&Linked| link.lines().iter().any(|line| !had.contains(line));
        let link = links.iter().find(is_news).or(links.first())?;
        let ips: Vec<String> = link.ips.iter().map(ToString::to_string).collect();
        let at = accepted.origin.key("links");
        let why = match &*ips {
            [] => format!("its link {} leads nowhere now", link.alias),
            ips => format!("its link {} leads to {} now", link.alias, ips.join(", ")),
        };
        Some(Reason {
            file: Some(at.file).filter(|file| !file.is_empty()),
            line: at.line,
            ..Reason::because(why)
        })
    }

    /// Every port of a link is told in the environment, and let through by a rule of its own.
    pub(super) fn links_can_be_told(&self, spec: &ContainerSpec) -> Result<(), Blocked> {
        let entry = |link: &LinkSpec| {
            Some((
                link.container.clone(),
                self.ledger.containers.get(&link.container)?,
            ))
        };
        let mut entries = spec.links.iter().filter_map(entry);
        let many = entries.find(|(_, entry)| ports(effective(entry)).len() > MOST_PORTS);
        many.map_or(Ok(()), |(name, _)| {
            Err(Blocked::error(format!(
                "is linked to container {name}, whose image exposes more than {MOST_PORTS} ports; use its name, without a link"
            )))
        })
    }
}

/// Where both are: the first network of the one that has the link.
fn shared<'a>(accepted: &'a Accepted, other: &Accepted) -> Option<&'a Attachment> {
    let has = |at: &&Attachment| other.attachments.iter().any(|there| there.network == at.network);
    accepted.attachments.iter().find(has)
}

/// The containers of a rule, for messages.
pub(super) fn described(rule: &LinkRule, ledger: &Ledger) -> String {
    let who = |ip: IpAddr| {
        let lives = |accepted: &Accepted| {
            let mut places = accepted.attachments.iter();
            places.any(|at| at.bridge == rule.bridge && at.ips().any(|own| own == ip))
        };
        let found = ledger.accepted().find(|(_, accepted)| lives(accepted));
        found.map_or_else(|| ip.to_string(), |(name, _)| format!("container {name}"))
    };
    format!("the link from {} to {}", who(rule.from), who(rule.to))
}
