//! `POST /images/NAME/push`: an image into the registry that its name says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::Query;
use axum::http::HeaderMap;
use axum::response::Response;
use model::digest::Digest;
use serde::Deserialize;
use serde_json::{Value, json};
use storage::{Login, PushOptions, PushProgress, PushStep, Pushed};

use super::images::repository;
use super::problem::Problem;
use super::progress::{self, Lines};
use super::registries::who;
use super::wharf::current;
use crate::engine::{Handle, Wake};
use crate::execute::chain;
use crate::host::Host;

/// `tag`: none pushes all tags of the name that are here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PushQuery {
    tag: String,
}

/// The name may have a tag or a digest in it, or the query names one.
pub async fn push(handle: Handle, name: &str, query: &str, headers: &HeaderMap) -> Result<Response, Problem> {
    let wrong = || Problem::bad_request(format!("{query:?} is no query of a push"));
    let uri = format!("/?{query}").parse().map_err(|_| wrong())?;
    let Query(query) = Query::<PushQuery>::try_from_uri(&uri).map_err(|_| wrong())?;
    let text = match query.tag.as_str() {
        "" => name.to_owned(),
        tag if tag.contains(':') => format!("{name}@{tag}"),
        tag => format!("{name}:{tag}"),
    };
    let search = current(&handle).await?.search.clone();
    let source = model::file::image(&text, &search).map_err(|e| Problem::bad_request(e.to_string()))?;
    let key = source.key();
    let images = handle
        .host
        .store
        .images()
        .map_err(|e| Problem::failed(chain(e)))?;
    // A name with neither tag nor digest, and no tag beside it.
    let all = query.tag.is_empty() && !name.contains('@') && repository(name) == name;
    let keys: Vec<String> = match all {
        true => images
            .into_keys()
            .filter(|other| is_tag_of(other, repository(&key)))
            .collect(),
        false => images.into_keys().filter(|other| *other == key).collect(),
    };
    if keys.is_empty() {
        let text =
            format!("no image {key} is here; `wharf image ls` lists them, `wharf image tag` names them");
        return Err(Problem::not_found(text));
    }
    let login = who(headers, repository(&key))?;
    let (host, wakes) = (Arc::clone(&handle.host), handle.wakes.clone());
    Ok(progress::answer(move |lines| {
        for key in &keys {
            if !push_one(&host, key, login.as_ref(), lines) {
                break;
            }
        }
        // The loop outlives its clients but at its own end.
        drop(wakes.send(Wake::Everything));
    }))
}

fn is_tag_of(key: &str, wanted: &str) -> bool {
    !key.contains('@') && repository(key) == wanted && key != wanted
}

/// Whether it went well.
fn push_one(host: &Host, key: &str, login: Option<&Login>, lines: &Lines) -> bool {
    lines.say(&json!({ "status": format!("The push refers to repository [{}]", repository(key)) }));
    // Steps of many bytes come often, and the same numbers need not be told twice.
    let told = Mutex::new(BTreeMap::new());
    let progress = |p: PushProgress| {
        let line = line(&p);
        let text = line.to_string();
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        // An upload tells it while it waits for the registry.
        if told.get(&p.layer) != Some(&text) && lines.hint(&line) {
            told.insert(p.layer, text);
        }
    };
    let options = PushOptions {
        cancel: &lines.cancel,
        login,
        progress: Some(&progress),
    };
    match host.store.push(key, &options) {
        Ok(pushed) => {
            end(&pushed, lines);
            true
        }
        Err(e) => {
            lines.fail(&chain(e));
            false
        }
    }
}

/// In Docker's words; bytes to the nearest megabyte or so, as nobody reads faster.
fn line(progress: &PushProgress) -> Value {
    let id = short(&progress.layer);
    let (status, detail) = match &progress.step {
        PushStep::Waiting => ("Preparing".to_owned(), json!({})),
        PushStep::Compressing { done, total } => ("Compressing".to_owned(), bytes(*done, *total)),
        PushStep::Pushing { done, total } => ("Pushing".to_owned(), bytes(*done, *total)),
        PushStep::Exists => ("Layer already exists".to_owned(), json!({})),
        PushStep::Mounted { from } => (format!("Mounted from {from}"), json!({})),
        PushStep::Pushed => ("Pushed".to_owned(), json!({})),
    };
    json!({ "status": status, "id": id, "progressDetail": detail })
}

fn bytes(done: u64, total: u64) -> Value {
    let step = 512 * 1024;
    let shown = if done < total { done / step * step } else { total };
    json!({ "current": shown, "total": total })
}

fn end(pushed: &Pushed, lines: &Lines) {
    let how = match (pushed.unchanged, pushed.compressed) {
        (true, _) => "as it was pulled: its digest stays".to_owned(),
        (false, 0) => "with a new manifest, its layers as they were".to_owned(),
        (false, count) => format!("with a new manifest; compressed anew: {count} layers"),
    };
    lines.say(&json!({ "status": format!("Pushed {how}") }));
    let (digest, size) = (pushed.digest, pushed.size);
    let Some(tag) = &pushed.tag else {
        return lines.say(&json!({ "status": format!("digest: {digest} size: {size}") }));
    };
    lines.say(&json!({ "status": format!("{tag}: digest: {digest} size: {size}") }));
    let aux = json!({ "Tag": tag, "Digest": digest.to_string(), "Size": size });
    lines.say(&json!({ "progressDetail": {}, "aux": aux }));
}

fn short(digest: &Digest) -> String {
    digest.hex()[..12].to_owned()
}
