//! Devices by which the host hears of routers: those it must go on listening on when it becomes one itself.

use super::{Mark, dump, nl};
use crate::netlink::{KernelError, Netlink, read_u32};

/// `struct rtmsg`.
const ROUTE_HEADER: usize = 12;
/// RTPROT_RA.
const ADVERTISED: u8 = 9;
const INET6: u8 = libc::AF_INET6 as u8;

/// A device of the host that routers may be advertised on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Uplink {
    pub name: String,
    /// A route was learned there.
    pub advertised: bool,
}

/// Devices that are neither ours nor the port of another one. Bridges only where a route was learned there: those of
/// other container engines are not to learn any.
pub(crate) fn uplinks(route: &mut Netlink, mark: &Mark) -> Result<Vec<Uplink>, KernelError> {
    let learned = learned_by(route)?;
    let links = dump::links(route)?;
    let own = links
        .into_iter()
        .filter(|l| !mark.is_on(l) && l.master.is_none() && l.name != "lo");
    let uplinks = own.map(|l| {
        (
            l.kind,
            Uplink {
                advertised: learned.contains(&l.index),
                name: l.name,
            },
        )
    });
    Ok(uplinks
        .filter(|(kind, uplink)| uplink.advertised || kind != "bridge")
        .map(|(_, uplink)| uplink)
        .collect())
}

fn learned_by(route: &mut Netlink) -> Result<Vec<u32>, KernelError> {
    let mut payload = vec![0; ROUTE_HEADER];
    payload[0] = INET6;
    let replies = match route.dump(nl::GETROUTE, &payload) {
        // A kernel without IPv6.
        Err(e) if e.is(libc::EAFNOSUPPORT) || e.is(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let device = |p: &[u8]| {
        let attrs = p.get(ROUTE_HEADER..)?;
        (p[0] == INET6 && p[5] == ADVERTISED).then(|| read_u32(attrs, nl::RTA_OIF))?
    };
    let routes = replies.iter().filter(|r| r.kind == nl::NEWROUTE);
    Ok(routes.filter_map(|r| device(&r.payload)).collect())
}
