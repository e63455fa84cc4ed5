//! What is said to the kernel's WireGuard, and read from it (linux/wireguard.h, linux/genetlink.h).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use model::wireguard::{KEY, PublicKey};

use crate::netlink::{Attr, Attrs, KernelError, Netlink, be16_at, find};

/// The family that names all others.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `struct genlmsghdr`.
const HEADER: usize = 4;
const VERSION: u8 = 1;

const GET_DEVICE: u8 = 0;
const SET_DEVICE: u8 = 1;

/// WGDEVICE_A_….
mod device {
    pub const NAME: u16 = 2;
    pub const PRIVATE_KEY: u16 = 3;
    pub const PUBLIC_KEY: u16 = 4;
    pub const LISTEN_PORT: u16 = 6;
    pub const PEERS: u16 = 8;
}

/// WGPEER_A_….
mod peer {
    pub const PUBLIC_KEY: u16 = 1;
    pub const FLAGS: u16 = 3;
    pub const ENDPOINT: u16 = 4;
    pub const LAST_HANDSHAKE: u16 = 6;
    pub const ALLOWED: u16 = 9;
    /// WGPEER_F_….
    pub const REMOVE: u32 = 1;
    pub const REPLACE_ALLOWED: u32 = 2;
}

/// WGALLOWEDIP_A_….
mod allowed {
    pub const FAMILY: u16 = 1;
    pub const ADDRESS: u16 = 2;
    pub const PREFIX: u16 = 3;
}

/// An entry of a list has no type of its own.
const ENTRY: u16 = 0;
/// Of one message: an attribute has less than 64 KiB.
const MOST_PEERS: usize = 200;

/// A device as the kernel has it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Device {
    pub key: Option<PublicKey>,
    /// 0: none was given.
    pub port: u16,
    pub peers: Vec<Peer>,
}

/// One of its peers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub key: PublicKey,
    pub endpoint: Option<SocketAddr>,
    /// The last one, since 1970; none: there was none.
    pub handshake: Option<Duration>,
    /// What it may send from, and is sent.
    pub allowed: Vec<(IpAddr, u8)>,
}

/// What is to be different about a device.
pub(super) struct Change<'a> {
    pub private: Option<&'a [u8; KEY]>,
    pub port: Option<u16>,
    pub peers: Vec<PeerChange>,
}

/// And about one of its peers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PeerChange {
    /// It is there, to be looked for at this address, and confined to its own address inside.
    Put(PublicKey, SocketAddr),
    Remove(PublicKey),
}

/// None where there is no device of that name.
pub(super) fn get(generic: &mut Netlink, name: &str) -> Result<Option<Device>, KernelError> {
    let family = family(generic)?;
    let replies = generic.dump(family, &payload(GET_DEVICE, &[Attr::text(device::NAME, name)]));
    let replies = match replies {
        Err(e) if e.is(libc::ENODEV) => return Ok(None),
        other => other?,
    };
    let mut device = Device::default();
    for reply in replies.iter().filter(|r| r.kind == family) {
        device.read(reply.payload.get(HEADER..).unwrap_or(&[]));
    }
    Ok(Some(device))
}

/// Nothing is said where there is nothing to say.
pub(super) fn set(generic: &mut Netlink, name: &str, change: &Change<'_>) -> Result<(), KernelError> {
    let mut own = Vec::new();
    own.extend(change.private.map(|key| Attr::bytes(device::PRIVATE_KEY, *key)));
    own.extend(
        change
            .port
            .map(|port| Attr::bytes(device::LISTEN_PORT, port.to_ne_bytes())),
    );
    let lists = change.peers.chunks(MOST_PEERS).map(|peers| {
        let peers: Vec<Attr> = peers.iter().map(PeerChange::attr).collect();
        vec![Attr::nest(device::PEERS, peers)]
    });
    let messages = std::iter::once(own).filter(|own| !own.is_empty()).chain(lists);
    let messages: Vec<Vec<Attr>> = messages.collect();
    if messages.is_empty() {
        return Ok(());
    }
    let family = family(generic)?;
    for attrs in messages {
        let named = [vec![Attr::text(device::NAME, name)], attrs].concat();
        generic.request(family, 0, &payload(SET_DEVICE, &named))?;
    }
    Ok(())
}

