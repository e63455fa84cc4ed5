//! The rows of the database that networks are made of (ovs-vswitchd.conf.db(5)), as a monitor tells of them (RFC 7047,
//! sections 4.1.5, 4.1.6, 5.1).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// Of a map's column.
pub(super) type Pairs = BTreeMap<String, String>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bridge {
    pub name: String,
    pub ports: BTreeSet<String>,
    pub external_ids: Pairs,
    pub other_config: Pairs,
    pub datapath: String,
    pub fail_mode: Option<String>,
    pub controllers: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Port {
    pub name: String,
    pub interfaces: BTreeSet<String>,
    pub external_ids: Pairs,
    pub tag: Option<i64>,
    pub vlan_mode: Option<String>,
    pub protected: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub name: String,
    pub kind: String,
    pub options: Pairs,
    pub mtu_request: Option<i64>,
    /// Its number once it is a port of the switch; -1 where it could not become one.
    pub ofport: Option<i64>,
    pub error: Option<String>,
}

/// What the database holds of it, by the rows' ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Database {
    pub bridges: BTreeMap<String, Bridge>,
    pub ports: BTreeMap<String, Port>,
    pub interfaces: BTreeMap<String, Interface>,
    /// Counted up by whoever wants to know when ovs-vswitchd has done what was asked before.
    pub wanted_config: i64,
    pub done_config: i64,
}

/// What a monitor is asked for.
pub(super) fn columns() -> Value {
    let of = |columns: &[&str]| json!({ "columns": columns });
    json!({
        "Open_vSwitch": of(&["next_cfg", "cur_cfg"]),
        "Bridge": of(&["name", "ports", "external_ids", "other_config", "datapath_type", "fail_mode", "controller"]),
        "Port": of(&["name", "interfaces", "external_ids", "tag", "vlan_mode", "protected"]),
        "Interface": of(&["name", "type", "options", "mtu_request", "ofport", "error"]),
    })
}

impl Database {
    /// Takes up a table-updates (section 4.1.6); each row that changed is told with all its columns.
    pub fn update(&mut self, updates: &Value) {
        for (table, rows) in entries(updates) {
            for (id, change) in entries(rows) {
                let new = change.get("new").and_then(Value::as_object);
                self.put(table, id, new);
            }
        }
    }

    fn put(&mut self, table: &str, id: &str, row: Option<&Map<String, Value>>) {
        fn set<T>(rows: &mut BTreeMap<String, T>, id: &str, row: Option<T>) {
            match row {
                Some(row) => drop(rows.insert(id.to_owned(), row)),
                None => drop(rows.remove(id)),
            }
        }
        match table {
            "Bridge" => set(&mut self.bridges, id, row.map(bridge)),
            "Port" => set(&mut self.ports, id, row.map(port)),
            "Interface" => set(&mut self.interfaces, id, row.map(interface)),
            "Open_vSwitch" => {
                let number = |column: &str| row.and_then(|row| row.get(column)?.as_i64());
                self.wanted_config = number("next_cfg").unwrap_or_default();
                self.done_config = number("cur_cfg").unwrap_or_default();
            }
            _ => {}
        }
    }

    /// The bridge of that name.
    pub fn bridge(&self, name: &str) -> Option<(&str, &Bridge)> {
        let found = self.bridges.iter().find(|(_, bridge)| bridge.name == name);
        found.map(|(id, bridge)| (id.as_str(), bridge))
    }

    /// The port of that name, with the bridge it is on.
    pub fn port(&self, name: &str) -> Option<(&str, &Port, Option<&Bridge>)> {
        let (id, port) = self.ports.iter().find(|(_, port)| port.name == name)?;
        let bridge = self.bridges.values().find(|bridge| bridge.ports.contains(id));
        Some((id, port, bridge))
    }

    pub fn ports_of<'a>(&'a self, bridge: &'a Bridge) -> impl Iterator<Item = (&'a str, &'a Port)> {
        let port = |id: &'a String| Some((id.as_str(), self.ports.get(id)?));
        bridge.ports.iter().filter_map(port)
    }

    /// A port's interface; a bond has several, and is none of ours.
    pub fn interface_of(&self, port: &Port) -> Option<(&str, &Interface)> {
        let id = port.interfaces.first().filter(|_| port.interfaces.len() == 1)?;
        let (id, interface) = self.interfaces.get_key_value(id)?;
        Some((id, interface))
    }
}

fn bridge(row: &Map<String, Value>) -> Bridge {
    Bridge {
        name: text(row, "name"),
        ports: ids(row, "ports"),
        external_ids: pairs(row, "external_ids"),
        other_config: pairs(row, "other_config"),
        datapath: text(row, "datapath_type"),
        fail_mode: optional(row, "fail_mode").and_then(|v| v.as_str().map(str::to_owned)),
        controllers: ids(row, "controller").len(),
    }
}

