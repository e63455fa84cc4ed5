//! Named volumes: their directories, what they were made as, and a trash for those that were removed.
//!
//! ```text
//! STATE/volumes/NAME/volume.json          what it was made as
//! STATE/volumes/NAME/_data/               what containers see of a local one; data in it are never touched here
//! STATE/volumes/NAME/filled               written by the runtime, see `model::paths::VOLUME_FILLED`
//! STATE/volumes/.new/                     what is being made; swept when opened
//! STATE/trash/MILLISECONDS-volume-NAME/   a removed one, for a day
//! RUN/volumes/NAME/                       what containers see of a tmpfs one: in memory, gone with the boot
//! RUN/nfs/NAME/                           what containers see of one on a server: a mount
//! ```
//!
//! A volume appears and goes by a rename of its directory, so that every call may be killed at any instruction and
//! made again. One process has them open: the agent, which holds the state directory's lock.

mod copies;
mod error;
mod nfs;
mod record;
mod trash;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use model::name::Name;
use model::observed::{ObservedVolume, Reach};
use model::paths::{Roots, VOLUME_DATA, VOLUME_FILLED};
use model::spec::{VolumeDriver, VolumeSpec};

pub use copies::{Holes, Imported};
pub use error::VolumeError;
pub use nfs::NfsError;
pub use trash::{KEPT as TRASH_KEPT, Trashed};

use crate::layout::flush_directory;
use crate::tree;
use record::{RECORD, Record, is_absent};
use trash::{GOING, Trash};

type Result<T> = std::result::Result<T, VolumeError>;

/// Where volumes are made before they get their place.
const MAKING: &str = ".new";

/// The volumes of one agent, shared by reference among threads. All calls block.
pub struct Volumes {
    volumes: PathBuf,
    making: PathBuf,
    /// Of tmpfs volumes.
    memory: PathBuf,
    /// Of those on servers.
    mounts: nfs::Mounts,
    trash: Trash,
    changing: Mutex<()>,
}

impl Volumes {
    /// Makes what directories are missing (0700), sweeps what an interrupted call left, and makes the directories of
    /// tmpfs volumes again that went with the last boot. What is on servers is not mounted here: [`Self::apply`] does it.
    pub fn open(roots: &Roots) -> Result<Self> {
        let volumes = roots.volumes();
        let opened = Self {
            making: volumes.join(MAKING),
            memory: roots.run.join("volumes"),
            mounts: nfs::Mounts::open(&roots.nfs()).map_err(VolumeError::Mounts)?,
            trash: Trash::open(roots.state.join("trash"))?,
            changing: Mutex::new(()),
            volumes,
        };
        directory(&opened.volumes, 0o700)?;
        directory(&opened.memory, 0o700)?;
        for path in [&opened.making, &opened.memory.join(GOING)] {
            directory(path, 0o700)?;
            tree::sweep(path).map_err(VolumeError::io("sweep", path))?;
        }
        opened.renew_memory()?;
        opened.sweep_mounts()?;
        Ok(opened)
    }

    /// `tell` is called from now on when a server that a volume is on ceases to answer, and when it answers again:
    /// [`Self::list`] says which.
    pub fn tell_of_servers(&self, tell: impl Fn() + Send + Sync + 'static) {
        self.mounts.tell(tell);
    }

    /// Every volume there is. Not among them is one whose directory of ours is missing: [`Volumes::apply`] makes it
    /// again. A bind's device is not looked at, nor what is on a server.
    pub fn list(&self) -> Result<BTreeMap<Name, ObservedVolume>> {
        let records = self.records()?;
        let of_server = |(_, record): &(Name, Record)| record.spec.driver == VolumeDriver::Nfs;
        let mounted = match records.iter().any(of_server) {
            true => self.mounts.mounted().map_err(VolumeError::Mounts)?,
            false => BTreeSet::new(),
        };
        let mut found = BTreeMap::new();
        for (name, record) in records {
            let path = self.path(&name, &record.spec);
            let reach = match record.spec.driver {
                VolumeDriver::Nfs => self.mounts.reach(&name, &mounted),
                VolumeDriver::Bind => Reach::Here,
                VolumeDriver::Local | VolumeDriver::Tmpfs if path.is_dir() => Reach::Here,
                VolumeDriver::Local | VolumeDriver::Tmpfs => continue,
            };
            let volume = ObservedVolume {
                path,
                spec: record.spec,
                created_at: record.created_at,
                reach,
            };
            found.insert(name, volume);
        }
        Ok(found)
    }

