//! Schedules: when a container that has one is due, what is owed, and what became of its runs.
//!
//! A due time is written down with the run it owes before that begins, and stays until the run has ended by itself: so
//! a run that was cut off is begun again, and one that ended is not, whoever died meanwhile. What comes due while a run
//! is owed or under way is skipped.

use jiff::{SignedDuration, Timestamp};
use model::action::{Action, Noun};
use model::ledger::{Accepted, ContainerEntry};
use model::name::Name;
use model::plan::{Op, Reason, fingerprint};
use model::spec::ContainerSpec;
use model::surroundings::Surroundings;
use model::timetable::{Run, Timetable};

use super::presence::Wish;
use super::sight::Sight;
use super::{Mutation, Pass, after};

/// A time of a calendar, and when its run is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    /// As the calendar has it.
    time: Timestamp,
    /// With the random part of the delay.
    pub(crate) at: Timestamp,
}

/// The first one of this container after `since`; none where none comes any more, or the table has no schedule. An
/// error where its time zone is not known.
pub(crate) fn next_due(
    name: &Name,
    spec: &ContainerSpec,
    around: &Surroundings,
    since: Timestamp,
) -> Result<Option<Due>, String> {
    let Some(calendar) = &spec.schedule else {
        return Ok(None);
    };
    let zone = match calendar.zone_name() {
        None => None,
        Some(zone) => Some(around.zones.get(zone).ok_or_else(|| {
            format!(
                "its schedule {calendar} names the time zone {zone}, which this host does not know: correct it, or install tzdata"
            )
        })?),
    };
    let next = calendar.next(since, &around.zone, zone);
    Ok(next.map(|time| Due {
        time,
        at: after(time, delay(name, spec, time)),
    }))
}