/// The number that the kernel gave it when it was loaded. Asking for it loads it.
fn family(generic: &mut Netlink) -> Result<u16, KernelError> {
    let ask = payload(GET_FAMILY, &[Attr::text(FAMILY_NAME, "wireguard")]);
    let reply = generic.get(CONTROL, &ask)?;
    let id = reply
        .as_ref()
        .and_then(|r| find(r.payload.get(HEADER..)?, FAMILY_ID));
    let id = id.and_then(|id| id.try_into().ok()).map(u16::from_ne_bytes);
    id.ok_or_else(|| KernelError::new(libc::ENOENT))
}

fn payload(command: u8, attrs: &[Attr]) -> Vec<u8> {
    let mut out = vec![command, VERSION, 0, 0];
    attrs.iter().for_each(|attr| attr.write(&mut out));
    out
}

impl PeerChange {
    fn attr(&self) -> Attr {
        let flags = |flags| Attr::u32(peer::FLAGS, flags);
        let key = |key: &PublicKey| Attr::bytes(peer::PUBLIC_KEY, key.bytes());
        let attrs = match self {
            Self::Remove(of) => vec![key(of), flags(peer::REMOVE)],
            Self::Put(of, at) => {
                const FAMILY: u16 = libc::AF_INET6 as u16;
                let inside = [
                    Attr::bytes(allowed::FAMILY, FAMILY.to_ne_bytes()),
                    Attr::bytes(allowed::ADDRESS, of.inside().addr().octets()),
                    Attr::u8(allowed::PREFIX, 128),
                ];
                vec![
                    key(of),
                    flags(peer::REPLACE_ALLOWED),
                    Attr::bytes(peer::ENDPOINT, socket_address(*at)),
                    Attr::nest(peer::ALLOWED, [Attr::nest(ENTRY, inside)]),
                ]
            }
        };
        Attr::nest(ENTRY, attrs)
    }
}

impl Device {
    /// One message. What does not fit into one is told in several, a peer that is cut in two in both.
    fn read(&mut self, attrs: &[u8]) {
        self.key = find(attrs, device::PUBLIC_KEY).and_then(key).or(self.key);
        let port = find(attrs, device::LISTEN_PORT).and_then(|port| port.try_into().ok());
        self.port = port.map_or(self.port, u16::from_ne_bytes);
        let peers = find(attrs, device::PEERS).unwrap_or(&[]);
        for peer in Attrs(peers).filter_map(|(_, peer)| Peer::read(peer)) {
            match self.peers.last_mut().filter(|last| last.key == peer.key) {
                Some(last) => last.allowed.extend(peer.allowed),
                None => self.peers.push(peer),
            }
        }
    }
}

impl Peer {
    fn read(attrs: &[u8]) -> Option<Self> {
        let handshake = find(attrs, peer::LAST_HANDSHAKE).and_then(|at| at.get(..8)?.try_into().ok());
        let handshake = handshake
            .map(i64::from_ne_bytes)
            .and_then(|s| u64::try_from(s).ok());
        let allowed = find(attrs, peer::ALLOWED).unwrap_or(&[]);
        Some(Self {
            key: find(attrs, peer::PUBLIC_KEY).and_then(key)?,
            endpoint: find(attrs, peer::ENDPOINT).and_then(read_socket_address),
            handshake: handshake.filter(|s| *s != 0).map(Duration::from_secs),
            allowed: Attrs(allowed)
                .filter_map(|(_, entry)| allowed_of(entry))
                .collect(),
        })
    }
}

fn allowed_of(attrs: &[u8]) -> Option<(IpAddr, u8)> {
    let ip = find(attrs, allowed::ADDRESS)?;
    let ip = match <[u8; 4]>::try_from(ip) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => <[u8; 16]>::try_from(ip).ok()?.into(),
    };
    Some((ip, *find(attrs, allowed::PREFIX)?.first()?))
}

