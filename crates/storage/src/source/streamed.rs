//! What is known of an archive that went by as a stream: its documents, and of its layers what they were.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use model::digest::Digest;

use super::container::{Container, MAX_LINKS, normal};
use super::{Found, MANIFEST, docker, oci};
use crate::error::LoadError;

/// An image of an archive, and its names there.
pub struct StreamedImage {
    /// As they are spelled.
    pub names: Vec<String>,
    pub found: Found,
}

/// The members of an archive, by name.
#[derive(Default)]
pub struct Streamed {
    members: BTreeMap<String, Member>,
    bytes: u64,
}

enum Member {
    Document(Vec<u8>),
    Layer(StreamedLayer),
    /// It looked like a layer, and why it is none.
    Broken(String),
    /// The name it stands for, from the archive's root.
    Link(String),
}

/// A layer that went by.
#[derive(Clone, Copy, Debug)]
pub struct StreamedLayer {
    /// Of the bytes as they came.
    pub digest: Digest,
    /// Bytes as they came.
    pub size: u64,
    /// Of the plain tar.
    pub diff_id: Digest,
}

impl Streamed {
    /// Bytes of all documents.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn document(&mut self, name: String, bytes: Vec<u8>) {
        self.bytes += bytes.len() as u64;
        self.members.insert(name, Member::Document(bytes));
    }

    pub fn layer(&mut self, name: String, layer: StreamedLayer) {
        self.members.insert(name, Member::Layer(layer));
    }

    pub fn broken(&mut self, name: String, why: String) {
        self.members.insert(name, Member::Broken(why));
    }

    pub fn link(&mut self, name: String, target: String) {
        self.members.insert(name, Member::Link(target));
    }

    /// For messages.
    pub fn path(&self) -> &Path {
        Path::new("the archive")
    }

    pub fn read(&self, name: &str) -> Option<&[u8]> {
        match self.member(name)?.1 {
            Member::Document(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// What came as the layer `name`; none where there is nothing of that name.
    pub fn came(&self, name: &str) -> Result<Option<StreamedLayer>, LoadError> {
        match self.member(name) {
            None => Ok(None),
            Some((_, Member::Layer(layer))) => Ok(Some(*layer)),
            Some((name, Member::Broken(why))) => {
                Err(LoadError::refused(format!("layer blob {name}"), why.clone()))
            }
            Some((name, _)) => Err(LoadError::refused(
                format!("layer blob {name}"),
                "it is no tar archive",
            )),
        }
    }

    fn member(&self, name: &str) -> Option<(String, &Member)> {
        let mut name = normal(name.as_bytes(), "")?;
        for _ in 0..MAX_LINKS {
            match self.members.get(&name)? {
                Member::Link(target) => name.clone_from(target),
                member => return Some((name, member)),
            }
        }
        None
    }

    /// All images there are, their documents checked. Of an archive of both kinds what Docker reads of it.
    pub fn images(self) -> Result<Vec<StreamedImage>, LoadError> {
        let is_dockers = self.read(MANIFEST).is_some();
        let is_a_layout = self.read(oci::INDEX).is_some();
        let container = Arc::new(Container::Streamed(self));
        match (is_dockers, is_a_layout) {
            (true, _) => docker::all(&container),
            (false, true) => oci::all(&container),
            (false, false) => Err(LoadError::NotInside {
                container: container.path().to_owned(),
                name: format!("{MANIFEST} and no {}", oci::INDEX),
                wanted: "an archive of images (`docker save`, `podman save`, `wharf image save`); the files of a \
                         container are taken by `wharf image import`",
            }),
        }
    }
}
