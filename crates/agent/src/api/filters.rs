//! Docker's filters: `{"type": {"container": true}}`, or as older clients write it `{"type": ["container"]}`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::problem::Problem;

/// The query of routes that take filters and nothing else.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct FilterQuery {
    /// JSON, see [`Filters::parse`].
    pub filters: String,
}

/// By key, the values one of which has to fit.
#[derive(Debug, Default)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

impl Filters {
    /// Refuses keys that are not among `known`: what is ignored would show too much.
    pub fn parse(text: &str, known: &[&str]) -> Result<Self, Problem> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let wrong = || Problem::bad_request(format!("{text:?} are no filters"));
        let map: BTreeMap<String, Value> = serde_json::from_str(text).map_err(|_| wrong())?;
        let mut filters = BTreeMap::new();
        for (key, value) in map {
            if !known.contains(&&*key) {
                let known = known.join(", ");
                return Err(Problem::bad_request(format!(
                    "the filter {key:?} is not supported yet here; known are {known}"
                )));
            }
            filters.insert(key, values(value).ok_or_else(wrong)?);
        }
        Ok(Self(filters))
    }

    /// Whether this key is asked for.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// One of the key's values fits, or it is not asked for.
    pub fn fits(&self, key: &str, fits: impl FnMut(&str) -> bool) -> bool {
        self.0
            .get(key)
            .is_none_or(|values| values.iter().map(String::as_str).any(fits))
    }

    /// All of the key's values fit.
    pub fn all(&self, key: &str, fits: impl FnMut(&str) -> bool) -> bool {
        self.0
            .get(key)
            .is_none_or(|values| values.iter().map(String::as_str).all(fits))
    }
}

fn values(value: Value) -> Option<BTreeSet<String>> {
    match value {
        Value::Object(set) => Some(set.into_iter().map(|(name, _)| name).collect()),
        Value::Array(list) => list.into_iter().map(|v| Some(v.as_str()?.to_owned())).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_come_in_two_spellings_and_unknown_ones_are_refused() {
        for text in [r#"{"type":{"a":true,"b":true}}"#, r#"{"type":["a","b"]}"#] {
            let filters = Filters::parse(text, &["type"]).unwrap();
            assert!(filters.has("type") && filters.fits("type", |v| v == "b"));
            assert!(!filters.all("type", |v| v == "b"));
            assert!(filters.fits("other", |_| false));
        }
        assert!(Filters::parse(r#"{"daemon":["x"]}"#, &["type"]).is_err());
        assert!(Filters::parse("[]", &["type"]).is_err());
        assert!(!Filters::parse("{}", &[]).unwrap().has("type"));
    }
}
