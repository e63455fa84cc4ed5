//! Forward and input chains of other tables: whether they end what is for our bridges, or what comes of them for names,
//! which our own table cannot prevent, for every base chain at a hook has its say.
//!
//! Judged is what happens to a packet that no condition is true of.

use std::collections::{BTreeMap, BTreeSet};

use super::nl;
use super::read::FoundRule;
use super::{iptables, sidedoor};
use crate::netlink::{Attr, Attrs, KernelError, Netlink, find, read_be32, read_text};

/// Deeper than any firewall's chains call each other; the kernel allows 16.
const DEEPEST: usize = 16;

/// What is judged of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// What is for the host.
    Input,
    Forward,
}

impl Hook {
    /// NF_INET_LOCAL_IN, NF_INET_FORWARD.
    pub fn of(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Input),
            2 => Some(Self::Forward),
            _ => None,
        }
    }
}

/// A base chain at one of these hooks, not in our table.
#[derive(Clone, Debug)]
pub struct ForeignChain {
    pub family: u8,
    pub table: String,
    pub name: String,
    pub hook: Hook,
    /// What none of its rules is about is dropped.
    pub closes: bool,
    /// Its rules, and those of the chains it calls for every packet.
    pub rules: Vec<FoundRule>,
}

/// How a rule goes on with a packet that gets to its end, where there is no condition before that.
#[derive(Debug)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Call(String),
    Goto(String),
    /// Conditions, or nothing to judge by.
    Open,
}

/// All of them.
pub fn chains(filter: &mut Netlink) -> Result<Vec<ForeignChain>, KernelError> {
    let mut out = Vec::new();
    for reply in filter.dump(nl::kind(nl::GETCHAIN), &nl::payload(0, &[]))? {
        let (family, attrs) = (reply.payload.first().copied(), nl::attrs(&reply.payload));
        let hook = find(attrs, nl::CHAIN_HOOK).and_then(|hook| read_be32(hook, nl::HOOK_NUM));
        let (Some(family), Some(hook), Some(table), Some(name)) = (
            family.filter(|f| matches!(*f, nl::IPV4 | nl::IPV6 | nl::INET)),
            hook.and_then(Hook::of),
            read_text(attrs, nl::CHAIN_TABLE),
            read_text(attrs, nl::CHAIN_NAME),
        ) else {
            continue;
        };
        let filters = read_text(attrs, nl::CHAIN_TYPE).as_deref() == Some("filter");
        if !filters || (family, table.as_str()) == (nl::INET, nl::TABLE) {
            continue;
        }
        let mut walk = Walk {
            filter,
            family,
            table: &table,
            seen: BTreeSet::new(),
            rules: Vec::new(),
        };
        let by_rule = walk.chain(&name, 0)?;
        let rules = walk.rules;
        out.push(ForeignChain {
            hook,
            closes: by_rule.unwrap_or(read_be32(attrs, nl::CHAIN_POLICY) == Some(nl::POLICY_DROP)),
            family,
            table,
            name,
            rules,
        });
    }
    Ok(out)
}

/// The rules of one chain, in order.
pub fn rules(
    filter: &mut Netlink,
    family: u8,
    table: &str,
    chain: &str,
) -> Result<Vec<FoundRule>, KernelError> {
    let ask = [
        Attr::text(nl::RULE_TABLE, table),
        Attr::text(nl::RULE_CHAIN, chain),
    ];
    let replies = filter.dump(nl::kind(nl::GETRULE), &nl::payload(family, &ask))?;
    let of_chain = |attrs: &&[u8]| {
        read_text(attrs, nl::RULE_TABLE).as_deref() == Some(table)
            && read_text(attrs, nl::RULE_CHAIN).as_deref() == Some(chain)
    };
    let attrs = replies.iter().map(|r| nl::attrs(&r.payload));
    Ok(attrs.filter(of_chain).map(FoundRule::new).collect())
}

