//! Networks made, put right and removed; ports of containers given and taken.

use std::collections::BTreeSet;
use std::path::Path;

use model::network::HostNetwork;

use super::made::{Made, WantedBridge, WantedPort, is_container};
use super::plan;
use super::row::{Database, Port};
use super::session::Session;
use super::{Switch, SwitchError};
use crate::error::NetError;
use crate::names::check_device;

const KINDS: [&str; 3] = ["vxlan", "gre", "geneve"];
const DATAPATHS: [&str; 2] = ["system", "netdev"];
/// Of a virtual network: 24 bits (RFC 7348, RFC 8926); GRE has more (RFC 2890), and nobody is to need them.
const LARGEST_VNI: u32 = (1 << 24) - 1;
const LARGEST_VLAN: u16 = 4094;
/// Whose number of a port is ovs-vswitchd's word that it is one.
const NO_PORT: i64 = -1;

/// Everything that can be seen to be wrong before anything is touched.
pub(crate) fn check(n: &HostNetwork) -> Result<(), NetError> {
    let Some((made, peers)) = Made::of(n) else {
        return Ok(());
    };
    let what = format!("network {}", n.name);
    check_device(&what, &made.tunnels)?;
    let why = match &made {
        m if !KINDS.contains(&m.kind.as_str()) => format!("there is no tunnel of kind {}", m.kind),
        m if !DATAPATHS.contains(&m.datapath.as_str()) => format!("there is no datapath {}", m.datapath),
        m if m.vni == 0 || m.vni > LARGEST_VNI => format!("there is no VNI {}: 1 to {LARGEST_VNI}", m.vni),
        m if m.vlan > LARGEST_VLAN => format!("there is no VLAN {}: 1 to {LARGEST_VLAN}", m.vlan),
        m if m.port == 0 => "there is no port 0".to_owned(),
        m if let Some(peer) = peers.iter().find(|p| p.is_ipv4() != m.local.is_ipv4()) => {
            format!("its peer {peer} is not of the family of its own end, {}", m.local)
        }
        _ => return Ok(()),
    };
    Err(NetError::invalid(what, why))
}

/// A bridge of ours that a container's interface is to be a port of.
pub(crate) struct Place<'a> {
    switch: &'a Switch,
    session: Session,
    made: Made,
}

impl Place<'_> {
    /// The device that host ends are to be ports of besides, so that the kernel leaves alone what comes to them.
    pub fn pen(&self) -> Option<String> {
        self.made.pen()
    }

    /// Makes a container's host end a port, or puts right what is wrong with the port.
    ///
    /// `fresh`: the device was made anew. What ovs-vswitchd may have opened under its name before is no use, so a port that
    /// is there goes first.
    pub fn connect(&mut self, device: &str, whose: &str, fresh: bool) -> Result<(), SwitchError> {
        let owner = &self.switch.owner;
        if fresh {
            let operations = plan::without_port(&self.session.database, owner, device);
            if !operations.is_empty() {
                self.session
                    .change(operations, &format!("{device} is made anew"))?;
            }
        }
        let port: WantedPort = self.made.container(owner, device, whose);
        let database = &self.session.database;
        let operations = plan::port_operations(database, owner, &self.made.bridge, &port)?;
        if !operations.is_empty() {
            let why = format!("{device} of container {whose}");
            self.session.change(operations, &why)?;
        }
        is_up(&mut self.session, device)
    }
}

impl Switch {
    /// Whether a bridge of ours has this name; refuses one of somebody else.
    pub fn has(&self, bridge: &str) -> Result<bool, SwitchError> {
        let session = Session::open(&self.socket())?;
        Ok(!plan::bridges_of(&session.database, &self.owner, bridge)?.is_empty())
    }

    /// Makes both bridges, or puts right what is wrong with them. Closed to the gateway before anybody is reached.
    ///
    /// `kernel`: whether the kernel has a datapath of Open vSwitch.
    pub fn apply(&self, n: &HostNetwork, kernel: bool) -> Result<(), SwitchError> {
        let Some((made, peers)) = Made::of(n) else {
            return Ok(());
        };
        if made.datapath == "system" && !kernel {
            return Err(SwitchError::NoDatapath);
        }
        let mut session = Session::open(&self.socket())?;
        let (inner, outer) = (made.inner(&self.owner), made.outer(&self.owner, peers));
        let why = format!("network {}", made.network);
        self.change(&mut session, &[inner.clone(), outer.without_tunnels()], &why)?;
        self.seal(&made)?;
        self.change(&mut session, &[inner, outer], &why)?;
        self.forget_lost(&mut session, &made)
    }

