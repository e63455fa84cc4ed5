//! Docker's routes that give images out as an archive and take them in: `docker save` and `docker load`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use model::image::familiar;
use serde::Deserialize;
use serde_json::{Value, json};
use storage::{ArchiveFormat, Loaded, Progress, VerifyOptions};

use super::bodies;
use super::image_details::{find, named, problem};
use super::problem::Problem;
use super::progress::{self, Lines};
use super::wharf::{ask_again, current};
use crate::engine::{Handle, Wake};
use crate::execute::chain;
use crate::host::Host;

type Result<T> = std::result::Result<T, Problem>;

/// `GET /images/NAME/get`.
pub async fn save_one(handle: Handle, name: &str) -> Result<Response> {
    save_all(handle, vec![name.to_owned()], ArchiveFormat::Docker).await
}

/// `GET /images/get?names=…`; several names as several `names`. `format` is ours: `docker-archive` or `oci-archive`.
pub async fn save(State(handle): State<Handle>, RawQuery(query): RawQuery) -> Result<Response> {
    let query = query.unwrap_or_default();
    let (mut names, mut format) = (Vec::new(), ArchiveFormat::Docker);
    for (key, value) in super::image_details::parse::<Vec<(String, String)>>(&query)? {
        match (&*key, &*value) {
            ("names", name) => names.extend(name.split(',').map(str::to_owned)),
            ("format", "docker-archive") => format = ArchiveFormat::Docker,
            ("format", "oci-archive") => format = ArchiveFormat::Oci,
            ("format", other) => {
                let why = format!("the format {other:?} is not known: docker-archive and oci-archive are");
                return Err(Problem::bad_request(why));
            }
            (other, _) => {
                return Err(Problem::bad_request(format!(
                    "{other:?} is not supported yet here"
                )));
            }
        }
    }
    if names.is_empty() {
        return Err(Problem::bad_request("name the images to be saved"));
    }
    save_all(handle, names, format).await
}

async fn save_all(handle: Handle, names: Vec<String>, format: ArchiveFormat) -> Result<Response> {
    let search = current(&handle).await?.search.clone();
    let host = Arc::clone(&handle.host);
    bodies::give("application/x-tar", move |out| {
        let all = host.store.images().map_err(problem)?;
        let keys: Vec<String> = names
            .iter()
            .map(|name| find(&all, name, &search))
            .collect::<Result<_>>()?;
        host.store.save(&keys, format, out).map_err(problem)
    })
    .await
}

/// `name` is ours: what an image is to be called that has no name in the archive.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LoadQuery {
    name: String,
}

/// `POST /images/load`: an archive of either kind, compressed or not.
pub async fn load(
    State(handle): State<Handle>,
    Query(query): Query<LoadQuery>,
    body: Body,
) -> Result<Response> {
    let loaded = take(&handle, &query, body).await?;
    let lines: Vec<String> = loaded.iter().map(|one| format!("{}\r\n", line(one))).collect();
    Ok(([(header::CONTENT_TYPE, "application/json")], lines.concat()).into_response())
}

fn line(loaded: &Loaded) -> Value {
    json!({ "stream": format!("Loaded image: {}\n", familiar(&loaded.reference)) })
}

/// `POST /wharf/v1/images/load`: the same, answered by one list.
pub async fn load_listed(
    State(handle): State<Handle>,
    Query(query): Query<LoadQuery>,
    body: Body,
) -> Result<Json<Value>> {
    let loaded = take(&handle, &query, body).await?;
    let rows = loaded
        .iter()
        .map(|one| json!({ "reference": one.reference, "id": one.id }));
    Ok(Json(rows.collect()))
}

async fn take(handle: &Handle, query: &LoadQuery, body: Body) -> Result<Vec<Loaded>> {
    let name = match query.name.as_str() {
        "" => Ok(None),
        name => named(name).map(Some),
    };
    let (name, body) = bodies::accepted(body, name).await?;
    let host = Arc::clone(&handle.host);
    let cancel = Arc::new(AtomicBool::new(false));
    // A client that goes away drops this future, and with it the guard.
    let guard = CancelOnDrop(Arc::clone(&cancel));
    let loaded = bodies::take(body, move |archive| {
        host.store
            .load_archive(archive, name.as_deref(), &cancel)
            .map_err(problem)
    })
    .await;
    drop(guard);
    let loaded = loaded?;
    ask_again(handle).await?;
    Ok(loaded)
}

struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What of the images is to be looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct VerifyQuery {
    repair: bool,
}

/// `POST /wharf/v1/images/verify?name=…&repair=true`; no name: all images. Answered with lines of progress; what was found
/// is in the last one's `aux`.
pub async fn verify(State(handle): State<Handle>, RawQuery(query): RawQuery) -> Result<Response> {
    let query = query.unwrap_or_default();
    let pairs = super::image_details::parse::<Vec<(String, String)>>(&query)?;
    let names: Vec<String> = pairs
        .into_iter()
        .filter(|(key, _)| key == "name")
        .map(|(_, name)| name)
        .collect();
    let VerifyQuery { repair } = super::image_details::parse(&query)?;
    let search = current(&handle).await?.search.clone();
    let all = handle.host.store.known_images();
    let keys = match names.is_empty() {
        true => all.into_keys().collect(),
        false => names
            .iter()
            .map(|name| find(&all, name, &search))
            .collect::<Result<Vec<_>>>()?,
    };
    let (host, wakes) = (Arc::clone(&handle.host), handle.wakes.clone());
    Ok(progress::answer(move |lines| {
        look(&host, &keys, repair, lines);
        if repair {
            // The loop outlives its clients but at its own end.
            drop(wakes.send(Wake::Everything));
        }
    }))
}

fn look(host: &Host, keys: &[String], repair: bool, lines: &Lines) {
    let looking = |p: Progress| lines.say(&progress::line(&p, "Checking", "Checked"));
    let fetching = |p: Progress| lines.say(&progress::line(&p, "Downloading", "Pull complete"));
    let options = VerifyOptions {
        repair,
        cancel: &lines.cancel,
        looking: Some(&looking),
        fetching: Some(&fetching),
    };
    match host.store.verify(keys, &options) {
        Ok(verified) => lines.say(&json!({ "aux": verified })),
        Err(e) => lines.fail(&chain(e)),
    }
}
