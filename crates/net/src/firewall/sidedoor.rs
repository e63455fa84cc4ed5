//! A way through the forward and input chains that iptables keeps in nftables (`ip filter FORWARD`, `INPUT`, and those
//! of ip6tables), where they drop what they have no rule for, as ufw and Docker leave them.
//!
//! One marked jump in front of each, to a chain of ours. The one at FORWARD lets through what our own table lets
//! through: it need not be trusted with more, for what our table drops is dropped. The one at INPUT lets through
//! containers' questions for names, and what peers send for networks over several hosts. The rules (`passage`) are such as iptables itself would write, because it refuses
//! to show a table with anything else in it.

use model::firewall::FirewallState;

use super::change::{Step, step_in};
use super::expr::Expr;
use super::foreign::{self, ForeignChain};
use super::nl;
use super::passage::{DOORS, Door, Entry};
use super::read::FoundRule;
use crate::error::NetError;
use crate::netlink::{Attr, KernelError, Netlink, find, flag, read_be32, read_text};

const TABLE: &str = "filter";

/// What is there of ours at one chain, and what it is to be there for.
pub struct Sidedoor {
    door: &'static Door,
    /// Their chain drops what it has no rule for.
    needed: bool,
    own: Option<OwnChain>,
    /// Rules of their chain that lead to ours.
    jumps: Vec<FoundRule>,
}

struct OwnChain {
    comment: Option<String>,
    rules: Vec<FoundRule>,
    /// Rules of it and jumps to it, wherever they are.
    uses: u32,
}

/// The chain is one that there is a way through.
pub fn is_kept_by_iptables(chain: &ForeignChain) -> bool {
    DOORS.iter().any(|door| is_behind(door, chain))
}

/// The chain is the one of ours at one of them.
pub fn is_own(family: u8, table: &str, chain: &str) -> bool {
    let is = |door: &Door| door.family.number() == family && door.ours == chain;
    table == TABLE && DOORS.iter().any(is)
}

fn is_behind(door: &Door, chain: &ForeignChain) -> bool {
    (chain.family, chain.table.as_str()) == (door.family.number(), TABLE)
        && (chain.hook, chain.name.as_str()) == (door.hook, door.theirs)
}

/// Looks at the chains of iptables that are there.
pub fn read(filter: &mut Netlink, chains: &[ForeignChain]) -> Result<Vec<Sidedoor>, KernelError> {
    let mut out = Vec::new();
    for door in &DOORS {
        let Some(theirs) = chains.iter().find(|c| is_behind(door, c)) else {
            continue;
        };
        let mut jumps = foreign::rules(filter, door.family.number(), TABLE, door.theirs)?;
        jumps.retain(|rule| foreign::called(rule).as_deref() == Some(door.ours));
        out.push(Sidedoor {
            door,
            needed: theirs.closes,
            own: own_chain(filter, door)?,
            jumps,
        });
    }
    Ok(out)
}

fn own_chain(filter: &mut Netlink, door: &Door) -> Result<Option<OwnChain>, KernelError> {
    let name = [
        Attr::text(nl::CHAIN_TABLE, TABLE),
        Attr::text(nl::CHAIN_NAME, door.ours),
    ];
    let reply = match filter.get(nl::kind(nl::GETCHAIN), &nl::payload(door.family.number(), &name)) {
        Err(e) if e.is(libc::ENOENT) => return Ok(None),
        other => other?,
    };
    let Some(reply) = reply else { return Ok(None) };
    let attrs = nl::attrs(&reply.payload);
    Ok(Some(OwnChain {
        comment: find(attrs, nl::CHAIN_USERDATA).and_then(nl::read_comment),
        rules: foreign::rules(filter, door.family.number(), TABLE, door.ours)?,
        uses: read_be32(attrs, nl::CHAIN_USES).unwrap_or(u32::MAX),
    }))
}

/// What makes them as they must be: the chain and the jump, or neither where it is not needed.
///
/// `mark`: whose they are. An error where one is another agent's.
pub fn steps(found: &[Sidedoor], state: &FirewallState, mark: &str) -> Result<Vec<Step>, NetError> {
    let mut out = Vec::new();
    for sidedoor in found {
        check_owner(sidedoor, mark)?;
        let wanted = (sidedoor.door.rules)(state, sidedoor.door.family);
        out.extend(match sidedoor.needed && !wanted.is_empty() {
            true => opening(sidedoor, &wanted, mark),
            false => closing(sidedoor),
        });
    }
    Ok(out)
}

fn opening(found: &Sidedoor, wanted: &[Entry], mark: &str) -> Vec<Step> {
    let door = found.door;
    let mut steps = Vec::new();
    let own: &[FoundRule] = found.own.as_ref().map_or(&[], |own| &own.rules);
    if found.own.is_none() {
        steps.push(new_chain(door, mark));
    }
    let right = own.len() == wanted.len() && wanted.iter().zip(own).all(|(w, f)| w.is(f));
    if !right {
        steps.extend((!own.is_empty()).then(|| flush(door)));
        steps.extend(
            wanted
                .iter()
                .map(|entry| new_rule(door, door.ours, flag::APPEND, entry)),
        );
    }
    let jump = Entry {
        comment: nl::comment(mark),
        protocol: None,
        exprs: vec![Expr::Jump(door.ours)],
    };
    if !matches!(&found.jumps[..], [only] if jump.is(only)) {
        steps.extend(found.jumps.iter().map(|rule| delete_rule(door, rule)));
        steps.push(new_rule(door, door.theirs, 0, &jump));
    }
    steps
}

