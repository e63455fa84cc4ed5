//! Replacements under way: how far they got, and what a failure makes of them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use model::action::Noun;
use model::ledger::{Accepted, ContainerEntry, NetworkEntry, Rejected, ReplacePhase};
use model::name::Name;
use model::network::{Address4, Address6, Attachment, Subnet4, Subnet6};
use model::observed::{ExitRecord, ObservedContainer, Phase};
use model::spec::RestartPolicy;

use super::places::homes;
use super::resources::Leased;
use super::sight::{Sight, is_live};
use super::{Blocked, Pass, finish::definition};
use crate::allocate::{address, address6};

impl Pass<'_, '_> {
    /// Brings every entry up to what the host shows.
    pub(super) fn progress_replacements(&mut self) {
        let names: Vec<Name> = self.ledger.containers.keys().cloned().collect();
        for name in names {
            if self.container_busy(&name) {
                continue;
            }
            let Some(entry) = self.ledger.containers.get(&name) else {
                continue;
            };
            if entry.next.is_none() && entry.draining.is_none() {
                let now = self.ending(&entry.current);
                if let Some(entry) = self.ledger.containers.get_mut(&name) {
                    now.write(&mut entry.current);
                }
            } else {
                let entry = self.progressed(&name, entry.clone());
                let entry = self.roll_on(&name, entry);
                self.ledger.containers.insert(name, entry);
            }
        }
    }

    fn progressed(&self, name: &Name, mut entry: ContainerEntry) -> ContainerEntry {
        if let Some(next) = entry.next.take() {
            let failure = self.failed(name, &next.accepted);
            let sight = self.look_at(&next.accepted);
            let held = self.ledger.holds.contains_key(name);
            match next.phase {
                ReplacePhase::Preparing => match failure {
                    Some(reason) => entry.rejected = Some(self.reject(&next.accepted, reason)),
                    None => entry.next = Some(next),
                },
                // Held, it is not started, but it is the one that is to be, once the old one has stopped.
                ReplacePhase::Switching
                    if came_up(sight)
                        || (held && !sight.may_be_live() && !self.look_at(&entry.current).may_be_live()) =>
                {
                    entry.current = next.accepted;
                    entry.rejected = None;
                }
                ReplacePhase::Switching => match failure.or_else(|| launch_error(sight)) {
                    Some(reason) => {
                        entry.rejected = Some(self.reject(&next.accepted, reason));
                        entry.next = Some(model::ledger::Replacement {
                            phase: ReplacePhase::Reverting,
                            ..next
                        });
                    }
                    None => entry.next = Some(next),
                },
                ReplacePhase::Reverting if matches!(sight, Sight::Absent) => {}
                ReplacePhase::Reverting | ReplacePhase::Trial | ReplacePhase::Dropping => {
                    entry.next = Some(next);
                }
            }
        }
        self.settle(&mut entry.current);
        if let Some(next) = &mut entry.next {
            self.settle(&mut next.accepted);
        }
        entry
    }

    pub(super) fn failed(&self, name: &Name, accepted: &Accepted) -> Option<String> {
        let failure = self.input.failures.get(&Noun::Container(name.clone()))?;
        (failure.id.as_ref() == Some(&accepted.id)).then(|| failure.message.clone())
    }

    pub(super) fn reject(&self, accepted: &Accepted, reason: String) -> Rejected {
        let fingerprint = definition(&accepted.spec, accepted.image_id.as_ref(), &accepted.contents);
        Rejected {
            fingerprint,
            reason,
            at: self.input.now,
            log: Vec::new(),
        }
    }

    /// What a look says about a payload's end and beginning.
    pub(super) fn settle(&self, accepted: &mut Accepted) {
        self.ending(accepted).write(accepted);
    }

    fn ending(&self, accepted: &Accepted) -> Ending {
        let mut now = Ending {
            stale: accepted.stale,
            finished: accepted.finished,
            run: accepted.finished_run,
            code: accepted.finished_code,
        };
        match self.look_at(accepted) {
            Sight::Unknown(_) => {}
            Sight::Absent => now.stale = false,
            Sight::Seen(c) => {
                now.stale &= is_live(c);
                match (&c.phase, &c.last_exit) {
                    (Phase::Running { .. } | Phase::Paused { .. }, _) => now.finished = false,
                    // An end that was taken back (`wharf start`) is not taken again.
                    (Phase::Exited, Some(exit))
                        if is_done(accepted.spec.restart.policy, exit)
                            && accepted.finished_run != Some(exit.run_no) =>
                    {
                        now.finished = true;
                        now.run = Some(exit.run_no);
                        now.code = Some(exit.code);
                    }
                    _ => {}
                }
            }
        }
        now
    }

