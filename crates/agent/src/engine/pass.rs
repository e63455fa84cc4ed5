//! One pass: read, look, decide, write the ledger, start what can be started, publish.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use model::action::{Action, Failure, Noun};
use model::firewall::Protocol;
use model::image::ImageSource;
use model::ledger::Ledger;
use model::name::ContainerId;
use model::observed::Look;
use model::plan::{Plan, Planned};
use reconciler::plan::Input;
use runtime::damage::Depth;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{Done, Engine, Wake, fresh_id, last_words};
use crate::cluster::Wanted;
use crate::observe::{self, Dirty};
use crate::{events, execute};

/// Nobody tells that a socket was closed: with a pass after so long, sockets are looked at as well.
const LISTEN_AGAIN: std::time::Duration = std::time::Duration::from_secs(2);

impl Engine {
    /// From what woke us to actions under way and a fresh status.
    pub(super) async fn pass(&mut self) {
        if std::mem::take(&mut self.files_dirty) {
            self.read_files();
        }
        self.look().await;
        self.collect_garbage().await;
        let now = Timestamp::now();
        if self.is_at_rest(now) {
            return self.rest_on();
        }
        self.rest = None;
        let plan = self.decide(now);
        for answer in self.plan_requests.drain(..) {
            drop(answer.send(plan.clone())); // a client that has gone away needs no answer
        }
        self.schedule(plan.wake_at, now);
        let wanting: BTreeSet<Noun> = plan.actions.iter().map(|p| p.action.noun()).collect();
        let busy = &self.in_flight;
        self.repeats
            .holds_but_for(|noun| wanting.contains(noun) || busy.contains(noun));
        let known = plan.ledger == *self.ledger;
        if known && plan.actions.is_empty() {
            // The usual case, and then the plan that was made is the one to be told of.
            self.publish(reconciler::status::status_of(&self.input(now), &plan));
            self.ledger_file.copy();
            self.note_rest(now, plan.wake_at);
        } else {
            self.begin(plan, known, now);
        }
        self.host
            .cluster
            .set_wanted(Wanted::by(&self.desired, &self.ledger, &self.observed));
        for answer in self.after_pass.drain(..) {
            answer.send(()).ok(); // likewise
        }
    }

    /// Writes the ledger, unless it is known, and starts what waits for nothing.
    fn begin(&mut self, mut plan: Plan, known: bool, now: Timestamp) {
        let mut ledger = std::mem::take(&mut plan.ledger);
        last_words::keep(&mut ledger, &self.ledger, &self.places.roots());
        let mut begun = false;
        if known || self.write_ledger(ledger).is_ok() {
            for taken in &plan.taken_up {
                let why = reconciler::plan::reasons(&taken.reasons);
                self.events
                    .emit(taken.noun.kind(), taken.noun.name(), "update", why);
            }
            self.manager.before_actions();
            begun = !plan.actions.is_empty();
            plan.waits.extend(reconciler::plan::awaiting(&plan.actions));
            std::mem::take(&mut plan.actions)
                .into_iter()
                .for_each(|planned| self.dispatch(planned));
        }
        let input = self.input(now);
        let status = match begun {
            // What is under way is over before all can be well: it need not be found out what would be planned beside it.
            true => reconciler::status::status_of(&input, &plan),
            false => reconciler::status::status(&input),
        };
        self.publish(status);
        if !begun {
            // Actions would wait for the disk, and for the processor: see `sleep`.
            self.ledger_file.copy();
        }
    }