fn closing(found: &Sidedoor) -> Vec<Step> {
    let door = found.door;
    let mut steps: Vec<Step> = found.jumps.iter().map(|rule| delete_rule(door, rule)).collect();
    if let Some(own) = &found.own {
        steps.extend((!own.rules.is_empty()).then(|| flush(door)));
        // Where somebody else's rules lead to it, it stays, empty.
        if own.uses as usize <= own.rules.len() + found.jumps.len() {
            steps.push(delete_chain(door));
        }
    }
    // An empty chain that has to stay is nothing to do.
    steps
}

fn check_owner(found: &Sidedoor, mark: &str) -> Result<(), NetError> {
    let chain = found.own.iter().filter_map(|own| own.comment.clone());
    let jumps = found
        .jumps
        .iter()
        .filter_map(|jump| nl::read_comment(&jump.userdata));
    match chain
        .chain(jumps)
        .find(|comment| comment.starts_with("wharf:") && comment != mark)
    {
        Some(other) => {
            let id = other.trim_start_matches("wharf:");
            Err(foreign_chain(found.door, &format!("another wharf agent ({id})")))
        }
        None => Ok(()),
    }
}

/// A chain that is ours alone to change is somebody else's.
fn foreign_chain(door: &Door, owner: &str) -> NetError {
    let Door { theirs, ours, .. } = door;
    let program = door.program();
    NetError::invalid(
        format!("the chain {ours} of {program}"),
        format!(
            "it is there already and belongs to {owner}; if that is gone for good, run `{program} -F {ours}`, \
             `{program} -D {theirs} -j {ours}` and `{program} -X {ours}`"
        ),
    )
}

fn in_chain(chain: &str) -> [Attr; 2] {
    [
        Attr::text(nl::RULE_TABLE, TABLE),
        Attr::text(nl::RULE_CHAIN, chain),
    ]
}

fn new_chain(door: &Door, mark: &str) -> Step {
    let attrs = [
        Attr::text(nl::CHAIN_TABLE, TABLE),
        Attr::text(nl::CHAIN_NAME, door.ours),
        Attr::bytes(nl::CHAIN_USERDATA, nl::comment(mark)),
    ];
    let doing = format!("make the chain {} of {}", door.ours, door.program());
    step_in(door.family.number(), nl::NEWCHAIN, flag::CREATE, &attrs, doing)
}

fn delete_chain(door: &Door) -> Step {
    let attrs = [
        Attr::text(nl::CHAIN_TABLE, TABLE),
        Attr::text(nl::CHAIN_NAME, door.ours),
    ];
    let doing = format!("remove the chain {} of {}", door.ours, door.program());
    step_in(door.family.number(), nl::DELCHAIN, 0, &attrs, doing)
}

fn flush(door: &Door) -> Step {
    let doing = format!("empty the chain {} of {}", door.ours, door.program());
    step_in(door.family.number(), nl::DELRULE, 0, &in_chain(door.ours), doing)
}

/// `place`: at the end (APPEND) or in front.
fn new_rule(door: &Door, chain: &str, place: u16, entry: &Entry) -> Step {
    let exprs: Vec<Attr> = entry.exprs.iter().map(Expr::attr).collect();
    let mut attrs = in_chain(chain).to_vec();
    attrs.push(Attr::nest(nl::RULE_EXPRESSIONS, exprs));
    if let Some(protocol) = entry.protocol {
        let of = Attr::be32(nl::COMPAT_PROTOCOL, protocol.into());
        attrs.push(Attr::nest(nl::RULE_COMPAT, [of, Attr::be32(nl::COMPAT_FLAGS, 0)]));
    }
    if !entry.comment.is_empty() {
        attrs.push(Attr::bytes(nl::RULE_USERDATA, entry.comment.clone()));
    }
    let doing = format!("let our networks through the chain {chain} of {}", door.program());
    step_in(
        door.family.number(),
        nl::NEWRULE,
        flag::CREATE | place,
        &attrs,
        doing,
    )
}

fn delete_rule(door: &Door, rule: &FoundRule) -> Step {
    let mut attrs = in_chain(door.theirs).to_vec();
    attrs.push(Attr::bytes(nl::RULE_HANDLE, rule.handle.to_be_bytes()));
    let doing = format!(
        "remove our rule from the chain {} of {}",
        door.theirs,
        door.program()
    );
    step_in(door.family.number(), nl::DELRULE, 0, &attrs, doing)
}

/// A change of this chain of iptables is one that concerns a way through.
pub fn concerns(family: u8, attrs: &[u8]) -> bool {
    let of = || DOORS.iter().filter(|door| door.family.number() == family);
    let is_one = |name: &str| of().any(|door| [door.theirs, door.ours].contains(&name));
    of().next().is_some()
        && read_text(attrs, nl::CHAIN_TABLE).as_deref() == Some(TABLE)
        && [nl::RULE_CHAIN, nl::CHAIN_NAME]
            .iter()
            .any(|kind| read_text(attrs, *kind).is_some_and(|name| is_one(&name)))
}
