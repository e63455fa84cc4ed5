//! The content store: images from registries, layouts and archives, layers unpacked safely; named volumes.
//!
//! [`Store`] is the one door to images, [`Volumes`] the one to named volumes. Behind the former, `source` and `registry`
//! find the manifest, config and layers of an image and check every digest on the way; `layer` streams one layer through
//! both hashes into `unpack`; `tar` only parses; `record` and `layout` are what lies on disk. All calls block, and none
//! needs the caller to have an async runtime.

mod added;
mod by_name;
mod claims;
mod describe;
mod error;
pub mod files;
mod gc;
mod hash;
mod inflate;
pub mod instructions;
mod layer;
mod layout;
mod loading;
mod parallel;
mod push;
mod record;
mod registry;
mod remove;
mod save;
mod sizes;
mod source;
mod split;
mod store;
mod tar;
mod tree;
mod unpack;
mod usage;
mod verify;
mod volume;
mod within;

pub use added::{NewLayer, repository};
pub use describe::{Blob, Described, DescribedLayer, Document};
pub use error::{EntryError, LayerError, LoadError, StoreError};
pub use gc::{Garbage, GcPolicy, Round, SPARED, Why};
pub use loading::Loaded;
pub use push::{PushOptions, PushProgress, PushStep, Pushed};
pub use record::Listed;
pub use registry::{
    Hit, LoggedIn, Login, MOST_HITS, Patience, Progress, Proxies, RegistryConfig, RegistryError,
    RegistryFiles, Report, system_authorities,
};
pub use remove::{InUse, Pruned, Removed};
pub use save::ArchiveFormat;
pub use sizes::size_on_disk;
pub use split::{LayerTar, Split};
pub use store::{Limits, LoadOptions, Store};
pub use tar::TarError;
pub use verify::{Damage, Verified, VerifyOptions};
pub use volume::{Holes, Imported, NfsError, TRASH_KEPT, Trashed, VolumeError, Volumes};