    async fn look(&mut self) {
        if self.listened.elapsed() >= LISTEN_AGAIN {
            // Whoever waits for a port waits by the clock, and passes that come meanwhile put that off.
            self.dirty.listeners = true;
        }
        let dirty = std::mem::take(&mut self.dirty);
        if dirty == Dirty::default() {
            return;
        }
        if dirty.listeners {
            self.listened = Instant::now();
        }
        if dirty == Dirty::ALL {
            empty_trash(&self.host);
            self.collector.due = true;
        }
        let before = Arc::clone(&self.observed);
        let mut observed = Arc::clone(&self.observed);
        let ports = match dirty.listeners {
            true => self.wanted_ports(),
            false => BTreeSet::new(),
        };
        let host = Arc::clone(&self.host);
        let depth = (dirty == Dirty::ALL).then_some(match self.passes {
            // What was scribbled over without an agent was not told.
            0 => Depth::Legible,
            _ => Depth::There,
        });
        let touched = std::mem::take(&mut self.touched);
        let looked = tokio::task::spawn_blocking(move || {
            touched.iter().for_each(|id| host.runtime.forget_look(id));
            observe::refresh(&host, &mut observed, dirty, &ports);
            if dirty.containers {
                observe::look_for_damage(&host, &mut observed, depth, touched);
            }
            observed
        });
        match looked.await {
            Ok(observed) => self.observed = observed,
            // A look that panicked leaves everything unknown, so nothing is removed; the next one is whole.
            Err(e) => {
                error!("a look at the host broke off: {e}");
                self.observed = Arc::new(observe::blank());
                self.dirty = Dirty::ALL;
            }
        }
        self.look_again();
        let changed = !Arc::ptr_eq(&before, &self.observed);
        if let (true, Look::Known(before), Look::Known(after)) =
            (changed, &before.containers, &self.observed.containers)
        {
            for event in events::transitions(before, after, Timestamp::now()) {
                self.events.record(event);
            }
        }
        drop(before);
        let watched = dirty.containers || dirty.volumes || dirty.links;
        if watched && (changed || self.taken.has_gaps()) {
            let roots = self.places.roots();
            self.taken.follow(&roots, &self.host, &self.observed);
        }
        if dirty.links {
            self.bridges.set(observe::bridges(&self.observed));
        }
        self.shims.follow(&self.host, &self.observed, changed);
        self.shims.follow_names(&self.host, &self.observed);
        self.shims.follow_relay(&self.host, &self.observed);
        let revision = self.revision;
        let health = match changed || !self.probers.are_settled(revision) {
            true => self
                .probers
                .follow(&self.host, (&self.ledger, revision), &self.observed),
            false => self.probers.known(),
        };
        if health != self.observed.health {
            let seen = Arc::make_mut(&mut self.observed);
            let before = std::mem::replace(&mut seen.health, health);
            self.tell_of_health(&before);
        }
    }

    /// What could not be seen is looked at again with whatever wakes the loop next, and soon if nothing does: the change
    /// that a failed look missed was told of once.
    fn look_again(&mut self) {
        let unseen = observe::unknown(&self.observed);
        if unseen == Dirty::default() {
            self.blind_looks = 0;
            return;
        }
        self.dirty = self.dirty.or(unseen);
        self.blind_looks += 1;
    }

    /// Host ports somebody asks for by number.
    fn wanted_ports(&self) -> BTreeSet<(Protocol, u16)> {
        let specs = self.desired.containers.values().flat_map(|c| &c.spec.ports);
        specs
            .filter_map(|p| Some((p.protocol, p.host?)))
            .flat_map(|(proto, (a, b))| (a..=b).map(move |n| (proto, n)))
            .collect()
    }

