//! WireGuard: this host's key pair, and what the kernel is told and asked about a device of that kind (generic netlink,
//! linux/wireguard.h).

mod key;
mod message;

pub(crate) use key::{KeyFile, Pair};

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use model::observed::{ObservedPeer, ObservedWireGuard};
use model::wireguard::{PublicKey, WireGuard};

use crate::netlink::{KernelError, Netlink};
use message::{Change, Peer, PeerChange};

/// Without a handshake for this long nothing that a peer sends is taken any more, and nothing is sent to it but the
/// wish for one (REJECT_AFTER_TIME).
const SILENT: Duration = Duration::from_secs(180);

/// A device as it is; none where it is gone.
pub(crate) fn look(generic: &mut Netlink, device: &str) -> Result<Option<ObservedWireGuard>, KernelError> {
    let now = now();
    let seen = message::get(generic, device)?;
    Ok(seen.map(|seen| ObservedWireGuard {
        key: seen.key,
        port: seen.port,
        peers: seen
            .peers
            .iter()
            .map(|peer| (peer.key, observed(peer, now)))
            .collect(),
    }))
}

fn observed(peer: &Peer, now: Duration) -> ObservedPeer {
    ObservedPeer {
        endpoint: peer.endpoint.filter(|_| !is_heard(peer, now)),
        confined: is_confined(peer),
    }
}

fn is_heard(peer: &Peer, now: Duration) -> bool {
    peer.handshake.is_some_and(|at| now.saturating_sub(at) < SILENT)
}

fn is_confined(peer: &Peer) -> bool {
    peer.allowed == [(peer.key.inside().addr().into(), 128)]
}

/// As the kernel counts: since 1970.
fn now() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default()
}

/// Gives a device its key, port and peers. Only what is different is told: whoever is spoken with goes on being so.
pub(crate) fn set(
    generic: &mut Netlink,
    device: &str,
    wanted: &WireGuard,
    pair: &Pair,
) -> Result<(), KernelError> {
    let seen = message::get(generic, device)?.unwrap_or_default();
    let change = Change {
        private: (seen.key != Some(pair.public)).then(|| pair.private()),
        port: (seen.port != wanted.port).then_some(wanted.port),
        peers: changes(&seen.peers, wanted, now()),
    };
    message::set(generic, device, &change)
}

fn changes(seen: &[Peer], wanted: &WireGuard, now: Duration) -> Vec<PeerChange> {
    let known: BTreeMap<PublicKey, &Peer> = seen.iter().map(|peer| (peer.key, peer)).collect();
    let wanted: BTreeMap<_, _> = wanted.peers().collect();
    let gone = known.keys().filter(|key| !wanted.contains_key(*key));
    let gone = gone.map(|key| PeerChange::Remove(*key));
    let is_right = |peer: &Peer, at| is_confined(peer) && (peer.endpoint == Some(at) || is_heard(peer, now));
    let wrong = wanted
        .iter()
        .filter(|(key, at)| !known.get(*key).is_some_and(|peer| is_right(peer, **at)));
    gone.chain(wrong.map(|(key, at)| PeerChange::Put(*key, *at)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn key(n: u8) -> PublicKey {
        PublicKey::from_bytes([n; 32])
    }

    fn peer(n: u8, endpoint: &str, handshake: Option<u64>) -> Peer {
        Peer {
            key: key(n),
            endpoint: Some(endpoint.parse().unwrap()),
            handshake: handshake.map(Duration::from_secs),
            allowed: vec![(key(n).inside().addr().into(), 128)],
        }
    }

    #[test]
    fn only_what_differs_is_changed_and_who_is_heard_may_be_anywhere() {
        let wanted = WireGuard {
            device: "wh-0.wg".to_owned(),
            key: key(9),
            port: 51820,
            keys: (1..=5)
                .map(|n| (format!("192.0.2.{n}").parse().unwrap(), key(n)))
                .collect(),
        };
        let mut open = peer(3, "192.0.2.3:51820", None);
        open.allowed.push(("::".parse().unwrap(), 0));
        let seen = [
            peer(1, "192.0.2.1:51820", None),
            peer(2, "198.51.100.2:1024", Some(9_900)),
            open,
            peer(4, "198.51.100.4:51820", Some(9_000)),
            peer(6, "192.0.2.6:51820", Some(10_000)),
        ];
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(
            changes(&seen, &wanted, Duration::from_secs(10_000)),
            [
                PeerChange::Remove(key(6)),
                PeerChange::Put(key(3), at("192.0.2.3:51820")),
                PeerChange::Put(key(4), at("192.0.2.4:51820")),
                PeerChange::Put(key(5), at("192.0.2.5:51820")),
            ]
        );
        let shown = |n: usize| observed(&seen[n], Duration::from_secs(10_000));
        assert_eq!(shown(1).endpoint, None);
        assert_eq!(shown(3).endpoint, Some(at("198.51.100.4:51820")));
        assert!(shown(0).confined && !shown(2).confined);
    }
}
