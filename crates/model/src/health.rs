//! Health: what a container's probes make of it, as pure functions.
//!
//! | | next probe | a failure counts |
//! | --- | --- | --- |
//! | before the first success, within `start_period` | `start_interval` after the last | not |
//! | before the first success, later | `start_interval` after the last | once an `interval` |
//! | after the first success | `interval` after the last | each |
//!
//! The first probe of a run is made at once. One success makes it healthy, `retries` counted failures in a row make it
//! unhealthy. Every run begins anew with "starting".

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::image::{Image, ImageHealthcheck};
use crate::spec::{Healthcheck, HealthcheckChoice, OnFailure, Probe};

/// Docker's defaults (Dockerfile reference, HEALTHCHECK).
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(1);
const RETRIES: u32 = 3;

/// Bytes of a probe's output that are kept.
pub const OUTPUT: usize = 4096;

/// What the probes say of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Starting,
    Healthy,
    Unhealthy,
}

impl Verdict {
    /// `starting`, `healthy`, `unhealthy`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What is known of one run's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthState {
    /// The run it is about.
    pub run_no: u64,
    pub verdict: Verdict,
    /// Since when that is the verdict.
    pub since: Timestamp,
    /// There was a success in this run.
    pub succeeded: bool,
    /// Counted failures in a row.
    pub failures: u32,
    /// When a failure was counted last.
    pub counted_at: Option<Timestamp>,
    /// When the latest probe ended.
    pub probed_at: Option<Timestamp>,
    /// What the latest failed probe said, at most [`OUTPUT`] bytes; empty after a success.
    pub output: String,
}

/// How one probe ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeResult {
    pub healthy: bool,
    /// What it printed, or why it failed.
    pub output: String,
    pub ended_at: Timestamp,
}

/// The check that applies: the table's, else the image's; none where there is none or it is turned off.
pub fn check(choice: &HealthcheckChoice, image: Option<&Image>) -> Option<Healthcheck> {
    match choice {
        HealthcheckChoice::Off => None,
        HealthcheckChoice::Declared(check) => Some(check.clone()),
        HealthcheckChoice::Image => image?.config.healthcheck.as_ref().and_then(of_image),
    }
}

fn of_image(check: &ImageHealthcheck) -> Option<Healthcheck> {
    let (kind, words) = check.test.split_first()?;
    let probe = match kind.as_str() {
        "CMD" if !words.is_empty() => Probe::Exec(words.to_vec()),
        "CMD-SHELL" => Probe::Shell(words.first()?.clone()),
        _ => return None,
    };
    let or = |value: Duration, default| if value.is_zero() { default } else { value };
    let interval = or(check.interval, INTERVAL);
    Some(Healthcheck {
        probe,
        interval,
        timeout: or(check.timeout, TIMEOUT),
        retries: if check.retries == 0 {
            RETRIES
        } else {
            check.retries
        },
        start_period: check.start_period,
        start_interval: or(check.start_interval, START_INTERVAL.min(interval)),
        on_failure: OnFailure::Restart,
    })
}

impl HealthState {
    /// Nothing known of a run yet.
    pub fn new(run_no: u64, now: Timestamp) -> Self {
        Self {
            run_no,
            verdict: Verdict::Starting,
            since: now,
            succeeded: false,
            failures: 0,
            counted_at: None,
            probed_at: None,
            output: String::new(),
        }
    }

    /// When the next probe is due; none: at once.
    pub fn next_probe(&self, check: &Healthcheck) -> Option<Timestamp> {
        let wait = if self.succeeded {
            check.interval
        } else {
            check.start_interval
        };
        Some(plus(self.probed_at?, wait))
    }

    /// What is known after a probe of a run that began at `started_at`.
    pub fn after_probe(&self, check: &Healthcheck, started_at: Timestamp, result: &ProbeResult) -> Self {
        let at = result.ended_at;
        let mut next = Self {
            probed_at: Some(at),
            output: String::new(),
            ..self.clone()
        };
        if result.healthy {
            next.succeeded = true;
            next.failures = 0;
            next.counted_at = None;
            next.become_(Verdict::Healthy, at);
            return next;
        }
        next.output = clipped(&result.output);
        if self.counts(check, started_at, at) {
            next.failures = self.failures.saturating_add(1);
            next.counted_at = Some(at);
        }
        if next.failures >= check.retries {
            next.become_(Verdict::Unhealthy, at);
        }
        next
    }

    fn counts(&self, check: &Healthcheck, started_at: Timestamp, at: Timestamp) -> bool {
        if self.succeeded {
            return true;
        }
        let started = at >= plus(started_at, check.start_period);
        started
            && self
                .counted_at
                .is_none_or(|before| at >= plus(before, check.interval))
    }

