//! Calendar expressions against what `systemd-analyze calendar` of systemd 252 says of them (calendar/systemd.txt, one
//! a line: expression, its normal form, a time, the three that follow). Left out: expressions like `*:0/7:30` from
//! the last second of an hour, of which systemd 252 passes the first one by.
#![allow(clippy::unwrap_used)]

use jiff::Timestamp;
use jiff::tz::TimeZone;
use model::calendar::{Calendar, CalendarError};

fn zone(name: Option<&str>) -> TimeZone {
    let rule = match name {
        None => return TimeZone::UTC,
        Some("Europe/Berlin") => "CET-1CEST,M3.5.0,M10.5.0/3",
        Some("America/New_York") => "EST5EDT,M3.2.0,M11.1.0",
        Some("America/Santiago") => "<-04>4<-03>,M9.1.6/24,M4.1.6/24",
        Some("Australia/Lord_Howe") => "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0",
        Some(other) => panic!("no rule for {other}"),
    };
    TimeZone::posix(rule).unwrap()
}

fn three(calendar: &Calendar, from: Timestamp) -> String {
    let zone = zone(calendar.zone_name());
    let mut times = Vec::new();
    let mut at = from;
    while times.len() < 3
        && let Some(next) = calendar.next(at, &TimeZone::UTC, Some(&zone))
    {
        times.push(next.to_string());
        at = next;
    }
    if times.is_empty() {
        "never".to_owned()
    } else {
        times.join(" ")
    }
}

#[test]
fn it_is_what_systemd_says() {
    let table = include_str!("calendar/systemd.txt");
    let table = std::env::var("WHARF_CALENDAR")
        .map_or(table.to_owned(), |path| std::fs::read_to_string(path).unwrap());
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for line in table.lines() {
        let [text, normal, from, times] = line.split(" | ").collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let calendar: Calendar = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        let found = three(&calendar, from.parse().unwrap());
        if found != times {
            wrong.push(format!("{text} from {from}: {found}, not {times}"));
        }
        let again: Calendar = normal.parse().unwrap_or_else(|e| panic!("{normal}: {e}"));
        let own: Calendar = calendar.to_string().parse().unwrap();
        if again != calendar || own != calendar {
            wrong.push(format!("{text} is {calendar}, not {normal}"));
        }
        checked += 1;
    }
    assert!(checked > 100, "only {checked} lines");
    assert!(
        wrong.is_empty(),
        "{} of {checked}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn equal_ones_are_equal_however_they_are_written() {
    for (a, b) in [
        ("daily", "00:00"),
        ("weekly", "monday"),
        ("Mon..Fri 3:0", "Mon,Tue,Wed-Fri *-*-* 03:00:00"),
        ("*-*-15,1", "*-*-01,15 00:00"),
        ("semiannually", "*-1,7-1"),
        ("12:00 utc", "12:00 UTC"),
    ] {
        let (left, right): (Calendar, Calendar) = (a.parse().unwrap(), b.parse().unwrap());
        assert_eq!(left, right, "{a} and {b}");
        let text = serde_json::to_string(&left).unwrap();
        assert_eq!(serde_json::from_str::<Calendar>(&text).unwrap(), left, "{text}");
    }
    assert_ne!(
        "daily".parse::<Calendar>().unwrap(),
        "daily UTC".parse::<Calendar>().unwrap()
    );
}

#[test]
fn the_hosts_clock_counts_where_no_zone_is_named() {
    let calendar: Calendar = "03:00".parse().unwrap();
    let berlin = zone(Some("Europe/Berlin"));
    let next = calendar.next("2025-07-01T00:00:00Z".parse().unwrap(), &berlin, None);
    assert_eq!(next.unwrap().to_string(), "2025-07-01T01:00:00Z");
    let named: Calendar = "03:00 Europe/Berlin".parse().unwrap();
    assert_eq!(named.zone_name(), Some("Europe/Berlin"));
    let unknown = named.next(Timestamp::UNIX_EPOCH, &berlin, None);
    assert_eq!(unknown, None, "a zone nobody knows has no times");
}

#[test]
fn what_is_wrong_is_said() {
    type E = CalendarError;
    type Case = (&'static str, fn(&E) -> bool);
    let cases: [Case; 24] = [
        ("", |e| matches!(e, E::Empty)),
        ("dayly", |e| matches!(e, E::Part(_))),
        ("03", |e| matches!(e, E::Part(_))),
        ("*", |e| matches!(e, E::Part(_))),
        ("Mon 05", |e| matches!(e, E::Part(_))),
        ("25:00", |e| matches!(e, E::Range { what: "hour", .. })),
        ("*-13-01", |e| matches!(e, E::Range { what: "month", .. })),
        ("*-*-32", |e| matches!(e, E::Range { .. })),
        ("*-*-0", |e| matches!(e, E::Range { .. })),
        ("1969-01-01", |e| matches!(e, E::Range { what: "year", .. })),
        ("99999999-01-01", |e| matches!(e, E::Range { .. })),
        ("05:00:00.5", |e| matches!(e, E::Fraction(_))),
        ("Fri..Mon", |e| matches!(e, E::Backwards(_))),
        ("*-*-5..1", |e| matches!(e, E::Backwards(_))),
        ("*-*-*/2", |e| matches!(e, E::Repetition(_))),
        ("*-*-1/0", |e| matches!(e, E::Repetition(_))),
        ("*-*-1/40", |e| matches!(e, E::Repetition(_))),
        ("12, 14:00", |e| matches!(e, E::Part(_) | E::Value(_))),
        ("Mon,,Tue", |e| matches!(e, E::Part(_))),
        ("03:00 Mon", |e| matches!(e, E::Part(_))),
        ("03:00 2025-01-01", |e| matches!(e, E::Order(_))),
        ("03:00 04:00", |e| matches!(e, E::Twice(_))),
        ("UTC", |e| matches!(e, E::Part(_))),
        ("03:00 Europe/../../etc/passwd", |e| matches!(e, E::Part(_))),
    ];
    for (text, expected) in cases {
        let error = text.parse::<Calendar>().unwrap_err();
        assert!(expected(&error), "{text:?}: {error:?}");
    }
}

#[test]
fn nothing_makes_it_panic_or_search_for_ever() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let alphabet: Vec<char> = "*-~:/.,0123456789MonFriUTC dailyEurope/Berlin".chars().collect();
    let (mut read, from) = (0, "2025-10-26T00:45:00Z".parse().unwrap());
    for _ in 0..100_000 {
        let mut text = String::new();
        for _ in 0..1 + seed % 14 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            text.push(alphabet[(seed >> 33) as usize % alphabet.len()]);
        }
        if let Ok(calendar) = text.parse::<Calendar>() {
            read += 1;
            let zone = zone(Some("Europe/Berlin"));
            let next = calendar.next(from, &zone, Some(&zone));
            assert!(next.is_none_or(|n| n > from), "{text}");
            assert_eq!(
                calendar.to_string().parse::<Calendar>().as_ref(),
                Ok(&calendar),
                "{text}"
            );
        }
    }
    assert!(read > 2, "{read}");
}
