//! Noticing at once that somebody takes away, or scribbles over, what containers, volumes and the agent live by.
//!
//! inotify(7) on the directories they have, for deletions and foreign writes only: what is ours to replace is replaced by
//! a rename, which is not listened to. On control groups v2 the kernel tells as well when a group becomes empty. Of what
//! the network's own notifications keep silent about, the writing to its file below /proc/sys tells.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::name::ContainerId;
use model::observed::Observed;
use model::paths::{Roots, VOLUME_DATA};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::sync::mpsc::UnboundedSender;
use tracing::{error, warn};

use super::Wake;
use crate::host::Host;
use crate::observe;

/// Whose it is that was touched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    Container(ContainerId),
    Volumes,
    /// Unpacked layers of images.
    Layers,
    /// The settings of our bridges.
    Bridges,
    /// The ledger.
    Agent,
}

/// What of a directory (or a control file) matters; no names: everything.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Interest {
    owner: Owner,
    names: &'static [&'static str],
}

type Wanted = BTreeMap<PathBuf, Interest>;

/// The watches in force.
pub struct Taken {
    inotify: Arc<Inotify>,
    armed: Arc<Mutex<Armed>>,
    /// It was said already that there are not enough of them.
    told: bool,
}

#[derive(Default)]
struct Armed {
    by_path: BTreeMap<PathBuf, WatchDescriptor>,
    by_watch: HashMap<WatchDescriptor, (PathBuf, Interest)>,
    /// Something that was to be watched is not.
    gaps: bool,
}

impl Taken {
    /// Nothing yet. A thread of its own reads what comes.
    pub fn new(wakes: UnboundedSender<Wake>) -> std::io::Result<Self> {
        let inotify = Arc::new(Inotify::init(InitFlags::IN_CLOEXEC)?);
        let armed = Arc::new(Mutex::new(Armed::default()));
        let taken = Self {
            inotify: Arc::clone(&inotify),
            armed: Arc::clone(&armed),
            told: false,
        };
        std::thread::Builder::new()
            .name("wharf-taken".to_owned())
            .spawn(move || listen(&inotify, &armed, &wakes))?;
        Ok(taken)
    }

    /// Whether something is not watched that was to be: it is tried again, whether or not a look shows anything new.
    pub fn has_gaps(&self) -> bool {
        lock(&self.armed).gaps
    }

    /// A container's control groups may have been made again: who watches a control file of one that was removed is told
    /// nothing, not even that, so that the next [`Self::follow`] takes the file that is there by then.
    pub fn forget_groups(&self, id: &ContainerId) {
        let owner = Owner::Container(id.clone());
        let mut armed = lock(&self.armed);
        let its = armed
            .by_watch
            .iter()
            .filter(|(_, (path, interest))| interest.owner == owner && is_control_file(path));
        for watch in its.map(|(watch, _)| *watch).collect::<Vec<_>>() {
            if let Some((path, _)) = armed.by_watch.remove(&watch) {
                armed.by_path.remove(&path);
            }
            armed.gaps = true;
            // EINVAL: it is gone, and the watch with it.
            self.inotify.rm_watch(watch).ok();
        }
    }

    /// Watches exactly what is there by the latest look; what is watched already costs nothing.
    pub fn follow(&mut self, roots: &Roots, host: &Host, observed: &Observed) {
        let Some(wanted) = wanted(roots, host, observed) else {
            return;
        };
        let mut armed = lock(&self.armed);
        armed.gaps = false;
        let gone = armed.by_path.keys().filter(|path| !wanted.contains_key(*path));
        for path in gone.cloned().collect::<Vec<_>>() {
            if let Some(watch) = armed.by_path.remove(&path) {
                armed.by_watch.remove(&watch);
                // EINVAL: it is gone, and the watch with it.
                self.inotify.rm_watch(watch).ok();
            }
        }
        for (path, interest) in wanted {
            if armed.by_path.contains_key(&path) {
                continue;
            }
            match self.inotify.add_watch(&path, mask(&path)) {
                Ok(watch) => {
                    armed.by_path.insert(path.clone(), watch);
                    armed.by_watch.insert(watch, (path, interest));
                }
                // Gone since the look, which the next one sees.
                Err(Errno::ENOENT | Errno::ENOTDIR) => armed.gaps = true,
                Err(e) if !self.told => {
                    (self.told, armed.gaps) = (true, true);
                    warn!(path = %path.display(), "cannot be watched, only full passes see what is taken away there: {e}");
                }
                Err(_) => armed.gaps = true,
            }
        }
    }
}

