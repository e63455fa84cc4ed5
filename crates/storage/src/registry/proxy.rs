//! Proxies on the way to registries: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in capitals or not, as curl(1)
//! has them.

use std::sync::Arc;

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper_util::client::proxy::matcher::Matcher;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::endpoint::{Origin, is_loopback};
use super::error::{RegistryError, tame};

/// Most bytes of what a proxy answers before it lets through.
const MAX_HEAD: usize = 16 * 1024;

/// Which there are; by default none.
#[derive(Clone, Debug, Default)]
pub struct Proxies(Option<Arc<Matcher>>);

/// The one for a server.
#[derive(Clone, Debug)]
pub struct Proxy {
    pub host: String,
    pub port: u16,
    /// What it wants to see of us.
    pub pass: Option<HeaderValue>,
}

impl Proxies {
    /// As the environment has them now.
    pub fn of_environment() -> Self {
        Self(Some(Arc::new(Matcher::from_env())))
    }

    /// These, as the variables would name them.
    pub fn new(http: &str, https: &str, no: &str) -> Self {
        let matcher = Matcher::builder()
            .http(http.to_owned())
            .https(https.to_owned())
            .no(no.to_owned());
        Self(Some(Arc::new(matcher.build())))
    }

    /// None where the server is asked itself, as one on the loopback always is.
    pub fn before(&self, origin: &Origin) -> Result<Option<Proxy>, RegistryError> {
        let Some(matcher) = self.0.as_ref().filter(|_| !is_loopback(&origin.host)) else {
            return Ok(None);
        };
        let uri: Uri = origin
            .to_string()
            .parse()
            .map_err(|e| RegistryError::refused(origin.to_string(), format!("it is no URL: {e}")))?;
        let Some(found) = matcher.intercept(&uri) else {
            return Ok(None);
        };
        let refused = |why: &str| {
            let what = format!("the proxy for {origin}");
            RegistryError::refused(what, why)
        };
        if found.uri().scheme_str() != Some("http") {
            return Err(refused(
                "it is not spoken with over plain http, and no other way is supported: write http://HOST:PORT",
            ));
        }
        let host = found.uri().host().ok_or_else(|| refused("it has no host"))?;
        Ok(Some(Proxy {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: found.uri().port_u16().unwrap_or(80),
            pass: found.basic_auth().cloned(),
        }))
    }
}

/// Has the proxy let us through to the server (RFC 9110 §9.3.6); from then on the connection is the server's.
pub async fn tunnel(stream: &mut TcpStream, origin: &Origin, proxy: &Proxy) -> Result<(), RegistryError> {
    let broken = |source| RegistryError::Connect {
        origin: format!("{origin} by the proxy {}:{}", proxy.host, proxy.port),
        source,
    };
    let host = match origin.host.contains(':') {
        true => format!("[{}]:{}", origin.host, origin.port),
        false => format!("{}:{}", origin.host, origin.port),
    };
    let mut ask = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
    if let Some(pass) = &proxy.pass {
        ask.extend(b"Proxy-Authorization: ");
        ask.extend(pass.as_bytes());
        ask.extend(b"\r\n");
    }
    ask.extend(b"\r\n");
    stream.write_all(&ask).await.map_err(broken)?;
    let mut head = Vec::new();
    // Byte by byte: what follows is the server's.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == MAX_HEAD {
            let why = "it answers with more than it should before it lets anybody through";
            return Err(RegistryError::refused(
                format!("the proxy {}:{}", proxy.host, proxy.port),
                why,
            ));
        }
        head.push(stream.read_u8().await.map_err(broken)?);
    }
    let head = String::from_utf8_lossy(&head);
    let first = head.lines().next().unwrap_or_default();
    match first.split(' ').nth(1) {
        Some(status) if status.starts_with('2') => Ok(()),
        _ => {
            let why = format!("it does not let us through to {origin}: {:?}", tame(first));
            Err(RegistryError::refused(
                format!("the proxy {}:{}", proxy.host, proxy.port),
                why,
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::endpoint::Target;
    use super::*;

    #[test]
    fn which_server_is_asked_by_which_proxy() {
        let proxies = Proxies::new(
            "http://plain.example:3128",
            "http://me:word@secure.example",
            "near.example,10.0.0.0/8",
        );
        let before = |url: &str| {
            let proxy = proxies.before(&Target::parse(url).unwrap().origin).unwrap();
            proxy.map(|p| (format!("{}:{}", p.host, p.port), p.pass.is_some()))
        };
        assert_eq!(
            before("http://r.io/"),
            Some(("plain.example:3128".to_owned(), false))
        );
        assert_eq!(
            before("https://r.io:5000/"),
            Some(("secure.example:80".to_owned(), true))
        );
        for direct in [
            "https://near.example/",
            "https://x.near.example/",
            "http://10.1.2.3/",
            "http://localhost:5000/",
            "http://[::1]/",
        ] {
            assert_eq!(before(direct), None, "{direct}");
        }
        let origin = Target::parse("https://r.io/").unwrap().origin;
        assert!(Proxies::default().before(&origin).unwrap().is_none());
        for odd in ["https://secure.example", "socks5://secure.example"] {
            let error = Proxies::new("", odd, "").before(&origin).unwrap_err().to_string();
            assert!(error.contains("the proxy for https://r.io"), "{error}");
        }
    }
}
