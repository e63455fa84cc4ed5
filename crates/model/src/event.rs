//! Events: every transition, with its reason.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// `{ "time", "kind", "name", "type", "reason", "attributes": {} }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub time: Timestamp,
    /// `container`, `network`, `image`, `firewall`, `config`, `agent`.
    pub kind: String,
    pub name: String,
    /// What happened: `create`, `start`, `die`, `stop`, `remove`, `update`, `repair`, `error`, ….
    #[serde(rename = "type")]
    pub what: String,
    pub reason: String,
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}