/// None where something could not be seen: then what is watched stays so.
fn wanted(roots: &Roots, host: &Host, observed: &Observed) -> Option<Wanted> {
    let (containers, volumes) = (observed.containers.known()?, observed.volumes.known()?);
    let interest = |owner: &Owner, names| Interest {
        owner: owner.clone(),
        names,
    };
    let mut wanted = Wanted::from([
        (
            roots.state.clone(),
            interest(&Owner::Agent, &["ledger.json"] as &[_]),
        ),
        (roots.volumes(), interest(&Owner::Volumes, &[])),
        (host.store.layers_dir().to_owned(), interest(&Owner::Layers, &[])),
    ]);
    // Of one that is not right by the latest look, the next look sees that it was made so: a bridge that is made anew has
    // other files by the same name.
    for bridge in observe::bridges(observed) {
        let files = net::bridge_setting_files(&bridge).into_iter().map(PathBuf::from);
        wanted.extend(files.map(|file| (file, interest(&Owner::Bridges, &[]))));
    }
    for volume in volumes.values() {
        if let Some(home) = volume
            .path
            .parent()
            .filter(|_| volume.path.ends_with(VOLUME_DATA))
        {
            wanted.insert(home.to_owned(), interest(&Owner::Volumes, &[VOLUME_DATA]));
        }
    }
    for (id, seen) in containers
        .iter()
        .filter_map(|(id, look)| Some((id, look.known()?)))
    {
        let owner = Owner::Container(id.clone());
        for (path, names) in host.runtime.watched(seen) {
            wanted.insert(path, interest(&owner, names));
        }
    }
    Some(wanted)
}

fn is_control_file(path: &Path) -> bool {
    path.ends_with("cgroup.events")
}

fn mask(path: &Path) -> AddWatchFlags {
    if is_control_file(path) || path.starts_with("/proc") {
        return AddWatchFlags::IN_MODIFY;
    }
    AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR
}

fn lock(armed: &Mutex<Armed>) -> MutexGuard<'_, Armed> {
    armed.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(inotify: &Inotify, armed: &Mutex<Armed>, wakes: &UnboundedSender<Wake>) {
    loop {
        let events = match inotify.read_events() {
            Ok(events) => events,
            Err(Errno::EINTR) => continue,
            Err(e) => {
                return error!("the state dir cannot be watched on, only full passes see what is taken: {e}");
            }
        };
        let mut armed = lock(armed);
        let mut owners = BTreeSet::new();
        for event in &events {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                drop(wakes.send(Wake::Overrun)); // nobody listens: the process ends
            }
            owners.extend(armed.touched(event));
        }
        drop(armed);
        if owners
            .into_iter()
            .any(|owner| wakes.send(Wake::Taken(owner)).is_err())
        {
            return;
        }
    }
}

impl Armed {
    fn touched(&mut self, event: &InotifyEvent) -> Option<Owner> {
        let (path, interest) = self.by_watch.get(&event.wd)?;
        let matters = match &event.name {
            None => true,
            Some(name) => interest.names.is_empty() || interest.names.iter().any(|n| *n == name.as_os_str()),
        };
        let owner = interest.owner.clone();
        // Its watch is gone, or of what is elsewhere now: one made again in its place is armed with the next look.
        let left = AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF;
        if event.mask.intersects(left) {
            let path = path.clone();
            self.gaps = true;
            self.by_watch.remove(&event.wd);
            self.by_path.remove(&path);
        }
        matters.then_some(owner)
    }
}
