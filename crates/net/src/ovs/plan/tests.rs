use std::collections::BTreeMap;

use serde_json::Map;

use super::*;

const OWNER_ID: &str = "0a1b2c3d";

/// A database that carries out transactions, as far as these have them (RFC 7047, section 5.2).
#[derive(Clone, Default)]
struct Fake {
    tables: BTreeMap<String, BTreeMap<String, Map<String, Value>>>,
    rows: usize,
}

impl Fake {
    fn new() -> Self {
        let mut fake = Self::default();
        let root = json!({ "bridges": ["set", []], "next_cfg": 0, "cur_cfg": 0 });
        fake.put("Open_vSwitch", "root", root);
        fake
    }

    fn put(&mut self, table: &str, id: &str, row: Value) {
        let rows = self.tables.entry(table.to_owned()).or_default();
        rows.insert(id.to_owned(), row.as_object().unwrap().clone());
    }

    /// As a monitor tells of it, at first.
    fn database(&self) -> Database {
        let mut database = Database::default();
        let all: Map<String, Value> = self
            .tables
            .iter()
            .map(|(table, rows)| {
                let rows = rows.iter().map(|(id, row)| (id.clone(), json!({ "new": row })));
                (table.clone(), rows.collect::<Map<_, _>>().into())
            })
            .collect();
        database.update(&all.into());
        database
    }

    fn transact(&mut self, operations: &[Value]) {
        let mut names = BTreeMap::new();
        for (table, operation) in operations
            .iter()
            .map(|o| (o["table"].as_str().unwrap().to_owned(), o))
        {
            let resolved = resolve(operation, &names);
            match operation["op"].as_str().unwrap() {
                "insert" => {
                    self.rows += 1;
                    let id = format!("id{}", self.rows);
                    names.insert(operation["uuid-name"].as_str().unwrap().to_owned(), id.clone());
                    self.put(&table, &id, resolved["row"].clone());
                }
                "update" => {
                    let row = self.row(&table, &resolved);
                    row.extend(resolved["row"].as_object().unwrap().clone());
                }
                "mutate" => {
                    let row = self.row(&table, &resolved);
                    for mutation in resolved["mutations"].as_array().unwrap() {
                        let column = mutation[0].as_str().unwrap();
                        let there = row.entry(column).or_insert_with(|| json!(["set", []]));
                        *there = mutated(there, mutation[1].as_str().unwrap(), &mutation[2]);
                    }
                }
                other => panic!("{other}"),
            }
        }
        self.collect();
    }

    fn row(&mut self, table: &str, operation: &Value) -> &mut Map<String, Value> {
        let id = operation["where"][0][2][1].as_str().unwrap_or("root").to_owned();
        self.tables.get_mut(table).unwrap().get_mut(&id).unwrap()
    }

    /// What nobody refers to goes.
    fn collect(&mut self) {
        for (table, by, column) in [
            ("Bridge", "Open_vSwitch", "bridges"),
            ("Port", "Bridge", "ports"),
            ("Interface", "Port", "interfaces"),
        ] {
            let rows = self.tables.get(by).into_iter().flatten();
            let kept: Vec<String> = rows
                .flat_map(|(_, row)| list(&row[column]))
                .map(|v| v[1].as_str().unwrap().to_owned())
                .collect();
            if let Some(rows) = self.tables.get_mut(table) {
                rows.retain(|id, _| kept.contains(id));
            }
        }
    }

    fn id(&self, table: &str, name: &str) -> String {
        let mut rows = self.tables[table].iter();
        rows.find(|(_, row)| row["name"] == name).unwrap().0.clone()
    }

    fn set(&mut self, table: &str, name: &str, column: &str, value: Value) {
        let id = self.id(table, name);
        self.tables
            .get_mut(table)
            .unwrap()
            .get_mut(&id)
            .unwrap()
            .insert(column.to_owned(), value);
    }

