//! Numbers of nfnetlink and nftables (linux/netfilter/nfnetlink.h, nf_tables.h).

use crate::netlink::{Attr, find, read_be32, read_text};

/// The table's name.
pub(crate) const TABLE: &str = "wharf";

pub const SUBSYSTEM: u16 = 10;
pub const INET: u8 = 1;
pub const IPV4: u8 = 2;
pub const IPV6: u8 = 10;

pub const NEWTABLE: u16 = 0;
pub const GETTABLE: u16 = 1;
pub const DELTABLE: u16 = 2;
pub const NEWCHAIN: u16 = 3;
pub const GETCHAIN: u16 = 4;
pub const DELCHAIN: u16 = 5;
pub const NEWRULE: u16 = 6;
pub const GETRULE: u16 = 7;
pub const DELRULE: u16 = 8;
pub const NEWSET: u16 = 9;
pub const GETSET: u16 = 10;
pub const NEWSETELEM: u16 = 12;
pub const GETSETELEM: u16 = 13;
pub const DELSETELEM: u16 = 14;
pub const NEWGEN: u16 = 15;
pub const GETGEN: u16 = 16;

pub const GEN_ID: u16 = 1;
pub const GEN_PROC_PID: u16 = 2;
pub const GEN_PROC_NAME: u16 = 3;

pub const TABLE_NAME: u16 = 1;
pub const TABLE_FLAGS: u16 = 2;
/// One that is made anew has another one.
pub const TABLE_HANDLE: u16 = 4;
pub const TABLE_USERDATA: u16 = 6;
/// Netlink port of the socket that owns it.
pub const TABLE_OWNER: u16 = 7;
/// Its chains are not called.
pub const TABLE_DORMANT: u32 = 0x1;
/// Only the socket that made or adopted it may change it (from Linux 5.12 on).
pub const TABLE_OWNED: u32 = 0x2;
/// It stays when that socket is closed, without an owner until another one adopts it (from Linux 6.9 on).
pub const TABLE_PERSISTS: u32 = 0x4;

pub const CHAIN_TABLE: u16 = 1;
pub const CHAIN_NAME: u16 = 3;
pub const CHAIN_HOOK: u16 = 4;
pub const CHAIN_POLICY: u16 = 5;
pub const CHAIN_TYPE: u16 = 7;
pub const CHAIN_USES: u16 = 6;
pub const CHAIN_USERDATA: u16 = 12;
pub const HOOK_NUM: u16 = 1;
pub const HOOK_PRIORITY: u16 = 2;
pub const POLICY_DROP: u32 = 0;
pub const POLICY_ACCEPT: u32 = 1;

pub const RULE_TABLE: u16 = 1;
pub const RULE_CHAIN: u16 = 2;
pub const RULE_HANDLE: u16 = 3;
pub const RULE_EXPRESSIONS: u16 = 4;
pub const RULE_COMPAT: u16 = 5;
pub const RULE_USERDATA: u16 = 7;
pub const COMPAT_PROTOCOL: u16 = 1;
pub const COMPAT_FLAGS: u16 = 2;

pub const SET_TABLE: u16 = 1;
pub const SET_NAME: u16 = 2;
pub const SET_FLAGS: u16 = 3;
pub const SET_KEY_TYPE: u16 = 4;
pub const SET_KEY_LEN: u16 = 5;
pub const SET_DATA_TYPE: u16 = 6;
pub const SET_DATA_LEN: u16 = 7;
pub const SET_DESC: u16 = 9;
pub const SET_ID: u16 = 10;
pub const SET_USERDATA: u16 = 13;
pub const SET_DESC_CONCAT: u16 = 2;
pub const SET_FIELD_LEN: u16 = 1;
pub const FLAG_INTERVAL: u32 = 0x4;
pub const FLAG_MAP: u32 = 0x8;
pub const FLAG_CONCAT: u32 = 0x80;

