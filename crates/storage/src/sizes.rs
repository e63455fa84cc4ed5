//! What takes how much space on disk, for those who ask.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::StoreError;
use crate::store::Store;
use crate::tree;

impl Store {
    /// Every unpacked layer with the bytes it takes on disk. Walks through all of them; what goes away meanwhile counts
    /// nothing.
    pub fn layer_sizes(&self) -> Result<BTreeMap<PathBuf, u64>, StoreError> {
        let layers = self.layers_dir();
        let listing = || StoreError::io("list", layers);
        let mut sizes = BTreeMap::new();
        for entry in std::fs::read_dir(layers).map_err(listing())? {
            let path = entry.map_err(listing())?.path();
            let size = tree::size_of(&path).map_err(StoreError::io("measure", &path))?;
            sizes.insert(path, size);
        }
        Ok(sizes)
    }
}

/// The bytes that a directory takes on disk with all that is in it, a file with several names once.
pub fn size_on_disk(root: &Path) -> std::io::Result<u64> {
    tree::size_of(root)
}
