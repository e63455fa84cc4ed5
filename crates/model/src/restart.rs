//! The restart table: what follows the end of a run, as a pure function.
//!
//! | the run ended | `always` | `on-failure` | `no` |
//! | --- | --- | --- | --- |
//! | stopped on request | leave | leave | leave |
//! | restarted by hand | start at once | start at once | start at once |
//! | killed for failed health | start, counted | start, counted | leave |
//! | exit code 0 | start, counted | leave | leave |
//! | any other code, a signal, could not be started | start, counted | start, counted | leave |
//!
//! A counted restart waits: the first after a good run (one of at least `reset_after`; where health is asked, one that
//! was healthy that long without a break) not at all, the second in a row `backoff`, the third twice that, and so on up
//! to `backoff_max`. The first run of all has nothing behind it, so the restart after it is a first one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::spec::{RestartPolicy, RestartSpec};

/// What is remembered from run to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartState {
    /// Counted restarts since the latest good run.
    pub streak: u32,
    /// Counted restarts since the container was created.
    pub restarts: u64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// Somebody asked for it to be stopped for good.
    Stopped,
    /// Somebody asked for it to be ended and begun again.
    Restarted,
    /// It was killed because its health check failed.
    Unhealthy,
    /// By itself; a signal counts as 128 + its number.
    Exited { code: i32 },
    /// The payload could not even be started.
    LaunchFailed,
}

/// How long a run was what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// From its start to its end.
    pub lasted: Duration,
    /// The longest time it was healthy without a break; none: its health was not asked.
    pub healthy: Option<Duration>,
}

impl Ran {
    /// Of a run whose health was not asked.
    pub fn unchecked(lasted: Duration) -> Self {
        Self {
            lasted,
            healthy: None,
        }
    }

    /// How long it did what it is for, as far as is known.
    fn good_for(self) -> Duration {
        self.healthy.unwrap_or(self.lasted)
    }
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Begin another run after this long.
    Start { after: Duration },
    /// No more runs.
    Leave,
}

/// Decides what follows a run that ended so, and what is remembered.
pub fn after_run(state: RestartState, spec: &RestartSpec, end: RunEnd, ran: Ran) -> (RestartState, Next) {
    match end {
        RunEnd::Stopped => (state, Next::Leave),
        RunEnd::Restarted => {
            let state = RestartState { streak: 0, ..state };
            let after = Duration::ZERO;
            (state, Next::Start { after })
        }
        _ if again(spec.policy, end) => counted(state, spec, end, ran),
        _ => (state, Next::Leave),
    }
}

/// Whether the policy has another run follow such an end; a restart by hand is no matter of policy.
pub fn again(policy: RestartPolicy, end: RunEnd) -> bool {
    match (end, policy) {
        (RunEnd::Stopped, _) => false,
        (RunEnd::Restarted, _) | (_, RestartPolicy::Always) => true,
        (_, RestartPolicy::OnFailure) => end != RunEnd::Exited { code: 0 },
        (_, RestartPolicy::No) => false,
    }
}

/// How long to wait before the counted restart that follows `streak` others.
pub fn delay(spec: &RestartSpec, streak: u32) -> Duration {
    let Some(doublings) = streak.checked_sub(1) else {
        return Duration::ZERO;
    };
    // 2^63 of anything but zero is past every backoff_max; a shift past that would only overflow.
    let factor = 1_u128 << doublings.min(63);
    let nanos = spec.backoff.as_nanos().saturating_mul(factor);
    if nanos >= spec.backoff_max.as_nanos() {
        spec.backoff_max
    } else {
        let second = 1_000_000_000;
        // Less than backoff_max, which is itself a duration: both parts fit.
        Duration::new(
            u64::try_from(nanos / second).unwrap_or(u64::MAX),
            u32::try_from(nanos % second).unwrap_or(0),
        )
    }
}

