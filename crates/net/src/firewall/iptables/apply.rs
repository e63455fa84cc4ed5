//! Looking at our part of iptables, changing it table by table, removing it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::firewall::FirewallState;
use model::plan::fingerprint;

use super::drops;
use super::note::{self, Given, Note, key};
use super::orders::orders;
use super::programs::{Programs, Variant, Version};
use super::render::{Place, TABLES, Table, render, shut_between};
use super::shown::{Shown, ShownTable};
use crate::error::NetError;
use crate::firewall::apply::changed_udp;
use crate::firewall::elements::{self, Elements};
use crate::firewall::family::Family;
use crate::firewall::guard::Guards;
use crate::firewall::render::{Make, has_ipv6};
use crate::firewall::table::Element;
use crate::firewall::{conntrack, render as nftables};
use crate::netlink::Netlink;
use crate::sysctl;

/// How often a change is computed anew because somebody else's came in between.
const TRIES: u32 = 8;

/// Ours in iptables and ip6tables.
#[derive(Debug)]
pub(crate) struct Iptables {
    /// In the comments of jumps and at the head of chains: whose they are.
    mark: String,
    programs: Programs,
    /// Where the note is kept beyond this process.
    file: Option<PathBuf>,
    note: Mutex<Option<Note>>,
}

/// What one look shows.
#[derive(Debug)]
pub(crate) struct Looked {
    pub variant: Variant,
    /// None where it is not exactly what was given.
    pub state: Option<FirewallState>,
    /// Something of ours is there, whatever its state.
    pub there: bool,
    /// What was given last, in any case.
    pub salvaged: FirewallState,
    pub guards: Guards,
    /// Rules of others come before ours where packets are forwarded.
    pub behind_others: bool,
}

impl Iptables {
    /// `path`: where the programs are looked for, as PATH has it.
    pub fn new(owner: &str, path: OsString, file: Option<PathBuf>) -> Self {
        Self {
            mark: format!("wharf:{owner}"),
            programs: Programs::new(path),
            note: Mutex::new(file.as_deref().and_then(note::read)),
            file,
        }
    }

    /// What was given to it last, where that was not taken away since.
    pub fn noted(&self) -> Option<(FirewallState, Guards)> {
        self.note()
            .as_ref()
            .map(|note| (note.latest().clone(), note.guards()))
    }

    /// Of the program `iptables` there is.
    pub fn version(&self) -> Result<Version, NetError> {
        self.programs.version()
    }

    /// One `iptables-save`, and one of IPv6 where that is spoken of or nobody knows.
    pub fn look(&self) -> Result<Looked, NetError> {
        let variant = self.version()?.variant;
        let note = self.note().clone();
        let (mut there, mut behind_others) = (false, false);
        let whole = |n: &&Note| n.next.is_none() && n.left.is_none() && n.variant == variant;
        let mut right = note.as_ref().filter(whole);
        for f in self.families(note.as_ref(), None) {
            let shown = self.shown(f, variant)?;
            there |= !shown.is_empty();
            behind_others |= shown.behind_others;
            right = right.filter(|note| is_as_given(note, f, &shown));
        }
        Ok(Looked {
            variant,
            state: right.map(|note| note.state.clone()),
            there: there
                || note
                    .as_ref()
                    .is_some_and(|note| *note.latest() != FirewallState::default()),
            salvaged: note
                .as_ref()
                .map(|note| note.latest().clone())
                .unwrap_or_default(),
            guards: note.as_ref().map(Note::guards).unwrap_or_default(),
            behind_others,
        })
    }

    /// Makes the tables say this: each that differs at once, those that close before those that open.
    ///
    /// UDP flows that would not follow a changed port are forgotten; what is noted before and after says so to whoever
    /// comes when this process dies in between.
    pub fn apply(
        &self,
        filter: &mut Netlink,
        route: &mut Netlink,
        state: &FirewallState,
        guards: &Guards,
    ) -> Result<(), NetError> {
        elements::check(state)?;
        check_names(state)?;
        let variant = self.version()?.variant;
        let before = self.note().clone();
        let known = before.as_ref().filter(|note| note.variant == variant);
        let mut note = known.cloned().unwrap_or_else(|| Note::new(variant));
        let kept = before.as_ref().map(Note::guards).unwrap_or_default();
        let guards = guards.clone().or(&kept);
        (note.guarded, note.guarded6) = (guards.v4, guards.v6);
        note.others.clone_from(&guards.others);
        let other = before.as_ref().filter(|b| b.variant != variant);
        note.left = note
            .left
            .or(other.map(|note| note.variant))
            .filter(|left| *left != variant);
        let mut earlier: Vec<FirewallState> = before.iter().flat_map(Note::states).cloned().collect();
        note.next = Some(state.clone());
        let shut = earlier.iter().flat_map(|was| shut_between(was, state)).collect();
        self.remember(&note)?;
        if self.put(&mut note, state, &guards, &shut)? || other.is_some() {
            // Flows began meanwhile that were led nowhere.
            earlier.push(FirewallState::default());
        }
        if let Some(left) = note.left.take() {
            self.clear(left)?;
        }
        forget_udp(filter, route, &earlier, state)?;
        note.state = state.clone();
        note.next = None;
        self.remember(&note)
    }

