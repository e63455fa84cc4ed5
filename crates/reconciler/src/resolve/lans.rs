//! Networks that were there before (macvlan, ipvlan, adopted bridges): what a container cannot have of them, and who
//! cannot be below the same device.

use std::collections::BTreeMap;

use model::name::Name;
use model::spec::{ContainerSpec, NetworkDriver, NetworkSpec, Parsed};

use super::{Findings, Party, Tables, uses};

/// Finds published ports that nobody could reach, MAC addresses that cannot be had, and devices that cannot be parents of both kinds.
pub(super) fn check(tables: &Tables<'_>, found: &mut Findings) {
    for container in tables.containers() {
        ports(container, tables, found);
        macs(container, tables, found);
    }
    parents(tables, found);
}

/// A network of a container, as far as it is declared.
fn networks<'t>(
    container: &Parsed<ContainerSpec>,
    tables: &Tables<'t>,
) -> Vec<(Name, Option<&'t NetworkSpec>)> {
    let of = |name: &Name| tables.networks.get(name).and_then(|list| list.first());
    let one = |name: Name| {
        let spec = of(&name).map(|table| &table.spec);
        (name, spec)
    };
    uses(&container.spec)
        .into_iter()
        .map(|u| one(u.network))
        .collect()
}

/// What is published is led to a container by this host, and its answers come back through this host: the way out of the
/// container has to be over a network that this host is the gateway of.
fn ports(container: &Parsed<ContainerSpec>, tables: &Tables<'_>, found: &mut Findings) {
    let key = match &container.spec {
        spec if !spec.ports.is_empty() => "ports",
        spec if spec.publish_all => "publish_all",
        _ => return,
    };
    let networks = networks(container, tables);
    let is_lan = |spec: Option<&NetworkSpec>| spec.is_some_and(NetworkSpec::is_lan);
    let lans = networks.iter().filter(|(_, spec)| is_lan(*spec)).count();
    if lans == 0 {
        return;
    }
    if lans == networks.len() {
        let message = format!("`{key}` needs a network other than macvlan, ipvlan and adopted bridges");
        let hint = "on these the container's own address is reachable as it is";
        return found.refuse(container, key, message, hint);
    }
    for family in [has_ipv4, has_ipv6] {
        let mut of_family = networks.iter().filter(|(_, spec)| family(*spec));
        let out = of_family.find(|(_, spec)| spec.is_none_or(|spec| !spec.internal));
        let routed = networks.iter().any(|(_, spec)| !is_lan(*spec) && family(*spec));
        if let Some((name, _)) = out.filter(|(_, spec)| routed && is_lan(*spec)) {
            let message = format!(
                "container {} publishes ports, and its default route is over network {name}, where this host is not the gateway: answers would leave there",
                container.name
            );
            let hint = "name a network that this host is the gateway of first in `networks`";
            return found.refuse(container, key, message, hint);
        }
    }
}

/// One that is not declared here is taken for one that has it.
fn has_ipv4(spec: Option<&NetworkSpec>) -> bool {
    spec.is_none_or(|spec| spec.ipv4)
}

fn has_ipv6(spec: Option<&NetworkSpec>) -> bool {
    spec.is_some_and(NetworkSpec::has_ipv6)
}

/// All that are below one device as ipvlan have its MAC address.
fn macs(container: &Parsed<ContainerSpec>, tables: &Tables<'_>, found: &mut Findings) {
    let written = container.spec.networks.iter().filter(|u| u.mac.is_some());
    for usage in written {
        let table = tables.networks.get(&usage.network).and_then(|list| list.first());
        if table.is_some_and(|table| table.spec.driver == NetworkDriver::Ipvlan) {
            let message = format!(
                "container {} has a `mac` in network {}, whose containers have that of its parent (ipvlan)",
                container.name, usage.network
            );
            found.refuse(container, "networks", message, "take it out, or use macvlan");
            return;
        }
    }
}

/// What a device receives is the kernel's to give to macvlans, or to ipvlans.
fn parents(tables: &Tables<'_>, found: &mut Findings) {
    let mut by_parent: BTreeMap<&str, Vec<&Parsed<NetworkSpec>>> = BTreeMap::new();
    for network in tables.networks() {
        if let Some(parent) = &network.spec.parent {
            by_parent.entry(parent).or_default().push(network);
        }
    }
    for (parent, list) in by_parent {
        let [first, rest @ ..] = &list[..] else { continue };
        let differs = |n: &&&Parsed<NetworkSpec>| n.spec.driver != first.spec.driver;
        let Some(other) = rest.iter().find(differs) else {
            continue;
        };
        let parties = [
            Party::of("network", first, "parent"),
            Party::of("network", other, "parent"),
        ];
        let message = format!(
            "{parent} is the parent of macvlan and of ipvlan interfaces, and can only be that of one kind"
        );
        found.contradiction(message, "use the same driver for both", &parties);
    }
}
