//! A connection, or one HTTP request (RFC 9112), in a container's network namespace.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use model::spec::Probe;
use nix::sched::CloneFlags;

use super::{Asked, joined};
use crate::shim::files::{self, Process};

/// So much of a response is read at most, in bytes.
const MOST: usize = 16 << 10;

/// The network namespace of a payload, whoever it shares it with.
pub fn of(payload: Process) -> io::Result<OwnedFd> {
    let file = File::open(format!("/proc/{}/ns/net", payload.pid))?;
    // Opened first, compared then: the descriptor is of the process that has this start.
    if files::lives(payload) {
        Ok(file.into())
    } else {
        Err(io::Error::other("it has ended"))
    }
}

/// Asks from a thread that lives in the namespace and ends with the answer: no other ever sees the wrong network.
pub fn ask(netns: OwnedFd, probe: Probe, timeout: Duration) -> Asked {
    let give_up = Instant::now() + timeout;
    let within = move || {
        nix::sched::setns(&netns, CloneFlags::CLONE_NEWNET)
            .map_err(|e| format!("cannot enter its network namespace: {e}"))?;
        let answer = match &probe {
            Probe::Tcp(port) => connect(Ipv4Addr::LOCALHOST.into(), *port, give_up).map(|_| String::new()),
            Probe::Http {
                port,
                path,
                status,
                host,
            } => get(host, *port, path, status, give_up),
            Probe::Exec(_) | Probe::Shell(_) => Err("it is no request".to_owned()),
        };
        // A timeout by whatever name the system call gives it.
        answer.map_err(|why| match Instant::now() >= give_up {
            true => joined(&format!("no answer within {timeout:?}"), &why),
            false => why,
        })
    };
    let thread = std::thread::Builder::new().name("probe".to_owned()).spawn(within);
    let thread = thread.map_err(|e| format!("cannot start a thread: {e}"))?;
    thread
        .join()
        .unwrap_or_else(|_| Err("the probe failed".to_owned()))
}

fn connect(ip: IpAddr, port: u16, give_up: Instant) -> Result<TcpStream, String> {
    let address = SocketAddr::new(ip, port);
    TcpStream::connect_timeout(&address, left(give_up)).map_err(|e| format!("connecting to {address}: {e}"))
}

/// What is left of the time; never nothing, which would mean for ever or be refused.
fn left(give_up: Instant) -> Duration {
    let left = give_up.saturating_duration_since(Instant::now());
    left.max(Duration::from_millis(1))
}

fn get(host: &str, port: u16, path: &str, wanted: &[u16], give_up: Instant) -> Asked {
    let ip = address(host)?;
    let mut stream = connect(ip, port, give_up)?;
    let asking = |e: io::Error| format!("asking http://{}{path}: {e}", SocketAddr::new(ip, port));
    stream.set_write_timeout(Some(left(give_up))).map_err(asking)?;
    stream
        .write_all(request(host, port, path).as_bytes())
        .map_err(asking)?;
    let mut response = Vec::new();
    let mut bytes = [0; 4096];
    while response.len() < MOST {
        let known = status(&response)?;
        if known.is_some_and(|code| accepted(code, wanted)) {
            break;
        }
        if Instant::now() >= give_up {
            break;
        }
        stream.set_read_timeout(Some(left(give_up))).map_err(asking)?;
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(len) => response.extend_from_slice(&bytes[..len]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // The status is known: what the body would have said is not worth more.
            Err(_) if known.is_some() => break,
            Err(e) => return Err(asking(e)),
        }
    }
    match status(&response)? {
        Some(code) if accepted(code, wanted) => Ok(format!("HTTP status {code}")),
        Some(code) => Err(joined(&format!("HTTP status {code}"), &body(&response))),
        None => Err(asking(io::ErrorKind::UnexpectedEof.into())),
    }
}

fn accepted(code: u16, wanted: &[u16]) -> bool {
    if wanted.is_empty() {
        code == 200
    } else {
        wanted.contains(&code)
    }
}

/// An address, as nothing is looked up: the name server is not what is asked about.
fn address(host: &str) -> Result<IpAddr, String> {
    match host {
        "" | "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
        _ => host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse()
            .map_err(|_| format!("http.host {host:?} is not an address: write one, such as 127.0.0.1")),
    }
}

