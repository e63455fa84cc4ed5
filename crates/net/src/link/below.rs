//! Interfaces below a device of the host, its parent: macvlan (mode `bridge`) and ipvlan (mode `l2`), as ip-link(8) and the
//! kernel's networking/ipvlan.rst have them.
//!
//! A container's is made inside its namespace at once, under its final name; the host has no end of it, and it goes with
//! the namespace or with the parent. The kernel keeps what is below a device from the device itself: so that the host
//! reaches its containers, it gets one as well (`host_access`), with an address and the route to their part of the LAN.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::Duration;

use model::network::{Attachment, Below, Driver, HostNetwork, MacAddr, Parent};

use super::{Address, Link, Mark, bridge, change, dump, link_local, nl, owner_of, veth};
use crate::error::{Doing, NetError};
use crate::netlink::{Attr, KernelError, Netlink};
use crate::sysctl;

/// linux/if_link.h.
const MACVLAN_MODE: u16 = 1;
const MACVLAN_BRIDGE: u32 = 4;
const IPVLAN_MODE: u16 = 1;
const IPVLAN_L2: u16 = 0;
/// `arp_ignore`: an address is answered for where it is, and nowhere else.
const OF_THIS_DEVICE: u32 = 1;
/// `arp_announce`: who asks for a neighbour asks by the address that is here.
const BY_THIS_DEVICE: u32 = 2;

/// How often, and how long each time, an address is waited for.
const TRIES: u32 = 500;
const PAUSE: Duration = Duration::from_millis(10);

/// The two kinds of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Macvlan,
    Ipvlan,
}

impl Kind {
    /// As the kernel calls it, and its module.
    pub fn word(self) -> &'static str {
        match self {
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
        }
    }

    fn info(self) -> Attr {
        let mode = match self {
            Self::Macvlan => Attr::u32(MACVLAN_MODE, MACVLAN_BRIDGE),
            Self::Ipvlan => Attr::bytes(IPVLAN_MODE, IPVLAN_L2.to_ne_bytes()),
        };
        let info = [
            Attr::text(nl::INFO_KIND, self.word()),
            Attr::nest(nl::INFO_DATA, [mode]),
        ];
        Attr::nest(nl::IFLA_LINKINFO, info)
    }
}

/// What one is made with. A field that is none is the parent's.
struct Make<'a> {
    kind: Kind,
    name: &'a str,
    /// The parent's number in the namespace of whoever asks.
    parent: u32,
    mac: Option<MacAddr>,
    mtu: Option<u32>,
    group: u32,
    /// Where it is to be; none: here.
    netns: Option<BorrowedFd<'a>>,
}

impl Make<'_> {
    fn attrs(&self) -> Vec<Attr> {
        let mut attrs = vec![
            Attr::text(nl::IFLA_IFNAME, self.name),
            Attr::u32(nl::IFLA_LINK, self.parent),
            Attr::u32(nl::IFLA_GROUP, self.group),
            self.kind.info(),
        ];
        // All ipvlans of a parent have its address.
        let mac = self.mac.filter(|_| self.kind == Kind::Macvlan);
        attrs.extend(mac.map(|mac| Attr::bytes(nl::IFLA_ADDRESS, mac.0)));
        attrs.extend(self.mtu.map(|mtu| Attr::u32(nl::IFLA_MTU, mtu)));
        let netns = self
            .netns
            .map(|fd| Attr::bytes(nl::IFLA_NET_NS_FD, fd.as_raw_fd().to_ne_bytes()));
        attrs.extend(netns);
        attrs
    }
}

