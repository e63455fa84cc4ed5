//! The agent's life on the simulated host: look, plan, write the ledger, act, die, come back.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use model::action::{Action, Failure, Failures, Noun};
use model::desired::Desired;
use model::ledger::{Accepted, ContainerEntry, Hold, Ledger};
use model::name::{ContainerId, Name};
use model::observed::{Look, Observed};
use model::plan::{Plan, Planned, fingerprint};
use reconciler::plan::{Input, Mutation, mutated};

use super::digest::Digest;
use super::files::Files;
use super::host::Host;
use super::rng::Rng;
use super::{checks, foreign, laws, links, replicas, rollout};

/// Passes with faults, and passes after them within which all must be well.
const WILD: u64 = 60;
const CALM: u64 = 400;

/// What a run came to, for figures.
#[derive(Debug, Default)]
pub struct Outcome {
    pub passes: u64,
    pub actions: u64,
    pub deaths: u64,
    pub blind_looks: u64,
    /// Actions that were carried out, by kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Of every plan and every host, where it was asked for.
    pub digest: Option<Digest>,
}

impl Outcome {
    pub fn add(&mut self, other: Self) {
        self.passes += other.passes;
        self.actions += other.actions;
        self.deaths += other.deaths;
        self.blind_looks += other.blind_looks;
        for (kind, n) in other.kinds {
            *self.kinds.entry(kind).or_default() += n;
        }
        self.digest = match (self.digest, other.digest) {
            (Some(a), Some(b)) => Some(a.and(b)),
            (a, b) => a.or(b),
        };
    }
}

/// Lives one seed through.
pub fn run(seed: u64, mutation: Option<Mutation>) -> Result<Outcome, String> {
    live(World::new(seed, mutation))
}

/// The same, with every pass printed.
pub fn tell(seed: u64) -> Result<Outcome, String> {
    let mut world = World::new(seed, None);
    world.told = true;
    live(world)
}

fn live(mut world: World) -> Result<Outcome, String> {
    for _ in 0..WILD {
        world.disturb();
        world.pass(true)?;
    }
    world.calm_down();
    let mut settled = 0;
    for number in 0..CALM {
        if number % 50 == 49 {
            world.forgive();
        }
        if world.pass(false)? {
            checks::settled(&world.host, &world.desired, &world.ledger)?;
            laws::settled(&world.host, &world.desired, &world.ledger)?;
            links::settled(&world.host, &world.ledger)?;
            rollout::settled(&world.host, &world.ledger)?;
            replicas::settled(&world.host, &world.ledger)?;
            match settled {
                // Once more from a host on which all is well: that is where updates go the whole way.
                0 => world.update(),
                // And where nothing but this ends those who live in the namespaces of others.
                1 => world.host.kill_owners(world.now),
                _ => return Ok(world.outcome),
            }
            settled += 1;
        }
    }
    let under_way: Vec<String> = world
        .running
        .iter()
        .map(|r| r.planned.action.noun().to_string())
        .collect();
    Err(format!(
        "does not converge; under way: {under_way:?}; the last plan:\n{}",
        world.last_plan
    ))
}

/// An action the executor has taken on.
struct Running {
    planned: Planned,
    /// Indices of actions of the same plan that it still waits for.
    index: usize,
    plan: u64,
    begun: bool,
    done_at: Timestamp,
}

pub struct World {
    rng: Rng,
    mutation: Option<Mutation>,
    now: Timestamp,
    pub files: Files,
    pub host: Host,
    pub desired: Desired,
    /// On disk.
    pub ledger: Ledger,
    failures: Failures,
    running: Vec<Running>,
    /// Names whose tables were seen gone by an earlier pass.
    pub seen_gone: BTreeSet<Name>,
    /// The same for volumes.
    pub volumes_gone: BTreeSet<Name>,
    plans: u64,
    /// Edges are followed by the executor, or left to the pass after.
    chains: bool,
    last_plan: String,
    outcome: Outcome,
    /// Every pass is printed.
    told: bool,
    /// The files are not those any more that `desired` was made of.
    edited: bool,
}

