//! A container's interface: a veth pair, one end inside its namespace, the other a port of a bridge.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use model::network::{Attachment, Link as Way, MacAddr};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::below::{self, Kind};
use super::{
    Address, DEFAULT_MTU, Link, Mark, bridge, change, dump, filter, nl, owner_of, route as routes, sender,
};
use crate::error::{Doing, NetError};
use crate::names::check_device;
use crate::netlink::{Attr, KernelError, Netlink};
use crate::{netns, sysctl};

pub(super) fn check(a: &Attachment, whose: &str) -> Result<(), NetError> {
    let what = format!("container {whose}, network {}", a.network);
    check_device(&what, &a.host_device)?;
    check_device(&what, &a.device)?;
    check_device(&what, &a.bridge)?;
    bridge::check_mtu(&what, a.mtu)?;
    for place in a.places() {
        check_place(&what, place)?;
    }
    if a.mac.0[0] & 1 != 0 || a.mac.0 == [0; 6] {
        return Err(NetError::invalid(
            what,
            format!("{} is no address of a single device", a.mac),
        ));
    }
    Ok(())
}

fn check_place(what: &str, (ip, prefix, gateway): (IpAddr, u8, Option<IpAddr>)) -> Result<(), NetError> {
    let subnet = IpNet::new(ip, prefix)
        .map_err(|_| NetError::invalid(what, format!("/{prefix} is no prefix length")))?;
    match gateway {
        Some(gateway) if !subnet.contains(&gateway) => Err(NetError::invalid(
            what,
            format!("the gateway {gateway} is not in the subnet {}", subnet.trunc()),
        )),
        _ => Ok(()),
    }
}

/// Connects a namespace, or repairs what is wrong with the connection; a right one is left alone.
pub(crate) fn attach(
    route: &mut Netlink,
    mark: &Mark,
    netns: BorrowedFd<'_>,
    a: &Attachment,
    whose: &str,
) -> Result<(), NetError> {
    check(a, whose)?;
    match &a.link {
        Way::Macvlan(parent) => return below::attach(route, mark, netns, a, (Kind::Macvlan, parent), whose),
        Way::Ipvlan(parent) => return below::attach(route, mark, netns, a, (Kind::Ipvlan, parent), whose),
        Way::Bridge | Way::Adopted | Way::Ovs { .. } => {}
    }
    let master = master(route, mark, a)?;
    let gateways = gateways(route, &master, a)?;
    let [a, outer] = &ends(a, &master);
    visit(netns, whose, |inside| {
        let (host, peer) = pair(route, inside, mark, netns, a, whose)?;
        configure_inside(inside, &peer, a, &gateways, whose)?;
        configure_host(route, mark, &host, &master, outer, whose)
    })?;
    if a.link == Way::Adopted {
        return Ok(());
    }
    make_known(route, master.index, a, whose)
}

/// The host need not ask where the container is.
pub(super) fn make_known(
    route: &mut Netlink,
    bridge: u32,
    a: &Attachment,
    whose: &str,
) -> Result<(), NetError> {
    let mut ips = a.ips();
    ips.try_for_each(|ip| {
        change::neighbour(route, bridge, ip, a.mac)
            .doing(|| format!("tell {} where {ip} of container {whose} is", a.bridge))
    })
}

/// What the end inside is made by, and the host's. A bridge gets the smallest mtu of its ports: one that is not ours keeps
/// its own, and where nothing is said the container has that.
fn ends(a: &Attachment, master: &Link) -> [Attachment; 2] {
    if a.link != Way::Adopted {
        return [a.clone(), a.clone()];
    }
    let of = |mtu: u32| Attachment {
        mtu: Some(mtu),
        ..a.clone()
    };
    [of(a.mtu.unwrap_or(master.mtu)), of(master.mtu)]
}

/// A bridge that was given no MAC address has the lowest of its ports: one that is not ours is not to get another one with
/// ours, also where those begin with `fe` as the taps of virtual machines do. Of a bridge of our own it does not matter.
fn outer_mac(a: &Attachment) -> Option<[u8; 6]> {
    let ip = a.ips().next()?;
    let [_, _, c, d, e, f] = MacAddr::of_lease(ip).0;
    let family = 0xff - u8::from(ip.is_ipv6());
    (a.link == Way::Adopted).then_some([0xfe, family, c, d, e, f])
}

