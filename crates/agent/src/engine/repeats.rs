//! Noticing that an action is done again and again: somebody undoes it, or it does not do what it says.
//!
//! Such an action counts as failed, so that the planner lets it rest with a growing delay instead of turning in circles.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use model::action::{Action, Noun};
use model::plan::fingerprint;

/// How often an action may succeed within [`WINDOW`], and never be seen to hold, before it counts as undone.
const OFTEN: usize = 5;
const WINDOW: SignedDuration = SignedDuration::from_secs(2);
/// The same where each was seen to hold for a moment: whoever changes it back is only not as quick.
const OFTEN_HELD: usize = 60;
const WINDOW_HELD: SignedDuration = SignedDuration::from_secs(30);
/// After so long without a repetition, it is over.
const OVER: SignedDuration = SignedDuration::from_secs(120);

/// What was done lately, by noun.
#[derive(Debug, Default)]
pub struct Repeats {
    recent: BTreeMap<Noun, Recent>,
}

#[derive(Debug)]
struct Recent {
    action: String,
    at: Vec<Timestamp>,
    /// Of those, how many came since it was last seen to hold.
    in_vain: usize,
    /// How often it was said already.
    told: u32,
}

impl Repeats {
    /// Books a success. Where it is one too many: how many times that was so, and what to say.
    pub fn done(&mut self, action: &Action, now: Timestamp) -> Option<(u32, String)> {
        self.recent
            .retain(|_, r| r.at.last().is_some_and(|&t| now.duration_since(t) < OVER));
        let of = fingerprint(action);
        let noun = action.noun();
        let recent = self.recent.entry(noun.clone()).or_insert_with(|| Recent {
            action: of.clone(),
            at: vec![],
            in_vain: 0,
            told: 0,
        });
        if recent.action != of {
            *recent = Recent {
                action: of,
                at: vec![],
                in_vain: 0,
                told: 0,
            };
        }
        recent
            .at
            .retain(|&t| recent.told > 0 || now.duration_since(t) < WINDOW_HELD);
        recent.at.push(now);
        recent.in_vain += 1;
        let soon = recent.at.iter().rev().take(recent.in_vain);
        recent.in_vain = soon.take_while(|&&t| now.duration_since(t) < WINDOW).count();
        if recent.told == 0 && recent.in_vain < OFTEN && recent.at.len() < OFTEN_HELD {
            return None;
        }
        recent.told += 1;
        let text = format!(
            "{noun} was put right {} times in a row and is not so: something else on this host changes it back",
            recent.at.len()
        );
        Some((recent.told, text))
    }

    /// A look showed that there is nothing to be done but on these: what was done to others holds.
    pub fn holds_but_for(&mut self, wanting: impl Fn(&Noun) -> bool) {
        for (_, recent) in self.recent.iter_mut().filter(|(noun, _)| !wanting(noun)) {
            recent.in_vain = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use model::image::ImageSource;

    use super::*;

    fn load(name: &str) -> Action {
        Action::LoadImage {
            source: ImageSource::Registry {
                reference: name.to_owned(),
            },
            refresh: false,
        }
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_000_000 + millis).unwrap()
    }

    #[test]
    fn a_few_times_are_fine_and_more_count_as_failed_ever_more_often() {
        let mut repeats = Repeats::default();
        for n in 0..4 {
            assert_eq!(repeats.done(&load("a"), at(n)), None);
        }
        assert_eq!(repeats.done(&load("a"), at(5)).unwrap().0, 1);
        assert_eq!(repeats.done(&load("a"), at(1_000)).unwrap().0, 2);
        assert_eq!(repeats.done(&load("a"), at(500_000)), None, "long over");
    }

    #[test]
    fn one_that_held_in_between_counts_only_where_there_is_no_end_to_it() {
        let mut repeats = Repeats::default();
        for n in 0..59 {
            assert_eq!(repeats.done(&load("a"), at(n * 100)), None, "{n}");
            repeats.holds_but_for(|_| false);
        }
        assert_eq!(repeats.done(&load("a"), at(6_000)).unwrap().0, 1);
    }

    #[test]
    fn what_is_still_to_be_done_did_not_hold() {
        let mut repeats = Repeats::default();
        for n in 0..4 {
            assert_eq!(repeats.done(&load("a"), at(n)), None);
            repeats.holds_but_for(|noun| *noun == load("a").noun());
        }
        assert_eq!(repeats.done(&load("a"), at(5)).unwrap().0, 1);
    }

    #[test]
    fn seldom_is_never_too_often_and_other_nouns_do_not_count() {
        let mut repeats = Repeats::default();
        for n in 0..20 {
            assert_eq!(repeats.done(&load("a"), at(n * 1_000)), None);
            assert_eq!(repeats.done(&load(&format!("b{n}")), at(n * 1_000)), None);
        }
    }
}