    /// Removes ours from both variants, as far as it was given; absent is fine.
    pub fn remove(&self, filter: &mut Netlink, route: &mut Netlink) -> Result<(), NetError> {
        let note = self.note().clone();
        let left = note
            .iter()
            .flat_map(|note| [Some(note.variant), note.left])
            .flatten();
        let current = self.version().map(|version| version.variant);
        let mut variants: Vec<Variant> = left.chain(current.ok()).collect();
        variants.dedup();
        for variant in variants {
            self.clear(variant)?;
        }
        if let Some(note) = &note {
            let earlier: Vec<FirewallState> = note.states().cloned().collect();
            forget_udp(filter, route, &earlier, &FirewallState::default())?;
        }
        if let Some(file) = &self.file {
            note::remove(file)?;
        }
        *self.note() = None;
        Ok(())
    }

    /// Says whether something was there otherwise than it was given.
    fn put(
        &self,
        note: &mut Note,
        state: &FirewallState,
        guards: &Guards,
        shut: &BTreeSet<Place>,
    ) -> Result<bool, NetError> {
        let mut damaged = note.tables.is_empty();
        for f in self.families(Some(note), Some(state)) {
            let wanted = render(state, guards, f, &BTreeSet::new());
            let meanwhile = (!shut.is_empty()).then(|| render(state, guards, f, shut));
            let mut tries = 0;
            loop {
                let shown = self.shown(f, note.variant)?;
                let input = self.input(note, f, &wanted, meanwhile.as_deref(), &shown, &mut damaged);
                if input.is_empty() {
                    break;
                }
                self.programs.restore(f, note.variant, &input)?;
                let after = self.shown(f, note.variant)?;
                if self.take_down(note, f, &wanted, &after) {
                    break;
                }
                tries += 1;
                if tries == TRIES {
                    let program = note.variant.to_string();
                    let said =
                        "the rules it was given are not there: somebody else changes them all the time"
                            .to_owned();
                    return Err(NetError::Iptables { program, said });
                }
            }
        }
        Ok(damaged)
    }

    /// What is to be given to make the tables so; empty where they are.
    fn input(
        &self,
        note: &Note,
        f: Family,
        wanted: &[Table],
        meanwhile: Option<&[Table]>,
        shown: &Shown,
        damaged: &mut bool,
    ) -> String {
        let mut input = String::new();
        for table in wanted {
            let there = shown.table(table.name);
            let given = note.tables.get(&key(f, table.name));
            let same = given.map(|given| &given.shown) == there.map(ShownTable::fingerprint).as_ref();
            *damaged |= given.is_some() && !same;
            let right = match given {
                Some(given) => same && given.given == fingerprint(&described(table)),
                None => there.is_none() && table.chains.is_empty(),
            };
            if !right {
                input.push_str(&orders(table, there, &self.mark));
            }
        }
        let Some(first) = meanwhile
            .and_then(|tables| tables.first())
            .filter(|_| !input.is_empty())
        else {
            return input;
        };
        // The jumps are right after the first time.
        let last = orders(&wanted[0], None, &self.mark);
        let last: String = last
            .lines()
            .filter(|l| !l.starts_with("-I "))
            .map(|l| format!("{l}\n"))
            .collect();
        let first = orders(first, shown.table(first.name), &self.mark);
        let rest: String = wanted[1..]
            .iter()
            .map(|t| orders(t, shown.table(t.name), &self.mark))
            .collect();
        first + &rest + &last
    }

    /// Notes what is shown now for what was given; false where that is not it.
    fn take_down(&self, note: &mut Note, f: Family, wanted: &[Table], after: &Shown) -> bool {
        let nothing = ShownTable::default();
        for table in wanted {
            let shown = after.table(table.name).unwrap_or(&nothing);
            if !shown.has_as_many(table, &self.mark) {
                return false;
            }
            let given = Given {
                given: fingerprint(&described(table)),
                shown: shown.fingerprint(),
            };
            match table.chains.is_empty() {
                true => drop(note.tables.remove(&key(f, table.name))),
                false => drop(note.tables.insert(key(f, table.name), given)),
            }
        }
        true
    }

