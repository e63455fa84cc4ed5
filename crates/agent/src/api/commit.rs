//! Images that are made here: `POST /commit`, of what a container changed; `POST /images/create?fromSrc=-`, of an archive.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use model::action::Instance;
use model::image::Image;
use serde_json::{Map, Value, json};
use storage::files::plain;
use storage::{NewLayer, instructions};

use super::archive::{instance, problem};
use super::image_details::{named, parse, problem as store_problem};
use super::problem::Problem;
use super::wharf::refreshed;
use super::{bodies, images, progress};
use crate::engine::Handle;
use crate::execute::chain;
use crate::files::{Job, Task};
use crate::host::Host;

type Result<T> = std::result::Result<T, Problem>;

/// The digest of an empty layer: of two blocks of zeros.
const EMPTY: &str = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

/// What the new image is to be.
#[derive(Debug, Default)]
struct Wanted {
    reference: String,
    author: String,
    comment: String,
    /// Dockerfile instructions.
    changes: Vec<String>,
}

/// What of a query is not about the image.
#[derive(Debug, Default)]
struct Rest {
    container: String,
    pause: bool,
    source: Option<String>,
}

fn wanted(query: &str) -> Result<(Wanted, Rest)> {
    let mut wanted = Wanted::default();
    let mut rest = Rest {
        pause: true,
        ..Rest::default()
    };
    let (mut repository, mut tag) = (String::new(), String::new());
    for (key, value) in parse::<Vec<(String, String)>>(query)? {
        match key.as_str() {
            "container" => rest.container = value,
            "repo" => repository = value,
            "tag" => tag = value,
            "comment" | "message" => wanted.comment = value,
            "author" => wanted.author = value,
            "pause" => rest.pause = !matches!(value.as_str(), "0" | "false" | "False" | "FALSE"),
            "changes" => wanted.changes.extend(value.lines().map(str::to_owned)),
            "fromSrc" => rest.source = Some(value),
            "platform" if value.is_empty() => {}
            "fromImage" if value.is_empty() => {}
            other => {
                return Err(Problem::bad_request(format!(
                    "{other:?} is not supported yet here"
                )));
            }
        }
    }
    wanted.changes.retain(|change| !change.trim().is_empty());
    if repository.is_empty() {
        let text = "name the image: one without a name could not be found again here";
        return Err(Problem::bad_request(text));
    }
    wanted.reference = match tag.as_str() {
        "" => named(&repository)?,
        tag => named(&format!("{repository}:{tag}"))?,
    };
    // Refused before anything is read.
    let mut trial = Map::new();
    apply(&mut trial, &wanted.changes)?;
    Ok((wanted, rest))
}

/// `POST /commit?container=…&repo=…&tag=…&comment=…&author=…&pause=…&changes=…`.
pub async fn commit(
    State(handle): State<Handle>,
    RawQuery(query): RawQuery,
    body: axum::body::Bytes,
) -> Result<Response> {
    let (wanted, rest) = wanted(&query.unwrap_or_default())?;
    let config: Value = match body.is_empty() {
        true => Value::Null,
        false => serde_json::from_slice(&body).map_err(|e| Problem::bad_request(e.to_string()))?,
    };
    if config.as_object().is_some_and(|config| !config.is_empty()) {
        let text = "a config in the request is not supported yet: say what differs by `changes`";
        return Err(Problem::not_built(text));
    }
    let i = instance(&handle, &rest.container).await?;
    let (host, name) = (Arc::clone(&handle.host), i.name.to_string());
    let reference = wanted.reference.clone();
    let done = progress::quietly(move |cancel| commit_now(&host, &i, &wanted, rest.pause, cancel));
    let image = done.await??;
    let id = image.id.map(|id| id.to_string()).unwrap_or_default();
    let reason = format!("its changes became the image {reference}");
    handle.events.emit("container", &name, "commit", reason);
    refreshed(&handle, true).await?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": id }))).into_response())
}

