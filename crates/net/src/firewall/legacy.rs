//! The forward and input chains that iptables keeps outside of nftables (`iptables-legacy`, `ip6tables-legacy`), read from the kernel as
//! it is there (linux/netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h, x_tables.h). It cannot be part of a transaction of ours, so it is only judged.

mod watch;

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use model::firewall::{Carrier, FirewallBridge, FirewallState, PeerRule};
use model::observed::ForeignDrop;

use super::elements::octets;
use super::family::Family;
use super::passage::{concerned, names_port};
use super::peers;
use crate::error::{Doing, NetError};
use crate::sys::ip_option;

pub use watch::LegacyWatch;

const TABLE: &str = "filter";
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
/// NF_INET_LOCAL_IN, NF_INET_FORWARD.
const INPUT: usize = 1;
const FORWARD: usize = 2;
/// Sizes and places in `struct ipt_getinfo`: a name of 32 bytes, the hooks, then five begins and five ends of chains.
const INFO: usize = 84;
const BEGINS: usize = 36;
const ENDS: usize = 56;
const SIZE: usize = 80;
/// In `struct ipt_get_entries`: the entries, aligned to eight bytes.
const ENTRIES: usize = 40;
/// What differs by family, in `struct ipt_entry` and `struct ip6t_entry` above all: addresses and masks, then the names of
/// devices; the places of its target and its end.
struct Layout {
    family: Family,
    program: &'static str,
    /// The tables that are in use.
    tables: &'static str,
    socket: AddressFamily,
    level: i32,
    /// The mask of the sender's address, which is at the beginning.
    source_mask: usize,
    protocol: usize,
    in_device: usize,
    out_device: usize,
    target: usize,
    next: usize,
    /// Of the whole, behind which its matches are.
    size: usize,
}

static LAYOUTS: [Layout; 2] = [
    Layout {
        family: Family::V4,
        program: "iptables-legacy",
        tables: "/proc/thread-self/net/ip_tables_names",
        socket: AddressFamily::Inet,
        level: libc::IPPROTO_IP,
        source_mask: 8,
        protocol: 80,
        in_device: 16,
        out_device: 32,
        target: 88,
        next: 90,
        size: 112,
    },
    Layout {
        family: Family::V6,
        program: "ip6tables-legacy",
        tables: "/proc/thread-self/net/ip6_tables_names",
        socket: AddressFamily::Inet6,
        level: libc::IPPROTO_IPV6,
        source_mask: 32,
        protocol: 128,
        in_device: 64,
        out_device: 80,
        target: 140,
        next: 142,
        size: 168,
    },
];

/// In `struct xt_standard_target`: size, name, and the verdict after them.
const TARGET_NAME: usize = 2;
const VERDICT: usize = 32;
/// As written there: minus the verdict, less one.
const DROP: i32 = -1;

/// What is to be done where those chains drop what is for these bridges, or their questions for names.
pub(crate) fn drops(state: &FirewallState) -> Result<Vec<ForeignDrop>, NetError> {
    let mut out = Vec::new();
    for layout in &LAYOUTS {
        let bridges = concerned(layout.family, &state.bridges);
        let own = state
            .peers
            .iter()
            .filter(|rule| Family::of(rule.peer) == layout.family);
        let peers: Vec<&PeerRule> = own.collect();
        if bridges.is_empty() && peers.is_empty() {
            continue;
        }
        let doing = || format!("look at the rules of {}", layout.program);
        if let Some(table) = table(layout).doing(doing)? {
            out.extend(drops_of(&table, &bridges));
            out.extend(peers_of(&table, &peers));
        }
    }
    Ok(out)
}

/// What the input chain drops of what peers send.
fn peers_of(table: &Legacy, peers: &[&PeerRule]) -> Vec<ForeignDrop> {
    if table.policy(INPUT) != Some(DROP) {
        return Vec::new();
    }
    let (rules, program) = (table.rules(INPUT), table.layout.program);
    let let_in = |rule: &PeerRule| rules.iter().any(|found| table.layout.lets_in(found, rule));
    let one = |rule: &&PeerRule| {
        let what = match rule.carrier {
            Carrier::Udp { port } => format!("-p udp --dport {port}"),
            Carrier::Gre => "-p gre".to_owned(),
        };
        ForeignDrop {
            by: program.to_owned(),
            bridges: vec![rule.bridge.clone()],
            ports: false,
            told: format!(
                "the input chain of {program} drops what {peer} sends for {} ({}), so that containers there are not \
                 reached; run `{program} -I INPUT -s {peer} {what} -j ACCEPT`, and have it so after a boot, or move that \
                 firewall to iptables-nft",
                rule.bridge,
                rule.carrier,
                peer = rule.peer,
            ),
        }
    };
    peers.iter().filter(|rule| !let_in(rule)).map(one).collect()
}

