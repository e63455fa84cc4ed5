//! The task that speaks with etcd.
//!
//! In rounds: the leases are kept alive, everything is read, what is missing of this host is written, and what happens is
//! watched from there on, for [`ROUND`] at most: whatever a watch may miss is seen by the next round. Who does not answer
//! is asked again and again, and nothing that was known is given up for it: only what etcd itself says to be gone is gone.
//!
//! Two leases: one of [`model::spec::ClusterSettings::lease`] for what says that the host is there; one of a day for its
//! parts of subnets, so that a host that was off for an hour finds its containers' addresses still its own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use model::cluster::{ClusterHost, ClusterNetwork, ClusterState};
use model::name::Name;
use model::spec::ClusterSettings;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::Seen;
use super::decide::{Me, decide};
use super::etcd::{Client, EtcdError, Moment};
use super::mirror::Mirror;
use super::records::PREFIX;
use super::state::{Leases, State, StateFile};
use super::tell;
use super::wanted::Wanted;
use crate::engine::Wake;
use crate::events::Events;

/// The longest time between two readings of everything.
const ROUND: Duration = Duration::from_secs(60);
/// The longest time between two signs of life; a third of the lease where that is shorter.
const BEAT: Duration = Duration::from_secs(20);
/// How long a part of a subnet is kept for a host that is not heard of.
const RANGE_TTL: u64 = 24 * 3600;
/// How long to wait after a failure: this, doubling up to the other.
const FIRST_REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(5);
/// Changes in a row that somebody else was faster with.
const MOST_CHANGES: usize = 200;

/// The task's state.
pub struct Session {
    wanted: watch::Receiver<Arc<Wanted>>,
    seen: Arc<Seen>,
    file: StateFile,
    state: State,
    wakes: UnboundedSender<Wake>,
    events: Arc<Events>,
    /// What this host calls itself.
    name: String,
    /// The address found last.
    found: Option<IpAddr>,
    trouble: Option<String>,
    /// Hosts of an etcd that has lost its memory: they get time to come back.
    spared: Option<Spared>,
}

struct Spared {
    until: Instant,
    hosts: BTreeMap<Name, BTreeMap<String, ClusterHost>>,
}

impl Session {
    pub fn new(
        wanted: watch::Receiver<Arc<Wanted>>,
        seen: Arc<Seen>,
        (file, state): (StateFile, State),
        wakes: UnboundedSender<Wake>,
        events: Arc<Events>,
    ) -> Self {
        let uname = rustix::system::uname();
        Self {
            wanted,
            seen,
            file,
            state,
            wakes,
            events,
            name: uname.nodename().to_string_lossy().into_owned(),
            found: None,
            trouble: None,
            spared: None,
        }
    }

    /// Runs as long as the agent does.
    pub async fn run(mut self) {
        let mut rest = FIRST_REST;
        // Before the first pass nobody has said what is wanted.
        let mut goes_on = self.wanted.changed().await.is_ok();
        while goes_on {
            let wanted = Arc::clone(&self.wanted.borrow_and_update());
            let Some(settings) = wanted.settings.clone() else {
                self.trouble = None;
                self.show(None);
                goes_on = self.wanted.changed().await.is_ok();
                continue;
            };
            let begun = Instant::now();
            match self.speak(&settings).await {
                Ok(()) if begun.elapsed() > LONGEST_REST => rest = FIRST_REST,
                Ok(()) => goes_on = self.rest(&mut rest).await,
                Err(e) => {
                    self.note_trouble(&settings, &e);
                    goes_on = self.rest(&mut rest).await;
                }
            }
        }
    }

    /// A while, or until something else is wanted; false where nobody wants anything any more.
    async fn rest(&mut self, rest: &mut Duration) -> bool {
        let waited = timeout(*rest, self.wanted.changed()).await;
        *rest = (*rest * 2).min(LONGEST_REST);
        waited.map_or(true, |changed| changed.is_ok())
    }

