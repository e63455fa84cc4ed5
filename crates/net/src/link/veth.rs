//! A container's interface: a veth pair, one end inside its namespace, the other a port of a bridge.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::Ipv4Net;
use model::network::Attachment;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sched::{CloneFlags, setns};

use super::{Address, DEFAULT_MTU, Link, Mark, bridge, change, dump, nl, owner_of, route as routes};
use crate::error::{Doing, NetError};
use crate::names::check_device;
use crate::netlink::{Attr, Netlink};

fn check(a: &Attachment, whose: &str) -> Result<(), NetError> {
    let what = format!("container {whose}, network {}", a.network);
    check_device(&what, &a.host_device)?;
    check_device(&what, &a.device)?;
    check_device(&what, &a.bridge)?;
    bridge::check_mtu(&what, a.mtu)?;
    let subnet = Ipv4Net::new(a.ip, a.prefix)
        .map_err(|_| NetError::invalid(&*what, format!("/{} is no prefix length", a.prefix)))?;
    if let Some(gateway) = a.gateway.filter(|g| !subnet.contains(g)) {
        return Err(NetError::invalid(
            what,
            format!("the gateway {gateway} is not in the subnet {}", subnet.trunc()),
        ));
    }
    if a.mac.0[0] & 1 != 0 || a.mac.0 == [0; 6] {
        return Err(NetError::invalid(
            what,
            format!("{} is no address of a single device", a.mac),
        ));
    }
    Ok(())
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
    let master = master(route, mark, a)?;
    let mut inside = open_inside(netns, whose)?;
    let found = host_end(route, mark, &a.host_device)?;
    let pair = match found {
        Some(host) => match matching_peer(route, &mut inside, netns, &host, a)? {
            Some(peer) => Some((host, peer)),
            None => {
                change::delete(route, host.index)
                    .doing(|| format!("remove the stale device {}", a.host_device))?;
                None
            }
        },
        None => None,
    };
    let (host, peer) = match pair {
        Some(pair) => pair,
        None => create(route, &mut inside, mark, netns, a, whose)?,
    };
    configure_inside(&mut inside, &peer, a, whose)?;
    configure_host(route, mark, &host, &master, a, whose)?;
    change::neighbour(route, master.index, a.ip, a.mac)
        .doing(|| format!("tell {} where {} of container {whose} is", a.bridge, a.ip))
}

fn master(route: &mut Netlink, mark: &Mark, a: &Attachment) -> Result<Link, NetError> {
    let link = dump::link(route, &a.bridge).doing(|| format!("look at the bridge {}", a.bridge))?;
    match link {
        Some(link) if mark.is_on(&link) && link.kind == "bridge" => Ok(link),
        Some(link) => Err(NetError::ForeignDevice {
            device: a.bridge.clone(),
            owner: owner_of(&link),
            advice: format!("network {} needs a bridge of its own there", a.network),
        }),
        None => Err(NetError::invalid(
            format!("network {}", a.network),
            format!("its bridge {} is not there (yet): it is made first", a.bridge),
        )),
    }
}

/// A netlink socket belongs to the namespace it was made in: one is made by a thread that goes there.
fn open_inside(netns: BorrowedFd<'_>, whose: &str) -> Result<Netlink, NetError> {
    let opened = std::thread::scope(|scope| {
        let visit = scope.spawn(|| {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            Netlink::open(NETLINK_ROUTE)
        });
        visit
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("the thread that entered it died")))
    });
    opened.map_err(|source| NetError::Namespace {
        whose: format!("container {whose}"),
        source,
    })
}

fn host_end(route: &mut Netlink, mark: &Mark, device: &str) -> Result<Option<Link>, NetError> {
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
    let attrs = [
        Attr::text(nl::IFLA_IFNAME, &a.host_device),
        Attr::u32(nl::IFLA_MTU, mtu),
        Attr::u32(nl::IFLA_GROUP, mark.group),
        Attr::nest(nl::IFLA_LINKINFO, [Attr::text(nl::INFO_KIND, "veth"), data]),
    ];
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

fn configure_inside(inside: &mut Netlink, peer: &Link, a: &Attachment, whose: &str) -> Result<(), NetError> {
    let doing = || format!("configure {} of container {whose}", a.device);
    loopback_up(inside).doing(|| format!("turn on the loopback device of container {whose}"))?;
    let mut attrs = Vec::new();
    if peer.mac != a.mac.0 {
        attrs.push(Attr::bytes(nl::IFLA_ADDRESS, a.mac.0));
    }
    if peer.mtu != a.mtu.unwrap_or(DEFAULT_MTU) {
        attrs.push(Attr::u32(nl::IFLA_MTU, a.mtu.unwrap_or(DEFAULT_MTU)));
    }
    if !peer.up {
        no_ipv6(inside, peer.index).doing(doing)?;
    }
    change::set(inside, peer.index, &attrs).doing(doing)?;
    if !peer.up {
        change::up(inside, peer.index).doing(doing)?;
    }
    let address = Address {
        index: peer.index,
        ip: a.ip,
        prefix: a.prefix,
    };
    if !dump::addresses(inside).doing(doing)?.contains(&address) {
        change::add_address(inside, peer.index, a.ip, a.prefix)
            .doing(|| format!("give {}/{} to {} of container {whose}", a.ip, a.prefix, a.device))?;
    }
    routes::ensure(inside, &address)
        .doing(|| format!("set the routes by {} of container {whose}", a.device))?;
    match a.gateway {
        Some(gateway) => default_route(inside, peer.index, gateway)
            .doing(|| format!("set the default route of container {whose} to {gateway}")),
        None => Ok(()),
    }
}

fn loopback_up(inside: &mut Netlink) -> Result<(), crate::netlink::KernelError> {
    match dump::link(inside, "lo")? {
        Some(lo) if !lo.up => change::up(inside, lo.index),
        _ => Ok(()),
    }
}

/// A kernel without IPv6 has no such setting, and needs none.
fn no_ipv6(route: &mut Netlink, index: u32) -> Result<(), crate::netlink::KernelError> {
    match change::set(route, index, &[change::no_ipv6_address()]) {
        Err(e) if e.is(libc::EAFNOSUPPORT) => Ok(()),
        other => other,
    }
}

fn default_route(
    inside: &mut Netlink,
    index: u32,
    gateway: Ipv4Addr,
) -> Result<(), crate::netlink::KernelError> {
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
    if host.master != Some(master.index) {
        attrs.push(Attr::u32(nl::IFLA_MASTER, master.index));
    }
    if !host.up {
        no_ipv6(route, host.index).doing(doing)?;
    }
    change::set(route, host.index, &attrs).doing(doing)?;
    if !host.hairpin || host.master != Some(master.index) {
        let port = Attr::nest(nl::INFO_SLAVE_DATA, [Attr::u8(nl::BRPORT_MODE, 1)]);
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
