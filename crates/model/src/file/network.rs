//! `[network.NAME]`.

pub(super) mod ipv6;
mod lan;
pub(super) mod overlay;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::spec::{NetworkDriver, NetworkSpec};

use super::known;
use super::reader::{Item, Table};

/// Reads one table.
pub(super) fn read(table: &Table<'_>) -> NetworkSpec {
    let mut spec = NetworkSpec::default();
    table.set("driver", &mut spec.driver, |item| {
        Some(match item.word()?.0 {
            "macvlan" => NetworkDriver::Macvlan,
            "ipvlan" => NetworkDriver::Ipvlan,
            "overlay" => NetworkDriver::Overlay,
            "ovs" => NetworkDriver::Ovs,
            _ => NetworkDriver::Bridge,
        })
    });
    table.fill("subnet", &mut spec.subnet, subnet);
    table.fill("gateway", &mut spec.gateway, |item| {
        item.parsed("an IPv4 address")
    });
    table.fill("range", &mut spec.range, subnet);
    table.set("internal", &mut spec.internal, Item::boolean);
    table.set("icc", &mut spec.icc, Item::boolean);
    table.fill("mtu", &mut spec.mtu, Item::integer);
    table.set("masquerade", &mut spec.masquerade, Item::boolean);
    table.fill("bridge", &mut spec.bridge, device);
    table.set("dns", &mut spec.dns, Item::boolean);
    ipv6::read(table, &mut spec);
    table.set("adopt", &mut spec.adopt, Item::boolean);
    table.fill("parent", &mut spec.parent, device);
    table.set("host_access", &mut spec.host_access, Item::boolean);
    let inner = table.table("overlay");
    spec.overlay = inner.as_ref().map(overlay::read);
    if spec.ipv4 {
        addresses(table, &spec);
    }
    ipv6::check(table, &spec);
    overlay::check(table, inner.as_ref(), &spec);
    lan::check(table, &spec);
    spec
}

/// An IPv4 network written by its first address.
pub(super) fn subnet(item: &Item<'_>) -> Option<Ipv4Net> {
    let net: Ipv4Net = item.parsed("an IPv4 network like \"10.80.0.0/24\"")?;
    if net != net.trunc() {
        item.fault(
            format!("has {net}, which is an address inside of a network"),
            &format!("write \"{}\"", net.trunc()),
        );
        return None;
    }
    Some(net)
}

fn device(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    if !known::is_device_name(text) {
        item.fault(
            format!("must be a device's name, not {text:?}"),
            "1 to 15 characters without blanks, '/', ':' and '%'",
        );
        return None;
    }
    Some(text.to_owned())
}

/// Subnet, gateway and range fit together.
fn addresses(table: &Table<'_>, spec: &NetworkSpec) {
    let Some(subnet) = spec.subnet else {
        for key in ["gateway", "range"].into_iter().filter(|key| table.has(key)) {
            // A subnet that is written but wrong has its own error.
            if !table.has("subnet") {
                let message = format!("`{key}` needs a `subnet` that it is part of");
                table.fault(Some(key), message, "write the subnet too");
            }
        }
        return;
    };
    if subnet.prefix_len() > 30 || subnet.prefix_len() < 8 {
        let message = format!("`subnet` {subnet} has a prefix of {} bits", subnet.prefix_len());
        table.fault(
            Some("subnet"),
            message,
            "from /8 to /30: a gateway and at least one container need an address",
        );
        return;
    }
    if !usable(subnet.addr()) {
        let message = format!("`subnet` {subnet} is not for hosts");
        table.fault(
            Some("subnet"),
            message,
            "use a part of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16",
        );
    }
    if let Some(gateway) = spec.gateway {
        gateway_in(table, subnet, gateway);
    }
    if let Some(range) = spec.range.filter(|range| !subnet.contains(range)) {
        let message = format!("`range` {range} is not inside of the subnet {subnet}");
        table.fault(Some("range"), message, "");
    }
}

fn usable(ip: Ipv4Addr) -> bool {
    !(ip.is_loopback()
        || ip.is_multicast()
        || ip.is_unspecified()
        || ip.is_link_local()
        || ip.octets()[0] >= 240)
        && ip.octets()[0] != 0
}

fn gateway_in(table: &Table<'_>, subnet: Ipv4Net, gateway: Ipv4Addr) {
    let problem = if !subnet.contains(&gateway) {
        "is not inside of the subnet"
    } else if gateway == subnet.network() {
        "is the network address of"
    } else if gateway == subnet.broadcast() {
        "is the broadcast address of"
    } else {
        return;
    };
    let message = format!("`gateway` {gateway} {problem} {subnet}");
    let first = subnet.hosts().next().unwrap_or(gateway);
    table.fault(Some("gateway"), message, &format!("the usual one is {first}"));
}
