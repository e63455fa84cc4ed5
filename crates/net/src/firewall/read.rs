//! What the kernel has under our table's name.

use std::collections::{BTreeMap, BTreeSet};

use super::change::KEPT;
use super::elements::Elements;
use super::expr::Expr;
use super::family::Family;
use super::firewalld;
use super::foreign::{self, ForeignChain};
use super::guard::{self, Guards};
use super::nl;
use super::render::FORWARD;
use super::sidedoor::{self, Sidedoor};
use super::table::{Chain, Element, Rule, Set, Table, concatenation};
use crate::error::{Doing, NetError};
use crate::netlink::{Attr, Attrs, KernelError, Netlink, find, read_be32, read_text};

/// A look that something changed under is repeated this often.
const TRIES: u32 = 16;
/// A set is read at most this often in one look.
const READINGS: u32 = 16;

/// The ruleset as it was at one generation.
pub struct Found {
    pub generation: u32,
    pub table: Option<FoundTable>,
    /// Chains of other tables that may drop what is ours.
    pub foreign: Vec<ForeignChain>,
    pub sidedoors: Vec<Sidedoor>,
    pub firewalld: Option<firewalld::Found>,
}

/// A table `inet wharf`, whoever made it.
#[derive(Default)]
pub struct FoundTable {
    /// The comment in its user data: whose it is.
    pub owner: Option<String>,
    flags: u32,
    /// Netlink port of the socket that alone may change it, where there is one.
    holder: u32,
    chains: Vec<FoundChain>,
    sets: Vec<FoundSet>,
    pub elements: Elements,
}

struct FoundChain {
    name: String,
    kind: Option<String>,
    hook: Option<u32>,
    priority: Option<i32>,
    policy: Option<u32>,
    rules: Vec<FoundRule>,
}

/// A rule as the kernel shows it.
#[derive(Clone, Debug)]
pub struct FoundRule {
    pub handle: u64,
    pub exprs: Vec<u8>,
    pub userdata: Vec<u8>,
}

struct FoundSet {
    name: String,
    flags: u32,
    key: (u32, u32),
    value: (u32, u32),
}

/// Reads it whole, of one generation.
pub fn read(filter: &mut Netlink) -> Result<Found, NetError> {
    for _ in 0..TRIES {
        match once(filter) {
            Ok(Some(found)) => return Ok(found),
            // Something went away between two questions, or during one.
            Ok(None) => {}
            Err(e) if e.is(libc::ENOENT) || e.is(libc::EINTR) => {}
            Err(e) => return Err(e).doing(|| "read the nftables ruleset".to_owned()),
        }
    }
    Err(NetError::Busy { tries: TRIES })
}

fn once(filter: &mut Netlink) -> Result<Option<Found>, KernelError> {
    let generation = generation(filter)?;
    let table = table(filter)?;
    let foreign = foreign::chains(filter)?;
    let sidedoors = sidedoor::read(filter, &foreign)?;
    let firewalld = firewalld::read(filter, &foreign)?;
    let found = Found {
        generation,
        table,
        foreign,
        sidedoors,
        firewalld,
    };
    Ok((self::generation(filter)? == generation).then_some(found))
}

/// The number of the ruleset's generation, another one after every change of anything in it; 0 where there is none.
pub fn generation(filter: &mut Netlink) -> Result<u32, KernelError> {
    let reply = filter.get(nl::kind(nl::GETGEN), &nl::payload(0, &[]))?;
    Ok(reply
        .and_then(|r| read_be32(nl::attrs(&r.payload), nl::GEN_ID))
        .unwrap_or(0))
}

fn table(filter: &mut Netlink) -> Result<Option<FoundTable>, KernelError> {
    let ask = nl::payload(nl::INET, &[Attr::text(nl::TABLE_NAME, nl::TABLE)]);
    let reply = match filter.get(nl::kind(nl::GETTABLE), &ask) {
        Err(e) if e.is(libc::ENOENT) => return Ok(None),
        other => other?,
    };
    let Some(reply) = reply else { return Ok(None) };
    let attrs = nl::attrs(&reply.payload);
    let mut table = FoundTable {
        owner: find(attrs, nl::TABLE_USERDATA).and_then(nl::read_comment),
        flags: read_be32(attrs, nl::TABLE_FLAGS).unwrap_or(0),
        holder: read_be32(attrs, nl::TABLE_OWNER).unwrap_or(0),
        chains: chains(filter)?,
        sets: sets(filter)?,
        ..FoundTable::default()
    };
    rules(filter, &mut table)?;
    for set in &table.sets {
        table
            .elements
            .insert(set.name.clone(), elements(filter, &set.name)?);
    }
    Ok(Some(table))
}