fn commit_now(host: &Host, i: &Instance, wanted: &Wanted, pause: bool, cancel: &AtomicBool) -> Result<Image> {
    let mut config = own_config(host, i)?;
    let layer = {
        // It goes on when this goes, or when this process does.
        let _frozen = match pause {
            true => host
                .runtime
                .freeze(&i.id)
                .map_err(|e| Problem::failed(format!("container {}: {e}", i.name)))?,
            false => None,
        };
        let job = Job::begin(host, i, &Task::Layer).map_err(|e| problem(i, "/", e))?;
        host.store
            .add_layer(&mut job.reader(), cancel)
            .map_err(store_problem)?
    };
    let execution = execution(&config, i)?;
    config.insert("config".to_owned(), Value::Object(execution));
    finish(host, config, wanted, &command_line(i), layer)
}

/// The config document of the image the container was made from.
fn own_config(host: &Host, i: &Instance) -> Result<Map<String, Value>> {
    let gone = || {
        Problem::conflict(format!(
            "container {} was made from an image that is not here under any name now: `wharf export` it, and import that",
            i.name
        ))
    };
    let id = i.image.id.ok_or_else(|| {
        Problem::conflict(format!(
            "container {} has a directory as its root, which is no image: `wharf export` it, and import that",
            i.name
        ))
    })?;
    // By its name, or any other that the same image has by now.
    let all = host.store.images().map_err(store_problem)?;
    let same = |image: &&Image| image.id == Some(id);
    let own = all.get(&i.image.key).filter(same);
    let found = own.or_else(|| all.values().find(same)).ok_or_else(gone)?;
    let described = host.store.describe(&found.key).map_err(store_problem)?;
    if described.config.digest != id {
        return Err(gone());
    }
    object(&described.config.bytes)
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(bytes).map_err(|e| Problem::failed(format!("the image's config: {e}")))
}

/// The image's, with what the container's table says in its place.
fn execution(config: &Map<String, Value>, i: &Instance) -> Result<Map<String, Value>> {
    let mut own = config
        .get("config")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    let spec = &i.spec;
    for (key, value) in &spec.env {
        instructions::env(&mut own, key, value);
    }
    if let Some(entrypoint) = &spec.entrypoint {
        own.insert("Entrypoint".to_owned(), json!(entrypoint));
        own.remove("Cmd");
    }
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            own.insert(key.to_owned(), value);
        }
    };
    put("Cmd", spec.command.as_ref().map(|c| json!(c)));
    put("User", spec.user.as_ref().map(|u| json!(u)));
    put("WorkingDir", spec.working_dir.as_ref().map(|d| json!(d)));
    put("StopSignal", spec.stop_signal.as_ref().map(|s| json!(s)));
    if !spec.labels.is_empty() {
        let mut labels = own
            .get("Labels")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        labels.extend(spec.labels.iter().map(|(key, value)| (key.clone(), json!(value))));
        own.insert("Labels".to_owned(), Value::Object(labels));
    }
    Ok(own)
}

fn command_line(i: &Instance) -> String {
    let image = &i.image.config;
    let entrypoint = i.spec.entrypoint.as_ref().unwrap_or(&image.entrypoint);
    let command = match (&i.spec.command, &i.spec.entrypoint) {
        (Some(command), _) => command.as_slice(),
        (None, Some(_)) => &[],
        (None, None) => &image.cmd,
    };
    let all: Vec<&str> = entrypoint.iter().chain(command).map(String::as_str).collect();
    all.join(" ")
}

fn apply(config: &mut Map<String, Value>, changes: &[String]) -> Result<()> {
    let each = |change: &String| instructions::change(config, change);
    let mut changes = changes.iter();
    let applied = changes.try_for_each(each);
    applied.map_err(|e| Problem::bad_request(e.to_string()))
}

