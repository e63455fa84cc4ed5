//! The content store: images from registries, layouts and archives, layers unpacked safely; named volumes.
//!
//! [`Store`] is the one door to images, [`Volumes`] the one to named volumes. Behind the former, `source` and `registry`
//! find the manifest, config and layers of an image and check every digest on the way; `layer` streams one layer through
//! both hashes into `unpack`; `tar` only parses; `record` and `layout` are what lies on disk. All calls block, and none
//! needs the caller to have an async runtime.

mod claims;
mod error;
mod hash;
mod layer;
mod layout;
mod record;
mod registry;
mod remove;
mod source;
mod store;
mod tar;
mod tree;
mod unpack;
mod volume;

pub use error::{EntryError, LayerError, LoadError, StoreError};
pub use record::Listed;
pub use registry::{
    Patience, Progress, Proxies, RegistryConfig, RegistryError, RegistryFiles, Report, system_authorities,
};
pub use remove::{InUse, Pruned, Removed};
pub use store::{Limits, LoadOptions, Store};
pub use tar::TarError;
pub use volume::{TRASH_KEPT, VolumeError, Volumes};
