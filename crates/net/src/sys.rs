//! System calls that no crate in use has.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

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
