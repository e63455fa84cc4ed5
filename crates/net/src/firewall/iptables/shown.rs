//! What `iptables-save` prints, as far as it is ours.

use std::collections::{BTreeMap, BTreeSet};

use super::render::{CHAINS, Chain, TABLES, Table};
use model::plan::fingerprint;
use serde::Serialize;

/// Of one family.
#[derive(Debug, Default)]
pub struct Shown {
    tables: BTreeMap<&'static str, ShownTable>,
    /// There are rules of others in front of our jump in the chain that forwards.
    pub behind_others: bool,
}

/// Ours of one table.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct ShownTable {
    /// Rules of each of our chains, as printed.
    pub chains: BTreeMap<&'static str, Vec<String>>,
    pub jumps: Vec<Jump>,
    /// Chains of ours that chains of others lead to.
    pub used: BTreeSet<&'static str>,
}

/// A rule of a built-in chain that leads to one of ours.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Jump {
    pub hook: String,
    /// As printed, without `-A CHAIN`.
    pub rule: String,
    pub to: &'static str,
}

impl Shown {
    pub fn read(text: &str) -> Self {
        let mut shown = Self::default();
        let mut table = None;
        let mut others_forward = false;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = TABLES.into_iter().find(|t| *t == name.trim_end());
                others_forward = false;
            }
            let Some(name) = table else { continue };
            let rules = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' '));
            let own = shown.tables.entry(name).or_default();
            if let Some(chain) = line
                .strip_prefix(':')
                .and_then(|rest| ours(rest.split(' ').next()?))
            {
                own.chains.entry(chain).or_default();
            } else if let Some((chain, rule)) = rules {
                let to = if rule.contains("WHARF-") {
                    target(rule)
                } else {
                    None
                };
                own.add(chain, rule, to);
                match (chain, to) {
                    ("FORWARD", Some("WHARF-PASS")) => shown.behind_others |= others_forward,
                    ("FORWARD", None) => others_forward |= name == "filter",
                    _ => {}
                }
            }
        }
        shown
    }

    pub fn table(&self, name: &str) -> Option<&ShownTable> {
        self.tables.get(name).filter(|table| !table.is_empty())
    }

    pub fn is_empty(&self) -> bool {
        self.tables.values().all(ShownTable::is_empty)
    }

    /// Whose it is, where somebody has put his mark on it who is not we.
    pub fn of_another(&self, mark: &str) -> Option<String> {
        let rules = |table: &ShownTable| {
            let heads = table.chains.values().filter_map(|rules| owner(rules.first()?));
            let jumps = table.jumps.iter().filter_map(|jump| owner(&jump.rule));
            heads.chain(jumps).collect::<Vec<_>>()
        };
        let mut owners = self.tables.values().flat_map(rules);
        owners.find(|owner| format!("wharf:{owner}") != mark)
    }
}

impl ShownTable {
    fn add(&mut self, chain: &str, rule: &str, to: Option<&'static str>) {
        if let Some(own) = ours(chain) {
            self.chains.entry(own).or_default().push(rule.to_owned());
        } else if let Some(to) = to {
            if BUILT_IN.contains(&chain) {
                let (hook, rule) = (chain.to_owned(), rule.to_owned());
                self.jumps.push(Jump { hook, rule, to });
            } else {
                self.used.insert(to);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.jumps.is_empty()
    }

    /// Equal where the same is printed.
    pub fn fingerprint(&self) -> String {
        fingerprint(&(&self.chains, &self.jumps))
    }

    /// It has as many rules as it was given, and each jump: nobody was there in between.
    pub fn has_as_many(&self, wanted: &Table, mark: &str) -> bool {
        let chain = |chain: &Chain| {
            let rules = self.chains.get(chain.name).map(Vec::len);
            // The first one says whose it is.
            rules == Some(chain.rules.len() + 1)
        };
        let hooked = |chain: &Chain| {
            let mut jumps = self.jumps.iter().filter(|jump| jump.to == chain.name);
            match chain.hook {
                Some(hook) => jumps.next().is_some_and(|j| j.is(hook, mark)) && jumps.next().is_none(),
                None => jumps.next().is_none(),
            }
        };
        let own = |name: &&&'static str| wanted.chains.iter().any(|c| c.name == **name);
        wanted.chains.iter().all(|c| chain(c) && hooked(c))
            && self
                .chains
                .keys()
                .all(|name| own(&name) || self.used.contains(name))
    }
}

impl Jump {
    /// It is the one there is to be from that chain.
    pub fn is(&self, hook: &str, mark: &str) -> bool {
        let wanted = ["-m", "comment", "--comment", mark, "-j", self.to];
        self.hook == hook && words(&self.rule) == wanted
    }
}

const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

fn ours(name: &str) -> Option<&'static str> {
    CHAINS.into_iter().find(|own| *own == name)
}

/// The chain of ours that a rule leads to.
fn target(rule: &str) -> Option<&'static str> {
    let words = words(rule);
    let at = words.iter().position(|word| word == "-j" || word == "-g")?;
    ours(words.get(at + 1)?)
}

/// The agent that a rule's comment names.
fn owner(rule: &str) -> Option<String> {
    let words = words(rule);
    let at = words.iter().position(|word| word == "--comment")?;
    let text = words.get(at + 1)?.strip_prefix("wharf:")?;
    Some(text.split(':').next().unwrap_or(text).to_owned())
}

/// As a shell splits them: texts with spaces are in double quotes, in which a backslash says that the next character is
/// meant.
pub fn words(rule: &str) -> Vec<String> {
    let mut out = Vec::new();
    let (mut word, mut quoted, mut there) = (String::new(), false, false);
    let mut chars = rule.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                there = true;
            }
            '\\' if quoted => word.extend(chars.next()),
            ' ' if !quoted => {
                if there {
                    out.push(std::mem::take(&mut word));
                }
                there = false;
            }
            c => {
                word.push(c);
                there = true;
            }
        }
    }
    if there {
        out.push(word);
    }
    out
}
