//! Durations (`100ms`, `1h30m`) and sizes (`64K`, `2G`) as the file format writes them.

use std::time::Duration;

/// Why a text is no duration or size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    #[error("{0:?} is not a duration: write numbers with units ms, s, m, h or d, as in \"10s\" or \"1h30m\"")]
    Duration(String),
    #[error(
        "{0:?} is not a size: write a number of bytes or one with K, M, G or T (powers of 1024), as in \"256M\""
    )]
    Size(String),
    #[error("{0:?} is too large")]
    TooLarge(String),
}

/// Reads a duration: one or more whole numbers, each with a unit (`ms`, `s`, `m`, `h`, `d`).
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let bad = || UnitError::Duration(text.to_owned());
    let large = || UnitError::TooLarge(text.to_owned());
    let mut total = Duration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let (digits, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?);
        if digits.is_empty() {
            return Err(bad());
        }
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        let value: u64 = digits.parse().map_err(|_| large())?;
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        let part = Duration::from_millis(value.checked_mul(millis).ok_or_else(large)?);
        total = total.checked_add(part).ok_or_else(large)?;
        rest = after;
    }
    // A century is more than anybody waits, and keeps every sum with a date in range.
    if total > Duration::from_secs(100 * 366 * 86_400) {
        Err(large())
    } else {
        Ok(total)
    }
}

/// Writes a duration the shortest way [`parse_duration`] reads back.
pub fn format_duration(duration: Duration) -> String {
    let mut millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, size) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ] {
        if millis >= size {
            text.push_str(&format!("{}{unit}", millis / size));
            millis %= size;
        }
    }
    text
}

/// Reads a size in bytes: a whole number, with `K`, `M`, `G` or `T` for powers of 1024.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let bad = || UnitError::Size(text.to_owned());
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let shift = match unit {
        "" | "B" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        _ => return Err(bad()),
    };
    if digits.is_empty() {
        return Err(bad());
    }
    let large = || UnitError::TooLarge(text.to_owned());
    let value: u64 = digits.parse().map_err(|_| large())?;
    value
        .checked_mul(1 << shift)
        .filter(|&v| v <= i64::MAX as u64)
        .ok_or_else(large)
}

/// Serde for durations as their text form, for states that people may read.
pub mod duration_text {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes [`super::format_duration`]'s text.
    pub fn serialize<S: Serializer>(duration: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::format_duration(*duration))
    }

    /// Reads what [`super::parse_duration`] takes.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        super::parse_duration(&String::deserialize(d)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_back() {
        for (text, millis) in [
            ("100ms", 100),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("0s", 0),
        ] {
            assert_eq!(
                parse_duration(text).unwrap(),
                Duration::from_millis(millis),
                "{text}"
            );
            assert_eq!(format_duration(Duration::from_millis(millis)), text);
        }
        for bad in ["", "10", "s", "10 s", "-1s", "1.5s", "10x", "1é"] {
            assert!(
                matches!(parse_duration(bad), Err(UnitError::Duration(_))),
                "{bad}"
            );
        }
        assert!(matches!(
            parse_duration("99999999999999999999s"),
            Err(UnitError::TooLarge(_))
        ));
        assert!(matches!(parse_duration("40000d"), Err(UnitError::TooLarge(_))));
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("64K", 65_536),
            ("256M", 268_435_456),
            ("2G", 2_147_483_648),
            ("7", 7),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for bad in ["", "K", "1.5G", "-1", "10 M", "1KiB"] {
            assert!(matches!(parse_size(bad), Err(UnitError::Size(_))), "{bad}");
        }
        assert!(matches!(parse_size("9999999999T"), Err(UnitError::TooLarge(_))));
    }
}