    /// Gives containers whose network changed new interfaces; what runs with the old ones is stale.
    pub(super) fn refresh_attachments(&mut self) {
        let names: Vec<Name> = self.ledger.containers.keys().cloned().collect();
        for name in names {
            if self.container_busy(&name) {
                continue;
            }
            self.follow_isolation(&name);
            let Some(entry) = self.ledger.containers.get(&name) else {
                continue;
            };
            if !entry.all().any(|a| self.needs_interfaces(a)) {
                continue;
            }
            let mut entry = entry.clone();
            if let Err(blocked) = self.may_leave(&name, &entry) {
                self.hold_up(Noun::Container(name), blocked);
                continue;
            }
            let mut changed = self.refresh(&name, &mut entry.current);
            // One beside it, or that drains, is done with instead.
            if let Some(next) = entry.next.as_mut().filter(|n| !n.phase.is_beside()) {
                changed |= self.refresh(&name, &mut next.accepted);
            }
            if changed {
                self.ledger.containers.insert(name, entry);
            }
        }
    }

    /// Whether its neighbours are kept from an interface is changed while it is in use.
    fn follow_isolation(&mut self, name: &Name) {
        let networks = &self.ledger.networks;
        let wanted = |a: &Attachment| {
            networks
                .get(&a.network)
                .map_or(a.isolated, |n| n.network.isolated)
        };
        let entry = self.ledger.containers.get_mut(name);
        for accepted in entry.into_iter().flat_map(ContainerEntry::all_mut) {
            if accepted.attachments.iter().any(|a| a.isolated != wanted(a)) {
                accepted
                    .attachments
                    .iter_mut()
                    .for_each(|a| a.isolated = wanted(a));
            }
        }
    }

    fn refresh(&mut self, name: &Name, accepted: &mut Accepted) -> bool {
        let sight = self.look_at(accepted);
        if matches!(sight, Sight::Unknown(_)) || !self.needs_interfaces(accepted) {
            return false;
        }
        let fresh = self
            .attachments(name, &accepted.id, &accepted.spec, Leased::Own)
            .and_then(|list| {
                Ok((
                    self.ports(name, &accepted.spec, accepted.image.as_ref(), &list, false)?,
                    list,
                ))
            });
        match fresh {
            Ok((mut ports, list)) => {
                // What it had to give up stays with those who took it.
                ports.retain(|rule| !self.is_had_by_another(name, rule));
                accepted.ports = ports.into();
                accepted.stale = sight.may_be_live();
                if accepted.stale {
                    accepted.left = lived_at(accepted, &list);
                }
                accepted.attachments = list.into();
                true
            }
            Err(blocked) => {
                self.hold_up(Noun::Container(name.clone()), blocked);
                false
            }
        }
    }

    /// Instances of a service leave in turn places that still are good for something.
    fn may_leave(&self, name: &Name, entry: &ContainerEntry) -> Result<(), Blocked> {
        let current = &entry.current;
        let alone = entry.next.is_none() && entry.draining.is_none();
        let stays = alone && !self.has_to_leave(current) && self.look_at(current).is_up();
        if stays && current.attachments.iter().all(|a| self.leads_by_ipv4(a)) {
            self.has_turn(name, "restarted")
        } else {
            Ok(())
        }
    }

    /// By IPv4 it is where its network has it, whatever became of its IPv6.
    fn leads_by_ipv4(&self, a: &Attachment) -> bool {
        let as_is = |entry: &NetworkEntry| {
            let Attachment {
                ip,
                bridge,
                link,
                mtu,
                ..
            } = a;
            let network = &entry.network;
            (bridge, link, *mtu) == (&network.bridge, &network.link(), network.mtu)
                && ip.v4().is_some_and(|v4| !self.is_out_of_lease(entry, v4.ip))
                && !is_misplaced4(ip.v4(), network.v4())
        };
        self.ledger.networks.get(&a.network).is_some_and(as_is)
    }

    fn needs_interfaces(&self, accepted: &Accepted) -> bool {
        self.lacks_its_way_out(accepted) || accepted.attachments.iter().any(|a| self.outdated(a))
    }

