//! A bridge's own forwarding entry: what is sent to its MAC address is for the host. The kernel makes it once, with the
//! address; where somebody deletes it (`bridge fdb del`), whoever asks the gateway is asked of all ports and of nobody.

use crate::netlink::{Attr, KernelError, Netlink, flag};

use super::nl;

const BRIDGE: u8 = libc::AF_BRIDGE as u8;
/// NUD_PERMANENT, as an entry that is of the bridge itself.
const PERMANENT: u16 = 0x80;
/// NTF_SELF: of the device itself, not of the bridge that it is a port of.
const SELF: u8 = 0x2;
const NDA_LLADDR: u16 = 2;

/// It is there. `index`: of the bridge.
pub(crate) fn is_there(route: &mut Netlink, index: u32, mac: &[u8]) -> Result<bool, KernelError> {
    match route.get(nl::GETNEIGH, &payload(index, 0, mac)) {
        Err(e) if e.is(libc::ENOENT) => Ok(false),
        // A bridge that has just gone lacks more than this.
        Err(e) if e.is(libc::ENODEV) => Ok(true),
        other => other.map(|_| true),
    }
}

/// Puts it back where it is missing.
pub(super) fn ensure(route: &mut Netlink, index: u32, mac: &[u8]) -> Result<(), KernelError> {
    if is_there(route, index, mac)? {
        return Ok(());
    }
    let flags = flag::CREATE | flag::EXCL;
    match route.request(nl::NEWNEIGH, flags, &payload(index, PERMANENT, mac)) {
        Err(e) if e.is(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// `struct ndmsg` (linux/neighbour.h) and the address.
fn payload(index: u32, state: u16, mac: &[u8]) -> Vec<u8> {
    let mut out = vec![BRIDGE, 0, 0, 0];
    out.extend_from_slice(&index.to_ne_bytes());
    out.extend_from_slice(&state.to_ne_bytes());
    out.extend_from_slice(&[SELF, 0]);
    Attr::bytes(NDA_LLADDR, mac).write(&mut out);
    out
}

/// A message of the group RTNLGRP_NEIGH, most of which tell of neighbours and of what bridges learn.
pub(crate) fn is_of_neighbours(kind: u16) -> bool {
    matches!(kind, nl::NEWNEIGH | nl::DELNEIGH)
}

/// Such a message tells of an entry that a bridge has of its own or of a port: it was deleted, or is there again.
pub(crate) fn is_of_own_entry(payload: &[u8]) -> bool {
    let state = payload
        .get(8..10)
        .map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    payload.first() == Some(&BRIDGE) && state.is_some_and(|s| s & PERMANENT != 0)
}
