//! Who may have which host port and address: changes are taken up together, or not at all.
//!
//! All that change in this pass are assumed to have let go of what they had; whoever then still wants what one that
//! does not change has, stays as it is, which may hold up others in turn. So two containers can swap their ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::action::Noun;
use model::firewall::{PortRule, Protocol};
use model::ledger::{Accepted, ContainerEntry, ReplacePhase, Replacement};
use model::name::Name;
use model::observed::overlaps;

use super::firewall::effective;
use super::gates::LOOK_AGAIN;
use super::resources::Leased;
use super::{Blocked, Mutation, Pass};

/// How a change is taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first of its name.
    New,
    /// The container stays.
    InPlace,
    /// Nothing runs that it replaces.
    Direct,
    /// The old one is, or was, stopped for it, and is kept in case.
    Switch,
    /// The old one runs on, until the new one is known to be good.
    Trial,
}

/// One change that wants to be taken up.
#[derive(Debug)]
pub(super) struct Mover {
    pub(super) name: Name,
    pub(super) accepted: Accepted,
    kind: Kind,
}

impl Mover {
    pub(super) fn new(name: &Name, accepted: Accepted, kind: Kind) -> Self {
        Self {
            name: name.clone(),
            accepted,
            kind,
        }
    }

    pub(super) fn is_switch(&self) -> bool {
        self.kind == Kind::Switch
    }

    pub(super) fn is_direct(&self) -> bool {
        self.kind == Kind::Direct
    }

    /// Where it would take the place of one that does not run, that one is taken back should it fail.
    pub(super) fn keeping_the_old_one(mut self) -> Self {
        if self.is_direct() {
            self.kind = Kind::Switch;
        }
        self
    }
}

/// Why a change cannot be taken up now.
struct Clash {
    /// Which of those that change it is.
    loser: usize,
    what: String,
    by: Name,
    /// The other one changes as well.
    rival: bool,
}

/// A change that waits for what another one has.
pub(super) struct Loser {
    pub(super) mover: Mover,
    pub(super) by: Name,
}

/// Where a port is bound, and by whom of whose.
type Bound = (IpAddr, Name, Name);

/// What is taken, and by whom.
#[derive(Default)]
pub(super) struct Taken {
    ports: BTreeMap<(Protocol, u16), Vec<Bound>>,
    addresses: BTreeMap<(Name, IpAddr), Name>,
}

impl Taken {
    fn add(&mut self, name: &Name, accepted: &Accepted) {
        for rule in &accepted.ports {
            let at = self.ports.entry((rule.protocol, rule.host_port)).or_default();
            at.push((rule.at(), name.clone(), rule.holder().clone()));
        }
        self.add_places(name, accepted);
    }

    /// What an old one lets go of, where the one to come has these ports, and its places.
    pub(super) fn freed(
        name: &Name,
        old: &Accepted,
        ports: &BTreeSet<(Protocol, u16)>,
        new: Option<&Accepted>,
    ) -> Self {
        let mut freed = Self::default();
        freed.add(name, old);
        freed.ports.retain(|place, _| !ports.contains(place));
        for a in new.into_iter().flat_map(|new| &new.attachments) {
            a.ips()
                .for_each(|ip| drop(freed.addresses.remove(&(a.network.clone(), ip))));
        }
        freed
    }

    fn add_places(&mut self, name: &Name, accepted: &Accepted) {
        for a in &accepted.attachments {
            let places = a.ips().map(|ip| ((a.network.clone(), ip), name.clone()));
            self.addresses.extend(places);
        }
    }

    /// All of an entry that does not change.
    fn add_entry(&mut self, name: &Name, entry: &ContainerEntry) {
        self.add(name, &entry.current);
        if let Some(draining) = &entry.draining {
            self.add_places(name, &draining.accepted);
        }
        if let Some(next) = entry.next.as_ref().filter(|n| n.phase != ReplacePhase::Preparing) {
            self.add(name, &next.accepted);
        }
    }

    /// Instances of one service have their ports together.
    fn port_of(&self, name: &Name, rule: &PortRule) -> Option<&Name> {
        let at = self.ports.get(&(rule.protocol, rule.host_port))?;
        let mut others = at.iter().filter(|(_, by, of)| by != name && of != rule.holder());
        others
            .find(|(ip, ..)| overlaps(*ip, rule.at()))
            .map(|(_, by, _)| by)
    }

