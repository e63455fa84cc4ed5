//! `/wharf/v1/volumes/…`: a volume as an archive, from an archive, as another volume.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use model::name::{ContainerId, Name};
use model::status::State as ContainerState;
use serde::Deserialize;
use serde_json::{Value, json};
use storage::{Holes, VolumeError};

use super::bodies;
use super::problem::Problem;
use super::wharf::refreshed;
use crate::engine::{Handle, Snapshot, Wake};
use crate::execute::chain;
use crate::host::Host;

type Result<T> = std::result::Result<T, Problem>;

/// How a copy is made.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CopyQuery {
    /// Keep the containers that use the volume frozen meanwhile.
    pause: bool,
    /// Write holes of an archive's files as GNU tar does, not as zeros.
    sparse: bool,
    /// The name of a clone.
    to: String,
}

/// `GET /wharf/v1/volumes/NAME/export`: a tar archive.
pub async fn export(
    State(handle): State<Handle>,
    Path(name): Path<String>,
    Query(query): Query<CopyQuery>,
) -> Result<Response> {
    let (name, users) = users_of(&handle, &name, query.pause).await?;
    let host = Arc::clone(&handle.host);
    let holes = if query.sparse { Holes::Kept } else { Holes::Zeros };
    bodies::give("application/x-tar", move |out| {
        let _frozen = freeze(&host, &users)?;
        // A client that goes away is an error of the next write.
        host.volumes
            .export(&name, out, holes, &AtomicBool::new(false))
            .map_err(problem)
    })
    .await
}

/// `POST /wharf/v1/volumes/NAME/import`: a tar archive, plain or compressed, over what is there.
pub async fn import(
    State(handle): State<Handle>,
    Path(name): Path<String>,
    Query(query): Query<CopyQuery>,
    body: Body,
) -> Result<Json<Value>> {
    let found = users_of(&handle, &name, query.pause).await;
    let ((name, users), body) = bodies::accepted(body, found).await?;
    let (host, volume) = (Arc::clone(&handle.host), name.clone());
    let imported = bodies::take(body, move |archive| {
        let _frozen = freeze(&host, &users)?;
        host.volumes
            .import(&volume, archive, &AtomicBool::new(false))
            .map_err(problem)
    })
    .await?;
    let done = if imported.made {
        "made from an archive"
    } else {
        "an archive was put into it"
    };
    tell(&handle, &name, "import", done).await?;
    let left_out: Vec<Value> = imported
        .left_out
        .iter()
        .map(|(path, why)| json!({ "path": path.display().to_string(), "why": why }))
        .collect();
    Ok(Json(
        json!({ "name": name, "made": imported.made, "left_out": left_out }),
    ))
}

/// `POST /wharf/v1/volumes/NAME/clone?to=OTHER`: OTHER is not there before.
pub async fn clone(
    State(handle): State<Handle>,
    Path(name): Path<String>,
    Query(query): Query<CopyQuery>,
) -> Result<Json<Value>> {
    let (name, users) = users_of(&handle, &name, query.pause).await?;
    let to = named(&query.to)?;
    let (host, from, into) = (Arc::clone(&handle.host), name.clone(), to.clone());
    let cloned = tokio::task::spawn_blocking(move || {
        let _frozen = freeze(&host, &users)?;
        let never = AtomicBool::new(false);
        host.volumes.clone_as(&from, &into, &never).map_err(problem)
    });
    cloned
        .await
        .unwrap_or_else(|e| Err(Problem::failed(e.to_string())))?;
    tell(&handle, &to, "clone", &format!("made from volume {name}")).await?;
    Ok(Json(json!({ "name": to })))
}

async fn tell(handle: &Handle, name: &Name, what: &str, reason: &str) -> Result<()> {
    handle.events.emit("volume", name.as_str(), what, reason);
    // The loop outlives its clients but at its own end.
    drop(handle.wakes.send(Wake::Everything));
    refreshed(handle, true).await.map(drop)
}

/// The volume's name, and who is to be frozen: those of its users that run, or do not because of another copy, which may
/// be done before this one.
async fn users_of(handle: &Handle, name: &str, pause: bool) -> Result<(Name, Vec<ContainerId>)> {
    let name = named(name)?;
    if !pause {
        return Ok((name, Vec::new()));
    }
    let snapshot = refreshed(handle, true).await?;
    let users = users_that_run(&snapshot, &name);
    Ok((name, users))
}

fn users_that_run(snapshot: &Snapshot, name: &Name) -> Vec<ContainerId> {
    let volume = snapshot.status.volumes.iter().find(|v| v.name == name.as_str());
    let used_by = |container: &str| volume.is_some_and(|v| v.used_by.iter().any(|user| user == container));
    let containers = snapshot.status.containers.iter();
    let runs = |state| matches!(state, ContainerState::Running | ContainerState::Paused);
    let running = containers.filter(|c| runs(c.state) && used_by(&c.name));
    running.filter_map(|c| c.id.as_ref()?.parse().ok()).collect()
}

/// They go on when this goes, or this process does. One that ended meanwhile is frozen enough.
fn freeze(host: &Host, users: &[ContainerId]) -> Result<Vec<runtime::client::Frozen>> {
    let frozen = users.iter().filter_map(|id| {
        let asked = host.runtime.freeze(id).transpose()?;
        Some(asked.map_err(|e| Problem::failed(format!("container {} cannot be paused: {e}", id.short()))))
    });
    frozen.collect()
}

fn named(text: &str) -> Result<Name> {
    text.parse()
        .map_err(|e| Problem::bad_request(format!("{text:?} cannot be a volume's name: {e}")))
}

fn problem(error: VolumeError) -> Problem {
    match &error {
        VolumeError::Missing(_) => Problem::not_found(error.to_string()),
        VolumeError::Exists(_) => Problem::conflict(error.to_string()),
        _ => Problem::failed(chain(error)),
    }
}
