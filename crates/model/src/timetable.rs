//! What is remembered of a container with a schedule: up to when its due times are settled, the run that is owed, and
//! its latest runs.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::name::ContainerId;

/// Runs that are remembered.
pub const REMEMBERED: usize = 10;

/// One container's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timetable {
    /// The schedule and the delay it was made for, by [`crate::plan::fingerprint`]: another one is counted anew.
    pub of: String,
    /// Due times up to here have had their run, or were skipped.
    pub since: Timestamp,
    /// The due time whose run was begun or is to be; none: it waits for the next one.
    pub due: Option<Timestamp>,
    /// The latest runs, the latest one last.
    pub runs: Vec<Run>,
}

/// A run that ended by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub id: ContainerId,
    /// Its number among those of that id.
    pub run_no: u64,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub exit_code: i32,
}

impl Timetable {
    /// One that was looked at for the first time.
    pub fn new(of: String, now: Timestamp) -> Self {
        Self {
            of,
            since: now,
            due: None,
            runs: Vec::new(),
        }
    }

    /// A run ended: what came due meanwhile is skipped. False where that was noted before.
    pub fn note(&mut self, run: Run) -> bool {
        let known = self
            .runs
            .iter()
            .any(|r| (&r.id, r.run_no) == (&run.id, run.run_no));
        if known {
            return false;
        }
        // The time it was due for has had its run, though the clock that ended it may have been set back before that.
        let settled = self
            .due
            .take()
            .map_or(run.finished_at, |due| due.max(run.finished_at));
        self.since = self.since.max(settled);
        self.runs.push(run);
        let surplus = self.runs.len().saturating_sub(REMEMBERED);
        self.runs.drain(..surplus);
        true
    }
}
