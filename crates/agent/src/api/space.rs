//! What takes how much of the disk, and giving back what nothing uses: `/wharf/v1/prune`, and Docker's `system df` and
//! `system prune`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use jiff::Timestamp;
use model::observed::Look;
use serde::Deserialize;
use serde_json::{Value, json};
use storage::{Pruned, TRASH_KEPT, Trashed, size_on_disk};
use tokio::sync::oneshot;

use super::problem::Problem;
use super::wharf::{ask, refreshed};
use super::{containers, images, volumes};
use crate::engine::{Handle, Request, Snapshot};
use crate::execute::chain;
use crate::host::Host;

type Result<T> = std::result::Result<T, Problem>;

/// How `POST /wharf/v1/prune` is asked.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PruneQuery {
    /// Say only what would go.
    dry_run: bool,
    /// Also what was removed less than a day ago and could still be fetched back.
    trash: bool,
}

/// `POST /wharf/v1/prune`: images, layers and anonymous volumes that nothing uses, and of the trash what lay there for a
/// day. Sizes are of the disk.
pub async fn prune(State(handle): State<Handle>, Query(query): Query<PruneQuery>) -> Result<Json<Value>> {
    let snapshot = refreshed(&handle, true).await?;
    let (answer, done) = oneshot::channel();
    ask(
        &handle,
        Request::PruneImages {
            dry_run: query.dry_run,
            dangling: false,
            answer,
        },
    )?;
    let pruned = done.await.map_err(|_| Problem::leaving())??;
    let volumes = prune_volumes(&handle, &snapshot, query.dry_run).await?;
    let host = Arc::clone(&handle.host);
    let trash = blocking(move || empty(&host, query)).await?;
    refreshed(&handle, false).await?;
    Ok(Json(answer_of(
        &snapshot,
        &pruned,
        volumes,
        &trash,
        query.dry_run,
    )))
}

fn answer_of(
    snapshot: &Snapshot,
    pruned: &Pruned,
    volumes: Vec<Value>,
    trash: &[(Trashed, u64)],
    dry_run: bool,
) -> Value {
    let size = |key: &String| {
        let known = snapshot.observed.images.known();
        known.and_then(|all| all.get(key)).map(|image| image.size)
    };
    let images: Vec<Value> = pruned
        .images
        .iter()
        .map(|key| json!({ "ref": key, "size": size(key) }))
        .collect();
    let thrown: Vec<Value> = trash
        .iter()
        .map(|(entry, bytes)| json!({ "name": entry.name, "removed_at": entry.removed_at, "bytes": bytes }))
        .collect();
    json!({
        "dry_run": dry_run,
        "images": images,
        "layers": pruned.layers,
        "volumes": volumes,
        "trash": thrown,
        "bytes": pruned.bytes + trash.iter().map(|(_, bytes)| bytes).sum::<u64>(),
    })
}

/// Those that are not to be kept, whatever made them: into the trash, like any removed volume.
async fn prune_volumes(handle: &Handle, snapshot: &Snapshot, dry_run: bool) -> Result<Vec<Value>> {
    let mut gone = Vec::new();
    for (name, path) in volumes::unkept(snapshot) {
        let size = move || path.map_or(Ok(0), |path| size_on_disk(&path));
        let bytes = blocking(move || size().map_err(|e| Problem::failed(e.to_string()))).await?;
        if dry_run || volumes::put_away(handle, name.as_str()).await? {
            gone.push(json!({ "name": name, "bytes": bytes }));
        }
    }
    Ok(gone)
}

