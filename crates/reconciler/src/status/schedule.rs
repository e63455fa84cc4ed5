//! What users read of a schedule: the next run, and the latest ones.

use jiff::Timestamp;
use model::action::Noun;
use model::ledger::Accepted;
use model::name::Name;
use model::status::RunStatus;
use model::timetable::Run;
use model::units::format_duration;

use super::View;
use crate::plan::next_due;

impl View<'_> {
    /// It is made, and no run of it is owed.
    pub(super) fn is_ready_for_its_time(&self, name: &Name, accepted: &Accepted) -> bool {
        let noun = Noun::Container(name.clone());
        let table = self.input.ledger.timetables.get(name);
        accepted.spec.schedule.is_some()
            && table.is_some_and(|t| t.due.is_none())
            && self.seen(accepted).is_some()
            && !self.input.in_flight.contains(&noun)
            && !self.plan.waits.iter().any(|w| w.noun == noun && w.error)
    }

    /// When it is begun by its schedule next; none while it is held.
    pub(super) fn next_run(&self, name: &Name, accepted: &Accepted) -> Option<Timestamp> {
        let (ledger, now) = (self.input.ledger, self.input.now);
        if ledger.holds.contains_key(name) {
            return None;
        }
        let table = ledger.timetables.get(name)?;
        // What comes due during a run is skipped.
        let since = if table.due.is_some() {
            now
        } else {
            table.since.min(now)
        };
        let due = next_due(name, &accepted.spec, &self.input.observed.around, since);
        // Why there is none is said as the container's error.
        due.ok().flatten().map(|d| d.at)
    }

    /// The latest one first.
    pub(super) fn last_runs(&self, name: &Name) -> Vec<RunStatus> {
        let table = self.input.ledger.timetables.get(name);
        let runs = table.into_iter().flat_map(|t| t.runs.iter().rev());
        runs.map(status).collect()
    }
}

fn status(run: &Run) -> RunStatus {
    let lasted = run.finished_at.duration_since(run.started_at);
    let lasted = std::time::Duration::try_from(lasted).unwrap_or_default();
    let millis = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
    RunStatus {
        started_at: run.started_at,
        finished_at: run.finished_at,
        exit_code: run.exit_code,
        duration: format_duration(std::time::Duration::from_millis(millis)),
    }
}
