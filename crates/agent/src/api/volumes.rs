//! Docker's routes about volumes: list, inspect, remove, prune.

use std::collections::BTreeMap;
use std::path::PathBuf;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use model::name::Name;
use model::paths::text;
use model::spec::{VolumeDriver, VolumeSpec};
use model::status::VolumeStatus;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::filters::{FilterQuery, Filters};
use super::problem::Problem;
use super::wharf::{ask, current, refreshed, seen};
use crate::engine::{Handle, Request, Snapshot};

type Result<T> = std::result::Result<T, Problem>;

/// `GET /volumes`.
pub async fn list(State(handle): State<Handle>, Query(query): Query<FilterQuery>) -> Result<Json<Value>> {
    let filters = Filters::parse(&query.filters, &["name", "driver", "dangling"])?;
    let snapshot = current(&handle).await?;
    let passes = |v: &&VolumeStatus| {
        filters.fits("name", |name| v.name.contains(name))
            && filters.fits("driver", |driver| v.driver == driver)
            && filters.fits("dangling", |d| v.used_by.is_empty() == matches!(d, "1" | "true"))
    };
    let rows: Vec<Value> = snapshot
        .status
        .volumes
        .iter()
        .filter(passes)
        .map(|v| row(&snapshot, v))
        .collect();
    Ok(Json(json!({ "Volumes": rows, "Warnings": [] })))
}

/// `GET /volumes/NAME`.
pub async fn inspect(State(handle): State<Handle>, Path(name): Path<String>) -> Result<Json<Value>> {
    let none = || Problem::not_found(format!("no volume {name:?}; `wharf volume ls` lists them"));
    let found = |snapshot: &Snapshot| {
        let volume = snapshot.status.volumes.iter().find(|v| v.name == name);
        volume.map(|v| row(snapshot, v)).ok_or_else(none)
    };
    seen(&handle, found).await.map(Json)
}

pub(super) fn row(snapshot: &Snapshot, volume: &VolumeStatus) -> Value {
    let seen = snapshot
        .observed
        .volumes
        .known()
        .and_then(|all| all.get(volume.name.as_str()));
    json!({
        "Name": volume.name,
        "Driver": volume.driver,
        "Mountpoint": volume.path,
        "CreatedAt": seen.map(|v| v.created_at),
        "Labels": seen.map(|v| v.spec.labels.clone()).unwrap_or_default(),
        "Scope": "local",
        "Options": seen.map(|v| options(&v.spec)).unwrap_or_default(),
        "UsedBy": volume.used_by,
        "Kept": volume.kept,
    })
}

/// As Docker's driver "local" is asked for the same: what is mounted, of which kind, how.
fn options(spec: &VolumeSpec) -> BTreeMap<&'static str, String> {
    let device = spec.device.as_deref().map(text).unwrap_or_default();
    let (kind, device, how) = match spec.driver {
        VolumeDriver::Local => return BTreeMap::new(),
        VolumeDriver::Bind => ("none", device, "bind".to_owned()),
        VolumeDriver::Tmpfs => ("tmpfs", "tmpfs".to_owned(), String::new()),
        VolumeDriver::Nfs => ("nfs", device, spec.options.join(",")),
    };
    let all = [("type", kind.to_owned()), ("device", device), ("o", how)];
    all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

/// `DELETE /volumes/NAME`: 409 while a container uses it or a file declares it.
pub async fn remove(State(handle): State<Handle>, Path(name): Path<String>) -> Result<Response> {
    let (answer, done) = oneshot::channel();
    ask(&handle, Request::RemoveVolume { name, answer })?;
    done.await.map_err(|_| Problem::leaving())??;
    refreshed(&handle, false).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `POST /volumes/prune`: all that no container uses and no file declares, where `all` is among the filters; else only
/// those that are not to be kept, as Docker's client means it when it asks about anonymous ones.
pub async fn prune(State(handle): State<Handle>, Query(query): Query<FilterQuery>) -> Result<Json<Value>> {
    let filters = Filters::parse(&query.filters, &["all"])?;
    let all = filters.has("all") && filters.fits("all", |v| matches!(v, "1" | "true"));
    let snapshot = refreshed(&handle, true).await?;
    let unused = snapshot.status.volumes.iter().filter(|v| v.used_by.is_empty());
    let names: Vec<String> = match all {
        true => unused.map(|v| v.name.clone()).collect(),
        false => unkept(&snapshot).map(|(name, _)| name.to_string()).collect(),
    };
    let mut deleted = Vec::new();
    for name in names {
        if put_away(&handle, &name).await? {
            deleted.push(name);
        }
    }
    refreshed(&handle, false).await?;
    // They are in the trash, so nothing was freed yet.
    Ok(Json(json!({ "VolumesDeleted": deleted, "SpaceReclaimed": 0 })))
}

/// Volumes that were made not to be kept and that nothing wants any more, with where those of their data are that go with
/// them.
pub(super) fn unkept(snapshot: &Snapshot) -> impl Iterator<Item = (Name, Option<PathBuf>)> {
    let all = snapshot.observed.volumes.known().into_iter().flatten();
    let used = |name: &Name| {
        let status = snapshot.status.volumes.iter().find(|v| v.name == name.as_str());
        status.is_none_or(|v| !v.used_by.is_empty())
    };
    let unkept = all.filter(move |(name, volume)| !volume.spec.keep && !used(name));
    unkept.map(|(name, volume)| {
        let ours = matches!(volume.spec.driver, VolumeDriver::Local | VolumeDriver::Tmpfs);
        (name.clone(), ours.then(|| volume.path.clone()))
    })
}

/// Removes one; false where it came into use meanwhile, or is declared.
pub(super) async fn put_away(handle: &Handle, name: &str) -> Result<bool> {
    let (answer, done) = oneshot::channel();
    let name = name.to_owned();
    ask(handle, Request::RemoveVolume { name, answer })?;
    Ok(done.await.map_err(|_| Problem::leaving())?.is_ok())
}
