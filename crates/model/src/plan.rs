//! The plan: actions with edges and a reason each, the new ledger, and when to look again.

use std::io;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::action::{Action, Noun};
use crate::ledger::Ledger;

/// What one pass decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In an order that keeps every edge: an action stands after those it waits for.
    pub actions: Vec<Planned>,
    /// What is not done now, and why: a busy noun, a deadline, a failure waiting to be tried again.
    pub waits: Vec<Wait>,
    /// Changes in the files that need no action of their noun: they are in force once the ledger is written, or by an
    /// action of another noun (ports: the firewall).
    pub taken_up: Vec<TakenUp>,
    /// To be written before the first action.
    pub ledger: Ledger,
    /// The earliest deadline: look again then, whatever happens.
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    /// Nothing to do and nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty() && self.waits.is_empty()
    }
}

/// One action with its place in the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    pub op: Op,
    pub action: Action,
    /// Indices into [`Plan::actions`] that must have succeeded before.
    pub after: Vec<usize>,
    pub reasons: Vec<Reason>,
}

/// A change in the files that acts in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenUp {
    pub noun: Noun,
    pub reasons: Vec<Reason>,
}

/// Something that holds the plan up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    pub noun: Noun,
    pub reasons: Vec<Reason>,
    /// None: until something happens.
    pub until: Option<Timestamp>,
    /// Something is wrong that somebody has to put right: shown as the noun's error.
    pub error: bool,
}

/// What an action does to its noun, as `wharf plan` marks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    Create,
    Update,
    Replace,
    Remove,
    Wait,
}

impl Op {
    /// `+`, `~`, `-/+`, `-`, `?`.
    pub fn mark(self) -> &'static str {
        match self {
            Self::Create => "+",
            Self::Update => "~",
            Self::Replace => "-/+",
            Self::Remove => "-",
            Self::Wait => "?",
        }
    }
}

/// Why: a field's change, or a sentence in `field` alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Reason {
    pub field: String,
    pub from: Option<String>,
    pub to: Option<String>,
    pub file: Option<String>,
    pub line: Option<u32>,
}

impl Reason {
    /// A reason that is a sentence.
    pub fn because(text: impl Into<String>) -> Self {
        Self {
            field: text.into(),
            from: None,
            to: None,
            file: None,
            line: None,
        }
    }
}

/// A short text equal for equal values: tells whether a definition changed. Not for security.
pub fn fingerprint<T: Serialize>(value: &T) -> String {
    let mut hash = Fnv(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
    serde_json::to_writer(&mut hash, value).expect("specs are plain data with text keys");
    format!("{:032x}", hash.0)
}

/// FNV-1a, 128 bit: stable over builds, and wide enough that two definitions never meet.
struct Fnv(u128);

impl io::Write for Fnv {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            self.0 ^= u128::from(*byte);
            self.0 = self.0.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
