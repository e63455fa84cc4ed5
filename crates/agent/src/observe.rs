//! The look at the host: what may have changed is looked at, the rest is remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;

use model::firewall::{Backend, Protocol};
use model::image::Image;
use model::name::ContainerId;
use model::observed::{Listener, Look, Observed};
use model::shared::Shared;
use runtime::damage::Depth;

use crate::host::Host;

/// Which parts may have changed since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    pub images: bool,
    pub links: bool,
    pub firewall: bool,
    pub listeners: bool,
    pub containers: bool,
    pub names: bool,
    pub volumes: bool,
    /// What configs, secrets and environment files hold.
    pub contents: bool,
    /// Mounts, the way to the network, time zones.
    pub around: bool,
}

impl Dirty {
    /// Everything, as a full pass looks.
    pub const ALL: Self = Self {
        images: true,
        links: true,
        firewall: true,
        listeners: true,
        containers: true,
        names: true,
        volumes: true,
        contents: true,
        around: true,
    };

    /// Both.
    pub fn or(self, other: Self) -> Self {
        Self {
            images: self.images || other.images,
            links: self.links || other.links,
            firewall: self.firewall || other.firewall,
            listeners: self.listeners || other.listeners,
            containers: self.containers || other.containers,
            names: self.names || other.names,
            volumes: self.volumes || other.volumes,
            contents: self.contents || other.contents,
            around: self.around || other.around,
        }
    }
}

/// The parts that the last look could not see.
pub fn unknown(observed: &Observed) -> Dirty {
    fn blind<T>(look: &Look<T>) -> bool {
        look.known().is_none()
    }
    Dirty {
        images: blind(&observed.images),
        links: blind(&observed.links)
            || blind(&observed.foreign_addresses)
            || blind(&observed.foreign_addresses6)
            || blind(&observed.forwarding)
            || blind(&observed.forwarding6),
        firewall: blind(&observed.firewall),
        listeners: blind(&observed.listeners),
        containers: blind(&observed.containers),
        names: blind(&observed.dns),
        volumes: blind(&observed.volumes),
        // What is missing or too large is so until somebody changes it, which is watched.
        contents: false,
        around: blind(&observed.around.mounts)
            || blind(&observed.around.online)
            || blind(&observed.around.switch)
            || observed.around.wireguard.as_ref().is_some_and(blind),
    }
}

/// Nothing seen yet: everything is unknown.
pub fn blank() -> Observed {
    fn unseen<T>() -> Look<T> {
        Look::Unknown("not looked at yet".to_owned())
    }
    Observed {
        images: unseen(),
        links: unseen(),
        foreign_addresses: unseen(),
        foreign_addresses6: unseen(),
        forwarding: unseen(),
        forwarding6: unseen(),
        firewall: unseen(),
        firewall_there: false,
        firewall_wrong: None,
        foreign_drops: Vec::new(),
        backend: Default::default(),
        around: Default::default(),
        listeners: unseen(),
        dns: unseen(),
        dns_ports: Default::default(),
        dns_inside: BTreeSet::new(),
        damage: BTreeMap::new(),
        volumes: unseen(),
        contents: BTreeMap::new(),
        delivered: BTreeMap::new(),
        health: BTreeMap::new(),
        containers: unseen(),
    }
}

/// A host on which nothing is, and nothing stands in the way.
pub fn empty() -> Observed {
    Observed {
        images: Look::Known(BTreeMap::new()),
        links: Look::Known(BTreeMap::new()),
        foreign_addresses: Look::Known(Vec::new()),
        foreign_addresses6: Look::Known(Vec::new()),
        forwarding: Look::Known(true),
        forwarding6: Look::Known(true),
        firewall: Look::Known(None),
        listeners: Look::Known(Vec::new()),
        dns: Look::Known(None),
        volumes: Look::Known(BTreeMap::new()),
        containers: Look::Known(BTreeMap::new()),
        ..blank()
    }
}

/// Puts a part in its place, if it is another one than before: whoever shares the rest goes on sharing it.
macro_rules! put {
    ($observed:ident . $part:ident = $value:expr) => {
        let value = $value;
        if $observed.$part != value {
            Arc::make_mut($observed).$part = value;
        }
    };
}

