//! The store's public face: open, load, list. Removing is in `remove`.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::digest::Digest;
use model::image::{Image, ImageSource};

use crate::claims::Claims;
use crate::error::{LoadError, StoreError};
use crate::layout::Layout;
use crate::record::{self, Listed, Record};
use crate::registry::{self, Login, RegistryConfig, Report};
use crate::source::{self, Found, LayerBlob};
use crate::usage::Usage;
use crate::{layer, parallel, tree, unpack};

/// Layers brought in at a time. One more than keep two processors busy, and some where the registry is what is slow.
const PARALLEL: usize = 4;

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

/// How an image is to be loaded.
#[derive(Clone, Copy)]
pub struct LoadOptions<'a> {
    /// Ask the registry even if the image is there. Where the reference still leads to the same one nothing is fetched.
    pub refresh: bool,
    /// Setting it ends the load soon with [`StoreError::Cancelled`].
    pub cancel: &'a AtomicBool,
    /// Told how far each layer of a registry's image is; called from several threads.
    pub progress: Report<'a>,
    /// Who pulls, where it is not whom the settings and files name.
    pub login: Option<&'a Login>,
}

impl<'a> LoadOptions<'a> {
    /// Content with what is there, telling nobody.
    pub fn new(cancel: &'a AtomicBool) -> Self {
        Self {
            refresh: false,
            cancel,
            progress: None,
            login: None,
        }
    }
}

