//! Which server a registry's name means, and how far it is to be trusted.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use hyper::Uri;
use hyper::http::uri::PathAndQuery;

use super::error::RegistryError;

/// What users call Docker's own registry.
pub const DOCKER_IO: &str = "docker.io";
/// Where it is.
const DOCKER_HOST: &str = "registry-1.docker.io";

/// A server: what credentials are for, and what a connection goes to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    pub https: bool,
    /// Without the brackets of an IPv6 address, in lower case.
    pub host: String,
    pub port: u16,
}

impl Origin {
    /// `HOST[:PORT]`, as in a URL.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match (self.https, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

/// A URL that a server sent us to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub origin: Origin,
    pub path: PathAndQuery,
}

impl Target {
    /// Reads a whole URL; only http and https, and no user in front of the host.
    pub fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        if authority.as_str().contains('@') {
            return None;
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return None;
        }
        let origin = Origin {
            https,
            host: host.to_ascii_lowercase(),
            port: match authority.port() {
                Some(port) => port.as_str().parse().ok()?,
                None if https => 443,
                None => 80,
            },
        };
        let path = uri.path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        Some(Self { origin, path })
    }

    /// Where a `Location` seen at `origin` leads (RFC 9110 §10.2.2): a whole URL, or a path of the same server.
    pub fn redirect(origin: &Origin, location: &str) -> Option<Self> {
        if location.starts_with('/') && !location.starts_with("//") {
            let path = location.split('#').next().unwrap_or_default().parse().ok()?;
            let origin = origin.clone();
            return Some(Self { origin, path });
        }
        Self::parse(location)
    }
}

/// A registry as the settings have it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// As users write it.
    pub name: String,
    host: String,
    port: Option<u16>,
    /// Plain http will do, and so will any certificate.
    pub insecure: bool,
    pub loopback: bool,
}

impl Endpoint {
    /// `insecure`: where nothing says, only the loopback is.
    pub fn new(name: &str, insecure: Option<bool>) -> Result<Self, RegistryError> {
        let bad =
            || RegistryError::refused(format!("registry {name:?}"), "it is not of the form HOST[:PORT]");
        let address = if name == DOCKER_IO { DOCKER_HOST } else { name };
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, Some(port.parse().map_err(|_| bad())?))
            }
            _ => (address, None),
        };
        let inside = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let good = match inside {
            Some(inside) => inside.parse::<Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.chars().all(fits),
        };
        if !good {
            return Err(bad());
        }
        let host = inside.unwrap_or(host).to_ascii_lowercase();
        let loopback = is_loopback(&host);
        Ok(Self {
            name: name.to_owned(),
            insecure: insecure.unwrap_or(loopback),
            loopback,
            host,
            port,
        })
    }

    /// Where it may be, in the order to try. On the loopback nobody listens in, and plain http is what is found there.
    pub fn origins(&self) -> Vec<Origin> {
        let order: &[bool] = match (self.insecure, self.loopback) {
            (false, _) => &[true],
            (true, false) => &[true, false],
            (true, true) => &[false, true],
        };
        let origin = |https: &bool| Origin {
            https: *https,
            host: self.host.clone(),
            port: self.port.unwrap_or(if *https { 443 } else { 80 }),
        };
        order.iter().map(origin).collect()
    }
}

/// localhost, 127.0.0.0/8 and ::1, also when written as an IPv4 address in an IPv6 one.
pub fn is_loopback(host: &str) -> bool {
    let address = host.parse::<IpAddr>().ok();
    host == "localhost" || host.ends_with(".localhost") || address.is_some_and(|address| is_own(&address))
}

/// An address of this machine that nobody else can speak to.
pub fn is_own(address: &IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || address.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(name: &str, insecure: Option<bool>) -> Vec<String> {
        let endpoint = Endpoint::new(name, insecure).unwrap();
        endpoint.origins().iter().map(Origin::to_string).collect()
    }

    #[test]
    fn plain_http_is_for_the_loopback_and_where_it_is_allowed() {
        for (name, insecure, expected) in [
            ("docker.io", None, &["https://registry-1.docker.io"][..]),
            ("r.io:5000", None, &["https://r.io:5000"]),
            ("r.io", Some(true), &["https://r.io", "http://r.io"]),
            (
                "localhost:5000",
                None,
                &["http://localhost:5000", "https://localhost:5000"],
            ),
            ("127.9.9.9", None, &["http://127.9.9.9", "https://127.9.9.9"]),
            ("[::1]:5000", None, &["http://[::1]:5000", "https://[::1]:5000"]),
            ("localhost:5000", Some(false), &["https://localhost:5000"]),
            ("localhost.example", None, &["https://localhost.example"]),
            ("128.0.0.1:80", None, &["https://128.0.0.1:80"]),
        ] {
            assert_eq!(origins(name, insecure), expected, "{name}");
        }
        for name in ["", ":1", "a:b", "r.io:0x1", "a/b", "a b", "[zz]:1"] {
            assert!(Endpoint::new(name, None).is_err(), "{name:?}");
        }
    }

    #[test]
    fn locations() {
        let here = Target::parse("https://r.io:5000/v2/").unwrap().origin;
        let leads = |location: &str| {
            Target::redirect(&here, location).map(|target| format!("{}{}", target.origin, target.path))
        };
        for (location, expected) in [
            ("/a?b=c#d", Some("https://r.io:5000/a?b=c")),
            ("https://CDN.example/x?y", Some("https://cdn.example/x?y")),
            ("http://[::1]:80/x", Some("http://[::1]/x")),
            ("https://cdn.example", Some("https://cdn.example/")),
            ("//cdn.example/x", None),
            ("file:///etc/passwd", None),
            ("ftp://r.io/x", None),
            ("https://user:word@r.io/x", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(leads(location).as_deref(), expected, "{location}");
        }
    }
}
