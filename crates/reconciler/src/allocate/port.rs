//! Host ports for published ports that name none.

use std::net::IpAddr;

use model::firewall::Protocol;

/// The kernel's own range for picked ports (ip-sysctl, `ip_local_port_range`).
pub const PICKED: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// The key of a picked port in the ledger. `at`: as the table says, or the settings for all that say nothing, so that it
/// keeps its number when a network of its container gets a family, or loses it.
pub fn key(container: &str, port: u16, protocol: Protocol, at: IpAddr) -> String {
    format!("{container}/{port}/{protocol}/{at}")
}

/// The lowest port of the range that is free.
pub fn pick(taken: impl Fn(u16) -> bool) -> Option<u16> {
    PICKED.into_iter().find(|port| !taken(*port))
}
