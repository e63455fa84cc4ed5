//! `update.strategy = "start-first"`: the new one is tried beside the old one, takes its place, and the old one drains.
//!
//! All of it is in the ledger, so that an agent that is killed at any moment goes on where it was:
//!
//! | phase | names and ports | ends when |
//! | --- | --- | --- |
//! | trial | the old one's | the new one is healthy: promoted; it is not in time, or has ended: dropped, and rejected |
//! | dropping | the old one's | the new one is gone |
//! | draining | the new one's | `drain` is over since names and ports were seen to have moved: the old one is removed |

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use model::health::Verdict;
use model::ledger::{Accepted, ContainerEntry, Draining, ReplacePhase, Replacement, spare_owner};
use model::name::Name;
use model::observed::{ExitRecord, Look, ObservedContainer, Phase};

use super::health::check;
use super::resources::Leased;
use super::sight::Sight;
use super::{Mutation, Pass, after};

/// How long one whose health nobody asks has to have run before it takes over.
pub(super) const SETTLED: Duration = Duration::from_secs(1);

/// How a trial stands.
pub(super) enum Trial {
    /// It is still to be started.
    Begins,
    /// It runs; what is decided then, at the latest or at the earliest.
    Open {
        until: Option<Timestamp>,
    },
    Passed,
    /// Why it is rejected.
    Failed(String),
    /// It is of no use any more, which says nothing about the definition.
    Off,
}

impl Pass<'_, '_> {
    /// Brings the start-first side of an entry up to what the host shows.
    pub(super) fn roll_on(&mut self, name: &Name, mut entry: ContainerEntry) -> ContainerEntry {
        self.drain_on(name, &mut entry);
        match entry.next.take() {
            Some(next) if next.phase == ReplacePhase::Trial => self.decide_trial(name, entry, next),
            Some(next) if next.phase == ReplacePhase::Dropping && self.is_gone(&next.accepted) => entry,
            other => {
                entry.next = other;
                entry
            }
        }
    }

    fn decide_trial(&mut self, name: &Name, mut entry: ContainerEntry, next: Replacement) -> ContainerEntry {
        match self.trial(name, &next.accepted) {
            Trial::Passed => return self.promote(name, entry, next),
            Trial::Begins | Trial::Open { .. } => {
                entry.next = Some(next);
                return entry;
            }
            Trial::Failed(reason) => entry.rejected = Some(self.reject(&next.accepted, reason)),
            Trial::Off => {}
        }
        entry.next = Some(Replacement {
            phase: ReplacePhase::Dropping,
            ..next
        });
        entry
    }

    /// The new one takes the old one's place: names and ports follow in this very plan.
    fn promote(&mut self, name: &Name, mut entry: ContainerEntry, next: Replacement) -> ContainerEntry {
        let mut promoted = next.accepted;
        // Its shim works by the trial's policy until it is told.
        promoted.rev += 1;
        for a in &promoted.attachments {
            self.ledger.swap_leases(a.network.as_str(), name.as_str());
        }
        let accepted = std::mem::replace(&mut entry.current, promoted);
        entry.draining = Some(Draining {
            accepted,
            until: None,
        });
        entry.rejected = None;
        entry
    }

    /// What a look says about one on trial.
    pub(super) fn trial(&self, name: &Name, accepted: &Accepted) -> Trial {
        if self.ledger.holds.contains_key(name) || self.is_cut_off(accepted) {
            return Trial::Off;
        }
        if let Some(reason) = self.failed(name, accepted) {
            return Trial::Failed(reason);
        }
        match self.look_at(accepted) {
            Sight::Unknown(_) => Trial::Open { until: None },
            Sight::Absent => Trial::Begins,
            Sight::Seen(c) => match &c.phase {
                Phase::Prepared | Phase::Created => Trial::Begins,
                Phase::Lost if c.run_no == 0 => Trial::Begins,
                // Killed behind our back, or the machine went down: it is tried anew.
                Phase::Lost => Trial::Off,
                Phase::Exited => ended(c.last_exit.as_ref()),
                Phase::Paused { .. } | Phase::Backoff { .. } => Trial::Open { until: None },
                Phase::Running { .. } => self.running_trial(accepted, c),
            },
        }
    }

    fn running_trial(&self, accepted: &Accepted, seen: &ObservedContainer) -> Trial {
        let now = self.input.now;
        let Some(started) = seen.started_at else {
            return Trial::Open { until: None };
        };
        if self.broken(Mutation::TrialsArePromotedEarly) {
            return Trial::Passed;
        }
        // A start in the future is a clock that was set back.
        let over = |span: Duration| now >= after(started, span);
        let Some(health) = self.health(accepted).filter(|_| check(accepted).is_some()) else {
            return if over(SETTLED) || started > now {
                Trial::Passed
            } else {
                Trial::Open {
                    until: Some(after(started, SETTLED)),
                }
            };
        };
        let timeout = accepted.spec.update.timeout;
        if health.verdict == Verdict::Healthy {
            Trial::Passed
        } else if over(timeout) {
            let timeout = model::units::format_duration(timeout);
            Trial::Failed(format!(
                "the new one was not healthy within {timeout}: it {}",
                health.sentence()
            ))
        } else {
            Trial::Open {
                until: Some(after(started, timeout)),
            }
        }
    }

