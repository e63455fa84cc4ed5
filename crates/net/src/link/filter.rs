//! Filters of frames at a device (tc-bpf(8), `direct-action`): they go with the device, need no table that a flush could
//! take away, whatever the host's firewall is, and no more of the kernel than 5.15 has everywhere (sch_ingress, cls_bpf).
//!
//! A program is a list of cases, the first that fits decides. A frame that is too short for a case that fits so far is
//! let on: what is that short is no packet of the protocol it claims to be.

use std::collections::BTreeSet;

use crate::netlink::{Attr, KernelError, Netlink, find, flag, read_text, u32_at};

/// linux/rtnetlink.h, pkt_sched.h and pkt_cls.h.
const NEWQDISC: u16 = 36;
const DELQDISC: u16 = 37;
const GETQDISC: u16 = 38;
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
/// `struct tcmsg`.
const HEADER: usize = 20;
/// Before every other filter, for frames of every protocol (ETH_P_ALL).
const FIRST: u32 = 1 << 16;
const ALL: u16 = 3;

/// Ethernet's protocols, at byte 12.
pub(super) const IPV4: u16 = 0x0800;
pub(super) const ARP: u16 = 0x0806;
pub(super) const IPV6: u16 = 0x86dd;

/// Where frames are looked at: those that the device brings to the host, and those that the host sends by it.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(super) enum End {
    Ingress = 0xffff_fff2,
    Egress = 0xffff_fff3,
}

/// Some bytes of a frame, counted from its first one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Byte(u32, u8),
    Half(u32, u16),
    Word(u32, u32),
    /// Of the word there, these bits alone.
    Bits(u32, u32, u32),
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Drop,
    /// Other filters after it have their say.
    On,
}

/// All parts of a frame are so.
pub(super) type Case = (Vec<Part>, Verdict);

/// An Ethernet address, at its place in a frame.
pub(super) fn mac(at: u32, mac: [u8; 6]) -> Vec<Part> {
    let [a, b, c, d, e, f] = mac;
    vec![
        Part::Word(at, u32::from_be_bytes([a, b, c, d])),
        Part::Half(at + 4, u16::from_be_bytes([e, f])),
    ]
}

/// An IPv6 address, at its place in a frame.
pub(super) fn ipv6(at: u32, ip: std::net::Ipv6Addr) -> Vec<Part> {
    let word = |n: u32| Part::Word(at + n * 4, (ip.to_bits() >> (96 - n * 32)) as u32);
    (0..4).map(word).collect()
}

/// In classic BPF (bpf(4) of BSD; Documentation/networking/filter.rst), as `struct sock_filter`s.
pub(super) fn program(cases: &[Case], else_: Verdict) -> Vec<u8> {
    let mut out = Vec::new();
    for (frame, verdict) in cases {
        // Each part that is not so leads behind the verdict.
        let mut rest: usize = frame.iter().map(Part::steps).sum::<usize>() + 1;
        for part in frame {
            rest -= part.steps();
            compare(&mut out, part, u8::try_from(rest).expect("a few parts each"));
        }
        give(&mut out, *verdict);
    }
    give(&mut out, else_);
    out
}

impl Part {
    fn steps(&self) -> usize {
        match self {
            Self::Byte(..) | Self::Half(..) | Self::Word(..) => 2,
            Self::Bits(..) => 3,
        }
    }
}

fn compare(out: &mut Vec<u8>, part: &Part, unless: u8) {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const EQUAL: u16 = 0x15;
    let (load, at, value) = match *part {
        Part::Word(at, value) | Part::Bits(at, _, value) => (LOAD_WORD, at, value),
        Part::Half(at, value) => (LOAD_HALF, at, value.into()),
        Part::Byte(at, value) => (LOAD_BYTE, at, value.into()),
    };
    step(out, load, 0, 0, at);
    if let Part::Bits(_, mask, _) = *part {
        step(out, AND, 0, 0, mask);
    }
    step(out, EQUAL, 0, unless, value);
}

