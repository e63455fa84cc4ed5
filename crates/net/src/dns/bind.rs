//! The sockets the server listens on, bound by the agent, which may.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt};

use super::resolv::PORT;

/// Connections the kernel keeps for a server that is busy.
const BACKLOG: i32 = 128;
/// Room for queries that came while the server was busy, bytes.
const RECEIVE_BUFFER: usize = 1 << 20;
/// How often another port is tried: the one UDP got may be taken for TCP.
const TRIES: u32 = 16;

/// Both sockets of one gateway.
#[derive(Debug)]
pub struct Listeners {
    pub udp: OwnedFd,
    pub tcp: OwnedFd,
    pub port: u16,
}

/// Binds port 53 of a gateway, or, where somebody holds that (on all addresses, say), one the kernel picks. The address
/// need not be there yet.
pub fn listeners(gateway: Ipv4Addr) -> io::Result<Listeners> {
    match pair(gateway, PORT) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => other_port(gateway),
        other => other,
    }
}

fn other_port(gateway: Ipv4Addr) -> io::Result<Listeners> {
    let mut tries = 1;
    loop {
        match pair(gateway, 0) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && tries < TRIES => tries += 1,
            other => return other,
        }
    }
}

fn pair(gateway: Ipv4Addr, port: u16) -> io::Result<Listeners> {
    let udp = bound(SocketType::DGRAM, gateway, port)?;
    // Better than the system's default, not worth failing for.
    let _ = sockopt::set_socket_recv_buffer_size_force(&udp, RECEIVE_BUFFER);
    let port = match SocketAddr::try_from(getsockname(&udp)?)? {
        SocketAddr::V4(address) => address.port(),
        SocketAddr::V6(_) => port,
    };
    let tcp = bound(SocketType::STREAM, gateway, port)?;
    listen(&tcp, BACKLOG)?;
    Ok(Listeners { udp, tcp, port })
}

fn bound(kind: SocketType, gateway: Ipv4Addr, port: u16) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, kind, flags, None)?;
    sockopt::set_ip_freebind(&socket, true)?;
    if kind == SocketType::STREAM {
        // Connections of a server that ended linger in TIME_WAIT. On UDP this would share the port with others.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &SocketAddrV4::new(gateway, port))?;
    Ok(socket)
}