    fn become_(&mut self, verdict: Verdict, at: Timestamp) {
        if self.verdict != verdict {
            self.verdict = verdict;
            self.since = at;
        }
    }
}

fn plus(at: Timestamp, span: Duration) -> Timestamp {
    let span = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
    at.checked_add(span).unwrap_or(Timestamp::MAX)
}

fn clipped(text: &str) -> String {
    let mut end = text.len().min(OUTPUT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn declared() -> Healthcheck {
        Healthcheck {
            probe: Probe::Tcp(80),
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
            retries: 3,
            start_period: Duration::from_secs(10),
            start_interval: Duration::from_secs(1),
            on_failure: OnFailure::Restart,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn probe(state: &HealthState, second: i64, healthy: bool) -> HealthState {
        let result = ProbeResult {
            healthy,
            output: "no".to_owned(),
            ended_at: at(second),
        };
        state.after_probe(&declared(), at(0), &result)
    }

    #[test]
    fn one_success_is_healthy_and_ends_the_start() {
        let new = HealthState::new(1, at(0));
        assert_eq!(new.next_probe(&declared()), None);
        let failed = probe(&new, 1, false);
        assert_eq!((failed.verdict, failed.failures), (Verdict::Starting, 0));
        assert_eq!(failed.next_probe(&declared()), Some(at(2)));
        let well = probe(&failed, 2, true);
        assert_eq!((well.verdict, well.since), (Verdict::Healthy, at(2)));
        assert_eq!(well.next_probe(&declared()), Some(at(32)));
        // Within the start period still, but it has started.
        let one = probe(&well, 3, false);
        assert_eq!((one.verdict, one.failures), (Verdict::Healthy, 1));
        let ill = probe(&probe(&one, 4, false), 5, false);
        assert_eq!(
            (ill.verdict, ill.since, ill.failures),
            (Verdict::Unhealthy, at(5), 3)
        );
        assert_eq!(ill.output, "no");
        let again = probe(&ill, 6, true);
        assert_eq!(
            (again.verdict, again.failures, again.output.as_str()),
            (Verdict::Healthy, 0, "")
        );
    }

    #[test]
    fn before_the_first_success_failures_count_once_an_interval() {
        let mut state = HealthState::new(1, at(0));
        let mut ill_at = None;
        for second in 1..200 {
            state = probe(&state, second, false);
            if state.verdict == Verdict::Unhealthy {
                ill_at = ill_at.or(Some(second));
            }
        }
        // Counted at 10, 40 and 70.
        assert_eq!(ill_at, Some(70));
    }

    #[test]
    fn an_images_check_has_dockers_defaults() {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut check = ImageHealthcheck {
            test: words(&["CMD", "curl", "-f", "x"]),
            interval: Duration::ZERO,
            timeout: Duration::ZERO,
            start_period: Duration::ZERO,
            start_interval: Duration::ZERO,
            retries: 0,
        };
        let found = of_image(&check).unwrap();
        assert_eq!(found.probe, Probe::Exec(words(&["curl", "-f", "x"])));
        assert_eq!(
            (found.interval, found.timeout, found.retries),
            (INTERVAL, TIMEOUT, 3)
        );
        assert_eq!(found.start_interval, Duration::from_secs(1));
        check.test = words(&["CMD-SHELL", "exit 0"]);
        check.interval = Duration::from_millis(200);
        let found = of_image(&check).unwrap();
        assert_eq!(found.probe, Probe::Shell("exit 0".to_owned()));
        assert_eq!(found.start_interval, Duration::from_millis(200));
        for off in [&["NONE"][..], &["CMD"], &[], &["CMD-SHELL"]] {
            check.test = words(off);
            assert_eq!(of_image(&check), None, "{off:?}");
        }
    }

    #[test]
    fn output_is_cut_between_characters() {
        let text = "ä".repeat(OUTPUT);
        assert_eq!(clipped(&text).len(), OUTPUT);
        assert_eq!(clipped(&format!("x{text}")).len(), OUTPUT - 1);
    }

    proptest! {
        #[test]
        fn the_latest_success_always_makes_it_healthy_and_failures_never_do(results in proptest::collection::vec(any::<bool>(), 1..40)) {
            let mut state = HealthState::new(1, at(0));
            for (second, healthy) in (0_i64..).zip(&results) {
                let before = state.verdict;
                state = probe(&state, second, *healthy);
                prop_assert_eq!(state.verdict == Verdict::Healthy, *healthy || (before == Verdict::Healthy && state.failures < 3));
            }
        }
    }
}