    /// Whether what is at a volume's path can be had now; where that is on a server, it is asked, for some seconds.
    pub fn at_hand(&self, name: &Name, path: &Path) -> Result<()> {
        match path == self.mounts.point(name) {
            true => self.mounts.at_hand(name).map_err(VolumeError::nfs(name)),
            false => Ok(()),
        }
    }

    /// Makes a volume, or puts right what differs. Data that are there are left alone, and a volume of ours that holds
    /// some keeps its driver: another one is refused. One on a server is mounted; that takes at most some seconds.
    pub fn apply(&self, name: &Name, spec: &VolumeSpec) -> Result<()> {
        check(name, spec)?;
        // Nobody else is held up by a server. Two calls at a time about the same volume are not made.
        let mount = self.mount_to_be(name, spec)?;
        let _changing = self.lock();
        match self.record(name)? {
            Some(record) => self.put_right(name, spec, record)?,
            None => self.make(name, spec)?,
        }
        // Last: what is mounted is then what the record says.
        match mount {
            Some(mount) => self.mounts.attach(name, &mount).map_err(VolumeError::nfs(name)),
            None => Ok(()),
        }
    }

    /// The mount that a volume has not, at no place yet; where another one was, it is gone.
    fn mount_to_be(&self, name: &Name, spec: &VolumeSpec) -> Result<Option<OwnedFd>> {
        let record = self.record(name)?;
        let of_server = record
            .as_ref()
            .is_some_and(|r| r.spec.driver == VolumeDriver::Nfs);
        if spec.driver != VolumeDriver::Nfs {
            if of_server {
                self.mounts.take_away(name).map_err(VolumeError::nfs(name))?;
            }
            return Ok(None);
        }
        let same = |r: &Record| (&r.spec.device, &r.spec.options) == (&spec.device, &spec.options);
        if of_server && record.as_ref().is_some_and(same) {
            let mounted = self.mounts.mounted().map_err(VolumeError::nfs(name))?;
            if self.mounts.reach(name, &mounted) != Reach::Unmounted {
                return Ok(None);
            }
        }
        if let Some(record) = record.filter(|r| r.spec.driver != spec.driver) {
            self.refuse_with_data(name, &record.spec, spec)?;
        }
        let mount = self.mounts.obtain(name, spec).map_err(VolumeError::nfs(name))?;
        self.mounts.take_away(name).map_err(VolumeError::nfs(name))?;
        Ok(Some(mount))
    }

    /// Puts a volume away and says where it is kept for a day; none where there was none. A bind's data stay where
    /// they are, and so do those on a server, which is unmounted; a tmpfs one's are gone.
    pub fn remove(&self, name: &Name) -> Result<Option<PathBuf>> {
        self.mounts.take_away(name).map_err(VolumeError::nfs(name))?;
        let _changing = self.lock();
        let home = self.home(name);
        let to = self.trash.take(&home, name);
        let to = to.map_err(VolumeError::io("move into the trash", &home))?;
        self.flush(&self.volumes)?;
        let memory = self.memory.join(name.as_str());
        self.delete_memory(&memory)?;
        Ok(to)
    }

    /// What was removed and is still kept, the oldest first.
    pub fn trash(&self) -> Result<Vec<Trashed>> {
        self.trash.entries()
    }

    /// Deletes what was removed a day ago or earlier. Returns the bytes freed on disk.
    pub fn empty_trash(&self, now: Timestamp) -> Result<u64> {
        self.trash.empty(now)
    }