    /// Its networks are not those it was made for any more: it goes, for the network or for another one.
    fn is_cut_off(&self, accepted: &Accepted) -> bool {
        accepted.stale
            || self.lacks_its_way_out(accepted)
            || accepted.attachments.iter().any(|a| self.outdated(a))
    }

    /// How far the one before is: its time begins once nobody new is led to it.
    fn drain_on(&mut self, name: &Name, entry: &mut ContainerEntry) {
        let Some(mut draining) = entry.draining.take() else {
            return;
        };
        if self.is_gone(&draining.accepted) {
            return;
        }
        let now = self.input.now;
        let at_once = self.broken(Mutation::NobodyDrains)
            || self.ledger.holds.contains_key(name)
            || self.has_to_leave(&draining.accepted);
        let drain = if self.is_cut_off(&draining.accepted) {
            Duration::ZERO
        } else {
            entry.current.spec.update.drain
        };
        let latest = after(now, drain);
        let left = self.is_left(&draining.accepted);
        draining.until = match draining.until {
            _ if at_once => Some(now),
            // It was to go at once, for a hold that was lifted since: first names and ports are to move all the same.
            Some(_) if left == Some(false) => None,
            // Later than possible is a clock that was set back.
            Some(until) => Some(until.min(latest)),
            None => (left == Some(true)).then_some(latest),
        };
        entry.draining = Some(draining);
    }

    /// No name and no port leads to it any more; none where that cannot be seen.
    fn is_left(&self, accepted: &Accepted) -> Option<bool> {
        let (Look::Known(firewall), Look::Known(dns)) =
            (&self.input.observed.firewall, &self.input.observed.dns)
        else {
            return accepted.attachments.is_empty().then_some(true);
        };
        let places: Vec<(&Name, IpAddr)> = places(accepted).collect();
        let here = |ip: IpAddr| places.iter().any(|(_, at)| *at == ip);
        let mut rules = firewall.iter().flat_map(|f| &f.ports);
        let mut endpoints = dns
            .iter()
            .flat_map(|d| d.containers.values())
            .flat_map(|c| &c.endpoints);
        let named =
            endpoints.any(|(network, e)| places.iter().any(|(n, at)| *n == network && e.ips.contains(at)));
        Some(!named && !rules.any(|r| here(r.target_ip)))
    }

    /// Nothing of it is left on the host.
    pub(super) fn is_gone(&self, accepted: &Accepted) -> bool {
        let devices = self.devices_of(&accepted.id);
        matches!(self.look_at(accepted), Sight::Absent)
            && (accepted.attachments.is_empty() || devices.is_some_and(|d| d.is_empty()))
    }

    /// Addresses for one beside the current one are free again where there is none, or it came to nothing.
    pub(super) fn free_spares(&mut self) {
        let beside =
            |e: &ContainerEntry| e.draining.is_some() || e.next.as_ref().is_some_and(|n| n.phase.is_beside());
        let entries = self.ledger.containers.iter();
        let used: BTreeSet<String> = entries
            .filter(|(_, e)| beside(e))
            .map(|(name, _)| spare_owner(name.as_str()))
            .collect();
        let mark = spare_owner("");
        self.ledger.leases.retain(|key, _| {
            let owner = key.rsplit('/').next().unwrap_or(key);
            !owner.ends_with(&mark) || used.contains(owner)
        });
    }

    /// Addresses of others of the name that live beside the one that is to have this lease.
    pub(super) fn lives_beside(&self, name: &Name, lease: Leased) -> Vec<(Name, IpAddr)> {
        let Some(entry) = self.ledger.containers.get(name) else {
            return Vec::new();
        };
        let other = match lease {
            Leased::Spare => Some(&entry.current),
            Leased::Own => entry
                .next
                .as_ref()
                .filter(|n| n.phase.is_beside())
                .map(|n| &n.accepted),
        };
        let draining = entry.draining.as_ref().map(|d| &d.accepted);
        let all = other.into_iter().chain(draining).flat_map(places);
        all.map(|(network, ip)| (network.clone(), ip)).collect()
    }
}

/// Where it lives.
fn places(accepted: &Accepted) -> impl Iterator<Item = (&Name, IpAddr)> {
    let all = accepted.attachments.iter();
    all.flat_map(|a| a.ips().map(move |ip| (&a.network, ip)))
}

/// The process of one on trial ended: by itself it should not.
fn ended(exit: Option<&ExitRecord>) -> Trial {
    let Some(exit) = exit else { return Trial::Off };
    if exit.requested {
        return Trial::Off;
    }
    let how = exit.error.clone().unwrap_or_else(|| match exit.signal {
        Some(signal) if exit.oom_killed => format!("it was killed by signal {signal}, out of memory"),
        Some(signal) => format!("it was ended by signal {signal}"),
        None => format!("it ended with exit code {}", exit.code),
    });
    Trial::Failed(format!("the new one did not stay up: {how}"))
}
