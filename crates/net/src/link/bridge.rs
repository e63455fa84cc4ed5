//! The bridge of a network: made, or put right where something was changed.

use std::net::IpAddr;

use model::network::{Driver, HostNetwork, Subnet4, Subnet6};

use super::{
    Address, DEFAULT_MTU, Link, Mark, change, dump, entry, link_local, nl, owner_of, route as routes, vxlan,
};
use crate::error::{Doing, NetError};
use crate::names::check_device;
use crate::netlink::{Attr, Netlink};
use crate::sysctl;

/// Bytes.
const LEAST_MTU6: u32 = 1280;

/// Everything that can be seen to be wrong before anything is touched.
pub(crate) fn check(n: &HostNetwork) -> Result<(), NetError> {
    let what = || format!("network {}", n.name);
    check_device(&what(), &n.bridge)?;
    match (n.v4(), &n.driver) {
        (Some(v4), _) => check_subnet4(&what(), v4)?,
        (None, Driver::Ovs { .. }) => {
            let why = "a network of Open vSwitch without IPv4 addresses is not supported";
            return Err(NetError::invalid(what(), why));
        }
        (None, _) => {}
    }
    if let Some(v6) = n.v6() {
        check_subnet6(&what(), v6)?;
        if n.mtu.is_some_and(|mtu| mtu < LEAST_MTU6) {
            let why = format!("IPv6 needs an mtu of {LEAST_MTU6} or more (RFC 8200)");
            return Err(NetError::invalid(what(), why));
        }
    }
    check_mtu(&what(), n.mtu)
}

fn check_subnet4(what: &str, v4: &Subnet4) -> Result<(), NetError> {
    let (subnet, gateway) = (v4.subnet, v4.gateway);
    let why = match subnet.prefix_len() {
        0 | 31.. => format!("the subnet {subnet} is no size for a network: /1 to /30"),
        _ if !subnet.contains(&gateway) || gateway == subnet.network() || gateway == subnet.broadcast() => {
            format!("the gateway {gateway} is no host address of the subnet {subnet}")
        }
        _ => return Ok(()),
    };
    Err(NetError::invalid(what, why))
}

fn check_subnet6(what: &str, v6: &Subnet6) -> Result<(), NetError> {
    let (subnet, gateway) = (v6.subnet, v6.gateway);
    let why = match subnet.prefix_len() {
        0..8 | 127.. => format!("the subnet {subnet} is no size for a network: /8 to /126"),
        _ if !subnet.contains(&gateway) || gateway == subnet.network() => {
            format!("the gateway {gateway} is no host address of the subnet {subnet}")
        }
        _ if gateway.is_multicast() || gateway.is_unicast_link_local() || gateway.is_loopback() => {
            format!("{gateway} cannot be a gateway's address")
        }
        _ => return Ok(()),
    };
    Err(NetError::invalid(what, why))
}

/// 68 is the smallest IPv4 works with (RFC 791), 65535 the largest a bridge takes.
pub(super) fn check_mtu(what: &str, mtu: Option<u32>) -> Result<(), NetError> {
    match mtu {
        Some(mtu) if !(68..=65535).contains(&mtu) => Err(NetError::invalid(
            what,
            format!("an mtu of {mtu} is not possible: 68 to 65535"),
        )),
        _ => Ok(()),
    }
}

/// Refuses a device of that name that is not ours.
pub(crate) fn look(route: &mut Netlink, mark: &Mark, bridge: &str) -> Result<Option<Link>, NetError> {
    let found = dump::link(route, bridge).doing(|| format!("look at the device {bridge}"))?;
    match found {
        Some(link) if !mark.is_on(&link) => Err(NetError::ForeignDevice {
            device: bridge.to_owned(),
            owner: owner_of(&link),
            advice: "remove it, or give the network another device with `bridge = \"NAME\"`".to_owned(),
        }),
        other => Ok(other),
    }
}

/// Makes the bridge or repairs it. The firewall must know it already: `route_localnet` is turned on here.
pub(crate) fn apply_bridge(route: &mut Netlink, mark: &Mark, n: &HostNetwork) -> Result<(), NetError> {
    let found = match look(route, mark, &n.bridge)? {
        Some(link) if link.kind != "bridge" => {
            change::delete(route, link.index).doing(|| format!("delete {}, which is no bridge", n.bridge))?;
            None
        }
        other => other,
    };
    let link = match found {
        Some(link) => link,
        None => create(route, mark, n)?,
    };
    repair(route, mark, n, &link)?;
    settings(n, mark.published)?;
    if !link.up {
        let doing = || format!("configure the bridge {}", n.bridge);
        change::make_up_no_ipv6(route, link.index).doing(doing)?;
        change::up(route, link.index).doing(|| format!("turn on the bridge {}", n.bridge))?;
    }
    let doing = || format!("set the forwarding entry of the bridge {}", n.bridge);
    entry::ensure(route, link.index, &mac(n)).doing(doing)?;
    addresses(route, n, &link)
}

fn create(route: &mut Netlink, mark: &Mark, n: &HostNetwork) -> Result<Link, NetError> {
    let info = [
        Attr::text(nl::INFO_KIND, "bridge"),
        Attr::nest(
            nl::INFO_DATA,
            [Attr::u32(nl::BR_FORWARD_DELAY, 0), Attr::u32(nl::BR_STP_STATE, 0)],
        ),
    ];
    let attrs = [
        Attr::text(nl::IFLA_IFNAME, &n.bridge),
        Attr::bytes(nl::IFLA_ADDRESS, mac(n)),
        Attr::u32(nl::IFLA_GROUP, mark.group),
        Attr::nest(nl::IFLA_LINKINFO, info),
    ];
    let doing = || format!("make the bridge {} of network {}", n.bridge, n.name);
    change::create(route, &attrs).doing(doing)?;
    look(route, mark, &n.bridge)?.ok_or_else(|| NetError::invalid(doing(), "it vanished at once"))
}