impl World {
    fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut rng = Rng::new(seed);
        let mut files = Files::default();
        for _ in 0..12 {
            files.change(&mut rng);
        }
        let chains = rng.one_in(2);
        Self {
            rng,
            mutation,
            now: Timestamp::from_second(1_767_225_600).unwrap(),
            files,
            host: Host::new(),
            desired: Desired::default(),
            ledger: Ledger::default(),
            failures: Failures::new(),
            running: Vec::new(),
            seen_gone: BTreeSet::new(),
            volumes_gone: BTreeSet::new(),
            plans: 0,
            chains,
            last_plan: String::new(),
            outcome: Outcome {
                digest: Digest::begin(),
                ..Outcome::default()
            },
            told: false,
            edited: true,
        }
    }

    fn disturb(&mut self) {
        if self.rng.one_in(4) {
            self.files.change(&mut self.rng);
            self.edited = true;
        }
        if self.rng.one_in(4) {
            self.host.disturb(&mut self.rng, self.now);
        }
        if self.rng.one_in(6) {
            self.host.contents.change(&mut self.rng);
        }
        if self.rng.one_in(12) {
            self.host.take_away(&mut self.rng);
        }
        if self.rng.one_in(6) {
            super::schedule::disturb(&mut self.host.around, &mut self.rng);
        }
        if self.rng.one_in(30) {
            self.die();
        }
        if self.rng.one_in(25) {
            let jump = SignedDuration::from_secs(i64::try_from(self.rng.below(7200)).unwrap() - 3600);
            self.now += jump;
            self.host.clock_set(jump);
            // What is under way takes as long as it would have.
            self.running.iter_mut().for_each(|r| r.done_at += jump);
        }
        if self.rng.one_in(20) {
            self.toggle_hold();
        }
    }

    fn update(&mut self) {
        self.files.update();
        self.edited = true;
        self.host.contents.edit_all();
    }

    /// Memory is lost; what was under way is done, half done, or not begun.
    fn die(&mut self) {
        self.outcome.deaths += 1;
        for running in std::mem::take(&mut self.running) {
            if running.begun && !self.rng.one_in(3) {
                let half = self.rng.one_in(2);
                // Nobody is left to hear how it went.
                let _unheard = self.host.apply(&running.planned.action, self.now, half);
            }
        }
        self.failures.clear();
        self.host.around.here_since = self.now;
        self.host.forget();
    }

    fn toggle_hold(&mut self) {
        let names: Vec<Name> = self.ledger.containers.keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let name = self.rng.pick(&names).clone();
        if self.ledger.holds.remove(&name).is_none() {
            let of = fingerprint(&self.ledger.containers[&name].current.spec);
            let hold = Hold {
                reason: "by hand".to_owned(),
                at: self.now,
                fingerprint: of,
            };
            self.ledger.holds.insert(name, hold);
        }
    }

    fn calm_down(&mut self) {
        self.files.heal();
        self.edited = true;
        self.host.heal();
        // What was found unwell would be stopped once more.
        self.host.probe(None, self.now);
        self.ledger.health.clear();
        self.ledger.holds.clear();
        // As if somebody had restarted those who saw a volume's removed directory.
        self.ledger.volumes_lost.clear();
        let there = &self.host.volumes;
        self.ledger.volumes_made.retain(|name| there.contains_key(name));
        for accepted in self.ledger.containers.values_mut().flat_map(|e| e.all_mut()) {
            // A job whose only run was cut short by a change of its files, or failed, may keep others waiting for ever:
            // as if somebody had started it once more, be that failure known by now or not.
            accepted.finished = false;
            let real = self.host.containers.get(&accepted.id);
            let end = real.and_then(|real| real.seen.last_exit.as_ref());
            let failed = end.filter(|exit| exit.code != 0 && accepted.spec.schedule.is_none());
            accepted.finished_run = failed.map(|exit| exit.run_no).or(accepted.finished_run);
        }
        self.forgive();
        for action in &mut self.running {
            action.done_at = action.done_at.min(self.now);
        }
    }

    /// What failed once for a passing reason stays refused until it changes, by all instances of a service: as if it had
    /// been.
    fn forgive(&mut self) {
        for entry in self.ledger.containers.values_mut() {
            entry.rejected = None;
        }
    }

    /// One pass. True when there was nothing to do and to wait for.
    fn pass(&mut self, wild: bool) -> Result<bool, String> {
        self.outcome.passes += 1;
        if std::mem::take(&mut self.edited) {
            self.desired = self.files.resolve();
        }
        let observed = self.look(wild);
        let in_flight: BTreeSet<Noun> = self.running.iter().map(|r| r.planned.action.noun()).collect();
        let plan = self.plan(&observed, &in_flight);
        let input = Input {
            desired: &self.desired,
            observed: &observed,
            ledger: &self.ledger,
            in_flight: &in_flight,
            failures: &self.failures,
            now: self.now,
        };
        if let Some(digest) = &mut self.outcome.digest {
            digest.note(&(self.now, &plan, self.host.seen()));
        }
        // Text is dear: it is made where somebody will read it.
        if self.told || self.outcome.passes > WILD + CALM - 2 {
            self.last_plan = show(&plan);
        }
        checks::plan(&input, &plan, &self.host, &self.seen_gone)
            .and_then(|()| laws::plan(&input, &plan, &self.host, &self.volumes_gone))
            .and_then(|()| rollout::plan(&input, &plan, &self.host))
            .and_then(|()| replicas::plan(&input, &plan))
            .and_then(|()| foreign::plan(&plan, &self.host))
            .and_then(|()| links::plan(&plan))
            .map_err(|e| format!("{e}\nin the plan:\n{}", show(&plan)))?;
        if plan.is_empty() && self.running.is_empty() && plan.ledger == self.ledger {
            self.note_gone();
            return Ok(true);
        }
        if !wild && plan.is_empty() && self.running.is_empty() {
            // Only something to be written down: no time has to pass for that.
            self.note_gone();
            self.ledger = plan.ledger;
            return Ok(false);
        }
        if self.told {
            println!("{} {wild} pass:\n{}", self.now, self.last_plan);
        }
        if wild && self.rng.one_in(60) {
            // Killed before the ledger was on disk: nothing that relies on it was begun, and what it saw, whether gone or
            // there again, nobody knows.
            self.die();
        } else {
            self.note_gone();
            let wake_at = plan.wake_at;
            self.ledger = plan.ledger;
            self.take_on(plan.actions);
            self.advance(wake_at, wild)?;
        }
        Ok(false)
    }

    fn look(&mut self, wild: bool) -> Observed {
        self.host.follow(&self.ledger);
        let mut seen = self.host.observe();
        if !wild || !self.rng.one_in(6) {
            return seen;
        }
        self.outcome.blind_looks += 1;
        let why = || "the look failed on purpose".to_owned();
        match self.rng.below(10) {
            8 => seen.dns = Look::Unknown(why()),
            9 => seen.volumes = Look::Unknown(why()),
            0 => seen.images = Look::Unknown(why()),
            1 => seen.links = Look::Unknown(why()),
            2 => {
                seen.foreign_addresses = Look::Unknown(why());
                seen.foreign_addresses6 = Look::Unknown(why());
            }
            3 => seen.firewall = Look::Unknown(why()),
            4 => seen.listeners = Look::Unknown(why()),
            5 | 6 => seen.containers = Look::Unknown(why()),
            _ => {
                if let Look::Known(all) = &mut seen.containers {
                    for look in all.values_mut() {
                        if self.rng.one_in(2) {
                            *look = Look::Unknown(why());
                        }
                    }
                }
            }
        }
        seen
    }

    fn plan(&mut self, observed: &Observed, in_flight: &BTreeSet<Noun>) -> Plan {
        let input = Input {
            desired: &self.desired,
            observed,
            ledger: &self.ledger,
            in_flight,
            failures: &self.failures,
            now: self.now,
        };
        let rng = &mut self.rng;
        let mut ids = || {
            let mut bytes = [0; 32];
            for part in bytes.chunks_exact_mut(8) {
                part.copy_from_slice(&rng.next().to_le_bytes());
            }
            ContainerId::from_bytes(bytes)
        };
        mutated(&input, &mut ids, self.mutation)
    }

    fn note_gone(&mut self) {
        let there = |n: &Name| self.desired.containers.contains_key(n);
        self.seen_gone = self
            .ledger
            .containers
            .keys()
            .filter(|n| !there(n))
            .cloned()
            .collect();
        let volumes = self.ledger.volumes.keys();
        let gone = volumes.filter(|n| !self.desired.volumes.contains_key(*n));
        self.volumes_gone = gone.cloned().collect();
    }

    fn take_on(&mut self, actions: Vec<Planned>) {
        self.plans += 1;
        for (index, planned) in actions.into_iter().enumerate() {
            if !planned.after.is_empty() && !self.chains {
                continue;
            }
            let begun = planned.after.is_empty();
            let millis = i64::try_from(1 + self.rng.below(900)).unwrap();
            let done_at = self.now + SignedDuration::from_millis(millis);
            self.running.push(Running {
                planned,
                index,
                plan: self.plans,
                begun,
                done_at,
            });
        }
    }

    /// Time passes until something is due, and what is due happens.
    fn advance(&mut self, wake_at: Option<Timestamp>, wild: bool) -> Result<(), String> {
        let full_pass = self.now + SignedDuration::from_secs(30);
        let begun = self.running.iter().filter(|r| r.begun).map(|r| r.done_at).min();
        let mut until = begun
            .into_iter()
            .chain(wake_at)
            .min()
            .unwrap_or(full_pass)
            .min(full_pass);
        if wild && self.rng.one_in(3) {
            until = until.min(self.now + SignedDuration::from_millis(5));
        }
        self.now = self.now.max(until);
        self.host.tick(self.now);
        if wild {
            self.host.probe(Some(&mut self.rng), self.now);
        } else {
            self.host.probe(None, self.now);
            self.host.finish_jobs(&self.ledger, self.now);
        }
        while let Some(at) = self.running.iter().position(|r| r.begun && r.done_at <= self.now) {
            let running = self.running.swap_remove(at);
            self.end(running, wild)?;
        }
        Ok(())
    }

    fn end(&mut self, running: Running, wild: bool) -> Result<(), String> {
        let action = &running.planned.action;
        self.outcome.actions += 1;
        *self.outcome.kinds.entry(kind(action)).or_default() += 1;
        let (fails, half) = if wild {
            (self.rng.one_in(10), self.rng.one_in(2))
        } else {
            (false, false)
        };
        let result = match (fails, half) {
            (true, false) => Err("failed on purpose".to_owned()),
            (fails, _) => self.host.apply(action, self.now, fails),
        };
        let noun = action.noun();
        match &result {
            Ok(()) => {
                self.failures.remove(&noun);
                note(&mut self.ledger, action, self.now);
            }
            Err(message) => self.book(noun, action, message.clone()),
        }
        checks::truth(&self.host)
            .and_then(|()| rollout::truth(&self.host))
            .and_then(|()| foreign::truth(&self.host))
            .map_err(|e| format!("{e}\nafter {action:?}"))?;
        self.follow(&running, result.is_ok());
        Ok(())
    }

    fn book(&mut self, noun: Noun, action: &Action, message: String) {
        let count = self.failures.get(&noun).map_or(0, |f| f.count) + 1;
        let (id, of) = action.subject();
        self.failures.insert(
            noun,
            Failure {
                message,
                id,
                count,
                at: self.now,
                of,
            },
        );
    }

    /// What waited for an action begins, or is dropped with it.
    fn follow(&mut self, ended: &Running, well: bool) {
        let mut dropped = BTreeSet::new();
        if !well {
            dropped.insert(ended.index);
        }
        let mut same: Vec<&mut Running> = self
            .running
            .iter_mut()
            .filter(|r| r.plan == ended.plan && !r.begun)
            .collect();
        // In the plan's order, so that what waits for what is dropped is dropped as well.
        same.sort_by_key(|r| r.index);
        for r in same {
            if r.planned.after.iter().any(|a| dropped.contains(a)) {
                dropped.insert(r.index);
            } else if well {
                r.planned.after.retain(|a| *a != ended.index);
            }
        }
        self.running
            .retain(|r| r.plan != ended.plan || r.begun || !dropped.contains(&r.index));
        for r in self
            .running
            .iter_mut()
            .filter(|r| !r.begun && r.planned.after.is_empty())
        {
            r.begun = true;
        }
    }
}

