//! The store's public face: open, load, list, prune.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::digest::Digest;
use model::image::{Image, ImageSource};

use crate::claims::Claims;
use crate::error::{LoadError, StoreError};
use crate::layout::{Layout, flush_directory};
use crate::record::{self, Record};
use crate::source::{self, Found, LayerBlob};
use crate::{layer, tree, unpack};

/// Layers unpacked at a time.
const PARALLEL: usize = 2;

/// How much one layer may be, so that a hostile one ends in an error and not in a full disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the plain tar: content, headers and padding.
    pub bytes: u64,
    /// Files, directories, links, whiteouts.
    pub entries: u64,
}

impl Default for Limits {
    /// 64 GiB and four million entries.
    fn default() -> Self {
        Self {
            bytes: 64 << 30,
            entries: 4_000_000,
        }
    }
}

/// Images on disk, shared by reference among threads. See the crate's head for what lies where.
pub struct Store {
    layout: Layout,
    limits: Limits,
    claims: Claims,
    /// What `images/` holds; this store is its only writer.
    records: Mutex<BTreeMap<String, Arc<Record>>>,
}

impl Store {
    /// Opens the store in `root`, making directories (0710, inside 0700) and sweeping what an interrupted run left.
    /// Only one process may have it open: the agent, which holds the state directory's lock.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Self::with_limits(root, Limits::default())
    }

    /// As [`Store::open`], with other limits.
    pub fn with_limits(root: &Path, limits: Limits) -> Result<Self, StoreError> {
        let layout = Layout::create(root)?;
        tree::sweep(&layout.tmp).map_err(StoreError::io("sweep", &layout.tmp))?;
        let records = record::read_all(&layout)?;
        let records = records.into_iter().map(|(key, record)| (key, Arc::new(record)));
        Ok(Self {
            limits,
            claims: Claims::default(),
            records: Mutex::new(records.collect()),
            layout,
        })
    }

    /// Brings an image in and returns it. Idempotent; may be killed at any instruction and done again. Layers that are
    /// there already are not read. Setting `cancel` ends it soon with [`StoreError::Cancelled`].
    pub fn load(&self, source: &ImageSource, cancel: &AtomicBool) -> Result<Image, StoreError> {
        let key = source.key();
        let loaded = match source {
            ImageSource::Registry { .. } => return Err(StoreError::Registry { key }),
            ImageSource::Rootfs { dir } => self.load_rootfs(source, dir),
            _ => self.load_layers(source, cancel),
        };
        loaded.map_err(|error| match error.or_full(&self.layout.root) {
            LoadError::Cancelled => StoreError::Cancelled { key },
            source => StoreError::Load { key, source },
        })
    }

    /// Images that are here whole, by [`ImageSource::key`]. Not among them is one whose source has changed since (the
    /// archive, or the layout's `index.json`, is another file or was written to) and one whose layers are gone. One
    /// whose source was removed is. A few system calls an image.
    pub fn images(&self) -> Result<BTreeMap<String, Image>, StoreError> {
        let records: Vec<_> = self.records().values().cloned().collect();
        let mut images = BTreeMap::new();
        for record in records {
            let image = record.image(&self.layout);
            let whole = image.layers.iter().all(|layer| layer.is_dir());
            if whole && !source::has_changed(&record.source, record.stamp) {
                images.insert(image.key.clone(), image);
            }
        }
        Ok(images)
    }

    /// Forgets images whose key is not in `keep`, then removes layers and blobs that no image has. Returns the bytes
    /// freed on disk. What a load at work needs stays.
    pub fn prune(&self, keep: &BTreeSet<String>) -> Result<u64, StoreError> {
        let mut doomed = Vec::new();
        {
            let claims = self.claims.lock();
            self.forget(keep)?;
            let kept = self.referenced();
            let unused = |digest: &Digest| !kept.contains(digest) && !claims.is_pinned(digest);
            for directory in [&self.layout.layers, &self.layout.blobs] {
                self.move_unused(directory, unused, &mut doomed)?;
            }
        }
        let mut freed = 0;
        for path in doomed {
            freed += tree::remove(&path, &self.layout.tmp).map_err(StoreError::io("remove", &path))?;
        }
        Ok(freed)
    }

    fn load_rootfs(&self, source: &ImageSource, dir: &Path) -> Result<Image, LoadError> {
        source::check_rootfs(dir)?;
        self.remember(Record::rootfs(source.clone()))
    }

    fn load_layers(&self, source: &ImageSource, cancel: &AtomicBool) -> Result<Image, LoadError> {
        let found = source::find(source)?;
        let layers = found.layers.iter().map(|layer| layer.diff_id);
        let documents = found.documents.iter().map(|(digest, _)| *digest);
        let _pins = self.claims.pin(layers.chain(documents).collect());
        self.bring_layers(&found.layers, cancel)?;
        for (digest, bytes) in &found.documents {
            let path = self.layout.blob(digest);
            if !path.exists() {
                self.layout
                    .write(&path, bytes)
                    .map_err(LoadError::io("write", &path))?;
            }
        }
        let visible = self.visible(&found)?;
        self.remember(Record::found(source.clone(), &found, visible))
    }

    /// Makes every layer exist, two at a time; after an error none is begun any more.
    fn bring_layers(&self, layers: &[LayerBlob], cancel: &AtomicBool) -> Result<(), LoadError> {
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let stop = AtomicBool::new(false);
        let work = || {
            while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(e) = self.bring_layer(layer, cancel, &stop) {
                    let mut first = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    first.get_or_insert(e);
                    stop.store(true, Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..PARALLEL.min(layers.len()) {
                scope.spawn(work);
            }
            work();
        });
        let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
        failure.map_or(Ok(()), Err)
    }

    fn bring_layer(
        &self,
        layer: &LayerBlob,
        cancel: &AtomicBool,
        stop: &AtomicBool,
    ) -> Result<(), LoadError> {
        let over = || cancel.load(Ordering::Relaxed) || stop.load(Ordering::Relaxed);
        if over() {
            return Err(LoadError::Cancelled);
        }
        let work = self.claims.work_on(layer.diff_id, over);
        let _work = work.ok_or(LoadError::Cancelled)?;
        layer::bring(&self.layout, layer, &self.limits, cancel)
    }

    /// The layers that overlayfs is to be given. Of one that occurs twice only the upper one (the kernel refuses the
    /// same directory twice, and whatever the lower one has the upper one has too); none below a layer that hides all
    /// beneath it at its root, where overlayfs would not look for the mark.
    fn visible(&self, found: &Found) -> Result<Vec<Digest>, LoadError> {
        let mut layers = Vec::new();
        for layer in found.layers.iter().rev() {
            if layers.contains(&layer.diff_id) {
                continue;
            }
            layers.push(layer.diff_id);
            let path = self.layout.layer(&layer.diff_id);
            let root = File::open(&path).map_err(LoadError::io("open", &path))?;
            if unpack::meta::is_opaque(&root.into()) {
                break;
            }
        }
        layers.reverse();
        Ok(layers)
    }

    fn remember(&self, record: Record) -> Result<Image, LoadError> {
        let key = record.source.key();
        if self.records().get(&key).is_some_and(|known| **known == record) {
            return Ok(record.image(&self.layout));
        }
        let path = self.layout.record(&key);
        let bytes = record.bytes().map_err(|source| LoadError::Json {
            what: "the image's record".to_owned(),
            source,
        })?;
        self.layout
            .write(&path, &bytes)
            .map_err(LoadError::io("write", &path))?;
        let image = record.image(&self.layout);
        self.records().insert(key, Arc::new(record));
        Ok(image)
    }

    fn forget(&self, keep: &BTreeSet<String>) -> Result<(), StoreError> {
        let mut records = self.records();
        let gone: Vec<String> = records
            .keys()
            .filter(|key| !keep.contains(*key))
            .cloned()
            .collect();
        for key in gone {
            let path = self.layout.record(&key);
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::io("remove", &path)(e));
                }
                _ => records.remove(&key),
            };
        }
        let images = &self.layout.images;
        flush_directory(images).map_err(StoreError::io("flush", images))
    }

    fn referenced(&self) -> BTreeSet<Digest> {
        let records = self.records();
        let of = |record: &Arc<Record>| [&record.layers[..], &record.blobs].concat();
        records.values().flat_map(of).collect()
    }

    /// Moves what nobody has into `tmp`, where it is as good as gone. Names that are no digests are not ours.
    fn move_unused(
        &self,
        directory: &Path,
        unused: impl Fn(&Digest) -> bool,
        doomed: &mut Vec<std::path::PathBuf>,
    ) -> Result<(), StoreError> {
        let listing = || StoreError::io("list", directory);
        for entry in std::fs::read_dir(directory).map_err(listing())? {
            let entry = entry.map_err(listing())?;
            let digest = entry.file_name().to_str().map(|hex| format!("sha256:{hex}"));
            let digest: Option<Digest> = digest.and_then(|text| text.parse().ok());
            if digest.is_some_and(|digest| unused(&digest)) {
                let away = tree::fresh(&self.layout.tmp);
                std::fs::rename(entry.path(), &away).map_err(StoreError::io("remove", &entry.path()))?;
                doomed.push(away);
            }
        }
        Ok(())
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Record>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