/// One more layer on top of a config document, and the history of that; then it is an image.
fn finish(
    host: &Host,
    mut document: Map<String, Value>,
    wanted: &Wanted,
    created_by: &str,
    layer: NewLayer,
) -> Result<Image> {
    let now = Timestamp::now().to_string();
    let empty = layer.diff_id.to_string() == EMPTY;
    let mut execution = document
        .get("config")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    apply(&mut execution, &wanted.changes)?;
    if !wanted.author.is_empty() {
        document.insert("author".to_owned(), json!(wanted.author));
    }
    document.insert("created".to_owned(), json!(now));
    document.insert("config".to_owned(), Value::Object(execution));
    // What Docker once wrote of the container that an image was made in; it was another one.
    document.remove("container");
    document.remove("container_config");
    let mut history = list(&document, "history");
    history.push(step(wanted, created_by, &now, empty));
    document.insert("history".to_owned(), Value::Array(history));
    let rootfs = document.get("rootfs").and_then(Value::as_object).cloned();
    let mut diff_ids = list(&rootfs.unwrap_or_default(), "diff_ids");
    if !empty {
        diff_ids.push(json!(layer.diff_id.to_string()));
    }
    let layers: std::result::Result<Vec<_>, _> = diff_ids
        .iter()
        .map(|id| id.as_str().unwrap_or_default().parse())
        .collect();
    let layers = layers.map_err(|e| Problem::failed(format!("the image's config: {e}")))?;
    let rootfs = json!({ "type": "layers", "diff_ids": diff_ids });
    document.insert("rootfs".to_owned(), rootfs);
    let bytes = serde_json::to_vec(&document).map_err(|e| Problem::failed(e.to_string()))?;
    let image = host.store.add_image(&wanted.reference, &bytes, &layers);
    // Until now nobody else held the layer.
    drop(layer);
    image.map_err(store_problem)
}

/// The latest of an image's history.
fn step(wanted: &Wanted, created_by: &str, now: &str, empty: bool) -> Value {
    let mut step = json!({ "created": now, "created_by": created_by });
    for (key, text) in [("author", &wanted.author), ("comment", &wanted.comment)] {
        if !text.is_empty() {
            step[key] = json!(text);
        }
    }
    if empty {
        step["empty_layer"] = json!(true);
    }
    step
}

fn list(document: &Map<String, Value>, key: &str) -> Vec<Value> {
    let listed = document.get(key).and_then(Value::as_array);
    listed.cloned().unwrap_or_default()
}

/// `POST /images/create`: a pull, or with `fromSrc=-` an image of one layer, the archive in the body.
pub async fn create(
    handle: State<Handle>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    let query = query.unwrap_or_default();
    let pairs = parse::<Vec<(String, String)>>(&query)?;
    if pairs
        .iter()
        .any(|(key, value)| key == "fromSrc" && !value.is_empty())
    {
        return import(handle.0, &query, body).await;
    }
    images::pull(handle, Query(parse(&query)?), headers).await
}

async fn import(handle: Handle, query: &str, body: Body) -> Result<Response> {
    let from_body = |(wanted, rest): (Wanted, Rest)| match rest.source.as_deref() {
        Some("-") => Ok(wanted),
        _ => {
            let text = "only an archive that is sent can be imported: fetch it, and write `-` for it";
            Err(Problem::bad_request(text))
        }
    };
    let (wanted, body) = bodies::accepted(body, wanted(query).and_then(from_body)).await?;
    let (host, reference) = (Arc::clone(&handle.host), wanted.reference.clone());
    let never = AtomicBool::new(false);
    // A client that breaks off is an error of the next read.
    let image = bodies::take(body, move |archive| import_now(&host, archive, &wanted, &never)).await?;
    let id = image.id.map(|id| id.to_string()).unwrap_or_default();
    let reason = "made of an archive by a client".to_owned();
    handle.events.emit("image", &reference, "import", reason);
    refreshed(&handle, true).await?;
    let line = json!({ "status": id }).to_string() + "\r\n";
    Ok(([(header::CONTENT_TYPE, "application/json")], line).into_response())
}

fn import_now(host: &Host, archive: &mut dyn Read, wanted: &Wanted, cancel: &AtomicBool) -> Result<Image> {
    let bad = |e: storage::files::FilesError| Problem::bad_request(chain(e));
    let mut archive = plain(archive).map_err(bad)?;
    let layer = host
        .store
        .add_layer(&mut archive, cancel)
        .map_err(|e| Problem::bad_request(chain(e)))?;
    let document = json!({ "architecture": super::docker::docker_arch(), "os": "linux", "config": {} });
    let Value::Object(document) = document else {
        return Err(Problem::failed("the config is no object"));
    };
    let comment = match wanted.comment.as_str() {
        "" => "Imported from -".to_owned(),
        text => text.to_owned(),
    };
    let wanted = Wanted {
        comment,
        reference: wanted.reference.clone(),
        author: wanted.author.clone(),
        changes: wanted.changes.clone(),
    };
    finish(host, document, &wanted, "", layer)
}