/// Images on disk, shared by reference among threads. See the crate's head for what lies where.
pub struct Store {
    pub(crate) layout: Layout,
    pub(crate) limits: Limits,
    pub(crate) claims: Arc<Claims>,
    registries: Mutex<Arc<RegistryConfig>>,
    /// What `images/` holds; this store is its only writer.
    records: Mutex<BTreeMap<String, Arc<Record>>>,
    pub(crate) usage: Usage,
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
            claims: Arc::default(),
            registries: Mutex::default(),
            records: Mutex::new(records.collect()),
            usage: Usage::open(&layout),
            layout,
        })
    }

    /// Where unpacked layers are, each a directory. Whoever takes one away makes the images it is part of incomplete.
    pub fn layers_dir(&self) -> &Path {
        &self.layout.layers
    }

    /// How registries are reached from the next load on. Without it: anonymously, docker's file unread.
    pub fn set_registries(&self, config: RegistryConfig) {
        *self.registries.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// How registries are reached now.
    pub fn registries(&self) -> Arc<RegistryConfig> {
        Arc::clone(&self.registries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Brings an image in and returns it. Idempotent; may be killed at any instruction and done again. Layers that are
    /// there already are neither fetched nor read. An image of a registry that is there whole is returned without a
    /// question, unless `options.refresh` wants one; when the answer to that cannot be had, the error says why and the
    /// image stays.
    pub fn load(&self, source: &ImageSource, options: &LoadOptions<'_>) -> Result<Image, StoreError> {
        let key = source.key();
        self.usage.want(&key, &self.layout);
        let loaded = match source {
            ImageSource::Registry { reference } => self.pull(source, reference, options),
            ImageSource::Rootfs { dir } => self.load_rootfs(source, dir),
            _ => source::find(source).and_then(|found| self.bring(source, &found, options)),
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
        let listing = self.listing()?.into_iter();
        Ok(listing
            .map(|listed| (listed.image.key.clone(), listed.image))
            .collect())
    }

    /// The same with what the store remembers besides, by key.
    pub fn listing(&self) -> Result<Vec<Listed>, StoreError> {
        let records: Vec<_> = self.records().values().cloned().collect();
        let whole = records.iter().filter_map(|record| self.whole(record));
        Ok(whole.collect())
    }

    fn whole(&self, record: &Record) -> Option<Listed> {
        let image = record.image(&self.layout);
        let whole = image.layers.iter().all(|layer| layer.is_dir());
        let listed = Listed {
            image,
            pulled: record.pulled,
            pinned: record.top,
        };
        (whole && !source::has_changed(&record.source, record.stamp)).then_some(listed)
    }

    fn pull(
        &self,
        source: &ImageSource,
        reference: &str,
        options: &LoadOptions<'_>,
    ) -> Result<Image, LoadError> {
        let record = self.records().get(&source.key()).cloned();
        let here = record.and_then(|record| self.whole(&record));
        // What a digest leads to never changes.
        let pinned = reference.contains('@');
        let recorded = here.as_ref().is_some_and(|here| self.is_recorded(&here.image));
        if let Some(here) = here.as_ref().filter(|_| !options.refresh || (pinned && recorded)) {
            return Ok(here.image.clone());
        }
        // What an older version kept no record of is fetched once more.
        let known = here.as_ref().filter(|_| recorded).and_then(|here| here.pinned);
        let mut config = self.registries();
        if let Some(login) = options.login {
            config = Arc::new(RegistryConfig::clone(&config).with_login(login.clone()));
        }
        match (registry::find(&config, reference, known, options.cancel)?, here) {
            (None, Some(here)) => Ok(here.image),
            (Some(found), _) => self.bring(source, &found, options),
            (None, None) => Err(LoadError::refused(
                reference,
                "it was there a moment ago: try again",
            )),
        }
    }

    /// Whether the tars of all its layers can be given out again.
    fn is_recorded(&self, image: &Image) -> bool {
        let names = image.layers.iter().filter_map(|layer| layer.file_name());
        names.into_iter().all(|name| self.layout.tars.join(name).exists())
    }

    fn load_rootfs(&self, source: &ImageSource, dir: &Path) -> Result<Image, LoadError> {
        source::check_rootfs(dir)?;
        self.remember(Record::rootfs(source.clone()))
    }

    fn bring(
        &self,
        source: &ImageSource,
        found: &Found,
        options: &LoadOptions<'_>,
    ) -> Result<Image, LoadError> {
        let layers = found.layers.iter().map(|layer| layer.diff_id);
        let documents = found.documents.iter().map(|(digest, _)| *digest);
        let _pins = self.claims.pin(layers.chain(documents).collect());
        self.bring_layers(&found.layers, options)?;
        self.keep(&found.documents)?;
        let layers: Vec<Digest> = found.layers.iter().map(|layer| layer.diff_id).collect();
        let visible = self.visible(&layers)?;
        self.remember(Record::found(source.clone(), found, visible))
    }

    /// Makes every layer exist, some at a time; after an error none is begun any more.
    fn bring_layers(&self, layers: &[LayerBlob], options: &LoadOptions<'_>) -> Result<(), LoadError> {
        let bring = |layer: &LayerBlob, stop: &AtomicBool| self.bring_layer(layer, options, stop);
        parallel::each(layers, PARALLEL, bring).map(drop)
    }

    fn bring_layer(
        &self,
        layer: &LayerBlob,
        options: &LoadOptions<'_>,
        stop: &AtomicBool,
    ) -> Result<(), LoadError> {
        let over = || options.cancel.load(Ordering::Relaxed) || stop.load(Ordering::Relaxed);
        if over() {
            return Err(LoadError::Cancelled);
        }
        let work = self.claims.work_on(layer.diff_id, over);
        let _work = work.ok_or(LoadError::Cancelled)?;
        layer::bring(&self.layout, layer, &self.limits, options)
    }

    /// The layers that overlayfs is to be given. Of one that occurs twice only the upper one (the kernel refuses the
    /// same directory twice, and whatever the lower one has the upper one has too); none below a layer that hides all
    /// beneath it at its root, where overlayfs would not look for the mark.
    pub(crate) fn visible(&self, all: &[Digest]) -> Result<Vec<Digest>, LoadError> {
        let mut layers = Vec::new();
        for layer in all.iter().rev() {
            if layers.contains(layer) {
                continue;
            }
            layers.push(*layer);
            let path = self.layout.layer(layer);
            let root = File::open(&path).map_err(LoadError::io("open", &path))?;
            if unpack::meta::is_opaque(&root.into()) {
                break;
            }
        }
        layers.reverse();
        Ok(layers)
    }

    pub(crate) fn remember(&self, record: Record) -> Result<Image, LoadError> {
        let key = record.source.key();
        let known = self.records().get(&key).cloned();
        if known.is_some_and(|known| known.is_like(&record)) {
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

    pub(crate) fn records(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Record>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
