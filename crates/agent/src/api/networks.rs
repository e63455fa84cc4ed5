//! Docker's routes about networks: `GET /networks`, `GET /networks/NAME`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use model::network::{Driver, HostNetwork};
use model::status::{ContainerStatus, NetworkStatus};
use serde_json::{Value, json};

use super::problem::Problem;
use super::wharf::{current, seen};
use crate::engine::{Handle, Snapshot};

/// All of them.
pub async fn list(State(handle): State<Handle>) -> Result<Json<Value>, Problem> {
    let snapshot = current(&handle).await?;
    Ok(Json(
        snapshot
            .status
            .networks
            .iter()
            .map(|n| row(&snapshot, n))
            .collect(),
    ))
}

/// One, by name.
pub async fn inspect(State(handle): State<Handle>, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    let none = || Problem::not_found(format!("no network {name:?}; `wharf network ls` lists them"));
    let found = |snapshot: &Snapshot| {
        let network = snapshot.status.networks.iter().find(|n| n.name == name);
        network.map(|n| row(snapshot, n)).ok_or_else(none)
    };
    seen(&handle, found).await.map(Json)
}

fn row(snapshot: &Snapshot, network: &NetworkStatus) -> Value {
    let known = snapshot.ledger.networks.get(network.name.as_str());
    let internal = known.is_some_and(|entry| entry.network.internal);
    json!({
        "Name": network.name,
        // There is one of a name, so the name is the id.
        "Id": network.name,
        "Created": "0001-01-01T00:00:00Z",
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": network.subnet.is_some(),
        "EnableIPv6": network.subnet6.is_some(),
        "IPAM": { "Driver": "default", "Options": {}, "Config": pools(network) },
        "Internal": internal,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers(snapshot, &network.name),
        "Options": options(known.map(|entry| &entry.network), network),
        "Labels": {},
    })
}

/// By docker's names.
fn options(known: Option<&HostNetwork>, network: &NetworkStatus) -> Value {
    match known.map(|known| &known.driver) {
        Some(Driver::Macvlan(below)) => json!({ "parent": below.parent.name, "macvlan_mode": "bridge" }),
        Some(Driver::Ipvlan(below)) => json!({ "parent": below.parent.name, "ipvlan_mode": "l2" }),
        _ => {
            let mut options = json!({
                "com.docker.network.bridge.name": network.device,
                "com.docker.network.bridge.enable_icc": known.is_none_or(|known| !known.isolated).to_string(),
            });
            if let Some(key) = &network.public_key {
                options["wharf.public_key"] = json!(key);
            }
            options
        }
    }
}

/// Its subnets, one of each family.
fn pools(network: &NetworkStatus) -> Vec<Value> {
    let four = network.subnet.iter().map(|subnet| (subnet, &network.gateway));
    let six = network.subnet6.iter().map(|subnet| (subnet, &network.gateway6));
    four.chain(six)
        .map(|(subnet, gateway)| json!({ "Subnet": subnet, "Gateway": gateway }))
        .collect()
}

fn containers(snapshot: &Snapshot, network: &str) -> BTreeMap<String, Value> {
    let one = |c: &ContainerStatus| {
        let endpoint = c.networks.get(network)?;
        let entry = json!({
            "Name": c.name, "EndpointID": "", "MacAddress": endpoint.mac, "IPv4Address": endpoint.ip.clone().unwrap_or_default(),
            "IPv6Address": endpoint.ip6.clone().unwrap_or_default(),
        });
        Some((c.id.clone()?, entry))
    };
    snapshot.status.containers.iter().filter_map(one).collect()
}
