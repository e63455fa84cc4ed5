//! The agent's hands on containers: prepare, start, stop, look, remove. Blocking; from any thread.
//!
//! Every call may be killed at any instruction and made again: directories appear and vanish by a rename, a shim is
//! known by its lock, and whatever a dead shim left running is found in the container's cgroup.

pub(crate) mod bundle;
mod contents;
mod dirs;
pub(crate) mod exec;
mod gate;
mod rootfs;
mod spawn;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::action::{Instance, ShimPolicy};
use model::name::{ContainerId, Name};
use model::observed::{Look, ObservedContainer};
use model::paths::Roots;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

pub use self::rootfs::Frozen;
use crate::cgroup::{CgroupSet, Hierarchies};
use crate::contents::deliver;
use crate::damage;
pub use crate::error::RuntimeError;
pub use crate::exec::{ExecEnd, ExecIo, ExecSession, ExecSpec};
use crate::launch::sealed_exe;
use crate::looks::Looks;
use crate::observe;
use crate::shim::files::{self, ContainerFile, Files, Process, ShimState, Stage};
use crate::shim::protocol::{self, Answer, Command, Reply, Request, RestartCause};
use crate::shim::start::group_name;

type Result<T> = std::result::Result<T, RuntimeError>;

/// How long a shim may take over anything but a grace period: a start that mounts from a slow disk is in it.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a shim that has done its work may take to leave, and one on its way in to answer.
const PASSING: Duration = Duration::from_secs(10);

/// The containers of one agent.
#[derive(Clone, Debug)]
pub struct Runtime {
    roots: Roots,
    cgroup_parent: String,
    boot_id: String,
    /// What is executed as `wharf shim` and `wharf prepare`.
    exe: PathBuf,
    /// What `exe` leads to, where it leads through a descriptor.
    _sealed: Option<Arc<OwnedFd>>,
    hierarchies: Hierarchies,
    looks: Arc<Looks>,
}

impl Runtime {
    /// Containers below these roots, whose cgroups lie below this parent (`/wharf`).
    pub fn new(roots: Roots, cgroup_parent: &str) -> Result<Self> {
        let (exe, sealed) = own_exe();
        let runtime = Self {
            roots,
            cgroup_parent: cgroup_parent.to_owned(),
            boot_id: files::boot_id()
                .map_err(RuntimeError::file("read the boot's id below", Path::new("/proc")))?,
            exe,
            _sealed: sealed,
            hierarchies: Hierarchies::detect().map_err(RuntimeError::Hierarchies)?,
            looks: Arc::default(),
        };
        dirs::make_roots(&runtime.roots)?;
        Ok(runtime)
    }

    /// The same with another program to execute as `wharf shim` and `wharf prepare`: for tests.
    pub fn with_exe(self, exe: &Path) -> Self {
        let exe = exe.to_owned();
        Self {
            exe,
            _sealed: None,
            ..self
        }
    }

    /// Makes the directories, checks that user and program are there, and writes the bundle. A container whose shim
    /// lives keeps the bundle it has. Its configs and secrets were delivered before ([`Runtime::deliver`]).
    pub fn prepare(&self, i: &Instance) -> Result<()> {
        let files = self.files(&i.id);
        dirs::make(&files, i)?;
        let _gate = self.gate(&i.id)?;
        if self.has_shim(&i.id)? {
            return Ok(());
        }
        bundle::write(self, i, &files)
    }

