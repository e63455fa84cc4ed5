//! Devices where a bridge is one of Open vSwitch: its own one, which has the gateway's addresses, and the veth pairs of
//! containers. That a host end is a port of it is Open vSwitch's to do.
//!
//! Without the kernel's datapath, Open vSwitch reads from a host end beside the kernel (packet(7)), which goes on to take
//! the same frames for its own: it would answer for the gateway, with a wrong MAC address, and forward by no rule of a
//! bridge. So such host ends are ports of a bridge of the kernel that is down, a pen: what comes to those is dropped, after
//! Open vSwitch has read it. (A filter of tc's would do, but ovs-vswitchd removes those.)

use std::os::fd::BorrowedFd;

use model::network::{Attachment, HostNetwork};
use netlink_sys::protocols::NETLINK_GENERIC;

use super::{DEFAULT_MTU, Link, Mark, bridge, change, dump, nl, owner_of, veth};
use crate::error::{Doing, NetError};
use crate::netlink::{Attr, KernelError, Netlink};
use crate::sys;

/// Kinds of the device that a bridge of Open vSwitch has on the host: made by its kernel module, or a tap.
const KINDS: [&str; 2] = ["openvswitch", "tun"];

/// It may be the device of a bridge of Open vSwitch.
pub(crate) fn is_of_switch(link: &Link) -> bool {
    KINDS.contains(&link.kind.as_str())
}

/// Whether the kernel has the datapath of Open vSwitch: its family of generic netlink (linux/openvswitch.h), which it
/// loads the module for.
pub(crate) fn kernel_has_datapath() -> Result<bool, NetError> {
    const CONTROL: u16 = 0x10;
    const GET_FAMILY: u8 = 3;
    const FAMILY_NAME: u16 = 2;
    let doing = || "ask the kernel whether it has Open vSwitch's datapath".to_owned();
    let mut generic = Netlink::open(NETLINK_GENERIC).doing(doing)?;
    // `struct genlmsghdr`.
    let mut payload = vec![GET_FAMILY, 1, 0, 0];
    Attr::text(FAMILY_NAME, "ovs_datapath").write(&mut payload);
    match generic.get(CONTROL, &payload) {
        Ok(reply) => Ok(reply.is_some()),
        Err(e) if e.is(libc::ENOENT) => Ok(false),
        Err(e) => Err(e).doing(doing),
    }
}

/// Refuses a device of the bridge's name that is no bridge of Open vSwitch of ours. `known`: Open vSwitch says that it is.
pub(crate) fn look_at_switch(
    route: &mut Netlink,
    mark: &Mark,
    device: &str,
    known: bool,
) -> Result<(), NetError> {
    let found = dump::link(route, device).doing(|| format!("look at the device {device}"))?;
    match found {
        Some(link) if !known && !mark.is_on(&link) => Err(NetError::ForeignDevice {
            device: device.to_owned(),
            owner: owner_of(&link),
            advice: "remove it, or give the network another device with `bridge = \"NAME\"`".to_owned(),
        }),
        // Made by another driver, and not gone yet.
        Some(link) if mark.is_on(&link) && !is_of_switch(&link) => change::delete(route, link.index)
            .doing(|| format!("delete {device}, which is no bridge of Open vSwitch")),
        _ => Ok(()),
    }
}

/// Gives the bridge's own device its mark, its settings and the gateway's addresses; its MAC address and mtu are in Open
/// vSwitch's database. The firewall must know it already: `route_localnet` is turned on here.
pub(crate) fn apply_gateway(route: &mut Netlink, mark: &Mark, n: &HostNetwork) -> Result<(), NetError> {
    let doing = || format!("configure the device {} of Open vSwitch", n.bridge);
    let link = dump::link(route, &n.bridge).doing(doing)?;
    let link = link.ok_or_else(|| NetError::invalid(doing(), "ovs-vswitchd has not made it"))?;
    let alias = mark.alias(n.name.as_str());
    let mut attrs = Vec::new();
    if link.alias.as_deref() != Some(&*alias) {
        attrs.push(Attr::bytes(nl::IFLA_IFALIAS, alias));
    }
    if link.mac != bridge::mac(n) {
        attrs.push(Attr::bytes(nl::IFLA_ADDRESS, bridge::mac(n)));
    }
    if let Some(mtu) = n.mtu.filter(|mtu| *mtu != link.mtu) {
        attrs.push(Attr::u32(nl::IFLA_MTU, mtu));
    }
    change::set(route, link.index, &attrs).doing(doing)?;
    for device in n.devices().filter(|device| *device != n.bridge) {
        mark_device(route, mark, n, device)?;
    }
    bridge::settings(n, mark.published)?;
    if !link.up {
        change::make_up_no_ipv6(route, link.index).doing(doing)?;
        change::up(route, link.index).doing(|| format!("turn on the device {}", n.bridge))?;
    }
    bridge::addresses(route, n, &link)
}