fn request(host: &str, port: u16, path: &str) -> String {
    let host = match host {
        "" => "127.0.0.1".to_owned(),
        ip if ip.contains(':') && !ip.starts_with('[') => format!("[{ip}]"),
        other => other.to_owned(),
    };
    let slash = if path.starts_with('/') { "" } else { "/" };
    format!(
        "GET {slash}{} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: wharf\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        encoded(path)
    )
}

/// What may not stand in a request line is written as RFC 3986 has it.
fn encoded(path: &str) -> String {
    let mut text = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_graphic() {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// The code of the final status line: interim ones (1xx) are passed over. None: not all is there yet.
fn status(response: &[u8]) -> Result<Option<u16>, String> {
    let mut rest = response;
    loop {
        let Some(end) = rest.iter().position(|b| *b == b'\n') else {
            let begun = b"HTTP/1.";
            let len = rest.len().min(begun.len());
            return match rest[..len] == begun[..len] {
                true => Ok(None),
                false => Err("what answers there does not speak HTTP".to_owned()),
            };
        };
        let line = String::from_utf8_lossy(&rest[..end]);
        let mut words = line.split_ascii_whitespace();
        let protocol = words.next().is_some_and(|word| word.starts_with("HTTP/1."));
        let code = words.next().and_then(|word| word.parse::<u16>().ok());
        match code {
            Some(code @ 200..) if protocol => return Ok(Some(code)),
            Some(100..200) if protocol => {}
            _ => return Err("what answers there does not speak HTTP".to_owned()),
        }
        let Some(next) = after_head(rest) else {
            return Ok(None);
        };
        rest = next;
        if rest.is_empty() {
            return Ok(None);
        }
    }
}

/// What follows the empty line; some programs end their lines with a newline alone.
fn after_head(response: &[u8]) -> Option<&[u8]> {
    let at = response.iter().enumerate().find_map(|(at, byte)| {
        let rest = &response[at + 1..];
        let end = [&b"\n"[..], b"\r\n"]
            .into_iter()
            .find(|end| rest.starts_with(end));
        end.filter(|_| *byte == b'\n').map(|end| at + 1 + end.len())
    })?;
    Some(&response[at..])
}

/// The beginning of a body, if it is text.
fn body(response: &[u8]) -> String {
    let body = after_head(response).unwrap_or_default();
    let body = &body[..body.len().min(model::health::OUTPUT / 2)];
    match body.contains(&0) {
        true => String::new(),
        false => String::from_utf8_lossy(body).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_the_final_one_and_anything_else_is_not_http() {
        let cases: [(&str, Result<Option<u16>, ()>); 9] = [
            ("", Ok(None)),
            ("HTT", Ok(None)),
            ("HTTP/1.1 20", Ok(None)),
            ("HTTP/1.1 204 No Content\r\n", Ok(Some(204))),
            (
                "HTTP/1.0 503 Service Unavailable\r\nX: y\r\n\r\nbusy",
                Ok(Some(503)),
            ),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", Ok(Some(200))),
            ("HTTP/1.1 100 Continue\r\n\r\n", Ok(None)),
            ("SSH-2.0-OpenSSH\r\n", Err(())),
            ("HTTP/1.1 abc\r\n", Err(())),
        ];
        for (text, expected) in cases {
            assert_eq!(status(text.as_bytes()).map_err(|_| ()), expected, "{text:?}");
        }
        let full = b"HTTP/1.1 500 x\r\nA: b\r\n\r\nno database";
        assert_eq!(body(full), "no database");
        assert_eq!(body(b"HTTP/1.1 500 x\r\nA: b\n\nno database"), "no database");
    }

    #[test]
    fn nothing_in_a_path_or_host_can_end_the_line() {
        let text = request("127.0.0.1", 80, "a b\r\nX: y\u{e4}?q=1");
        assert!(text.starts_with("GET /a%20b%0D%0AX:%20y%C3%A4?q=1 HTTP/1.1\r\nHost: 127.0.0.1:80\r\n"));
        assert!(request("::1", 8080, "/").contains("Host: [::1]:8080\r\n"));
        assert_eq!(address("[::1]").unwrap(), "::1".parse::<IpAddr>().unwrap());
        assert!(address("web").is_err());
    }
}
