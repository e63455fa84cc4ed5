//! Watching the config dir: what happens there only wakes the loop.
//!
//! What is to be watched changes with what is there, so each look at the directory computes it anew
//! ([`crate::trail::Trails`]) and arms it here. inotify(7) is used as it is: whether a watch is a new one decides
//! whether something can have happened before it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::sync::mpsc::UnboundedSender;
use tracing::{error, warn};

use crate::engine::Wake;
use crate::trail::{Interest, Trails};

/// The watches in force.
pub struct Watch {
    inotify: Arc<Inotify>,
    armed: Arc<Armed>,
}

type Armed = Mutex<HashMap<WatchDescriptor, (PathBuf, Interest)>>;

impl Watch {
    /// No directory yet; [`Watch::arm`] names them. Events are read by a thread of its own.
    pub fn new(wakes: UnboundedSender<Wake>) -> std::io::Result<Self> {
        let inotify = Arc::new(Inotify::init(InitFlags::IN_CLOEXEC)?);
        let armed = Arc::new(Armed::default());
        let watch = Self {
            inotify: Arc::clone(&inotify),
            armed: Arc::clone(&armed),
        };
        std::thread::Builder::new()
            .name("wharf-watch".to_owned())
            .spawn(move || listen(&inotify, &armed, &wakes))?;
        Ok(watch)
    }

    /// Watches exactly this. True when something is watched that was not: it may have changed just before, so that the
    /// directory has to be read once more.
    pub fn arm(&mut self, trails: &Trails) -> bool {
        let mut wanted = HashMap::new();
        for (dir, interest) in &trails.0 {
            // A directory that was replaced keeps its name but not its watch: asking anew tells, for one system call.
            match self.inotify.add_watch(dir, mask()) {
                Ok(wd) => {
                    wanted.insert(wd, (dir.clone(), interest.clone()));
                }
                // Gone since the look: its parent's watch tells.
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(e) => {
                    warn!(dir = %dir.display(), "cannot be watched, the full pass has to find its changes: {e}");
                }
            }
        }
        let mut armed = lock(&self.armed);
        let news = wanted.iter().any(|(wd, (_, interest))| {
            !armed
                .get(wd)
                .is_some_and(|(_, before)| includes(before, interest))
        });
        for wd in armed.keys().filter(|wd| !wanted.contains_key(*wd)) {
            // EINVAL: its directory is gone, and the watch with it.
            self.inotify.rm_watch(*wd).ok();
        }
        *armed = wanted;
        news
    }
}

fn includes(before: &Interest, now: &Interest) -> bool {
    before.all || (!now.all && now.names.is_subset(&before.names))
}

/// Reads are no changes (our own would wake us for ever), and a file still being written is read when it is closed.
fn mask() -> AddWatchFlags {
    AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR
}

fn lock(armed: &Armed) -> MutexGuard<'_, HashMap<WatchDescriptor, (PathBuf, Interest)>> {
    armed.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(inotify: &Inotify, armed: &Armed, wakes: &UnboundedSender<Wake>) {
    loop {
        let events = match inotify.read_events() {
            Ok(events) => events,
            Err(Errno::EINTR) => continue,
            Err(e) => {
                return error!("the config dir cannot be watched on, only full passes see changes: {e}");
            }
        };
        let matter = {
            let armed = lock(armed);
            events.iter().any(|event| matters(event, &armed))
        };
        if matter && wakes.send(Wake::Files).is_err() {
            return;
        }
    }
}

fn matters(event: &InotifyEvent, armed: &HashMap<WatchDescriptor, (PathBuf, Interest)>) -> bool {
    // Events were lost.
    if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
        return true;
    }
    // What follows a watch's removal; the removal itself was told before.
    if event.mask.contains(AddWatchFlags::IN_IGNORED) {
        return false;
    }
    match (armed.get(&event.wd), &event.name) {
        // Not armed any more, or armed at this moment: then the directory is read again in any case.
        (None, _) => false,
        (Some(_), None) => true,
        (Some((dir, interest)), Some(name)) => {
            interest.covers(name)
                && !(event.mask.contains(AddWatchFlags::IN_CREATE) && is_being_written(dir, name))
        }
    }
}

/// A file that was just made and is still empty is read when it is closed; a hard link is complete at once.
fn is_being_written(dir: &Path, name: &OsStr) -> bool {
    std::fs::symlink_metadata(dir.join(name))
        .is_ok_and(|meta| meta.is_file() && meta.len() == 0 && meta.nlink() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tokio::sync::mpsc::unbounded_channel;

    fn all(dir: &Path) -> Trails {
        let mut trails = Trails::default();
        trails.0.entry(dir.to_owned()).or_default().all = true;
        trails
    }

    #[test]
    fn only_what_was_not_watched_before_is_news() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("sub");
        std::fs::create_dir(&sub).unwrap();
        let mut watch = Watch::new(unbounded_channel().0).unwrap();
        assert!(watch.arm(&all(&sub)));
        assert!(!watch.arm(&all(&sub)));
        let only = Interest {
            all: false,
            names: ["x".into()].into(),
        };
        assert!(
            !watch.arm(&Trails(BTreeMap::from([(sub.clone(), only)]))),
            "less than before"
        );
        assert!(watch.arm(&all(&sub)), "more than before");
        std::fs::rename(&sub, dir.path().join("old")).unwrap();
        std::fs::create_dir(&sub).unwrap();
        assert!(watch.arm(&all(&sub)), "another directory of that name");
    }

    #[test]
    fn a_name_nobody_asked_for_wakes_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let (wakes, mut inbox) = unbounded_channel();
        let mut watch = Watch::new(wakes).unwrap();
        let only = Interest {
            all: false,
            names: ["wanted".into()].into(),
        };
        watch.arm(&Trails(BTreeMap::from([(dir.path().to_owned(), only)])));
        // A file that is moved in is one event, where one that is written is several.
        let outside = tempfile::tempdir().unwrap();
        let move_in = |name: &str| {
            std::fs::write(outside.path().join(name), "x").unwrap();
            std::fs::rename(outside.path().join(name), dir.path().join(name)).unwrap();
        };
        move_in("other");
        move_in("wanted");
        assert!(matches!(inbox.blocking_recv(), Some(Wake::Files)));
        move_in("other");
        drop(watch);
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(inbox.try_recv().is_err());
    }
}
