//! Calendar expressions (systemd.time(7), "Calendar Events"): when a scheduled container is due.
//!
//! Times are found as systemd finds them: by what clocks on the wall show. A time that a clock set forward leaves out
//! does not come that day; of one that a clock set back shows twice, the first counts.

mod next;
mod parse;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use parse::CalendarError;

/// One expression, read. Two spellings of the same one are equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Calendar {
    /// From Monday on; all seven where none was named.
    weekdays: [bool; 7],
    years: Field,
    months: Field,
    days: Field,
    /// Days are counted back from the month's last one.
    from_the_end: bool,
    hours: Field,
    minutes: Field,
    seconds: Field,
    zone: Zone,
}

/// Whose clock.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Zone {
    Host,
    Utc,
    /// A name of the IANA time zone database.
    Named(String),
}

/// What one part of a date or a time may be; empty: anything.
type Field = Vec<Span>;

/// `5`, `8..18`, `0/15`, `8..18/2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    first: i16,
    /// None: as far as it goes, if there is a step; else the first alone.
    last: Option<i16>,
    step: Option<i16>,
}

impl Calendar {
    /// The time zone it names; none: the host's, or UTC.
    pub fn zone_name(&self) -> Option<&str> {
        match &self.zone {
            Zone::Named(name) => Some(name),
            Zone::Host | Zone::Utc => None,
        }
    }
}

const WEEKDAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// In systemd's normal form.
impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.weekdays.contains(&false) {
            write!(f, "{} ", weekdays(&self.weekdays))?;
        }
        let sign = if self.from_the_end { '~' } else { '-' };
        let (years, months, days) = (part(&self.years), part(&self.months), part(&self.days));
        write!(f, "{years}-{months}{sign}{days} ")?;
        let (hours, minutes, seconds) = (part(&self.hours), part(&self.minutes), part(&self.seconds));
        write!(f, "{hours}:{minutes}:{seconds}")?;
        match &self.zone {
            Zone::Host => Ok(()),
            Zone::Utc => f.write_str(" UTC"),
            Zone::Named(name) => write!(f, " {name}"),
        }
    }
}

impl From<Calendar> for String {
    fn from(calendar: Calendar) -> Self {
        calendar.to_string()
    }
}

fn part(field: &Field) -> String {
    if field.is_empty() {
        return "*".to_owned();
    }
    let spans: Vec<String> = field.iter().map(ToString::to_string).collect();
    spans.join(",")
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}", self.first)?;
        if let Some(last) = self.last {
            write!(f, "..{last:02}")?;
        }
        match self.step {
            Some(step) => write!(f, "/{step}"),
            None => Ok(()),
        }
    }
}

/// Days in a row as a range.
fn weekdays(on: &[bool; 7]) -> String {
    let mut text = Vec::new();
    let mut day = 0;
    while day < 7 {
        let length = on[day..].iter().take_while(|d| **d).count();
        match length {
            0 => {}
            1 | 2 => text.extend(WEEKDAYS[day..day + length].iter().map(|d| (*d).to_owned())),
            _ => text.push(format!("{}..{}", WEEKDAYS[day], WEEKDAYS[day + length - 1])),
        }
        day += length.max(1);
    }
    text.join(",")
}
