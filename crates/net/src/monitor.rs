//! Word from the kernel that devices, addresses, routes, forwarding or what concerns our firewall changed.
//!
//! The kernel tells of no change of `route_localnet`: that one is seen by whoever looks now and then.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};

use crate::error::{Doing, NetError};
use crate::netlink::u32_at;
use crate::ovs::SwitchWatch;
use crate::{firewall, link};

/// RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_TC, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE,
/// RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF.
const ROUTE_GROUPS: [u32; 9] = [1, 3, 4, 5, 7, 9, 11, 24, 25];
/// NFNLGRP_NFTABLES.
const FIREWALL_GROUP: u32 = 7;
/// Bytes the kernel may queue before it says that word was lost.
const QUEUE: usize = 1 << 20;

/// Who changed something, as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changer {
    /// Of its thread, in the first pid namespace.
    pub pid: u32,
    /// Its command name, at most 15 bytes.
    pub name: String,
}

impl std::fmt::Display for Changer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// What may be different now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MonitorEvent {
    /// Devices, addresses, routes, or whether they forward.
    pub links: bool,
    /// The host's way to the network by IPv6: a default route, an address others may know.
    pub way_out: bool,
    /// The table `inet wharf`, or what other tables do to forwarded packets.
    pub firewall: bool,
    /// Who else did the last of that. Of devices, addresses and routes the kernel does not tell.
    pub by: Option<Changer>,
    /// Word was lost: everything may be different.
    pub overrun: bool,
}

/// Nonblocking sockets in the network namespace of the thread that made them.
pub struct Monitor {
    route: Socket,
    firewall: Socket,
    /// See [`Monitor::heeding_iptables`].
    iptables: bool,
    switch: Option<SwitchWatch>,
}

impl Monitor {
    /// Starts to listen: what changes from here on is told.
    pub fn new() -> Result<Self, NetError> {
        let route =
            listen(NETLINK_ROUTE, &ROUTE_GROUPS).doing(|| "listen to changes of devices".to_owned())?;
        let firewall = listen(NETLINK_NETFILTER, &[FIREWALL_GROUP])
            .doing(|| "listen to changes of nftables".to_owned())?;
        Ok(Self {
            route,
            firewall,
            iptables: false,
            switch: None,
        })
    }

    /// Listens to Open vSwitch as well.
    #[must_use]
    pub fn with_switch(self, switch: SwitchWatch) -> Self {
        let switch = Some(switch);
        Self { switch, ..self }
    }

    /// Tells of every change by iptables-nft, too: where our rules are there.
    #[must_use]
    pub fn heeding_iptables(self, iptables: bool) -> Self {
        Self { iptables, ..self }
    }

    /// Readable when there is something to drain.
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.route.as_fd(), self.firewall.as_fd()]
    }

    /// Readable when there may be news of Open vSwitch. They are others each time that it was asked for news.
    pub fn switch_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.switch.iter().flat_map(SwitchWatch::fds)
    }

    /// Whether something of Open vSwitch may be different. To be asked now and then in any case: nobody tells that it was
    /// started.
    pub fn switch_has_news(&mut self) -> bool {
        self.switch.as_mut().is_some_and(SwitchWatch::has_news)
    }

    /// Takes all that has come.
    pub fn drain(&self) -> Result<MonitorEvent, NetError> {
        let mut event = MonitorEvent::default();
        let lost_links = drain(&self.route, |datagram| {
            for (kind, payload) in messages(datagram) {
                event.way_out |= is_of_ipv6(kind, payload) && concerns_way_out(kind, payload);
                event.links |= concerns_devices(kind, payload);
            }
        })
        .doing(|| "read changes of devices".to_owned())?;
        let mut transaction = false;
        let lost_rules = drain(&self.firewall, |datagram| {
            for (kind, payload) in messages(datagram) {
                transaction |= firewall::is_about_us(kind, payload);
                transaction |= self.iptables && firewall::is_of_iptables(kind, payload);
                event.firewall |= transaction;
                // The last message of a transaction.
                if let Some((pid, name)) = firewall::committed_by(kind, payload)
                    && std::mem::take(&mut transaction)
                    && !is_own(pid)
                    && !firewall::was_run(pid)
                {
                    event.by = Some(Changer { pid, name });
                }
            }
        })
        .doing(|| "read changes of nftables".to_owned())?;
        event.overrun = lost_links || lost_rules;
        Ok(event)
    }
}

pub(crate) fn listen(protocol: isize, groups: &[u32]) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    // Without the right to a longer queue, overruns come sooner; they are told.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &QUEUE);
    for group in groups {
        socket.add_membership(*group)?;
    }
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// Says whether word was lost.
pub(crate) fn drain(socket: &Socket, mut seen: impl FnMut(&[u8])) -> io::Result<bool> {
    let mut lost = false;
    let mut buffer = Vec::with_capacity(1 << 16);
    loop {
        buffer.clear();
        match socket.recv(&mut buffer, 0) {
            Ok(_) => seen(&buffer),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(lost),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => lost = true,
            Err(e) => return Err(e),
        }
    }
}

/// Type and content of each message of a datagram.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32_at(datagram, 0)? as usize;
        let message = datagram.get(..length).filter(|m| m.len() >= 16)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((u16::from_ne_bytes([message[4], message[5]]), &message[16..]))
    })
}

/// RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE and RTM_DELROUTE whose first byte is AF_INET6.
fn is_of_ipv6(kind: u16, payload: &[u8]) -> bool {
    matches!(kind, 20 | 21 | 24 | 25) && payload.first() == Some(&(libc::AF_INET6 as u8))
}

/// An address of global scope (`struct ifaddrmsg`), or a unicast route to everywhere (`struct rtmsg`). Every device that
/// is made gets others, by the kernel itself.
fn concerns_way_out(kind: u16, payload: &[u8]) -> bool {
    let byte = |at: usize| payload.get(at).copied();
    match kind {
        20 | 21 => byte(3) == Some(libc::RT_SCOPE_UNIVERSE),
        _ => byte(1) == Some(0) && byte(7) == Some(libc::RTN_UNICAST),
    }
}

/// Not what is learned of neighbours, which is most of what is told, nor what the kernel gives every device of IPv6 by
/// itself.
pub(crate) fn concerns_devices(kind: u16, payload: &[u8]) -> bool {
    if is_of_ipv6(kind, payload) {
        return concerns_networks(kind, payload);
    }
    !link::is_of_neighbours(kind) || link::is_of_own_entry(payload)
}

/// An address; a route to a subnet or to an address of the host.
fn concerns_networks(kind: u16, payload: &[u8]) -> bool {
    let byte = |at: usize| payload.get(at).copied();
    let is_address = matches!(kind, 20 | 21);
    is_address || byte(1) != Some(0) && matches!(byte(7), Some(libc::RTN_UNICAST | libc::RTN_LOCAL))
}

/// A thread of this process.
fn is_own(pid: u32) -> bool {
    std::fs::exists(format!("/proc/self/task/{pid}")).unwrap_or(false)
}