    /// What is ours there goes: what leads first, what closes last.
    fn clear(&self, variant: Variant) -> Result<(), NetError> {
        for f in Family::ALL
            .into_iter()
            .filter(|f| *f == Family::V4 || self.has_six())
        {
            let shown = self.shown(f, variant)?;
            let input: String = TABLES
                .into_iter()
                .rev()
                .filter_map(|name| Some((name, shown.table(name)?)))
                .map(|(name, there)| {
                    let chains = Vec::new();
                    orders(&Table { name, chains }, Some(there), &self.mark)
                })
                .collect();
            if !input.is_empty() {
                self.programs.restore(f, variant, &input)?;
            }
        }
        Ok(())
    }

    /// Those to be looked at: IPv6 where rules are to be there (`state`), or may be.
    fn families(&self, note: Option<&Note>, state: Option<&FirewallState>) -> Vec<Family> {
        let needed = state.is_some_and(has_ipv6);
        // A tunnel's port is guarded in both families where there are both.
        let carries = |state: &FirewallState| !state.tunnels.is_empty() || !state.peers.is_empty();
        let wanted = state.is_some_and(carries) && self.has_six();
        let there = match note {
            Some(note) if !note.tables.is_empty() => note.is_of(Family::V6),
            _ => self.has_six(),
        };
        let six = (needed || wanted || there).then_some(Family::V6);
        [Family::V4].into_iter().chain(six).collect()
    }

    fn has_six(&self) -> bool {
        sysctl::exists(sysctl::FORWARD6) && self.programs.has(Family::V6)
    }

    fn shown(&self, f: Family, variant: Variant) -> Result<Shown, NetError> {
        let shown = Shown::read(&self.programs.save(f, variant)?);
        match shown.of_another(&self.mark) {
            Some(owner) => Err(NetError::ForeignChains { owner }),
            None => Ok(shown),
        }
    }

    fn remember(&self, note: &Note) -> Result<(), NetError> {
        if let Some(file) = &self.file {
            note::write(file, note)?;
        }
        *self.note() = Some(note.clone());
        Ok(())
    }

    fn note(&self) -> MutexGuard<'_, Option<Note>> {
        self.note.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_as_given(note: &Note, f: Family, shown: &Shown) -> bool {
    TABLES.into_iter().all(|name| {
        let given = note.tables.get(&key(f, name)).map(|given| &given.shown);
        given == shown.table(name).map(ShownTable::fingerprint).as_ref()
    })
}

/// What a table is given, as one value.
fn described(table: &Table) -> BTreeMap<&str, (Option<&str>, &Vec<String>)> {
    let chains = table.chains.iter();
    chains
        .map(|chain| (chain.name, (chain.hook, &chain.rules)))
        .collect()
}

/// Names that iptables would take for something else.
fn check_names(state: &FirewallState) -> Result<(), NetError> {
    let odd = |name: &&str| !drops::is_plain(name);
    match state.bridges.iter().map(|b| b.bridge.as_str()).find(odd) {
        Some(bridge) => Err(NetError::invalid(
            format!("bridge {bridge}"),
            "iptables takes device names of letters, digits, '-', '_', '.' and '@' alone: give the network another one \
             with `bridge = \"NAME\"`",
        )),
        None => Ok(()),
    }
}

/// As the nftables backend does where the kernel knows no zones: what leads elsewhere since any of these.
fn forget_udp(
    filter: &mut Netlink,
    route: &mut Netlink,
    earlier: &[FirewallState],
    state: &FirewallState,
) -> Result<(), NetError> {
    let table = |state: &FirewallState| nftables::render(state, &Make::default(), &Elements::new());
    let wanted = table(state);
    let elements = |state: &FirewallState| -> Elements {
        let sets = table(state).sets.into_iter();
        sets.map(|set| (set.name.to_owned(), set.elements)).collect()
    };
    let stale: BTreeSet<Element> = earlier
        .iter()
        .flat_map(|was| changed_udp(&elements(was), &wanted))
        .collect();
    if stale.is_empty() {
        return Ok(());
    }
    let families: Vec<Family> = Family::ALL
        .into_iter()
        .filter(|f| stale.iter().any(|e| e.key.len() == elements::stale_len(*f)))
        .collect();
    conntrack::forget_flows(filter, route, &families, &stale, &wanted.sets)
}
