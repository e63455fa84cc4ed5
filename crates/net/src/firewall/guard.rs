//! Forwarding that was off before us is for our bridges alone.
//!
//! What a bridge passes on among its own ports is no forwarding. But where br_netfilter is told so
//! (`net.bridge.bridge-nf-call-iptables`, which is 1 wherever the module is loaded and nobody says otherwise) it goes through
//! the forward hook as well, as what came by the bridge and leaves by it. So each bridge of others is let alone with itself.
//! Those are told by name: no kernel before 6.13 compares the two devices of a packet.

use std::collections::BTreeSet;

use super::elements::{Elements, twice};
use super::expr::Meta;
use super::family::Family;
use super::phrase::{drop, is_not_in, load, of};
use super::render::rule;
use super::table::{Field, Rule, Set};

/// Name of the set: each bridge of others with itself.
const OTHERS: &str = "bridges_of_others";
/// Registers that a device's name takes.
const DEVICE: u8 = 4;

/// Of which families what concerns no bridge of ours is not forwarded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    pub v4: bool,
    pub v6: bool,
    /// Bridges that are not ours.
    pub others: BTreeSet<String>,
}

impl Guards {
    /// One that either of them asks for. The bridges are those of this one: they come and go.
    pub fn or(self, earlier: &Self) -> Self {
        Self {
            v4: self.v4 || earlier.v4,
            v6: self.v6 || earlier.v6,
            ..self
        }
    }

    pub fn is_of(&self, f: Family) -> bool {
        match f {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// They hold, and know other bridges than these.
    pub fn are_outdated(&self, others: &BTreeSet<String>) -> bool {
        (self.v4 || self.v6) && self.others != *others
    }
}

/// The last rules of `forward`, of those of these families that are guarded.
pub fn rules(guards: &Guards, families: &[Family]) -> Vec<Rule> {
    let guarded = families.iter().filter(|f| guards.is_of(**f));
    guarded.map(|f| guard(*f)).collect()
}

/// The set that they look into; none where there are none.
pub fn sets(guards: &Guards, families: &[Family]) -> Option<Set> {
    let others = guards.others.iter().map(|bridge| twice(bridge));
    let guarded = families.iter().any(|f| guards.is_of(*f));
    guarded.then(|| Set::of(OTHERS, &[Field::Device, Field::Device], others.collect()))
}

fn guard(f: Family) -> Rule {
    let through = vec![
        load(Meta::Iifname, 0),
        load(Meta::Oifname, DEVICE),
        is_not_in(OTHERS),
    ];
    rule(comment(f), [of(f), through, drop()])
}

/// By which the rule is known again, whatever else is wrong with it: what was off is not to be forgotten.
pub fn comment(f: Family) -> &'static str {
    match f {
        Family::V4 => "forwarding was off before wharf: for its bridges alone",
        Family::V6 => "forwarding of IPv6 was off before wharf: for its bridges alone",
    }
}

/// The bridges these elements say; those that are not ours to say are seen when the table is compared.
pub fn read(elements: &Elements) -> BTreeSet<String> {
    let own = elements.get(OTHERS).into_iter().flatten();
    let name = |key: &[u8]| String::from_utf8(key.get(..Field::Device.len() as usize)?.to_vec()).ok();
    own.filter_map(|e| name(&e.key))
        .map(|name| name.trim_end_matches('\0').to_owned())
        .collect()
}
