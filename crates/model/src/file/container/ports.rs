//! `ports`: `[[IP:]HOST:]CONTAINER[/PROTOCOL]`, or a table.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::firewall::Protocol;
use crate::spec::PortSpec;

use super::super::reader::Item;
use super::super::tree::Value;

/// A range opens one rule a port; more than this is a mistake rather than a wish.
const LONGEST_RANGE: u32 = 256;

type Range = (u16, u16);

/// All entries. Their order says nothing, so they are sorted.
pub(super) fn read(item: &Item<'_>) -> Option<Vec<PortSpec>> {
    let mut ports = item.each(|entry| match &entry.node.value {
        Value::String(_) => text(entry),
        Value::Table(_) => table(entry),
        Value::Integer(Some(n)) => {
            entry.mismatch("a string or a table", Some(&format!("put it in quotes: \"{n}\"")));
            None
        }
        _ => {
            entry.mismatch("a string or a table", None);
            None
        }
    })?;
    ports.sort();
    Some(ports)
}

fn text(item: &Item<'_>) -> Option<PortSpec> {
    let whole = item.text()?;
    let (rest, protocol) = match whole.rsplit_once('/') {
        Some((rest, word)) => (rest, protocol(item, word)?),
        None => (whole, Protocol::Tcp),
    };
    let (ip, host, container) = split(item, rest)?;
    let ip = match ip {
        Some(ip) => Some(address(item, ip)?),
        None => None,
    };
    let host = match host {
        Some("") | None => None,
        Some(host) => Some(range(item, host)?),
    };
    let container = range(item, container)?;
    finish(item, ip, host, container, protocol, Vec::new())
}

/// Address, host part and container part, as far as they are written.
fn split<'t>(item: &Item<'_>, text: &'t str) -> Option<(Option<&'t str>, Option<&'t str>, &'t str)> {
    let shape = || {
        item.fault(
            format!("must look like \"8080:80\", not {text:?}"),
            "[[IP:]HOST:]CONTAINER[/PROTOCOL]; leave HOST empty after an address to have one picked: \"10.0.0.1::80\"",
        );
    };
    if let Some(rest) = text.strip_prefix('[') {
        let Some((ip, (host, container))) = rest
            .split_once("]:")
            .and_then(|(ip, ports)| Some((ip, ports.split_once(':')?)))
        else {
            shape();
            return None;
        };
        return Some((Some(ip), Some(host), container));
    }
    let mut parts = text.split(':');
    match [parts.next(), parts.next(), parts.next(), parts.next()] {
        [Some(container), None, ..] => Some((None, None, container)),
        [Some(host), Some(container), None, _] if !host.is_empty() && !host.contains('.') => {
            Some((None, Some(host), container))
        }
        [Some(ip), Some(host), Some(container), None] if !ip.is_empty() => {
            Some((Some(ip), Some(host), container))
        }
        _ => {
            shape();
            None
        }
    }
}

fn protocol(item: &Item<'_>, word: &str) -> Option<Protocol> {
    match word {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        _ => {
            item.fault(format!("has the protocol {word:?}"), "it is \"tcp\" or \"udp\"");
            None
        }
    }
}

fn address(item: &Item<'_>, text: &str) -> Option<IpAddr> {
    let ip: IpAddr = item.parse_part(text, "published on an IP address")?;
    of_the_host(item, ip)
}

/// An address that a port can be published at.
fn of_the_host(item: &Item<'_>, ip: IpAddr) -> Option<IpAddr> {
    // `::ffff:192.0.2.1` is an IPv4 address (RFC 4291, section 2.5.5.2).
    let ip = ip.to_canonical();
    let wrong = match ip {
        ip if ip.is_multicast() => "is for multicast",
        IpAddr::V6(ip) if ip.is_unicast_link_local() => {
            "is of a single link, from which nothing is led to containers"
        }
        _ => return Some(ip),
    };
    item.fault(
        format!("is published on {ip}, which {wrong}"),
        "use another address of the host, or none",
    );
    None
}

/// `80`, or `7000-7010`.
fn range(item: &Item<'_>, text: &str) -> Option<Range> {
    let port = |part: &str| -> Option<u16> {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        match part.parse::<u16>() {
            Ok(port) if digits && port > 0 => Some(port),
            _ => {
                item.fault(
                    format!("has {part:?} where a port belongs"),
                    "ports are numbers from 1 to 65535",
                );
                None
            }
        }
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => {
            let single = port(text)?;
            (single, single)
        }
    };
    if first > last {
        item.fault(
            format!("has the range {first}-{last}, which goes backwards"),
            &format!("write {last}-{first}"),
        );
        return None;
    }
    if length((first, last)) > LONGEST_RANGE {
        let message = format!("has a range of {} ports", length((first, last)));
        item.fault(
            message,
            &format!("a range has at most {LONGEST_RANGE}; split it, or use network_mode = \"host\""),
        );
        return None;
    }
    Some((first, last))
}

fn length((first, last): Range) -> u32 {
    u32::from(last) - u32::from(first) + 1
}

fn table(item: &Item<'_>) -> Option<PortSpec> {
    let table = item.table()?;
    let mut host = None;
    table.fill("host", &mut host, number_or_range);
    let mut container = None;
    table.fill("container", &mut container, number_or_range);
    if !table.has("container") {
        table.missing("container", "the port that the program listens on");
    }
    let mut protocol = Protocol::Tcp;
    table.set("protocol", &mut protocol, |item| {
        Some(if item.word()?.0 == "udp" {
            Protocol::Udp
        } else {
            Protocol::Tcp
        })
    });
    let mut ip = None;
    table.fill("ip", &mut ip, |inner| {
        of_the_host(inner, inner.parsed("an IP address")?)
    });
    let mut allow = Vec::new();
    table.set("allow", &mut allow, |item| item.each(network));
    allow.sort();
    allow.dedup();
    finish(item, ip, host, container?, protocol, allow)
}

fn number_or_range(item: &Item<'_>) -> Option<Range> {
    match &item.node.value {
        Value::Integer(Some(n)) => range(item, &n.to_string()),
        Value::String(text) => range(item, text),
        _ => {
            item.mismatch("a port or a range like \"7000-7010\"", None);
            None
        }
    }
}

/// A network that is let in, or one address.
fn network(item: &Item<'_>) -> Option<IpNet> {
    let text = item.text()?;
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ip.into());
    }
    let net: IpNet = item.parse_part(text, "a network like \"192.168.0.0/16\"")?;
    Some(net.trunc())
}

fn finish(
    item: &Item<'_>,
    ip: Option<IpAddr>,
    host: Option<Range>,
    container: Range,
    protocol: Protocol,
    allow: Vec<IpNet>,
) -> Option<PortSpec> {
    if let Some(host) = host.filter(|host| length(*host) != length(container)) {
        item.fault(
            format!(
                "has {} host ports for {} container ports",
                length(host),
                length(container)
            ),
            "both ranges have the same length",
        );
        return None;
    }
    Some(PortSpec {
        ip,
        host,
        container,
        protocol,
        allow,
    })
}
