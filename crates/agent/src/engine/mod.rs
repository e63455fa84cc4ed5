//! The loop: anything that happens only wakes it; what to do is decided anew from what is there.

mod files;
mod garbage;
mod guard;
mod health;
mod last_words;
mod pass;
mod publish;
mod repairs;
mod repeats;
mod request;
mod rest;
mod shims;
mod sources;
mod stores;
pub mod sys;
mod taken;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use model::action::{Action, Failures, Noun};
use model::desired::Desired;
use model::diagnostic::Diagnostic;
use model::ledger::Ledger;
use model::name::ContainerId;
use model::observed::Observed;
use model::plan::Plan;
use model::spec::VolumeDriver;
use model::status::Status;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tracing::error;

pub use request::{Answer, Refusal, Request};

use crate::config_dir::Reader;
use crate::events::Events;
use crate::host::Host;
use crate::instance_lock;
use crate::ledger_file::LedgerFile;
use crate::observe::{self, Dirty};
use crate::places::Places;
use crate::systemd::{Manager, Notifier};
use crate::watch::Watch;

/// Something that may have changed what there is to do.
#[derive(Debug)]
pub enum Wake {
    /// The config dir or a directory it depends on.
    Files,
    /// A shim reported, or ended.
    Shim,
    /// The name server ended, or what the host asks for names changed.
    Names,
    /// A container's health turned.
    Health,
    /// The kernel reported a change of devices, addresses or routes.
    Links,
    /// Something was mounted or unmounted, or the host's way to the network by IPv6 changed.
    Around,
    /// Somebody set the clock: what was to come at a time comes at another moment now.
    Clock,
    /// The kernel reported a change of the firewall, and, where it is somebody else's, whose.
    Firewall(Option<net::Changer>),
    /// Something of a container, a volume or the agent itself was deleted or written to by somebody else.
    Taken(taken::Owner),
    /// Messages were lost: look at everything.
    Everything,
    /// Word of what somebody else deleted or wrote to was lost: the same, and go by nothing that is known.
    Overrun,
    /// What was taken out of the image store is deleted: there may be more.
    Collected,
    /// An action ended.
    Done(Box<Done>),
    /// A client asks.
    Request(Request),
}

/// The end of an action.
#[derive(Debug)]
pub struct Done {
    pub action: Option<Action>,
    pub noun: Noun,
    /// What it was done for, as the plan says it; empty for what clients asked for.
    pub why: String,
    pub result: Result<(), String>,
}

/// What clients see: one consistent picture, published after every pass.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub status: Arc<Status>,
    pub ledger: Arc<Ledger>,
    pub observed: Arc<Observed>,
    /// Nouns with an action under way.
    pub busy: BTreeSet<Noun>,
    /// How many passes were made.
    pub passes: u64,
    /// The settings' `registries.search`.
    pub search: Vec<String>,
}

/// Images pulled from registries side by side.
const PULLS: usize = 16;

/// The copies of the ledger are written after so long, where the actions it was written for take longer than that.
const COPY_AFTER: Duration = Duration::from_millis(100);

/// What the rest of the process holds of the loop.
#[derive(Clone)]
pub struct Handle {
    pub wakes: UnboundedSender<Wake>,
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub events: Arc<Events>,
    pub host: Arc<Host>,
    pub places: Arc<Places>,
    /// Sessions of `exec`: the API's own, the loop does not see them.
    pub execs: Arc<crate::api::Execs>,
}

/// The loop's state.
pub struct Engine {
    places: Arc<Places>,
    host: Arc<Host>,
    events: Arc<Events>,
    wakes: UnboundedSender<Wake>,
    inbox: UnboundedReceiver<Wake>,
    watch: Watch,
    /// An empty or missing directory is meant: said, and not yet taken up.
    accepts_empty: bool,
    boot_id: String,
    published: watch::Sender<Arc<Snapshot>>,
    reader: Reader,
    taken_up: Option<files::TakenUp>,
    named: files::Named,
    desired: Desired,
    /// Counts changes of the wish and the ledger.
    revision: u64,
    /// The last pass, where there was nothing to do.
    rest: Option<rest::Rest>,
    settings_errors: Vec<Diagnostic>,
    ledger: Arc<Ledger>,
    ledger_file: LedgerFile,
    ledger_error: Option<String>,
    observed: Arc<Observed>,
    /// Nouns with an action under way.
    in_flight: BTreeSet<Noun>,
    failures: Failures,
    repeats: repeats::Repeats,
    repairs: repairs::Repairs,
    taken: taken::Taken,
    /// Containers of which something was deleted or written to.
    touched: BTreeSet<ContainerId>,
    collector: garbage::Collector,
    bridges: sources::Bridges,
    /// When sockets were last looked at.
    listened: Instant,
    /// Starts and image loads under way at a time: they cost processor time, and more only make each other slow.
    permits: Arc<Semaphore>,
    /// Pulls under way at a time.
    pulls: Arc<Semaphore>,
    shims: shims::ShimWatches,
    probers: health::Probers,
    last_words: last_words::LastWords,
    after_pass: Vec<Answer<()>>,
    plan_requests: Vec<Answer<Plan>>,
    files_dirty: bool,
    dirty: Dirty,
    /// How many looks in a row could not see everything.
    blind_looks: u32,
    wake_at: Option<Instant>,
    full_pass_at: Instant,
    passes: u64,
    manager: Manager,
    _lock: instance_lock::InstanceLock,
}

