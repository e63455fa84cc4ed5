//! What hosts tell each other in etcd: keys that people can read, values in JSON.
//!
//! ```text
//! /wharf/v1/networks/NETWORK/hosts/HOST                   who is there, and where
//! /wharf/v1/networks/NETWORK/ranges/10.81.3.0-24          whose that part of the subnet is
//! /wharf/v1/networks/NETWORK/names/HOST                   containers there
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use model::name::Name;
use model::wireguard::PublicKey;
use serde::{Deserialize, Serialize};

use super::wanted::WantedNetwork;

/// Everything is below this.
pub const PREFIX: &str = "/wharf/v1/networks/";
/// Names of one host's containers; what is above is left out.
const MOST_NAMES: usize = 20_000;

/// A host that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// What it calls itself.
    pub name: String,
    /// Where the tunnel of the others goes to.
    pub address: IpAddr,
    pub range: Ipv4Net,
    /// What has to be the same on all hosts.
    pub subnet: Ipv4Net,
    pub vni: u32,
    pub port: u16,
    pub tunnel: String,
    /// Where it is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PublicKey>,
    /// Of wharf.
    pub version: String,
}

/// Whose a part of the subnet is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeRecord {
    /// Its id.
    pub host: String,
    pub name: String,
    pub address: IpAddr,
}

/// Containers of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamesRecord {
    pub names: BTreeMap<String, Vec<IpAddr>>,
}

/// What a key is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Host(String),
    Range(Ipv4Net),
    Names(String),
}

pub fn host_key(network: &Name, host: &str) -> String {
    format!("{PREFIX}{network}/hosts/{host}")
}

pub fn names_key(network: &Name, host: &str) -> String {
    format!("{PREFIX}{network}/names/{host}")
}

pub fn ranges_prefix(network: &Name) -> String {
    format!("{PREFIX}{network}/ranges/")
}

pub fn range_key(network: &Name, range: Ipv4Net) -> String {
    format!(
        "{}{}-{}",
        ranges_prefix(network),
        range.network(),
        range.prefix_len()
    )
}

/// Network and subject of a key; none of one that is not ours.
pub fn read_key(key: &str) -> Option<(Name, Subject)> {
    let mut parts = key.strip_prefix(PREFIX)?.splitn(3, '/');
    let network = parts.next()?.parse().ok()?;
    let (kind, what) = (parts.next()?, parts.next()?);
    let subject = match kind {
        "hosts" if is_id(what) => Subject::Host(what.to_owned()),
        "names" if is_id(what) => Subject::Names(what.to_owned()),
        "ranges" => {
            let (address, prefix) = what.rsplit_once('-')?;
            let range: Ipv4Net = format!("{address}/{prefix}").parse().ok()?;
            Subject::Range(range.trunc())
        }
        _ => return None,
    };
    Some((network, subject))
}

/// As [`fresh_id`] makes them.
pub fn is_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// A value as its key says it is; none where it is not.
pub fn read<T: serde::de::DeserializeOwned>(value: &[u8]) -> Option<T> {
    serde_json::from_slice(value).ok()
}

pub fn write<T: Serialize>(record: &T) -> String {
    serde_json::to_string(record).expect("records are plain data")
}

impl HostRecord {
    /// Why no tunnel can go there from this network.
    pub fn misfit(&self, wanted: &WantedNetwork) -> Option<String> {
        let WantedNetwork {
            subnet, vni, port, ..
        } = *wanted;
        let broadcast = IpAddr::V4(Ipv4Addr::BROADCAST);
        let bad =
            |ip: IpAddr| ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip == broadcast;
        let who = self.who();
        if bad(self.address) {
            return Some(format!("host {who} has an address that no host can have"));
        }
        if self.subnet != subnet {
            return Some(format!(
                "host {who} has subnet {}, this one {subnet}: it is left out",
                self.subnet
            ));
        }
        if !subnet.contains(&self.range) {
            return Some(format!(
                "host {who} has range {}, which is outside of {subnet}: it is left out",
                self.range
            ));
        }
        if self.key.is_some() != wanted.encrypted.is_some() {
            let word = |encrypted| if encrypted { "wireguard" } else { "none" };
            return Some(format!(
                "host {who} has encryption {}, this one {}: it is left out",
                word(self.key.is_some()),
                word(wanted.encrypted.is_some())
            ));
        }
        let ours = (wanted.tunnel.as_str(), vni, port);
        let theirs = (self.tunnel.as_str(), self.vni, self.port);
        (theirs != ours).then(|| {
            let text =
                |(tunnel, vni, port): (&str, u32, u16)| format!("{} {vni} at port {port}", clean(tunnel));
            format!(
                "host {who} has {}, this one {}: it is left out",
                text(theirs),
                text(ours)
            )
        })
    }

    /// For messages.
    pub fn who(&self) -> String {
        format!("{} ({})", clean(&self.name), self.address)
    }
}

impl RangeRecord {
    /// For messages.
    pub fn who(&self) -> String {
        format!("{} ({})", clean(&self.name), self.address)
    }
}

impl NamesRecord {
    /// What can be a name, of addresses inside of what is asked for.
    pub fn sound(self) -> BTreeMap<String, Vec<IpAddr>> {
        let is_name = |name: &str| name.parse::<Name>().is_ok();
        let sound = self
            .names
            .into_iter()
            .filter(|(name, ips)| is_name(name) && !ips.is_empty());
        sound.take(MOST_NAMES).collect()
    }
}

/// A name that somebody else chose, for people.
pub fn clean(text: &str) -> String {
    let shown: String = text.chars().filter(|c| !c.is_control()).take(64).collect();
    match shown.is_empty() {
        true => "?".to_owned(),
        false => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        let mesh: Name = "mesh".parse().unwrap();
        let range: Ipv4Net = "10.81.3.0/24".parse().unwrap();
        for (key, subject) in [
            (host_key(&mesh, "a1"), Subject::Host("a1".to_owned())),
            (names_key(&mesh, "a1"), Subject::Names("a1".to_owned())),
            (range_key(&mesh, range), Subject::Range(range)),
        ] {
            assert_eq!(read_key(&key), Some((mesh.clone(), subject)), "{key}");
        }
        assert_eq!(
            range_key(&mesh, range),
            "/wharf/v1/networks/mesh/ranges/10.81.3.0-24"
        );
        for foreign in [
            "/other",
            "/wharf/v1/networks/mesh",
            "/wharf/v1/networks/Mesh!/hosts/a",
            "/wharf/v1/networks/mesh/hosts/",
            "/wharf/v1/networks/mesh/hosts/a/b",
            "/wharf/v1/networks/mesh/ranges/10.81.3.0",
            "/wharf/v1/networks/mesh/ranges/10.81.3.0-99",
            "/wharf/v1/networks/mesh/more/a",
        ] {
            assert_eq!(read_key(foreign), None, "{foreign}");
        }
    }
}
