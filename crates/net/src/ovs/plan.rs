//! What it takes for the database to hold what a network is made of (RFC 7047, section 5.2).

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::SwitchError;
use super::made::{Made, ROLE, TUNNEL, WantedBridge, WantedPort, has_all, is_ours, whose};
use super::row::{Bridge, Database, Pairs, Port, at_most_one, map};

/// The network's bridges of ours by that name: itself, and that of its tunnels.
pub(super) fn bridges_of<'a>(
    database: &'a Database,
    owner: &str,
    name: &str,
) -> Result<Vec<(&'a str, &'a Bridge)>, SwitchError> {
    let Some((id, bridge)) = database.bridge(name) else {
        return Ok(Vec::new());
    };
    if !is_ours(&bridge.external_ids, owner) {
        return Err(SwitchError::ForeignBridge {
            bridge: name.to_owned(),
            owner: whose(&bridge.external_ids),
        });
    }
    let tunnels = Made::read(bridge).and_then(|made| database.bridge(&made.tunnels));
    let tunnels = tunnels.filter(|(_, tunnels)| is_ours(&tunnels.external_ids, owner));
    Ok([(id, bridge)].into_iter().chain(tunnels).collect())
}

/// Peers that tunnels of ours lead to, sorted; whether each of them is right says [`operations`].
pub(super) fn peers(database: &Database, made: &Made, owner: &str) -> Vec<IpAddr> {
    let Some((_, bridge)) = database.bridge(&made.tunnels) else {
        return Vec::new();
    };
    let tunnels = tunnels_of(database, bridge, owner);
    let peer = |(_, port): (&str, &Port)| {
        let (_, interface) = database.interface_of(port)?;
        interface.options.get("remote_ip")?.parse().ok()
    };
    let peers: BTreeSet<IpAddr> = tunnels.filter_map(peer).collect();
    peers.into_iter().collect()
}

fn tunnels_of<'a>(
    database: &'a Database,
    bridge: &'a Bridge,
    owner: &str,
) -> impl Iterator<Item = (&'a str, &'a Port)> {
    let ours = move |ids: &Pairs| is_ours(ids, owner) && ids.get(ROLE).is_some_and(|role| role == TUNNEL);
    let tunnels = database.ports_of(bridge);
    let tunnels: Vec<_> = tunnels.filter(|(_, port)| ours(&port.external_ids)).collect();
    tunnels.into_iter()
}

/// What makes the database hold these bridges: nothing where it does. Tunnels of ours that are not among their ports go.
pub(super) fn operations(
    database: &Database,
    owner: &str,
    wanted: &[WantedBridge],
) -> Result<Vec<Value>, SwitchError> {
    let mut change = Change::new(database, owner);
    for bridge in wanted {
        change.bridge(bridge)?;
    }
    Ok(change.operations)
}

/// The same for one port of a bridge that is there.
pub(super) fn port_operations(
    database: &Database,
    owner: &str,
    bridge: &str,
    port: &WantedPort,
) -> Result<Vec<Value>, SwitchError> {
    let mut change = Change::new(database, owner);
    let Some((id, _)) = database.bridge(bridge) else {
        return Err(SwitchError::Failed(format!("there is no bridge {bridge} (yet)")));
    };
    change.port(id, port)?;
    Ok(change.operations)
}

/// Takes a port of ours away.
pub(super) fn without_port(database: &Database, owner: &str, name: &str) -> Vec<Value> {
    match database.port(name) {
        Some((id, port, Some(bridge))) if is_ours(&port.external_ids, owner) => {
            let of = database.bridge(&bridge.name).map(|(of, _)| of);
            of.map(|of| unlink("Bridge", Some(of), "ports", id))
                .into_iter()
                .collect()
        }
        _ => Vec::new(),
    }
}

/// Takes bridges away, with all that is on them.
pub(super) fn without_bridges<'a>(ids: impl Iterator<Item = &'a str>) -> Vec<Value> {
    ids.map(|id| unlink("Open_vSwitch", None, "bridges", id))
        .collect()
}

/// Rows that nobody refers to any more go by themselves (ovsdb(7), "Garbage Collection").
fn unlink(table: &str, of: Option<&str>, column: &str, id: &str) -> Value {
    mutate(table, of, json!([[column, "delete", ["uuid", id]]]))
}

fn mutate(table: &str, of: Option<&str>, mutations: Value) -> Value {
    json!({ "op": "mutate", "table": table, "where": row(of), "mutations": mutations })
}

/// None: the one row of a table that has one.
fn row(id: Option<&str>) -> Value {
    id.map_or_else(|| json!([]), |id| json!([["_uuid", "==", ["uuid", id]]]))
}

/// A transaction in the making.
struct Change<'a> {
    database: &'a Database,
    owner: &'a str,
    operations: Vec<Value>,
    /// Rows that are inserted, for names that they have in the transaction.
    inserted: usize,
}

impl<'a> Change<'a> {
    fn new(database: &'a Database, owner: &'a str) -> Self {
        Self {
            database,
            owner,
            operations: Vec::new(),
            inserted: 0,
        }
    }

