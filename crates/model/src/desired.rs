//! The whole desired state: every file resolved into one picture.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::diagnostic::Diagnostic;
use crate::image::ImageSource;
use crate::name::Name;
use crate::replica::Place;
use crate::shared::Shared;
use crate::spec::{ContainerSpec, MountedFileSpec, NetworkSpec, Origin, Settings, VolumeSpec};

/// A declared noun with where it was declared.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Declared<T> {
    pub spec: Shared<T>,
    pub origin: Shared<Origin>,
}

// By hand: a shared value is compared where its type is `Eq`.
impl<T: Eq> PartialEq for Declared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.spec == other.spec && self.origin == other.origin
    }
}

impl<T: Eq> Eq for Declared<T> {}

/// What the files say, after conflicts were found and disabled tables dropped.
///
/// A noun that takes part in an error is not here but in `held`: what runs of it stays as it was last accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Replicated ones as often as they are to run, by the names of their instances.
    pub containers: BTreeMap<Name, Declared<ContainerSpec>>,
    /// Which instance of which service a replicated one is; those that stand alone are not listed.
    pub places: BTreeMap<Name, Place>,
    /// The network `default` is always here.
    pub networks: BTreeMap<Name, Declared<NetworkSpec>>,
    pub volumes: BTreeMap<Name, Declared<VolumeSpec>>,
    pub configs: BTreeMap<Name, Declared<MountedFileSpec>>,
    pub secrets: BTreeMap<Name, Declared<MountedFileSpec>>,
    /// Images asked for by `[image.NAME]`, by [`ImageSource::key`].
    pub images: BTreeMap<String, Declared<ImageSource>>,
    /// Names that must not be touched: their file is broken or they contradict another table.
    pub held: Held,
    pub settings: Settings,
    pub errors: Vec<Diagnostic>,
}

/// What stays as last accepted because its declaration cannot be trusted now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub containers: BTreeSet<Name>,
    pub networks: BTreeSet<Name>,
    pub volumes: BTreeSet<Name>,
    pub configs: BTreeSet<Name>,
    pub secrets: BTreeSet<Name>,
    /// Files that could not be parsed: everything the ledger says came from them is held.
    pub files: BTreeSet<String>,
    /// The directory itself is gone, replaced or unreadable: nothing at all is removed.
    pub everything: bool,
}
