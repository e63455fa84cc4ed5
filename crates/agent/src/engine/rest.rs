//! At rest: what a pass decides follows from what it is given, so where nothing of that changed since a pass that found all
//! as it is wished for, another one would find the same, until something is due.

use std::sync::Arc;

use jiff::Timestamp;
use model::observed::Observed;

use super::Engine;

/// A pass that had nothing to do, and what it went by.
pub(super) struct Rest {
    /// Of the wish and the ledger.
    revision: u64,
    observed: Arc<Observed>,
    since: Timestamp,
    /// When the clock alone makes a difference.
    until: Option<Timestamp>,
    /// What came before was cleared away.
    tidy: bool,
}

impl Engine {
    /// After a pass that had nothing to do: it need not be made again, if there is nothing to be told either.
    pub(super) fn note_rest(&mut self, now: Timestamp, until: Option<Timestamp>) {
        let converged = self.published.borrow().status.converged;
        self.rest = (converged && self.is_idle()).then(|| Rest {
            revision: self.revision,
            observed: Arc::clone(&self.observed),
            since: now,
            until,
            tidy: false,
        });
    }

    /// Nothing is under way, nothing has failed, and nobody wants to hear what would be done.
    fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.failures.is_empty() && self.plan_requests.is_empty()
    }

    /// Whether a pass now would find what the last one found.
    pub(super) fn is_at_rest(&self, now: Timestamp) -> bool {
        // A clock that was set back makes other times of those that were reckoned with.
        let applies = |rest: &Rest| {
            rest.revision == self.revision
                && Arc::ptr_eq(&rest.observed, &self.observed)
                && now >= rest.since
                && rest.until.is_none_or(|until| now < until)
        };
        self.is_idle() && self.rest.as_ref().is_some_and(applies)
    }

    /// The end of a pass that found what the last one found.
    pub(super) fn rest_on(&mut self) {
        let until = self.rest.as_ref().and_then(|rest| rest.until);
        self.schedule(until, Timestamp::now());
        self.repeats.holds_but_for(|_| false);
        self.publish_again();
        if let Some(rest) = self.rest.as_mut().filter(|rest| !rest.tidy) {
            rest.tidy = true;
            // Nobody waits for that.
            drop(tokio::task::spawn_blocking(detach::heap::trim));
        }
        for answer in self.after_pass.drain(..) {
            answer.send(()).ok(); // a client that has gone away needs no answer
        }
    }
}