fn port(row: &Map<String, Value>) -> Port {
    Port {
        name: text(row, "name"),
        interfaces: ids(row, "interfaces"),
        external_ids: pairs(row, "external_ids"),
        tag: optional(row, "tag").and_then(Value::as_i64),
        vlan_mode: optional(row, "vlan_mode").and_then(|v| v.as_str().map(str::to_owned)),
        protected: row.get("protected").and_then(Value::as_bool).unwrap_or_default(),
    }
}

fn interface(row: &Map<String, Value>) -> Interface {
    Interface {
        name: text(row, "name"),
        kind: text(row, "type"),
        options: pairs(row, "options"),
        mtu_request: optional(row, "mtu_request").and_then(Value::as_i64),
        ofport: optional(row, "ofport").and_then(Value::as_i64),
        error: optional(row, "error").and_then(|v| v.as_str().map(str::to_owned)),
    }
}

fn entries(object: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let object = object.as_object().into_iter().flatten();
    object.map(|(key, value)| (key.as_str(), value))
}

fn text(row: &Map<String, Value>, column: &str) -> String {
    row.get(column)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// A column of at most one value: that value, or an empty set.
fn optional<'a>(row: &'a Map<String, Value>, column: &str) -> Option<&'a Value> {
    row.get(column).filter(|value| !value.is_array())
}

/// `["uuid", ID]`, or `["set", [["uuid", ID], …]]`.
fn ids(row: &Map<String, Value>, column: &str) -> BTreeSet<String> {
    let id = |value: &Value| Some(value.get(1)?.as_str()?.to_owned());
    match row.get(column) {
        Some(value) if value[0] == "set" => {
            value[1].as_array().into_iter().flatten().filter_map(id).collect()
        }
        Some(value) => id(value).into_iter().collect(),
        None => BTreeSet::new(),
    }
}

/// `["map", [[KEY, VALUE], …]]`.
fn pairs(row: &Map<String, Value>, column: &str) -> Pairs {
    let list = row.get(column).and_then(|value| value.get(1)?.as_array());
    let pair = |pair: &Value| {
        Some((
            pair.get(0)?.as_str()?.to_owned(),
            pair.get(1)?.as_str()?.to_owned(),
        ))
    };
    list.into_iter().flatten().filter_map(pair).collect()
}

/// A map as a row is written with.
pub(super) fn map(pairs: &Pairs) -> Value {
    let list: Vec<Value> = pairs.iter().map(|(key, value)| json!([key, value])).collect();
    json!(["map", list])
}

/// A column of at most one value, as a row is written with.
pub(super) fn at_most_one<T: Into<Value>>(value: Option<T>) -> Value {
    value.map_or_else(|| json!(["set", []]), Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_change_and_go() {
        let mut database = Database::default();
        database.update(&json!({
            "Open_vSwitch": { "r": { "new": { "next_cfg": 4, "cur_cfg": 3 } } },
            "Bridge": { "b": { "new": {
                "name": "br0", "ports": ["set", [["uuid", "p"], ["uuid", "q"]]], "datapath_type": "netdev",
                "external_ids": ["map", [["wharf-owner", "me"]]], "other_config": ["map", []],
                "fail_mode": ["set", []], "controller": ["uuid", "c"] } } },
            "Port": { "p": { "new": {
                "name": "t", "interfaces": ["uuid", "i"], "external_ids": ["map", []], "tag": 7,
                "vlan_mode": ["set", []], "protected": true } } },
            "Interface": { "i": { "new": {
                "name": "t", "type": "vxlan", "options": ["map", [["key", "42"]]], "mtu_request": ["set", []],
                "ofport": -1, "error": "no" } } },
        }));
        assert_eq!((database.wanted_config, database.done_config), (4, 3));
        let (id, bridge) = database.bridge("br0").unwrap();
        assert_eq!((id, bridge.ports.len(), bridge.controllers), ("b", 2, 1));
        assert_eq!(bridge.external_ids["wharf-owner"], "me");
        let (_, port, on) = database.port("t").unwrap();
        assert_eq!((port.tag, port.protected, on), (Some(7), true, Some(bridge)));
        let (_, interface) = database.interface_of(port).unwrap();
        assert_eq!((interface.ofport, interface.mtu_request), (Some(-1), None));
        assert_eq!(interface.options["key"], "42");
        database.update(&json!({ "Port": { "p": { "old": {} } } }));
        assert_eq!(database.port("t"), None);
    }
}