    /// Everything a pass decides by.
    fn input(&self, now: Timestamp) -> Input<'_> {
        Input {
            desired: &self.desired,
            observed: &self.observed,
            ledger: &self.ledger,
            in_flight: &self.in_flight,
            failures: &self.failures,
            now,
        }
    }

    fn decide(&self, now: Timestamp) -> Plan {
        let mut ids = fresh_id as fn() -> ContainerId;
        reconciler::plan::plan(&self.input(now), &mut ids)
    }

    /// When to look again by the clock.
    pub(super) fn schedule(&mut self, wake_at: Option<Timestamp>, now: Timestamp) {
        let full = self.desired.settings.full_pass;
        if self.full_pass_at <= Instant::now() {
            self.full_pass_at = Instant::now() + full;
        }
        self.wake_at = wake_at.map(|at| {
            let wait = at
                .duration_since(now)
                .try_into()
                .unwrap_or(std::time::Duration::ZERO);
            Instant::now() + wait
        });
        if self.dirty != Dirty::default() {
            let again = Instant::now() + blind_rest(self.blind_looks);
            self.wake_at = Some(self.wake_at.map_or(again, |at| at.min(again)));
        }
    }

    /// Writes the ledger; on failure the old one stays in force, nothing that relies on the new one is done, and the
    /// next full pass tries again.
    pub(super) fn write_ledger(&mut self, ledger: Ledger) -> Result<(), String> {
        self.revision += 1;
        match self.ledger_file.write(&ledger) {
            Ok(()) => {
                for event in events::turns::turns(&self.ledger, &ledger, Timestamp::now()) {
                    self.events.record(event);
                }
                self.ledger = Arc::new(ledger);
                self.ledger_error = None;
                Ok(())
            }
            Err(e) => {
                let text = format!("{e:#}");
                error!("{text}; nothing is changed until it can be written");
                self.ledger_error = Some(text.clone());
                self.wake_at = Some(Instant::now() + std::time::Duration::from_secs(1));
                Err(text)
            }
        }
    }

    /// Starts an action whose edges are met. What waits for others is planned again when they have ended.
    fn dispatch(&mut self, planned: Planned) {
        let noun = planned.action.noun();
        if !planned.after.is_empty() || self.in_flight.contains(&noun) {
            return;
        }
        info!("{}", reconciler::plan::describe(&planned));
        self.in_flight.insert(noun.clone());
        let (host, wakes) = (Arc::clone(&self.host), self.wakes.clone());
        let why = reconciler::plan::reasons(&planned.reasons);
        let action = planned.action;
        let permits = self.permits_for(&action);
        tokio::spawn(async move {
            // The semaphores are never closed, so there is a permit for every action in the end.
            let permit = match permits {
                Some(permits) => permits.acquire_owned().await.ok(),
                None => None,
            };
            let done = tokio::task::spawn_blocking(move || {
                let result = execute::run(&host, &action);
                (action, result)
            })
            .await;
            drop(permit);
            let done = match done {
                Ok((action, result)) => Done {
                    action: Some(action),
                    noun,
                    why,
                    result,
                },
                Err(e) => Done {
                    action: None,
                    noun,
                    why,
                    result: Err(format!("broke off inside wharf: {e}")),
                },
            };
            drop(wakes.send(Wake::Done(Box::new(done)))); // the loop outlives its actions but at its own end
        });
    }

    /// What an action has to have a share of. A pull mostly waits for somebody else: it holds up no start.
    fn permits_for(&self, action: &Action) -> Option<Arc<Semaphore>> {
        match action {
            Action::LoadImage {
                source: ImageSource::Registry { .. },
                ..
            } => Some(Arc::clone(&self.pulls)),
            Action::LoadImage { .. } | Action::PrepareContainer { .. } | Action::StartContainer { .. } => {
                Some(Arc::clone(&self.permits))
            }
            _ => None,
        }
    }

    /// Books the end of an action.
    pub(super) fn finish(&mut self, done: Done) {
        self.in_flight.remove(&done.noun);
        self.dirty = self.dirty.or(touched(&done.noun));
        match done.result {
            Ok(()) => self.book_success(&done.noun, done.action.as_ref(), done.why),
            Err(message) => self.book_failure(done.noun, done.action.as_ref(), message),
        }
    }

    fn book_success(&mut self, noun: &Noun, action: Option<&Action>, why: String) {
        self.failures.remove(noun);
        let Some(action) = action else { return };
        self.tell_of_success(noun, action, why);
        if let Action::MendContainer { instance } = action {
            self.taken.forget_groups(&instance.id);
        }
        if let Action::LoadImage { source, refresh } = action {
            let mut ledger = Ledger::clone(&self.ledger);
            if *refresh {
                ledger.note_pulled(&source.key());
            }
            ledger.note_checked(&source.key(), Timestamp::now());
            if ledger != *self.ledger {
                // Not written, it is asked for once more: no harm.
                self.write_ledger(ledger).ok();
            }
        }
        if let Some((count, mut message)) = self.repeats.done(action, Timestamp::now()) {
            if let Some(by) = self.repairs.changer_of(noun) {
                message = format!("{message}: it was {by}, as the kernel tells");
            }
            self.book_failure(noun.clone(), Some(action), message);
            if let Some(failure) = self.failures.get_mut(noun) {
                failure.count = count;
            }
        }
    }

    /// An event, as a repair where what was in force was undone; and by whom, where the kernel tells.
    fn tell_of_success(&mut self, noun: &Noun, action: &Action, why: String) {
        let (kind, name) = (noun.kind(), noun.name());
        if !self.repairs.is_repair(action) {
            return self.events.emit(kind, name, verb(action), why);
        }
        match self.repairs.changer_of(noun) {
            Some(by) => {
                let why = format!("{why}; changed by {by}");
                let who = [("by", by.name.clone()), ("byPid", by.pid.to_string())];
                self.events.emit_with(kind, name, "repair", why, who);
            }
            None => self.events.emit(kind, name, "repair", why),
        }
    }

    fn book_failure(&mut self, noun: Noun, action: Option<&Action>, message: String) {
        // Where it is shown, the noun stands before it.
        let prefix = format!("{noun}: ");
        let message = message
            .strip_prefix(&prefix)
            .map(str::to_owned)
            .unwrap_or(message);
        warn!(%noun, "{message}");
        let reason = message.clone();
        self.events.emit(noun.kind(), noun.name(), "error", reason);
        let count = self.failures.get(&noun).map_or(0, |f| f.count) + 1;
        let (id, of) = action.map_or((None, String::new()), Action::subject);
        self.failures.insert(
            noun,
            Failure {
                message,
                id,
                count,
                at: Timestamp::now(),
                of,
            },
        );
    }
}

