//! Docker's routes about one image: all about it, how it came about, another name for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use model::image::{Image, ImageSource};
use serde::Deserialize;
use serde_json::{Value, json};
use storage::{Described, StoreError};

use super::images::names;
use super::problem::Problem;
use super::wharf::{ask_again, current};
use crate::engine::Handle;
use crate::execute::chain;
use crate::host::Host;

type Result<T> = std::result::Result<T, Problem>;

/// `GET /images/NAME/json`.
pub async fn inspect(handle: Handle, name: &str) -> Result<Json<Value>> {
    on(handle, name, |host, all, key| {
        let described = host.store.describe(key).map_err(problem)?;
        let size = sizes(host, &described)?.iter().sum();
        details(&described, all, size).map(Json)
    })
    .await
}

/// `GET /images/NAME/history`, the newest first.
pub async fn history(handle: Handle, name: &str) -> Result<Json<Value>> {
    on(handle, name, |host, all, key| {
        let described = host.store.describe(key).map_err(problem)?;
        let sizes = sizes(host, &described)?;
        rows(&described, all, sizes).map(Json)
    })
    .await
}

/// `repo` and `tag`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TagQuery {
    repo: String,
    tag: String,
}

/// `POST /images/NAME/tag`.
pub async fn tag(handle: Handle, name: &str, query: &str) -> Result<Response> {
    let query: TagQuery = parse(query)?;
    let target = match query.tag.as_str() {
        "" => query.repo,
        tag => format!("{}:{tag}", query.repo),
    };
    let target = named(&target)?;
    on(handle.clone(), name, move |host, _, key| {
        host.store.tag(key, &target).map(drop).map_err(problem)
    })
    .await?;
    ask_again(&handle).await?;
    Ok(StatusCode::CREATED.into_response())
}

/// A name that something is to be stored under, whole.
pub fn named(text: &str) -> Result<String> {
    let bad = |why: String| Problem::bad_request(format!("{text:?} {why}"));
    match model::file::image(text, &["docker.io".to_owned()]) {
        Ok(ImageSource::Registry { reference }) if !reference.contains('@') => Ok(reference),
        Ok(_) => Err(bad("cannot be an image's name: write NAME[:TAG]".to_owned())),
        Err(e) => Err(bad(e.to_string())),
    }
}

/// A query by hand, for routes that are found by hand.
pub fn parse<T: serde::de::DeserializeOwned>(query: &str) -> Result<T> {
    let uri = format!("/?{query}")
        .parse()
        .map_err(|_| Problem::bad_request("the query is malformed"))?;
    let parsed = axum::extract::Query::try_from_uri(&uri);
    parsed
        .map(|query| query.0)
        .map_err(|e| Problem::bad_request(e.to_string()))
}

/// All images that are here, by their keys.
pub type All = BTreeMap<String, Image>;

/// Looks for the image `name` (a reference in Docker's short form or in full, a key, or an id) and does work with it on
/// a thread of its own.
pub async fn on<T: Send + 'static>(
    handle: Handle,
    name: &str,
    work: impl FnOnce(&Host, &All, &str) -> Result<T> + Send + 'static,
) -> Result<T> {
    let search = current(&handle).await?.search.clone();
    let (host, name) = (Arc::clone(&handle.host), name.to_owned());
    let done = tokio::task::spawn_blocking(move || {
        let all = host.store.images().map_err(problem)?;
        let key = find(&all, &name, &search)?;
        work(&host, &all, &key)
    });
    done.await.map_err(|_| Problem::leaving())?
}

/// The key of the image `name`.
pub fn find(all: &All, name: &str, search: &[String]) -> Result<String> {
    let full = model::file::image(name, search).ok().map(|source| source.key());
    let by_name = [Some(name), full.as_deref()]
        .into_iter()
        .flatten()
        .find(|key| all.contains_key(*key));
    let hex = name.trim_start_matches("sha256:");
    let has_id = |image: &Image| {
        image
            .id
            .is_some_and(|id| hex.len() >= 4 && id.hex().starts_with(hex))
    };
    let by_id = || {
        all.values()
            .find(|image| has_id(image))
            .map(|image| image.key.as_str())
    };
    let by_digest = || by_digest(all, full.as_deref()?);
    let key = by_name.or_else(by_id).or_else(by_digest).map(str::to_owned);
    key.ok_or_else(|| Problem::not_found(format!("No such image: {name}; `wharf image ls` lists them")))
}

