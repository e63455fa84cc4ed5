//! `[network.NAME]`.

pub(super) mod addresses;
pub(super) mod ipv6;
mod lan;
pub(super) mod overlay;

use ipnet::Ipv4Net;

use crate::spec::{NetworkDriver, NetworkSpec};

use super::known;
use super::reader::{Item, Table};
use addresses::Addresses;

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
        Addresses::v4(&spec).check(table);
    }
    ipv6::check(table, &spec);
    overlay::check(table, inner.as_ref(), &spec);
    lan::check(table, &spec);
    spec
}

/// An IPv4 network written by its first address.
pub(super) fn subnet(item: &Item<'_>) -> Option<Ipv4Net> {
    addresses::subnet(item, "an IPv4 network like \"10.80.0.0/24\"")
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