impl Engine {
    /// Takes the locks and opens everything; nothing of the host is changed yet.
    pub fn open(mut places: Places) -> anyhow::Result<(Self, Handle)> {
        let roots = places.roots();
        let lock = instance_lock::take(&roots)?;
        instance_lock::settle_boot(&roots)?;
        let mut ledger_file = LedgerFile::new(&roots);
        let (ledger, found) = ledger_file.read()?;
        let manager = Manager::settle(&mut places)?;
        let host = Host::open(&places)?;
        host.runtime
            .sweep()
            .context("cannot sweep what an interrupted run left")?;
        let (wakes, inbox) = unbounded_channel();
        let watch = Watch::new(wakes.clone()).context("cannot watch directories (inotify)")?;
        let events = begin_events(&roots);
        let taken = taken::Taken::new(wakes.clone()).context("cannot watch the state dir (inotify)")?;
        if let Some(found) = found {
            restore(&mut ledger_file, &ledger, &events, found)?;
        }
        let places = Arc::new(places);
        let (published, snapshot) = watch::channel(publish::blank(&places, &ledger));
        let bridges = sources::Bridges::default();
        sources::start(&places, &wakes, &bridges, &host.net)?;
        host.cluster.start(wakes.clone(), Arc::clone(&events));
        let servers = wakes.clone();
        host.volumes.tell_of_servers(move || {
            // Nobody listens: the process ends.
            drop(servers.send(Wake::Taken(taken::Owner::Volumes)));
        });
        let handle = Handle {
            wakes: wakes.clone(),
            snapshot,
            events: Arc::clone(&events),
            host: Arc::clone(&host),
            places: Arc::clone(&places),
            execs: Arc::default(),
        };
        let engine = Self {
            places,
            host,
            events,
            shims: shims::ShimWatches::new(wakes.clone()),
            probers: health::Probers::new(wakes.clone()),
            last_words: last_words::LastWords::default(),
            wakes,
            inbox,
            watch,
            accepts_empty: false,
            boot_id: runtime::shim::files::boot_id().context("cannot read this boot's id")?,
            published,
            reader: Reader::default(),
            taken_up: None,
            named: files::Named::default(),
            desired: Desired::default(),
            // What is told before the first pass is of none.
            revision: 1,
            rest: None,
            settings_errors: Vec::new(),
            ledger: Arc::new(ledger),
            ledger_file,
            ledger_error: None,
            observed: Arc::new(observe::blank()),
            in_flight: BTreeSet::new(),
            failures: Failures::new(),
            repeats: repeats::Repeats::default(),
            repairs: repairs::Repairs::default(),
            taken,
            touched: BTreeSet::new(),
            collector: garbage::Collector::default(),
            bridges,
            listened: Instant::now(),
            permits: Arc::new(Semaphore::new(at_once())),
            pulls: Arc::new(Semaphore::new(PULLS)),
            after_pass: Vec::new(),
            plan_requests: Vec::new(),
            files_dirty: true,
            dirty: Dirty::ALL,
            blind_looks: 0,
            wake_at: None,
            full_pass_at: Instant::now(),
            passes: 0,
            manager,
            _lock: lock,
        };
        Ok((engine, handle))
    }

    /// From now on the service manager hears how it goes.
    pub fn tell(&mut self, notifier: Notifier) {
        self.manager.listen(notifier);
    }