/// Gives a container its interface, or puts right what is wrong with the one it has.
pub(super) fn attach(
    route: &mut Netlink,
    mark: &Mark,
    netns: BorrowedFd<'_>,
    a: &Attachment,
    (kind, parent): (Kind, &Parent),
    whose: &str,
) -> Result<(), NetError> {
    let what = format!("container {whose}, network {}", a.network);
    let parent = find_parent(route, &parent.name, &what)?;
    let make = Make {
        kind,
        name: &a.device,
        parent: parent.index,
        mac: Some(a.mac),
        mtu: a.mtu,
        group: mark.group,
        netns: Some(netns),
    };
    veth::visit(netns, whose, |inside| {
        let doing = || format!("turn on {} of container {whose} below {}", a.device, parent.name);
        let device = match kept(
            inside,
            mark,
            &make,
            "the container has made it: restart the container",
        )? {
            Some(device) => device,
            None => {
                create(route, &make, &parent, &what)?;
                created(inside, &make)?
            }
        };
        name(inside, mark, &device, whose).doing(doing)?;
        let as_made = Attachment {
            mtu: Some(a.mtu.unwrap_or(device.mtu)),
            mac: mac_of(kind, &device, a.mac),
            ..a.clone()
        };
        veth::ipv6_inside(&a.device, a.v6().is_some())?;
        let device = up(inside, device, a.v6().is_some()).doing(doing)?;
        veth::configure_inside(inside, &device, &as_made, &[], whose)
    })
}

/// The one that is there, if it is of that kind and below that parent; another one of ours is removed.
fn kept(socket: &mut Netlink, mark: &Mark, make: &Make<'_>, advice: &str) -> Result<Option<Link>, NetError> {
    let device = make.name;
    let found = dump::link(socket, device).doing(|| format!("look at the device {device}"))?;
    match found {
        Some(link) if !mark.is_on(&link) => Err(NetError::ForeignDevice {
            device: device.to_owned(),
            owner: owner_of(&link),
            advice: advice.to_owned(),
        }),
        Some(link) if link.kind != make.kind.word() || link.peer != Some(make.parent) => {
            change::delete(socket, link.index).doing(|| format!("remove the former {device}"))?;
            Ok(None)
        }
        other => Ok(other),
    }
}

/// The one that was made just now, where it is.
fn created(socket: &mut Netlink, make: &Make<'_>) -> Result<Link, NetError> {
    let doing = || format!("look at the new device {}", make.name);
    let found = dump::link(socket, make.name).doing(doing)?;
    found.ok_or_else(|| NetError::invalid(doing(), "it vanished at once"))
}

/// Makes what the host has of the LAN, or takes it away where nothing asks for it. An adopted bridge is left as it is.
pub(crate) fn apply(route: &mut Netlink, mark: &Mark, n: &HostNetwork) -> Result<(), NetError> {
    let (kind, below) = match &n.driver {
        Driver::Macvlan(below) => (Kind::Macvlan, below),
        Driver::Ipvlan(below) => (Kind::Ipvlan, below),
        Driver::Bridge { .. } | Driver::Overlay(_) | Driver::Ovs { .. } => return Ok(()),
    };
    if below.host_access {
        return own(route, mark, n, (kind, below));
    }
    let found = dump::link(route, &n.bridge).doing(|| format!("look at the device {}", n.bridge))?;
    match found.filter(|link| mark.is_on(link)) {
        Some(link) => change::delete(route, link.index).doing(|| format!("remove the device {}", n.bridge)),
        None => Ok(()),
    }
}

