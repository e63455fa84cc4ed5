//! Looking at the table, changing it in one transaction, removing it.

use std::collections::BTreeSet;

use model::firewall::FirewallState;

use super::change::{self, Step};
use super::elements::{self, Elements, UDP};
use super::read::{Found, FoundTable, read};
use super::render::{render, set};
use super::table::{Element, Table};
use super::{conntrack, nl};
use crate::error::{Doing, NetError};
use crate::netlink::{BatchError, Message, Netlink};

/// How often a transaction is computed anew because somebody else's came first.
const TRIES: u32 = 32;

/// The table's content.
pub(crate) struct Current {
    /// None where it is absent or not as it must be.
    pub state: Option<FirewallState>,
    /// What can be made out in any case.
    pub salvaged: FirewallState,
    /// The table says that forwarding is for our bridges alone.
    pub guarded: bool,
}

/// Our table's mark, in its user data.
fn mark(owner: &str) -> String {
    format!("wharf:{owner}")
}

fn ours(found: &Found, owner: &str) -> Result<(), NetError> {
    match &found.table {
        Some(table) if table.owner.as_deref() != Some(&*mark(owner)) => Err(NetError::ForeignTable {
            table: nl::TABLE,
            owner: match table
                .owner
                .as_deref()
                .map(|text| (text, text.strip_prefix("wharf:")))
            {
                Some((_, Some(other))) => format!("another wharf agent ({other})"),
                Some((comment, None)) => format!("somebody else (comment {comment:?})"),
                None => "somebody else".to_owned(),
            },
        }),
        _ => Ok(()),
    }
}

/// Reads the table back from the kernel.
pub(crate) fn current(filter: &mut Netlink, owner: &str) -> Result<Current, NetError> {
    let found = read(filter)?;
    ours(&found, owner)?;
    let Some(table) = found.table else {
        return Ok(Current {
            state: None,
            salvaged: FirewallState::default(),
            guarded: false,
        });
    };
    let guarded = table.is_guarded();
    let salvaged = elements::salvage(&table.elements);
    Ok(Current {
        state: whole(&table, guarded),
        salvaged,
        guarded,
    })
}

/// The state, where the table is exactly what that state renders to.
fn whole(table: &FoundTable, guarded: bool) -> Option<FirewallState> {
    let state = elements::read(&table.elements)?;
    let wanted = render(&state, guarded);
    let same = |set: &super::table::Set| table.elements.get(set.name) == Some(&set.elements);
    (table.has_static_part_of(&wanted) && wanted.sets.iter().all(same)).then_some(state)
}

/// Makes the table say this, in one transaction; nothing is sent where it does already.
pub(crate) fn apply(
    filter: &mut Netlink,
    route: &mut Netlink,
    owner: &str,
    state: &FirewallState,
    guarded: bool,
) -> Result<(), NetError> {
    elements::check(state)?;
    let mut earlier = Elements::new();
    for _ in 0..TRIES {
        let found = read(filter)?;
        ours(&found, owner)?;
        let kept = found.table.as_ref().is_some_and(FoundTable::is_guarded);
        let wanted = render(state, guarded || kept);
        let steps = steps(&found, &wanted, owner);
        if let Some(table) = found.table {
            earlier = table.elements;
        }
        if !commit(filter, found.generation, steps)? {
            continue;
        }
        return conntrack::forget_flows(filter, route, &changed_udp(&earlier, &wanted));
    }
    Err(NetError::Busy { tries: TRIES })
}

fn steps(found: &Found, wanted: &Table, owner: &str) -> Vec<Step> {
    match &found.table {
        Some(table) if table.has_static_part_of(wanted) => change::difference(wanted, &table.elements),
        Some(_) => [vec![change::delete()], change::create(wanted, &mark(owner))].concat(),
        None => change::create(wanted, &mark(owner)),
    }
}

/// False where the ruleset is another one by now.
fn commit(filter: &mut Netlink, generation: u32, steps: Vec<Step>) -> Result<bool, NetError> {
    if steps.is_empty() {
        return Ok(true);
    }
    let (messages, doing): (Vec<Message>, Vec<String>) =
        steps.into_iter().map(|step| (step.message, step.doing)).unzip();
    match filter.batch(nl::SUBSYSTEM, generation, &messages) {
        Ok(()) => Ok(true),
        Err(BatchError { at: None, error }) if error.is(libc::ERESTART) || error.is(libc::EAGAIN) => {
            Ok(false)
        }
        Err(BatchError { at, error }) => {
            let what = at.and_then(|at| doing.get(at)).cloned();
            Err(error).doing(|| what.unwrap_or_else(|| "change the nftables ruleset".to_owned()))
        }
    }
}

/// UDP elements that are new, gone, or lead elsewhere.
fn changed_udp(earlier: &Elements, wanted: &Table) -> Vec<Element> {
    let none = BTreeSet::new();
    let mut out = Vec::new();
    for name in [set::BOUND, set::ANY] {
        let before = earlier.get(name).unwrap_or(&none);
        let after = wanted
            .sets
            .iter()
            .find(|s| s.name == name)
            .map_or(&none, |s| &s.elements);
        let leads = |e: &Element| (e.key.clone(), e.value.clone());
        let [was, is] = [before, after].map(|set| set.iter().map(leads).collect::<BTreeSet<_>>());
        let differs = |e: &&Element| !(was.contains(&leads(e)) && is.contains(&leads(e)));
        out.extend(
            before
                .union(after)
                .filter(differs)
                .filter(|e| e.key.first() == Some(&UDP))
                .cloned(),
        );
    }
    out
}

/// Deletes flows that these rules were in force for; see [`conntrack::forget_flows`].
pub(crate) fn forget(filter: &mut Netlink, route: &mut Netlink, elements: &Elements) -> Result<(), NetError> {
    let nothing = render(&FirewallState::default(), false);
    conntrack::forget_flows(filter, route, &changed_udp(elements, &nothing))
}

/// Removes the table where it is ours; absent is fine. Gives what was in it.
pub(crate) fn remove(filter: &mut Netlink, owner: &str) -> Result<Elements, NetError> {
    for _ in 0..TRIES {
        let found = read(filter)?;
        ours(&found, owner)?;
        let Some(table) = found.table else {
            return Ok(Elements::new());
        };
        if commit(filter, found.generation, vec![change::delete()])? {
            return Ok(table.elements);
        }
    }
    Err(NetError::Busy { tries: TRIES })
}
