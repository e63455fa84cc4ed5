//! What of Open vSwitch is ours, as it is now. Of a database that was read once, only changes are read again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use model::observed::{Ipv6State, ObservedLink, ObservedSwitch, ObservedTunnel};

use super::made::{Made, container_of, is_container, is_ours};
use super::plan::{bridges_of, operations, peers};
use super::row::{Bridge, Database, Port};
use super::session::Session;
use super::{Switch, SwitchError};
use crate::net::lock;

/// Kind of the devices that [`Shown`] tells of: bridges of Open vSwitch.
pub(crate) const KIND: &str = "ovs";
/// Kind of ports of ours whose device is gone.
const LOST: &str = "ovs-port";
/// A look is no occasion to wait.
const PATIENCE: Duration = Duration::from_secs(2);
/// One that did not answer in time is left alone this long.
const REST: Duration = Duration::from_secs(10);

/// What is remembered between looks.
#[derive(Debug, Default)]
pub(super) struct Seen {
    session: Option<Session>,
    /// It did not answer; what it said of that, and until when it is not asked.
    silent: Option<(String, Instant)>,
}

/// What is ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Bridges by name. What a network's is made of; none for the bridge of its tunnels, and where nothing can be told.
    pub bridges: BTreeMap<String, Option<ObservedTunnel>>,
    /// Ports of containers by name, with the bridge that they are right on.
    pub ports: BTreeMap<String, Option<Plugged>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plugged {
    bridge: String,
    /// What the device has to be a port of besides.
    pen: Option<String>,
}

impl Switch {
    /// None where no network wants it. The text of an error says why nothing can be seen, and what to do.
    pub fn look(&self) -> Option<Result<Shown, String>> {
        let mut seen = lock(&self.seen);
        if !self.is_wanted() {
            *seen = Seen::default();
            return None;
        }
        if let Some((why, until)) = &seen.silent {
            if Instant::now() < *until {
                return Some(Err(why.clone()));
            }
            seen.silent = None;
        }
        let shown = self.fresh(&mut seen).and_then(|database| self.shown(database));
        Some(shown.map_err(|e| {
            let why = e.to_string();
            if let SwitchError::Silent { .. } = e {
                seen.silent = Some((why.clone(), Instant::now() + REST));
            }
            if !matches!(e, SwitchError::SwitchAway { .. }) {
                seen.session = None;
            }
            why
        }))
    }

    /// What the database holds now.
    fn fresh<'s>(&self, seen: &'s mut Seen) -> Result<&'s Database, SwitchError> {
        let known = match seen.session.take() {
            // One that was closed meanwhile may have been started again.
            Some(mut session) => session.refresh().is_ok().then_some(session),
            None => None,
        };
        let session = match known {
            Some(session) => session,
            None => Session::within(&self.socket(), PATIENCE)?,
        };
        Ok(&seen.session.insert(session).database)
    }

    fn shown(&self, database: &Database) -> Result<Shown, SwitchError> {
        let mut shown = Shown::default();
        let ours = database.bridges.values();
        for bridge in ours.filter(|bridge| is_ours(&bridge.external_ids, &self.owner)) {
            let made = Made::read(bridge).filter(|made| made.bridge == bridge.name);
            let tunnel = made.as_ref().map(|made| self.tunnel(database, bridge, made));
            shown.bridges.insert(bridge.name.clone(), tunnel.transpose()?);
            for (_, port) in database.ports_of(bridge) {
                if is_container(&port.external_ids) && is_ours(&port.external_ids, &self.owner) {
                    let right = made.as_ref().filter(|made| self.is_right(database, made, port));
                    let on = right.map(|made| Plugged {
                        bridge: bridge.name.clone(),
                        pen: made.pen(),
                    });
                    shown.ports.insert(port.name.clone(), on);
                }
            }
        }
        Ok(shown)
    }

    fn is_right(&self, database: &Database, made: &Made, port: &Port) -> bool {
        let wanted = made.container(&self.owner, &port.name, container_of(&port.external_ids));
        let interface = database.interface_of(port);
        interface.is_some_and(|(_, interface)| wanted.is(port, interface))
    }

    fn tunnel(
        &self,
        database: &Database,
        bridge: &Bridge,
        made: &Made,
    ) -> Result<ObservedTunnel, SwitchError> {
        let peers = peers(database, made, &self.owner);
        let wanted = [made.inner(&self.owner), made.outer(&self.owner, &peers)];
        // Also where something of somebody else's is in the way.
        let whole = operations(database, &self.owner, &wanted).is_ok_and(|left| left.is_empty());
        let all = bridges_of(database, &self.owner, &bridge.name)?.len() == 2;
        Ok(ObservedTunnel {
            vni: made.vni,
            port: made.port,
            local: Some(made.local),
            peers,
            sealed: all && self.is_sealed(made)?,
            switch: Some(ObservedSwitch {
                kind: made.kind.clone(),
                datapath: made.datapath.clone(),
                vlan: made.vlan,
                mtu: made.mtu,
                gateway: made.gateway,
                gateway6: made.gateway6,
                whole,
            }),
            wireguard: None,
        })
    }
}

impl Shown {
    /// Puts it among the host's devices.
    pub fn into_links(self, links: &mut BTreeMap<String, ObservedLink>) {
        for (name, tunnel) in self.bridges {
            // One that ovs-vswitchd has not made (yet) is no device.
            if let Some(link) = links.get_mut(&name) {
                link.kind = KIND.to_owned();
                link.ours = true;
                link.tunnel = tunnel;
            }
        }
        for (name, on) in self.ports {
            let lost = || ObservedLink {
                kind: LOST.to_owned(),
                ours: true,
                up: false,
                mtu: 0,
                master: None,
                isolated: false,
                index: 0,
                below: None,
                addresses: Vec::new(),
                addresses6: Vec::new(),
                route_localnet: false,
                ipv6: Ipv6State::Off,
                tunnel: None,
            };
            let on = on.filter(|on| on.pen.as_ref().is_none_or(|pen| is_penned(links, &name, pen)));
            links.entry(name).or_insert_with(lost).master = on.map(|on| on.bridge);
        }
    }
}

/// What comes to the device goes nowhere in the kernel.
fn is_penned(links: &BTreeMap<String, ObservedLink>, device: &str, pen: &str) -> bool {
    let is_port = links
        .get(device)
        .is_some_and(|link| link.master.as_deref() == Some(pen));
    is_port && links.get(pen).is_some_and(|pen| pen.kind == "bridge" && !pen.up)
}
