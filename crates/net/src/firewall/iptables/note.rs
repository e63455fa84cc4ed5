//! What was given to iptables, and how it was printed then: by that it is known again.
//!
//! Of this boot, as the rules are. Where it is lost the rules are given again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use model::firewall::FirewallState;
use serde::{Deserialize, Serialize};

use super::programs::Variant;
use super::render::TABLES;
use crate::error::NetError;
use crate::firewall::family::Family;
use crate::firewall::guard::Guards;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub variant: Variant,
    pub state: FirewallState,
    pub guarded: bool,
    pub guarded6: bool,
    /// See [`Guards::others`].
    #[serde(default)]
    pub others: BTreeSet<String>,
    /// It is being changed to this: until that is done, and flows to changed UDP ports are forgotten.
    pub next: Option<FirewallState>,
    /// By family and table.
    pub tables: BTreeMap<String, Given>,
    /// Rules of ours that the other variant still has.
    pub left: Option<Variant>,
}

/// Fingerprints of one table's part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    pub given: String,
    pub shown: String,
}

/// Its key among [`Note::tables`].
pub fn key(f: Family, table: &str) -> String {
    match f {
        Family::V4 => format!("iptables {table}"),
        Family::V6 => format!("ip6tables {table}"),
    }
}

impl Note {
    pub fn new(variant: Variant) -> Self {
        Self {
            variant,
            state: FirewallState::default(),
            guarded: false,
            guarded6: false,
            others: BTreeSet::new(),
            next: None,
            tables: BTreeMap::new(),
            left: None,
        }
    }

    pub fn guards(&self) -> Guards {
        Guards {
            v4: self.guarded,
            v6: self.guarded6,
            others: self.others.clone(),
        }
    }

    /// What is there, as far as it is known.
    pub fn latest(&self) -> &FirewallState {
        self.next.as_ref().unwrap_or(&self.state)
    }

    /// All that may be there.
    pub fn states(&self) -> impl Iterator<Item = &FirewallState> {
        [&self.state].into_iter().chain(&self.next)
    }

    /// Rules of that family were given.
    pub fn is_of(&self, f: Family) -> bool {
        TABLES
            .iter()
            .any(|table| self.tables.contains_key(&key(f, table)))
    }
}

/// None where there is none, or it makes no sense: the rules are given again then.
pub fn read(file: &Path) -> Option<Note> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

/// Wholly or not at all.
pub fn write(file: &Path, note: &Note) -> Result<(), NetError> {
    let text = serde_json::to_vec(note).expect("a note is plain data with text keys");
    let fresh = file.with_extension("new");
    let put = || {
        let mut options = fs::OpenOptions::new();
        let mut out = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        out.write_all(&text)?;
        fs::rename(&fresh, file)
    };
    put().map_err(|source| failed("write", file, source))
}

pub fn remove(file: &Path) -> Result<(), NetError> {
    match fs::remove_file(file) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", file, e)),
        _ => Ok(()),
    }
}

fn failed(doing: &'static str, file: &Path, source: io::Error) -> NetError {
    let path = file.display().to_string();
    NetError::File { doing, path, source }
}