/// A bridge with an address of its own keeps it when ports come and go.
pub(super) fn mac(n: &HostNetwork) -> [u8; 6] {
    n.mac().0
}

fn repair(route: &mut Netlink, mark: &Mark, n: &HostNetwork, link: &Link) -> Result<(), NetError> {
    let mut attrs = Vec::new();
    let alias = mark.alias(n.name.as_str());
    if link.alias.as_deref() != Some(&*alias) {
        attrs.push(Attr::bytes(nl::IFLA_IFALIAS, alias));
    }
    if link.group == mark.group {
        attrs.push(Attr::u32(nl::IFLA_GROUP, 0));
    }
    if link.mac != mac(n) {
        attrs.push(Attr::bytes(nl::IFLA_ADDRESS, mac(n)));
    }
    let mtu = n.mtu.unwrap_or(DEFAULT_MTU);
    if link.mtu != mtu {
        attrs.push(Attr::u32(nl::IFLA_MTU, mtu));
    }
    if link.master.is_some() {
        attrs.push(Attr::u32(nl::IFLA_MASTER, 0));
    }
    let doing = || format!("configure the bridge {}", n.bridge);
    change::set(route, link.index, &attrs).doing(doing)?;
    // One at a time: with the spanning tree on, no delay below two seconds is taken.
    for (wrong, kind) in [
        (link.stp, nl::BR_STP_STATE),
        (link.forward_delay != 0, nl::BR_FORWARD_DELAY),
    ] {
        if wrong {
            let data = Attr::nest(nl::INFO_DATA, [Attr::u32(kind, 0)]);
            let info = [Attr::text(nl::INFO_KIND, "bridge"), data];
            change::set(route, link.index, &[Attr::nest(nl::IFLA_LINKINFO, info)]).doing(doing)?;
        }
    }
    Ok(())
}

/// No IPv6 unless the network asks for it, and then none that containers could advertise themselves as routers by;
/// 127.0.0.1 of the host may be translated to a container; what containers send is forwarded.
pub(super) fn settings(n: &HostNetwork, published: bool) -> Result<(), NetError> {
    let bridge = n.bridge.as_str();
    if n.v6().is_some() {
        sysctl::ensure(&sysctl::accept_ra(bridge), 0)?;
        if published {
            sysctl::ensure(&sysctl::forwarding6(bridge), 1)?;
        }
        sysctl::ensure(&sysctl::disable_ipv6(bridge), 0)?;
    } else if sysctl::exists(&sysctl::disable_ipv6(bridge)) {
        sysctl::ensure(&sysctl::disable_ipv6(bridge), 1)?;
    }
    if published && n.v4().is_some() {
        sysctl::ensure(&sysctl::route_localnet(bridge), 1)?;
        sysctl::ensure(&sysctl::forwarding(bridge), 1)?;
    }
    Ok(())
}

/// What the bridge's addresses are to be. One of the link alone is among them: whoever forwards to a neighbour asks for
/// it by that one.
fn wanted(n: &HostNetwork, link: &Link) -> Vec<Address> {
    let address = |ip: IpAddr, prefix| Address {
        index: link.index,
        ip,
        prefix,
    };
    let gateways = n.ip.each(
        |v4| address(v4.gateway.into(), v4.subnet.prefix_len()),
        |v6| address(v6.gateway.into(), v6.subnet.prefix_len()),
    );
    let of_link = n.v6().map(|_| address(link_local(mac(n)).into(), 64));
    gateways.chain(of_link).collect()
}

pub(super) fn addresses(route: &mut Netlink, n: &HostNetwork, link: &Link) -> Result<(), NetError> {
    let device = format!("the bridge {}", n.bridge);
    set_addresses(route, &device, link.index, &wanted(n, link))
}

/// Has the device have these addresses with their routes, and no other ones.
pub(super) fn set_addresses(
    route: &mut Netlink,
    device: &str,
    index: u32,
    wanted: &[Address],
) -> Result<(), NetError> {
    let doing = || format!("look at the addresses of {device}");
    let found: Vec<Address> = dump::addresses(route)
        .doing(doing)?
        .into_iter()
        .filter(|a| a.index == index)
        .collect();
    // The right ones first: taking away the last address of a subnet takes its routes along.
    for right in wanted {
        if !found.contains(right) {
            change::add_address(route, right)
                .and_then(|()| routes::settle(route, right))
                .doing(|| format!("give {}/{} to {device}", right.ip, right.prefix))?;
        }
        let doing = || format!("set the routes of {device}");
        routes::ensure(route, right).doing(doing)?;
    }
    for wrong in found.iter().filter(|a| !wanted.contains(a)) {
        change::remove_address(route, wrong)
            .doing(|| format!("take {}/{} from {device}", wrong.ip, wrong.prefix))?;
    }
    Ok(())
}

/// Removes it where it is ours, with its tunnels; absent is fine.
pub(crate) fn remove_bridge(route: &mut Netlink, mark: &Mark, bridge: &str) -> Result<(), NetError> {
    match look(route, mark, bridge)? {
        Some(link) => {
            vxlan::remove_from(route, mark, link.index)?;
            change::delete(route, link.index).doing(|| format!("remove the {} {bridge}", link.kind))
        }
        None => Ok(()),
    }
}