/// Drawn once for each due time: the same however often and by whomever it is asked.
fn delay(name: &Name, spec: &ContainerSpec, time: Timestamp) -> std::time::Duration {
    let most = spec.randomized_delay.as_millis();
    let drawn = u128::from_str_radix(&fingerprint(&(name, time)), 16).unwrap_or(0);
    let millis = drawn.checked_rem(most.saturating_add(1)).unwrap_or(0);
    std::time::Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

impl<'a> Pass<'a, '_> {
    /// Takes down the runs that ended.
    pub(super) fn note_runs(&mut self) {
        let mut ended = Vec::new();
        for (name, entry) in &self.ledger.containers {
            if entry.current.spec.schedule.is_some()
                && !self.container_busy(name)
                && let Some(run) = self.ended_run(&entry.current)
            {
                ended.push((name.clone(), run));
            }
        }
        for (name, run) in ended {
            if self.broken(Mutation::RunsAreRepeated) {
                continue;
            }
            if let Some(table) = self.ledger.timetables.get_mut(&name) {
                table.note(run);
            }
        }
    }

    fn ended_run(&self, accepted: &Accepted) -> Option<Run> {
        let Sight::Seen(seen) = self.look_at(accepted) else {
            return None;
        };
        let exit = seen.last_exit.as_ref().filter(|_| accepted.finished)?;
        (accepted.finished_run == Some(exit.run_no)).then(|| Run {
            id: accepted.id.clone(),
            run_no: exit.run_no,
            started_at: exit.started_at,
            finished_at: exit.finished_at,
            exit_code: exit.code,
        })
    }

    /// Sees what has come due, and when the next one will.
    pub(super) fn keep_time(&mut self) {
        let mut timetables = std::mem::take(&mut self.ledger.timetables);
        let there = &self.ledger.containers;
        timetables.retain(|name, _| there.get(name).is_some_and(|e| e.current.spec.schedule.is_some()));
        let scheduled: Vec<(Name, ContainerEntry)> = there
            .iter()
            .filter(|(_, entry)| entry.current.spec.schedule.is_some())
            .map(|(name, entry)| (name.clone(), entry.clone()))
            .collect();
        for (name, entry) in scheduled {
            let table = timetables.remove(&name);
            let table = self.kept(&name, &entry, table);
            timetables.insert(name, table);
        }
        self.ledger.timetables = timetables;
    }

    /// The timetable of one container as it is now.
    fn kept(&mut self, name: &Name, entry: &ContainerEntry, table: Option<Timetable>) -> Timetable {
        let (spec, now) = (&entry.current.spec, self.input.now);
        let of = fingerprint(&(&spec.schedule, spec.randomized_delay));
        let mut table = table.unwrap_or_else(|| Timetable::new(of.clone(), now));
        if table.of != of {
            // Another schedule is counted from when it was taken up.
            table.of = of;
            table.since = now;
        }
        // A stamp from the future is a clock that was set back.
        table.since = table.since.min(now);
        if self.ledger.holds.contains_key(name) || matches!(self.wish(name), Wish::Gone) {
            self.give_up(&entry.current, &mut table);
        }
        if table.due.is_none() {
            self.come_due(name, &entry.current, &mut table);
        } else if entry.current.finished {
            // The end that is owed was not noted, so this is the end of an earlier run.
            self.take_back_the_end(name);
        }
        table
    }

    /// Nothing is owed by what is to stay stopped.
    fn give_up(&self, accepted: &Accepted, table: &mut Timetable) {
        if table.due.is_some() && !self.look_at(accepted).may_be_live() {
            table.due = None;
            table.since = self.input.now;
        }
    }

    fn come_due(&mut self, name: &Name, accepted: &Accepted, table: &mut Timetable) {
        let (spec, now) = (&accepted.spec, self.input.now);
        let due = match self.not_missed(name, spec, table) {
            Ok(Some(due)) => due,
            Ok(None) => return,
            Err(why) => return self.error(Noun::Container(name.clone()), why, None),
        };
        if now < due.at {
            return self.wake_by(due.at);
        }
        let idle = !self.ledger.holds.contains_key(name) && !matches!(self.wish(name), Wish::Gone);
        match self.look_at(accepted) {
            // What it does now is seen before anything is decided by it.
            Sight::Unknown(_) => return,
            _ if self.container_busy(name) => return,
            // One whose start was cut off halfway does not run.
            sight if sight.is_up() => {}
            _ if idle => {
                table.due = Some(due.at);
                self.take_back_the_end(name);
            }
            _ => {}
        }
        table.since = now;
        if let Ok(Some(next)) = next_due(name, spec, &self.input.observed.around, now) {
            self.wake_by(next.at);
        }
    }

    fn take_back_the_end(&mut self, name: &Name) {
        if let Some(entry) = self.ledger.containers.get_mut(name) {
            entry.current.finished = false;
        }
    }

    /// The next due time, those left out that passed while nobody was here and are not made up for.
    fn not_missed(
        &self,
        name: &Name,
        spec: &ContainerSpec,
        table: &mut Timetable,
    ) -> Result<Option<Due>, String> {
        let around = &self.input.observed.around;
        let here_since = around.here_since.min(self.input.now);
        let first = next_due(name, spec, around, table.since)?;
        if spec.persistent || first.is_none_or(|due| due.at >= here_since) {
            return Ok(first);
        }
        // Whatever is due from then on has its time after this.
        let delay = SignedDuration::try_from(spec.randomized_delay).unwrap_or(SignedDuration::MAX);
        let from = here_since.checked_sub(delay).unwrap_or(Timestamp::MIN);
        let from = from
            .checked_sub(SignedDuration::from_secs(1))
            .unwrap_or(Timestamp::MIN);
        table.since = table.since.max(from);
        loop {
            match next_due(name, spec, around, table.since)? {
                Some(due) if due.at < here_since => table.since = due.time,
                due => return Ok(due),
            }
        }
    }

    /// It has a schedule, and no run is owed.
    pub(super) fn waits_for_its_time(&self, name: &Name, accepted: &Accepted) -> bool {
        accepted.spec.schedule.is_some()
            && self.ledger.timetables.get(name).is_none_or(|t| t.due.is_none())
            && !self.broken(Mutation::SchedulesAreIgnored)
    }

    /// Does all that can be done before its time comes.
    pub(super) fn make_ready(&mut self, name: &Name, accepted: &Accepted, after: Vec<usize>) {
        let noun = Noun::Container(name.clone());
        if !matches!(self.look_at(accepted), Sight::Absent) {
            return;
        }
        if let Some(blocked) = self.resting_container(&noun, accepted) {
            return self.hold_up(noun, blocked);
        }
        if let Err(blocked) = self.volumes_for(&accepted.spec) {
            return self.hold_up(noun, blocked);
        }
        if let Some(instance) = self.instance(name, accepted) {
            let at = accepted.origin.location();
            let reason = Reason {
                file: Some(at.file).filter(|f| !f.is_empty()),
                line: at.line,
                ..Reason::because("is declared, and prepared for its schedule")
            };
            self.act(
                Op::Create,
                Action::PrepareContainer { instance },
                after,
                vec![reason],
            );
        }
    }
}
