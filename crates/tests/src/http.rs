//! The smallest clients: one HTTP request, one datagram, from inside a namespace; a request to an agent's socket.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::namespace::Namespace;

/// How long one try may take. Only a failing test waits this long.
const TRY: Duration = Duration::from_secs(2);
/// A datagram that is not answered so soon is sent again, for as long as this.
const UDP_TRY: Duration = Duration::from_millis(500);
const UDP_TRIES: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// `GET` of `http://ADDRESS:PORT/PATH`, once.
pub fn get(ns: &Namespace, url: &str) -> io::Result<Answer> {
    let (address, path) = split(url);
    ns.within(|| {
        let mut stream = TcpStream::connect_timeout(&address, TRY)?;
        stream.set_read_timeout(Some(TRY))?;
        exchange(&mut stream, &address.to_string(), &path)
    })
}

/// `GET` of a path at a socket of this machine, for as long as the answer takes.
pub fn get_at(socket: &Path, path: &str) -> io::Result<Answer> {
    exchange(&mut UnixStream::connect(socket)?, "localhost", path)
}

fn exchange(stream: &mut (impl Read + Write), host: &str, path: &str) -> io::Result<Answer> {
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    parse(&String::from_utf8_lossy(&text))
}

fn split(url: &str) -> (SocketAddr, String) {
    let rest = url
        .strip_prefix("http://")
        .unwrap_or_else(|| panic!("{url}: want http://ADDRESS:PORT/"));
    let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if address.contains(':') && !address.ends_with(']') {
        address.to_owned()
    } else {
        format!("{address}:80")
    };
    (
        address.parse().unwrap_or_else(|e| panic!("{url}: {e}")),
        format!("/{path}"),
    )
}

fn parse(text: &str) -> io::Result<Answer> {
    let odd = || io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP answer: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(odd)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .ok_or_else(odd)?;
    Ok(Answer {
        status,
        body: body.to_owned(),
    })
}

/// [`get`] again and again until it answers or `limit` has passed: a server that was started a moment ago.
pub fn get_within(ns: &Namespace, url: &str, limit: Duration) -> io::Result<Answer> {
    let start = Instant::now();
    loop {
        match get(ns, url) {
            Err(e) if start.elapsed() > limit => return Err(e),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
            answer => return answer,
        }
    }
}

/// Whether a TCP connection comes about.
pub fn reaches(ns: &Namespace, address: &str) -> bool {
    let address: SocketAddr = address.parse().unwrap();
    ns.within(|| TcpStream::connect_timeout(&address, Duration::from_millis(700)).is_ok())
}

/// Where a socket is bound that is to talk to this address.
pub(crate) fn any_port(to: &SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Sends a datagram, again where no answer comes, and gives the answer.
pub fn ask_udp(ns: &Namespace, address: &str, text: &str) -> io::Result<String> {
    let address: SocketAddr = address.parse().unwrap();
    ns.within(|| {
        let socket = UdpSocket::bind(any_port(&address))?;
        socket.set_read_timeout(Some(UDP_TRY))?;
        socket.connect(address)?;
        let mut answer = [0; 1500];
        let begun = Instant::now();
        loop {
            socket.send(text.as_bytes())?;
            match socket.recv(&mut answer) {
                Ok(n) => return Ok(String::from_utf8_lossy(&answer[..n]).into_owned()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < UDP_TRIES => {}
                Err(e) => return Err(e),
            }
        }
    })
}
