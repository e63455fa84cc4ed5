//! Volumes on servers: each one mounted once, below `RUN/nfs`, in the agent's mount namespace; containers bind from there.
//!
//! A server may be away at any moment, and whoever touches what is mounted from it then hangs. So nothing here does, but
//! on a thread nobody waits for without a deadline; what is mounted is read from the mount table, never looked at.

mod answers;
mod call;
mod error;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use model::name::Name;
use model::nfs::{Export, Options};
use model::observed::Reach;
use model::spec::VolumeSpec;
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};

use answers::Answers;
use call::Wanted;
pub use error::NfsError;

use super::record::is_absent;

type Result<T> = std::result::Result<T, NfsError>;

/// proc_pid_mountinfo(5): the agent's own mount namespace, in which all its threads are.
const TABLE: &str = "/proc/thread-self/mountinfo";

/// A mount that takes longer is one that failed; it goes on by itself, and whoever asks again finds it done.
const DEADLINE: Duration = Duration::from_secs(20);

/// Detaching is done at once; what is left of it then is the kernel's, which may have to wait for the server.
const DETACHING: Duration = Duration::from_secs(5);

/// The mounts of one agent.
pub(super) struct Mounts {
    dir: PathBuf,
    /// Mounts under way that were not waited for to their end.
    begun: Mutex<BTreeMap<Name, Begun>>,
    answers: Arc<Answers>,
}

struct Begun {
    wanted: Wanted,
    answer: Receiver<Result<OwnedFd>>,
}

