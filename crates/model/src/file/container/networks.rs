//! `networks`, `network_mode`, names and name servers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::spec::{ContainerSpec, LinkSpec, NetworkMode, NetworkUse};

use super::super::known;
use super::super::reader::{Item, Table};
use super::super::tree::Value;

pub(super) fn read(table: &Table<'_>, spec: &mut ContainerSpec) {
    table.set("networks", &mut spec.networks, networks);
    table.set("network_mode", &mut spec.network_mode, |item| {
        Some(match item.word()? {
            ("host", _) => NetworkMode::Host,
            ("none", _) => NetworkMode::None,
            ("container:", name) => NetworkMode::Container(item.named(name)?),
            _ => NetworkMode::Bridge,
        })
    });
    table.set("links", &mut spec.links, links);
    table.set("dns", &mut spec.dns, |item| {
        item.each(|ip| ip.parsed("an IP address"))
    });
    table.set("dns_search", &mut spec.dns_search, |item| item.each(domain));
    table.set("extra_hosts", &mut spec.extra_hosts, extra_hosts);
}

fn networks(item: &Item<'_>) -> Option<Vec<NetworkUse>> {
    if let Value::Array(_) = &item.node.value {
        return list(item);
    }
    if !matches!(item.node.value, Value::Table(_)) {
        item.mismatch(
            "an array of names or a table",
            Some("put it in brackets: [\"front\"]"),
        );
        return None;
    }
    let mut uses: Vec<NetworkUse> = item
        .entries()?
        .into_iter()
        .filter_map(|(name, entry, inner)| {
            let network = inner.named(name)?;
            let path = format!("{}.*", item.path).into();
            let place = entry.place().clone();
            let table = Item { path, place, ..inner }.table()?;
            Some(one(&table, NetworkUse::new(network)))
        })
        .collect();
    // Keys of a table have no order of their own.
    uses.sort_by(|a, b| {
        b.priority
            .cmp(&a.priority)
            .then_with(|| a.network.cmp(&b.network))
    });
    Some(uses)
}

fn list(item: &Item<'_>) -> Option<Vec<NetworkUse>> {
    let mut seen = BTreeSet::new();
    item.each(|entry| {
        let name = entry.name()?;
        if !seen.insert(name.clone()) {
            entry.fault(
                format!("names {name} a second time"),
                "a container joins a network once",
            );
        }
        Some(NetworkUse::new(name))
    })
}

fn one(table: &Table<'_>, mut found: NetworkUse) -> NetworkUse {
    table.fill("ip", &mut found.ip, |item| item.parsed("an IPv4 address"));
    table.fill("ip6", &mut found.ip6, |item| item.parsed("an IPv6 address"));
    table.fill("mac", &mut found.mac, |item| {
        let mac: crate::network::MacAddr = item.or_fault(item.text()?.parse())?;
        if mac.0[0] & 1 == 1 {
            item.fault("is a multicast address", "the first byte has to be even");
        }
        Some(mac)
    });
    table.set("aliases", &mut found.aliases, |item| item.each(Item::name));
    table.set("priority", &mut found.priority, Item::integer);
    found.aliases.sort();
    found.aliases.dedup();
    found
}

/// `NAME[:ALIAS]`.
fn link(item: &Item<'_>) -> Option<LinkSpec> {
    let text = item.text()?;
    let (name, alias) = text.split_once(':').unwrap_or((text, text));
    let (container, alias) = (item.named(name)?, item.named(alias)?);
    Some(LinkSpec { container, alias })
}

/// A name leads to one container.
fn links(item: &Item<'_>) -> Option<Vec<LinkSpec>> {
    let mut seen = BTreeSet::new();
    item.each(|entry| {
        let link = link(entry)?;
        if !seen.insert(link.alias.clone()) {
            entry.fault(
                format!("has the alias {} a second time", link.alias),
                "give each container another alias: \"NAME:ALIAS\"",
            );
        }
        Some(link)
    })
}

fn domain(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    if text != "." && !known::is_dns_name(text) {
        item.fault(format!("must be a domain, not {text:?}"), "");
        return None;
    }
    Some(text.to_owned())
}

fn extra_hosts(item: &Item<'_>) -> Option<BTreeMap<String, IpAddr>> {
    let mut hosts = BTreeMap::new();
    for (name, entry, inner) in item.entries()? {
        if !known::is_dns_name(name) {
            let message = format!("`{}` is no host name", inner.label);
            item.report.push(&entry.key, message, None);
        }
        let hint = format!("names with dots are quoted: \"{name}.example\" = \"10.0.0.9\"");
        match &inner.node.value {
            Value::Table(_) => inner.mismatch("an IP address", Some(&hint)),
            _ => {
                if let Some(ip) = inner.parsed("an IP address") {
                    hosts.insert(name.to_owned(), ip);
                }
            }
        }
    }
    Some(hosts)
}
