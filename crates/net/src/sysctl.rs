//! Kernel settings of the calling thread's network namespace, below /proc/sys/net (ip-sysctl.rst).

use std::fs;
use std::io::{self, Read};

use crate::error::NetError;

pub(crate) const FORWARD: &str = "ipv4/ip_forward";

/// Whether packets of this bridge are forwarded, to and from 127.0.0.1 too, in the network namespace of the calling
/// thread. No netlink message tells when `route_localnet` is turned off: whoever wants to know asks now and then.
pub fn bridge_settings_are_on(bridge: &str) -> bool {
    let on = |setting: String| read(&setting).is_ok_and(|value| value == 1);
    on(route_localnet(bridge)) && on(forwarding(bridge))
}

/// Whether the bridge takes no router advertisements and, where that is ours to say, forwards as a router does. Of the
/// first the kernel tells nobody.
pub(crate) fn bridge_settings6_are_on(bridge: &str, forwards: bool) -> bool {
    let is = |setting: String, wanted| read(&setting).is_ok_and(|value| value == wanted);
    is(accept_ra(bridge), 0) && (!forwards || is(forwarding6(bridge), 1))
}

/// The files of these settings, as seen from the network namespace of the calling thread: whoever writes to one by this
/// mount of /proc is seen by inotify(7).
pub fn bridge_setting_files(bridge: &str) -> Vec<String> {
    let ipv6 = Some(accept_ra(bridge)).filter(|setting| exists(setting));
    let settings = [route_localnet(bridge), forwarding(bridge)]
        .into_iter()
        .chain(ipv6);
    settings.map(|setting| path(&setting)).collect()
}

/// The setting as a number.
pub(crate) fn read(name: &str) -> Result<u32, NetError> {
    let path = path(name);
    let (buffer, length) = one_read(&path).map_err(|source| NetError::File {
        doing: "read the kernel setting",
        path: path.clone(),
        source,
    })?;
    let text = std::str::from_utf8(&buffer[..length]).unwrap_or_default();
    text.trim()
        .parse()
        .map_err(|_| NetError::Malformed("a kernel setting"))
}

/// A number is given whole by one read. Some are read each second: three system calls, where [`fs::read_to_string`]
/// makes twice as many.
fn one_read(path: &str) -> io::Result<([u8; 16], usize)> {
    let mut buffer = [0; 16];
    let length = fs::File::open(path)?.read(&mut buffer)?;
    Ok((buffer, length))
}

/// Sets it unless it has the value; says whether it did.
pub(crate) fn ensure(name: &str, value: u32) -> Result<bool, NetError> {
    if read(name)? == value {
        return Ok(false);
    }
    let path = path(name);
    fs::write(&path, value.to_string()).map_err(|source| NetError::File {
        doing: "change the kernel setting",
        path,
        source,
    })?;
    Ok(true)
}

/// Whether the kernel knows it; IPv6 may be left out of a kernel.
pub(crate) fn exists(name: &str) -> bool {
    fs::exists(path(name)).unwrap_or(false)
}

pub(crate) fn route_localnet(device: &str) -> String {
    format!("ipv4/conf/{device}/route_localnet")
}

/// Whether what comes by this device is forwarded; `ip_forward` sets it for all.
pub(crate) fn forwarding(device: &str) -> String {
    format!("ipv4/conf/{device}/forwarding")
}

/// Whether packets of IPv6 are forwarded at all. Written, it is set for all devices.
pub(crate) const FORWARD6: &str = "ipv6/conf/all/forwarding";

/// Whether the host takes itself for a router on that device.
pub(crate) fn forwarding6(device: &str) -> String {
    format!("ipv6/conf/{device}/forwarding")
}

/// Whether router advertisements are believed: 0 no, 1 where the host is no router there, 2 yes.
pub(crate) fn accept_ra(device: &str) -> String {
    format!("ipv6/conf/{device}/accept_ra")
}

/// Whether another one who has an address is looked for before it is used.
pub(crate) fn accept_dad(device: &str) -> String {
    format!("ipv6/conf/{device}/accept_dad")
}

/// Which requests for an address of this host are answered there (ARP).
pub(crate) fn arp_ignore(device: &str) -> String {
    format!("ipv4/conf/{device}/arp_ignore")
}

/// Which of its addresses the host asks for a neighbour by (ARP).
pub(crate) fn arp_announce(device: &str) -> String {
    format!("ipv4/conf/{device}/arp_announce")
}

pub(crate) fn disable_ipv6(device: &str) -> String {
    format!("ipv6/conf/{device}/disable_ipv6")
}

fn path(name: &str) -> String {
    format!("/proc/sys/net/{name}")
}
