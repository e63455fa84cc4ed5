//! The messages of one transaction, each with words for what it does.

use std::collections::BTreeSet;

use super::elements::Elements;
use super::expr::{Expr, Meta};
use super::nl;
use super::phrase::load;
use super::table::{Chain, Element, Rule, Set, Table, concatenation};
use super::userdata;
use crate::netlink::{Attr, Message, flag};

/// Elements are sent in pieces of about this many bytes: an attribute ends at 64 KiB.
const PIECE: usize = 32 << 10;

/// One message of a transaction.
#[derive(Clone)]
pub struct Step {
    pub message: Message,
    /// "cannot …".
    pub doing: String,
}

fn step(operation: u16, flags: u16, attrs: &[Attr], doing: String) -> Step {
    step_in(nl::INET, operation, flags, attrs, doing)
}

/// One message about something in a table of this family.
pub fn step_in(family: u8, operation: u16, flags: u16, attrs: &[Attr], doing: String) -> Step {
    let message = Message {
        kind: nl::kind(operation),
        flags,
        payload: nl::payload(family, attrs),
    };
    Step { message, doing }
}

/// Flags of a table that only its owner's socket changes, and that outlives it.
pub const KEPT: u32 = nl::TABLE_OWNED | nl::TABLE_PERSISTS;

/// Makes this socket the owner of a table whose owner's socket was closed.
pub fn adopt() -> Step {
    let attrs = [
        Attr::text(nl::TABLE_NAME, nl::TABLE),
        Attr::be32(nl::TABLE_FLAGS, KEPT),
    ];
    let doing = format!("take over the nftables table inet {}", nl::TABLE);
    step(nl::NEWTABLE, 0, &attrs, doing)
}

/// Two messages of which the second is refused, and with it the first: unless that one is refused already, the kernel
/// knows tables that have an owner and outlive it.
pub fn probe() -> [Message; 2] {
    let named = |name: &str, attrs: &[Attr]| [&[Attr::text(nl::TABLE_NAME, name)], attrs].concat();
    let doing = || "ask the kernel for tables that have an owner".to_owned();
    [
        step(
            nl::NEWTABLE,
            flag::CREATE,
            &named("wharf-probe", &[Attr::be32(nl::TABLE_FLAGS, KEPT)]),
            doing(),
        )
        .message,
        step(nl::DELTABLE, 0, &named("wharf-no-such-table", &[]), doing()).message,
    ]
}

/// Messages of which the last is refused, and with it the others: unless one of those is refused already, the kernel
/// knows zones of connection tracking (CONFIG_NF_CONNTRACK_ZONES).
pub fn probe_zones() -> [Message; 4] {
    const TABLE: &str = "wharf-probe";
    const CHAIN: &str = "probe";
    let doing = || "ask the kernel for zones of connection tracking".to_owned();
    // A register that nothing was put into cannot be read.
    let exprs = [load(Meta::L4proto, 0), Expr::SetZone { from: 0 }];
    let rule = Attr::nest(nl::RULE_EXPRESSIONS, exprs.map(|expr| expr.attr()));
    let of = |operation, flags, attrs: &[Attr]| step(operation, flags, attrs, doing()).message;
    [
        of(nl::NEWTABLE, flag::CREATE, &[Attr::text(nl::TABLE_NAME, TABLE)]),
        of(
            nl::NEWCHAIN,
            flag::CREATE,
            &[
                Attr::text(nl::CHAIN_TABLE, TABLE),
                Attr::text(nl::CHAIN_NAME, CHAIN),
            ],
        ),
        of(
            nl::NEWRULE,
            flag::CREATE | flag::APPEND,
            &[
                Attr::text(nl::RULE_TABLE, TABLE),
                Attr::text(nl::RULE_CHAIN, CHAIN),
                rule,
            ],
        ),
        of(
            nl::DELTABLE,
            0,
            &[Attr::text(nl::TABLE_NAME, "wharf-no-such-table")],
        ),
    ]
}

/// Takes the table away with all that is in it.
pub fn delete() -> Step {
    let attrs = [Attr::text(nl::TABLE_NAME, nl::TABLE)];
    step(
        nl::DELTABLE,
        0,
        &attrs,
        format!("remove the nftables table inet {}", nl::TABLE),
    )
}

/// Makes the table whole. `kept`: only its owner's socket changes it.
pub fn create(table: &Table, owner: &str, kept: bool) -> Vec<Step> {
    let mut attrs = vec![
        Attr::text(nl::TABLE_NAME, nl::TABLE),
        Attr::bytes(nl::TABLE_USERDATA, nl::comment(owner)),
    ];
    attrs.extend(kept.then(|| Attr::be32(nl::TABLE_FLAGS, KEPT)));
    let mut steps = vec![step(
        nl::NEWTABLE,
        flag::CREATE | flag::EXCL,
        &attrs,
        format!("make the nftables table inet {}", nl::TABLE),
    )];
    steps.extend(table.sets.iter().zip(1..).map(|(set, id)| new_set(set, id)));
    for chain in &table.chains {
        steps.push(new_chain(chain));
        steps.extend(chain.rules.iter().map(|rule| new_rule(chain, rule)));
    }
    for set in &table.sets {
        steps.extend(elements(nl::NEWSETELEM, set.name, set.elements.iter()));
    }
    steps
}

