//! `load`: an archive that streams in, of Docker's kind or an OCI layout, becomes images.
//!
//! Nothing is spooled: each member that is a layer is unpacked as it comes, aside, and its digests kept; JSON documents are
//! kept in memory. When all is there it is known which images there are, the usual readers of layouts and archives check
//! every digest, and the layers that an image has are put into their places.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use model::digest::Digest;
use model::image::ImageSource;

use crate::added::{Documents, NewLayer};
use crate::error::{LayerError, LoadError, StoreError};
use crate::hash::HashingReader;
use crate::inflate::inflate;
use crate::layer::{self, Cancellable, Temporary};
use crate::source::{Found, LayerBlob, MAX_DOCUMENT, Origin, Streamed, StreamedImage, StreamedLayer, normal};
use crate::store::Store;
use crate::tar::{self, Entry, Kind, Stream, TarError, is_header};

/// Bytes read at a time.
const BUFFER: usize = 64 * 1024;
/// Most bytes of all documents together.
const MAX_DOCUMENTS: u64 = 64 << 20;
/// Most members of an archive.
const MAX_MEMBERS: usize = 100_000;
/// Bytes that tell what a member is.
const PEEKED: usize = 512;

/// An image that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// In full: `docker.io/library/x:1`.
    pub reference: String,
    pub id: Digest,
}

/// A layer of the archive, unpacked.
struct Layer {
    diff_id: Digest,
    /// Bytes of the plain tar.
    size: u64,
    place: Place,
}

enum Place {
    /// It was in the store already.
    Here(NewLayer),
    Aside(Temporary),
}

/// What is known of an archive that went by.
struct Archive {
    streamed: Streamed,
    layers: BTreeMap<Digest, Layer>,
}

type Plain<'a> = tar::Reader<Stream<Box<dyn Read + 'a>>>;

impl Store {
    /// Brings in all images of an archive, gzip, zstd, xz or plain. They go by the names they have in it; one that has none
    /// gets `name`. Ends with [`StoreError::Stopped`] soon after `cancel` is set.
    pub fn load_archive(
        &self,
        archive: &mut dyn Read,
        name: Option<&str>,
        cancel: &AtomicBool,
    ) -> Result<Vec<Loaded>, StoreError> {
        let wrong = |error: LoadError| match error.or_full(&self.layout.root) {
            LoadError::Cancelled => StoreError::Stopped,
            error => StoreError::Archive(error),
        };
        let archive = Cancellable {
            blob: Box::new(archive),
            cancel,
        };
        let read = self.read_archive(archive, cancel);
        if cancel.load(Ordering::Relaxed) {
            return Err(StoreError::Stopped);
        }
        let Archive { streamed, mut layers } = read.map_err(wrong)?;
        let images = streamed.images().map_err(wrong)?;
        let names = names_for(&images, name).map_err(wrong)?;
        let mut loaded = Vec::new();
        for (StreamedImage { found, .. }, names) in images.iter().zip(names) {
            let _kept = self.settle_all(found, &mut layers, cancel).map_err(wrong)?;
            for reference in names {
                let image = self.adopt(&reference, &documents(found), &diff_ids(found))?;
                let id = image.id.unwrap_or(found.id);
                loaded.push(Loaded { reference, id });
            }
        }
        Ok(loaded)
    }

    fn read_archive(&self, archive: Cancellable<'_>, cancel: &AtomicBool) -> Result<Archive, LoadError> {
        let plain = inflate(BufReader::with_capacity(BUFFER, archive)).map_err(LoadError::NewLayer)?;
        let plain: Box<dyn Read + '_> = Box::new(BufReader::with_capacity(BUFFER, plain));
        let mut reader = tar::Reader::new(Stream(plain));
        let mut read = Archive {
            streamed: Streamed::default(),
            layers: BTreeMap::new(),
        };
        let mut members = 0;
        while let Some(entry) = reader.next_entry().map_err(read_error)? {
            members += 1;
            if members > MAX_MEMBERS {
                return Err(LoadError::refused(
                    "its members",
                    format!("there are more than {MAX_MEMBERS}"),
                ));
            }
            self.take_member(&entry, &mut reader, &mut read, cancel)?;
        }
        // A pipe is read to its end, so that whoever writes into it does not break.
        let drained = io::copy(&mut reader.into_source(), &mut io::sink());
        drained.map_err(|e| read_error(e.into()))?;
        Ok(read)
    }