/// Both ends: those that are there if they belong together, else new ones.
pub(super) fn pair(
    route: &mut Netlink,
    inside: &mut Netlink,
    mark: &Mark,
    netns: BorrowedFd<'_>,
    a: &Attachment,
    whose: &str,
) -> Result<(Link, Link), NetError> {
    let found = host_end(route, mark, &a.host_device)?;
    let pair = match found {
        Some(host) => match matching_peer(route, inside, netns, &host, a)? {
            Some(peer) => Some((host, peer)),
            None => {
                change::delete(route, host.index)
                    .doing(|| format!("remove the stale device {}", a.host_device))?;
                None
            }
        },
        None => None,
    };
    match pair {
        Some(pair) => Ok(pair),
        None => create(route, inside, mark, netns, a, whose),
    }
}

fn master(route: &mut Netlink, mark: &Mark, a: &Attachment) -> Result<Link, NetError> {
    let link = dump::link(route, &a.bridge).doing(|| format!("look at the bridge {}", a.bridge))?;
    match link {
        Some(link) if (mark.is_on(&link) || a.link == Way::Adopted) && link.kind == "bridge" => Ok(link),
        Some(link) => Err(NetError::ForeignDevice {
            device: a.bridge.clone(),
            owner: owner_of(&link),
            advice: format!("network {} needs a bridge there", a.network),
        }),
        None => Err(NetError::invalid(
            format!("network {}", a.network),
            format!("its bridge {} is not there (yet): it is made first", a.bridge),
        )),
    }
}

/// What an isolated container reaches its network by: the bridge's own addresses in the subnets it is in. None of another
/// container, which reaches its neighbours over the link.
fn gateways(route: &mut Netlink, master: &Link, a: &Attachment) -> Result<Vec<IpAddr>, NetError> {
    if !a.isolated {
        return Ok(Vec::new());
    }
    let doing = || format!("look at the addresses of the bridge {}", a.bridge);
    let addresses = dump::addresses(route).doing(doing)?;
    let gateway = |ip: IpAddr, prefix: u8| {
        let subnet = IpNet::new(ip, prefix).ok()?;
        let of_bridge = addresses.iter().filter(|found| found.index == master.index);
        let mut inside = of_bridge.filter(|found| subnet.contains(&found.ip) && found.ip != ip);
        inside.next().map(|found| found.ip)
    };
    let lacking = |ip: IpAddr| {
        let why = format!(
            "its bridge {} has no address for {ip} to be reached by (yet)",
            a.bridge
        );
        NetError::invalid(format!("network {}", a.network), why)
    };
    a.places()
        .map(|(ip, prefix, _)| gateway(ip, prefix).ok_or_else(|| lacking(ip)))
        .collect()
}

/// Does something on a thread in that namespace, with a netlink socket of it.
pub(super) fn visit<T: Send>(
    netns: BorrowedFd<'_>,
    whose: &str,
    work: impl FnOnce(&mut Netlink) -> Result<T, NetError> + Send,
) -> Result<T, NetError> {
    netns::visit(netns, whose, || {
        let mut inside = Netlink::open(NETLINK_ROUTE).map_err(|e| netns::refused(whose, e))?;
        work(&mut inside)
    })
}

/// The device of that name; refuses one that is not ours.
pub(super) fn host_end(route: &mut Netlink, mark: &Mark, device: &str) -> Result<Option<Link>, NetError> {
    let found = dump::link(route, device).doing(|| format!("look at the device {device}"))?;
    match found {
        Some(link) if !mark.is_on(&link) => Err(NetError::ForeignDevice {
            device: device.to_owned(),
            owner: owner_of(&link),
            advice: "remove it: names like this one are wharf's".to_owned(),
        }),
        other => Ok(other),
    }
}

