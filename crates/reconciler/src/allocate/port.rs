//! Host ports for published ports that name none.

use std::net::Ipv4Addr;

use model::firewall::Protocol;

/// The kernel's own range for picked ports (ip-sysctl, `ip_local_port_range`).
pub const PICKED: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// The key of a picked port in the ledger.
pub fn key(container: &str, port: u16, protocol: Protocol, ip: Option<Ipv4Addr>) -> String {
    format!(
        "{container}/{port}/{protocol}/{}",
        ip.unwrap_or(Ipv4Addr::UNSPECIFIED)
    )
}

/// The lowest port of the range that is free.
pub fn pick(taken: impl Fn(u16) -> bool) -> Option<u16> {
    PICKED.into_iter().find(|port| !taken(*port))
}