pub const ELEMS_TABLE: u16 = 1;
pub const ELEMS_SET: u16 = 2;
pub const ELEMS_LIST: u16 = 3;
pub const ELEM_KEY: u16 = 1;
pub const ELEM_DATA: u16 = 2;
pub const ELEM_USERDATA: u16 = 6;
pub const ELEM_KEY_END: u16 = 10;
pub const DATA_VALUE: u16 = 1;
pub const DATA_VERDICT: u16 = 2;
pub const VERDICT_CODE: u16 = 1;
pub const VERDICT_CHAIN: u16 = 2;
pub const DROP: i32 = 0;
pub const ACCEPT: i32 = 1;
pub const JUMP: i32 = -3;
pub const GOTO: i32 = -4;
pub const RETURN: i32 = -5;

pub const LIST_ELEM: u16 = 1;
pub const EXPR_NAME: u16 = 1;
pub const EXPR_DATA: u16 = 2;

/// Message type of an operation on the ruleset.
pub fn kind(operation: u16) -> u16 {
    SUBSYSTEM << 8 | operation
}

/// `struct nfgenmsg`, then attributes.
pub fn payload(family: u8, attrs: &[Attr]) -> Vec<u8> {
    let mut out = vec![family, 0, 0, 0];
    attrs.iter().for_each(|attr| attr.write(&mut out));
    out
}

/// The attributes behind `struct nfgenmsg`.
pub fn attrs(payload: &[u8]) -> &[u8] {
    payload.get(4..).unwrap_or(&[])
}

/// User data as `nft` writes a comment: type 0, length, text with NUL. It shows in `nft list`.
pub fn comment(text: &str) -> Vec<u8> {
    let mut end = text.len().min(126);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut out = vec![0, end as u8 + 1];
    out.extend_from_slice(&text.as_bytes()[..end]);
    out.push(0);
    out
}

/// The text of such user data.
pub fn read_comment(data: &[u8]) -> Option<String> {
    let length = usize::from(*data.get(1)?);
    let text = data.get(2..2 + length).filter(|_| data[0] == 0)?;
    String::from_utf8(text.strip_suffix(&[0]).unwrap_or(text).to_vec()).ok()
}

/// Pid and command name of whoever made the transaction that this notification is the end of.
pub fn committed_by(kind: u16, payload: &[u8]) -> Option<(u32, String)> {
    let attrs = attrs(payload);
    let pid = read_be32(attrs, GEN_PROC_PID).filter(|_| kind == self::kind(NEWGEN))?;
    Some((pid, read_text(attrs, GEN_PROC_NAME).unwrap_or_default()))
}

/// The change that a notification tells is of a table that iptables-nft keeps.
pub fn is_of_iptables(kind: u16, payload: &[u8]) -> bool {
    let family = payload.first().copied().unwrap_or(0);
    let table = read_text(attrs(payload), TABLE_NAME);
    let kept = table.is_some_and(|table| matches!(table.as_str(), "filter" | "nat" | "mangle"));
    kind >> 8 == SUBSYSTEM && matches!(family, IPV4 | IPV6) && kept
}

/// The change that a notification tells concerns our table, or what others do to packets forwarded or for the host.
pub fn is_about_us(kind: u16, payload: &[u8]) -> bool {
    let (family, attrs) = (payload.first().copied().unwrap_or(0), attrs(payload));
    // Tables, chains, rules, sets and elements all have their table's name as first attribute.
    let ours = read_text(attrs, TABLE_NAME).as_deref() == Some(TABLE);
    let judged = [NEWCHAIN, DELCHAIN].map(self::kind).contains(&kind)
        && find(attrs, CHAIN_HOOK)
            .and_then(|hook| read_be32(hook, HOOK_NUM))
            .is_some_and(|number| super::foreign::Hook::of(number).is_some());
    let asked = super::firewalld::concerns(family, read_text(attrs, TABLE_NAME).as_deref());
    kind >> 8 == SUBSYSTEM && (ours || judged || asked || super::sidedoor::concerns(family, attrs))
}
