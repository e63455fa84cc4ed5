//! The content store: images from layouts and archives, layers unpacked safely.
//!
//! [`Store`] is the one door. Behind it, `source` finds the manifest, config and layers of an image and checks every
//! digest on the way; `layer` streams one layer through both hashes into `unpack`; `tar` only parses; `record` and
//! `layout` are what lies on disk. Nothing here waits for a network or needs an async runtime: all calls block.

mod claims;
mod error;
mod hash;
mod layer;
mod layout;
mod record;
mod source;
mod store;
mod tar;
mod tree;
mod unpack;

pub use error::{EntryError, LayerError, LoadError, StoreError};
pub use store::{Limits, Store};
pub use tar::TarError;