/// The tunnels' bridge has a device as well, which nobody uses.
fn mark_device(route: &mut Netlink, mark: &Mark, n: &HostNetwork, device: &str) -> Result<(), NetError> {
    let doing = || format!("mark the device {device} of Open vSwitch");
    let alias = mark.alias(n.name.as_str());
    match dump::link(route, device).doing(doing)? {
        Some(link) if is_of_switch(&link) && link.alias.as_deref() != Some(&*alias) => {
            let alias = [Attr::bytes(nl::IFLA_IFALIAS, alias)];
            change::set(route, link.index, &alias).doing(doing)
        }
        _ => Ok(()),
    }
}

/// As a pen is marked: it is ours to make and to remove, and no network's bridge.
fn pen_alias(mark: &Mark) -> String {
    format!("pen of {}", mark.alias(""))
}

/// Removes the pen of a network; absent is fine.
pub(crate) fn remove_pen(route: &mut Netlink, mark: &Mark, pen: &str) -> Result<(), NetError> {
    let doing = || format!("remove the device {pen}");
    match dump::link(route, pen).doing(doing)? {
        Some(link) if link.alias == Some(pen_alias(mark)) => change::delete(route, link.index).doing(doing),
        _ => Ok(()),
    }
}

/// Makes it, or puts it right; its index.
fn pen(route: &mut Netlink, mark: &Mark, name: &str) -> Result<u32, NetError> {
    let doing = || format!("make the device {name}");
    let link = match dump::link(route, name).doing(doing)? {
        Some(link) => link,
        None => {
            let info = [Attr::text(nl::INFO_KIND, "bridge")];
            let attrs = [
                Attr::text(nl::IFLA_IFNAME, name),
                Attr::nest(nl::IFLA_LINKINFO, info),
            ];
            change::create(route, &attrs).doing(doing)?;
            let link = dump::link(route, name).doing(doing)?;
            let link = link.ok_or_else(|| NetError::invalid(doing(), "it vanished at once"))?;
            let alias = [Attr::bytes(nl::IFLA_IFALIAS, pen_alias(mark))];
            change::set(route, link.index, &alias).doing(doing)?;
            link
        }
    };
    if link.kind != "bridge" || link.alias.as_ref().is_some_and(|alias| *alias != pen_alias(mark)) {
        return Err(NetError::ForeignDevice {
            device: name.to_owned(),
            owner: owner_of(&link),
            advice: "remove it: names like this one are wharf's".to_owned(),
        });
    }
    if link.up {
        change::down(route, link.index).doing(|| format!("turn off the device {name}"))?;
    }
    Ok(link.index)
}

/// Removes what is left of a bridge that Open vSwitch does not know (any more); absent is fine.
pub(crate) fn remove_left(route: &mut Netlink, mark: &Mark, device: &str) -> Result<(), NetError> {
    match bridge::look(route, mark, device)? {
        Some(link) => change::delete(route, link.index).doing(|| format!("remove the device {device}")),
        None => Ok(()),
    }
}

/// Connects a namespace as far as the host end, or repairs what is wrong with that; whether the pair was made anew.
///
/// `pen`: the datapath is not the kernel's. Then the sender has to fill in checksums, too: nobody does it on the way.
pub(crate) fn attach(
    route: &mut Netlink,
    mark: &Mark,
    netns: BorrowedFd<'_>,
    a: &Attachment,
    whose: &str,
    pen_name: Option<&str>,
) -> Result<bool, NetError> {
    veth::check(a, whose)?;
    let doing = || format!("look at the device {} of Open vSwitch", a.bridge);
    let gateway = dump::link(route, &a.bridge).doing(doing)?;
    let gateway =
        gateway.ok_or_else(|| NetError::invalid(doing(), "it is not there (yet): it is made first"))?;
    let pen = pen_name.map(|name| pen(route, mark, name)).transpose()?;
    let before = veth::host_end(route, mark, &a.host_device)?.map(|link| link.index);
    let host = veth::visit(netns, whose, |inside| {
        let (host, peer) = veth::pair(route, inside, mark, netns, a, whose)?;
        if pen.is_some() {
            sys::fill_in_checksums(&a.device).doing(|| {
                format!(
                    "have {} of container {whose} fill in checksums (ethtool)",
                    a.device
                )
            })?;
        }
        veth::configure_inside(inside, &peer, a, &[], whose)?;
        Ok(host)
    })?;
    configure_host(route, mark, &host, pen, a, whose)
        .doing(|| format!("configure {} of container {whose}", a.host_device))?;
    veth::make_known(route, gateway.index, a, whose)?;
    Ok(before != Some(host.index))
}

fn configure_host(
    route: &mut Netlink,
    mark: &Mark,
    host: &Link,
    pen: Option<u32>,
    a: &Attachment,
    whose: &str,
) -> Result<(), KernelError> {
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
    if pen.is_some() && host.master != pen {
        attrs.extend(pen.map(|pen| Attr::u32(nl::IFLA_MASTER, pen)));
    }
    if !host.up {
        change::make_up_no_ipv6(route, host.index)?;
    }
    change::set(route, host.index, &attrs)?;
    match host.up {
        true => Ok(()),
        false => change::up(route, host.index),
    }
}
