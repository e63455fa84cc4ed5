//! Senders of what no plain socket sends, and what they need to know.
#![allow(dead_code)] // each test file uses its part

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use model::network::Attachment;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt, socket,
    sockopt,
};

use super::space::{LONG, Space};

/// The number of a device.
pub fn index(space: &Space, device: &str) -> u32 {
    let shown = space.sh(&format!("ip -o link show {device}"));
    shown.split(':').next().unwrap().parse().unwrap()
}

/// A device's address of the link, once it is in use.
pub fn link_local(space: &Space, device: &str) -> Ipv6Addr {
    let line = format!(
        "until ip -6 -o addr show dev {device} scope link | grep -v tentative | grep -q fe80; do sleep 0.01; done;
         ip -6 -o addr show dev {device} scope link"
    );
    let shown = space.sh(&line);
    let address = shown
        .split_whitespace()
        .find(|word| word.starts_with("fe80"))
        .unwrap();
    address.split('/').next().unwrap().parse().unwrap()
}

pub fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2);
    words
        .map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)))
        .sum()
}

pub fn checksum(sum: u32) -> [u8; 2] {
    let once = (sum & 0xffff) + (sum >> 16);
    (!((once & 0xffff) + (once >> 16)) as u16).to_be_bytes()
}

/// A datagram in a frame to that MAC address.
pub fn frame(from: &Attachment, mac: [u8; 6], to: SocketAddr, word: &str) -> Vec<u8> {
    let length = 8 + word.len() as u16;
    let mut udp = [
        4711_u16.to_be_bytes(),
        to.port().to_be_bytes(),
        length.to_be_bytes(),
        [0, 0],
    ]
    .concat();
    udp.extend(word.as_bytes());
    let (kind, mut header, pseudo) = match to.ip() {
        IpAddr::V4(to) => {
            let mut header = vec![0x45, 0];
            header.extend((20 + length).to_be_bytes());
            header.extend([0, 0, 0, 0, 64, 17, 0, 0]);
            header.extend(from.v4().unwrap().ip.octets());
            header.extend(to.octets());
            let check = checksum(sum(&header));
            header[10..12].copy_from_slice(&check);
            let pseudo = sum(&header[12..20]);
            (0x0800_u16, header, pseudo)
        }
        IpAddr::V6(to) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([17, 64]);
            header.extend(from.v6().unwrap().ip.octets());
            header.extend(to.octets());
            let pseudo = sum(&header[8..40]);
            (0x86dd, header, pseudo)
        }
    };
    let check = checksum(pseudo + 17 + u32::from(length) + sum(&udp));
    udp[6..8].copy_from_slice(&check);
    let mut out = [&mac[..], &from.mac.0, &kind.to_be_bytes()].concat();
    out.append(&mut header);
    out.append(&mut udp);
    out
}

/// Past all of IP: the frame as it is (packet(7)).
pub fn send_frame(space: &Space, bytes: &[u8]) {
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let index = index(space, "eth0");
    space.sh(&format!(
        "perl -e 'socket(S, 17, 3, 0) or die $!; my $at = pack(\"S n l S C C a8\", 17, 0x0800, {index}, 1, 0, 6, \"\"); \
         defined send(S, pack(\"H*\", \"{hex}\"), 0, $at) or die $!'"
    ));
}

/// Says to somebody there that it is a router for the next half an hour, with a subnet to take addresses from.
pub fn advertise(space: &Space, device: &str, to: Ipv6Addr, subnet: &str) {
    let index = index(space, device);
    space.run(|| {
        let fd = socket(
            AddressFamily::Inet6,
            SockType::Raw,
            SockFlag::empty(),
            SockProtocol::IcmpV6,
        )
        .unwrap();
        // Routers are on the link: nobody has forwarded what they say.
        setsockopt(&fd, sockopt::Ipv6Ttl, &255).unwrap();
        let mut packet = vec![134, 0, 0, 0, 64, 0];
        packet.extend(1800_u16.to_be_bytes());
        packet.extend([0; 8]);
        // Prefix information (RFC 4861, 4.6.2).
        packet.extend([3, 4, 64, 0xc0]);
        packet.extend(3600_u32.to_be_bytes());
        packet.extend(1800_u32.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(subnet.parse::<Ipv6Addr>().unwrap().octets());
        let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, index));
        sendto(fd.as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
    });
}

/// A socket of a protocol of IP.
pub fn raw(protocol: u8) -> UdpSocket {
    let protocol = rustix::net::Protocol::from_raw(u32::from(protocol).try_into().unwrap());
    let (family, kind) = (rustix::net::AddressFamily::INET, rustix::net::SocketType::RAW);
    let socket: OwnedFd = rustix::net::socket(family, kind, Some(protocol)).unwrap();
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

/// Makes a namespace send packets for 127.0.0.1 to a router.
pub fn route_loopback_to(space: &Space, via: Ipv4Addr) {
    space.sh("echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet");
    space.sh("echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet");
    space.sh("ip addr del 127.0.0.1/8 dev lo");
    space.sh(&format!(
        "ip route flush table local root 127.0.0.0/8; ip route add 127.0.0.1/32 via {via}"
    ));
}
