//! The device that encrypts the tunnel of an overlay: WireGuard of the kernel (ip-link(8), wg(8)).
//!
//! Each host has one address inside, of the link, which follows from its key; VXLAN goes between these. A peer may send
//! from its own one alone, and a tunnel at an address of the link takes nothing that came by another device: so what was
//! not encrypted does not get in.

use model::network::HostNetwork;
use model::wireguard::WireGuard;

use super::{Address, Link, Mark, bridge, change, dump, nl, veth};
use crate::error::{Doing, NetError};
use crate::names::check_device;
use crate::netlink::{Attr, KernelError, Netlink};
use crate::sysctl;
use crate::wireguard::{self, Pair};

/// As the kernel calls the kind of device.
pub(crate) const KIND: &str = "wireguard";

/// Makes the device, or puts right what is wrong with it; its number.
pub(crate) fn apply(
    route: &mut Netlink,
    generic: &mut Netlink,
    mark: &Mark,
    (n, end): (&HostNetwork, &WireGuard),
    pair: &Pair,
) -> Result<u32, NetError> {
    let device = &end.device;
    check_device(&format!("network {}", n.name), device)?;
    let mtu = WireGuard::mtu(n.mtu.unwrap_or(super::DEFAULT_MTU));
    let found = match veth::host_end(route, mark, device)? {
        Some(link) if link.kind != KIND => {
            change::delete(route, link.index).doing(|| format!("remove the former {device}"))?;
            None
        }
        other => other,
    };
    let link = match found {
        Some(link) => link,
        None => create(route, mark, n, device, mtu)?,
    };
    name(route, mark, n, &link, mtu).doing(|| format!("set up {device} of network {}", n.name))?;
    let allow = sysctl::disable_ipv6(device);
    if !sysctl::exists(&allow) {
        let why = "this kernel has no IPv6, which encrypted tunnels go over inside";
        return Err(NetError::invalid(format!("network {}", n.name), why));
    }
    sysctl::ensure(&allow, 0)?;
    wireguard::set(generic, device, end, pair).map_err(|e| refused(n, end, e))?;
    if !link.up {
        change::up(route, link.index).map_err(|e| refused(n, end, e))?;
    }
    let inside = Address {
        index: link.index,
        ip: end.key.inside().addr().into(),
        prefix: end.key.inside().prefix_len(),
    };
    bridge::set_addresses(route, device, link.index, &[inside])?;
    Ok(link.index)
}

fn create(
    route: &mut Netlink,
    mark: &Mark,
    n: &HostNetwork,
    device: &str,
    mtu: u32,
) -> Result<Link, NetError> {
    let attrs = [
        Attr::text(nl::IFLA_IFNAME, device),
        Attr::u32(nl::IFLA_GROUP, mark.group),
        Attr::u32(nl::IFLA_MTU, mtu),
        Attr::nest(nl::IFLA_LINKINFO, [Attr::text(nl::INFO_KIND, KIND)]),
    ];
    let doing = || format!("make {device}, which encrypts network {}", n.name);
    match change::create(route, &attrs) {
        Err(e) if e.is(libc::EOPNOTSUPP) => {
            let why = format!(
                "this kernel has no WireGuard, which `encryption = \"wireguard\"` asks for (Linux 5.6 or newer, module wireguard): {e}"
            );
            return Err(NetError::invalid(format!("network {}", n.name), why));
        }
        other => other.doing(doing)?,
    }
    let link = dump::link(route, device).doing(doing)?;
    link.ok_or_else(|| NetError::invalid(doing(), "it vanished at once"))
}

/// Mark and size.
fn name(route: &mut Netlink, mark: &Mark, n: &HostNetwork, link: &Link, mtu: u32) -> Result<(), KernelError> {
    let mut attrs = Vec::new();
    let alias = mark.alias(n.name.as_str());
    if link.alias.as_deref() != Some(&*alias) {
        attrs.push(Attr::bytes(nl::IFLA_IFALIAS, alias));
    }
    if link.group == mark.group {
        attrs.push(Attr::u32(nl::IFLA_GROUP, 0));
    }
    if link.mtu != mtu {
        attrs.push(Attr::u32(nl::IFLA_MTU, mtu));
    }
    change::set(route, link.index, &attrs)
}

fn refused(n: &HostNetwork, end: &WireGuard, e: KernelError) -> NetError {
    if e.is(libc::EADDRINUSE) {
        let why = format!(
            "UDP port {} is taken on this host, and WireGuard is to have it; give the network another `overlay.port`, the same on all of its hosts",
            end.port
        );
        return NetError::invalid(format!("network {}", n.name), why);
    }
    NetError::Kernel {
        doing: format!("set up {}, which encrypts network {}", end.device, n.name),
        source: e,
    }
}
