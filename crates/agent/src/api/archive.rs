//! Docker's routes about a container's files: `HEAD|GET|PUT /containers/NAME/archive`, `GET …/export`, `GET …/changes`.

use std::io::{Read, Write};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use model::action::Instance;
use runtime::client::RuntimeError;
use serde::Deserialize;
use storage::files::PathStat;

use super::bodies;
use super::containers::{accepted, find};
use super::problem::Problem;
use super::wharf::refreshed;
use crate::engine::Handle;
use crate::files::{Failure, Job, Refused, Task, Why, instance_of};

type Result<T> = std::result::Result<T, Problem>;

/// Says what the path leads to: JSON in base64.
const STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ArchiveQuery {
    path: String,
    no_overwrite_dir_non_dir: String,
}

impl ArchiveQuery {
    fn path(&self) -> Result<std::path::PathBuf> {
        match self.path.as_str() {
            "" => Err(Problem::bad_request("say which path: `path` is empty")),
            path if path.contains('\0') => Err(Problem::bad_request("a path has no NUL byte in it")),
            path => Ok(path.into()),
        }
    }
}

/// `HEAD /containers/NAME/archive?path=…`: what is there, in a header.
pub async fn head(
    State(handle): State<Handle>,
    Path(name): Path<String>,
    Query(query): Query<ArchiveQuery>,
) -> Result<Response> {
    let (path, i) = (query.path()?, instance(&handle, &name).await?);
    let host = Arc::clone(&handle.host);
    let asked = tokio::task::spawn_blocking(move || {
        let task = Task::Stat { path };
        let job = Job::begin(&host, &i, &task).map_err(|e| problem(&i, &query.path, e))?;
        stat_header(job.stat())
    });
    let stat = asked.await.map_err(|_| Problem::leaving())??;
    Ok(([(STAT, stat)], StatusCode::OK).into_response())
}

/// `GET /containers/NAME/archive?path=…`: the same, and then what is there as an archive.
pub async fn get(
    State(handle): State<Handle>,
    Path(name): Path<String>,
    Query(query): Query<ArchiveQuery>,
) -> Result<Response> {
    let (path, i) = (query.path()?, instance(&handle, &name).await?);
    let host = Arc::clone(&handle.host);
    let begun = tokio::task::spawn_blocking(move || {
        let task = Task::Archive { path };
        let job = Job::begin(&host, &i, &task).map_err(|e| problem(&i, &query.path, e))?;
        Ok::<_, Problem>((stat_header(job.stat())?, job))
    });
    let (stat, job) = begun.await.map_err(|_| Problem::leaving())??;
    let mut response = stream(job).await?;
    response.headers_mut().insert(STAT, stat);
    Ok(response)
}

/// `PUT /containers/NAME/archive?path=…`: an archive, compressed or not, unpacked into a directory that is there. As in
/// dockerd the files get the owners that the archive says.
pub async fn put(
    State(handle): State<Handle>,
    Path(name): Path<String>,
    Query(query): Query<ArchiveQuery>,
    body: Body,
) -> Result<Response> {
    let place = match query.path() {
        Ok(path) => instance(&handle, &name).await.map(|i| (path, i)),
        Err(problem) => Err(problem),
    };
    let ((path, i), body) = bodies::accepted(body, place).await?;
    let host = Arc::clone(&handle.host);
    let keep_kinds = matches!(
        query.no_overwrite_dir_non_dir.as_str(),
        "1" | "true" | "True" | "TRUE"
    );
    let i_name = i.name.to_string();
    bodies::take(body, move |archive| {
        let task = Task::Extract { path, keep_kinds };
        let job = Job::begin(&host, &i, &task).map_err(|e| problem(&i, &query.path, e))?;
        job.send(archive).map_err(|e| problem(&i, &query.path, e))
    })
    .await?;
    let reason = "files were copied into it by a client".to_owned();
    handle.events.emit("container", &i_name, "extract-to-dir", reason);
    Ok(StatusCode::OK.into_response())
}

/// `GET /containers/NAME/export`: its root as an archive, without volumes.
pub async fn export(State(handle): State<Handle>, Path(name): Path<String>) -> Result<Response> {
    let i = instance(&handle, &name).await?;
    let host = Arc::clone(&handle.host);
    let begun = tokio::task::spawn_blocking(move || {
        Job::begin(&host, &i, &Task::Export).map_err(|e| problem(&i, "/", e))
    });
    stream(begun.await.map_err(|_| Problem::leaving())??).await
}

/// `GET /containers/NAME/changes`: `[{"Path", "Kind"}]`; 0 is changed, 1 added, 2 deleted.
pub async fn changes(State(handle): State<Handle>, Path(name): Path<String>) -> Result<Response> {
    let i = instance(&handle, &name).await?;
    let host = Arc::clone(&handle.host);
    let done = tokio::task::spawn_blocking(move || {
        let job = Job::begin(&host, &i, &Task::Changes).map_err(|e| problem(&i, "/", e))?;
        let mut text = Vec::new();
        let read = job.reader().read_to_end(&mut text);
        read.map_err(|e| Problem::failed(format!("container {}: {e}", i.name)))?;
        Ok::<_, Problem>(text)
    });
    let text = done.await.map_err(|_| Problem::leaving())??;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

async fn stream(job: Job) -> Result<Response> {
    bodies::give("application/x-tar", move |out| carry(job, out)).await
}

fn carry(job: Job, out: &mut dyn Write) -> Result<()> {
    let copied = std::io::copy(&mut job.reader(), out);
    copied.map(drop).map_err(|e| Problem::failed(e.to_string()))
}

/// The container as it is accepted, by name or id.
pub(super) async fn instance(handle: &Handle, name: &str) -> Result<Instance> {
    let snapshot = refreshed(handle, false).await?;
    let c = find(&snapshot, name)?;
    let found = accepted(&snapshot, c).and_then(|accepted| instance_of(&snapshot, c, accepted));
    found.ok_or_else(|| Problem::conflict(format!("container {} was not made yet: it has no files", c.name)))
}

fn stat_header(stat: Option<&PathStat>) -> Result<HeaderValue> {
    let text = serde_json::to_vec(&stat).map_err(|e| Problem::failed(e.to_string()))?;
    HeaderValue::from_str(&STANDARD.encode(text)).map_err(|e| Problem::failed(e.to_string()))
}

/// As dockerd words it where that has words for it.
pub(super) fn problem(i: &Instance, path: &str, failure: Failure) -> Problem {
    match failure {
        Failure::Refused(Refused {
            why: Why::NotFound, ..
        }) => Problem::not_found(format!("Could not find the file {path} in container {}", i.name)),
        Failure::Refused(Refused { why, text }) => {
            let text = format!("container {}: {text}", i.name);
            match why {
                Why::Bad | Why::NotFound => Problem::bad_request(text),
                Why::ReadOnly => Problem::forbidden(text),
                Why::Failed => Problem::failed(text),
            }
        }
        Failure::Runtime(e @ RuntimeError::Refused { .. }) => Problem::conflict(e.to_string()),
        Failure::Runtime(RuntimeError::Unknown { .. }) => {
            Problem::conflict(format!("container {} was not made yet: it has no files", i.name))
        }
        failure => Problem::failed(failure.to_string()),
    }
}
