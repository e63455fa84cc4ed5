//! Configs, secrets and environment files: their content counts as much as what a table says.
//!
//! What a running container has is noted beside its files, and looked at like everything else. So a delivery that was
//! cut off is planned again, and one that was made is not. Files are changed in place; an environment is read once, so
//! that another one, as another target, makes another container.

use std::collections::{BTreeMap, BTreeSet};

use model::action::{Action, Noun};
use model::content::{
    ContentEntry, ContentKey, ContentKind, ContentRecord, ContentState, Delivered, OnChange, Then, differ,
    keys_of,
};
use model::ledger::Accepted;
use model::name::Name;
use model::observed::{Look, ObservedContainer, Phase};
use model::plan::{Op, Reason};
use model::spec::ContainerSpec;

use super::presence::Wish;
use super::sight::{Sight, is_live};
use super::{Blocked, Mutation, Pass};

/// What happens to an instance whose turn it is.
const RESTARTED: &str = "restarted with what changed";

impl Pass<'_, '_> {
    /// Takes up what the tables say; keeps what is held, and what a container still sees.
    pub(super) fn accept_contents(&mut self) {
        let desired = self.input.desired;
        let mut declared = BTreeMap::new();
        for (kind, tables) in [
            (ContentKind::Config, &desired.configs),
            (ContentKind::Secret, &desired.secrets),
        ] {
            declared.extend(tables.iter().map(|(name, table)| {
                let entry = ContentEntry {
                    spec: table.spec.clone(),
                    origin: table.origin.clone(),
                };
                (ContentKey::of(kind, name.clone()), entry)
            }));
        }
        let seen: BTreeSet<ContentKey> = self
            .ledger
            .accepted()
            .flat_map(|(_, accepted)| keys_of(&accepted.spec))
            .collect();
        let mut kept = std::mem::take(&mut self.ledger.contents);
        kept.retain(|key, entry| seen.contains(key) || self.content_is_held(key, entry));
        kept.extend(declared);
        self.ledger.contents = kept;
    }

    fn content_is_held(&self, key: &ContentKey, entry: &ContentEntry) -> bool {
        let held = &self.input.desired.held;
        let named = match key {
            ContentKey::Config(name) => held.configs.contains(name),
            ContentKey::Secret(name) => held.secrets.contains(name),
            ContentKey::EnvFile(_) => false,
        };
        held.everything || named || held.files.contains(&entry.origin.file)
    }

    /// Notes what containers have by now.
    pub(super) fn note_contents(&mut self) {
        let observed = self.input.observed;
        let mut noted = Vec::new();
        for (name, accepted) in self.ledger.accepted() {
            let delivered = observed.delivered.get(&accepted.id);
            let asks = keys_of(&accepted.spec).next().is_some();
            if accepted.contents.is_empty() && delivered.is_none() && !asks {
                continue;
            }
            let mut contents = BTreeMap::clone(&accepted.contents);
            if let Some(record) = delivered {
                contents.extend(record.files.clone());
            }
            // One that was made before contents were looked at has what there is.
            for key in keys_of(&accepted.spec).filter(|key| !accepted.contents.contains_key(key)) {
                if let (true, Some(state)) = (accepted.image.is_some(), self.wished(&key)) {
                    contents.entry(key).or_insert(state);
                }
            }
            let wanted: Vec<ContentKey> = keys_of(&accepted.spec).collect();
            contents.retain(|key, _| wanted.contains(key));
            if contents != *accepted.contents {
                noted.push((name.clone(), accepted.id.clone(), contents));
            }
        }
        for (name, id, contents) in noted {
            if !self.container_busy(&name)
                && let Some(accepted) = self.accepted_mut(&name, &id)
            {
                accepted.contents = contents.into();
            }
        }
    }

    /// What a container would be given now; none where that is not known.
    fn wished(&self, key: &ContentKey) -> Option<ContentState> {
        let fingerprint = self.input.observed.contents.get(key)?.known()?.clone();
        let file = match key.table() {
            Some((kind, name)) => Some(self.ledger.contents.get(key)?.spec.delivered(kind, name)),
            None => None,
        };
        Some(ContentState { fingerprint, file })
    }

    /// What a container that is made now has.
    pub(super) fn contents_of(&self, spec: &ContainerSpec) -> BTreeMap<ContentKey, ContentState> {
        let known = |key: ContentKey| self.wished(&key).map(|state| (key, state));
        keys_of(spec).filter_map(known).collect()
    }

    /// The files it sees, for `runtime`.
    pub(super) fn files_of(&self, spec: &ContainerSpec) -> Vec<Delivered> {
        let file = |key: ContentKey| {
            let (kind, name) = key.table()?;
            Some(self.ledger.contents.get(&key)?.spec.delivered(kind, name))
        };
        keys_of(spec).filter_map(file).collect()
    }