/// What the agent writes down by itself: that a registry was asked.
pub fn note(ledger: &mut Ledger, action: &Action, now: Timestamp) {
    if let Action::LoadImage { source, refresh } = action {
        if *refresh {
            ledger.note_pulled(&source.key());
        }
        ledger.note_checked(&source.key(), now);
    }
}

fn kind(action: &Action) -> &'static str {
    match action {
        Action::LoadImage { .. } => "LoadImage",
        Action::ApplyNetwork { .. } => "ApplyNetwork",
        Action::RemoveNetwork { .. } => "RemoveNetwork",
        Action::ApplyFirewall { .. } => "ApplyFirewall",
        Action::ApplyDns { .. } => "ApplyDns",
        Action::ApplyVolume { .. } => "ApplyVolume",
        Action::RemoveVolume { .. } => "RemoveVolume",
        Action::PrepareContainer { .. } => "PrepareContainer",
        Action::StartContainer { .. } => "StartContainer",
        Action::UpdateContainer { .. } => "UpdateContainer",
        Action::RepairAttachments { .. } => "RepairAttachments",
        Action::MendContainer { .. } => "MendContainer",
        Action::DeliverContents { .. } => "DeliverContents",
        Action::RestartUnhealthy { .. } => "RestartUnhealthy",
        Action::StopContainer { .. } => "StopContainer",
        Action::RemoveContainer { .. } => "RemoveContainer",
    }
}

