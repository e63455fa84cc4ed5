//! System calls that no crate in use has.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;

/// Reads an option of that level (IPPROTO_IP, ip(7); IPPROTO_IPV6, ipv6(7)), which gets what is asked for in the buffer,
/// too; gives the length of the answer.
pub(crate) fn ip_option(
    socket: BorrowedFd<'_>,
    level: i32,
    option: i32,
    buffer: &mut [u8],
) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes to the buffer, which has that many; both live over the call.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            buffer.as_mut_ptr().cast(),
            &mut length,
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((length as usize).min(buffer.len()))
}

/// Has the kernel fill in the checksums of what is sent by the device before it is handed over, as a device without that
/// ability has it (ethtool(8), `-K DEVICE tx off`). In the network namespace of the calling thread.
pub(crate) fn fill_in_checksums(device: &str) -> io::Result<()> {
    const GET: u32 = 0x16;
    const SET: u32 = 0x17;
    // SIOCETHTOOL goes by the network namespace of whatever socket it is asked at.
    let socket = UnixDatagram::unbound()?;
    if ethtool(&socket, device, GET, 0)? == 0 {
        return Ok(());
    }
    ethtool(&socket, device, SET, 0).map(drop)
}

/// A command of one number (linux/ethtool.h, `struct ethtool_value`); the number that it leaves.
fn ethtool(socket: &UnixDatagram, device: &str, command: u32, value: u32) -> io::Result<u32> {
    // netdevice(7), linux/sockios.h.
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    let mut argument = [command, value];
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().take(libc::IFNAMSIZ - 1).zip(device.bytes()) {
        *to = from.cast_signed();
    }
    let mut request = libc::ifreq {
        ifr_name: name.map(|byte: i8| byte as libc::c_char),
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: argument.as_mut_ptr().cast(),
        },
    };
    // SAFETY: the kernel reads and writes the request and the two numbers it points to, no more: that is what these
    // commands have. Both live over the call.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    match answer {
        0.. => Ok(argument[1]),
        _ => Err(io::Error::last_os_error()),
    }
}
