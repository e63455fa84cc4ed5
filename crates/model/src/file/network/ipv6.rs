//! The keys of a network's IPv6.

use ipnet::Ipv6Net;

use crate::spec::{NetworkDriver, NetworkSpec};

use super::super::reader::{Item, Table};
use super::addresses::{self, Addresses};

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
    addresses::subnet(item, "an IPv6 network like \"fd00:80::/64\"")
}

/// Subnet, gateway and range fit together, and with the rest of the table.
pub(super) fn check(table: &Table<'_>, spec: &NetworkSpec) {
    of_none(table, spec);
    if !spec.ipv4 {
        alone(table, spec);
    }
    Addresses::v6(spec).check(table);
    if let Some(mtu) = spec.mtu.filter(|mtu| spec.has_ipv6() && *mtu < LEAST_MTU) {
        let message = format!("an `mtu` of {mtu} is too small for IPv6");
        table.fault(Some("mtu"), message, "at least 1280 (RFC 8200)");
    }
}

/// What says something about an IPv6 that the network has not.
fn of_none(table: &Table<'_>, spec: &NetworkSpec) {
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
    if spec.driver == NetworkDriver::Ovs {
        let message = "`ipv4 = false` does not go with `driver = \"ovs\"`".to_owned();
        let hint = "use `driver = \"overlay\"`, the kernel's VXLAN, or take it out: `subnet6` gives the network IPv6 beside IPv4";
        table.fault(Some("ipv4"), message, hint);
    }
}
