//! What is wrong with a container's interface, in words; looks only.

use std::os::fd::BorrowedFd;

use model::network::Attachment;

use super::veth::{host_end, matching_peer, open_inside};
use super::{Address, DEFAULT_MTU, Link, Mark, dump, route as routes};
use crate::error::{Doing, NetError};
use crate::netlink::Netlink;

/// The first thing that is not as [`super::attach`] makes it.
pub(crate) fn check_attachment(
    route: &mut Netlink,
    mark: &Mark,
    netns: BorrowedFd<'_>,
    a: &Attachment,
) -> Result<Option<String>, NetError> {
    let Some(host) = host_end(route, mark, &a.host_device)? else {
        return Ok(Some(format!("the device {} is gone", a.host_device)));
    };
    let mut inside = open_inside(netns, &format!("with the device {}", a.host_device))?;
    let Some(peer) = matching_peer(route, &mut inside, netns, &host, a)? else {
        return Ok(Some(format!(
            "{} is not connected to {} inside",
            a.host_device, a.device
        )));
    };
    if let Some(wrong) = outside(route, &host, a)? {
        return Ok(Some(wrong));
    }
    within(&mut inside, &peer, a)
}

fn outside(route: &mut Netlink, host: &Link, a: &Attachment) -> Result<Option<String>, NetError> {
    let bridge = dump::link(route, &a.bridge).doing(|| format!("look at the bridge {}", a.bridge))?;
    let wrong = match bridge {
        None => format!("the bridge {} is gone", a.bridge),
        Some(bridge) if host.master != Some(bridge.index) => {
            format!("{} is no port of the bridge {}", a.host_device, a.bridge)
        }
        _ if !host.up => format!("{} is down", a.host_device),
        _ if !host.hairpin => format!(
            "{} does not send back what is for itself (hairpin)",
            a.host_device
        ),
        _ if host.mtu != mtu(a) => format!("{} has an mtu of {}", a.host_device, host.mtu),
        _ => return Ok(None),
    };
    Ok(Some(wrong))
}

fn mtu(a: &Attachment) -> u32 {
    a.mtu.unwrap_or(DEFAULT_MTU)
}

fn within(inside: &mut Netlink, peer: &Link, a: &Attachment) -> Result<Option<String>, NetError> {
    let doing = || format!("look at {} of the container", a.device);
    let wanted = Address {
        index: peer.index,
        ip: a.ip,
        prefix: a.prefix,
    };
    let device = &a.device;
    let wrong = if !peer.up {
        format!("{device} inside is down")
    } else if peer.mac != a.mac.0 {
        format!("{device} inside has not the address {}", a.mac)
    } else if peer.mtu != mtu(a) {
        format!("{device} inside has an mtu of {}", peer.mtu)
    } else if !dump::addresses(inside).doing(doing)?.contains(&wanted) {
        format!("{device} inside has not the address {}/{}", a.ip, a.prefix)
    } else if !routes::are_there(inside, &wanted).doing(doing)? {
        format!("the routes by {device} inside are not whole")
    } else if !dump::link(inside, "lo").doing(doing)?.is_some_and(|lo| lo.up) {
        "lo inside is down".to_owned()
    } else {
        return match a.gateway {
            Some(gateway) if !dump::has_default_route(inside, gateway, peer.index).doing(doing)? => {
                Ok(Some(format!("the default route by {gateway} inside is gone")))
            }
            _ => Ok(None),
        };
    };
    Ok(Some(wrong))
}
