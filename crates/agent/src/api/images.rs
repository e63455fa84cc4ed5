//! Docker's routes about images: list, pull, remove, prune.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use model::image::{Image, ImageSource, familiar};
use model::observed::Look;
use serde::Deserialize;
use serde_json::{Value, json};
pub(super) use storage::repository;
use storage::{LoadOptions, Login, Progress};
use tokio::sync::oneshot;

use super::filters::{FilterQuery, Filters};
use super::problem::Problem;
use super::progress::{self, Lines};
use super::registries::who;
use super::wharf::{ask, current, refreshed};
use crate::engine::{Handle, Request, Wake};

type Result<T> = std::result::Result<T, Problem>;

/// `GET /images/json`. Directories used as root file systems are no images.
pub async fn list(State(handle): State<Handle>, Query(query): Query<FilterQuery>) -> Result<Json<Value>> {
    let filters = Filters::parse(&query.filters, &["dangling", "label", "reference"])?;
    let snapshot = refreshed(&handle, false).await?;
    let images = match &snapshot.observed.images {
        Look::Known(images) => images,
        Look::Unknown(why) => return Err(Problem::failed(why.clone())),
    };
    let passes = |image: &&Image| {
        image.id.is_some()
            && filters.fits("dangling", |wanted| !is_true(wanted))
            && filters.all("label", |label| has_label(image, label))
            && filters.fits("reference", |pattern| goes_by(&image.key, pattern))
    };
    let images = images.values().map(|image| &**image);
    Ok(Json(images.filter(passes).map(row).collect()))
}

fn is_true(text: &str) -> bool {
    matches!(text, "1" | "true" | "True" | "TRUE")
}

fn has_label(image: &Image, wanted: &str) -> bool {
    let labels = &image.config.labels;
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
        None => labels.contains_key(wanted),
    }
}

pub(super) fn row(image: &Image) -> Value {
    let (tags, digests) = names(image);
    json!({
        "Id": image.id.map(|id| id.to_string()),
        "ParentId": "",
        "RepoTags": tags,
        "RepoDigests": digests,
        "Created": 0,
        "Size": image.size,
        "SharedSize": -1,
        "Labels": image.config.labels,
        "Containers": -1,
    })
}

/// As tag and with its digest, for what came from a registry; what came from files has no name that Docker knows.
pub(super) fn names(image: &Image) -> (Vec<String>, Vec<String>) {
    if !matches!(
        model::file::image(&image.key, &[]),
        Ok(ImageSource::Registry { .. })
    ) {
        return (Vec::new(), Vec::new());
    }
    let (key, repository) = (familiar(&image.key), repository(&image.key));
    let digests = image.digest.map(|d| format!("{}@{d}", familiar(repository)));
    let tags = (!key.contains('@')).then(|| key.to_owned());
    (tags.into_iter().collect(), digests.into_iter().collect())
}

/// Whether the pattern means this image: by its whole name or by its repository, in Docker's short form or in full.
fn goes_by(key: &str, pattern: &str) -> bool {
    let short = familiar(key);
    [key, repository(key), short, repository(short)]
        .iter()
        .any(|name| matches(pattern.as_bytes(), name.as_bytes()))
}

/// `*` and `?` stand for anything but a slash.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) if matches(rest, text) => true,
        ([b'*', ..] | [b'?', ..], [b'/', ..]) => false,
        ([b'*', ..], [_, text @ ..]) => matches(pattern, text),
        ([b'?', pattern @ ..], [_, text @ ..]) => matches(pattern, text),
        ([p, pattern @ ..], [t, text @ ..]) => p == t && matches(pattern, text),
        _ => false,
    }
}

/// `fromImage`, and `tag`: a tag or a digest.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PullQuery {
    #[serde(default)]
    from_image: String,
    #[serde(default)]
    tag: String,
}