    pub(super) fn by_another(&self, name: &Name, accepted: &Accepted) -> Option<(String, Name)> {
        let port = |rule: &PortRule| {
            let by = self.port_of(name, rule)?;
            Some((
                format!("host port {}/{}", rule.host_port, rule.protocol),
                by.clone(),
            ))
        };
        let address = |a: &model::network::Attachment| {
            let taken = |ip| {
                self.addresses
                    .get(&(a.network.clone(), ip))
                    .filter(|by| *by != name)
            };
            let (ip, by) = a.ips().find_map(|ip| Some((ip, taken(ip)?)))?;
            Some((format!("address {ip} in network {}", a.network), by.clone()))
        };
        accepted
            .ports
            .iter()
            .find_map(port)
            .or_else(|| accepted.attachments.iter().find_map(address))
    }
}

impl Pass<'_, '_> {
    /// Takes up all changes that want nothing others keep; which of the others wait for that.
    pub(super) fn settle_claims(&mut self, movers: Vec<Mover>) -> Vec<Loser> {
        let mut movers: Vec<Mover> = movers
            .into_iter()
            .filter_map(|m| self.unless_foreign(m))
            .collect();
        let mut taken = Taken::default();
        // Until a trial is over, the old one keeps what it has.
        let moving = movers.iter().filter(|m| m.kind != Kind::Trial);
        let moving: BTreeSet<&Name> = moving.map(|m| &m.name).collect();
        for (name, entry) in self
            .ledger
            .containers
            .iter()
            .filter(|(name, _)| !movers.is_empty() && !moving.contains(name))
        {
            taken.add_entry(name, entry);
        }
        let ignore = self.broken(Mutation::PortsAreNotKept) || self.broken(Mutation::AddressesAreNotKept);
        let mut losers = Vec::new();
        while let Some(clash) = self.clash(&taken, &movers).filter(|_| !ignore) {
            let mover = movers.remove(clash.loser);
            if let Some(entry) = self.ledger.containers.get(&mover.name) {
                taken.add_entry(&mover.name, entry);
            }
            if let Some(loser) = self.lose(mover, clash) {
                losers.push(loser);
            }
        }
        self.break_circles(&losers);
        self.let_go(&losers);
        for mover in movers {
            self.take_up(mover);
        }
        losers
    }

    /// The first one that wants what another one keeps, or what another one that changes as well is to have.
    fn clash(&self, taken: &Taken, movers: &[Mover]) -> Option<Clash> {
        let kept = movers.iter().enumerate().find_map(|(loser, m)| {
            let (what, by) = taken.by_another(&m.name, &m.accepted)?;
            let rival = false;
            Some(Clash {
                loser,
                what,
                by,
                rival,
            })
        });
        // With a thousand ports it takes long to find out that one has no rival.
        kept.or_else(|| (movers.len() > 1).then(|| self.rivals(movers)).flatten())
    }

    /// Two that change and want the same: who has it now keeps it, else it is the first one's.
    fn rivals(&self, movers: &[Mover]) -> Option<Clash> {
        let mut claimed = Taken::default();
        let (late, what, by) = movers.iter().enumerate().find_map(|(late, m)| {
            let clash = claimed.by_another(&m.name, &m.accepted);
            claimed.add(&m.name, &m.accepted);
            clash.map(|(what, by)| (late, what, by))
        })?;
        let first = movers.iter().position(|m| m.name == by)?;
        let mut has = Taken::default();
        if let Some(entry) = self.ledger.containers.get(&movers.get(late)?.name) {
            has.add_entry(&movers.get(late)?.name, entry);
        }
        let keeps = has.by_another(&by, &movers.get(first)?.accepted).is_some();
        let (loser, winner) = if keeps { (first, late) } else { (late, first) };
        Some(Clash {
            loser,
            what,
            by: movers.get(winner)?.name.clone(),
            rival: true,
        })
    }

    /// What becomes of a change that cannot have what it wants now; gives it back where it waits for that.
    fn lose(&mut self, mover: Mover, clash: Clash) -> Option<Loser> {
        let Clash { what, by, rival, .. } = clash;
        let gone_since = self.ledger.containers.get(&by).and_then(|e| e.gone_since);
        if mover.kind == Kind::Trial && gone_since.is_none() {
            // The other one may want what this one has: stopped both, they can swap.
            let why = format!("container {by} still has {what}");
            self.stop_first_instead(mover, &why);
            return None;
        }
        let until = gone_since.map(|since| super::after(since, self.input.desired.settings.removal_grace));
        // Past that, it is its removal that is waited for, which wakes us by itself.
        let until = until.filter(|at| *at > self.input.now);
        let has = if rival { "has" } else { "still has" };
        let why = format!("waits for {what}, which container {by} {has}");
        let blocked = Blocked {
            why,
            until: until.or_else(|| rival.then_some(self.input.now)),
            error: false,
        };
        self.hold_up(Noun::Container(mover.name.clone()), blocked);
        Some(Loser { mover, by })
    }

