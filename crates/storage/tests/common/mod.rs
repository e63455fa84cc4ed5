//! What the tests share: a tar builder that can misspell, makers of layouts and archives, pictures of trees.
#![allow(dead_code, unused_imports, clippy::unwrap_used)]

pub mod image;
pub mod killed;
pub mod mock;
pub mod reference;
pub mod shelf;
pub mod snapshot;
pub mod tarball;

use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use model::image::{Image, ImageSource};
use storage::{LoadOptions, Store, StoreError};
use tempfile::TempDir;

pub use image::{Layout, Pack};
pub use snapshot::{Node, snapshot};
pub use tarball::{Member, Tar};

/// A store in a directory of its own.
pub struct Fixture {
    pub dir: TempDir,
    pub store: Store,
}

/// A directory in memory, where the machine has such a place: on a disk that is busy with others' writes each flush takes as
/// long as all of the rest, and a kill is no power cut.
pub fn in_memory() -> TempDir {
    let memory = std::path::Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

impl Fixture {
    pub fn new() -> Self {
        Self::within(tempfile::tempdir().unwrap())
    }

    pub fn within(dir: TempDir) -> Self {
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn load(&self, source: &ImageSource) -> Result<Image, StoreError> {
        self.store
            .load(source, &LoadOptions::new(&AtomicBool::new(false)))
    }

    /// Unpacks one layer by way of a layout made for it; it has to come out again byte for byte.
    pub fn unpack(&self, layer: Vec<u8>) -> Result<PathBuf, StoreError> {
        let mut layout = Layout::new(&self.path("one"));
        layout.image(None, &[(Pack::Plain, layer.clone())]);
        let image = self.load(&layout.source(None))?;
        self.assert_gives_out(&layer);
        Ok(image.layers[0].clone())
    }

    /// The layer comes out of the store as it went in.
    #[track_caller]
    pub fn assert_gives_out(&self, layer: &[u8]) {
        let mut tar = self.store.layer_tar(&image::digest(layer)).unwrap();
        assert_eq!(tar.size(), layer.len() as u64);
        let mut again = Vec::new();
        tar.read_to_end(&mut again).unwrap();
        assert!(again == layer, "the layer came out as another one");
    }

    /// The error of a layer that must not be taken, after checking that nothing is left of it.
    pub fn refuse(&self, layer: Vec<u8>) -> String {
        let error = self.unpack(layer).unwrap_err().to_string();
        self.assert_empty();
        error
    }

    pub fn assert_empty(&self) {
        for directory in ["tmp", "layers", "tars", "images"] {
            assert_eq!(
                entries(&self.path("store").join(directory)),
                Vec::<String>::new(),
                "{directory}"
            );
        }
    }
}

pub fn entries(directory: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// `needle` in `text`, with the text in the message where it is not.
#[track_caller]
pub fn assert_says(text: &str, needles: &[&str]) {
    for needle in needles {
        assert!(text.contains(needle), "{needle:?} is not in: {text}");
    }
}