    /// Runs until `stop` says so. Actions under way then are given a moment to end; each may be cut off at any point.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            self.pass().await;
            self.manager
                .after_pass(&self.published.borrow().status, &self.ledger);
            tokio::select! {
                () = self.next_wakes() => {}
                _ = stop.wait_for(|&s| s) => break,
            }
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while !self.in_flight.is_empty() {
            match tokio::time::timeout_at(deadline, self.inbox.recv()).await {
                Ok(Some(Wake::Done(done))) => self.finish(*done),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        self.ledger_file.copy();
    }

    /// Sleeps until something happens or is due, and takes everything that has happened by then.
    async fn next_wakes(&mut self) {
        let due = self
            .wake_at
            .map_or(self.full_pass_at, |at| at.min(self.full_pass_at));
        let first = self.sleep(due).await;
        if Instant::now() >= self.full_pass_at {
            self.take(Wake::Everything);
        }
        if self.wake_at.take().is_some_and(|at| at <= Instant::now()) {
            // Nobody tells that a socket was closed: a wait for a host port ends by the clock.
            self.dirty.listeners = true;
            // And before anything is removed, whether it is still unwished is looked at afresh.
            self.files_dirty = true;
        }
        if let Some(wake) = first {
            self.take(wake);
            while let Ok(wake) = self.inbox.try_recv() {
                self.take(wake);
            }
        }
    }

    /// Waits for something to happen, or `due`; a watchdog is told meanwhile that the loop turns.
    async fn sleep(&mut self, due: Instant) -> Option<Wake> {
        if self.ledger_file.is_ahead() {
            let soon = due.min(Instant::now() + COPY_AFTER);
            if let Ok(wake) = tokio::time::timeout_at(soon, self.inbox.recv()).await {
                return wake;
            }
            self.ledger_file.copy();
        }
        loop {
            let beat = self.manager.progress().unwrap_or(due);
            tokio::select! {
                wake = self.inbox.recv() => return wake,
                () = tokio::time::sleep_until(due.min(beat)) => {}
            }
            if Instant::now() >= due {
                return None;
            }
        }
    }

    fn take(&mut self, wake: Wake) {
        match wake {
            Wake::Files => {
                self.files_dirty = true;
                self.dirty.listeners = true;
                self.dirty.images = true;
                self.dirty.names = true;
            }
            // The verdicts are taken along with every look.
            Wake::Shim | Wake::Health => self.dirty.containers = true,
            Wake::Names => self.dirty.names = true,
            Wake::Links => {
                self.dirty.links = true;
                self.dirty.around = true;
            }
            Wake::Around => {
                self.dirty.around = true;
                self.dirty.volumes |= self.has_mounted_volumes();
            }
            // Every pass reckons with the clock anew.
            Wake::Clock => {
                self.rest = None;
                self.dirty.around = true;
            }
            Wake::Firewall(by) => {
                self.repairs.note_changer(by);
                self.dirty.firewall = true;
            }
            Wake::Taken(taken::Owner::Container(id)) => {
                self.touched.insert(id);
                self.dirty.containers = true;
            }
            Wake::Taken(taken::Owner::Volumes) => self.dirty.volumes = true,
            Wake::Taken(taken::Owner::Layers) => self.dirty.images = true,
            Wake::Taken(taken::Owner::Bridges) => self.dirty.links = true,
            Wake::Taken(taken::Owner::Agent) => self.guard_ledger(),
            Wake::Everything => {
                self.guard_ledger();
                self.files_dirty = true;
                self.dirty = Dirty::ALL;
            }
            Wake::Overrun => {
                self.host.runtime.forget_looks();
                self.take(Wake::Everything);
            }
            Wake::Collected => self.collector.due = true,
            Wake::Done(done) => self.finish(*done),
            Wake::Request(request) => self.answer(request),
        }
    }
}

impl Engine {
    /// Volumes on servers are mounts of the host.
    fn has_mounted_volumes(&self) -> bool {
        let mut volumes = self.observed.volumes.known().into_iter().flatten();
        volumes.any(|(_, volume)| volume.spec.driver == VolumeDriver::Nfs)
    }
}

/// A ledger that was not found as it had been left is written anew, and its users hear of it.
fn restore(file: &mut LedgerFile, ledger: &Ledger, events: &Events, found: String) -> anyhow::Result<()> {
    error!("{found}");
    events.emit("agent", "ledger", "repair", found);
    file.write(ledger)?;
    file.copy();
    Ok(())
}

/// The events kept so far, and that the agent begins.
fn begin_events(roots: &model::paths::Roots) -> Arc<Events> {
    let events = Events::open(&roots.state.join("events.jsonl"));
    let version = format!("version {}", env!("CARGO_PKG_VERSION"));
    events.emit("agent", "wharf", "start", version);
    Arc::new(events)
}

/// How many heavy actions run side by side.
fn at_once() -> usize {
    std::thread::available_parallelism().map_or(4, |n| n.get() * 2)
}

/// A new container id.
pub(crate) fn fresh_id() -> ContainerId {
    let mut bytes = [0; 32];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    // getrandom(2): up to 256 bytes are never cut short once the pool is ready, and it blocks until then.
    assert_eq!(filled, Ok(bytes.len()), "the kernel gives random bytes");
    ContainerId::from_bytes(bytes)
}
