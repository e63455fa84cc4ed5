//! What `nft` keeps with a set to be able to show it, and to read again what it showed; the kernel does not look at it
//! (libnftnl's udata: type, length, value, nested the same way; enum nftnl_udata_set_types and what each expression of
//! nftables writes of itself).

use super::slots;
use super::table::{Field, INTEGER, Set};

// Of a set.
const KEY_BYTE_ORDER: u8 = 0;
const DATA_BYTE_ORDER: u8 = 1;
const KEY_TYPEOF: u8 = 3;
const DATA_TYPEOF: u8 = 4;
// Of a `typeof`.
const EXPRESSION: u8 = 0;
const DETAILS: u8 = 1;

// Expressions of nftables (enum expr_types), and their byte orders.
const PAYLOAD: u32 = 7;
const CT: u32 = 12;
const CONCATENATION: u32 = 13;
const NUMGEN: u32 = 23;
const ANY_ORDER: u32 = 0;
const HOST_ORDER: u32 = 1;
const NETWORK_ORDER: u32 = 2;

/// The user data of a set; none where `nft` needs nothing but the numbers of its types.
///
/// A type that is no more than "integer" is given as the expression that yields it (`typeof`). Of device names it is to
/// know the byte order, for it takes them for numbers turned around otherwise.
pub fn of(set: &Set) -> Option<Vec<u8>> {
    if set.key == [Field::Device] {
        return Some(number(KEY_BYTE_ORDER, HOST_ORDER));
    }
    let all = [set.key, set.value].concat();
    if all.iter().all(|field| field.kind() != INTEGER) {
        return None;
    }
    let parts = [
        number(KEY_BYTE_ORDER, byte_order(set.key)),
        number(DATA_BYTE_ORDER, byte_order(set.value)),
        tagged(KEY_TYPEOF, &concatenation(set.key)),
        tagged(DATA_TYPEOF, &concatenation(set.value)),
    ];
    Some(parts.concat())
}

fn byte_order(fields: &[Field]) -> u32 {
    match fields {
        [Field::Device | Field::Slot | Field::Zone] => HOST_ORDER,
        [_] => NETWORK_ORDER,
        _ => ANY_ORDER,
    }
}

fn concatenation(fields: &[Field]) -> Vec<u8> {
    if let [field] = fields {
        return expression(*field);
    }
    let parts = (0..).zip(fields).map(|(i, field)| tagged(i, &expression(*field)));
    described(CONCATENATION, &parts.collect::<Vec<_>>().concat())
}

/// One that yields such a field. Which one does not matter, as long as it is of the type.
fn expression(field: Field) -> Vec<u8> {
    const IP: u32 = 12;
    const IP_DADDR: u32 = 12;
    const IP6: u32 = 13;
    const IP6_DADDR: u32 = 9;
    const UDP: u32 = 6;
    const TCP: u32 = 8;
    const DPORT: u32 = 2;
    const RAW: u32 = 0;
    const TRANSPORT: u32 = 3;
    const RANDOM: u32 = 1;
    const ZONE: u32 = 17;
    const ORIGINAL: u32 = 0;
    match field {
        Field::TcpPort => described(PAYLOAD, &numbers(&[TCP, DPORT])),
        Field::UdpPort => described(PAYLOAD, &numbers(&[UDP, DPORT])),
        // In bits.
        Field::QuotedIpv4 => described(PAYLOAD, &numbers(&[RAW, 0, TRANSPORT, 160, 32])),
        Field::QuotedPort => described(PAYLOAD, &numbers(&[RAW, 0, TRANSPORT, 224, 16])),
        // Behind the header of the message and the longer one of IPv6.
        Field::QuotedIpv6 => described(PAYLOAD, &numbers(&[RAW, 0, TRANSPORT, 256, 128])),
        Field::QuotedPort6 => described(PAYLOAD, &numbers(&[RAW, 0, TRANSPORT, 384, 16])),
        Field::Vni => described(PAYLOAD, &numbers(&[RAW, 0, TRANSPORT, 96, 24])),
        Field::Ipv6 => described(PAYLOAD, &numbers(&[IP6, IP6_DADDR])),
        Field::Slot => described(NUMGEN, &numbers(&[RANDOM, slots::COUNT, 0])),
        Field::Zone => described(CT, &numbers(&[ZONE, ORIGINAL])),
        // No set with one of the others besides addresses has a `typeof`.
        _ => described(PAYLOAD, &numbers(&[IP, IP_DADDR])),
    }
}

fn described(expression: u32, details: &[u8]) -> Vec<u8> {
    [number(EXPRESSION, expression), tagged(DETAILS, details)].concat()
}

fn numbers(values: &[u32]) -> Vec<u8> {
    let all = (0..).zip(values).map(|(i, value)| number(i, *value));
    all.collect::<Vec<_>>().concat()
}

fn number(kind: u8, value: u32) -> Vec<u8> {
    tagged(kind, &value.to_ne_bytes())
}

fn tagged(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind, value.len() as u8][..], value].concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What nft 1.0.6 sent for `typeof ip daddr . udp dport . numgen random mod 64 : ct original zone`, but for the last
    /// attribute, which says that values are no ranges.
    #[test]
    #[cfg(target_endian = "little")]
    fn it_is_what_nft_writes() {
        let set = Set {
            name: "any",
            key: &[Field::Ipv4, Field::UdpPort, Field::Slot],
            value: &[Field::Zone],
            interval: false,
            elements: BTreeSet::new(),
        };
        let hex: String = of(&set)
            .unwrap()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let key = "00040d000000 0148 0014 000407000000 010c 00040c000000 01040c000000 \
                   0114 000407000000 010c 000406000000 010402000000 021a 000417000000 0112 000401000000 010440000000 020400000000";
        let data = "00040c000000 010c 000411000000 010400000000";
        let all = format!("000400000000 010401000000 0350 {key} 0414 {data}");
        assert_eq!(hex, all.replace(' ', ""));
    }
}
