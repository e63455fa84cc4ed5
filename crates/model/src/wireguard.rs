//! WireGuard (its protocol: wireguard.com/protocol; the kernel's device: wg(8)): what encrypts the tunnel of an overlay,
//! and what hosts know of each other for it.
//!
//! Inside, each host has one address, which follows from its public key: so nobody has to agree on any, and who holds the
//! key is the only one to send from it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};

/// Bytes of a key, of either kind (RFC 7748).
pub const KEY: usize = 32;
/// What VXLAN over IPv6 puts around a packet, in bytes: IPv6, UDP, VXLAN and Ethernet.
const CARRIED: u32 = 40 + 8 + 8 + 14;
/// A device that takes less has no IPv6 (RFC 8200).
const LEAST: u32 = 1280;

/// Whom a host is known as to the others: the public half of its key pair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; KEY]);

/// The text is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no public key of WireGuard: 44 characters of base64, as `wharf network inspect` shows them"
)]
pub struct KeyError(String);

impl PublicKey {
    pub fn from_bytes(bytes: [u8; KEY]) -> Self {
        Self(bytes)
    }

    pub fn bytes(&self) -> [u8; KEY] {
        self.0
    }

    /// The host's address inside, and the prefix of what is on the link there: fe80:: and the first eight bytes of the key.
    pub fn inside(&self) -> Ipv6Net {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        let ip = Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, d, e, f, g, h]);
        Ipv6Net::new_assert(ip, 64)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let key = decode(text).filter(|key| *key != [0; KEY]);
        key.map(Self).ok_or_else(|| KeyError(text.to_owned()))
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

/// A key of either kind as wg(8) writes it.
pub fn encode(key: &[u8; KEY]) -> String {
    STANDARD.encode(key)
}

/// A key of either kind from what wg(8) writes.
pub fn decode(text: &str) -> Option<[u8; KEY]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// How the tunnel of an overlay is encrypted, with everything decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireGuard {
    /// The kernel's device, `wh-….wg`.
    pub device: String,
    /// This host's.
    pub key: PublicKey,
    /// UDP port, the same on every host.
    pub port: u16,
    /// The other hosts', by their addresses: one of each of the tunnel's peers.
    pub keys: BTreeMap<IpAddr, PublicKey>,
}

impl WireGuard {
    /// Where each of the others is found to begin with.
    pub fn peers(&self) -> impl Iterator<Item = (PublicKey, SocketAddr)> {
        let at = |(ip, key): (&IpAddr, &PublicKey)| (*key, SocketAddr::new(*ip, self.port));
        self.keys.iter().map(at)
    }

    /// The largest packet that its device takes, where that of the network inside is this.
    pub fn mtu(network: u32) -> u32 {
        network.saturating_add(CARRIED).max(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of RFC 7748, section 6.1.
    const ALICE: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    #[test]
    fn keys_are_read_as_they_are_written() {
        let key: PublicKey = ALICE.parse().unwrap();
        assert_eq!(key.to_string(), ALICE);
        assert_eq!(key.inside().to_string(), "fe80::8520:f009:8930:a754/64");
        for bad in [
            "",
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo",
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTm==",
            " hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        ] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn its_device_takes_what_vxlan_makes_of_a_packet_and_never_too_little_for_ipv6() {
        assert_eq!(WireGuard::mtu(1370), 1440);
        assert_eq!(WireGuard::mtu(1000), 1280);
    }
}