    /// Has the payload run: prepares what is missing, gets a shim, has `attach` plug interfaces into its network
    /// namespace, and gives the word. Nothing to do where that was done.
    pub fn start(
        &self,
        i: &Instance,
        attach: &dyn Fn(BorrowedFd<'_>) -> std::result::Result<(), String>,
    ) -> Result<()> {
        let give_up = Instant::now() + PASSING;
        loop {
            if !self.has_shim(&i.id)? {
                self.begin_shim(i)?;
            }
            match self.ask(&i.id, &Request::new(Command::Status), PATIENCE) {
                Ok(reply) if reply.state.stage == Stage::Created => {
                    return self.begin_payload(i, &reply.state, attach);
                }
                Ok(reply) if reply.state.stage != Stage::Leaving => return Ok(()),
                Ok(_) => {}
                Err(e) if !is_passing(&e) => return Err(silent(&i.id, e)),
                Err(_) => {}
            }
            // A shim on its way in or out holds the lock and does not listen.
            if Instant::now() > give_up {
                return Err(silent(&i.id, io::ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The network namespace of a container whose shim lives; none where that is the host's.
    pub fn netns(&self, id: &ContainerId) -> Result<Option<OwnedFd>> {
        match self.shim_state(id)? {
            Some(state) if state.own_net => self.netns_of(id, &state),
            _ => Ok(None),
        }
    }

    /// That namespace, and the shim that keeps it: a descriptor that polls readable when it has ended, and which process it
    /// is. None where there is no shim, or the namespace is not its own.
    pub fn kept_netns(&self, id: &ContainerId) -> Result<Option<(OwnedFd, OwnedFd, Process)>> {
        let Some(state) = self.shim_state(id)?.filter(|state| state.own_net) else {
            return Ok(None);
        };
        let (Some(netns), Some(pidfd)) = (self.netns_of(id, &state)?, pidfd_of(state.shim)) else {
            return Ok(None);
        };
        Ok(Some((netns, pidfd, state.shim)))
    }

    /// Gives a shim what it works by. Without a shim there is nothing to tell: the next one is told as it starts.
    pub fn update(&self, id: &ContainerId, policy: &ShimPolicy) -> Result<()> {
        if !self.has_shim(id)? {
            return Ok(());
        }
        let policy = Box::new(policy.clone());
        match self.ask(id, &Request::new(Command::Update { policy }), PATIENCE) {
            Ok(reply) => done(id, reply).map(drop),
            Err(e) if is_passing(&e) => self.await_no_shim(id).map(drop),
            Err(e) => Err(silent(id, e)),
        }
    }

    /// Ends payload and shim: the signal, after `grace` SIGKILL. Returns when both are gone; fine if they are already.
    /// A shim that does not do it is killed with all that is its own.
    pub fn stop(&self, id: &ContainerId, signal: &str, grace: Duration) -> Result<()> {
        let Some(name) = self.name(id)? else {
            return Ok(());
        };
        let _gate = self.gate(id)?;
        self.stop_held(id, &name, signal, grace)
    }

    fn stop_held(&self, id: &ContainerId, name: &Name, signal: &str, grace: Duration) -> Result<()> {
        if self.has_shim(id)? {
            let pidfd = self.shim_pidfd(id)?;
            let command = Command::Stop {
                signal: signal.to_owned(),
                grace_ms: millis(grace),
            };
            match self.ask(id, &Request::new(command), grace.saturating_add(PATIENCE)) {
                Ok(reply) => drop(done(id, reply)?),
                Err(e) if is_passing(&e) => self.end_by_signal(id, pidfd.as_ref(), grace),
                Err(e) => tracing::warn!(container = %name, "its shim does not stop it ({e}) and is killed"),
            }
            if !self.await_no_shim(id)? {
                self.kill_shim(id, name, pidfd)?;
            }
        }
        self.clear_cgroup(id, name)
    }

    /// A shim whose socket somebody deleted is asked as init would ask it: the signal and the grace period of its table.
    fn end_by_signal(&self, id: &ContainerId, pidfd: Option<&OwnedFd>, grace: Duration) {
        if let Some(pidfd) = pidfd.filter(|_| !self.files(id).socket().exists()) {
            // Gone already is as good.
            let _ = pidfd_send_signal(pidfd, Signal::TERM);
            ended(pidfd, grace.saturating_add(PASSING));
        }
    }

    /// Ends the run and begins another one, which goes by no policy and is not counted.
    pub fn restart(&self, id: &ContainerId, signal: &str, grace: Duration) -> Result<()> {
        let state = self
            .shim_state(id)?
            .ok_or_else(|| RuntimeError::NotRunning { id: id.clone() })?;
        let command = Command::Restart {
            signal: signal.to_owned(),
            grace_ms: millis(grace),
            why: RestartCause::ByHand,
        };
        // A repeated order is about the run it was given for, and not about the one it brought about.
        let request = Request {
            run_no: Some(state.run_no),
            ..Request::new(command)
        };
        match self.ask(id, &request, grace.saturating_add(PATIENCE)) {
            Ok(reply) => done(id, reply).map(drop),
            // It has ended meanwhile.
            Err(e) if is_passing(&e) && !self.has_shim(id)? => {
                Err(RuntimeError::NotRunning { id: id.clone() })
            }
            Err(e) => Err(silent(id, e)),
        }
    }

    /// Sends the payload a signal. What follows is its restart policy's affair.
    pub fn kill(&self, id: &ContainerId, signal: &str) -> Result<()> {
        if !self.has_shim(id)? {
            return Err(RuntimeError::NotRunning { id: id.clone() });
        }
        let signal = signal.to_owned();
        let reply = self
            .ask(id, &Request::new(Command::Kill { signal }), PATIENCE)
            .map_err(|e| silent(id, e))?;
        done(id, reply).map(drop)
    }

    /// Takes away all that is the container's own, in whatever state it is; what runs of it is killed.
    pub fn remove(&self, id: &ContainerId, name: &Name) -> Result<()> {
        let _gate = self.gate(id)?;
        self.stop_held(id, name, "SIGKILL", Duration::ZERO)?;
        deliver::remove(&self.roots.container_contents(id))?;
        dirs::remove(&self.roots, id)
    }

    /// Every container that has a directory of ours.
    pub fn observe(&self) -> Result<BTreeMap<ContainerId, Look<ObservedContainer>>> {
        self.looks
            .all(&self.roots, &self.boot_id)
            .map_err(RuntimeError::file("list the containers below", &self.roots.state))
    }

    /// Something of it was, or may have been, written to in place: the next look does not go by what is known.
    pub fn forget_look(&self, id: &ContainerId) {
        self.looks.forget(id);
    }

    /// The same of all of them: word of such writes was lost.
    pub fn forget_looks(&self) {
        self.looks.forget_all();
    }

    /// One container; none where there is no such one.
    pub fn observe_one(&self, id: &ContainerId) -> Option<Look<ObservedContainer>> {
        observe::one(&self.roots, &self.boot_id, id)
    }

    /// The process of a container's shim, to wait for its end; none where it has none.
    pub fn shim_pidfd(&self, id: &ContainerId) -> Result<Option<OwnedFd>> {
        Ok(self.shim_state(id)?.and_then(|state| pidfd_of(state.shim)))
    }

    /// What a live shim last wrote of itself, its payload's process among it.
    pub fn shim_state(&self, id: &ContainerId) -> Result<Option<ShimState>> {
        self.shim_state_asked(id)
    }

    /// Removes what no container owns: run dirs of another boot, directories that were being made or removed when an
    /// agent died. For the agent's start, before anything else is asked of this.
    pub fn sweep(&self) -> Result<()> {
        dirs::sweep(&self.roots, &self.boot_id)
    }

    fn begin_shim(&self, i: &Instance) -> Result<()> {
        let files = self.files(&i.id);
        dirs::make(&files, i)?;
        let gate = self.gate(&i.id)?;
        let (Some(gate), false) = (gate, self.has_shim(&i.id)?) else {
            return Ok(());
        };
        // What a killed shim left behind: its payload, orphaned, and what it said of itself.
        self.clear_cgroup(&i.id, &i.name)?;
        for stale in [files.shim_state(), files.socket()] {
            files::remove(&stale).map_err(RuntimeError::file("remove", &stale))?;
        }
        if !bundle::is_written(i, &files) {
            bundle::write(self, i, &files)?;
        }
        spawn::shim(&self.exe, &self.roots, i, gate)
    }

    /// The state and run dir.
    pub(crate) fn roots(&self) -> &Roots {
        &self.roots
    }

    pub(crate) fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }

    pub(crate) fn looks(&self) -> &Looks {
        &self.looks
    }

    /// A container's control groups.
    pub(crate) fn group_of(&self, name: &str) -> CgroupSet {
        CgroupSet::new(&self.hierarchies, &self.cgroup_parent, name)
    }

    /// [`Self::shim_state`], from the shim itself where what it wrote is lost.
    pub(crate) fn shim_state_asked(&self, id: &ContainerId) -> Result<Option<ShimState>> {
        if !self.has_shim(id)? {
            return Ok(None);
        }
        let files = self.files(id);
        let written = damage::legible(&files.shim_state())
            .map_err(RuntimeError::file("read", &files.shim_state()))?
            .filter(|state: &ShimState| state.boot_id == self.boot_id);
        Ok(written.or_else(|| damage::ask_shim(&files)))
    }

    /// Until what this gives is dropped, no shim comes about.
    pub(crate) fn gate(&self, id: &ContainerId) -> Result<Option<OwnedFd>> {
        let files = self.files(id);
        gate::take(&files, PATIENCE).map_err(RuntimeError::file("lock", &files.run))
    }

    fn begin_payload(
        &self,
        i: &Instance,
        state: &ShimState,
        attach: &dyn Fn(BorrowedFd<'_>) -> std::result::Result<(), String>,
    ) -> Result<()> {
        if state.own_net
            && let Some(netns) = self.netns_of(&i.id, state)?
        {
            attach(netns.as_fd()).map_err(|why| RuntimeError::Attach {
                name: i.name.clone(),
                why,
            })?;
        }
        let reply = self
            .ask(&i.id, &Request::new(Command::Run), PATIENCE)
            .map_err(|e| silent(&i.id, e))?;
        done(&i.id, reply).map(drop)
    }

    fn netns_of(&self, id: &ContainerId, state: &ShimState) -> Result<Option<OwnedFd>> {
        let path = PathBuf::from(format!("/proc/{}/ns/net", state.shim.pid));
        match std::fs::File::open(&path) {
            Ok(file) if files::lives(state.shim) => Ok(Some(file.into())),
            Ok(_) => Ok(None),
            Err(_) if !self.has_shim(id)? => Ok(None),
            Err(e) => Err(RuntimeError::file("open", &path)(e)),
        }
    }

    fn ask(&self, id: &ContainerId, request: &Request, patience: Duration) -> io::Result<Reply> {
        protocol::call(&self.files(id).socket(), request, patience)
    }

    fn has_shim(&self, id: &ContainerId) -> Result<bool> {
        let files = self.files(id);
        damage::has_shim(&files).map_err(RuntimeError::file("ask for the lock on", &files.lock()))
    }

    /// Waits for a shim to leave that is about to. False if it did not.
    fn await_no_shim(&self, id: &ContainerId) -> Result<bool> {
        let give_up = Instant::now() + PASSING;
        while self.has_shim(id)? {
            if Instant::now() > give_up {
                return Ok(false);
            }
            match self.shim_pidfd(id)? {
                Some(pidfd) => ended(&pidfd, PASSING),
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        Ok(true)
    }

    /// The last resort. What it was doing is cleaned up after it through the cgroup.
    fn kill_shim(&self, id: &ContainerId, name: &Name, pidfd: Option<OwnedFd>) -> Result<()> {
        if let Some(pidfd) = &pidfd {
            // Gone already is as good.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
            ended(pidfd, PASSING);
        }
        // It is in there as well: found even if what it said of itself is lost.
        self.clear_cgroup(id, name)?;
        match self.await_no_shim(id)? {
            true => Ok(()),
            false => Err(silent(id, io::ErrorKind::TimedOut.into())),
        }
    }

    fn clear_cgroup(&self, id: &ContainerId, name: &Name) -> Result<()> {
        let cgroup = CgroupSet::new(&self.hierarchies, &self.cgroup_parent, &group_name(name, id));
        let failed = |doing| {
            let id = id.clone();
            move |source| RuntimeError::Cgroup { id, doing, source }
        };
        cgroup.kill_all().map_err(failed("empty"))?;
        cgroup.remove().map_err(failed("remove"))?;
        dirs::remove_groups(&self.cgroup_parent, &group_name(name, id))
    }

    fn files(&self, id: &ContainerId) -> Files {
        Files::new(&self.roots, id)
    }

    /// None where there is no such container, or only the first traces of one.
    fn name(&self, id: &ContainerId) -> Result<Option<Name>> {
        match observe::one(&self.roots, &self.boot_id, id) {
            Some(Look::Known(container)) => Ok(Some(container.name)),
            Some(Look::Unknown(why)) => Err(RuntimeError::Refused { id: id.clone(), why }),
            None => Ok(None),
        }
    }
}

/// None where it has ended.
fn pidfd_of(process: Process) -> Option<OwnedFd> {
    let pid = Pid::from_raw(process.pid.cast_signed())?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // Opened first, compared then: the descriptor is of the process that has this start.
    files::lives(process).then_some(pidfd)
}

/// Our own binary, as it is now even if the file is replaced: on a read-only clone of its mount, as containers get to
/// see it. Where such a clone cannot be made, the shim tries itself and says why it cannot.
fn own_exe() -> (PathBuf, Option<Arc<OwnedFd>>) {
    match sealed_exe() {
        Ok(fd) => (
            PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
            Some(Arc::new(fd)),
        ),
        Err(_) => (PathBuf::from("/proc/self/exe"), None),
    }
}

/// `container.json`, as the agent wrote it.
pub fn container_file(roots: &Roots, id: &ContainerId) -> io::Result<Option<ContainerFile>> {
    files::read(&Files::new(roots, id).container())
}

/// Waits for a process's end.
fn ended(pidfd: &OwnedFd, patience: Duration) {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let timeout = Timespec {
        tv_sec: patience.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    // Whoever asks looks again afterwards: an interruption is no harm.
    let _ = poll(&mut fds, Some(&timeout));
}

/// The shim does not listen yet or any more, or went while it was asked.
fn is_passing(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
    )
}

fn silent(id: &ContainerId, source: io::Error) -> RuntimeError {
    let id = id.clone();
    RuntimeError::Silent { id, source }
}

fn done(id: &ContainerId, reply: Reply) -> Result<ShimState> {
    match reply.answer {
        Answer::Done => Ok(reply.state),
        Answer::Stale(why) | Answer::Refused(why) => Err(RuntimeError::Refused { id: id.clone(), why }),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