    fn take_member(
        &self,
        entry: &Entry,
        reader: &mut Plain<'_>,
        read: &mut Archive,
        cancel: &AtomicBool,
    ) -> Result<(), LoadError> {
        let Some(name) = normal(&entry.path, "") else {
            return Ok(());
        };
        match &entry.kind {
            Kind::File if entry.sparse.is_none() => {}
            Kind::Symlink(target) => {
                let above = name.rsplit_once('/').map_or("", |(above, _)| above);
                if let Some(target) = normal(target, above) {
                    read.streamed.link(name, target);
                }
                return Ok(());
            }
            Kind::HardLink(target) => {
                if let Some(target) = normal(target, "") {
                    read.streamed.link(name, target);
                }
                return Ok(());
            }
            _ => return Ok(()),
        }
        let mut member = Member::new(reader, entry.size)?;
        if member.may_be_layer() {
            return self.take_layer(name, entry.size, member, read, cancel);
        }
        if entry.size <= MAX_DOCUMENT && member.may_be_json() {
            if read.streamed.bytes() + entry.size > MAX_DOCUMENTS {
                return Err(LoadError::refused(
                    "its documents",
                    format!("they have more than {MAX_DOCUMENTS} bytes"),
                ));
            }
            let mut bytes = Vec::new();
            member.read_to_end(&mut bytes).map_err(|e| read_error(e.into()))?;
            read.streamed.document(name, bytes);
        }
        Ok(())
    }

    fn take_layer(
        &self,
        name: String,
        size: u64,
        member: Member<'_, '_>,
        read: &mut Archive,
        cancel: &AtomicBool,
    ) -> Result<(), LoadError> {
        let temporary = Temporary::create(&self.layout.tmp)?;
        let mut compressed = BufReader::with_capacity(BUFFER, HashingReader::new(member, size));
        let unpacked = inflate(&mut compressed)
            .and_then(|plain| layer::unpack_plain(plain, &temporary, &self.limits, cancel));
        let mut compressed = compressed.into_inner();
        compressed.drain().map_err(|e| read_error(e.into()))?;
        if cancel.load(Ordering::Relaxed) {
            return Err(LoadError::Cancelled);
        }
        let (diff_id, plain) = match unpacked {
            Ok(unpacked) => unpacked,
            Err(e) => return read.not_a_layer(name, e, &self.layout.root),
        };
        let digest = compressed.digest();
        read.streamed.layer(
            name,
            StreamedLayer {
                digest,
                size,
                diff_id,
            },
        );
        if read.layers.contains_key(&diff_id) {
            return Ok(());
        }
        let place = match self.here(diff_id, plain) {
            Some(layer) => Place::Here(layer),
            None => Place::Aside(temporary),
        };
        read.layers.insert(
            diff_id,
            Layer {
                diff_id,
                size: plain,
                place,
            },
        );
        Ok(())
    }

    /// Holds a layer that is in the store whole.
    fn here(&self, diff_id: Digest, size: u64) -> Option<NewLayer> {
        let held = NewLayer::held(&self.claims, diff_id, size);
        let whole = self.layout.layer(&diff_id).is_dir() && self.layout.tar(&diff_id).exists();
        whole.then_some(held)
    }

    /// Puts the layers of an image into their places, after a look whether each is what the image says.
    fn settle_all(
        &self,
        found: &Found,
        layers: &mut BTreeMap<Digest, Layer>,
        cancel: &AtomicBool,
    ) -> Result<Vec<NewLayer>, LoadError> {
        let mut kept = Vec::new();
        for blob in &found.layers {
            check(blob)?;
            kept.push(match layers.remove(&blob.diff_id) {
                Some(Layer {
                    diff_id,
                    size,
                    place: Place::Aside(aside),
                }) => self.settle(aside, diff_id, size, cancel)?,
                Some(Layer {
                    place: Place::Here(layer),
                    ..
                }) => layer,
                None => NewLayer::held(&self.claims, blob.diff_id, 0),
            });
        }
        for layer in &kept {
            // Another image of the archive may have it too.
            let held = NewLayer::held(&self.claims, layer.diff_id, layer.size);
            let again = Layer {
                diff_id: layer.diff_id,
                size: layer.size,
                place: Place::Here(held),
            };
            layers.entry(layer.diff_id).or_insert(again);
        }
        Ok(kept)
    }
}

impl Archive {
    /// Of a member that looked like a layer and is none: only an image that has it is wrong.
    fn not_a_layer(
        &mut self,
        name: String,
        error: LayerError,
        store: &std::path::Path,
    ) -> Result<(), LoadError> {
        match LoadError::NewLayer(error).or_full(store) {
            LoadError::NewLayer(error) => {
                self.streamed.broken(name, error.to_string());
                Ok(())
            }
            error => Err(error),
        }
    }
}

