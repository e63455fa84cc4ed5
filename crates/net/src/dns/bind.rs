//! The sockets the server listens on, bound by the agent, which may.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use nix::sys::socket::sockopt::BindToDevice;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt};

use super::resolv::PORT;

/// Connections the kernel keeps for a server that is busy.
const BACKLOG: i32 = 128;
/// Room for queries that came while the server was busy, bytes.
const RECEIVE_BUFFER: usize = 1 << 20;
/// How often another port is tried: the one UDP got may be taken for TCP, or at another gateway.
const TRIES: u32 = 16;

/// Both sockets of one gateway.
#[derive(Debug)]
pub struct Listeners {
    pub gateway: IpAddr,
    pub udp: OwnedFd,
    pub tcp: OwnedFd,
    pub port: u16,
}

/// Listens at the gateways of one network, at one port for all of them: at that of those `held` already, else at 53, or,
/// where somebody has it (on all addresses, say), at one the kernel picks, and then at all gateways anew. The addresses
/// need not be there yet. Nothing where all are held.
pub fn listeners(gateways: &[IpAddr], held: impl Fn(&IpAddr) -> Option<u16>) -> io::Result<Vec<Listeners>> {
    let missing: Vec<IpAddr> = gateways.iter().filter(|g| held(g).is_none()).copied().collect();
    let mut ports: Vec<u16> = gateways.iter().filter_map(&held).collect();
    ports.dedup();
    let at_one = match ports[..] {
        [] => at(gateways, PORT),
        [port] => at(&missing, port),
        // An agent was cut off while it moved.
        _ => return elsewhere(gateways),
    };
    match at_one {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => elsewhere(gateways),
        other => other,
    }
}

fn elsewhere(gateways: &[IpAddr]) -> io::Result<Vec<Listeners>> {
    let mut tries = 1;
    loop {
        match at(gateways, 0) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && tries < TRIES => tries += 1,
            other => return other,
        }
    }
}

/// Port 0: one the kernel picks, the same for all.
fn at(gateways: &[IpAddr], mut port: u16) -> io::Result<Vec<Listeners>> {
    let mut all = Vec::new();
    for gateway in gateways {
        let made = pair(*gateway, port, None)?;
        port = made.port;
        all.push(made);
    }
    Ok(all)
}

/// `device`: what does not come by it does not reach them.
pub fn pair(gateway: IpAddr, port: u16, device: Option<&OsString>) -> io::Result<Listeners> {
    let udp = bound(SocketType::DGRAM, gateway, port, device)?;
    // Better than the system's default, not worth failing for.
    let _ = sockopt::set_socket_recv_buffer_size_force(&udp, RECEIVE_BUFFER);
    let port = SocketAddr::try_from(getsockname(&udp)?)?.port();
    let tcp = bound(SocketType::STREAM, gateway, port, device)?;
    listen(&tcp, BACKLOG)?;
    Ok(Listeners {
        gateway,
        udp,
        tcp,
        port,
    })
}

fn bound(kind: SocketType, gateway: IpAddr, port: u16, device: Option<&OsString>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let family = match gateway {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, kind, flags, None)?;
    match gateway {
        IpAddr::V4(_) => sockopt::set_ip_freebind(&socket, true)?,
        IpAddr::V6(_) => sockopt::set_ipv6_freebind(&socket, true)?,
    }
    if let Some(device) = device {
        nix::sys::socket::setsockopt(&socket, BindToDevice, device)?;
    }
    if kind == SocketType::STREAM {
        // Connections of a server that ended linger in TIME_WAIT. On UDP this would share the port with others.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &SocketAddr::new(gateway, port))?;
    Ok(socket)
}