fn give(out: &mut Vec<u8>, verdict: Verdict) {
    const RETURN: u16 = 0x06;
    /// TC_ACT_SHOT and TC_ACT_UNSPEC.
    const DROP: u32 = 2;
    const ON: u32 = u32::MAX;
    let value = match verdict {
        Verdict::Drop => DROP,
        Verdict::On => ON,
    };
    step(out, RETURN, 0, 0, value);
}

fn step(out: &mut Vec<u8>, code: u16, if_so: u8, unless: u8, value: u32) {
    out.extend_from_slice(&code.to_ne_bytes());
    out.extend_from_slice(&[if_so, unless]);
    out.extend_from_slice(&value.to_ne_bytes());
}

/// This program is at each of these ends of a device.
pub(super) fn is_there(
    route: &mut Netlink,
    index: u32,
    ends: &[End],
    program: &[u8],
) -> Result<bool, KernelError> {
    for end in ends {
        let replies = match route.dump(GETTFILTER, &header(index, 0, *end as u32, 0)) {
            // It has no place for filters, or is gone.
            Err(e) if e.is(libc::EINVAL) || e.is(libc::ENODEV) || e.is(libc::ENOENT) => return Ok(false),
            other => other?,
        };
        if !replies.iter().any(|r| holds(&r.payload, program)) {
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

/// Puts it there.
pub(super) fn ensure(
    route: &mut Netlink,
    index: u32,
    ends: &[End],
    program: &[u8],
) -> Result<(), KernelError> {
    if is_there(route, index, ends, program)? {
        return Ok(());
    }
    let mut place = header(index, CLSACT_HANDLE, CLSACT, 0);
    Attr::text(TCA_KIND, "clsact").write(&mut place);
    match route.request(NEWQDISC, flag::CREATE | flag::EXCL, &place) {
        Err(e) if e.is(libc::EEXIST) => {}
        other => other?,
    }
    let length = u16::try_from(program.len() / 8).expect("it has some hundred steps");
    let options = Attr::nest(
        TCA_OPTIONS,
        [
            Attr::bytes(BPF_OPS_LEN, length.to_ne_bytes()),
            Attr::bytes(BPF_OPS, program),
            Attr::u32(BPF_FLAGS, DIRECT_ACTION),
        ],
    );
    for end in ends {
        // Handle 1 of the first place: where one is there, this takes its place.
        let mut filter = header(index, 1, *end as u32, FIRST | u32::from(ALL.to_be()));
        Attr::text(TCA_KIND, "bpf").write(&mut filter);
        options.write(&mut filter);
        route.request(NEWTFILTER, flag::CREATE, &filter)?;
    }
    Ok(())
}

/// Removes all filters of a device; none is fine.
pub(super) fn remove(route: &mut Netlink, index: u32) -> Result<(), KernelError> {
    match route.request(DELQDISC, 0, &header(index, CLSACT_HANDLE, CLSACT, 0)) {
        Err(e) if e.is(libc::EINVAL) || e.is(libc::ENOENT) || e.is(libc::ENODEV) => Ok(()),
        other => other,
    }
}

/// The devices that have a place for filters, by their indices: one question for all of them.
pub(crate) fn filtered(route: &mut Netlink) -> Result<BTreeSet<u32>, KernelError> {
    let replies = route.dump(GETQDISC, &header(0, 0, 0, 0))?;
    let of = |payload: &[u8]| {
        let kind = read_text(payload.get(HEADER..)?, TCA_KIND)?;
        u32_at(payload, 4).filter(|_| kind == "clsact")
    };
    Ok(replies.iter().filter_map(|r| of(&r.payload)).collect())
}

fn header(index: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut out = vec![0; 4];
    for value in [index, handle, parent, info] {
        out.extend_from_slice(&value.to_ne_bytes());
    }
    out
}