/// Whether the layer that came is the one the image speaks of.
fn check(blob: &LayerBlob) -> Result<(), LoadError> {
    let Origin::Container(container, name) = &blob.origin else {
        return Err(LoadError::refused("layer", "it is not in the archive"));
    };
    let came = container.came(name)?;
    let came = came.ok_or_else(|| crate::source::oci::missing(container, name.clone()))?;
    if came.size != blob.size {
        return Err(LoadError::Size {
            what: format!("layer blob {name}"),
            expected: blob.size,
            actual: came.size,
        });
    }
    let pairs = [
        (blob.digest, came.digest, format!("layer blob {name}")),
        (Some(blob.diff_id), came.diff_id, format!("unpacked layer {name}")),
    ];
    for (expected, actual, what) in pairs {
        if let Some(expected) = expected.filter(|expected| *expected != actual) {
            return Err(LoadError::Digest {
                what,
                expected,
                actual,
            });
        }
    }
    Ok(())
}

fn diff_ids(found: &Found) -> Vec<Digest> {
    found.layers.iter().map(|layer| layer.diff_id).collect()
}

fn documents(found: &Found) -> Documents<'_> {
    let of = |wanted: Digest| {
        let mut all = found.documents.iter();
        all.find(|(digest, _)| *digest == wanted)
            .map(|(_, bytes)| bytes.as_slice())
    };
    Documents {
        config: of(found.id).unwrap_or_default(),
        manifest: found.digest.and_then(of),
        size: Some(found.layers.iter().map(|layer| layer.size).sum()),
    }
}

/// What each image is to be called.
fn names_for(images: &[StreamedImage], name: Option<&str>) -> Result<Vec<Vec<String>>, LoadError> {
    let nameless = images.iter().filter(|image| image.names.is_empty()).count();
    match (nameless, name) {
        (0, Some(name)) => {
            let why = "every image in it has a name of its own: leave this one out, and `tag` afterwards";
            return Err(LoadError::refused(format!("the name {name:?}"), why));
        }
        (2.., _) | (1, None) => {
            let ids: BTreeSet<String> = images
                .iter()
                .filter(|image| image.names.is_empty())
                .map(|image| image.found.id.to_string())
                .collect();
            let ids = ids.into_iter().collect::<Vec<_>>().join(", ");
            let why = "no name is with it in the archive: save it by its name, or load it alone by `wharf image load \
                       --name NAME[:TAG]`";
            return Err(LoadError::refused(format!("image {ids}"), why));
        }
        _ => {}
    }
    images
        .iter()
        .map(|image| match image.names.is_empty() {
            true => name.into_iter().map(full).collect(),
            false => image.names.iter().map(|name| full(name)).collect(),
        })
        .collect()
}

/// A name as Docker reads it, in full.
fn full(name: &str) -> Result<String, LoadError> {
    match model::file::image(name, &["docker.io".to_owned()]) {
        Ok(ImageSource::Registry { reference }) => Ok(reference),
        Ok(_) => Err(LoadError::refused(
            format!("the name {name:?}"),
            "it is no image's",
        )),
        Err(e) => Err(LoadError::refused(format!("the name {name:?}"), e.to_string())),
    }
}

fn read_error(source: TarError) -> LoadError {
    LoadError::NewLayer(source.into())
}

/// The data of one member, whose beginning has been looked at.
struct Member<'r, 'a> {
    reader: &'r mut Plain<'a>,
    start: Vec<u8>,
    done: usize,
}

impl<'r, 'a> Member<'r, 'a> {
    fn new(reader: &'r mut Plain<'a>, size: u64) -> Result<Self, LoadError> {
        let mut start = vec![0; usize::try_from(size).map_or(PEEKED, |size| size.min(PEEKED))];
        let mut filled = 0;
        while filled < start.len() {
            match reader.read_data(&mut start[filled..]).map_err(read_error)? {
                0 => return Err(read_error(TarError::Truncated)),
                read => filled += read,
            }
        }
        Ok(Self {
            reader,
            start,
            done: 0,
        })
    }

    /// A tar begins with a header or, where nothing is in it, with zeros.
    fn may_be_layer(&self) -> bool {
        crate::source::compression(&self.start).is_some()
            || is_header(&self.start)
            || self.start.iter().all(|byte| *byte == 0)
    }

    fn may_be_json(&self) -> bool {
        matches!(self.start.trim_ascii_start().first(), Some(b'{' | b'['))
    }
}

impl Read for Member<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = &self.start[self.done..];
        if !left.is_empty() {
            let read = left.len().min(buffer.len());
            buffer[..read].copy_from_slice(&left[..read]);
            self.done += read;
            return Ok(read);
        }
        self.reader.read_data(buffer).map_err(|error| match error {
            TarError::Io(e) => e,
            TarError::Truncated => io::ErrorKind::UnexpectedEof.into(),
            other => io::Error::other(other),
        })
    }
}
