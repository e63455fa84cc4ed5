//! The kinds of values: strings, numbers, durations, paths, addresses, words.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::name::Name;
use crate::units;

use super::keys::{self, Type, Word};
use super::reader::Item;
use super::suggest;
use super::tree::Value;

impl<'a> Item<'a> {
    /// A string without NUL, which no kernel interface takes.
    pub fn text(&self) -> Option<&'a str> {
        let Value::String(text) = &self.node.value else {
            let quote = match &self.node.value {
                Value::Integer(Some(n)) => Some(format!("put it in quotes: \"{n}\"")),
                Value::Boolean(b) => Some(format!("put it in quotes: \"{b}\"")),
                Value::Integer(None) | Value::Float(_) | Value::Datetime => {
                    Some("put it in quotes".to_owned())
                }
                _ => None,
            };
            self.mismatch("a string", quote.as_deref());
            return None;
        };
        if text.contains('\0') {
            self.fault("has a NUL character", "");
            return None;
        }
        Some(text)
    }

    pub fn string(&self) -> Option<String> {
        self.text().map(str::to_owned)
    }

    /// A string that says something.
    pub fn filled(&self) -> Option<String> {
        let text = self.text()?;
        if text.trim().is_empty() {
            self.fault("is empty", "write a value, or take the key out");
            return None;
        }
        Some(text.to_owned())
    }

    pub fn boolean(&self) -> Option<bool> {
        match &self.node.value {
            Value::Boolean(b) => Some(*b),
            Value::String(text) if matches!(text.as_str(), "true" | "false") => {
                self.mismatch("true or false", Some("take the quotes away"));
                None
            }
            _ => {
                self.mismatch("true or false", None);
                None
            }
        }
    }

    /// A whole number within the bounds of the key's type.
    pub fn integer<T: TryFrom<i64>>(&self) -> Option<T> {
        let bounds = keys::find(self.report.keys, &self.path).and_then(|key| bounds(&key.ty));
        let (min, max) = bounds.unwrap_or((i64::MIN, i64::MAX));
        match &self.node.value {
            Value::Integer(Some(n)) if (min..=max).contains(n) => T::try_from(*n).ok(),
            Value::Integer(found) => {
                let found = found.map_or("a larger one".to_owned(), |n| n.to_string());
                self.fault(format!("must be a number from {min} to {max}, not {found}"), "");
                None
            }
            Value::String(text) if text.parse::<i64>().is_ok() => {
                self.mismatch("an integer", Some("take the quotes away"));
                None
            }
            _ => {
                self.mismatch("an integer", None);
                None
            }
        }
    }

    /// A duration: `10s`, `1h30m`.
    pub fn duration(&self) -> Option<Duration> {
        if let Value::Integer(Some(n)) = &self.node.value {
            self.mismatch("a duration", Some(&format!("write the unit: \"{n}s\"")));
            return None;
        }
        let text = self.text()?;
        self.or_fault(units::parse_duration(text))
    }

    /// A duration longer than nothing.
    pub fn some_duration(&self) -> Option<Duration> {
        let duration = self.duration()?;
        if duration.is_zero() {
            self.fault("must be longer than 0s", "");
            return None;
        }
        Some(duration)
    }

    /// A size above zero: `64K`, or bytes.
    pub fn size(&self) -> Option<u64> {
        let size = match &self.node.value {
            Value::Integer(Some(n)) if *n >= 0 => n.unsigned_abs(),
            Value::Integer(_) => {
                self.fault("must be a size above 0", "");
                return None;
            }
            Value::String(text) => self.or_fault(units::parse_size(text))?,
            _ => {
                self.mismatch("a size", Some("write bytes, or \"256M\""));
                return None;
            }
        };
        if size == 0 {
            self.fault("must be a size above 0", "");
            return None;
        }
        Some(size)
    }

    /// An absolute path, without slashes at its end.
    pub fn path_text(&self) -> Option<String> {
        self.absolute(self.text()?)
    }

    /// The same as a path.
    pub fn path(&self) -> Option<PathBuf> {
        self.path_text().map(PathBuf::from)
    }

    /// Checks that a part of this value is an absolute path.
    pub fn absolute(&self, text: &str) -> Option<String> {
        if !text.starts_with('/') || text.contains('\0') {
            let hint = "write the whole path, from / on";
            self.fault(format!("must be an absolute path, not {text:?}"), hint);
            return None;
        }
        let trimmed = text.trim_end_matches('/');
        Some(if trimmed.is_empty() { "/" } else { trimmed }.to_owned())
    }

    pub fn name(&self) -> Option<Name> {
        let text = self.text()?;
        self.named(text)
    }

    /// Checks that a part of this value is a name.
    pub fn named(&self, text: &str) -> Option<Name> {
        match text.parse() {
            Ok(name) => Some(name),
            Err(error) => {
                self.fault(format!("has {text:?}, which is no name: {error}"), "");
                None
            }
        }
    }

    /// A string that a type reads; `what` with its article and an example.
    pub fn parsed<T: FromStr>(&self, what: &str) -> Option<T> {
        let text = self.text()?;
        self.parse_part(text, what)
    }

    /// The same for a part of this value.
    pub fn parse_part<T: FromStr>(&self, text: &str, what: &str) -> Option<T> {
        let value = text.parse().ok();
        if value.is_none() {
            self.fault(format!("must be {what}, not {text:?}"), "");
        }
        value
    }

    /// A value, or the reason why there is none as the error.
    pub fn or_fault<T, E: std::fmt::Display>(&self, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault(format!("is wrong: {error}"), "");
                None
            }
        }
    }

    /// A table of strings under free keys; `check` says what is wrong with a key.
    pub fn texts(&self, check: impl Fn(&str) -> Option<String>) -> Option<BTreeMap<String, String>> {
        let mut map = BTreeMap::new();
        for (name, entry, item) in self.entries()? {
            if let Some(problem) = check(name) {
                self.report
                    .push(&entry.key, format!("`{}` {problem}", item.label), None);
            }
            if let Some(text) = item.string() {
                map.insert(name.to_owned(), text);
            }
        }
        Some(map)
    }

    /// One of the key's words, with what follows its colon. Words that do not work yet are refused.
    pub fn word(&self) -> Option<(&'static str, &'a str)> {
        let words = keys::find(self.report.keys, &self.path).and_then(|key| words(&key.ty))?;
        let text = self.text()?;
        for (word, status) in words {
            let rest = match word.strip_suffix(':') {
                Some(_) => text.strip_prefix(word),
                None => (text == *word).then_some(""),
            };
            let Some(rest) = rest else { continue };
            if let Some(refusal) = status.refusal().filter(|_| !self.refused) {
                let message = format!("`{} = \"{text}\"` {refusal}", self.label);
                self.report.push(&self.node.span, message, None);
            }
            return Some((word, rest));
        }
        let plain: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint = suggest::nearest(text, &plain).map(|near| format!("did you mean \"{near}\"?"));
        let list: Vec<String> = plain.iter().map(|w| shown_word(w)).collect();
        self.fault(
            format!("must be one of {}, not {text:?}", list.join(", ")),
            hint.as_deref().unwrap_or(""),
        );
        None
    }
}

/// A word in quotes, with NAME where a name follows.
fn shown_word(word: &str) -> String {
    if word.ends_with(':') {
        format!("\"{word}NAME\"")
    } else {
        format!("\"{word}\"")
    }
}

/// The words a type takes, in whatever it is wrapped.
fn words(ty: &Type) -> Option<&'static [Word]> {
    match ty {
        Type::Words(words) => Some(words),
        Type::List(inner) | Type::Map(inner) => words(inner),
        Type::OneOf(types) => types.iter().find_map(words),
        _ => None,
    }
}

/// The bounds of a type's integer, in whatever it is wrapped.
fn bounds(ty: &Type) -> Option<(i64, i64)> {
    match ty {
        Type::Integer(min, max) => Some((*min, *max)),
        Type::List(inner) | Type::Map(inner) => bounds(inner),
        Type::OneOf(types) => types.iter().find_map(bounds),
        _ => None,
    }
}