fn counted(state: RestartState, spec: &RestartSpec, end: RunEnd, ran: Ran) -> (RestartState, Next) {
    let good = end != RunEnd::LaunchFailed && ran.good_for() >= spec.reset_after;
    let before = if good { 0 } else { state.streak };
    let next = RestartState {
        streak: before.saturating_add(1),
        restarts: state.restarts.saturating_add(1),
    };
    let after = delay(spec, before);
    (next, Next::Start { after })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Ran = Ran {
        lasted: Duration::from_millis(1),
        healthy: None,
    };

    fn spec(policy: RestartPolicy) -> RestartSpec {
        RestartSpec {
            policy,
            ..RestartSpec::default()
        }
    }

    #[test]
    fn the_table() {
        use RestartPolicy::{Always, No, OnFailure};
        use RunEnd::{Exited, LaunchFailed, Restarted, Stopped, Unhealthy};
        let zero = Exited { code: 0 };
        let one = Exited { code: 1 };
        // (policy, end, another run, counted)
        let cases = [
            (Always, Stopped, false, false),
            (Always, Restarted, true, false),
            (Always, Unhealthy, true, true),
            (Always, zero, true, true),
            (Always, one, true, true),
            (Always, LaunchFailed, true, true),
            (OnFailure, Stopped, false, false),
            (OnFailure, Restarted, true, false),
            (OnFailure, Unhealthy, true, true),
            (OnFailure, zero, false, false),
            (OnFailure, one, true, true),
            (OnFailure, Exited { code: 137 }, true, true),
            (OnFailure, LaunchFailed, true, true),
            (No, Stopped, false, false),
            (No, Restarted, true, false),
            (No, Unhealthy, false, false),
            (No, zero, false, false),
            (No, one, false, false),
            (No, LaunchFailed, false, false),
        ];
        for (policy, end, again, counts) in cases {
            let (state, next) = after_run(RestartState::default(), &spec(policy), end, MS);
            assert_eq!(next != Next::Leave, again, "{policy:?} {end:?}");
            assert_eq!(state.restarts, u64::from(counts), "{policy:?} {end:?}");
        }
    }

    #[test]
    fn the_first_restart_is_immediate_and_then_it_doubles_up_to_the_most() {
        let spec = spec(RestartPolicy::Always);
        let mut state = RestartState::default();
        let mut waits = Vec::new();
        for _ in 0..13 {
            let (after, next) = after_run(state, &spec, RunEnd::Exited { code: 1 }, MS);
            state = after;
            if let Next::Start { after } = next {
                waits.push(after.as_millis());
            }
        }
        let expected = [
            0, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000,
        ];
        assert_eq!(waits, expected);
        assert_eq!(state.restarts, 13);
    }

    #[test]
    fn a_good_run_resets_the_backoff_and_not_the_count() {
        let spec = spec(RestartPolicy::Always);
        let tired = RestartState {
            streak: 9,
            restarts: 40,
        };
        let long = Ran::unchecked(spec.reset_after);
        let (state, next) = after_run(tired, &spec, RunEnd::Exited { code: 1 }, long);
        let after = Duration::ZERO;
        assert_eq!(next, Next::Start { after });
        assert_eq!((state.streak, state.restarts), (1, 41));
        let (_, next) = after_run(tired, &spec, RunEnd::LaunchFailed, long);
        assert_eq!(
            next,
            Next::Start {
                after: delay(&spec, 9)
            },
            "a run that never was is no good one"
        );
    }

    #[test]
    fn where_health_is_asked_a_good_run_is_one_that_was_healthy_long_enough() {
        let spec = spec(RestartPolicy::Always);
        let tired = RestartState {
            streak: 3,
            restarts: 3,
        };
        let short = spec.reset_after - Duration::from_nanos(1);
        for (healthy, streak) in [
            (Some(spec.reset_after), 1),
            (Some(short), 4),
            (Some(Duration::ZERO), 4),
            (None, 1),
        ] {
            let ran = Ran {
                lasted: spec.reset_after * 100,
                healthy,
            };
            for end in [RunEnd::Unhealthy, RunEnd::Exited { code: 0 }] {
                let (state, _) = after_run(tired, &spec, end, ran);
                assert_eq!(state.streak, streak, "{healthy:?} {end:?}");
            }
        }
    }

    #[test]
    fn a_backoff_above_its_most_is_its_most() {
        let spec = RestartSpec {
            backoff: Duration::from_secs(9),
            backoff_max: Duration::from_secs(4),
            ..RestartSpec::default()
        };
        assert_eq!(delay(&spec, 1), Duration::from_secs(4));
        let none = RestartSpec {
            backoff: Duration::ZERO,
            ..spec
        };
        assert_eq!(delay(&none, u32::MAX), Duration::ZERO);
    }

    fn durations() -> impl Strategy<Value = Duration> {
        (0_u64..4_000_000_000).prop_map(Duration::from_millis)
    }

    proptest! {
        #[test]
        fn delays_never_shrink_within_a_streak_nor_pass_the_most(backoff in durations(), most in durations(), streak: u32) {
            let spec = RestartSpec { backoff, backoff_max: most, ..RestartSpec::default() };
            prop_assert!(delay(&spec, streak) <= delay(&spec, streak.saturating_add(1)));
            prop_assert!(delay(&spec, streak) <= most);
        }

        #[test]
        fn a_stop_always_leaves_and_counts_nothing(streak: u32, restarts: u64, ran in durations(), pick in 0_usize..3) {
            let policy = [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::No][pick];
            let state = RestartState { streak, restarts };
            prop_assert_eq!(after_run(state, &spec(policy), RunEnd::Stopped, Ran::unchecked(ran)), (state, Next::Leave));
        }

        #[test]
        fn every_start_but_one_by_hand_is_counted_once(codes in proptest::collection::vec((0_i32..256, 0_u64..20_000), 0..50)) {
            let spec = spec(RestartPolicy::OnFailure);
            let mut state = RestartState::default();
            let mut starts = 0;
            for (code, millis) in codes {
                let (after, next) = after_run(state, &spec, RunEnd::Exited { code }, Ran::unchecked(Duration::from_millis(millis)));
                starts += u64::from(next != Next::Leave);
                prop_assert_eq!(next != Next::Leave, code != 0);
                state = after;
            }
            prop_assert_eq!(state.restarts, starts);
        }
    }
}
