//! What keeps the gateway on its side: a filter at both ends of the tunnel device (tc-bpf(8), `direct-action`).
//!
//! Every host's bridge has the gateway's addresses, so a frame of one of them that reached another host would be
//! taken there for the other one's own. Dropped are frames from and to its MAC address, ARP and neighbour discovery that
//! are about its IP addresses, and router discovery of IPv6. The filter goes with the device, needs no table that a flush could take away, and no
//! more of the kernel than 5.15 has everywhere.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::link_local;
use crate::netlink::{Attr, KernelError, Netlink, find, flag, u32_at};

/// linux/rtnetlink.h, pkt_sched.h and pkt_cls.h.
const NEWQDISC: u16 = 36;
const NEWTFILTER: u16 = 44;
const GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const BPF_OPS_LEN: u16 = 4;
const BPF_OPS: u16 = 5;
const BPF_FLAGS: u16 = 8;
const DIRECT_ACTION: u32 = 1;
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// Parents of the filters for what comes, and for what goes.
const ENDS: [u32; 2] = [0xffff_fff2, 0xffff_fff3];
/// `struct tcmsg`.
const HEADER: usize = 20;
/// Before every other filter, for frames of every protocol (ETH_P_ALL).
const FIRST: u32 = 1 << 16;
const ALL: u16 = 3;

/// The addresses that are the same on every host.
pub(super) struct Gateway {
    pub mac: [u8; 6],
    pub ip: Ipv4Addr,
    /// Where the network has IPv6.
    pub ip6: Option<Ipv6Addr>,
}

/// Both filters are there. `index`: of the tunnel.
pub(super) fn is_there(route: &mut Netlink, index: u32, gateway: &Gateway) -> Result<bool, KernelError> {
    let wanted = program(gateway);
    for end in ENDS {
        let replies = match route.dump(GETTFILTER, &header(index, 0, end, 0)) {
            // It has no place for filters, or is gone.
            Err(e) if e.is(libc::EINVAL) || e.is(libc::ENODEV) || e.is(libc::ENOENT) => return Ok(false),
            other => other?,
        };
        if !replies.iter().any(|r| holds(&r.payload, &wanted)) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn holds(payload: &[u8], wanted: &[u8]) -> bool {
    let is_first = u32_at(payload, 16) == Some(FIRST | u32::from(ALL.to_be()));
    let options = payload
        .get(HEADER..)
        .and_then(|attrs| find(attrs, TCA_OPTIONS))
        .unwrap_or(&[]);
    let direct = find(options, BPF_FLAGS).and_then(|flags| u32_at(flags, 0));
    is_first && direct == Some(DIRECT_ACTION) && find(options, BPF_OPS) == Some(wanted)
}

/// Puts them there.
pub(super) fn ensure(route: &mut Netlink, index: u32, gateway: &Gateway) -> Result<(), KernelError> {
    if is_there(route, index, gateway)? {
        return Ok(());
    }
    let mut place = header(index, CLSACT_HANDLE, CLSACT, 0);
    Attr::text(TCA_KIND, "clsact").write(&mut place);
    match route.request(NEWQDISC, flag::CREATE | flag::EXCL, &place) {
        Err(e) if e.is(libc::EEXIST) => {}
        other => other?,
    }
    let program = program(gateway);
    let length = u16::try_from(program.len() / 8).expect("it has some hundred steps");
    let options = Attr::nest(
        TCA_OPTIONS,
        [
            Attr::bytes(BPF_OPS_LEN, length.to_ne_bytes()),
            Attr::bytes(BPF_OPS, program),
            Attr::u32(BPF_FLAGS, DIRECT_ACTION),
        ],
    );
    for end in ENDS {
        // Handle 1 of the first place: where one is there, this takes its place.
        let mut filter = header(index, 1, end, FIRST | u32::from(ALL.to_be()));
        Attr::text(TCA_KIND, "bpf").write(&mut filter);
        options.write(&mut filter);
        route.request(NEWTFILTER, flag::CREATE, &filter)?;
    }
    Ok(())
}

fn header(index: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut out = vec![0; 4];
    for value in [index, handle, parent, info] {
        out.extend_from_slice(&value.to_ne_bytes());
    }
    out
}

/// Some bytes of a frame, counted from its first one.
enum Part {
    Byte(u32, u8),
    Half(u32, u16),
    Word(u32, u32),
}

/// In classic BPF (bpf(4) of BSD; Documentation/networking/filter.rst), as `struct sock_filter`s.
fn program(gateway: &Gateway) -> Vec<u8> {
    const RETURN: u16 = 0x06;
    const DROP: u32 = 2;
    /// TC_ACT_UNSPEC: the filters after it have their say.
    const ON: u32 = u32::MAX;
    let mut out = Vec::new();
    for frame in dropped(gateway) {
        // Each part that is not so leads behind the verdict.
        let steps = frame.len() * 2 + 1;
        for (at, part) in frame.iter().enumerate() {
            let rest = u8::try_from(steps - at * 2 - 2).expect("a few parts each");
            compare(&mut out, part, rest);
        }
        step(&mut out, RETURN, 0, 0, DROP);
    }
    step(&mut out, RETURN, 0, 0, ON);
    out
}

fn dropped(gateway: &Gateway) -> Vec<Vec<Part>> {
    use Part::{Byte, Half, Word};
    const ARP: u16 = 0x0806;
    const IPV6: u16 = 0x86dd;
    const ICMPV6: u8 = 58;
    let [a, b, c, d, e, f] = gateway.mac;
    let mac = |at: u32| {
        vec![
            Word(at, u32::from_be_bytes([a, b, c, d])),
            Half(at + 4, u16::from_be_bytes([e, f])),
        ]
    };
    let arp = |at: u32| vec![Half(12, ARP), Word(at, gateway.ip.to_bits())];
    let discovery = |kind: u8| vec![Half(12, IPV6), Byte(20, ICMPV6), Byte(54, kind)];
    // Neighbour solicitation and advertisement, by their target (RFC 4861).
    let neighbours = |ip: Ipv6Addr| {
        let target = move |n: u32| Word(62 + n * 4, (ip.to_bits() >> (96 - n * 32)) as u32);
        [135, 136].map(|kind| {
            discovery(kind)
                .into_iter()
                .chain((0..4).map(target))
                .collect::<Vec<_>>()
        })
    };
    let own6 = gateway.ip6.map(|ip| [ip, link_local(gateway.mac)]);
    let of_own6 = own6.into_iter().flatten().flat_map(neighbours);
    let mut all = vec![
        mac(0),
        mac(6),
        // The sender's and the target's protocol address (RFC 826).
        arp(28),
        arp(38),
        // Router solicitation and advertisement (RFC 4861).
        discovery(133),
        discovery(134),
    ];
    all.extend(of_own6);
    all
}

fn compare(out: &mut Vec<u8>, part: &Part, unless: u8) {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const EQUAL: u16 = 0x15;
    let (load, at, value) = match *part {
        Part::Word(at, value) => (LOAD_WORD, at, value),
        Part::Half(at, value) => (LOAD_HALF, at, value.into()),
        Part::Byte(at, value) => (LOAD_BYTE, at, value.into()),
    };
    step(out, load, 0, 0, at);
    step(out, EQUAL, 0, unless, value);
}

fn step(out: &mut Vec<u8>, code: u16, if_so: u8, unless: u8, value: u32) {
    out.extend_from_slice(&code.to_ne_bytes());
    out.extend_from_slice(&[if_so, unless]);
    out.extend_from_slice(&value.to_ne_bytes());
}
