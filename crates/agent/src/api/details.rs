//! Parts of Docker's `GET /containers/NAME/json`: labels, health and mounts.

use std::collections::BTreeMap;

use model::ledger::Accepted;
use model::spec::{ContainerSpec, VolumeSource};
use model::status::ContainerStatus;
use serde_json::{Value, json};

use crate::engine::Snapshot;

/// Labels that say which instance of which table it is. A table's own labels cannot have these names.
pub const SERVICE: &str = "wharf.service";
pub const INSTANCE: &str = "wharf.instance";

/// `Labels`: the table's, and those that are wharf's own.
pub fn labels(c: &ContainerStatus, accepted: Option<&Accepted>) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = accepted.map(|a| a.spec.labels.clone()).unwrap_or_default();
    labels.insert(SERVICE.to_owned(), c.service.clone());
    labels.insert(INSTANCE.to_owned(), c.instance.to_string());
    labels
}

/// `State.Health`; null where nobody asks.
pub fn health(snapshot: &Snapshot, c: &ContainerStatus, accepted: Option<&Accepted>) -> Value {
    if c.health == "none" {
        return Value::Null;
    }
    let state = accepted.and_then(|a| snapshot.observed.health.get(&a.id));
    let log = state.and_then(|state| {
        let ended = state.probed_at?;
        let code = i32::from(!state.output.is_empty());
        Some(json!({ "Start": ended, "End": ended, "ExitCode": code, "Output": state.output }))
    });
    json!({
        "Status": c.health,
        "FailingStreak": state.map_or(0, |state| state.failures),
        "Log": log.into_iter().collect::<Vec<_>>(),
    })
}

/// `Mounts`: what the table says; the image's own volumes are not among them.
pub fn mounts(snapshot: &Snapshot, spec: Option<&ContainerSpec>) -> Vec<Value> {
    let volumes = snapshot.observed.volumes.known();
    let uses = spec.map(|s| s.volumes.as_slice()).unwrap_or_default();
    let one = |usage: &model::spec::VolumeUse| {
        let (kind, name, source) = match &usage.source {
            VolumeSource::Named(name) => {
                let path = volumes
                    .and_then(|all| all.get(name))
                    .map(|v| v.path.display().to_string());
                ("volume", name.to_string(), path.unwrap_or_default())
            }
            VolumeSource::Anonymous => ("volume", String::new(), String::new()),
            VolumeSource::Bind { source, .. } => ("bind", String::new(), source.display().to_string()),
            VolumeSource::Tmpfs { .. } => ("tmpfs", String::new(), String::new()),
        };
        json!({
            "Type": kind, "Name": name, "Source": source, "Destination": usage.target,
            "Mode": if usage.read_only { "ro" } else { "" }, "RW": !usage.read_only, "Propagation": "rprivate",
        })
    };
    uses.iter().map(one).collect()
}
