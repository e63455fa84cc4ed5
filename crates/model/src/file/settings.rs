//! `wharf.toml`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::spec::{ClusterSettings, EtcdUrl, FirewallChoice, RegistrySettings, Settings};

use super::network;
use super::reader::{Item, Table};

/// Reads the whole file.
pub(super) fn read(root: &Table<'_>) -> Settings {
    let mut settings = Settings::default();
    if let Some(table) = root.table("agent") {
        agent(&table, &mut settings);
    }
    if let Some(table) = root.table("network") {
        table.set("pool", &mut settings.pool, |item| pool(item));
        table.fill("pool6", &mut settings.pool6, pool6);
    }
    if let Some(table) = root.table("firewall") {
        table.set("backend", &mut settings.firewall, |item| {
            Some(match item.word()?.0 {
                "nftables" => FirewallChoice::Nftables,
                "iptables" => FirewallChoice::Iptables,
                "none" => FirewallChoice::None,
                _ => FirewallChoice::Auto,
            })
        });
    }
    if let Some(table) = root.table("dns") {
        table.set("upstream", &mut settings.upstream, |item| {
            item.each(|ip| ip.parsed("an IP address"))
        });
    }
    root.set("registry", &mut settings.registries, registries);
    settings.cluster = root.table("cluster").map(|table| cluster(&table));
    later(root, &mut settings);
    settings
}

fn agent(table: &Table<'_>, settings: &mut Settings) {
    table.set("removal_grace", &mut settings.removal_grace, Item::duration);
    table.set("full_pass", &mut settings.full_pass, Item::some_duration);
    table.set("default_host_ip", &mut settings.default_host_ip, |item| {
        item.parsed("an IPv4 address")
    });
    if let Some(table) = table.table("registries") {
        table.set("search", &mut settings.search, |item| item.each(Item::filled));
    }
}

/// Pools that hold at least one /24 and do not overlap.
fn pool(item: &Item<'_>) -> Option<Vec<ipnet::Ipv4Net>> {
    let nets = item.each(|entry| {
        let net = network::subnet(entry)?;
        if !(8..=24).contains(&net.prefix_len()) {
            entry.fault(
                format!("has {net}, which holds no /24"),
                "a pool is from /8 to /24",
            );
            return None;
        }
        Some(net)
    })?;
    if nets.is_empty() && item.list()?.len() == 0 {
        item.fault("is empty", "networks without a subnet get one of these");
        return None;
    }
    for (n, net) in nets.iter().enumerate() {
        if let Some(other) = nets[..n].iter().find(|o| o.contains(net) || net.contains(*o)) {
            item.fault(
                format!("has {net}, which overlaps {other}"),
                "take one of them out",
            );
        }
    }
    Some(nets)
}

/// A pool that holds at least one /64.
fn pool6(item: &Item<'_>) -> Option<ipnet::Ipv6Net> {
    let net = network::ipv6::subnet(item)?;
    if !(16..=64).contains(&net.prefix_len()) {
        item.fault(
            format!("has {net}, which holds no /64"),
            "a pool is from /16 to /64",
        );
        return None;
    }
    if let Some(why) = network::addresses::unusable6(net) {
        item.fault(
            format!("has {net}, which {why}"),
            "use a part of fd00::/8 (RFC 4193), or of what is routed to this host",
        );
        return None;
    }
    Some(net)
}

fn registries(item: &Item<'_>) -> Option<BTreeMap<String, RegistrySettings>> {
    let mut found = BTreeMap::new();
    for (host, entry, _) in item.entries()? {
        if host.is_empty() || host.contains(['/', '@']) || host.contains(char::is_whitespace) {
            let message = format!("{host:?} is no registry's HOST[:PORT]");
            let hint = "write [registry.\"registry.example:5000\"]";
            item.report.push(&entry.key, message, Some(hint.to_owned()));
        }
        let Some(table) = item.member("registry", host, entry) else {
            continue;
        };
        found.insert(host.to_owned(), registry(&table));
    }
    Some(found)
}

fn registry(table: &Table<'_>) -> RegistrySettings {
    let mut spec = RegistrySettings::default();
    table.fill("insecure", &mut spec.insecure, Item::boolean);
    table.fill("mirror_of", &mut spec.mirror_of, mirrored);
    table.fill("ca", &mut spec.ca, Item::path);
    table.fill("username", &mut spec.username, Item::filled);
    table.fill("password_file", &mut spec.password_file, Item::path);
    spec
}

/// In lower case, as references have it.
fn mirrored(item: &Item<'_>) -> Option<String> {
    let registry = item.filled()?;
    if registry.contains(['/', '@']) || registry.contains(char::is_whitespace) {
        item.fault(
            format!("is {registry:?}, which is no registry's HOST[:PORT]"),
            "name the registry alone: mirror_of = \"docker.io\"",
        );
        return None;
    }
    Some(registry.to_ascii_lowercase())
}

fn cluster(table: &Table<'_>) -> ClusterSettings {
    let mut spec = ClusterSettings::default();
    table.set("etcd", &mut spec.etcd, |item| {
        let urls = item.each(|url| url.or_fault(url.text()?.parse::<EtcdUrl>()))?;
        if item.list()?.len() == 0 {
            item.fault(
                "is empty",
                "name at least one member of etcd, or take out [cluster]",
            );
        }
        Some(urls)
    });
    if !table.has("etcd") {
        table.missing(
            "etcd",
            "the URLs of its members: etcd = [\"http://192.0.2.1:2379\"]",
        );
    }
    table.fill("host", &mut spec.host, network::overlay::host);
    table.set("lease", &mut spec.lease, lease);
    table.fill("ca", &mut spec.ca, Item::path);
    spec
}

/// etcd counts in seconds, and takes nothing shorter than a few of its elections.
fn lease(item: &Item<'_>) -> Option<Duration> {
    let lease = item.duration()?;
    let whole = lease.subsec_nanos() == 0;
    if !whole || !(5..=24 * 3600).contains(&lease.as_secs()) {
        item.fault(
            format!(
                "must be whole seconds, from \"5s\" to \"24h\", not {:?}",
                item.text()?
            ),
            "how long this host counts as there without being heard of",
        );
        return None;
    }
    Some(lease)
}

/// Tables of later issues.
fn later(root: &Table<'_>, settings: &mut Settings) {
    if let Some(table) = root.table("gc") {
        table.set("max_age", &mut settings.gc_max_age, Item::duration);
        table.set("keep_free", &mut settings.gc_keep_free, percent);
    }
    if let Some(table) = root.table("host") {
        table.set("labels", &mut settings.labels, |item| item.texts(|_| None));
    }
}

fn percent(item: &Item<'_>) -> Option<u8> {
    let text = item.text()?;
    let value = text
        .strip_suffix('%')
        .and_then(|n| n.parse().ok())
        .filter(|n| *n < 100);
    if value.is_none() {
        item.fault(format!("must be a percentage like \"10%\", not {text:?}"), "");
    }
    value
}