/// The other end, if it is in that namespace under the right name: both ends name each other.
fn matching_peer(
    route: &mut Netlink,
    inside: &mut Netlink,
    netns: BorrowedFd<'_>,
    host: &Link,
    a: &Attachment,
) -> Result<Option<Link>, NetError> {
    let doing = || format!("look at {} of the container", a.device);
    let Some(peer) = dump::link(inside, &a.device).doing(doing)? else {
        return Ok(None);
    };
    let number = dump::namespace_number(route, netns).doing(doing)?;
    let right = host.kind == "veth"
        && peer.kind == "veth"
        && host.peer == Some(peer.index)
        && peer.peer == Some(host.index)
        && number.is_some()
        && host.peer_netns == number;
    Ok(right.then_some(peer))
}

/// Both ends in one message, the inner one made inside the namespace under its final name.
fn create(
    route: &mut Netlink,
    inside: &mut Netlink,
    mark: &Mark,
    netns: BorrowedFd<'_>,
    a: &Attachment,
    whose: &str,
) -> Result<(Link, Link), NetError> {
    let mtu = a.mtu.unwrap_or(DEFAULT_MTU);
    let peer = change::link_bytes(
        change::link_header(0, 0, 0),
        &[
            Attr::text(nl::IFLA_IFNAME, &a.device),
            Attr::bytes(nl::IFLA_ADDRESS, a.mac.0),
            Attr::u32(nl::IFLA_MTU, mtu),
            Attr::bytes(nl::IFLA_NET_NS_FD, netns.as_raw_fd().to_ne_bytes()),
        ],
    );
    let data = Attr::nest(nl::INFO_DATA, [Attr::bytes(nl::VETH_INFO_PEER, peer)]);
    let mut attrs = vec![
        Attr::text(nl::IFLA_IFNAME, &a.host_device),
        Attr::u32(nl::IFLA_MTU, mtu),
        Attr::u32(nl::IFLA_GROUP, mark.group),
        Attr::nest(nl::IFLA_LINKINFO, [Attr::text(nl::INFO_KIND, "veth"), data]),
    ];
    attrs.extend(outer_mac(a).map(|mac| Attr::bytes(nl::IFLA_ADDRESS, mac)));
    let doing = || {
        format!(
            "make {} of container {whose} (host end {})",
            a.device, a.host_device
        )
    };
    change::create(route, &attrs).doing(doing)?;
    let host = dump::link(route, &a.host_device).doing(doing)?;
    let peer = dump::link(inside, &a.device).doing(doing)?;
    host.zip(peer)
        .ok_or_else(|| NetError::invalid(doing(), "it vanished at once: did the container end?"))
}

pub(super) fn configure_inside(
    inside: &mut Netlink,
    peer: &Link,
    a: &Attachment,
    gateways: &[IpAddr],
    whose: &str,
) -> Result<(), NetError> {
    let doing = || format!("configure {} of container {whose}", a.device);
    loopback_up(inside).doing(|| format!("turn on the loopback device of container {whose}"))?;
    let mut attrs = Vec::new();
    if peer.mac != a.mac.0 {
        attrs.push(Attr::bytes(nl::IFLA_ADDRESS, a.mac.0));
    }
    if peer.mtu != a.mtu.unwrap_or(DEFAULT_MTU) {
        attrs.push(Attr::u32(nl::IFLA_MTU, a.mtu.unwrap_or(DEFAULT_MTU)));
    }
    let ipv6 = a.v6().is_some();
    if !peer.up && !ipv6 {
        change::make_up_no_ipv6(inside, peer.index).doing(doing)?;
    }
    change::set(inside, peer.index, &attrs).doing(doing)?;
    ipv6_inside(&a.device, ipv6)?;
    if !peer.up {
        change::up(inside, peer.index).doing(doing)?;
    }
    let there = dump::addresses(inside).doing(doing)?;
    for (ip, prefix, gateway) in a.places() {
        let address = Address {
            index: peer.index,
            ip,
            prefix,
        };
        if !there.contains(&address) {
            change::add_address(inside, &address)
                .and_then(|()| routes::settle(inside, &address))
                .doing(|| format!("give {ip}/{prefix} to {} of container {whose}", a.device))?;
        }
        match gateways.iter().find(|g| g.is_ipv4() == ip.is_ipv4()) {
            Some(only) => routes::ensure_by(inside, &address, *only),
            None => routes::ensure(inside, &address),
        }
        .doing(|| format!("set the routes by {} of container {whose}", a.device))?;
        if let Some(gateway) = gateway {
            default_route(inside, peer.index, gateway)
                .doing(|| format!("set the default route of container {whose} to {gateway}"))?;
        }
    }
    Ok(())
}

