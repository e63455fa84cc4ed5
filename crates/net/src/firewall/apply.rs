//! Looking at the table, changing it in one transaction, removing it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use model::firewall::FirewallState;

use super::change::{self, Step};
use super::elements::{self, BySet, Elements, stale_len};
use super::family::Family;
use super::foreign::ForeignChain;
use super::guard::Guards;
use super::read::{self, Found, FoundTable};
use super::render::{Make, render, render_among, set};
use super::table::{Element, Set, Table};
use super::{allow, conntrack, firewalld, nl, sidedoor, slots};
use crate::error::{Doing, NetError};
use crate::netlink::{BatchError, Message, Netlink};

/// How often a transaction is computed anew because somebody else's came first.
const TRIES: u32 = 32;
/// How often, and how long each time, an agent that is just ending is waited for.
const WAITS: u32 = 100;
const WAIT: Duration = Duration::from_millis(20);

/// Whose the table is, and how it is kept.
pub(crate) struct Keeper {
    owner: String,
    /// Nobody but our socket may change it: its own netlink port, where the kernel can do that.
    socket: Option<u32>,
    /// The kernel knows zones of connection tracking.
    zoned: bool,
    /// What was read last: with a thousand ports that costs more than the change of one.
    last: Mutex<Option<Arc<Found>>>,
}

impl Keeper {
    /// Asks the kernel for its protection of the table and takes over one that was left so.
    ///
    /// `filter`: the socket that every change is sent by from then on.
    pub fn new(filter: &mut Netlink, owner: &str, shared: bool) -> Result<Self, NetError> {
        let kept = !shared && is_known(filter, &change::probe());
        let keeper = Self {
            owner: owner.to_owned(),
            socket: kept.then_some(filter.port),
            zoned: is_known(filter, &change::probe_zones()),
            last: Mutex::default(),
        };
        if kept {
            let found = read::read(filter)?;
            let orphan = found.table.as_ref().is_some_and(FoundTable::is_orphan);
            if orphan && keeper.check(&found).is_ok() {
                // Where something came in between, the first change does it.
                commit(filter, found.generation, vec![change::adopt()])?;
            }
        }
        Ok(keeper)
    }

    /// Our table's mark, in its user data.
    fn mark(&self) -> String {
        format!("wharf:{}", self.owner)
    }

    fn make(&self, guards: Guards) -> Make {
        let zoned = self.zoned;
        Make { guards, zoned }
    }

