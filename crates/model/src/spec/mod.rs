//! What a table of the config dir says, as plain comparable values with the defaults filled in.
//!
//! Two specs that mean the same are equal, however they were spelled. Where each value was written is kept beside
//! them, in [`Parsed`].

mod container;
mod content;
mod etcd;
mod network;
mod settings;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use container::*;
pub use content::*;
pub use etcd::*;
pub use network::*;
pub use settings::*;

use crate::diagnostic::Location;
use crate::name::Name;

/// One table with its name and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed<T> {
    pub name: Name,
    pub spec: T,
    pub origin: Origin,
}

/// Where a table and its keys were written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Relative to the config dir; a drop-in's keys name the drop-in in [`Origin::keys`].
    pub file: String,
    /// Line and column of the table's header, from 1.
    pub line: u32,
    pub column: u32,
    /// Place of each key that was written: `ports` → `web.toml:6:1`. Sub-tables are dotted: `restart.policy`.
    pub keys: BTreeMap<String, Location>,
}

impl Origin {
    /// The table's own place.
    pub fn location(&self) -> Location {
        Location {
            file: self.file.clone(),
            line: Some(self.line),
            column: Some(self.column),
        }
    }

    /// Where a key was written, or the table where it was not.
    pub fn key(&self, key: &str) -> Location {
        self.keys.get(key).cloned().unwrap_or_else(|| self.location())
    }
}

/// Everything one file with its drop-ins holds, whole: a file with any error yields no `ParsedFile`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedFile {
    /// Relative to the config dir: `web.toml`.
    pub file: String,
    pub containers: Vec<Parsed<ContainerSpec>>,
    pub networks: Vec<Parsed<NetworkSpec>>,
    pub volumes: Vec<Parsed<VolumeSpec>>,
    pub images: Vec<Parsed<ImageSpec>>,
    pub configs: Vec<Parsed<MountedFileSpec>>,
    pub secrets: Vec<Parsed<MountedFileSpec>>,
}
