//! The search for the next time.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};

use super::{Calendar, Field, Zone};

/// The last year systemd looks at.
const LAST_YEAR: i16 = 2199;

impl Calendar {
    /// The first time after `after`, by the clock of the zone it names, else of `host`; `zone`: that of its name. None
    /// where none comes any more.
    pub fn next(&self, after: Timestamp, host: &TimeZone, zone: Option<&TimeZone>) -> Option<Timestamp> {
        let utc = TimeZone::UTC;
        let zone = match &self.zone {
            Zone::Host => host,
            Zone::Utc => &utc,
            Zone::Named(_) => zone?,
        };
        let from = Timestamp::from_second(after.as_second().checked_add(1)?).ok()?;
        let mut civil = zone.to_datetime(from);
        loop {
            civil = self.on_the_wall(civil)?;
            if let Some(found) = at(zone, civil).find(|t| *t > after) {
                return Some(found);
            }
            civil = civil.checked_add(jiff::SignedDuration::from_secs(1)).ok()?;
        }
    }

    /// The first date and time not before this one.
    fn on_the_wall(&self, from: DateTime) -> Option<DateTime> {
        let first = from.date();
        let mut date = first;
        loop {
            date = self.date(date)?;
            let earliest = if date == first { from.time() } else { Time::MIN };
            if let Some(time) = self.time(earliest) {
                return Some(DateTime::from_parts(date, time));
            }
            date = date.tomorrow().ok()?;
        }
    }

    /// The first day not before this one.
    fn date(&self, from: Date) -> Option<Date> {
        let (mut year, mut month, mut day) = (from.year(), from.month(), from.day());
        while year <= LAST_YEAR {
            if allows(&self.years, year) {
                while month <= 12 {
                    if allows(&self.months, month.into())
                        && let Some(found) = self.day(Date::new(year, month, day).ok()?)
                    {
                        return Some(found);
                    }
                    (month, day) = (month + 1, 1);
                }
            }
            (year, month, day) = (year + 1, 1, 1);
        }
        None
    }

    /// The first day not before this one, within its month.
    fn day(&self, from: Date) -> Option<Date> {
        let length = from.days_in_month();
        (from.day()..=length).find_map(|day| {
            let counted = if self.from_the_end { length - day + 1 } else { day };
            let date = Date::new(from.year(), from.month(), day).ok()?;
            let weekday = date.weekday().to_monday_zero_offset();
            let on = usize::try_from(weekday).is_ok_and(|w| self.weekdays[w]);
            let fits = if self.from_the_end {
                from_the_end(&self.days, i16::from(counted), i16::from(day), length.into())
            } else {
                allows(&self.days, counted.into())
            };
            (on && fits).then_some(date)
        })
    }

    /// The first time of a day not before this one.
    fn time(&self, from: Time) -> Option<Time> {
        let (hour, minute, second) = (from.hour(), from.minute(), from.second());
        for h in hour..24 {
            if !allows(&self.hours, h.into()) {
                continue;
            }
            let minute = if h == hour { minute } else { 0 };
            for m in minute..60 {
                if !allows(&self.minutes, m.into()) {
                    continue;
                }
                let second = if (h, m) == (hour, from.minute()) {
                    second
                } else {
                    0
                };
                if let Some(s) = (second..60).find(|s| allows(&self.seconds, (*s).into())) {
                    return Time::new(h, m, s, 0).ok();
                }
            }
        }
        None
    }
}

fn allows(field: &Field, value: i16) -> bool {
    let fits = |span: &super::Span| match (span.last, span.step) {
        (None, None) => value == span.first,
        (last, step) => {
            let within = value >= span.first && last.is_none_or(|last| value <= last);
            within && (value - span.first) % step.unwrap_or(1) == 0
        }
    };
    field.is_empty() || field.iter().any(fits)
}

/// The same for days counted from a month's end, where a repetition goes on towards it, as systemd has it: `~07/1` are
/// the last seven days. `counted` is 1 for the last day, `day` the day's own number.
fn from_the_end(field: &Field, counted: i16, day: i16, length: i16) -> bool {
    field.iter().any(|span| match (span.last, span.step) {
        (None, None) => counted == span.first,
        (None, Some(step)) => counted <= span.first && (span.first - counted) % step == 0,
        (Some(last), step) => {
            // Counted forward from the range's first day.
            let begin = (length - last + 1).max(1);
            let within = (span.first..=last).contains(&counted);
            within && (day - begin) % step.unwrap_or(1) == 0
        }
    })
}

/// When a clock shows this: never, once or twice.
fn at(zone: &TimeZone, civil: DateTime) -> impl Iterator<Item = Timestamp> {
    let offsets = match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } => [Some(offset), None],
        AmbiguousOffset::Gap { .. } => [None, None],
        AmbiguousOffset::Fold { before, after } => [Some(before), Some(after)],
    };
    offsets
        .into_iter()
        .flatten()
        .filter_map(move |offset| offset.to_timestamp(civil).ok())
}