/// Refreshes the dirty parts; the very same where nothing changed. `ports`: the host ports somebody wants, whose foreign
/// holders are worth naming.
pub fn refresh(host: &Host, observed: &mut Arc<Observed>, dirty: Dirty, ports: &BTreeSet<(Protocol, u16)>) {
    if dirty.images {
        put!(observed.images = look(host.store.images().map(shared)));
    }
    host.net.want_switch(host.around.wants_switch());
    if dirty.links {
        put!(observed.links = look(host.net.links()));
        put!(observed.foreign_addresses = look(host.net.foreign_addresses()));
        put!(observed.foreign_addresses6 = look(host.net.foreign_addresses6()));
        put!(observed.forwarding = look(host.net.forwarding()));
        put!(observed.forwarding6 = look(host.net.forwarding6()));
    }
    if dirty.firewall || dirty.links && guards_are_outdated(host) {
        look_at_firewall(host, observed);
    }
    if dirty.listeners {
        put!(observed.listeners = look(host.net.listeners().map(|list| name_holders(host, list, ports))));
    }
    if dirty.names {
        put!(observed.dns = look(host.names.observe()));
        match host.names.ports() {
            Ok(ports) => {
                put!(observed.dns_ports = ports);
            }
            Err(e) => tracing::warn!("where the name server listens cannot be seen: {e}"),
        }
    }
    if dirty.names || dirty.containers {
        match host.names.inside() {
            Ok(inside) => {
                put!(observed.dns_inside = inside);
            }
            Err(e) => tracing::warn!("where the name server listens cannot be seen: {e}"),
        }
    }
    if dirty.volumes {
        put!(observed.volumes = look(host.volumes.list()));
    }
    if dirty.around {
        put!(observed.around = host.around.look(&host.net, host.cluster.seen()));
    }
    if dirty.contents {
        put!(observed.contents = host.contents.look());
    }
    if dirty.containers {
        put!(observed.delivered = host.contents.delivered());
        put!(observed.containers = look(host.runtime.observe()));
    }
}

/// What was taken of containers, or scribbled over: of all of them where a depth is given, else of those that were
/// touched. Those that were damaged by the last look are looked at closely in any case.
pub fn look_for_damage(
    host: &Host,
    observed: &mut Arc<Observed>,
    all: Option<Depth>,
    touched: BTreeSet<ContainerId>,
) {
    let Some(containers) = observed.containers.known() else {
        return;
    };
    let mut damage = match all {
        Some(depth) => host.runtime.damages(containers, depth),
        None => BTreeMap::new(),
    };
    for id in touched.into_iter().chain(observed.damage.keys().cloned()) {
        let seen = containers.get(&id).and_then(Look::known);
        let found = seen.map(|seen| host.runtime.damage_of(seen, Depth::Legible));
        match found.filter(|found| !found.is_empty()) {
            Some(found) => drop(damage.insert(id, found)),
            None => drop(damage.remove(&id)),
        }
    }
    put!(observed.damage = damage);
}

/// Bridges of ours whose settings are as they should be.
pub fn bridges(observed: &Observed) -> Vec<String> {
    // Without a firewall of ours they are nobody's business here.
    let kept = observed.backend.kind != Backend::None;
    let links = observed.links.known().into_iter().flatten();
    let right = links.filter(|(_, link)| kept && link.ours && link.route_localnet);
    right.map(|(name, _)| name.clone()).collect()
}

/// What ails this is told by the look that follows.
fn guards_are_outdated(host: &Host) -> bool {
    host.net.guards_are_outdated().unwrap_or(true)
}

fn look_at_firewall(host: &Host, observed: &mut Arc<Observed>) {
    let seen = look(host.net.look_at_firewall());
    let mut backend = host.net.backend();
    let state = match seen {
        Look::Known(seen) => {
            put!(observed.firewall_there = seen.there);
            put!(observed.firewall_wrong = seen.wrong.map(str::to_owned));
            backend.unjudged = seen.unjudged;
            match seen.foreign_drops {
                Ok(drops) => {
                    put!(observed.foreign_drops = drops);
                }
                Err(e) => tracing::warn!("foreign firewalls cannot be looked at: {e}"),
            }
            Look::Known(seen.state)
        }
        Look::Unknown(why) => Look::Unknown(why),
    };
    put!(observed.backend = backend);
    put!(observed.firewall = state);
}

/// What the ledger and the plan hold as well.
fn shared(images: BTreeMap<String, Image>) -> BTreeMap<String, Shared<Image>> {
    let one = |(key, image): (String, Image)| (key, image.into());
    images.into_iter().map(one).collect()
}

fn look<T, E: Display>(result: Result<T, E>) -> Look<T> {
    match result {
        Ok(value) => Look::Known(value),
        Err(e) => {
            tracing::warn!("a look at the host failed, nothing is removed for it: {e}");
            Look::Unknown(e.to_string())
        }
    }
}

/// Only sockets on wanted ports matter; only for those is the search through /proc worth its price.
fn name_holders(host: &Host, list: Vec<Listener>, ports: &BTreeSet<(Protocol, u16)>) -> Vec<Listener> {
    let mut wanted: Vec<Listener> = list;
    for listener in &mut wanted {
        if ports.contains(&(listener.protocol, listener.port)) && listener.holder.is_none() {
            listener.holder = host.net.listener_holder(listener);
        }
    }
    wanted
}
