//! What somebody took from a running container, or scribbled over, behind our back.

use serde::{Deserialize, Serialize};

/// One thing found missing, moved or illegible that is the container's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Damage {
    /// What was found, as a sentence without its subject's name.
    pub what: String,
    pub mend: Mend,
}

/// What puts it right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mend {
    /// The payload does not notice.
    InPlace,
    /// The payload stands on what is gone: it is stopped, and started on what is made anew.
    Restart,
}