    /// The directory appears with its record in it and, where the data are ours, an empty place for them.
    fn make(&self, name: &Name, spec: &VolumeSpec) -> Result<()> {
        let home = self.home(name);
        // Without record and data it is no volume; but it is not for us to say that it is nothing.
        let odd = self.trash.take(&home, name);
        if let Some(to) = odd.map_err(VolumeError::io("move into the trash", &home))? {
            tracing::warn!(volume = %name, to = %to.display(), "what lay in a volume's place was put into the trash");
        }
        let fresh = tree::fresh(&self.making);
        directory(&fresh, 0o700)?;
        if spec.driver == VolumeDriver::Local {
            directory(&fresh.join(VOLUME_DATA), 0o755)?;
        }
        self.write(&fresh, spec, None)?;
        if spec.driver == VolumeDriver::Tmpfs {
            directory(&self.path(name, spec), 0o755)?;
        }
        fs::rename(&fresh, &home).map_err(VolumeError::io("make", &home))?;
        self.flush(&self.volumes)
    }

    fn put_right(&self, name: &Name, spec: &VolumeSpec, record: Record) -> Result<()> {
        let home = self.home(name);
        if record.spec.driver != spec.driver {
            self.refuse_with_data(name, &record.spec, spec)?;
        }
        match spec.driver {
            VolumeDriver::Local => self.renew_data(&home)?,
            VolumeDriver::Tmpfs => directory(&self.path(name, spec), 0o755)?,
            VolumeDriver::Bind | VolumeDriver::Nfs => {}
        }
        if record.assumed || record.spec != *spec {
            self.write(&home, spec, Some(record))?;
        }
        if spec.driver != VolumeDriver::Local {
            // Without a driver that uses it, it would be taken for data whose record was lost.
            let data = home.join(VOLUME_DATA);
            match fs::remove_dir(&data) {
                Err(e) if !is_absent(&e) => return Err(VolumeError::io("remove", &data)(e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// The data of a local volume are a directory, whoever removed it.
    fn renew_data(&self, home: &Path) -> Result<()> {
        let data = home.join(VOLUME_DATA);
        if data.is_dir() {
            return Ok(());
        }
        let filled = home.join(VOLUME_FILLED);
        match fs::remove_file(&filled) {
            Err(e) if !is_absent(&e) => return Err(VolumeError::io("remove", &filled)(e)),
            _ => {}
        }
        directory(&data, 0o755)?;
        self.flush(home)
    }

    fn refuse_with_data(&self, name: &Name, old: &VolumeSpec, new: &VolumeSpec) -> Result<()> {
        if matches!(old.driver, VolumeDriver::Bind | VolumeDriver::Nfs) {
            return Ok(());
        }
        let path = self.path(name, old);
        let held = match fs::read_dir(&path) {
            Ok(mut entries) => entries.next().is_some(),
            Err(e) if is_absent(&e) => false,
            Err(e) => return Err(VolumeError::io("list", &path)(e)),
        };
        match held {
            false => Ok(()),
            true => Err(VolumeError::HoldsData {
                name: name.clone(),
                path,
                wanted: word(new.driver),
            }),
        }
    }

    /// Writes the record into a volume's directory, the time of an earlier one kept.
    fn write(&self, home: &Path, spec: &VolumeSpec, earlier: Option<Record>) -> Result<()> {
        let mut record = Record::new(spec);
        if let Some(earlier) = earlier {
            record.created_at = earlier.created_at;
        }
        let (aside, path) = (tree::fresh(&self.making), home.join(RECORD));
        record
            .write_new(&aside)
            .and_then(|()| fs::rename(&aside, &path))
            .map_err(VolumeError::io("write", &path))?;
        self.flush(home)
    }

    fn records(&self) -> Result<Vec<(Name, Record)>> {
        let listing = || VolumeError::io("list", &self.volumes);
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.volumes).map_err(listing())? {
            let name = entry.map_err(listing())?.file_name();
            // Other names are not ours.
            let name: Option<Name> = name.to_str().and_then(|text| text.parse().ok());
            if let Some(name) = name
                && let Some(record) = self.record(&name)?
            {
                records.push((name, record));
            }
        }
        Ok(records)
    }

    fn record(&self, name: &Name) -> Result<Option<Record>> {
        let home = self.home(name);
        Record::of(&home).map_err(VolumeError::io("read the record of", &home))
    }

    /// Directories of tmpfs volumes after a boot; those that no volume owns go.
    fn renew_memory(&self) -> Result<()> {
        let mut owned = BTreeSet::from([OsString::from(GOING)]);
        for (name, record) in self.records()? {
            if record.spec.driver == VolumeDriver::Tmpfs {
                directory(&self.path(&name, &record.spec), 0o755)?;
                owned.insert(name.as_str().into());
            }
        }
        let listing = || VolumeError::io("list", &self.memory);
        for entry in fs::read_dir(&self.memory).map_err(listing())? {
            let entry = entry.map_err(listing())?;
            if !owned.contains(&entry.file_name()) {
                self.delete_memory(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Mounts that no volume owns are of a call that was interrupted.
    fn sweep_mounts(&self) -> Result<()> {
        let records = self.records()?.into_iter();
        let of_servers = records.filter(|(_, record)| record.spec.driver == VolumeDriver::Nfs);
        let owned = of_servers.map(|(name, _)| name).collect();
        self.mounts.sweep(&owned).map_err(VolumeError::Mounts)
    }

    /// On its own file system, so with a place of its own for the pieces.
    fn delete_memory(&self, dir: &Path) -> Result<()> {
        let deleted = tree::remove(dir, &self.memory.join(GOING));
        deleted.map(drop).map_err(VolumeError::io("delete", dir))
    }

    fn home(&self, name: &Name) -> PathBuf {
        self.volumes.join(name.as_str())
    }

    /// The directory containers see.
    fn path(&self, name: &Name, spec: &VolumeSpec) -> PathBuf {
        match (spec.driver, &spec.device) {
            (VolumeDriver::Bind, Some(device)) => device.clone(),
            (VolumeDriver::Tmpfs, _) => self.memory.join(name.as_str()),
            (VolumeDriver::Nfs, _) => self.mounts.point(name),
            _ => self.home(name).join(VOLUME_DATA),
        }
    }

    fn flush(&self, dir: &Path) -> Result<()> {
        flush_directory(dir).map_err(VolumeError::io("flush", dir))
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What cannot be made is refused before anything is touched.
fn check(name: &Name, spec: &VolumeSpec) -> Result<()> {
    let device = match (spec.driver, &spec.device) {
        (VolumeDriver::Nfs, _) => return nfs::check(spec).map_err(VolumeError::nfs(name)),
        (VolumeDriver::Bind, None) => return Err(VolumeError::NoDevice(name.clone())),
        (VolumeDriver::Bind, Some(device)) => device,
        _ => return Ok(()),
    };
    let why = match fs::metadata(device) {
        _ if !device.is_absolute() => "is not an absolute path".to_owned(),
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => "is not a directory".to_owned(),
        Err(e) if is_absent(&e) => {
            "does not exist: make it, or mount it (a bind volume is never made by itself)".to_owned()
        }
        Err(e) => format!("cannot be looked at: {e}"),
    };
    Err(VolumeError::Device {
        name: name.clone(),
        device: device.clone(),
        why,
    })
}

fn word(driver: VolumeDriver) -> &'static str {
    match driver {
        VolumeDriver::Local => "local",
        VolumeDriver::Bind => "bind",
        VolumeDriver::Tmpfs => "tmpfs",
        VolumeDriver::Nfs => "nfs",
    }
}

/// The mode is set only as the directory is made: what a container did to the root of its volume stays.
fn directory(path: &Path, mode: u32) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(VolumeError::io("make the directory", path))?;
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(VolumeError::io("set the mode of", path))
}
