//! The name servers the host itself asks (resolv.conf(5)).

use std::ffi::CString;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;

/// The port servers are asked on.
pub const PORT: u16 = 53;

/// The servers of a resolv.conf, in its order; the local machine where it names none or there is no such file, as the
/// man page has it.
pub fn host_servers(path: &Path) -> io::Result<Vec<SocketAddr>> {
    let text = match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other?,
    };
    let mut servers = parse(&String::from_utf8_lossy(&text));
    if servers.is_empty() {
        servers.push((Ipv4Addr::LOCALHOST, PORT).into());
    }
    Ok(servers)
}

/// What is no address is passed over, as libc does.
fn parse(text: &str) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        if let Some(server) = words.next().and_then(server)
            && !servers.contains(&server)
        {
            servers.push(server);
        }
    }
    servers
}

fn server(text: &str) -> Option<SocketAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some((ip, PORT).into());
    }
    // A link-local server names its device: fe80::1%eth0.
    let (ip, device) = text.split_once('%')?;
    let ip: Ipv6Addr = ip.parse().ok()?;
    let scope = match device.parse() {
        Ok(number) => number,
        Err(_) => nix::net::if_::if_nametoindex(CString::new(device).ok()?.as_c_str()).ok()?,
    };
    Some(SocketAddrV6::new(ip, PORT, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_in_order_and_nonsense_is_passed_over() {
        let text = "# nameserver 9.9.9.9\nsearch example.com\nnameserver 127.0.0.53\n nameserver\t2001:db8::1 # x\n\
                    nameserver nonsense\nnameserver 127.0.0.53\nnameserver\nnameserver fe80::1%lo\noptions edns0";
        let all: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(all, ["127.0.0.53:53", "[2001:db8::1]:53", "[fe80::1%1]:53"]);
    }

    #[test]
    fn without_servers_the_machine_asks_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let local = [SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))];
        assert_eq!(host_servers(&path).unwrap(), local);
        fs::write(&path, "search example.com\n").unwrap();
        assert_eq!(host_servers(&path).unwrap(), local);
    }
}