/// The host's own one.
fn own(
    route: &mut Netlink,
    mark: &Mark,
    n: &HostNetwork,
    (kind, below): (Kind, &Below),
) -> Result<(), NetError> {
    let what = format!("network {}", n.name);
    let doing = || {
        format!(
            "set up {}, by which this host reaches network {}",
            n.bridge, n.name
        )
    };
    let parent = find_parent(route, &below.parent.name, &what)?;
    let addresses = n.host_addresses();
    let mac = addresses.first().map(|net| MacAddr::of_lease(net.addr()));
    let mac =
        mac.ok_or_else(|| NetError::invalid(doing(), "it has no `range` with an address for the host"))?;
    let make = Make {
        kind,
        name: &n.bridge,
        parent: parent.index,
        mac: Some(mac),
        mtu: n.mtu,
        group: mark.group,
        netns: None,
    };
    let link = match kept(route, mark, &make, "remove it: names like this one are wharf's")? {
        Some(link) => link,
        None => {
            create(route, &make, &parent, &what)?;
            created(route, &make)?
        }
    };
    name(route, mark, &link, n.name.as_str()).doing(doing)?;
    let mac = mac_of(kind, &link, mac);
    repair(route, &link, mac, n).doing(doing)?;
    settings(&n.bridge, n.v6().is_some())?;
    if !link.up {
        change::make_up_no_ipv6(route, link.index).doing(doing)?;
        change::up(route, link.index).doing(doing)?;
    }
    let address = |ip, prefix| Address {
        index: link.index,
        ip,
        prefix,
    };
    let mut wanted: Vec<Address> = addresses
        .iter()
        .map(|net| address(net.addr(), net.prefix_len()))
        .collect();
    // By an ipvlan's MAC address the parent has that one.
    if n.v6().is_some() && kind == Kind::Macvlan {
        wanted.push(address(link_local(mac.0).into(), 64));
    }
    bridge::set_addresses(route, &n.bridge, link.index, &wanted)
}

fn repair(route: &mut Netlink, link: &Link, mac: MacAddr, n: &HostNetwork) -> Result<(), KernelError> {
    let mut attrs = Vec::new();
    if link.mac != mac.0 {
        attrs.push(Attr::bytes(nl::IFLA_ADDRESS, mac.0));
    }
    if let Some(mtu) = n.mtu.filter(|mtu| *mtu != link.mtu) {
        attrs.push(Attr::u32(nl::IFLA_MTU, mtu));
    }
    change::set(route, link.index, &attrs)
}

/// It answers for its own address alone, so that the LAN goes on finding the host's others where they are; it believes no
/// router.
fn settings(device: &str, ipv6: bool) -> Result<(), NetError> {
    sysctl::ensure(&sysctl::arp_ignore(device), OF_THIS_DEVICE)?;
    sysctl::ensure(&sysctl::arp_announce(device), BY_THIS_DEVICE)?;
    if ipv6 {
        sysctl::ensure(&sysctl::accept_ra(device), 0)?;
        sysctl::ensure(&sysctl::disable_ipv6(device), 0)?;
    } else if sysctl::exists(&sysctl::disable_ipv6(device)) {
        sysctl::ensure(&sysctl::disable_ipv6(device), 1)?;
    }
    Ok(())
}

/// The kernel takes apart the namespace of a container that ended a moment after that, and until then its interface is
/// below the parent with the MAC address that the next one is to have: that is waited for.
fn up(inside: &mut Netlink, device: Link, ipv6: bool) -> Result<Link, KernelError> {
    if device.up {
        return Ok(device);
    }
    if !ipv6 {
        change::make_up_no_ipv6(inside, device.index)?;
    }
    for _ in 0..TRIES {
        match change::up(inside, device.index) {
            Err(e) if e.is(libc::EADDRINUSE) => thread::sleep(PAUSE),
            other => return other.map(|()| Link { up: true, ..device }),
        }
    }
    change::up(inside, device.index).map(|()| Link { up: true, ..device })
}

/// What cannot be given to a device is as it is.
fn mac_of(kind: Kind, device: &Link, wanted: MacAddr) -> MacAddr {
    match (kind, <[u8; 6]>::try_from(&*device.mac)) {
        (Kind::Ipvlan, Ok(mac)) => MacAddr(mac),
        _ => wanted,
    }
}

fn find_parent(route: &mut Netlink, parent: &str, what: &str) -> Result<Link, NetError> {
    let link = dump::link(route, parent).doing(|| format!("look at the device {parent}"))?;
    link.ok_or_else(|| NetError::invalid(what, format!("its parent {parent} is not there")))
}