impl Mounts {
    /// Makes the directory (0700).
    pub fn open(dir: &Path) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(NfsError::io("make the directory", dir))?;
        Ok(Self {
            // As the mount table has it.
            dir: dir.canonicalize().map_err(NfsError::io("look at", dir))?,
            begun: Mutex::default(),
            answers: Arc::default(),
        })
    }

    /// Where a volume's data are seen.
    pub fn point(&self, name: &Name) -> PathBuf {
        self.dir.join(name.as_str())
    }

    /// Hears from now on when a server ceases to answer, and when it answers again.
    pub fn tell(&self, tell: impl Fn() + Send + Sync + 'static) {
        self.answers.tell(Box::new(tell));
    }

    /// What of it can be had, by the mount table and the last answer of the server, who is asked anew.
    pub fn reach(&self, name: &Name, mounted: &BTreeSet<Name>) -> Reach {
        match mounted.contains(name) {
            true => self.answers.last(name, &self.point(name)),
            false => Reach::Unmounted,
        }
    }

    /// Whether it can be had now. Waits for the server, for some seconds.
    pub fn at_hand(&self, name: &Name) -> Result<()> {
        let point = self.point(name);
        let reach = match self.mounted()?.contains(name) {
            true => self.answers.now(name, &point),
            false => Reach::Unmounted,
        };
        match reach {
            Reach::Here => Ok(()),
            Reach::Unmounted => Err(NfsError::Unmounted(point)),
            Reach::Silent(why) => Err(NfsError::Silent { path: point, why }),
        }
    }

    /// What is mounted below the directory.
    pub fn mounted(&self) -> Result<BTreeSet<Name>> {
        let table = fs::read(TABLE).map_err(NfsError::io("read", TABLE))?;
        let below = model::mounts::parse(&table).filter_map(|mounted| {
            let name = mounted.point.strip_prefix(&self.dir).ok()?.to_str()?;
            name.parse().ok()
        });
        Ok(below.collect())
    }

    /// A mount of what the table asks for, to be put in its place by [`Self::attach`].
    pub fn obtain(&self, name: &Name, spec: &VolumeSpec) -> Result<OwnedFd> {
        let wanted = wanted(spec)?;
        let same = self.begun().remove(name).filter(|begun| begun.wanted == wanted);
        let begun = match same {
            Some(begun) => begun,
            None => begin(wanted)?,
        };
        match begun.answer.recv_timeout(DEADLINE) {
            Ok(done) => done,
            Err(RecvTimeoutError::Timeout) => {
                let export = begun.wanted.export.to_string();
                self.begun().insert(name.clone(), begun);
                Err(NfsError::NoAnswer {
                    export,
                    after: DEADLINE,
                })
            }
            Err(RecvTimeoutError::Disconnected) => {
                let broken = io::Error::other("it broke off inside wharf");
                Err(NfsError::io("mount", self.point(name))(broken))
            }
        }
    }

    /// Puts a mount in a volume's place, where nothing is mounted.
    pub fn attach(&self, name: &Name, mount: &OwnedFd) -> Result<()> {
        let point = self.point(name);
        // Nobody but root writes into a place while nothing is mounted there.
        for (dir, mode) in [(&self.dir, 0o700), (&point, 0)] {
            match DirBuilder::new().mode(mode).create(dir) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(NfsError::io("make the directory", dir)(e));
                }
                _ => {}
            }
        }
        move_mount(mount, c"", CWD, &point, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(NfsError::io("mount at", &point))?;
        self.answers.forget(name);
        Ok(())
    }

    /// Takes the mount out of its place, all that is stacked there, and the place with it. Who has it open, or bound it
    /// elsewhere, keeps it. What is on the server is not touched.
    pub fn take_away(&self, name: &Name) -> Result<()> {
        if let Some(begun) = self.begun().remove(name) {
            // It may have been mounted meanwhile, and to give that back may take its server.
            thread::Builder::new()
                .spawn(move || drop(begun))
                .map_err(NfsError::io("start the thread that unmounts", self.point(name)))?;
        }
        let point = self.point(name);
        while self.mounted()?.contains(name) {
            self.detach(&point)?;
        }
        self.answers.forget(name);
        match fs::remove_dir(&point) {
            Err(e) if !is_absent(&e) => Err(NfsError::io("remove", &point)(e)),
            _ => Ok(()),
        }
    }

    /// Takes away what no volume owns.
    pub fn sweep(&self, owned: &BTreeSet<Name>) -> Result<()> {
        let mut there = self.mounted()?;
        // Names alone: what is mounted is not looked at.
        for entry in fs::read_dir(&self.dir).map_err(NfsError::io("list", &self.dir))? {
            let entry = entry.map_err(NfsError::io("list", &self.dir))?;
            there.extend(entry.file_name().to_str().and_then(|name| name.parse().ok()));
        }
        there
            .iter()
            .filter(|name| !owned.contains(*name))
            .try_for_each(|name| self.take_away(name))
    }

    /// umount2(2). It returns when the last bit of the mount is gone, which may take a server: no mount at its place is
    /// enough.
    fn detach(&self, point: &Path) -> Result<()> {
        let (tell, told) = channel();
        let at = point.to_owned();
        thread::Builder::new()
            .spawn(move || tell.send(unmount(&at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)))
            .map_err(NfsError::io("start the thread that unmounts", point))?;
        match told.recv_timeout(DETACHING) {
            // It was not mounted any more.
            Ok(Ok(()) | Err(rustix::io::Errno::INVAL)) => Ok(()),
            Ok(Err(e)) => Err(NfsError::io("unmount", point)(e)),
            Err(_) if self.is_empty(point)? => Ok(()),
            Err(_) => {
                let late = format!("it takes longer than {} s", DETACHING.as_secs());
                Err(NfsError::io("unmount", point)(io::Error::other(late)))
            }
        }
    }

    fn is_empty(&self, point: &Path) -> Result<bool> {
        let mounted = self.mounted()?;
        Ok(!mounted.iter().any(|name| self.point(name) == point))
    }

    fn begun(&self) -> MutexGuard<'_, BTreeMap<Name, Begun>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a table says, if it can be mounted at all. Asks nobody.
pub(super) fn check(spec: &VolumeSpec) -> Result<()> {
    wanted(spec).map(drop)
}

fn wanted(spec: &VolumeSpec) -> Result<Wanted> {
    let device = spec
        .device
        .as_deref()
        .and_then(Path::to_str)
        .ok_or(NfsError::NoDevice)?;
    let wanted = Wanted {
        export: Export::parse(device).map_err(NfsError::Device)?,
        options: Options::parse(&spec.options).map_err(NfsError::Options)?,
    };
    match wanted.export.host.is_empty() && wanted.options.addr.is_none() {
        true => Err(NfsError::NoDevice),
        false => Ok(wanted),
    }
}

fn begin(wanted: Wanted) -> Result<Begun> {
    let (tell, answer) = channel();
    let asked = wanted.clone();
    // Where nobody waits any more the mount, which is at no place, goes with the message.
    thread::Builder::new()
        .name("wharf-nfs".to_owned())
        .spawn(move || drop(tell.send(call::mount(&asked))))
        .map_err(NfsError::io(
            "start the thread that mounts",
            wanted.export.to_string(),
        ))?;
    Ok(Begun { wanted, answer })
}