    fn check(&self, found: &Found) -> Result<(), NetError> {
        match &found.table {
            Some(table) if table.owner.as_deref() != Some(&*self.mark()) => Err(NetError::ForeignTable {
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

    /// Reads what is there, and remembers it.
    fn read(&self, filter: &mut Netlink) -> Result<Arc<Found>, NetError> {
        let found = Arc::new(read::read(filter)?);
        self.check(&found)?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&found));
        Ok(found)
    }

    /// What was read last, where the number of the ruleset's generation says that it is so still and the table is ours to
    /// change: that ends with our own socket alone.
    fn unchanged(&self, filter: &mut Netlink) -> Result<Option<Arc<Found>>, NetError> {
        let Some(last) = self.last.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(None);
        };
        let now = read::generation(filter).doing(|| "read the nftables ruleset".to_owned())?;
        let kept = last.table.as_ref().is_some_and(|t| t.is_kept(self.socket));
        Ok((kept && now != 0 && last.generation == now).then_some(last))
    }

    /// What is there, once it is ours to change.
    fn seize(&self, filter: &mut Netlink) -> Result<Arc<Found>, NetError> {
        if let Some(found) = self.unchanged(filter)? {
            return Ok(found);
        }
        let (mut tries, mut waits) = (0, 0);
        loop {
            let found = self.read(filter)?;
            let Some(table) = &found.table else {
                return Ok(found);
            };
            if let Some(holder) = table.held_by_another(filter.port) {
                // One that is just ending has let go of its locks already, but not yet of its sockets.
                if waits == WAITS {
                    return Err(NetError::HeldTable {
                        table: nl::TABLE,
                        holder,
                    });
                }
                waits += 1;
                thread::sleep(WAIT);
            } else if table.is_orphan() && self.socket.is_some() {
                if tries == TRIES {
                    return Err(NetError::Busy { tries });
                }
                tries += 1;
                commit(filter, found.generation, vec![change::adopt()])?;
            } else {
                return Ok(found);
            }
        }
    }
}

/// Never is such a batch taken: its last message is refused, or an earlier one by a kernel that does not know it.
fn is_known(filter: &mut Netlink, probe: &[Message]) -> bool {
    let refused = filter.batch(nl::SUBSYSTEM, 0, probe);
    matches!(refused, Err(BatchError { at: Some(at), .. }) if at + 1 == probe.len())
}

/// The table's content.
#[derive(Default)]
pub(crate) struct Current {
    /// The ruleset's when it was read; 0 where the kernel does not number them.
    pub generation: u32,
    /// None where it, or what belongs to it, is absent or not as it must be.
    pub state: Option<FirewallState>,
    /// Why there is none, where something is there: for users.
    pub wrong: Option<&'static str>,
    /// Something of ours is there, whatever its state.
    pub there: bool,
    /// What can be made out where there is no state.
    pub salvaged: FirewallState,
    /// The table says that forwarding is for our bridges alone.
    pub guards: Guards,
    /// Chains of other tables that may drop what is ours.
    pub foreign: Vec<ForeignChain>,
    /// The table of firewalld.
    pub firewalld: Option<firewalld::Found>,
    /// Ours is in the tables of iptables-legacy: there is a way through those, and none through those of iptables-nft.
    pub legacy: bool,
    /// What keeps from being told who reaches a port, for users.
    pub unjudged: Option<String>,
}

/// Reads the table back from the kernel.
pub(crate) fn current(filter: &mut Netlink, keeper: &Keeper) -> Result<Current, NetError> {
    let found = keeper.read(filter)?;
    let Some(table) = &found.table else {
        let nothing = FirewallState::default();
        let left = sidedoor::steps(&found.sidedoors, &nothing, &keeper.mark());
        return Ok(Current {
            generation: found.generation,
            state: None,
            // What is another agent's is not left by us.
            there: left.is_ok_and(|steps| !steps.is_empty()),
            salvaged: FirewallState::default(),
            foreign: found.foreign.clone(),
            firewalld: found.firewalld.clone(),
            ..Current::default()
        });
    };
    let guards = table.guards();
    let state = match whole(table, &keeper.make(guards.clone())) {
        None => Err("the table was changed by somebody else, or a change of it was cut off"),
        Some(_) if !table.is_kept(keeper.socket) => Err("the table is not kept from being changed by others"),
        Some(state) => match sidedoor::steps(&found.sidedoors, &state, &keeper.mark())?.is_empty() {
            true => Ok(state),
            false => Err("there is no way for its networks through the chains of iptables, which drop"),
        },
    };
    Ok(Current {
        generation: found.generation,
        wrong: state.as_ref().err().copied(),
        salvaged: match &state {
            Ok(_) => FirewallState::default(),
            Err(_) => elements::salvage(&table.elements),
        },
        state: state.ok(),
        there: true,
        guards,
        foreign: found.foreign.clone(),
        firewalld: found.firewalld.clone(),
        ..Current::default()
    })
}

/// The state, where the table is exactly what that state renders to.
///
/// With flows to be forgotten yet it is not, so that it is applied again; but an empty table is, for that one is to be
/// removed, which forgets them as well.
fn whole(table: &FoundTable, make: &Make) -> Option<FirewallState> {
    let state = elements::read(&table.elements)?;
    let wanted = render(&state, make, &table.elements);
    let empty = state == FirewallState::default();
    let same = |set: &Set| table.elements.get(set.name) == Some(&set.elements) || empty && is_stale(set.name);
    (table.has_static_part_of(&wanted) && wanted.sets.iter().all(same)).then_some(state)
}

/// Makes the table say this, in one transaction; nothing is sent where it does already.
///
/// Where UDP ports changed, the same transaction notes them, and a second one takes the note away when those of their
/// flows are forgotten that would not follow: whoever dies in between leaves a table that says what is still to be done.
pub(crate) fn apply(
    filter: &mut Netlink,
    route: &mut Netlink,
    keeper: &Keeper,
    state: &FirewallState,
    guards: &Guards,
) -> Result<(), NetError> {
    elements::check(state)?;
    // Of a table that is gone by the next try.
    let mut last = Elements::new();
    let mut forgotten = BTreeSet::new();
    for _ in 0..TRIES {
        let found = keeper.seize(filter)?;
        let kept = found.table.as_ref().map(FoundTable::guards).unwrap_or_default();
        let earlier = found.table.as_ref().map_or(&last, |table| &table.elements);
        let make = keeper.make(guards.clone().or(&kept));
        let mut wanted = render(state, &make, earlier);
        let mut changed = changed_udp(earlier, &wanted);
        if make.zoned && !changed.is_empty() {
            // What ails this look is told by the one after the change: the ports are not to wait for it.
            let led = conntrack::led(filter, &families_of(&changed)).unwrap_or_default();
            wanted = render_among(state, &make, earlier, &led);
            changed = changed_udp(earlier, &wanted);
        }
        let stale = stale_udp(earlier, changed, &forgotten);
        note(&mut wanted, &stale);
        let mut steps = steps(&found, &wanted, keeper);
        steps.extend(sidedoor::steps(&found.sidedoors, state, &keeper.mark())?);
        let done = commit(filter, found.generation, steps)?;
        if done && stale.is_empty() {
            return Ok(());
        }
        if done {
            conntrack::forget_flows(filter, route, &families_of(&stale), &stale, &wanted.sets)?;
            forgotten = stale;
        }
        if let Some(table) = &found.table {
            last.clone_from(&table.elements);
        }
    }
    Err(NetError::Busy { tries: TRIES })
}

/// UDP ports whose flows are to be forgotten: those that change now, and those noted earlier.
fn stale_udp(
    earlier: &Elements,
    changed: BTreeSet<Element>,
    forgotten: &BTreeSet<Element>,
) -> BTreeSet<Element> {
    let noted = |f: Family| {
        let noted = earlier.get(f.set(set::STALE_UDP)).into_iter().flatten();
        noted.filter(move |e| e.key.len() == stale_len(f))
    };
    let mut stale: BTreeSet<Element> = Family::ALL
        .into_iter()
        .flat_map(noted)
        .filter(|e| !forgotten.contains(e))
        .cloned()
        .collect();
    stale.extend(changed);
    stale
}

fn note(table: &mut Table, stale: &BTreeSet<Element>) {
    for set in &mut table.sets {
        if let Some((f, set::STALE_UDP)) = Family::of_set(set.name) {
            let own = stale.iter().filter(|e| e.key.len() == stale_len(f));
            set.elements = own.cloned().collect();
        }
    }
}

fn steps(found: &Found, wanted: &Table, keeper: &Keeper) -> Vec<Step> {
    let create = || change::create(wanted, &keeper.mark(), keeper.socket.is_some());
    match &found.table {
        Some(table) if table.has_static_part_of(wanted) && table.is_kept(keeper.socket) => {
            change::difference(wanted, &table.elements)
        }
        Some(_) => [vec![change::delete()], create()].concat(),
        None => create(),
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

/// UDP ports that are new, gone, lead elsewhere or are for others: where they led, and where they lead if that is not for
/// everybody; the host itself where they are new.
pub(super) fn changed_udp(earlier: &Elements, wanted: &Table) -> BTreeSet<Element> {
    let earlier: BySet<'_> = earlier.iter().map(|(name, all)| (name.as_str(), all)).collect();
    let later: BySet<'_> = wanted.sets.iter().map(|set| (set.name, &set.elements)).collect();
    Family::ALL
        .into_iter()
        .filter(|f| {
            [&earlier, &later]
                .iter()
                .any(|all| all.contains_key(f.set(set::SUBNETS)))
        })
        .flat_map(|f| changed_udp_of(f, &earlier, &later))
        .collect()
}

/// Those of elements of [`set::STALE_UDP`].
fn families_of(stale: &BTreeSet<Element>) -> Vec<Family> {
    let has = |f: &Family| stale.iter().any(|e| e.key.len() == stale_len(*f));
    Family::ALL.into_iter().filter(has).collect()
}

fn is_stale(name: &str) -> bool {
    matches!(Family::of_set(name), Some((_, set::STALE_UDP)))
}

fn changed_udp_of(f: Family, earlier: &BySet<'_>, later: &BySet<'_>) -> BTreeSet<Element> {
    let lists = allow::changed(earlier, later, f);
    let closed = [set::CLOSED_BOUND, set::CLOSED_ANY].map(|name| later.get(f.set(name)));
    let closed = closed.into_iter().flatten().copied().flatten();
    let closed: BTreeSet<&Vec<u8>> = closed.map(|e| &e.key).collect();
    let mut out = BTreeSet::new();
    let (bound, any) = ([set::BOUND, set::UDP_BOUND_SLOTS], [set::ANY, set::UDP_ANY_SLOTS]);
    for names in [&bound[..], &any, &[set::NAMES]] {
        let stale = |e: &Element| match names {
            [set::NAMES] => elements::stale_names(e, f),
            _ => elements::stale(e, f),
        };
        // Of a thousand ports of TCP none is to be looked at again.
        let is_port = |e: &Element| matches!(names, [set::NAMES]) || elements::is_udp(e);
        // A target that stays among others keeps its flows, whatever slots it has.
        let targets = |all: &BySet<'_>| -> BTreeSet<Element> {
            let of = |name: &&'static str| Some(slots::targets(f.set(name), all.get(f.set(name))?, is_port));
            names.iter().filter_map(of).flatten().collect()
        };
        let [before, after] = [earlier, later].map(targets);
        let [was, is] = [&before, &after].map(|set| set.iter().filter_map(stale).collect::<BTreeSet<_>>());
        out.extend(was.difference(&is).cloned());
        // Of one that comes, or comes again, what leads there is right, unless it is not for everybody.
        let comes = |e: &&Element| stale(e).is_some_and(|e| !was.contains(&e));
        out.extend(
            after
                .iter()
                .filter(comes)
                .filter_map(|e| match closed.contains(&e.key) {
                    true => stale(e),
                    false => stale(e).map(elements::stale_host),
                }),
        );
        let other_list = before.union(&after).filter(|e| lists.contains(&e.key));
        out.extend(other_list.filter_map(stale));
    }
    out
}

/// Removes the table where it is ours; absent is fine.
///
/// It is emptied first, as [`apply`] does it: a table that is gone says of no flow that it is to be forgotten.
pub(crate) fn remove(filter: &mut Netlink, route: &mut Netlink, keeper: &Keeper) -> Result<(), NetError> {
    let nothing = FirewallState::default();
    if let Some(table) = &keeper.seize(filter)?.table {
        apply(filter, route, keeper, &nothing, &table.guards())?;
    }
    for _ in 0..TRIES {
        let found = keeper.seize(filter)?;
        let mut steps = sidedoor::steps(&found.sidedoors, &nothing, &keeper.mark())?;
        steps.extend(found.table.is_some().then(change::delete));
        if commit(filter, found.generation, steps)? {
            return Ok(());
        }
    }
    Err(NetError::Busy { tries: TRIES })
}