    /// With one etcd, until something else is wanted of it than before.
    async fn speak(&mut self, settings: &ClusterSettings) -> Result<(), EtcdError> {
        let mut client = Client::new(settings)?;
        loop {
            let begun = Instant::now();
            self.round(&mut client, settings).await?;
            let same = self.wanted.borrow().settings.as_ref() == Some(settings);
            // One that is over at once is not begun again at once.
            if !same || begun.elapsed() < FIRST_REST {
                return Ok(());
            }
        }
    }

    /// From reading everything to the end of a watch, or of patience with it.
    async fn round(&mut self, client: &mut Client, settings: &ClusterSettings) -> Result<(), EtcdError> {
        self.stay_alive(client, settings).await?;
        let mut mirror = self.read(client, settings).await?;
        if !self.settle(client, &mut mirror).await? {
            return Ok(());
        }
        let mut watch = client.watch(PREFIX, mirror.at.revision + 1).await?;
        self.note_no_trouble();
        let end = Instant::now() + ROUND;
        let beat = BEAT.min(settings.lease / 3);
        let mut beats_at = Instant::now() + beat;
        loop {
            tokio::select! {
                told = watch.next() => match told? {
                    Some(events) => mirror.hear(events),
                    None => return Ok(()),
                },
                changed = self.wanted.changed() => {
                    if changed.is_err() || self.wanted.borrow().settings.as_ref() != Some(settings) {
                        return Ok(());
                    }
                }
                () = sleep_until(beats_at) => {
                    if !self.beat(client).await? {
                        return Ok(());
                    }
                    beats_at = Instant::now() + beat;
                    continue;
                }
                () = sleep_until(end) => return Ok(()),
            }
            if !self.settle(client, &mut mirror).await? {
                return Ok(());
            }
        }
    }

    /// Has both leases, as long as the settings say.
    async fn stay_alive(&mut self, client: &mut Client, settings: &ClusterSettings) -> Result<(), EtcdError> {
        let ttl = settings.lease.as_secs();
        let known = self.state.leases.filter(|leases| leases.ttl == ttl);
        if known.is_some() && self.beat(client).await? {
            return Ok(());
        }
        // Parts of subnets stay on the lease they are on, where that one is still there.
        let ranges = match self.state.leases {
            Some(leases) if client.keep_alive(leases.ranges).await? => leases.ranges,
            _ => client.grant(RANGE_TTL.max(ttl)).await?,
        };
        let alive = client.grant(ttl).await?;
        self.state.leases = Some(Leases { ttl, alive, ranges });
        self.save().await;
        Ok(())
    }

    /// A sign of life; false where one of the leases is over, and new ones are needed.
    async fn beat(&mut self, client: &mut Client) -> Result<bool, EtcdError> {
        let Some(leases) = self.state.leases else {
            return Ok(false);
        };
        let both = client.keep_alive(leases.alive).await? && client.keep_alive(leases.ranges).await?;
        if !both {
            info!("a lease in etcd was over; this host is registered anew");
        }
        Ok(both)
    }

    async fn read(&mut self, client: &mut Client, settings: &ClusterSettings) -> Result<Mirror, EtcdError> {
        let mirror = Mirror::of(client.below(PREFIX).await?);
        let Moment { cluster, revision } = mirror.at;
        let forgot = cluster != self.state.cluster || revision < self.state.revision;
        if self.state.cluster != 0 && forgot {
            warn!(
                "etcd is another one, or has lost its memory: who was known before has {} s to come back",
                settings.lease.as_secs()
            );
            let hosts = self
                .state
                .networks
                .iter()
                .map(|(name, n)| (name.clone(), n.hosts.clone()));
            self.spared = Some(Spared {
                until: Instant::now() + settings.lease,
                hosts: hosts.collect(),
            });
        }
        (self.state.cluster, self.state.revision) = (cluster, revision);
        Ok(mirror)
    }

