//! The forward and input chains that iptables keeps outside of nftables (`iptables-legacy`), read from the kernel as it is there
//! (linux/netfilter_ipv4/ip_tables.h, x_tables.h). It cannot be part of a transaction of ours, so it is only judged.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use model::firewall::FirewallBridge;

use super::passage::names_port;
use crate::error::{Doing, NetError};
use crate::sys::ip_option;

const TABLES: &str = "/proc/thread-self/net/ip_tables_names";
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
/// In `struct ipt_entry`: addresses and masks, then the names of devices; the places of its target and its end.
const IN_DEVICE: usize = 16;
const OUT_DEVICE: usize = 32;
const TARGET: usize = 88;
const NEXT: usize = 90;
/// In `struct xt_standard_target`: size, name, and the verdict after them.
const TARGET_NAME: usize = 2;
const VERDICT: usize = 32;
/// As written there: minus the verdict, less one.
const DROP: i32 = -1;

/// What is to be done where those chains drop what is for these bridges, or their questions for names.
pub(crate) fn drops(bridges: &[FirewallBridge]) -> Result<Vec<String>, NetError> {
    let doing = || "look at the rules of iptables-legacy".to_owned();
    let Some(table) = table().doing(doing)? else {
        return Ok(Vec::new());
    };
    let mut out = Vec::new();
    for (hook, devices, complaint) in [
        (
            FORWARD,
            &[IN_DEVICE, OUT_DEVICE][..],
            forward as fn(&FirewallBridge) -> String,
        ),
        (INPUT, &[IN_DEVICE], input),
    ] {
        if table.policy(hook) != Some(DROP) {
            continue;
        }
        let rules = table.rules(hook);
        let heeded = |bridge: &&FirewallBridge| {
            let about = |at: &usize| rules.iter().any(|rule| is_about(rule, *at, &bridge.bridge));
            devices.iter().all(about)
        };
        out.extend(bridges.iter().filter(|b| !heeded(b)).map(complaint));
    }
    Ok(out)
}

fn forward(bridge: &FirewallBridge) -> String {
    let bridge = &bridge.bridge;
    format!(
        "the forward chain of iptables-legacy drops what is forwarded to and from {bridge}, so that containers there are \
         cut off and their published ports dead; run `iptables-legacy -I FORWARD -i {bridge} -j ACCEPT` and \
         `iptables-legacy -I FORWARD -o {bridge} -j ACCEPT` (nftables sees to it that nothing but published ports is \
         reached), and have it so after a boot, or move that firewall to iptables-nft"
    )
}

fn input(bridge: &FirewallBridge) -> String {
    let (port, bridge) = (names_port(bridge), &bridge.bridge);
    format!(
        "the input chain of iptables-legacy drops what containers at {bridge} ask the host, so that names do not resolve \
         there; run `iptables-legacy -I INPUT -i {bridge} -p udp --dport {port} -j ACCEPT` and `iptables-legacy -I INPUT \
         -i {bridge} -p tcp --dport {port} -j ACCEPT`, and have it so after a boot, or move that firewall to iptables-nft"
    )
}

/// The table as the kernel tells it; none where nobody uses it: asking would bring it to life.
struct Legacy {
    info: Vec<u8>,
    entries: Vec<u8>,
}

fn table() -> io::Result<Option<Legacy>> {
    let used = match fs::read_to_string(TABLES) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if !used.lines().any(|name| name == TABLE) {
        return Ok(None);
    }
    let socket: OwnedFd = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        nix::sys::socket::SockProtocol::Raw,
    )?;
    // Between the two questions somebody may change the table: then its size is another one, and it is asked again.
    for _ in 0..8 {
        let mut info = named(INFO);
        ip_option(socket.as_fd(), GET_INFO, &mut info)?;
        let size = number(&info, SIZE).unwrap_or(0) as usize;
        let mut entries = named(ENTRIES + size);
        entries[32..36].copy_from_slice(&(size as u32).to_ne_bytes());
        match ip_option(socket.as_fd(), GET_ENTRIES, &mut entries) {
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {}
            Err(e) => return Err(e),
            Ok(_) => {
                entries.drain(..ENTRIES);
                return Ok(Some(Legacy { info, entries }));
            }
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// A buffer of that size that begins with the table's name.
fn named(size: usize) -> Vec<u8> {
    let mut out = TABLE.as_bytes().to_vec();
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
        verdict(self.entries.get(end..)?)
    }

    /// The chain's rules, without those of chains it calls.
    fn rules(&self, hook: usize) -> Vec<&[u8]> {
        let [from, to] = [BEGINS, ENDS].map(|at| number(&self.info, at + 4 * hook).unwrap_or(0) as usize);
        let mut rest = self.entries.get(from..to).unwrap_or(&[]);
        let mut out = Vec::new();
        while let Some(size) = short(rest, NEXT).filter(|size| *size > NEXT) {
            let Some((rule, next)) = rest.split_at_checked(size) else {
                break;
            };
            out.push(rule);
            rest = next;
        }
        out
    }
}

/// Of a rule with a plain target; none where it is another program's (REJECT).
fn verdict(rule: &[u8]) -> Option<i32> {
    let target = rule.get(short(rule, TARGET)?..)?;
    let plain = *target.get(TARGET_NAME)? == 0;
    number(target, VERDICT).filter(|_| plain).map(|v| v as i32)
}

/// The rule is about packets of that bridge and does not drop them.
fn is_about(rule: &[u8], at: usize, bridge: &str) -> bool {
    let name = rule.get(at..at + 16).unwrap_or(&[]);
    let name = &name[..name.iter().position(|b| *b == 0).unwrap_or(name.len())];
    name == bridge.as_bytes() && verdict(rule).is_some_and(|v| v != DROP)
}
