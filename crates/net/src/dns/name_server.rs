//! The agent's handle on the name server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use model::dns::DnsState;
use model::name::{ContainerId, Name};

use super::control::{Given, Inside, Last, Place, ROLE, gateways};
use super::inside::Namespace;
use super::{bind, resolv};
use crate::NetError;
use crate::apart::{Connection, Handle};
use crate::error::{Doing, file_error};

/// Stands for "none at all" where an empty list would mean "those of the host".
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Gives the network namespace of a container; none where it does not run. The text of an error is for users.
pub type Namespaces<'a> = dyn Fn(&ContainerId) -> Result<Option<Namespace>, String> + 'a;

/// The name server of one run dir, which is one process, in the network namespace [`Self::apply`] is called in.
#[derive(Debug)]
pub struct NameServer {
    process: Handle<Last>,
    /// One at a time changes what it is given and where it listens.
    changes: Mutex<()>,
    resolv_conf: PathBuf,
}

impl NameServer {
    /// `exe`: the program that runs [`super::main`] when its first argument is `dns`.
    pub fn new(run_dir: &Path, exe: &Path) -> Self {
        Self {
            process: Handle::new(&ROLE, run_dir, exe),
            changes: Mutex::default(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
        }
    }

    /// Reads the host's servers from another file.
    #[must_use]
    pub fn with_resolv_conf(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.resolv_conf);
        self
    }

    /// What the server was last given; none where it does not run; nothing in it where it runs and was given nothing
    /// yet. Where the host's resolv.conf has changed since, `upstreams` holds the servers that are asked until the next
    /// [`Self::apply`], so that this differs from a state that wishes for the host's.
    ///
    /// # Errors
    /// Where its files cannot be read.
    pub fn observe(&self) -> Result<Option<DnsState>, NetError> {
        if !self.process.lives()? {
            return Ok(None);
        }
        let Some(last) = self.process.last()? else {
            return Ok(Some(DnsState::default()));
        };
        let given = &last.given;
        let mut state = given.state.clone();
        if state.upstreams.is_empty() && self.upstreams(&state)? != given.upstreams {
            state.upstreams = given.upstreams.iter().map(SocketAddr::ip).collect();
            if state.upstreams.is_empty() {
                state.upstreams.push(NOBODY);
            }
        }
        Ok(Some(state))
    }

    /// Makes the server answer this, starting it where it does not run; returns when it does. Without networks it ends.
    /// `namespace`: that of a container which is asked inside; none where it does not run.
    ///
    /// # Errors
    /// Where a gateway cannot be bound, or the server cannot be started or does not take it. Where it cannot listen in one
    /// container, it listens in the others all the same.
    pub fn apply(&self, state: &DnsState, namespace: &Namespaces<'_>) -> Result<(), NetError> {
        let _one = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if state.networks.is_empty() {
            return self.process.end();
        }
        let given = Given {
            upstreams: self.upstreams(state)?,
            state: state.clone(),
        };
        let (server, places) = self.process.reach()?;
        let gateway = |place| match place {
            Place::Gateway { ip, port } => Some((ip, port)),
            Place::Inside { .. } => None,
        };
        let held = places.into_iter().filter_map(gateway).collect();
        let listeners = listen(&server, &given.state, held)?;
        server.give(&given)?;
        let (inside, failed) = self.listen_in_all(&server, state, namespace)?;
        let ports = state
            .networks
            .iter()
            .filter_map(|(name, network)| Some((name.clone(), *listeners.get(network.gateways.first()?)?)))
            .filter(|(_, port)| *port != resolv::PORT)
            .collect();
        self.process.write_last(&Last { given, ports, inside })?;
        failed.map_or(Ok(()), Err)
    }