fn dump(filter: &mut Netlink, what: u16, attrs: &[Attr]) -> Result<Vec<Vec<u8>>, KernelError> {
    let replies = filter.dump(nl::kind(what), &nl::payload(nl::INET, attrs))?;
    // The first attribute of chains, rules, sets and elements alike is the table's name.
    let ours = |attrs: &[u8]| read_text(attrs, nl::CHAIN_TABLE).as_deref() == Some(nl::TABLE);
    let payloads = replies
        .into_iter()
        .filter(|r| r.payload.first() == Some(&nl::INET));
    Ok(payloads
        .map(|r| nl::attrs(&r.payload).to_vec())
        .filter(|attrs| ours(attrs))
        .collect())
}

fn chains(filter: &mut Netlink) -> Result<Vec<FoundChain>, KernelError> {
    let chain = |attrs: &Vec<u8>| {
        let hook = find(attrs, nl::CHAIN_HOOK).unwrap_or(&[]);
        Some(FoundChain {
            name: read_text(attrs, nl::CHAIN_NAME)?,
            kind: read_text(attrs, nl::CHAIN_TYPE),
            hook: read_be32(hook, nl::HOOK_NUM),
            priority: read_be32(hook, nl::HOOK_PRIORITY).map(|p| p as i32),
            policy: read_be32(attrs, nl::CHAIN_POLICY),
            rules: Vec::new(),
        })
    };
    Ok(dump(filter, nl::GETCHAIN, &[])?
        .iter()
        .filter_map(chain)
        .collect())
}

fn rules(filter: &mut Netlink, table: &mut FoundTable) -> Result<(), KernelError> {
    for attrs in dump(filter, nl::GETRULE, &[Attr::text(nl::RULE_TABLE, nl::TABLE)])? {
        let Some(name) = read_text(&attrs, nl::RULE_CHAIN) else {
            continue;
        };
        let rule = FoundRule::new(&attrs);
        if let Some(chain) = table.chains.iter_mut().find(|chain| chain.name == name) {
            chain.rules.push(rule);
        }
    }
    Ok(())
}

fn sets(filter: &mut Netlink) -> Result<Vec<FoundSet>, KernelError> {
    let set = |attrs: &Vec<u8>| {
        let number = |kind| read_be32(attrs, kind).unwrap_or(0);
        Some(FoundSet {
            name: read_text(attrs, nl::SET_NAME)?,
            flags: number(nl::SET_FLAGS),
            key: (number(nl::SET_KEY_TYPE), number(nl::SET_KEY_LEN)),
            value: (number(nl::SET_DATA_TYPE), number(nl::SET_DATA_LEN)),
        })
    };
    Ok(dump(filter, nl::GETSET, &[Attr::text(nl::SET_TABLE, nl::TABLE)])?
        .iter()
        .filter_map(set)
        .collect())
}

/// The elements of a set. One of more elements than a datagram holds is read until two readings agree: while the kernel gives
/// its hash table more room (nft_rhash, on a work queue after the change that made it grow), a reading that goes on from
/// one datagram to the next may miss some, in the same generation.
fn elements(filter: &mut Netlink, set: &str) -> Result<BTreeSet<Element>, KernelError> {
    let (mut found, mut parts) = elements_once(filter, set)?;
    for _ in 0..READINGS {
        if parts < 2 {
            break;
        }
        let (again, now) = elements_once(filter, set)?;
        if again == found {
            break;
        }
        (found, parts) = (again, now);
    }
    Ok(found)
}

/// With the number of messages they came in.
fn elements_once(filter: &mut Netlink, set: &str) -> Result<(BTreeSet<Element>, usize), KernelError> {
    let ask = [
        Attr::text(nl::ELEMS_TABLE, nl::TABLE),
        Attr::text(nl::ELEMS_SET, set),
    ];
    let mut out = BTreeSet::new();
    let parts = dump(filter, nl::GETSETELEM, &ask)?;
    for attrs in &parts {
        let list = find(attrs, nl::ELEMS_LIST).unwrap_or(&[]);
        out.extend(Attrs(list).map(|(_, bytes)| element(bytes)));
    }
    Ok((out, parts.len()))
}