    fn bridge(&mut self, wanted: &WantedBridge) -> Result<(), SwitchError> {
        let Some((id, there)) = self.database.bridge(&wanted.name) else {
            return self.new_bridge(wanted);
        };
        bridges_of(self.database, self.owner, &wanted.name)?;
        let settings = (there.fail_mode.as_deref(), there.controllers);
        if there.datapath != wanted.datapath || !matches!(settings, (None | Some("standalone"), 0)) {
            let settings = json!({
                "datapath_type": wanted.datapath, "fail_mode": "standalone", "controller": ["set", []],
            });
            self.update("Bridge", id, settings);
        }
        let mac: Pairs = wanted
            .mac
            .iter()
            .map(|mac| ("hwaddr".to_owned(), mac.clone()))
            .collect();
        self.pairs("Bridge", id, "other_config", &there.other_config, &mac);
        self.pairs(
            "Bridge",
            id,
            "external_ids",
            &there.external_ids,
            &wanted.external_ids,
        );
        for port in &wanted.ports {
            self.port(id, port)?;
        }
        for (port_id, port) in tunnels_of(self.database, there, self.owner) {
            if wanted.all && !wanted.ports.iter().any(|wanted| wanted.name == port.name) {
                self.operations.push(unlink("Bridge", Some(id), "ports", port_id));
            }
        }
        Ok(())
    }

    fn new_bridge(&mut self, wanted: &WantedBridge) -> Result<(), SwitchError> {
        let mut ports = Vec::new();
        for port in &wanted.ports {
            if let Some((_, there, on)) = self.database.port(&port.name) {
                return Err(foreign_port(there, on));
            }
            ports.push(self.new_port(port));
        }
        let mac: Pairs = wanted
            .mac
            .iter()
            .map(|mac| ("hwaddr".to_owned(), mac.clone()))
            .collect();
        let settings = json!({
            "name": wanted.name, "datapath_type": wanted.datapath, "fail_mode": "standalone",
            "other_config": map(&mac), "external_ids": map(&wanted.external_ids), "ports": ["set", ports],
        });
        let bridge = self.insert("Bridge", settings);
        let link = mutate(
            "Open_vSwitch",
            None,
            json!([["bridges", "insert", ["set", [bridge]]]]),
        );
        self.operations.push(link);
        Ok(())
    }

    /// `bridge`: its row.
    fn port(&mut self, bridge: &str, wanted: &WantedPort) -> Result<(), SwitchError> {
        let Some((id, there, on)) = self.database.port(&wanted.name) else {
            let port = self.new_port(wanted);
            self.join(bridge, port);
            return Ok(());
        };
        // The one with the bridge's name is the bridge's own.
        let own = on.is_some_and(|on| on.name == wanted.name);
        if !own && !is_ours(&there.external_ids, self.owner) {
            return Err(foreign_port(there, on));
        }
        let Some((interface, seen)) = self.database.interface_of(there) else {
            let interface = self.new_interface(wanted);
            self.update("Port", id, json!({ "interfaces": interface }));
            return Ok(());
        };
        let before = on.and_then(|on| self.database.bridge(&on.name));
        if let Some((other, _)) = before.filter(|(other, _)| *other != bridge) {
            self.operations.push(unlink("Bridge", Some(other), "ports", id));
            self.join(bridge, json!(["uuid", id]));
        }
        if wanted.is(there, seen) {
            return Ok(());
        }
        if !wanted.has_port(there) {
            let settings = json!({
                "tag": at_most_one(wanted.tag()), "vlan_mode": ["set", []], "protected": wanted.protected,
            });
            self.update("Port", id, settings);
            self.pairs(
                "Port",
                id,
                "external_ids",
                &there.external_ids,
                &wanted.external_ids,
            );
        }
        if !wanted.has_interface(seen) {
            self.update("Interface", interface, interface_row(wanted));
        }
        Ok(())
    }

    fn join(&mut self, bridge: &str, port: Value) {
        let insert = json!([["ports", "insert", ["set", [port]]]]);
        self.operations.push(mutate("Bridge", Some(bridge), insert));
    }

    fn new_port(&mut self, wanted: &WantedPort) -> Value {
        let interface = self.new_interface(wanted);
        let port = json!({
            "name": wanted.name, "interfaces": interface, "tag": at_most_one(wanted.tag()),
            "protected": wanted.protected, "external_ids": map(&wanted.external_ids),
        });
        self.insert("Port", port)
    }

    fn new_interface(&mut self, wanted: &WantedPort) -> Value {
        let mut interface = interface_row(wanted);
        interface["name"] = json!(wanted.name);
        self.insert("Interface", interface)
    }

    /// What refers to it in the same transaction.
    fn insert(&mut self, table: &str, row: Value) -> Value {
        self.inserted += 1;
        let name = format!("row{}", self.inserted);
        let insert = json!({ "op": "insert", "table": table, "uuid-name": name, "row": row });
        self.operations.push(insert);
        json!(["named-uuid", name])
    }

    fn update(&mut self, table: &str, id: &str, settings: Value) {
        let update = json!({ "op": "update", "table": table, "where": row(Some(id)), "row": settings });
        self.operations.push(update);
    }

    /// Other pairs of the column are somebody else's.
    fn pairs(&mut self, table: &str, id: &str, column: &str, there: &Pairs, wanted: &Pairs) {
        if has_all(there, wanted) {
            return;
        }
        let keys: Vec<&String> = wanted.keys().collect();
        let mutations = json!([[column, "delete", ["set", keys]], [column, "insert", map(wanted)]]);
        self.operations.push(mutate(table, Some(id), mutations));
    }
}

fn interface_row(wanted: &WantedPort) -> Value {
    let mut row = json!({ "type": wanted.kind, "options": map(&wanted.options) });
    if let Some(mtu) = wanted.mtu {
        row["mtu_request"] = json!(mtu);
    }
    row
}

fn foreign_port(there: &Port, on: Option<&Bridge>) -> SwitchError {
    SwitchError::ForeignPort {
        port: there.name.clone(),
        bridge: on.map_or_else(|| "no bridge".to_owned(), |on| on.name.clone()),
        owner: whose(&there.external_ids),
    }
}

#[cfg(test)]
mod tests;