/// The kernel is asked for one, and says itself whether it can.
fn create(route: &mut Netlink, make: &Make<'_>, parent: &Link, what: &str) -> Result<(), NetError> {
    let (kind, parent) = (make.kind.word(), &parent.name);
    match change::create(route, &make.attrs()) {
        Err(e) if e.is(libc::EOPNOTSUPP) => {
            let why = format!("this kernel has no {kind} (module {kind}): {e}");
            Err(NetError::invalid(what, why))
        }
        Err(e) if e.is(libc::EBUSY) => {
            let why = format!(
                "{parent} cannot have a {kind} below it: it is a port of a bridge or a bond, or has interfaces of the other kind below it: {e}"
            );
            Err(NetError::invalid(what, why))
        }
        other => other.doing(|| format!("make {} below {parent} ({kind}) for {what}", make.name)),
    }
}

/// The mark, with whom it serves.
fn name(socket: &mut Netlink, mark: &Mark, device: &Link, whose: &str) -> Result<(), KernelError> {
    let mut attrs = Vec::new();
    let alias = mark.alias(whose);
    if device.alias.as_deref() != Some(&*alias) {
        attrs.push(Attr::bytes(nl::IFLA_IFALIAS, alias));
    }
    if device.group == mark.group {
        attrs.push(Attr::u32(nl::IFLA_GROUP, 0));
    }
    change::set(socket, device.index, &attrs)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;
    use crate::netlink::{find, read_text, read_u32};

    fn message(make: &Make<'_>) -> Vec<u8> {
        change::link_bytes(Vec::new(), &make.attrs())
    }

    #[test]
    fn an_ipvlan_is_asked_for_in_layer_2_mode_with_its_parents_address() {
        let netns = File::open("/proc/self/ns/net").unwrap();
        let message = message(&Make {
            kind: Kind::Ipvlan,
            name: "eth0",
            parent: 7,
            mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
            mtu: Some(1400),
            group: 9,
            netns: Some(netns.as_fd()),
        });
        assert_eq!(read_text(&message, nl::IFLA_IFNAME).as_deref(), Some("eth0"));
        assert_eq!(read_u32(&message, nl::IFLA_LINK), Some(7));
        assert_eq!(read_u32(&message, nl::IFLA_MTU), Some(1400));
        assert_eq!(read_u32(&message, nl::IFLA_GROUP), Some(9));
        let fd = netns.as_raw_fd().to_ne_bytes();
        assert_eq!(find(&message, nl::IFLA_NET_NS_FD), Some(&fd[..]));
        assert_eq!(find(&message, nl::IFLA_ADDRESS), None);
        let info = find(&message, nl::IFLA_LINKINFO).unwrap();
        assert_eq!(read_text(info, nl::INFO_KIND).as_deref(), Some("ipvlan"));
        let data = find(info, nl::INFO_DATA).unwrap();
        assert_eq!(find(data, IPVLAN_MODE), Some(&IPVLAN_L2.to_ne_bytes()[..]));
    }

    #[test]
    fn a_macvlan_is_asked_for_in_bridge_mode_with_an_address_of_its_own() {
        let message = message(&Make {
            kind: Kind::Macvlan,
            name: "eth1",
            parent: 7,
            mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
            mtu: None,
            group: 9,
            netns: None,
        });
        assert_eq!(find(&message, nl::IFLA_ADDRESS), Some(&[2, 0, 0, 0, 0, 1][..]));
        assert_eq!(find(&message, nl::IFLA_MTU), None);
        assert_eq!(find(&message, nl::IFLA_NET_NS_FD), None);
        let info = find(&message, nl::IFLA_LINKINFO).unwrap();
        assert_eq!(read_text(info, nl::INFO_KIND).as_deref(), Some("macvlan"));
        let data = find(info, nl::INFO_DATA).unwrap();
        assert_eq!(read_u32(data, MACVLAN_MODE), Some(MACVLAN_BRIDGE));
    }
}