fn key(bytes: &[u8]) -> Option<PublicKey> {
    bytes.try_into().ok().map(PublicKey::from_bytes)
}

/// `struct sockaddr_in` or `struct sockaddr_in6`.
fn socket_address(at: SocketAddr) -> Vec<u8> {
    let family = if at.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    } as u16;
    let mut out = family.to_ne_bytes().to_vec();
    out.extend(at.port().to_be_bytes());
    match at {
        SocketAddr::V4(at) => {
            out.extend(at.ip().octets());
            out.extend([0; 8]);
        }
        SocketAddr::V6(at) => {
            out.extend(at.flowinfo().to_be_bytes());
            out.extend(at.ip().octets());
            out.extend(at.scope_id().to_ne_bytes());
        }
    }
    out
}

fn read_socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
    let port = be16_at(bytes, 2)?;
    if family == libc::AF_INET as u16 {
        let ip: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
        return Some((Ipv4Addr::from(ip), port).into());
    }
    let ip: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
    let scope = u32::from_ne_bytes(bytes.get(24..28)?.try_into().ok()?);
    Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(n: u8) -> PublicKey {
        PublicKey::from_bytes([n; KEY])
    }

    fn written(attrs: &[Attr]) -> Vec<u8> {
        payload(GET_DEVICE, attrs)[HEADER..].to_vec()
    }

    #[test]
    fn peers_are_read_as_they_are_written() {
        let at = ["192.0.2.2:51820", "[2001:db8::1]:9", "[fe80::1%7]:9"].map(|at| at.parse().unwrap());
        let changes: Vec<Attr> = (1..)
            .zip(at)
            .map(|(n, at)| PeerChange::Put(key_of(n), at).attr())
            .collect();
        let mut device = Device::default();
        device.read(&written(&[
            Attr::bytes(device::PUBLIC_KEY, [9; KEY]),
            Attr::bytes(device::LISTEN_PORT, 51820u16.to_ne_bytes()),
            Attr::nest(device::PEERS, changes),
        ]));
        assert_eq!((device.key, device.port), (Some(key_of(9)), 51820));
        for ((n, at), peer) in (1..).zip(at).zip(&device.peers) {
            let expected = Peer {
                key: key_of(n),
                endpoint: Some(at),
                handshake: None,
                allowed: vec![(key_of(n).inside().addr().into(), 128)],
            };
            assert_eq!(*peer, expected);
        }
        assert_eq!(device.peers.len(), 3);
    }

    #[test]
    fn a_peer_that_is_told_in_two_messages_is_one() {
        let allowed = |prefix| {
            let entry = [
                Attr::bytes(allowed::ADDRESS, [10, 0, 0, 0]),
                Attr::u8(allowed::PREFIX, prefix),
            ];
            Attr::nest(peer::ALLOWED, [Attr::nest(ENTRY, entry)])
        };
        let message = |n, prefix, seconds: i64| {
            let at = [seconds.to_ne_bytes(), [0; 8]].concat();
            let peer = [
                Attr::bytes(peer::PUBLIC_KEY, [n; KEY]),
                Attr::bytes(peer::LAST_HANDSHAKE, at),
                allowed(prefix),
            ];
            written(&[Attr::nest(device::PEERS, [Attr::nest(ENTRY, peer)])])
        };
        let mut device = Device::default();
        for message in [message(1, 8, 100), message(1, 9, 100), message(2, 10, 0)] {
            device.read(&message);
        }
        let net = |prefix| (IpAddr::from([10, 0, 0, 0]), prefix);
        let shown: Vec<_> = device
            .peers
            .iter()
            .map(|p| (p.handshake.map(|at| at.as_secs()), &p.allowed[..]))
            .collect();
        assert_eq!(
            shown,
            [(Some(100), &[net(8), net(9)][..]), (None, &[net(10)][..])]
        );
    }

    #[test]
    fn broken_bytes_are_no_peers() {
        let mut device = Device::default();
        device.read(&[200, 0, 8, 0]);
        device.read(&written(&[Attr::nest(device::PEERS, [Attr::nest(ENTRY, [])])]));
        assert_eq!(device, Device::default());
    }
}