/// How long to wait after so many looks in a row that saw not all: 100 ms, doubling up to five seconds.
fn blind_rest(looks: u32) -> std::time::Duration {
    let doubled = 1u32.checked_shl(looks.saturating_sub(1)).unwrap_or(u32::MAX);
    std::time::Duration::from_millis(100)
        .saturating_mul(doubled)
        .min(std::time::Duration::from_secs(5))
}

/// What was put away a day ago goes for good. Nobody waits for that.
fn empty_trash(host: &Arc<crate::host::Host>) {
    let host = Arc::clone(host);
    tokio::task::spawn_blocking(move || {
        if let Err(e) = host.volumes.empty_trash(Timestamp::now()) {
            warn!("the trash of volumes cannot be emptied: {e}");
        }
    });
}

/// What an action on a noun can have changed.
fn touched(noun: &Noun) -> Dirty {
    match noun {
        Noun::Image(_) => Dirty {
            images: true,
            ..Dirty::default()
        },
        Noun::Network(_) => Dirty {
            links: true,
            ..Dirty::default()
        },
        // Links: the look at the forwarding setting is among them.
        Noun::Firewall => Dirty {
            firewall: true,
            links: true,
            ..Dirty::default()
        },
        Noun::Dns => Dirty {
            names: true,
            ..Dirty::default()
        },
        Noun::Volume(_) => Dirty {
            volumes: true,
            ..Dirty::default()
        },
        Noun::Container(_) => Dirty {
            containers: true,
            links: true,
            listeners: true,
            ..Dirty::default()
        },
    }
}

/// An action's name as an event's type.
fn verb(action: &Action) -> &'static str {
    match action {
        Action::LoadImage { .. } => "load",
        Action::ApplyVolume { .. } | Action::ApplyDns { .. } => "apply",
        Action::RemoveVolume { .. } => "remove",
        Action::RestartUnhealthy { .. } => "restart",
        Action::ApplyNetwork { .. } | Action::ApplyFirewall { .. } => "apply",
        Action::RemoveNetwork { .. } | Action::RemoveContainer { .. } => "remove",
        Action::PrepareContainer { .. } => "prepare",
        Action::StartContainer { .. } => "create",
        Action::RepairAttachments { .. } | Action::MendContainer { .. } => "repair",
        Action::DeliverContents { .. } => "deliver",
        Action::UpdateContainer { .. } => "update",
        Action::StopContainer { .. } => "stop",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::blind_rest;

    #[test]
    fn a_look_that_keeps_failing_is_repeated_ever_more_seldom() {
        let rests: Vec<u64> = (1..=8).map(|n| blind_rest(n).as_millis() as u64).collect();
        assert_eq!(rests, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        assert_eq!(blind_rest(u32::MAX), Duration::from_secs(5));
    }
}
