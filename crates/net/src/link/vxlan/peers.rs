//! A tunnel's peers, as entries of its forwarding table (bridge(8), `fdb`): one of the address 00:00:00:00:00:00 for
//! each, to which goes what is for everybody and what is for an address that is not known yet.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::nl;
use crate::netlink::{Attr, KernelError, Netlink, find, flag, u32_at};

const BRIDGE: u8 = libc::AF_BRIDGE as u8;
/// `struct ndmsg`.
const HEADER: usize = 12;
/// NUD_PERMANENT and NUD_NOARP.
const PERMANENT: u16 = 0x80 | 0x40;
/// NTF_SELF: of the tunnel itself, not of the bridge that it is a port of.
const SELF: u8 = 0x2;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_IFINDEX: u16 = 8;
const EVERYBODY: [u8; 6] = [0; 6];

/// Who is behind which peer.
struct Entry {
    mac: [u8; 6],
    peer: IpAddr,
}

/// Where frames for everybody go, sorted. `index`: of the tunnel.
pub(super) fn of(route: &mut Netlink, index: u32) -> Result<Vec<IpAddr>, KernelError> {
    let flooded = entries(route, index)?.into_iter().filter(|e| e.mac == EVERYBODY);
    let peers: BTreeSet<IpAddr> = flooded.map(|e| e.peer).collect();
    Ok(peers.into_iter().collect())
}

/// Makes these the peers. What was learned of others is forgotten. `below`: the device that addresses of the link are on.
pub(super) fn ensure(
    route: &mut Netlink,
    index: u32,
    peers: &[IpAddr],
    below: Option<u32>,
) -> Result<(), KernelError> {
    let found = entries(route, index)?;
    let is_there = |peer: &&IpAddr| found.iter().any(|e| e.mac == EVERYBODY && e.peer == **peer);
    for peer in peers.iter().filter(|peer| !is_there(peer)) {
        let payload = payload(index, PERMANENT, EVERYBODY, (*peer, below));
        match route.request(nl::NEWNEIGH, flag::CREATE | flag::APPEND, &payload) {
            Err(e) if e.is(libc::EEXIST) => {}
            other => other?,
        }
    }
    for entry in found.iter().filter(|e| !peers.contains(&e.peer)) {
        match route.request(
            nl::DELNEIGH,
            0,
            &payload(index, 0, entry.mac, (entry.peer, below)),
        ) {
            // It aged, or was learned anew elsewhere meanwhile.
            Err(e) if e.is(libc::ENOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

fn entries(route: &mut Netlink, index: u32) -> Result<Vec<Entry>, KernelError> {
    let mut ask = header(0, 0, 0);
    Attr::u32(NDA_IFINDEX, index).write(&mut ask);
    let replies = route.dump(nl::GETNEIGH, &ask)?;
    let news = replies.iter().filter(|r| r.kind == nl::NEWNEIGH);
    Ok(news.filter_map(|r| entry(&r.payload, index)).collect())
}

fn entry(payload: &[u8], index: u32) -> Option<Entry> {
    let attrs = payload.get(HEADER..)?;
    if payload[0] != BRIDGE || u32_at(payload, 4)? != index || payload[10] & SELF == 0 {
        return None;
    }
    let peer = find(attrs, NDA_DST)?;
    let v4 = <[u8; 4]>::try_from(peer).map(IpAddr::from);
    let peer = v4.or_else(|_| <[u8; 16]>::try_from(peer).map(IpAddr::from));
    Some(Entry {
        mac: find(attrs, NDA_LLADDR)?.try_into().ok()?,
        peer: peer.ok()?,
    })
}

fn header(index: u32, state: u16, flags: u8) -> Vec<u8> {
    let mut out = vec![BRIDGE, 0, 0, 0];
    out.extend_from_slice(&index.to_ne_bytes());
    out.extend_from_slice(&state.to_ne_bytes());
    out.extend_from_slice(&[flags, 0]);
    out
}

fn payload(index: u32, state: u16, mac: [u8; 6], (peer, below): (IpAddr, Option<u32>)) -> Vec<u8> {
    let mut out = header(index, state, SELF);
    Attr::bytes(NDA_LLADDR, mac).write(&mut out);
    match peer {
        IpAddr::V4(ip) => Attr::bytes(NDA_DST, ip.octets()).write(&mut out),
        IpAddr::V6(ip) => Attr::bytes(NDA_DST, ip.octets()).write(&mut out),
    }
    if let Some(below) = below {
        Attr::u32(NDA_IFINDEX, below).write(&mut out);
    }
    out
}