    /// Whether everything it needs can be had.
    pub(super) fn contents_for(&self, spec: &ContainerSpec) -> Result<(), Blocked> {
        keys_of(spec)
            .find_map(|key| self.unreadable(&key))
            .map_or(Ok(()), Err)
    }

    /// Why the content of something cannot be had.
    fn unreadable(&self, key: &ContentKey) -> Option<Blocked> {
        if key.table().is_some() && !self.ledger.contents.contains_key(key) {
            return Some(Blocked::error(format!(
                "waits for {key}, whose table cannot be taken as it is written now"
            )));
        }
        match self.input.observed.contents.get(key) {
            Some(Look::Known(_)) => None,
            Some(Look::Unknown(why)) => Some(Blocked::error(format!("{key}: {why}"))),
            None => Some(Blocked::wait(format!("waits for {key}, which was not read yet"))),
        }
    }

    /// Why what there is now takes another container: reasons, none where it does not.
    pub(super) fn outgrown(&self, accepted: &Accepted) -> Vec<Reason> {
        let of = |key: ContentKey| {
            let had = accepted.contents.get(&key)?;
            let now = self.wished(&key)?;
            let what = changed(had, &now)?;
            (self.replaces(&key, had, &now)).then(|| self.content_reason(accepted, &key, what))
        };
        keys_of(&accepted.spec).filter_map(of).collect()
    }

    /// Whether what a new one has takes another container than the one there is.
    pub(super) fn contents_take_another(&self, current: &Accepted, new: &Accepted) -> bool {
        new.contents.iter().any(|(key, now)| {
            let had = current.contents.get(key);
            had.is_some_and(|had| changed(had, now).is_some() && self.replaces(key, had, now))
        })
    }

    /// What a replacement has that its predecessor has not; by now there may be something else.
    pub(super) fn content_reasons(&self, old: &Accepted, new: &Accepted) -> Vec<Reason> {
        let of = |(key, now): (&ContentKey, &ContentState)| {
            let what = changed(old.contents.get(key)?, now)?;
            Some(self.content_reason(new, key, what))
        };
        let reasons: Vec<Reason> = new.contents.iter().filter_map(of).collect();
        if reasons.is_empty() && old.spec == new.spec && old.image_id == new.image_id {
            // What it was begun for is gone again.
            return vec![Reason::because("its configs, secrets or environment changed")];
        }
        reasons
    }

    fn replaces(&self, key: &ContentKey, had: &ContentState, now: &ContentState) -> bool {
        let target = |state: &ContentState| state.file.as_ref().map(|file| file.target.clone());
        let entry = self.ledger.contents.get(key);
        target(had) != target(now) || entry.is_none_or(|e| e.spec.on_change == OnChange::Replace)
    }

    fn content_reason(&self, accepted: &Accepted, key: &ContentKey, what: &str) -> Reason {
        let entry = self.ledger.contents.get(key);
        let at = entry.map_or_else(|| accepted.origin.key("env_file"), |e| e.origin.location());
        Reason {
            file: Some(at.file).filter(|file| !file.is_empty()),
            line: at.line,
            ..Reason::because(format!("{key} changed: its {what}"))
        }
    }

    /// Gives a running container what changed in place. Whether there is anything to be done about it.
    pub(super) fn renew_contents(
        &mut self,
        name: &Name,
        accepted: &Accepted,
        seen: &ObservedContainer,
        after: &[usize],
    ) -> bool {
        let noun = Noun::Container(name.clone());
        if let Err(blocked) = self.contents_for(&accepted.spec) {
            // It goes on with what it has.
            self.hold_up(noun, blocked);
            return false;
        }
        if self.broken(Mutation::ContentsAreIgnored) {
            return false;
        }
        let Some(step) = self.delivery(accepted, seen) else {
            return false;
        };
        if matches!(seen.phase, Phase::Paused { .. }) {
            let what = step.reasons.first().map_or("", |r| r.field.as_str());
            self.wait(
                noun,
                format!("{what}, which reaches it when it is unpaused"),
                None,
            );
            return true;
        }
        if let Some(blocked) = self.resting_container(&noun, accepted) {
            self.hold_up(noun, blocked);
            return true;
        }
        let mut after = after.to_vec();
        if matches!(step.then, Then::Restart { .. }) {
            if let Err(blocked) = self.has_turn(name, RESTARTED) {
                self.hold_up(noun, blocked);
                return false;
            }
            after.extend(self.out_of_traffic(name));
        }
        if let Some(instance) = self.instance(name, accepted) {
            let action = Action::DeliverContents {
                instance,
                contents: step.contents,
                run_no: seen.run_no,
                then: step.then,
            };
            self.act(Op::Update, action, after, step.reasons);
        }
        true
    }

