//! The URL of a member of etcd.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where etcd listens to clients where nothing else is said.
const PORT: u16 = 2379;

/// `http://HOST[:PORT]` or `https://…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EtcdUrl {
    pub https: bool,
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
}

/// The text is no such URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no URL of etcd: it looks like http://192.0.2.1:2379")]
pub struct EtcdUrlError(String);

impl EtcdUrl {
    /// `HOST:PORT`, as HTTP names it.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for EtcdUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl FromStr for EtcdUrl {
    type Err = EtcdUrlError;

    fn from_str(text: &str) -> Result<Self, EtcdUrlError> {
        read(text).ok_or_else(|| EtcdUrlError(text.to_owned()))
    }
}

fn read(text: &str) -> Option<EtcdUrl> {
    let (scheme, rest) = text.split_once("://")?;
    let https = match scheme {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.strip_prefix('[') {
        Some(inside) => {
            let (host, after) = inside.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            let port = after.strip_prefix(':');
            (port.is_some() || after.is_empty()).then_some((host, port))?
        }
        None => match rest.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        },
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    let good = !host.is_empty() && host.chars().all(plain);
    let number = |port: &str| port.parse().ok().filter(|port| *port != 0);
    good.then_some(EtcdUrl {
        https,
        host: host.to_ascii_lowercase(),
        port: port.map_or(Some(PORT), number)?,
    })
}

impl TryFrom<String> for EtcdUrl {
    type Error = EtcdUrlError;

    fn try_from(text: String) -> Result<Self, EtcdUrlError> {
        text.parse()
    }
}

impl From<EtcdUrl> for String {
    fn from(url: EtcdUrl) -> Self {
        url.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_written() {
        for (text, expected) in [
            ("http://192.0.2.1:2379", Some("http://192.0.2.1:2379")),
            ("https://Etcd-1.example/", Some("https://etcd-1.example:2379")),
            ("http://[2001:db8::1]:1", Some("http://[2001:db8::1]:1")),
            ("http://[2001:db8::1]", Some("http://[2001:db8::1]:2379")),
            ("192.0.2.1:2379", None),
            ("ftp://192.0.2.1", None),
            ("http://", None),
            ("http://a:0", None),
            ("http://a:b", None),
            ("http://a:1:2", None),
            ("http://[::1", None),
            ("http://[::1]2379", None),
            ("http://user@a", None),
            ("http://a/v3", None),
            ("http://a?x", None),
        ] {
            let url = text.parse::<EtcdUrl>().ok().map(|url| url.to_string());
            assert_eq!(url.as_deref(), expected, "{text}");
        }
    }
}