    /// A network of it has a way out now, and none of its interfaces, or a later one, has the default route.
    pub(super) fn lacks_its_way_out(&self, accepted: &Accepted) -> bool {
        let at = |index: Option<usize>| accepted.attachments.get(index?);
        let v4 = at(self.way_out(&accepted.attachments)).and_then(Attachment::v4);
        let v6 = at(self.way_out6(&accepted.attachments)).and_then(Attachment::v6);
        v4.is_some_and(|v4| v4.gateway.is_none()) || v6.is_some_and(|v6| v6.gateway.is_none())
    }

    pub(super) fn outdated(&self, a: &model::network::Attachment) -> bool {
        self.ledger.networks.get(&a.network).is_some_and(|entry| {
            let anew = entry.replacing.is_some() && self.input.observed.links.known().is_some();
            anew || self.is_misplaced(a)
        })
    }

    /// Its network is not, or no longer, one in which this could be.
    pub(super) fn is_misplaced(&self, a: &model::network::Attachment) -> bool {
        self.ledger.networks.get(&a.network).is_some_and(|entry| {
            let network = &entry.network;
            a.bridge != network.bridge
                || a.link != network.link()
                || a.mtu != network.mtu
                || network
                    .host_addresses()
                    .iter()
                    .any(|net| a.ips().any(|ip| ip == net.addr()))
                || is_misplaced4(a.v4(), network.v4())
                || is_misplaced6(a.v6(), network.v6())
                || a.v4().is_some_and(|v4| self.is_out_of_lease(entry, v4.ip))
        })
    }
}

/// The addresses that it lives on and does not have in this list any more.
fn lived_at(accepted: &Accepted, list: &[Attachment]) -> Vec<(Name, IpAddr)> {
    let kept = |(network, ip): &(&Name, IpAddr)| {
        let mut there = list.iter().filter(|a| a.network == **network);
        there.any(|a| a.ips().any(|other| other == *ip))
    };
    let left: BTreeSet<_> = homes(accepted).filter(|home| !kept(home)).collect();
    left.into_iter()
        .map(|(network, ip)| (network.clone(), ip))
        .collect()
}

/// What it has of IPv4 is not what a place in the network has.
fn is_misplaced4(at: Option<&Address4>, network: Option<&Subnet4>) -> bool {
    match (at, network) {
        (None, None) => false,
        (Some(at), Some(network)) => {
            at.prefix != network.subnet.prefix_len()
                || at.gateway.is_some_and(|g| g != network.gateway)
                || !address::may_be_given(network, at.ip)
        }
        (None, Some(_)) | (Some(_), None) => true,
    }
}

/// The same of IPv6.
fn is_misplaced6(at: Option<&Address6>, network: Option<&Subnet6>) -> bool {
    match (at, network) {
        (None, None) => false,
        (Some(at), Some(network)) => {
            at.prefix != network.subnet.prefix_len()
                || at.gateway.is_some_and(|g| g != network.gateway)
                || !address6::may_be_given(network, at.ip)
        }
        (None, Some(_)) | (Some(_), None) => true,
    }
}

/// What is remembered of a payload's end.
struct Ending {
    stale: bool,
    finished: bool,
    run: Option<u64>,
    code: Option<i32>,
}

impl Ending {
    fn write(self, accepted: &mut Accepted) {
        accepted.stale = self.stale;
        if !self.stale {
            accepted.left.clear();
        }
        accepted.finished = self.finished;
        accepted.finished_run = self.run;
        accepted.finished_code = self.code;
    }
}

/// The payload was begun.
fn came_up(sight: Sight<'_>) -> bool {
    let Sight::Seen(c) = sight else { return false };
    let begun = match c.phase {
        Phase::Running { .. } | Phase::Paused { .. } | Phase::Backoff { .. } => true,
        Phase::Exited => c.last_exit.is_some(),
        Phase::Prepared | Phase::Created | Phase::Lost => false,
    };
    begun && launch_error(sight).is_none()
}

/// Its very first run could not even be started.
fn launch_error(sight: Sight<'_>) -> Option<String> {
    let Sight::Seen(ObservedContainer {
        phase: Phase::Exited | Phase::Backoff { .. },
        run_no,
        last_exit,
        ..
    }) = sight
    else {
        return None;
    };
    last_exit.as_ref().filter(|_| *run_no <= 1)?.error.clone()
}

/// A run that ended by itself, and that the policy has no other follow.
fn is_done(policy: RestartPolicy, exit: &ExitRecord) -> bool {
    let by_itself = !exit.requested && exit.error.is_none();
    match policy {
        RestartPolicy::Always => false,
        RestartPolicy::OnFailure => by_itself && exit.code == 0,
        RestartPolicy::No => by_itself,
    }
}