    /// Decides which instances of replicated services are restarted now for what changed: as with a replacement few at a
    /// time, and none before it is out of the traffic.
    pub(super) fn note_restarts(&mut self) {
        for name in self.order.clone() {
            let Some(entry) = self
                .ledger
                .containers
                .get(&name)
                .filter(|_| self.place(&name).is_some())
            else {
                continue;
            };
            let begins = entry.is_steady() && self.is_restarted_for_contents(&name, &entry.current);
            if begins && self.has_turn(&name, RESTARTED).is_ok() {
                self.note_replacing(&name);
                self.restarting.insert(name);
            }
        }
    }

    fn is_restarted_for_contents(&self, name: &Name, accepted: &Accepted) -> bool {
        let leaves =
            accepted.stale || self.ledger.holds.contains_key(name) || matches!(self.wish(name), Wish::Gone);
        let paused =
            matches!(self.look_at(accepted), Sight::Seen(c) if matches!(c.phase, Phase::Paused { .. }));
        let step = self.pending_delivery(accepted).filter(|_| !leaves && !paused);
        step.is_some_and(|step| matches!(step.then, Then::Restart { .. }))
    }

    /// It runs, and is still to be given something.
    pub(super) fn awaits_contents(&self, accepted: &Accepted) -> bool {
        self.pending_delivery(accepted).is_some()
    }

    fn pending_delivery(&self, accepted: &Accepted) -> Option<Delivery> {
        match self.look_at(accepted) {
            Sight::Seen(seen) if is_live(seen) && !self.broken(Mutation::ContentsAreIgnored) => {
                self.delivery(accepted, seen)
            }
            _ => None,
        }
    }

    /// What is to be done about the files of a running container, if anything.
    fn delivery(&self, accepted: &Accepted, seen: &ObservedContainer) -> Option<Delivery> {
        let nothing = ContentRecord::default();
        let record = self
            .input
            .observed
            .delivered
            .get(&accepted.id)
            .unwrap_or(&nothing);
        let mut step = Delivery::default();
        for key in keys_of(&accepted.spec) {
            let (Some(now), Some(entry)) = (self.wished(&key), self.ledger.contents.get(&key)) else {
                continue;
            };
            let had = record.files.get(&key);
            if let Some(what) = had.map_or(Some("file may be missing or old"), |had| changed(had, &now)) {
                if had.is_some_and(|had| self.replaces(&key, had, &now)) {
                    // Its replacement has everything.
                    return None;
                }
                step.reasons.push(self.content_reason(accepted, &key, what));
                step.follow(&entry.spec.on_change);
            }
            step.contents.insert(key, now);
        }
        step.reasons.extend(self.led_elsewhere(accepted, &record.hosts));
        if let Some(run) = record.outdated_run.filter(|run| seen.run_no <= *run) {
            step.then = restart();
            if step.reasons.is_empty() {
                let why = format!("run {run} began before the configs and secrets it has now");
                step.reasons.push(Reason::because(why));
            }
        }
        let told = matches!(step.then, Then::Signal { .. });
        if told && matches!(seen.phase, Phase::Backoff { .. }) {
            // Nobody is there to be told: it may start with what it lacked, and at once.
            step.then = restart();
        }
        if let Then::Restart { signal, grace } = &mut step.then {
            *signal = accepted.stop_signal();
            *grace = accepted.spec.stop_grace_period;
        }
        (!step.reasons.is_empty()).then_some(step)
    }
}

/// What is delivered, and what follows.
struct Delivery {
    contents: BTreeMap<ContentKey, ContentState>,
    then: Then,
    reasons: Vec<Reason>,
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            contents: BTreeMap::new(),
            then: Then::Nothing,
            reasons: Vec::new(),
        }
    }
}

impl Delivery {
    /// The strongest of all: a restart needs no signal, and every signal is sent.
    fn follow(&mut self, on_change: &OnChange) {
        match (on_change, &mut self.then) {
            (OnChange::None, _) | (OnChange::Signal(_), Then::Restart { .. }) => {}
            // Its file is missing: with its replacement it would be there as well, but that is no other one.
            (OnChange::Restart | OnChange::Replace, then) => *then = restart(),
            (OnChange::Signal(signal), Then::Signal { signals }) => {
                if !signals.contains(signal) {
                    signals.push(signal.clone());
                }
            }
            (OnChange::Signal(signal), then) => {
                *then = Then::Signal {
                    signals: vec![signal.clone()],
                };
            }
        }
    }
}

/// By which signal and how patiently is filled in where the container is known.
fn restart() -> Then {
    Then::Restart {
        signal: String::new(),
        grace: std::time::Duration::ZERO,
    }
}

/// What differs, in a word.
fn changed(had: &ContentState, now: &ContentState) -> Option<&'static str> {
    if differ(&had.fingerprint, &now.fingerprint) {
        return Some("content");
    }
    let (a, b) = (had.file.as_ref()?, now.file.as_ref()?);
    if a.target != b.target {
        Some("target")
    } else if a.mode != b.mode {
        Some("mode")
    } else if (a.uid, a.gid) != (b.uid, b.gid) {
        Some("owner")
    } else {
        None
    }
}