/// IPv6 where the network has it: addresses and routes are ours to give, and no other one has them.
pub(super) fn ipv6_inside(device: &str, wanted: bool) -> Result<(), NetError> {
    let off = sysctl::disable_ipv6(device);
    if !wanted {
        return match sysctl::exists(&off) {
            true => sysctl::ensure(&off, 1).map(drop),
            false => Ok(()),
        };
    }
    sysctl::ensure(&sysctl::accept_ra(device), 0)?;
    sysctl::ensure(&sysctl::accept_dad(device), 0)?;
    sysctl::ensure(&off, 0).map(drop)
}

fn loopback_up(inside: &mut Netlink) -> Result<(), KernelError> {
    match dump::link(inside, "lo")? {
        Some(lo) if !lo.up => change::up(inside, lo.index),
        _ => Ok(()),
    }
}

fn default_route(inside: &mut Netlink, index: u32, gateway: IpAddr) -> Result<(), KernelError> {
    if dump::has_default_route(inside, gateway, index)? {
        return Ok(());
    }
    change::default_route(inside, gateway, index)
}

fn configure_host(
    route: &mut Netlink,
    mark: &Mark,
    host: &Link,
    master: &Link,
    a: &Attachment,
    whose: &str,
) -> Result<(), NetError> {
    let doing = || {
        format!(
            "connect {} of container {whose} to the bridge {}",
            a.host_device, a.bridge
        )
    };
    let mut attrs = Vec::new();
    let alias = mark.alias(whose);
    if host.alias.as_deref() != Some(&*alias) {
        attrs.push(Attr::bytes(nl::IFLA_IFALIAS, alias));
    }
    if host.group == mark.group {
        attrs.push(Attr::u32(nl::IFLA_GROUP, 0));
    }
    let mtu = a.mtu.unwrap_or(DEFAULT_MTU);
    if host.mtu != mtu {
        attrs.push(Attr::u32(nl::IFLA_MTU, mtu));
    }
    if let Some(mac) = outer_mac(a).filter(|mac| host.mac != mac) {
        attrs.push(Attr::bytes(nl::IFLA_ADDRESS, mac));
    }
    if host.master != Some(master.index) {
        attrs.push(Attr::u32(nl::IFLA_MASTER, master.index));
    }
    if !host.up {
        change::make_up_no_ipv6(route, host.index).doing(doing)?;
    }
    change::set(route, host.index, &attrs).doing(doing)?;
    if a.isolated {
        sender::ensure(route, host.index, a).doing(|| {
            format!(
                "have {} let in nothing but what container {whose} sends as itself (kernel modules sch_ingress and cls_bpf)",
                a.host_device
            )
        })?;
    } else if host.isolated {
        filter::remove(route, host.index).doing(doing)?;
    }
    // What comes back by the port it came from is for published ports; elsewhere it would be an echo.
    let hairpin = a.link != Way::Adopted;
    if host.hairpin != hairpin || host.isolated != a.isolated || host.master != Some(master.index) {
        let settings = [
            Attr::u8(nl::BRPORT_MODE, hairpin.into()),
            Attr::u8(nl::BRPORT_ISOLATED, a.isolated.into()),
        ];
        let port = Attr::nest(nl::INFO_SLAVE_DATA, settings);
        let info = [Attr::text(nl::INFO_SLAVE_KIND, "bridge"), port];
        change::set(route, host.index, &[Attr::nest(nl::IFLA_LINKINFO, info)]).doing(doing)?;
    }
    if !host.up {
        change::up(route, host.index).doing(doing)?;
    }
    Ok(())
}

/// Removes the host end, and with it the other one; absent is fine.
pub(crate) fn detach(route: &mut Netlink, mark: &Mark, device: &str) -> Result<(), NetError> {
    match host_end(route, mark, device)? {
        Some(link) => change::delete(route, link.index).doing(|| format!("remove the device {device}")),
        None => Ok(()),
    }
}