    /// Writes what is missing until nothing is, and shows what is there; false where it is to be begun anew.
    async fn settle(&mut self, client: &mut Client, mirror: &mut Mirror) -> Result<bool, EtcdError> {
        for _ in 0..MOST_CHANGES {
            let wanted = Arc::clone(&self.wanted.borrow());
            let Some(leases) = self.state.leases else {
                return Ok(false);
            };
            self.find_address(client.own_address().or(wanted.world));
            let me = Me {
                id: self.state.host.clone(),
                name: self.name.clone(),
                leases,
                found: self.found,
            };
            let decision = decide(mirror, &wanted, &me);
            let Some(change) = decision.change else {
                self.state.revision = self.state.revision.max(mirror.at.revision);
                self.publish(decision.told).await;
                return Ok(true);
            };
            match client.change(&change).await {
                Ok(Some(revision)) => mirror.note(&change, revision),
                // Somebody was faster.
                Ok(None) => *mirror = Mirror::of(client.below(PREFIX).await?),
                // A lease ended this moment.
                Err(e) if e.is_not_found() => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        warn!(
            "what this host writes to etcd is changed again by somebody else, {MOST_CHANGES} times in a row"
        );
        Ok(false)
    }

    /// The one that was found stays as long as this host has it.
    fn find_address(&mut self, now: Option<IpAddr>) {
        if self
            .found
            .is_none_or(|before| now != Some(before) && !is_own(before))
        {
            self.found = now.or(self.found);
        }
    }

    async fn publish(&mut self, mut told: BTreeMap<Name, ClusterNetwork>) {
        self.spared.take_if(|spared| spared.until <= Instant::now());
        for (name, hosts) in self.spared.iter().flat_map(|spared| &spared.hosts) {
            if let Some(network) = told.get_mut(name) {
                for (id, host) in hosts {
                    network.hosts.entry(id.clone()).or_insert_with(|| host.clone());
                }
            }
        }
        if told != self.state.networks {
            for (name, what, why) in tell::turns(&self.state.networks, &told) {
                self.events.emit("network", name.as_str(), what, why);
            }
            self.state.networks = told;
            self.save().await;
        }
        self.show(Some(self.trouble.clone()));
    }

    /// What the next look sees: with this trouble, or that there is no etcd.
    fn show(&self, trouble: Option<Option<String>>) {
        let state = trouble.map(|trouble| ClusterState {
            trouble,
            networks: self.state.networks.clone(),
        });
        if self.seen.set(state) {
            drop(self.wakes.send(Wake::Around)); // the loop ends with the process
        }
    }

    /// Told once, until it is over.
    fn note_trouble(&mut self, settings: &ClusterSettings, e: &EtcdError) {
        if self.trouble.is_none() {
            let members: Vec<String> = settings.etcd.iter().map(ToString::to_string).collect();
            let since = Timestamp::now()
                .round(jiff::Unit::Second)
                .unwrap_or_else(|_| Timestamp::now());
            let trouble = format!("etcd {} does not answer since {since}: {e}", members.join(", "));
            warn!("{trouble}");
            self.events.emit(
                "cluster",
                "etcd",
                "error",
                format!("{trouble}; what it said last stays"),
            );
            self.trouble = Some(trouble);
        }
        self.show(Some(self.trouble.clone()));
    }

    fn note_no_trouble(&mut self) {
        if self.trouble.take().is_some() {
            self.events
                .emit("cluster", "etcd", "recover", "etcd answers again");
            self.show(Some(None));
        }
    }

    /// Not written, an agent that begins anew knows a little less: no harm while this one runs.
    async fn save(&self) {
        let (file, state) = (self.file.clone(), self.state.clone());
        let written = tokio::task::spawn_blocking(move || file.write(&state)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(e)) => warn!("what is known of etcd cannot be written to the state dir: {e}"),
            Err(e) => warn!("what is known of etcd was not written: {e}"),
        }
    }
}

/// Whether a device of this host has the address.
fn is_own(ip: IpAddr) -> bool {
    let Ok(all) = nix::ifaddrs::getifaddrs() else {
        // Not known to be gone.
        return true;
    };
    let mut addresses = all.filter_map(|interface| interface.address);
    addresses.any(|address| match ip {
        IpAddr::V4(ip) => address.as_sockaddr_in().is_some_and(|own| own.ip() == ip),
        IpAddr::V6(ip) => address.as_sockaddr_in6().is_some_and(|own| own.ip() == ip),
    })
}