/// The rules of all chains of one table, in order.
pub fn table_rules(
    filter: &mut Netlink,
    family: u8,
    table: &str,
) -> Result<BTreeMap<String, Vec<FoundRule>>, KernelError> {
    let ask = [Attr::text(nl::RULE_TABLE, table)];
    let mut out: BTreeMap<String, Vec<FoundRule>> = BTreeMap::new();
    for reply in filter.dump(nl::kind(nl::GETRULE), &nl::payload(family, &ask))? {
        let attrs = nl::attrs(&reply.payload);
        let of_table = read_text(attrs, nl::RULE_TABLE).as_deref() == Some(table);
        if let Some(chain) = read_text(attrs, nl::RULE_CHAIN).filter(|_| of_table) {
            out.entry(chain).or_default().push(FoundRule::new(attrs));
        }
    }
    Ok(out)
}

struct Walk<'a> {
    filter: &'a mut Netlink,
    family: u8,
    table: &'a str,
    seen: BTreeSet<String>,
    rules: Vec<FoundRule>,
}

impl Walk<'_> {
    /// Whether a packet that no condition is true of is dropped there; none where it comes back.
    fn chain(&mut self, name: &str, depth: usize) -> Result<Option<bool>, KernelError> {
        // What somebody put into a chain of ours is taken out again: it is no reason to think theirs open.
        let ours = sidedoor::is_own(self.family, self.table, name) || iptables::is_own(self.family, name);
        if ours || depth > DEEPEST || !self.seen.insert(name.to_owned()) {
            return Ok(None);
        }
        for rule in rules(self.filter, self.family, self.table, name)? {
            let verdict = verdict(&rule);
            self.rules.push(rule);
            let judged = match verdict {
                Verdict::Accept => Some(false),
                Verdict::Drop => Some(true),
                Verdict::Return => return Ok(None),
                Verdict::Goto(next) => return self.chain(&next, depth + 1),
                Verdict::Call(next) => self.chain(&next, depth + 1)?,
                Verdict::Open => None,
            };
            if judged.is_some() {
                return Ok(judged);
            }
        }
        Ok(None)
    }
}

fn verdict(rule: &FoundRule) -> Verdict {
    for (name, data) in expressions(rule) {
        let text = |kind| read_text(data, kind).unwrap_or_default();
        match name.as_str() {
            "counter" | "log" => {}
            "match" if text(1) == "comment" => {}
            "target" if matches!(text(1).as_str(), "LOG" | "NFLOG") => {}
            "target" if text(1) == "REJECT" => return Verdict::Drop,
            "reject" => return Verdict::Drop,
            "immediate" => return immediate(data),
            _ => return Verdict::Open,
        }
    }
    Verdict::Open
}

/// Of the data of such an expression.
pub fn immediate(data: &[u8]) -> Verdict {
    let verdict = find(data, 2)
        .and_then(|data| find(data, nl::DATA_VERDICT))
        .unwrap_or(&[]);
    let chain = || read_text(verdict, nl::VERDICT_CHAIN).unwrap_or_default();
    match read_be32(verdict, nl::VERDICT_CODE).map(|code| code as i32) {
        Some(nl::ACCEPT) => Verdict::Accept,
        Some(nl::DROP) => Verdict::Drop,
        Some(nl::RETURN) => Verdict::Return,
        Some(nl::JUMP) => Verdict::Call(chain()),
        Some(nl::GOTO) => Verdict::Goto(chain()),
        _ => Verdict::Open,
    }
}

/// The chain that a rule calls or goes to, whatever its conditions.
pub fn called(rule: &FoundRule) -> Option<String> {
    let of = |(name, data): (String, &[u8])| match (name.as_str(), immediate(data)) {
        ("immediate", Verdict::Call(chain) | Verdict::Goto(chain)) => Some(chain),
        _ => None,
    };
    expressions(rule).into_iter().find_map(of)
}

/// Name and attributes of each.
pub fn expressions(rule: &FoundRule) -> Vec<(String, &[u8])> {
    let one = |(_, bytes)| {
        let data = find(bytes, nl::EXPR_DATA).unwrap_or(&[]);
        Some((read_text(bytes, nl::EXPR_NAME)?, data))
    };
    Attrs(&rule.exprs).filter_map(one).collect()
}
