//! Looking at the table, changing it in one transaction, removing it.

use std::collections::BTreeSet;

use model::firewall::FirewallState;

use super::change::{self, Step};
use super::elements::{self, Elements, STALE_LEN};
use super::read::{Found, FoundTable, read};
use super::render::{render, set};
use super::table::{Element, Set, Table};
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
///
/// With flows to be forgotten yet it is not, so that it is applied again; but an empty table is, for that one is to be
/// removed, which forgets them as well.
fn whole(table: &FoundTable, guarded: bool) -> Option<FirewallState> {
    let state = elements::read(&table.elements)?;
    let wanted = render(&state, guarded);
    let empty = state == FirewallState::default();
    let same = |set: &Set| {
        table.elements.get(set.name) == Some(&set.elements) || empty && set.name == set::STALE_UDP
    };
    (table.has_static_part_of(&wanted) && wanted.sets.iter().all(same)).then_some(state)
}

/// Makes the table say this, in one transaction; nothing is sent where it does already.
///
/// Where UDP ports changed, the same transaction notes them, and a second one takes the note away when their flows are
/// forgotten: whoever dies in between leaves a table that says what is still to be done.
pub(crate) fn apply(
    filter: &mut Netlink,
    route: &mut Netlink,
    owner: &str,
    state: &FirewallState,
    guarded: bool,
) -> Result<(), NetError> {
    elements::check(state)?;
    let mut earlier = Elements::new();
    let mut forgotten = BTreeSet::new();
    for _ in 0..TRIES {
        let found = read(filter)?;
        ours(&found, owner)?;
        let kept = found.table.as_ref().is_some_and(FoundTable::is_guarded);
        let mut wanted = render(state, guarded || kept);
        if let Some(table) = &found.table {
            earlier.clone_from(&table.elements);
        }
        let stale = stale_udp(&earlier, &wanted, &forgotten);
        note(&mut wanted, &stale);
        if !commit(filter, found.generation, steps(&found, &wanted, owner))? {
            continue;
        }
        if stale.is_empty() {
            return Ok(());
        }
        conntrack::forget_flows(filter, route, &stale)?;
        forgotten = stale;
    }
    Err(NetError::Busy { tries: TRIES })
}

/// UDP ports whose flows are to be forgotten: those that change now, and those noted earlier.
fn stale_udp(earlier: &Elements, wanted: &Table, forgotten: &BTreeSet<Element>) -> BTreeSet<Element> {
    let noted = earlier.get(set::STALE_UDP).into_iter().flatten();
    let mut stale: BTreeSet<Element> = noted
        .filter(|e| e.key.len() == STALE_LEN && !forgotten.contains(e))
        .cloned()
        .collect();
    stale.extend(changed_udp(earlier, wanted));
    stale
}

fn note(table: &mut Table, stale: &BTreeSet<Element>) {
    for set in table.sets.iter_mut().filter(|s| s.name == set::STALE_UDP) {
        set.elements.clone_from(stale);
    }
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

/// UDP ports that are new, gone, or lead elsewhere: where they led and where they lead.
fn changed_udp(earlier: &Elements, wanted: &Table) -> BTreeSet<Element> {
    let none = BTreeSet::new();
    let mut out = BTreeSet::new();
    for name in [set::BOUND, set::ANY] {
        let before = earlier.get(name).unwrap_or(&none);
        let after = wanted
            .sets
            .iter()
            .find(|s| s.name == name)
            .map_or(&none, |s| &s.elements);
        let [was, is] =
            [before, after].map(|set| set.iter().filter_map(elements::stale).collect::<BTreeSet<_>>());
        out.extend(was.symmetric_difference(&is).cloned());
    }
    out
}

/// Removes the table where it is ours; absent is fine.
///
/// It is emptied first, as [`apply`] does it: a table that is gone says of no flow that it is to be forgotten.
pub(crate) fn remove(filter: &mut Netlink, route: &mut Netlink, owner: &str) -> Result<(), NetError> {
    let found = read(filter)?;
    ours(&found, owner)?;
    if found.table.is_some() {
        apply(filter, route, owner, &FirewallState::default(), false)?;
    }
    for _ in 0..TRIES {
        let found = read(filter)?;
        ours(&found, owner)?;
        if found.table.is_none() || commit(filter, found.generation, vec![change::delete()])? {
            return Ok(());
        }
    }
    Err(NetError::Busy { tries: TRIES })
}