/// `REPOSITORY@DIGEST` of an image that goes by a tag.
fn by_digest<'a>(all: &'a All, full: &str) -> Option<&'a str> {
    let (place, digest) = full.split_once('@')?;
    let place = super::images::repository(place);
    let fits = |image: &&Image| {
        super::images::repository(&image.key) == place
            && image.digest.is_some_and(|is| is.to_string() == digest)
    };
    all.values().find(fits).map(|image| image.key.as_str())
}

pub fn problem(error: StoreError) -> Problem {
    match error {
        StoreError::NoImage { .. } | StoreError::NoLayer { .. } => Problem::not_found(chain(error)),
        StoreError::Unfit { .. } => Problem::bad_request(chain(error)),
        error => Problem::failed(chain(error)),
    }
}

fn sizes(host: &Host, described: &Described) -> Result<Vec<u64>> {
    let sizes = described
        .layers
        .iter()
        .map(|layer| host.store.content_size(&layer.diff_id));
    sizes.collect::<std::result::Result<_, _>>().map_err(problem)
}

/// The names of all images that are the same one.
fn all_names(described: &Described, all: &All) -> (Vec<String>, Vec<String>) {
    let same = all.values().filter(|image| image.id == described.image.id);
    let (tags, digests): (Vec<_>, Vec<_>) = same.map(names).unzip();
    let mut digests = digests.concat();
    digests.dedup();
    (tags.concat(), digests)
}

fn details(described: &Described, all: &All, size: u64) -> Result<Value> {
    let config = config(described)?;
    let (tags, digests) = all_names(described, all);
    let text = |key: &str| config[key].as_str().unwrap_or_default();
    let lower: Vec<String> = described
        .image
        .layers
        .iter()
        .rev()
        .map(|dir| dir.display().to_string())
        .collect();
    let layers: Vec<String> = described
        .layers
        .iter()
        .map(|layer| layer.diff_id.to_string())
        .collect();
    let comment = config["history"]
        .as_array()
        .and_then(|all| all.last()?["comment"].as_str());
    let mut value = json!({
        "Id": described.config.digest,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Parent": "",
        "Comment": comment.unwrap_or_default(),
        "Created": created(&config),
        "DockerVersion": text("docker_version"),
        "Author": text("author"),
        "Config": config["config"],
        "Architecture": text("architecture"),
        "Os": text("os"),
        "Size": size,
        "GraphDriver": { "Name": "overlay2", "Data": { "LowerDir": lower.join(":") } },
        "RootFS": { "Type": "layers", "Layers": layers },
        "Metadata": { "LastTagTime": described.pulled },
    });
    if let Some(variant) = config["variant"].as_str() {
        value["Variant"] = json!(variant);
    }
    Ok(value)
}

fn config(described: &Described) -> Result<Value> {
    serde_json::from_slice(&described.config.bytes)
        .map_err(|e| Problem::failed(format!("the image's config: {e}")))
}

/// Docker's clients want a time; who does not say it made it long ago.
fn created(value: &Value) -> Timestamp {
    let time = value["created"].as_str().and_then(|text| text.parse().ok());
    time.unwrap_or(Timestamp::UNIX_EPOCH)
}

/// One row for each step of the history, and for layers that it does not speak of.
fn rows(described: &Described, all: &All, sizes: Vec<u64>) -> Result<Value> {
    let config = config(described)?;
    let mut sizes = sizes.into_iter();
    let mut rows: Vec<Value> = Vec::new();
    for step in config["history"].as_array().into_iter().flatten() {
        let empty = step["empty_layer"].as_bool().unwrap_or_default();
        let size = if empty { None } else { sizes.next() };
        rows.push(row(step, size.unwrap_or_default()));
    }
    rows.extend(sizes.map(|size| row(&config, size)));
    if rows.is_empty() {
        rows.push(row(&config, 0));
    }
    rows.reverse();
    rows[0]["Id"] = json!(described.config.digest);
    rows[0]["Tags"] = json!(all_names(described, all).0);
    Ok(Value::Array(rows))
}

fn row(step: &Value, size: u64) -> Value {
    let text = |key: &str| step[key].as_str().unwrap_or_default();
    json!({
        "Id": "<missing>",
        "Created": created(step).as_second(),
        "CreatedBy": text("created_by"),
        "Tags": null,
        "Size": size,
        "Comment": text("comment"),
    })
}
