//! Subnet, gateway and range of a network, of either family: that they fit together, and leave containers an address.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv6Net};

use crate::file::reader::{Item, Table};
use crate::spec::NetworkSpec;

/// A network written by its first address. `like`: what was expected, for messages.
pub(in crate::file) fn subnet<N>(item: &Item<'_>, like: &str) -> Option<N>
where
    N: Copy + Display + FromStr + Into<IpNet>,
{
    let net: N = item.parsed(like)?;
    let whole = net.into().trunc();
    if net.into() != whole {
        item.fault(
            format!("has {net}, which is an address inside of a network"),
            &format!("write \"{whole}\""),
        );
        return None;
    }
    Some(net)
}

/// What is written of one family.
pub(super) struct Addresses {
    /// Of its keys.
    suffix: &'static str,
    /// Of its subnets: the shortest prefix and the longest one.
    prefixes: (u8, u8),
    subnet: Option<IpNet>,
    gateway: Option<IpAddr>,
    range: Option<IpNet>,
}

impl Addresses {
    pub fn v4(spec: &NetworkSpec) -> Self {
        Self {
            suffix: "",
            prefixes: (8, 30),
            subnet: spec.subnet.map(IpNet::V4),
            gateway: spec.gateway.map(IpAddr::V4),
            range: spec.range.map(IpNet::V4),
        }
    }

    pub fn v6(spec: &NetworkSpec) -> Self {
        Self {
            suffix: "6",
            prefixes: (16, 126),
            subnet: spec.subnet6.map(IpNet::V6),
            gateway: spec.gateway6.map(IpAddr::V6),
            range: spec.range6.map(IpNet::V6),
        }
    }

    pub fn check(&self, table: &Table<'_>) {
        let key = self.key("subnet");
        let Some(subnet) = self.subnet else {
            return self.without_subnet(table, &key);
        };
        let (shortest, longest) = self.prefixes;
        if !(shortest..=longest).contains(&subnet.prefix_len()) {
            let message = format!("`{key}` {subnet} has a prefix of {} bits", subnet.prefix_len());
            let hint = format!(
                "from /{shortest} to /{longest}: a gateway and at least one container need an address"
            );
            return table.fault(Some(&key), message, &hint);
        }
        if let Some((why, hint)) = unusable(subnet) {
            table.fault(Some(&key), format!("`{key}` {subnet} {why}"), hint);
        }
        if let Some(gateway) = self.gateway {
            self.gateway_in(table, subnet, gateway);
        }
        if let Some(range) = self.range.filter(|range| !subnet.contains(range)) {
            let key = self.key("range");
            let message = format!("`{key}` {range} is not inside of the subnet {subnet}");
            table.fault(Some(&key), message, "");
        }
    }

    fn key(&self, word: &str) -> String {
        format!("{word}{}", self.suffix)
    }

    fn without_subnet(&self, table: &Table<'_>, subnet: &str) {
        // A subnet that is written but wrong has its own error.
        if table.has(subnet) {
            return;
        }
        for key in ["gateway", "range"].map(|word| self.key(word)) {
            if table.has(&key) {
                let message = format!("`{key}` needs a `{subnet}` that it is part of");
                table.fault(Some(&key), message, "write the subnet too");
            }
        }
    }

    fn gateway_in(&self, table: &Table<'_>, subnet: IpNet, gateway: IpAddr) {
        let problem = match subnet {
            _ if !subnet.contains(&gateway) => "is not inside of the subnet",
            IpNet::V4(net) if gateway == net.network() => "is the network address of",
            IpNet::V4(net) if gateway == net.broadcast() => "is the broadcast address of",
            IpNet::V6(net) if gateway == net.network() => "is the address of every router (RFC 4291) of",
            _ => return,
        };
        let usual = match subnet {
            IpNet::V4(_) => subnet.hosts().next(),
            IpNet::V6(_) => subnet.hosts().nth(1),
        };
        let key = self.key("gateway");
        let message = format!("`{key}` {gateway} {problem} {subnet}");
        let hint = format!("the usual one is {}", usual.unwrap_or(gateway));
        table.fault(Some(&key), message, &hint);
    }
}

/// Why containers cannot have addresses of it, and what to write instead; none where they can.
fn unusable(net: IpNet) -> Option<(&'static str, &'static str)> {
    match net {
        IpNet::V4(net) => (!usable(net.addr())).then_some((
            "is not for hosts",
            "use a part of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16",
        )),
        IpNet::V6(net) => {
            let why = unusable6(net)?;
            let hint = "use a part of fd00::/8 (RFC 4193), or of what is routed to this host";
            Some((why, hint))
        }
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

/// Why containers cannot have addresses of it; none where they can.
pub(in crate::file) fn unusable6(net: Ipv6Net) -> Option<&'static str> {
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