    /// Like `ovs-vsctl add-br`.
    fn add_bridge(&mut self, name: &str) {
        let insert = |table: &str, id: &str, row: Value| json!({ "op": "insert", "table": table, "uuid-name": id, "row": row });
        self.transact(&[
            insert(
                "Interface",
                "i",
                json!({ "name": name, "type": "internal", "options": ["map", []] }),
            ),
            insert(
                "Port",
                "p",
                json!({ "name": name, "interfaces": ["named-uuid", "i"] }),
            ),
            insert(
                "Bridge",
                "b",
                json!({ "name": name, "ports": ["set", [["named-uuid", "p"]]] }),
            ),
            mutate(
                "Open_vSwitch",
                None,
                json!([["bridges", "insert", ["set", [["named-uuid", "b"]]]]]),
            ),
        ]);
    }
}

/// Names of rows of the same transaction, by their ids.
fn resolve(value: &Value, names: &BTreeMap<String, String>) -> Value {
    match value {
        Value::Array(pair) if pair.first() == Some(&json!("named-uuid")) => {
            json!(["uuid", names[pair[1].as_str().unwrap()]])
        }
        Value::Array(all) => all.iter().map(|v| resolve(v, names)).collect(),
        Value::Object(all) => all
            .iter()
            .map(|(k, v)| (k.clone(), resolve(v, names)))
            .collect::<Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

/// Of a set, or of one alone.
fn list(value: &Value) -> Vec<Value> {
    match value[0].as_str() {
        Some("set" | "map") => value[1].as_array().unwrap().clone(),
        _ => vec![value.clone()],
    }
}

fn mutated(there: &Value, how: &str, by: &Value) -> Value {
    let is_map = there[0] == "map" || by[0] == "map";
    let (mut all, by) = (list(there), list(by));
    match how {
        "delete" => all.retain(|v| !by.contains(if is_map { &v[0] } else { v })),
        "insert" => {
            let new = by
                .into_iter()
                .filter(|v| !all.iter().any(|t| t == v || is_map && t[0] == v[0]));
            let new: Vec<Value> = new.collect();
            all.extend(new);
        }
        other => panic!("{other}"),
    }
    json!([if is_map { "map" } else { "set" }, all])
}

fn made() -> Made {
    Made {
        network: "mesh".to_owned(),
        bridge: "wh-mesh".to_owned(),
        tunnels: "wh-0a1b2c3d.vx".to_owned(),
        datapath: "netdev".to_owned(),
        vlan: 7,
        mtu: Some(1446),
        gateway: [10, 81, 0, 1].into(),
        gateway6: None,
        kind: "vxlan".to_owned(),
        vni: 4200,
        port: 4789,
        local: "192.0.2.1".parse().unwrap(),
    }
}

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

fn left(fake: &Fake, made: &Made, to: &[&str]) -> Result<Vec<Value>, SwitchError> {
    let wanted = [made.inner(OWNER_ID), made.outer(OWNER_ID, &ips(to))];
    operations(&fake.database(), OWNER_ID, &wanted)
}

fn settle(fake: &mut Fake, made: &Made, to: &[&str]) {
    let operations = left(fake, made, to).unwrap();
    fake.transact(&operations);
    assert_eq!(left(fake, made, to).unwrap(), Vec::<Value>::new());
    assert_eq!(peers(&fake.database(), made, OWNER_ID), ips(to));
}

#[test]
fn a_network_is_made_changed_and_removed_and_nothing_else() {
    let mut fake = Fake::new();
    fake.add_bridge("theirs");
    let before = fake.database();
    settle(&mut fake, &made(), &["192.0.2.2", "192.0.2.3"]);
    settle(&mut fake, &made(), &["192.0.2.3", "192.0.2.4"]);
    settle(&mut fake, &made(), &[]);
    let other = Made {
        vni: 4300,
        port: 8472,
        ..made()
    };
    settle(&mut fake, &other, &["192.0.2.3"]);
    let database = fake.database();
    let (_, bridge) = database.bridge("wh-mesh").unwrap();
    assert_eq!(Made::read(bridge), Some(other));
    assert_eq!(bridge.other_config["hwaddr"], "02:57:0a:51:00:01");
    let bridges = bridges_of(&database, OWNER_ID, "wh-mesh").unwrap();
    assert_eq!(bridges.len(), 2);
    fake.transact(&without_bridges(bridges.iter().map(|(id, _)| *id)));
    assert_eq!(fake.database(), before);
}

#[test]
fn what_was_changed_is_put_right() {
    let mut fake = Fake::new();
    settle(&mut fake, &made(), &["192.0.2.2"]);
    let whole = fake.clone();
    let tunnel = made().tunnel(OWNER_ID, "192.0.2.2".parse().unwrap()).name;
    let damages: [(&str, &str, &str, Value); 9] = [
        ("Bridge", "wh-mesh", "datapath_type", json!("system")),
        ("Bridge", "wh-mesh", "fail_mode", json!("secure")),
        ("Bridge", "wh-mesh", "controller", json!(["uuid", "x"])),
        (
            "Bridge",
            "wh-mesh",
            "other_config",
            json!(["map", [["hwaddr", "02:00:00:00:00:01"]]]),
        ),
        ("Port", "wh-mesh", "tag", json!(["set", []])),
        ("Port", &tunnel, "protected", json!(false)),
        ("Interface", &tunnel, "type", json!("gre")),
        (
            "Interface",
            &tunnel,
            "options",
            json!(["map", [["remote_ip", "flow"]]]),
        ),
        ("Interface", "wh-mesh", "mtu_request", json!(9000)),
    ];
    for (table, name, column, value) in damages {
        let mut fake = whole.clone();
        fake.set(table, name, column, value);
        assert!(
            !left(&fake, &made(), &["192.0.2.2"]).unwrap().is_empty(),
            "{table} {name} {column}"
        );
        settle(&mut fake, &made(), &["192.0.2.2"]);
    }
    // Pairs of somebody else's stay.
    let mut fake = whole;
    fake.set(
        "Bridge",
        "wh-mesh",
        "other_config",
        json!(["map", [["theirs", "1"]]]),
    );
    settle(&mut fake, &made(), &["192.0.2.2"]);
    let database = fake.database();
    assert_eq!(database.bridge("wh-mesh").unwrap().1.other_config["theirs"], "1");
}

#[test]
fn ports_of_containers_come_and_go_and_stay_through_all_else() {
    let mut fake = Fake::new();
    settle(&mut fake, &made(), &[]);
    let port = made().container(OWNER_ID, "wh-0123456789.0", "web");
    let plug = |fake: &Fake| port_operations(&fake.database(), OWNER_ID, "wh-mesh", &port).unwrap();
    let operations = plug(&fake);
    fake.transact(&operations);
    assert!(plug(&fake).is_empty());
    settle(&mut fake, &made(), &["192.0.2.2"]);
    assert!(plug(&fake).is_empty());
    fake.set("Port", "wh-0123456789.0", "tag", json!(9));
    let operations = plug(&fake);
    fake.transact(&operations);
    assert!(plug(&fake).is_empty());
    let gone = without_port(&fake.database(), OWNER_ID, "wh-0123456789.0");
    fake.transact(&gone);
    assert_eq!(fake.database().port("wh-0123456789.0"), None);
    assert!(without_port(&fake.database(), OWNER_ID, "wh-0123456789.0").is_empty());
}

#[test]
fn what_is_not_ours_is_never_taken() {
    let mut fake = Fake::new();
    fake.add_bridge("wh-mesh");
    let told = left(&fake, &made(), &[]).unwrap_err().to_string();
    assert!(
        told.contains("wh-mesh") && told.contains("somebody else"),
        "{told}"
    );
    assert!(bridges_of(&fake.database(), OWNER_ID, "wh-mesh").is_err());
    assert!(without_port(&fake.database(), OWNER_ID, "wh-mesh").is_empty());
    // Another agent's.
    let mut fake = Fake::new();
    settle(&mut fake, &made(), &[]);
    let other = operations(&fake.database(), "ffff", &[made().inner("ffff")]);
    let told = other.unwrap_err().to_string();
    assert!(told.contains("another wharf agent (0a1b2c3d)"), "{told}");
    // A port of a foreign bridge.
    let mut fake = Fake::new();
    fake.add_bridge("wh-0a1b2c3d.in");
    assert!(matches!(
        left(&fake, &made(), &[]),
        Err(SwitchError::ForeignPort { .. })
    ));
}
