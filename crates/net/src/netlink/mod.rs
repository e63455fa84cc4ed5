//! Netlink, synchronously: attributes, messages, and one request at a time over a socket.
//!
//! One small writer and reader serve all four protocols spoken here (rtnetlink(7), nftables, ctnetlink, sock_diag(7)).
//! Only the attributes that are used are looked at, so what a newer kernel adds can never make a look fail.

mod attr;
mod socket;

pub(crate) use attr::{Attr, Attrs, be16_at, find, read_be32, read_text, read_u32, u32_at};
pub use socket::KernelError;
pub(crate) use socket::{BatchError, Message, Netlink, Reply};

/// Flags of `nlmsghdr` (linux/netlink.h).
pub(crate) mod flag {
    pub const REQUEST: u16 = 0x1;
    pub const ACK: u16 = 0x4;
    pub const DUMP_INTERRUPTED: u16 = 0x10;
    pub const DUMP: u16 = 0x300;
    pub const REPLACE: u16 = 0x100;
    pub const EXCL: u16 = 0x200;
    pub const CREATE: u16 = 0x400;
    pub const APPEND: u16 = 0x800;
}