/// Empties the trash, or says what would be in it.
fn empty(host: &Host, query: PruneQuery) -> Result<Vec<(Trashed, u64)>> {
    let failed = |e: storage::VolumeError| Problem::failed(chain(e));
    let now = match query.trash {
        true => Timestamp::MAX,
        false => Timestamp::now(),
    };
    let mut found = host.volumes.trash().map_err(failed)?;
    found.retain(|entry| query.trash || now.duration_since(entry.removed_at).unsigned_abs() >= TRASH_KEPT);
    let sized: std::io::Result<Vec<(Trashed, u64)>> = found
        .into_iter()
        .map(|entry| size_on_disk(&entry.path).map(|bytes| (entry, bytes)))
        .collect();
    let sized = sized.map_err(|e| Problem::failed(format!("cannot measure the trash: {e}")))?;
    if !query.dry_run {
        host.volumes.empty_trash(now).map_err(failed)?;
    }
    Ok(sized)
}

/// `POST /containers/prune`: every container here is declared, and a finished job is its table's. There is nothing to take.
pub async fn prune_containers() -> Json<Value> {
    Json(json!({ "ContainersDeleted": [], "SpaceReclaimed": 0 }))
}

/// `POST /networks/prune`: likewise.
pub async fn prune_networks() -> Json<Value> {
    Json(json!({ "NetworksDeleted": [] }))
}

/// `POST /build/prune`: no build leaves a cache.
pub async fn prune_builds() -> Json<Value> {
    Json(json!({ "CachesDeleted": [], "SpaceReclaimed": 0 }))
}

/// `GET /system/df`. Walks through layers and volumes.
pub async fn disk_usage(State(handle): State<Handle>) -> Result<Json<Value>> {
    let snapshot = refreshed(&handle, false).await?;
    let images = match &snapshot.observed.images {
        Look::Known(images) => images.clone(),
        Look::Unknown(why) => return Err(Problem::failed(why.clone())),
    };
    let host = Arc::clone(&handle.host);
    let roots = handle.places.roots();
    blocking(move || {
        let layers = host.store.layer_sizes().map_err(|e| Problem::failed(chain(e)))?;
        let owners =
            |layer: &std::path::PathBuf| images.values().filter(|i| i.layers.contains(layer)).count();
        let rows = images.values().filter(|image| image.id.is_some()).map(|image| {
            let sum = |only_shared: bool| -> u64 {
                let counted = image.layers.iter().filter(|l| !only_shared || owners(l) > 1);
                counted.filter_map(|layer| layers.get(layer)).sum()
            };
            let used = snapshot
                .status
                .containers
                .iter()
                .filter(|c| c.image == image.key)
                .count();
            let mut row = images::row(image);
            row["Size"] = sum(false).into();
            row["SharedSize"] = sum(true).into();
            row["Containers"] = used.into();
            row
        });
        let images: Vec<Value> = rows.collect();
        let containers = snapshot.status.containers.iter().map(|c| {
            let upper =
                c.id.as_ref()
                    .and_then(|id| id.parse().ok())
                    .map(|id| roots.container_state(&id).join("upper"));
            let written = upper.and_then(|path| size_on_disk(&path).ok());
            json!({
                "Id": c.id, "Names": [format!("/{}", c.name)], "Image": c.image, "ImageID": c.image_id,
                "State": containers::docker_state(c.state), "Status": containers::docker_state(c.state),
                "SizeRw": written, "Created": 0, "Mounts": [], "Labels": {}, "Ports": [],
            })
        });
        let containers: Vec<Value> = containers.collect();
        let volumes = snapshot.status.volumes.iter().map(|v| {
            let local = matches!(v.driver.as_str(), "local" | "tmpfs");
            let size = local
                .then(|| size_on_disk(std::path::Path::new(&v.path)).ok())
                .flatten();
            let mut row = volumes::row(&snapshot, v);
            // What is not ours to look through has no size that is known.
            let size = size.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(-1);
            row["UsageData"] = json!({ "Size": size, "RefCount": v.used_by.len() });
            row
        });
        let volumes: Vec<Value> = volumes.collect();
        Ok(Json(json!({
            "LayersSize": layers.values().sum::<u64>(),
            "Images": images,
            "Containers": containers,
            "Volumes": volumes,
            "BuildCache": [],
        })))
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Problem::failed(e.to_string())))
}