/// Makes the elements right, the static part being so already.
pub fn difference(table: &Table, found: &Elements) -> Vec<Step> {
    let none = BTreeSet::new();
    let mut steps = Vec::new();
    for set in &table.sets {
        let there = found.get(set.name).unwrap_or(&none);
        steps.extend(elements(
            nl::DELSETELEM,
            set.name,
            there.difference(&set.elements),
        ));
        steps.extend(elements(nl::NEWSETELEM, set.name, set.elements.difference(there)));
    }
    steps
}

fn new_set(set: &Set, id: u32) -> Step {
    let (kind, len) = concatenation(set.key);
    let mut attrs = vec![
        Attr::text(nl::SET_TABLE, nl::TABLE),
        Attr::text(nl::SET_NAME, set.name),
        Attr::be32(nl::SET_FLAGS, set.flags()),
        Attr::be32(nl::SET_KEY_TYPE, kind),
        Attr::be32(nl::SET_KEY_LEN, len),
        Attr::be32(nl::SET_ID, id),
    ];
    if !set.value.is_empty() {
        let (kind, len) = concatenation(set.value);
        attrs.extend([
            Attr::be32(nl::SET_DATA_TYPE, kind),
            Attr::be32(nl::SET_DATA_LEN, len),
        ]);
    }
    if set.interval {
        let field =
            |f: &super::table::Field| Attr::nest(nl::LIST_ELEM, [Attr::be32(nl::SET_FIELD_LEN, f.bytes())]);
        let fields: Vec<Attr> = set.key.iter().map(field).collect();
        attrs.push(Attr::nest(
            nl::SET_DESC,
            [Attr::nest(nl::SET_DESC_CONCAT, fields)],
        ));
    }
    attrs.extend(userdata::of(set).map(|data| Attr::bytes(nl::SET_USERDATA, data)));
    step(
        nl::NEWSET,
        flag::CREATE,
        &attrs,
        format!("make the nftables set {}", set.name),
    )
}

fn new_chain(chain: &Chain) -> Step {
    let hook = [
        Attr::be32(nl::HOOK_NUM, chain.hook as u32),
        Attr::be32(nl::HOOK_PRIORITY, chain.priority as u32),
    ];
    let attrs = [
        Attr::text(nl::CHAIN_TABLE, nl::TABLE),
        Attr::text(nl::CHAIN_NAME, chain.name),
        Attr::nest(nl::CHAIN_HOOK, hook),
        Attr::be32(nl::CHAIN_POLICY, nl::POLICY_ACCEPT),
        Attr::text(nl::CHAIN_TYPE, chain.kind),
    ];
    step(
        nl::NEWCHAIN,
        flag::CREATE,
        &attrs,
        format!("make the nftables chain {}", chain.name),
    )
}

fn new_rule(chain: &Chain, rule: &Rule) -> Step {
    let exprs: Vec<Attr> = rule.exprs.iter().map(|expr| expr.attr()).collect();
    let attrs = [
        Attr::text(nl::RULE_TABLE, nl::TABLE),
        Attr::text(nl::RULE_CHAIN, chain.name),
        Attr::nest(nl::RULE_EXPRESSIONS, exprs),
        Attr::bytes(nl::RULE_USERDATA, nl::comment(rule.comment)),
    ];
    let doing = format!(
        "add the rule \"{}\" to the nftables chain {}",
        rule.comment, chain.name
    );
    step(nl::NEWRULE, flag::CREATE | flag::APPEND, &attrs, doing)
}

fn elements<'a>(operation: u16, set: &str, elements: impl Iterator<Item = &'a Element>) -> Vec<Step> {
    let mut pieces: Vec<Vec<Attr>> = Vec::new();
    let mut room = 0;
    for element in elements {
        let attr = element_attr(element, operation == nl::NEWSETELEM);
        let mut bytes = Vec::new();
        attr.write(&mut bytes);
        match pieces.last_mut().filter(|_| bytes.len() <= room) {
            Some(piece) => piece.push(attr),
            None => {
                pieces.push(vec![attr]);
                room = PIECE;
            }
        }
        room -= bytes.len();
    }
    let (flags, verb) = if operation == nl::NEWSETELEM {
        (flag::CREATE, "add to")
    } else {
        (0, "take from")
    };
    let message = |piece: Vec<Attr>| {
        let attrs = [
            Attr::text(nl::ELEMS_TABLE, nl::TABLE),
            Attr::text(nl::ELEMS_SET, set),
            Attr::nest(nl::ELEMS_LIST, piece),
        ];
        step(operation, flags, &attrs, format!("{verb} the nftables set {set}"))
    };
    pieces.into_iter().map(message).collect()
}

fn element_attr(element: &Element, whole: bool) -> Attr {
    let value = |kind, bytes: &[u8]| Attr::nest(kind, [Attr::bytes(nl::DATA_VALUE, bytes)]);
    let mut attrs = vec![value(nl::ELEM_KEY, &element.key)];
    attrs.extend(element.end.as_ref().map(|end| value(nl::ELEM_KEY_END, end)));
    if whole && !element.value.is_empty() {
        attrs.push(value(nl::ELEM_DATA, &element.value));
    }
    if whole && let Some(comment) = &element.comment {
        attrs.push(Attr::bytes(nl::ELEM_USERDATA, nl::comment(comment)));
    }
    Attr::nest(nl::LIST_ELEM, attrs)
}
