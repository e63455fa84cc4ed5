//! Which ports of the host are held by sockets, and by whom (sock_diag(7)).

mod table;

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::firewall::Protocol;
use model::observed::Listener;

use crate::netlink::{KernelError, Netlink, be16_at, find, u32_at};

/// SOCK_DIAG_BY_FAMILY.
const BY_FAMILY: u16 = 20;
const SKV6ONLY: u16 = 11;
/// `struct inet_diag_msg`.
const HEADER: usize = 72;
const STATE_CLOSE: u32 = 7;
const STATE_LISTEN: u32 = 10;

/// A socket that holds a port.
struct Held {
    listener: Listener,
    inode: u32,
}

/// All listening TCP and bound, unconnected UDP sockets. A socket on all IPv6 addresses that takes IPv4 too is listed
/// for both. Holders are not looked for. `own`: inodes of sockets that are left out.
pub(crate) fn listeners(diag: &mut Netlink, own: &BTreeSet<u64>) -> Result<Vec<Listener>, KernelError> {
    let others = held(diag)?
        .into_iter()
        .filter(|held| !own.contains(&held.inode.into()));
    Ok(others.map(|held| held.listener).collect())
}

/// Pid and command name of a process that has the socket open. Looks through /proc: costly.
pub(crate) fn holder(diag: &mut Netlink, wanted: &Listener) -> Option<(u32, String)> {
    let same = |l: &Listener| (l.protocol, l.ip, l.port) == (wanted.protocol, wanted.ip, wanted.port);
    let inodes: Vec<u32> = held(diag)
        .ok()?
        .into_iter()
        .filter(|h| same(&h.listener))
        .map(|h| h.inode)
        .collect();
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let pids = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        // A process that ended meanwhile, or that hides its descriptors, is none we can name.
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        let has = |entry: fs::DirEntry| {
            let target = fs::read_link(entry.path()).ok()?;
            links
                .iter()
                .any(|link| target.as_os_str() == link.as_str())
                .then_some(())
        };
        if entries.flatten().any(|entry| has(entry).is_some()) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Some((pid, name.trim_end().to_owned()));
        }
    }
    None
}

fn held(diag: &mut Netlink) -> Result<Vec<Held>, KernelError> {
    match by_diag(diag) {
        Err(e) if e.is(libc::ENOENT) => table::held().ok_or(e),
        result => result,
    }
}

fn by_diag(diag: &mut Netlink) -> Result<Vec<Held>, KernelError> {
    let mut out = Vec::new();
    for (protocol, number, state) in [
        (Protocol::Tcp, libc::IPPROTO_TCP, STATE_LISTEN),
        (Protocol::Udp, libc::IPPROTO_UDP, STATE_CLOSE),
    ] {
        for family in [libc::AF_INET, libc::AF_INET6] {
            let replies = match diag.dump(BY_FAMILY, &request(family as u8, number as u8, 1 << state)) {
                // A kernel without IPv6 has no such sockets.
                Err(e) if family == libc::AF_INET6 && e.is(libc::ENOENT) => continue,
                other => other?,
            };
            for reply in &replies {
                parse(protocol, &reply.payload, &mut out);
            }
        }
    }
    Ok(out)
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, protocol: u8, states: u32) -> Vec<u8> {
    let mut out = vec![family, protocol, 0, 0];
    out.extend_from_slice(&states.to_ne_bytes());
    out.resize(56, 0);
    out
}

fn parse(protocol: Protocol, payload: &[u8], out: &mut Vec<Held>) {
    let (Some(port), Some(inode)) = (be16_at(payload, 4), u32_at(payload, 68)) else {
        return;
    };
    let Some(source) = payload.get(8..24).and_then(|b| <[u8; 16]>::try_from(b).ok()) else {
        return;
    };
    let v6 = payload[0] == libc::AF_INET6 as u8;
    let [a, b, c, d, ..] = source;
    let ip = if v6 {
        Ipv6Addr::from(source).to_canonical()
    } else {
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    if port == 0 {
        return;
    }
    let mut push = |ip| {
        out.push(Held {
            listener: Listener {
                protocol,
                ip,
                port,
                holder: None,
            },
            inode,
        })
    };
    push(ip);
    let only_v6 = payload.get(HEADER..).and_then(|attrs| find(attrs, SKV6ONLY)) == Some(&[1]);
    if v6 && ip.is_unspecified() && !only_v6 {
        push(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    }
}
