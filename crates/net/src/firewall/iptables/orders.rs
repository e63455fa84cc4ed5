//! The input of `iptables-restore --noflush`: one table from what is there to what is to be there, at once.
//!
//! A chain that is declared is made, or emptied where it is there. The jumps of others' chains to ours are rules like
//! any other: a missing one is put in front, one too many is taken out by the words it is printed in.

use super::render::{Chain, Table};
use super::shown::ShownTable;

/// `mark`: whose the chains are, in a rule of its own in front of each that does nothing.
pub fn orders(wanted: &Table, there: Option<&ShownTable>, mark: &str) -> String {
    let mut lines = vec![format!("*{}", wanted.name)];
    let declare = |name: &str| format!(":{name} - [0:0]");
    lines.extend(wanted.chains.iter().map(|chain| declare(chain.name)));
    let surplus = || {
        let named = |name: &&'static str| wanted.chains.iter().any(|chain| chain.name == *name);
        let chains = there.into_iter().flat_map(|there| there.chains.keys().copied());
        chains.filter(move |name| !named(name))
    };
    lines.extend(surplus().map(declare));
    lines.extend(jumps(wanted, there, mark));
    for chain in &wanted.chains {
        lines.extend(rules(chain, mark));
    }
    // What somebody else's rules lead to stays, empty.
    let used = |name: &&str| there.is_some_and(|there| there.used.contains(*name));
    lines.extend(
        surplus()
            .filter(|name| !used(name))
            .map(|name| format!("-X {name}")),
    );
    lines.push("COMMIT\n".to_owned());
    lines.join("\n")
}

fn rules<'a>(chain: &'a Chain, mark: &'a str) -> impl Iterator<Item = String> + 'a {
    let head = format!("-m comment --comment \"{mark}: {}\"", chain.about);
    let all = std::iter::once(head).chain(chain.rules.iter().cloned());
    all.map(|rule| format!("-A {} {rule}", chain.name))
}

fn jumps(wanted: &Table, there: Option<&ShownTable>, mark: &str) -> Vec<String> {
    let mut out = Vec::new();
    let hook_of = |name: &str| wanted.chains.iter().find(|c| c.name == name).and_then(|c| c.hook);
    let mut right = Vec::new();
    for jump in there.into_iter().flat_map(|there| &there.jumps) {
        let is = hook_of(jump.to).is_some_and(|hook| jump.is(hook, mark));
        match is && !right.contains(&jump.to) {
            true => right.push(jump.to),
            false => out.push(format!("-D {} {}", jump.hook, jump.rule)),
        }
    }
    let missing = wanted.chains.iter().filter(|chain| !right.contains(&chain.name));
    for (chain, hook) in missing.filter_map(|chain| Some((chain, chain.hook?))) {
        let jump = format!("-m comment --comment \"{mark}\" -j {}", chain.name);
        out.push(format!("-I {hook} 1 {jump}"));
    }
    out
}
