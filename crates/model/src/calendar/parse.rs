//! From text. What systemd takes is taken, but for fractions of seconds and times since 1970 (`@…`).

use std::str::FromStr;

use super::{Calendar, Field, Span, WEEKDAYS, Zone};

/// Why a text is no calendar expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CalendarError {
    #[error("an empty calendar expression says no time: write \"daily\", or \"Mon..Fri 03:00\"")]
    Empty,
    #[error(
        "{0:?} in a calendar expression is no weekday, date, time or time zone: write WEEKDAYS YEAR-MONTH-DAY HOUR:MINUTE:SECOND ZONE, of which each part may be left out, as in \"Mon..Fri 03:00\""
    )]
    Part(String),
    #[error("{text:?} is no {what}: it goes from {min} to {max}")]
    Range {
        what: &'static str,
        text: String,
        min: i16,
        max: i16,
    },
    #[error("{0:?} is no number, list (1,2), range (1..5), or repetition (0/2)")]
    Value(String),
    #[error("{0:?} goes backwards: write the smaller one first, or two ranges with a comma")]
    Backwards(String),
    #[error("{0:?} repeats nothing: say where it begins, as in \"0/2\", with a step of at least 1")]
    Repetition(String),
    #[error("{0:?} has fractions of a second; whole ones are as fine as a schedule is")]
    Fraction(String),
    #[error("the time stands before the date in {0:?}: write the date first")]
    Order(String),
    #[error("{0:?} has a part twice")]
    Twice(String),
}

use CalendarError as E;

/// `year`, …, with what they may be.
struct Unit(&'static str, i16, i16);

const YEAR: Unit = Unit("year", 1970, 2199);
const MONTH: Unit = Unit("month", 1, 12);
const DAY: Unit = Unit("day of a month", 1, 31);
const HOUR: Unit = Unit("hour", 0, 23);
const MINUTE: Unit = Unit("minute", 0, 59);
const SECOND: Unit = Unit("second", 0, 59);

/// What a word stands for (systemd.time(7)).
const WORDS: [(&str, &str); 12] = [
    ("minutely", "*-*-* *:*:00"),
    ("hourly", "*-*-* *:00:00"),
    ("daily", "*-*-* 00:00:00"),
    ("weekly", "Mon *-*-* 00:00:00"),
    ("monthly", "*-*-01 00:00:00"),
    ("quarterly", "*-01,04,07,10-01 00:00:00"),
    ("semiannually", "*-01,07-01 00:00:00"),
    ("semi-annually", "*-01,07-01 00:00:00"),
    ("biannually", "*-01,07-01 00:00:00"),
    ("bi-annually", "*-01,07-01 00:00:00"),
    ("yearly", "*-01-01 00:00:00"),
    ("annually", "*-01-01 00:00:00"),
];

impl TryFrom<String> for Calendar {
    type Error = E;

    fn try_from(text: String) -> Result<Self, E> {
        text.parse()
    }
}

impl FromStr for Calendar {
    type Err = E;

    fn from_str(text: &str) -> Result<Self, E> {
        let mut parts: Vec<&str> = text.split_ascii_whitespace().collect();
        let first = *parts.first().ok_or(E::Empty)?;
        let zone = match parts.last().and_then(|last| zone(last)) {
            Some(zone) => {
                parts.pop();
                zone
            }
            None => Zone::Host,
        };
        if let Some((_, meaning)) = WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(first)) {
            return match parts.len() {
                1 => Ok(Self {
                    zone,
                    ..meaning.parse()?
                }),
                _ => Err(E::Part(parts[1..].join(" "))),
            };
        }
        if parts.is_empty() {
            return Err(E::Part(text.to_owned()));
        }
        read(text, &parts, zone)
    }
}

fn read(text: &str, parts: &[&str], zone: Zone) -> Result<Calendar, E> {
    let (mut days, mut date, mut time) = (None, None, None);
    for part in parts {
        let twice = if part.contains(':') {
            time.replace(read_time(part)?).is_some()
        } else if part.starts_with(|c: char| c.is_ascii_alphabetic()) {
            if date.is_some() || time.is_some() {
                return Err(E::Part((*part).to_owned()));
            }
            days.replace(read_weekdays(part)?).is_some()
        } else if part.contains(['-', '~']) {
            if time.is_some() {
                return Err(E::Order(text.to_owned()));
            }
            date.replace(read_date(part)?).is_some()
        } else {
            return Err(E::Part((*part).to_owned()));
        };
        if twice {
            return Err(E::Twice(text.to_owned()));
        }
    }
    let (years, months, days_of_month, from_the_end) = date.unwrap_or_default();
    let midnight = || vec![single(0)];
    let (hours, minutes, seconds) = time.unwrap_or_else(|| (midnight(), midnight(), midnight()));
    Ok(Calendar {
        weekdays: days.unwrap_or([true; 7]),
        years,
        months,
        from_the_end: from_the_end && !days_of_month.is_empty(),
        days: days_of_month,
        hours,
        minutes,
        seconds,
        zone,
    })
}

