//! The same from `/proc/net`, for kernels that lack tcp_diag or udp_diag and may load no modules.
//!
//! What it cannot tell is whether a socket on all IPv6 addresses takes IPv4 too: it is listed for both.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::firewall::Protocol;
use model::observed::Listener;

use super::Held;

/// By the states of `include/net/tcp_states.h`: listening, and bound without a peer.
const TABLES: [(&str, Protocol, &str); 4] = [
    ("tcp", Protocol::Tcp, "0A"),
    ("tcp6", Protocol::Tcp, "0A"),
    ("udp", Protocol::Udp, "07"),
    ("udp6", Protocol::Udp, "07"),
];

/// Those of this thread's network namespace; none where even these tables are not there.
pub(super) fn held() -> Option<Vec<Held>> {
    let mut out = Vec::new();
    for (name, protocol, state) in TABLES {
        let text = match fs::read_to_string(format!("/proc/thread-self/net/{name}")) {
            // A kernel without IPv6 has no such sockets.
            Err(_) if name.ends_with('6') => continue,
            text => text.ok()?,
        };
        // The first line names the columns.
        for line in text.lines().skip(1) {
            parse(line, protocol, state, &mut out);
        }
    }
    Some(out)
}

fn parse(line: &str, protocol: Protocol, state: &str, out: &mut Vec<Held>) {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let (Some(local), Some(of), Some(inode)) = (columns.get(1), columns.get(3), columns.get(9)) else {
        return;
    };
    let (Some((ip, port)), Ok(inode)) = (address(local), inode.parse()) else {
        return;
    };
    if *of != state || port == 0 {
        return;
    }
    let mut push = |ip| {
        let holder = None;
        let listener = Listener {
            protocol,
            ip,
            port,
            holder,
        };
        out.push(Held { listener, inode });
    };
    push(ip);
    if ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        push(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    }
}

/// `0100007F:1F90`: the address as words of the machine's own byte order, the port as a number.
fn address(text: &str) -> Option<(IpAddr, u16)> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::from(word(0)?),
        _ => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bytes = <[u8; 16]>::try_from(words.concat()).ok()?;
            Ipv6Addr::from(bytes).to_canonical()
        }
    };
    Some((ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn it_says_what_the_sockets_say() {
        let loopback = (Ipv4Addr::LOCALHOST, 0);
        let listening = TcpListener::bind(loopback).unwrap();
        let bound = UdpSocket::bind(loopback).unwrap();
        let everywhere = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        let all = held().unwrap();
        let port = |address: std::io::Result<std::net::SocketAddr>| address.unwrap().port();
        let (tcp, udp, any) = (
            port(listening.local_addr()),
            port(bound.local_addr()),
            port(everywhere.local_addr()),
        );
        let (loopback, all4) = (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::UNSPECIFIED.into());
        for wanted in [
            (Protocol::Tcp, loopback, tcp),
            (Protocol::Udp, loopback, udp),
            (Protocol::Tcp, Ipv6Addr::UNSPECIFIED.into(), any),
            (Protocol::Tcp, all4, any),
        ] {
            let is = |h: &Held| (h.listener.protocol, h.listener.ip, h.listener.port) == wanted;
            assert!(all.iter().any(|h| is(h) && h.inode > 0), "{wanted:?}");
        }
    }
}