fn element(bytes: &[u8]) -> Element {
    let value = |kind| {
        find(bytes, kind)
            .and_then(|data| find(data, nl::DATA_VALUE))
            .map(<[u8]>::to_vec)
    };
    Element {
        key: value(nl::ELEM_KEY).unwrap_or_default(),
        end: value(nl::ELEM_KEY_END),
        value: value(nl::ELEM_DATA).unwrap_or_default(),
        comment: find(bytes, nl::ELEM_USERDATA).and_then(nl::read_comment),
    }
}

impl FoundTable {
    /// Chains, rules and the make of the sets are as they must be, and in force; elements are not looked at.
    pub fn has_static_part_of(&self, wanted: &Table) -> bool {
        let chains: BTreeMap<&str, &FoundChain> = self.chains.iter().map(|c| (c.name.as_str(), c)).collect();
        let sets: BTreeMap<&str, &FoundSet> = self.sets.iter().map(|s| (s.name.as_str(), s)).collect();
        self.flags & nl::TABLE_DORMANT == 0
            && chains.len() == wanted.chains.len()
            && sets.len() == wanted.sets.len()
            && wanted
                .chains
                .iter()
                .all(|chain| chains.get(chain.name).is_some_and(|found| found.is(chain)))
            && wanted
                .sets
                .iter()
                .all(|set| sets.get(set.name).is_some_and(|found| found.is(set)))
    }

    /// Only its owner may change it.
    fn is_owned(&self) -> bool {
        self.flags & nl::TABLE_OWNED != 0
    }

    /// Its owner's socket was closed: anybody may change it, until one adopts it.
    pub fn is_orphan(&self) -> bool {
        self.flags & KEPT == nl::TABLE_PERSISTS
    }

    /// The netlink port of another socket that owns it.
    pub fn held_by_another(&self, port: u32) -> Option<u32> {
        Some(self.holder).filter(|holder| self.is_owned() && *holder != port)
    }

    /// It is as protected as it is to be: owned by the socket with this netlink port, or by none.
    pub fn is_kept(&self, port: Option<u32>) -> bool {
        match port {
            Some(port) => self.flags & KEPT == KEPT && self.holder == port,
            None => self.flags & KEPT == 0,
        }
    }

    /// The guards are the last rules of the forward chain.
    pub fn guards(&self) -> Guards {
        let forward = self.chains.iter().find(|chain| chain.name == FORWARD);
        let last = forward.map_or(&[][..], |chain| &chain.rules);
        let last = &last[last.len().saturating_sub(Family::ALL.len())..];
        let has = |f: Family| last.iter().any(|rule| rule.is_called(guard::comment(f)));
        Guards {
            v4: has(Family::V4),
            v6: has(Family::V6),
            others: guard::read(&self.elements),
        }
    }
}

impl FoundChain {
    fn is(&self, wanted: &Chain) -> bool {
        self.kind.as_deref() == Some(wanted.kind)
            && self.hook == Some(wanted.hook as u32)
            && self.priority == Some(wanted.priority)
            && self.policy == Some(nl::POLICY_ACCEPT)
            && self.rules.len() == wanted.rules.len()
            && self
                .rules
                .iter()
                .zip(&wanted.rules)
                .all(|(found, rule)| found.is(rule))
    }
}

impl FoundRule {
    /// From a rule's attributes.
    pub fn new(attrs: &[u8]) -> Self {
        let bytes = |kind| find(attrs, kind).unwrap_or(&[]).to_vec();
        let handle = <[u8; 8]>::try_from(bytes(nl::RULE_HANDLE)).unwrap_or_default();
        Self {
            handle: u64::from_be_bytes(handle),
            exprs: bytes(nl::RULE_EXPRESSIONS),
            userdata: bytes(nl::RULE_USERDATA),
        }
    }

    fn is(&self, wanted: &Rule) -> bool {
        self.is_called(wanted.comment) && self.has(&wanted.exprs)
    }

    fn is_called(&self, comment: &str) -> bool {
        self.userdata == nl::comment(comment)
    }

    /// It consists of exactly these.
    pub fn has(&self, exprs: &[Expr]) -> bool {
        let exprs: Vec<Attr> = exprs.iter().map(Expr::attr).collect();
        Attr::nest(nl::RULE_EXPRESSIONS, exprs).says(&self.exprs)
    }
}

impl FoundSet {
    fn is(&self, wanted: &Set) -> bool {
        self.flags == wanted.flags()
            && self.key == concatenation(wanted.key)
            && self.value == concatenation(wanted.value)
    }
}