/// A last word that names a zone: `UTC`, `Europe/Berlin`, `CET`. Weekdays and the words above are none.
fn zone(text: &str) -> Option<Zone> {
    if text.eq_ignore_ascii_case("UTC") {
        return Some(Zone::Utc);
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '+' | '-');
    let begins = text.starts_with(|c: char| c.is_ascii_uppercase());
    // Parts of a path, each of which has to begin with a letter: nobody gets out of the database.
    let mut names = text.split('/');
    let named = names.all(|n| n.starts_with(|c: char| c.is_ascii_alphabetic()));
    let other = read_weekdays(text).is_ok() || WORDS.iter().any(|(word, _)| word.eq_ignore_ascii_case(text));
    let in_folder = text.contains('/');
    let short = text.len() >= 3 && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    (begins && named && text.chars().all(plain) && !other && (in_folder || short))
        .then(|| Zone::Named(text.to_owned()))
}

fn read_weekdays(text: &str) -> Result<[bool; 7], E> {
    let mut on = [false; 7];
    for item in text.trim_end_matches(',').split(',') {
        let (first, last) = match item.split_once("..").or_else(|| item.split_once('-')) {
            Some((first, last)) => (weekday(first, text)?, weekday(last, text)?),
            None => (weekday(item, text)?, weekday(item, text)?),
        };
        if first > last {
            return Err(E::Backwards(item.to_owned()));
        }
        on[first..=last].fill(true);
    }
    Ok(on)
}

/// Its number from Monday on: `Mon`, `monday`.
fn weekday(name: &str, whole: &str) -> Result<usize, E> {
    const LONG: [&str; 7] = [
        "Monday",
        "Tuesday",
        "Wednesday",
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
    ];
    let mut all = WEEKDAYS.iter().zip(LONG);
    all.position(|(short, long)| short.eq_ignore_ascii_case(name) || long.eq_ignore_ascii_case(name))
        .ok_or_else(|| E::Part(whole.to_owned()))
}

/// `YEAR-MONTH-DAY`, `MONTH-DAY`; `~` before days counted from the month's end.
fn read_date(text: &str) -> Result<(Field, Field, Field, bool), E> {
    let bad = || E::Part(text.to_owned());
    let (rest, day, from_the_end) = match text.split_once('~') {
        Some((rest, day)) => (rest, day, true),
        None => {
            let (rest, day) = text.rsplit_once('-').ok_or_else(bad)?;
            (rest, day, false)
        }
    };
    let (year, month) = rest.split_once('-').unwrap_or(("*", rest));
    if month.contains('-') || day.contains(['-', '~']) {
        return Err(bad());
    }
    let days = field(day, &DAY)?;
    Ok((field(year, &YEAR)?, field(month, &MONTH)?, days, from_the_end))
}

/// `HOUR:MINUTE` or `HOUR:MINUTE:SECOND`.
fn read_time(text: &str) -> Result<(Field, Field, Field), E> {
    let parts: Vec<&str> = text.split(':').collect();
    let (hour, minute, second) = match parts[..] {
        [hour, minute] => (hour, minute, "0"),
        [hour, minute, second] => (hour, minute, second),
        _ => return Err(E::Part(text.to_owned())),
    };
    if second.replace("..", "").contains('.') {
        return Err(E::Fraction(text.to_owned()));
    }
    Ok((
        field(hour, &HOUR)?,
        field(minute, &MINUTE)?,
        field(second, &SECOND)?,
    ))
}

/// A list, sorted and without repetitions, so that equal ones are equal.
fn field(text: &str, unit: &Unit) -> Result<Field, E> {
    if text == "*" {
        return Ok(Field::new());
    }
    let spans: Result<Field, E> = text.split(',').map(|item| span(item, unit)).collect();
    let mut spans = spans?;
    spans.sort_unstable();
    spans.dedup();
    Ok(spans)
}

fn single(value: i16) -> Span {
    Span {
        first: value,
        last: None,
        step: None,
    }
}

fn span(text: &str, unit: &Unit) -> Result<Span, E> {
    let Unit(_, _, max) = *unit;
    let (range, step) = match text.split_once('/') {
        None => (text, None),
        Some((range, step)) => {
            let repeats = || E::Repetition(text.to_owned());
            let step: i16 = digits(step).ok_or_else(repeats)?;
            if step == 0 || range == "*" {
                return Err(repeats());
            }
            (range, Some(step))
        }
    };
    let (first, last) = match range.split_once("..") {
        Some((first, last)) => (value(first, unit)?, Some(value(last, unit)?)),
        None => (value(range, unit)?, None),
    };
    if last.is_some_and(|last| last < first) {
        return Err(E::Backwards(text.to_owned()));
    }
    if step.is_some_and(|s| last.is_none() && first.checked_add(s).is_none_or(|next| next > max)) {
        return Err(E::Repetition(text.to_owned()));
    }
    // A range ends with the last one that it has, and each of a plain one counts.
    let last = last.map(|last| last - (last - first) % step.unwrap_or(1));
    let last = last.filter(|last| *last != first);
    let goes_on = last.is_some() || !range.contains("..");
    Ok(Span {
        first,
        last,
        step: step.filter(|s| goes_on && !(last.is_some() && *s == 1)),
    })
}

fn value(text: &str, unit: &Unit) -> Result<i16, E> {
    let Unit(what, min, max) = *unit;
    let mut value: i16 = digits(text).ok_or_else(|| E::Value(text.to_owned()))?;
    // Two digits of a year, as systemd reads them.
    if min == YEAR.1 && text.len() <= 2 {
        value += if value < 70 { 2000 } else { 1900 };
    }
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        let text = text.to_owned();
        Err(E::Range { what, text, min, max })
    }
}

fn digits(text: &str) -> Option<i16> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // More digits than any of them has: out of range, which is then said.
    plain.then(|| text.parse().unwrap_or(i16::MAX))
}
