//! `pull = "newer"`: the registry is asked when a container is first made, and again every `update_check`.
//!
//! Asking brings what the registry has by now into the store; that it is another image than the one a container runs
//! is then seen like any other change, and the container is updated by its strategy. A registry that cannot be reached
//! harms nobody: who runs goes on, who is made is made from what is here, and it is tried again ever more seldom.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use model::action::{Action, Noun};
use model::image::ImageSource;
use model::ledger::follows_registry;
use model::name::Name;
use model::plan::{Op, Reason, fingerprint};
use model::spec::{ContainerSpec, RestartSpec};
use model::units::format_duration;

use super::presence::Wish;
use super::{Mutation, Pass, after};

/// After a failure it is asked again within `update_check`, and at the latest after this.
const LONGEST_REST: Duration = Duration::from_secs(600);

/// A question that is asked again and again.
struct Check {
    source: ImageSource,
    /// The shortest of those who want it.
    every: Duration,
    reason: Reason,
}

impl Pass<'_, '_> {
    /// A container of this table is made only once its registry was asked: that is due, and did not fail just now.
    pub(super) fn asks_first(&self, spec: &ContainerSpec) -> bool {
        if !follows_registry(spec) {
            return false;
        }
        let key = spec.image.key();
        let due = self
            .next_check(&key, spec.update_check)
            .is_none_or(|at| at <= self.input.now);
        due && !self.input.failures.contains_key(&Noun::Image(key))
    }

    /// Asks registries whose time has come, and notes when that of the others will.
    pub(super) fn check_images(&mut self) {
        let checks = self.checks();
        self.ledger.checked_at.retain(|key, _| checks.contains_key(key));
        for (key, check) in checks {
            let next = self.next_check(&key, check.every);
            match next.filter(|at| *at > self.input.now) {
                Some(at) => self.wake_by(at),
                None if next.is_some() && self.broken(Mutation::NewerIsForgotten) => {}
                None => self.check_image(key, check),
            }
        }
    }

    fn check_image(&mut self, key: String, check: Check) {
        let noun = Noun::Image(key);
        // One that is not here is loaded by those who need it, and that asks as well.
        let here = self.image(noun.name()).is_some();
        if !here || self.said.contains(&noun) || self.busy(&noun) {
            return;
        }
        let backoff = RestartSpec {
            backoff: Duration::from_secs(1).min(check.every),
            backoff_max: check.every.min(LONGEST_REST),
            ..RestartSpec::default()
        };
        if let Some(blocked) = self.resting(&noun, None, &check.source, &backoff) {
            return blocked.until.into_iter().for_each(|at| self.wake_by(at));
        }
        let loading = self.actions.iter_mut().find(|p| p.action.noun() == noun);
        if let Some(Action::LoadImage { refresh, .. }) = loading.map(|p| &mut p.action) {
            *refresh = true;
            return;
        }
        let action = Action::LoadImage {
            source: check.source,
            refresh: true,
        };
        self.act(Op::Update, action, Vec::new(), vec![check.reason]);
    }

    /// What is to be asked for, by key: of everybody who is wanted and not stopped by hand.
    fn checks(&self) -> BTreeMap<String, Check> {
        let mut checks: BTreeMap<String, Check> = BTreeMap::new();
        for (name, accepted) in self.ledger.accepted() {
            let wanted = !matches!(self.wish(name), Wish::Gone) && !self.ledger.holds.contains_key(name);
            if !wanted || !follows_registry(&accepted.spec) {
                continue;
            }
            let every = accepted.spec.update_check;
            let source = &accepted.spec.image;
            let check = checks.entry(source.key()).or_insert_with(|| Check {
                source: source.clone(),
                every,
                reason: reason(name, every, accepted.origin.key("pull")),
            });
            check.every = check.every.min(every);
        }
        checks
    }

    /// When an image's registry is to be asked again; none: it never was. Up to a tenth later than asked for, by the
    /// image's name: not all of them at the same moment.
    fn next_check(&self, key: &str, every: Duration) -> Option<Timestamp> {
        // A time in the future is a clock that was set back.
        let asked = *self
            .ledger
            .checked_at
            .get(key)
            .filter(|at| **at <= self.input.now)?;
        let hash = fingerprint(&key);
        let part = u16::from_str_radix(&hash[..4], 16).unwrap_or(0);
        let spread = (every / 10).mul_f64(f64::from(part) / 65_536.0);
        Some(after(asked, every.saturating_add(spread)))
    }
}

fn reason(name: &Name, every: Duration, at: model::diagnostic::Location) -> Reason {
    Reason {
        file: Some(at.file).filter(|f| !f.is_empty()),
        line: at.line,
        ..Reason::because(format!(
            "container {name} wants the registry asked every {}",
            format_duration(every)
        ))
    }
}