/// `POST /images/create`: pulls; progress comes as JSON lines, and so does a failure.
pub async fn pull(
    State(handle): State<Handle>,
    Query(query): Query<PullQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let text = match query.tag.as_str() {
        "" => query.from_image.clone(),
        tag if tag.contains(':') => format!("{}@{tag}", query.from_image),
        tag => format!("{}:{tag}", query.from_image),
    };
    if text.is_empty() {
        return Err(Problem::bad_request("name the image: fromImage is empty"));
    }
    let search = current(&handle).await?.search.clone();
    let source = model::file::image(&text, &search).map_err(|e| Problem::bad_request(e.to_string()))?;
    let login = who(&headers, repository(&source.key()))?;
    let (host, wakes) = (Arc::clone(&handle.host), handle.wakes.clone());
    Ok(progress::answer(move |lines| {
        bring(&host, &source, login.as_ref(), lines);
        // The loop outlives its clients but at its own end.
        drop(wakes.send(Wake::Everything));
    }))
}

fn bring(host: &crate::host::Host, source: &ImageSource, login: Option<&Login>, lines: &Lines) {
    let say = |value: Value| lines.say(&value);
    say(json!({ "status": format!("Pulling {}", source.key()) }));
    let progress = |p: Progress| say(progress::line(&p, "Downloading", "Pull complete"));
    let options = LoadOptions {
        refresh: true,
        cancel: &lines.cancel,
        progress: Some(&progress),
        login,
    };
    match host.store.load(source, &options) {
        Ok(image) => {
            if let Some(digest) = image.digest {
                say(json!({ "status": format!("Digest: {digest}") }));
            }
            say(json!({ "status": format!("Status: {} is here", source.key()) }));
        }
        Err(e) => {
            lines.fail(&crate::execute::chain(e));
        }
    }
}

/// `DELETE /images/NAME`: 409 while a container or a table wants it.
pub async fn remove(State(handle): State<Handle>, Path(name): Path<String>) -> Result<Json<Value>> {
    let (answer, done) = oneshot::channel();
    ask(&handle, Request::RemoveImage { name, answer })?;
    let key = done.await.map_err(|_| Problem::leaving())??;
    refreshed(&handle, false).await?;
    Ok(Json(json!([{ "Untagged": key }])))
}

/// `dry_run`: say only. Docker's client asks for what is `dangling` alone unless it was called with `--all`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PruneQuery {
    dry_run: bool,
    filters: String,
}

/// `POST /images/prune`: all that nothing wants; where only the dangling is to go, images that have a name stay.
pub async fn prune(State(handle): State<Handle>, Query(query): Query<PruneQuery>) -> Result<Json<Value>> {
    let filters = Filters::parse(&query.filters, &["dangling"])?;
    refreshed(&handle, true).await?;
    let (answer, done) = oneshot::channel();
    let request = Request::PruneImages {
        dry_run: query.dry_run,
        dangling: filters.has("dangling") && filters.fits("dangling", is_true),
        answer,
    };
    ask(&handle, request)?;
    let pruned = done.await.map_err(|_| Problem::leaving())??;
    refreshed(&handle, false).await?;
    let deleted: Vec<Value> = pruned
        .images
        .iter()
        .map(|key| json!({ "Untagged": key }))
        .collect();
    Ok(Json(
        json!({ "ImagesDeleted": deleted, "SpaceReclaimed": pruned.bytes }),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_goes_by_its_name_and_its_repository() {
        let key = "docker.io/library/nginx:1.27";
        for pattern in [
            "nginx",
            "nginx:1.27",
            "ngin?",
            "nginx:*",
            "docker.io/library/nginx",
            key,
        ] {
            assert!(goes_by(key, pattern), "{pattern}");
        }
        for pattern in ["ngin", "nginx:1.2", "library/*", "*.io/nginx", "", "redis"] {
            assert!(!goes_by(key, pattern), "{pattern}");
        }
        assert!(goes_by("docker.io/me/app:1", "me/*"));
        assert!(!goes_by("docker.io/me/app:1", "*"));
    }

    #[test]
    fn a_repository_is_what_is_left_without_tag_and_digest() {
        for (key, bare) in [
            ("docker.io/library/nginx:1.27", "docker.io/library/nginx"),
            ("localhost:5000/app", "localhost:5000/app"),
            ("localhost:5000/app:1@sha256:00", "localhost:5000/app"),
        ] {
            assert_eq!(repository(key), bare);
        }
    }
}
