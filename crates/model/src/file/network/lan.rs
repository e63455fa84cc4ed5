//! Networks that join what was there before: `driver = "macvlan"` and `"ipvlan"` with their `parent`, `adopt`.

use crate::file::reader::Table;
use crate::spec::{NetworkDriver, NetworkSpec};

/// What belongs to them is said of them alone, and what is not ours to say is not said.
pub(super) fn check(table: &Table<'_>, spec: &NetworkSpec) {
    let word = match spec.driver {
        NetworkDriver::Macvlan => "a macvlan network",
        NetworkDriver::Ipvlan => "an ipvlan network",
        _ => "a network that adopts a bridge",
    };
    below(table, spec, word);
    adopted(table, spec);
    if spec.is_lan() {
        known(table, spec, word);
        not_ours(table, spec, word);
    }
}

/// Parent and driver belong together.
fn below(table: &Table<'_>, spec: &NetworkSpec, word: &str) {
    if matches!(spec.driver, NetworkDriver::Macvlan | NetworkDriver::Ipvlan) {
        if !table.has("parent") {
            table.missing(
                "parent",
                "the device of this host that is on the LAN, like \"eth0\"",
            );
        }
        if table.has("bridge") {
            let message = format!("`bridge` does not go with {word}, which has none");
            table.fault(Some("bridge"), message, "take it out");
        }
        if spec.host_access {
            has_a_part(table, spec);
        }
        return;
    }
    for key in ["parent", "host_access"].into_iter().filter(|key| table.has(key)) {
        let message = format!("`{key}` is for `driver = \"macvlan\"` or \"ipvlan\"");
        table.fault(Some(key), message, "write one of these, or take it out");
    }
}

/// The host has one address and one route for all containers: what the route leads to must be theirs alone.
fn has_a_part(table: &Table<'_>, spec: &NetworkSpec) {
    let hint = "the part of the LAN's subnet that is for containers: this host reaches that part, and no other, by a device of its own, which gets its first address";
    let four = (
        spec.subnet.map(|s| s.prefix_len()),
        spec.range.map(|r| r.prefix_len()),
        30,
    );
    let six = (
        spec.subnet6.map(|s| s.prefix_len()),
        spec.range6.map(|r| r.prefix_len()),
        126,
    );
    for (key, (subnet, range, longest)) in [("range", four), ("range6", six)] {
        let wanted = match key {
            "range" => spec.ipv4,
            _ => subnet.is_some(),
        };
        let Some(range) = range else {
            if wanted && !table.has(key) {
                let message = format!("`host_access` needs a `{key}`");
                table.fault(Some("host_access"), message, hint);
            }
            continue;
        };
        if range > longest {
            let message = format!(
                "`{key}` has a prefix of {range} bits, which leaves nobody an address beside the host"
            );
            table.fault(Some(key), message, &format!("at most /{longest}"));
        } else if subnet.is_some_and(|subnet| range <= subnet) {
            let message = format!("with `host_access`, `{key}` has to be smaller than the subnet");
            table.fault(Some(key), message, hint);
        }
    }
}

fn adopted(table: &Table<'_>, spec: &NetworkSpec) {
    if !spec.adopt {
        return;
    }
    if spec.driver != NetworkDriver::Bridge {
        let message = "`adopt` is for `driver = \"bridge\"`".to_owned();
        table.fault(Some("adopt"), message, "take it out");
    } else if !table.has("bridge") {
        table.missing(
            "bridge",
            "with `adopt = true`: the bridge of this host that is joined, like \"br0\"",
        );
    }
}

/// What nobody but the LAN's owner can pick.
fn known(table: &Table<'_>, spec: &NetworkSpec, word: &str) {
    let (subnet, range) = match spec.ipv4 {
        true => ("subnet", "range"),
        false => ("subnet6", "range6"),
    };
    if !table.has(subnet) {
        let hint = format!(
            "{word} has the LAN's; write which, and with `{range}` which part of it is for containers"
        );
        table.missing(subnet, &hint);
    }
    if spec.ipv4 && spec.ipv6 && !table.has("subnet6") {
        let message = format!("`ipv6 = true` picks a subnet, and {word} has the LAN's");
        table.fault(Some("ipv6"), message, "write the LAN's `subnet6`");
    }
}

/// What takes a host that packets pass through.
fn not_ours(table: &Table<'_>, spec: &NetworkSpec, word: &str) {
    let asked = [("masquerade", spec.masquerade), ("masquerade6", spec.masquerade6)];
    for (key, _) in asked.into_iter().filter(|(key, on)| *on && table.has(key)) {
        let message = format!("`{key}` does not go with {word}");
        let hint =
            "its containers are on the LAN with their own addresses; this host passes nothing on for them";
        table.fault(Some(key), message, hint);
    }
    if !spec.icc {
        let message = format!("`icc = false` does not go with {word}");
        let hint =
            "its containers are on the LAN as every other host there; this host does not stand between them";
        table.fault(Some("icc"), message, hint);
    }
}