fn drops_of(table: &Legacy, bridges: &[FirewallBridge]) -> Vec<ForeignDrop> {
    let layout = table.layout;
    let mut out = Vec::new();
    for (hook, devices, complaint) in [
        (
            FORWARD,
            &[layout.in_device, layout.out_device][..],
            forward as fn(&str, &FirewallBridge) -> String,
        ),
        (INPUT, &[layout.in_device], input),
    ] {
        if table.policy(hook) != Some(DROP) {
            continue;
        }
        let rules = table.rules(hook);
        let heeded = |bridge: &&FirewallBridge| {
            let about = |at: &usize| {
                let mut rules = rules.iter();
                rules.any(|rule| layout.is_about(rule, *at, &bridge.bridge))
            };
            devices.iter().all(about)
        };
        out.extend(bridges.iter().filter(|b| !heeded(b)).map(|b| ForeignDrop {
            by: layout.program.to_owned(),
            bridges: vec![b.bridge.clone()],
            ports: hook == FORWARD,
            told: complaint(layout.program, b),
        }));
    }
    out
}

fn forward(program: &str, bridge: &FirewallBridge) -> String {
    let bridge = &bridge.bridge;
    format!(
        "the forward chain of {program} drops what is forwarded to and from {bridge}, so that containers there are \
         cut off and their published ports dead; run `{program} -I FORWARD -i {bridge} -j ACCEPT` and \
         `{program} -I FORWARD -o {bridge} -j ACCEPT` (nftables sees to it that nothing but published ports is \
         reached), and have it so after a boot, or move that firewall to iptables-nft"
    )
}

fn input(program: &str, bridge: &FirewallBridge) -> String {
    let (port, bridge) = (names_port(bridge), &bridge.bridge);
    format!(
        "the input chain of {program} drops what containers at {bridge} ask the host, so that names do not resolve \
         there; run `{program} -I INPUT -i {bridge} -p udp --dport {port} -j ACCEPT` and `{program} -I INPUT \
         -i {bridge} -p tcp --dport {port} -j ACCEPT`, and have it so after a boot, or move that firewall to iptables-nft"
    )
}

/// The table as the kernel tells it; none where nobody uses it: asking would bring it to life.
struct Legacy {
    layout: &'static Layout,
    info: Vec<u8>,
    entries: Vec<u8>,
}