/// The kinds of actions there are.
pub const KINDS: usize = 16;

fn show(plan: &Plan) -> String {
    let actions = plan
        .actions
        .iter()
        .map(|p| format!("  {} (after {:?})", reconciler::plan::describe(p), p.after));
    let waits = plan
        .waits
        .iter()
        .map(|w| format!("  {}", reconciler::plan::describe_wait(w)));
    let entries = plan.ledger.containers.iter();
    let entries = entries.map(|(name, entry)| format!("  = {}", stands(name, entry)));
    let lines: Vec<String> = actions.chain(waits).chain(entries).collect();
    lines.join("\n")
}

/// An entry of the ledger on one line: what is accepted, with addresses and ports.
fn stands(name: &Name, entry: &ContainerEntry) -> String {
    let one = |a: &Accepted| {
        let ips = a.attachments.iter().flat_map(|at| {
            at.ips()
                .map(|ip| format!(" {}:{ip}", at.network))
                .collect::<Vec<_>>()
        });
        let ports = a.ports.iter().map(|r| format!(" {}/{}", r.host_port, r.protocol));
        let stale = a.stale.then(|| " stale".to_owned());
        let finished = a.finished.then(|| " finished".to_owned());
        let told: String = ips.chain(ports).chain(stale).chain(finished).collect();
        format!("{} rev {}{told}", a.id.short(), a.rev)
    };
    let place = entry
        .place
        .as_ref()
        .map(|p| format!(" ({} of {})", p.number, p.service));
    let next = entry.next.as_ref();
    let next = next.map(|n| format!("; {:?} {}", n.phase, one(&n.accepted)));
    let draining = entry.draining.as_ref();
    let draining = draining.map(|d| format!("; draining {}", one(&d.accepted)));
    let gone = entry.gone_since.map(|_| "; gone".to_owned());
    let rejected = entry
        .rejected
        .as_ref()
        .map(|r| format!("; rejected: {}", r.reason));
    let rest = [place, next, draining, gone, rejected];
    format!(
        "{name}: {}{}",
        one(&entry.current),
        rest.into_iter().flatten().collect::<String>()
    )
}