    /// Has the server listen where it does not yet. Gives the containers it listens in, and what kept it from others.
    fn listen_in_all(
        &self,
        server: &Connection,
        state: &DnsState,
        namespace: &Namespaces<'_>,
    ) -> Result<(Inside, Option<NetError>), NetError> {
        let before = self.process.last()?.map(|last| last.inside.clone());
        let before = before.unwrap_or_default();
        let (mut inside, mut failed) = (Inside::new(), None);
        for id in state.inside.keys() {
            let looked = namespace(id)
                .map_err(|why| NetError::invalid(format!("the network namespace of container {id}"), why));
            let listens = looked.and_then(|found| match found {
                Some(found) if before.get(id) == Some(&found.keeper) => Ok(Some(found.keeper)),
                Some(found) => found.listen(server, id).map(|()| Some(found.keeper)),
                None => Ok(None),
            });
            match listens {
                Ok(keeper) => inside.extend(keeper.map(|keeper| (id.clone(), keeper))),
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        Ok((inside, failed))
    }

    /// Has the server listen in the network namespace of a container that is about to run, where it was given that it
    /// asks there. Without a server there is nothing to be done: one that is started listens in all.
    ///
    /// # Errors
    /// Where it cannot be listened there, or the server does not take it.
    pub fn listen_inside(&self, id: &ContainerId, namespace: &Namespace) -> Result<(), NetError> {
        let _one = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(server) = self.process.reach_running::<Place>()? else {
            return Ok(());
        };
        let Some(last) = self.process.last()? else {
            return Ok(());
        };
        let known = last.inside.get(id) == Some(&namespace.keeper);
        if known || !last.given.state.inside.contains_key(id) {
            return Ok(());
        }
        namespace.listen(&server, id)?;
        let mut last = Last::clone(&last);
        last.inside.insert(id.clone(), namespace.keeper.clone());
        self.process.write_last(&last)
    }

    /// The containers in whose network namespace, as it is now, the server listens.
    ///
    /// # Errors
    /// Where its files cannot be read.
    pub fn inside(&self) -> Result<BTreeSet<ContainerId>, NetError> {
        let last = match self.process.lives()? {
            true => self.process.last()?,
            false => None,
        };
        let all = last.iter().flat_map(|last| &last.inside);
        // A container has one keeper at a time; the server closes its sockets with that one's end.
        let live = all.filter(|(_, keeper)| keeper.lives());
        Ok(live.map(|(id, _)| id.clone()).collect())
    }

    /// Networks whose server listens on another port than 53, because somebody else has that on all addresses: the
    /// firewall is to redirect there. Empty where the server does not run.
    ///
    /// # Errors
    /// Where its files cannot be read.
    pub fn ports(&self) -> Result<BTreeMap<Name, u16>, NetError> {
        if !self.process.lives()? {
            return Ok(BTreeMap::new());
        }
        Ok(self
            .process
            .last()?
            .map(|last| last.ports.clone())
            .unwrap_or_default())
    }

    /// A descriptor that polls readable when the server has ended; none where it does not run.
    ///
    /// # Errors
    /// Where its files cannot be read.
    pub fn pidfd(&self) -> Result<Option<OwnedFd>, NetError> {
        self.process.pidfd()
    }

    /// Who is asked for other names: never ourselves.
    fn upstreams(&self, state: &DnsState) -> Result<Vec<SocketAddr>, NetError> {
        let mut all: Vec<SocketAddr> = if state.upstreams.is_empty() {
            resolv::host_servers(&self.resolv_conf).map_err(file_error("read", &self.resolv_conf))?
        } else {
            let named = state.upstreams.iter();
            named.map(|ip| SocketAddr::new(*ip, resolv::PORT)).collect()
        };
        let ours: BTreeSet<IpAddr> = gateways(state).collect();
        all.retain(|server| !ours.contains(&server.ip()));
        Ok(all)
    }
}

/// Hands over a pair of sockets for each gateway that has none. Gives the port of each.
fn listen(
    server: &Connection,
    state: &DnsState,
    mut held: BTreeMap<IpAddr, u16>,
) -> Result<BTreeMap<IpAddr, u16>, NetError> {
    for (name, network) in &state.networks {
        let made = bind::listeners(&network.gateways, |gateway| held.get(gateway).copied()).doing(|| {
            let gateways: Vec<String> = network.gateways.iter().map(ToString::to_string).collect();
            let gateways = gateways.join(" and ");
            format!("listen on {gateways}, where network {name} has its gateway, for name queries")
        })?;
        for at in made {
            let (gateway, port) = (at.gateway, at.port);
            let place = Place::Gateway { ip: gateway, port };
            server.listen(place, &[at.udp.as_fd(), at.tcp.as_fd()])?;
            held.insert(gateway, port);
        }
    }
    Ok(held)
}