fn table(layout: &'static Layout) -> io::Result<Option<Legacy>> {
    let used = match fs::read_to_string(layout.tables) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if !used.lines().any(|name| name == TABLE) {
        return Ok(None);
    }
    let socket: OwnedFd = socket(
        layout.socket,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        nix::sys::socket::SockProtocol::Raw,
    )?;
    // Between the two questions somebody may change the table: then its size is another one, and it is asked again.
    for _ in 0..8 {
        let mut info = named(TABLE, INFO);
        ip_option(socket.as_fd(), layout.level, GET_INFO, &mut info)?;
        let size = number(&info, SIZE).unwrap_or(0) as usize;
        let mut entries = named(TABLE, ENTRIES + size);
        entries[32..36].copy_from_slice(&(size as u32).to_ne_bytes());
        match ip_option(socket.as_fd(), layout.level, GET_ENTRIES, &mut entries) {
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {}
            Err(e) => return Err(e),
            Ok(_) => {
                entries.drain(..ENTRIES);
                return Ok(Some(Legacy {
                    layout,
                    info,
                    entries,
                }));
            }
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// A buffer of that size that begins with the table's name.
fn named(table: &str, size: usize) -> Vec<u8> {
    let mut out = table.as_bytes().to_vec();
    out.resize(size, 0);
    out
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    crate::netlink::u32_at(bytes, at)
}

fn short(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_ne_bytes(
        bytes.get(at..at + 2)?.try_into().ok()?,
    )))
}

impl Legacy {
    /// The verdict of the rule the chain ends with.
    fn policy(&self, hook: usize) -> Option<i32> {
        let end = number(&self.info, ENDS + 4 * hook)? as usize;
        self.layout.verdict(self.entries.get(end..)?)
    }

    /// The chain's rules, without those of chains it calls.
    fn rules(&self, hook: usize) -> Vec<&[u8]> {
        let [from, to] = [BEGINS, ENDS].map(|at| number(&self.info, at + 4 * hook).unwrap_or(0) as usize);
        let mut rest = self.entries.get(from..to).unwrap_or(&[]);
        let mut out = Vec::new();
        let next = self.layout.next;
        while let Some(size) = short(rest, next).filter(|size| *size > next) {
            let Some((rule, later)) = rest.split_at_checked(size) else {
                break;
            };
            out.push(rule);
            rest = later;
        }
        out
    }
}

impl Layout {
    /// Of a rule with a plain target; none where it is another program's (REJECT).
    fn verdict(&self, rule: &[u8]) -> Option<i32> {
        let target = rule.get(short(rule, self.target)?..)?;
        let plain = *target.get(TARGET_NAME)? == 0;
        number(target, VERDICT).filter(|_| plain).map(|v| v as i32)
    }

    /// The rule is about packets of that bridge and does not drop them.
    fn is_about(&self, rule: &[u8], at: usize, bridge: &str) -> bool {
        let name = rule.get(at..at + 16).unwrap_or(&[]);
        let name = &name[..name.iter().position(|b| *b == 0).unwrap_or(name.len())];
        name == bridge.as_bytes() && self.verdict(rule).is_some_and(|v| v != DROP)
    }

    /// The rule lets in what that peer sends, as far as can be seen: it is about the sender, about the port or protocol,
    /// or about a device, which may be the one that leads there.
    fn lets_in(&self, rule: &[u8], peer: &PeerRule) -> bool {
        let (number, port) = peers::protocol_and_port(peer.carrier);
        let address = octets(peer.peer);
        let at = |at: usize| rule.get(at..at + address.len()).unwrap_or(&[]);
        let (source, mask) = (at(0), at(self.source_mask));
        let masked = address.iter().zip(mask).map(|(byte, mask)| byte & mask);
        if !masked.eq(source.iter().copied()) {
            return false;
        }
        let protocol = short(rule, self.protocol).unwrap_or(0);
        if protocol != 0 && protocol != usize::from(number) || self.verdict(rule).is_none_or(|v| v == DROP) {
            return false;
        }
        let device = rule.get(self.in_device..self.in_device + 3).unwrap_or(&[]);
        if device == b"lo\0" {
            return false;
        }
        let named = device.first().is_some_and(|b| *b != 0) || mask.iter().any(|b| *b != 0) || protocol != 0;
        named && self.matches(rule).all(|(name, data)| is_true(name, data, port))
    }

    /// Name and data of each of its matches.
    fn matches<'r>(&self, rule: &'r [u8]) -> impl Iterator<Item = (&'r [u8], &'r [u8])> + use<'r> {
        let end = short(rule, self.target).unwrap_or(0);
        let mut rest = rule.get(self.size..end).unwrap_or(&[]);
        std::iter::from_fn(move || {
            let (one, later) = rest.split_at_checked(short(rest, 0).filter(|size| *size > VERDICT)?)?;
            rest = later;
            let name = &one[TARGET_NAME..VERDICT - 1];
            let name = &name[..name.iter().position(|b| *b == 0).unwrap_or(name.len())];
            Some((name, &one[VERDICT..]))
        })
    }
}

/// The match is true of the first datagram to that port (`struct xt_udp`: two ports of the source, two of the destination).
fn is_true(name: &[u8], data: &[u8], port: Option<u16>) -> bool {
    match name {
        b"udp" => {
            let bounds = short(data, 4).zip(short(data, 6));
            bounds
                .zip(port)
                .is_some_and(|((from, to), port)| (from..=to).contains(&usize::from(port)))
        }
        // Of flows that have begun.
        b"conntrack" | b"state" => false,
        _ => true,
    }
}
