//! `[config.NAME]` and `[secret.NAME]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A config or secret table: a file that containers see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountedFileSpec {
    pub source: FileSource,
    /// Where it appears; none: the default place of its kind.
    pub target: Option<String>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub on_change: OnChange,
}

/// Where the content of a config or secret comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileSource {
    File(PathBuf),
    Content(String),
    /// A variable of the agent's environment.
    Env(String),
    /// A systemd credential of the agent.
    Credential(String),
}

/// What a changed content does to the containers that see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnChange {
    Restart,
    Replace,
    None,
    /// A signal's name with SIG.
    Signal(String),
}
