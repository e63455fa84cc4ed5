//! The keys of a network's IPv6.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

use crate::spec::{NetworkDriver, NetworkSpec};

use super::super::reader::{Item, Table};

/// A link that carries IPv6 takes packets of this size (RFC 8200, section 5).
const LEAST_MTU: u32 = 1280;

pub(super) fn read(table: &Table<'_>, spec: &mut NetworkSpec) {
    table.fill("subnet6", &mut spec.subnet6, subnet);
    table.fill("gateway6", &mut spec.gateway6, |item| {
        item.parsed("an IPv6 address")
    });
    table.fill("range6", &mut spec.range6, subnet);
    table.set("ipv6", &mut spec.ipv6, Item::boolean);
    table.set("ipv4", &mut spec.ipv4, Item::boolean);
    table.set("masquerade6", &mut spec.masquerade6, Item::boolean);
}

/// An IPv6 network written by its first address.
pub(in crate::file) fn subnet(item: &Item<'_>) -> Option<Ipv6Net> {
    let net: Ipv6Net = item.parsed("an IPv6 network like \"fd00:80::/64\"")?;
    if net != net.trunc() {
        item.fault(
            format!("has {net}, which is an address inside of a network"),
            &format!("write \"{}\"", net.trunc()),
        );
        return None;
    }
    Some(net)
}

/// Why containers cannot have addresses of it; none where they can.
pub(in crate::file) fn unusable(net: Ipv6Net) -> Option<&'static str> {
    let ip = net.addr();
    let inside = |other: &str| other.parse::<Ipv6Net>().is_ok_and(|other| other.contains(&ip));
    if ip.is_multicast() {
        Some("is for multicast")
    } else if ip.is_unicast_link_local() {
        Some("is for the addresses of single links")
    } else if inside("::/8") {
        Some("is reserved")
    } else {
        None
    }
}

/// Subnet, gateway and range fit together, and with the rest of the table.
pub(super) fn check(table: &Table<'_>, spec: &NetworkSpec) {
    of_none(table, spec);
    if !spec.ipv4 {
        alone(table, spec);
    }
    if let Some(subnet) = spec.subnet6 {
        fits(table, spec, subnet);
    }
    if let Some(mtu) = spec.mtu.filter(|mtu| spec.has_ipv6() && *mtu < LEAST_MTU) {
        let message = format!("an `mtu` of {mtu} is too small for IPv6");
        table.fault(Some("mtu"), message, "at least 1280 (RFC 8200)");
    }
}

/// What says something about an IPv6 that the network has not.
fn of_none(table: &Table<'_>, spec: &NetworkSpec) {
    let about = ["gateway6", "range6"].into_iter().filter(|key| table.has(key));
    // A subnet that is written but wrong has its own error.
    for key in about.filter(|_| !table.has("subnet6")) {
        let message = format!("`{key}` needs a `subnet6` that it is part of");
        table.fault(Some(key), message, "write the subnet too");
    }
    if table.has("masquerade6") && !spec.has_ipv6() && !table.has("subnet6") {
        let message = "`masquerade6` means nothing without IPv6".to_owned();
        table.fault(
            Some("masquerade6"),
            message,
            "write a `subnet6`, or `ipv6 = true` to have one picked",
        );
    }
    if table.has("ipv6") && !spec.ipv6 && table.has("subnet6") {
        let message = "`ipv6` is false, and there is a `subnet6`".to_owned();
        table.fault(Some("ipv6"), message, "take one of the two out");
    }
}

/// What does not go without IPv4.
fn alone(table: &Table<'_>, spec: &NetworkSpec) {
    for key in ["subnet", "gateway", "range", "masquerade"]
        .into_iter()
        .filter(|key| table.has(key))
    {
        let message = format!("`{key}` is of IPv4, and `ipv4` is false");
        let hint = format!("take one of the two out; `{key}6` is of IPv6");
        table.fault(Some(key), message, &hint);
    }
    if table.has("ipv6") && !spec.ipv6 && !table.has("subnet6") {
        let message = "`ipv4` is false, and so is `ipv6`: the network has no addresses".to_owned();
        table.fault(Some("ipv4"), message, "take one of the two out");
    }
    if matches!(spec.driver, NetworkDriver::Overlay | NetworkDriver::Ovs) {
        let message = "`ipv4 = false` is not supported yet for an overlay".to_owned();
        let hint = "take it out; `subnet6` gives an overlay IPv6 beside IPv4";
        table.fault(Some("ipv4"), message, hint);
    }
}

fn fits(table: &Table<'_>, spec: &NetworkSpec, subnet: Ipv6Net) {
    if subnet.prefix_len() > 126 || subnet.prefix_len() < 16 {
        let message = format!("`subnet6` {subnet} has a prefix of {} bits", subnet.prefix_len());
        table.fault(
            Some("subnet6"),
            message,
            "from /16 to /126: a gateway and at least one container need an address",
        );
        return;
    }
    if let Some(why) = unusable(subnet) {
        let message = format!("`subnet6` {subnet} {why}");
        table.fault(
            Some("subnet6"),
            message,
            "use a part of fd00::/8 (RFC 4193), or of what is routed to this host",
        );
    }
    if let Some(gateway) = spec.gateway6 {
        gateway_in(table, subnet, gateway);
    }
    if let Some(range) = spec.range6.filter(|range| !subnet.contains(range)) {
        let message = format!("`range6` {range} is not inside of the subnet {subnet}");
        table.fault(Some("range6"), message, "");
    }
}

fn gateway_in(table: &Table<'_>, subnet: Ipv6Net, gateway: Ipv6Addr) {
    let problem = if !subnet.contains(&gateway) {
        "is not inside of the subnet"
    } else if gateway == subnet.network() {
        "is the address of every router (RFC 4291) of"
    } else {
        return;
    };
    let message = format!("`gateway6` {gateway} {problem} {subnet}");
    let second = subnet.hosts().nth(1).unwrap_or(gateway);
    table.fault(Some("gateway6"), message, &format!("the usual one is {second}"));
}