    fn change(&self, session: &mut Session, wanted: &[WantedBridge], why: &str) -> Result<(), SwitchError> {
        let operations = plan::operations(&session.database, &self.owner, wanted)?;
        if !operations.is_empty() {
            session.change(operations, why)?;
        }
        let ports = wanted.iter().flat_map(WantedBridge::ports);
        ports
            .map(str::to_owned)
            .try_for_each(|port| is_up(session, &port))
    }

    /// Ports of containers whose interfaces are gone, of the time before a boot.
    fn forget_lost(&self, session: &mut Session, made: &Made) -> Result<(), SwitchError> {
        let lost = |port: &Port| {
            is_container(&port.external_ids)
                && !Path::new("/sys/class/net").join(&port.name).exists()
                && number(&session.database, &port.name).is_none_or(|number| number == NO_PORT)
        };
        let Some((_, bridge)) = session.database.bridge(&made.bridge) else {
            return Ok(());
        };
        let ports = session.database.ports_of(bridge).map(|(_, port)| port);
        let names: BTreeSet<String> = ports.filter(|port| lost(port)).map(|p| p.name.clone()).collect();
        let operations = names
            .iter()
            .flat_map(|name| plan::without_port(&session.database, &self.owner, name));
        let operations: Vec<_> = operations.collect();
        match operations.is_empty() {
            true => Ok(()),
            false => session.change(operations, "ports of containers that are gone"),
        }
    }

    /// Removes a network's bridges, with all that is on them. The name of its pen, where it had one or not; none where there
    /// was no such network.
    pub fn remove(&self, bridge: &str) -> Result<Option<String>, SwitchError> {
        let mut session = Session::open(&self.socket())?;
        let bridges = plan::bridges_of(&session.database, &self.owner, bridge)?;
        let Some((_, inner)) = bridges.first() else {
            return Ok(None);
        };
        let pen = Made::read(inner).map(|made| made.pen_name()).unwrap_or_default();
        let operations = plan::without_bridges(bridges.iter().map(|(id, _)| *id));
        session.change(operations, &format!("{bridge} is removed"))?;
        Ok(Some(pen))
    }

    /// For a container's interface.
    pub fn place(&self, bridge: &str) -> Result<Place<'_>, SwitchError> {
        let session = Session::open(&self.socket())?;
        let bridges = plan::bridges_of(&session.database, &self.owner, bridge)?;
        let made = bridges.first().and_then(|(_, bridge)| Made::read(bridge));
        let missing = || SwitchError::Failed(format!("there is no bridge {bridge} (yet): it is made first"));
        Ok(Place {
            switch: self,
            made: made.ok_or_else(missing)?,
            session,
        })
    }

    /// Takes a port of ours away; absent is fine.
    pub fn disconnect(&self, device: &str) -> Result<(), SwitchError> {
        let mut session = match Session::open(&self.socket()) {
            // What is gone with it comes back with it, and is then removed with its bridge or put right by it.
            Err(SwitchError::Away { .. }) => return Ok(()),
            session => session?,
        };
        let operations = plan::without_port(&session.database, &self.owner, device);
        match operations.is_empty() {
            true => Ok(()),
            false => session.change(operations, &format!("{device} is removed")),
        }
    }
}

/// Waits until ovs-vswitchd says that it has opened the port, or why not.
fn is_up(session: &mut Session, port: &str) -> Result<(), SwitchError> {
    session.until(|database| number(database, port).is_some())?;
    match number(&session.database, port) {
        Some(NO_PORT) => Err(SwitchError::Failed(error(&session.database, port))),
        _ => Ok(()),
    }
}

fn number(database: &Database, port: &str) -> Option<i64> {
    let (_, port, _) = database.port(port)?;
    let (_, interface) = database.interface_of(port)?;
    interface.ofport
}

fn error(database: &Database, name: &str) -> String {
    let port = database.port(name).map(|(_, port, _)| port);
    let interface = port.and_then(|port| database.interface_of(port));
    let said = interface.and_then(|(_, interface)| interface.error.clone());
    said.unwrap_or_else(|| format!("{name} cannot be made a port; why is in the log of ovs-vswitchd"))
}