    /// Puts it off while a process of the host has a port that is new to it.
    fn unless_foreign(&mut self, mover: Mover) -> Option<Mover> {
        let had = self
            .ledger
            .containers
            .get(&mover.name)
            .filter(|_| mover.kind != Kind::New);
        let place = |rule: &PortRule| (rule.protocol, rule.at(), rule.host_port);
        let is_fresh = |rule: &PortRule| {
            let mut before = had.iter().flat_map(|e| e.current.ports.iter());
            before.all(|r| place(r) != place(rule))
        };
        // Few are listened at, so that is asked first.
        let foreign = mover.accepted.ports.iter().find_map(|r| {
            let listener = self.foreign_listener(r.protocol, r.at(), r.host_port)?;
            is_fresh(r).then_some(listener)
        });
        match foreign {
            None => Some(mover),
            Some(why) => {
                let until = Some(self.later(LOOK_AGAIN));
                self.error(Noun::Container(mover.name), why, until);
                None
            }
        }
    }

    /// What goes back to the old one may find ports of it with others, who took them while it was to be replaced:
    /// those are theirs until they let go.
    pub(super) fn give_up_ports(&mut self) {
        let switching = |e: &ContainerEntry| {
            e.next
                .as_ref()
                .is_some_and(|n| n.phase == ReplacePhase::Switching)
        };
        let before = self.input.ledger.containers.iter();
        for (name, was) in before.filter(|(_, was)| switching(was)) {
            let mut taken = Taken::default();
            for (other, entry) in self.ledger.containers.iter().filter(|(other, _)| *other != name) {
                taken.add(other, effective(entry));
            }
            let back = self.ledger.containers.get_mut(name);
            if let Some(entry) = back.filter(|e| !switching(e) && e.current.id == was.current.id) {
                entry
                    .current
                    .ports
                    .retain(|rule| taken.port_of(name, rule).is_none());
            }
        }
    }

    /// Another one has this host port by now.
    pub(super) fn is_had_by_another(&self, name: &Name, rule: &PortRule) -> bool {
        let others = self.ledger.containers.iter().filter(|(other, _)| *other != name);
        let mut theirs = others.flat_map(|(_, entry)| &effective(entry).ports);
        theirs.any(|r| {
            (r.protocol, r.host_port) == (rule.protocol, rule.host_port)
                && overlaps(r.at(), rule.at())
                && r.holder() != rule.holder()
        })
    }

    /// A change that cannot be tried beside the old one takes its place once that was stopped: with the addresses of the
    /// name, and not with those it would have had beside it.
    pub(super) fn stop_first_instead(&mut self, mover: Mover, why: &str) {
        let name = mover.name.clone();
        let why = format!("cannot be updated start-first, so the old one is stopped first: {why}");
        if let Err(blocked) = self.prepare_instead(mover, why) {
            self.hold_up(Noun::Container(name), blocked);
        }
    }

    fn prepare_instead(&mut self, mover: Mover, why: String) -> Result<(), Blocked> {
        let Mover {
            name, mut accepted, ..
        } = mover;
        accepted.attachments = self
            .attachments(&name, &accepted.id, &accepted.spec, Leased::Own)?
            .into();
        let image = accepted.image.clone();
        accepted.ports = self
            .ports(&name, &accepted.spec, image.as_ref(), &accepted.attachments, true)?
            .into();
        if let Some(entry) = self.ledger.containers.get_mut(&name) {
            entry.next = Some(Replacement {
                accepted,
                phase: ReplacePhase::Preparing,
                fallback: Some(why),
            });
        }
        Ok(())
    }

    fn take_up(&mut self, mover: Mover) {
        let Mover { name, accepted, kind } = mover;
        let old = self.ledger.containers.remove(&name);
        let entry = match (old, kind) {
            (Some(mut entry), Kind::Switch) => {
                let fallback = entry.next.take().and_then(|n| n.fallback);
                entry.next = Some(Replacement {
                    accepted,
                    phase: ReplacePhase::Switching,
                    fallback,
                });
                entry
            }
            (Some(mut entry), Kind::Trial) => {
                entry.next = Some(Replacement {
                    accepted,
                    phase: ReplacePhase::Trial,
                    fallback: None,
                });
                entry
            }
            (Some(entry), Kind::InPlace) => ContainerEntry {
                current: accepted,
                ..entry
            },
            (Some(entry), Kind::Direct) => ContainerEntry {
                current: accepted,
                next: None,
                rejected: None,
                gone_since: None,
                ..entry
            },
            (_, Kind::New | Kind::Direct | Kind::InPlace | Kind::Switch | Kind::Trial) => ContainerEntry {
                current: accepted,
                next: None,
                rejected: None,
                gone_since: None,
                draining: None,
                place: self.place_to_be(&name),
            },
        };
        self.ledger.containers.insert(name.clone(), entry);
        self.stamp(&name);
    }
}
