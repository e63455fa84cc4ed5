//! Docker's routes about the engine itself.

use std::collections::HashMap;

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use model::event::Event;
use serde_json::{Value, json};

use crate::engine::Handle;

/// The Docker Engine API's versions spoken.
const API_VERSION: &str = "1.47";
const MIN_API_VERSION: &str = "1.24";

/// `GET|HEAD /_ping`.
pub async fn ping() -> Response {
    let headers = [
        ("Api-Version", API_VERSION),
        ("Ostype", "linux"),
        ("Cache-Control", "no-cache"),
    ];
    (
        headers,
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
        "OK",
    )
        .into_response()
}

/// `GET /version`.
pub async fn version() -> Json<Value> {
    let uname = rustix::system::uname();
    Json(json!({
        "Platform": { "Name": "wharf" },
        "Version": env!("CARGO_PKG_VERSION"),
        "ApiVersion": API_VERSION,
        "MinAPIVersion": MIN_API_VERSION,
        "Os": "linux",
        "Arch": docker_arch(),
        "KernelVersion": uname.release().to_string_lossy(),
        "Components": [{ "Name": "wharf", "Version": env!("CARGO_PKG_VERSION"), "Details": {} }],
    }))
}

/// `GET /info`.
pub async fn info(State(handle): State<Handle>) -> Json<Value> {
    let snapshot = handle.snapshot.borrow().clone();
    let count = |state| {
        snapshot
            .status
            .containers
            .iter()
            .filter(|c| c.state == state)
            .count()
    };
    let uname = rustix::system::uname();
    Json(json!({
        "ID": handle.places.state_dir,
        "Name": uname.nodename().to_string_lossy(),
        "Containers": snapshot.status.containers.len(),
        "ContainersRunning": count(model::status::State::Running),
        "ContainersPaused": count(model::status::State::Paused),
        "ContainersStopped": count(model::status::State::Stopped) + count(model::status::State::Exited),
        "Images": snapshot.status.images.len(),
        "Driver": "overlay",
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "OperatingSystem": "wharf",
        "OSType": "linux",
        "Architecture": uname.machine().to_string_lossy(),
        "KernelVersion": uname.release().to_string_lossy(),
        "DockerRootDir": handle.places.state_dir,
        "LoggingDriver": "json-file",
        "NCPU": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    }))
}

/// Go's name of this architecture.
fn docker_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `GET /events`: Docker's stream of events, live. `until` is not supported yet.
pub async fn events(State(handle): State<Handle>, Query(query): Query<HashMap<String, String>>) -> Response {
    if let Some(key) = ["until", "filters"]
        .iter()
        .find(|k| query.get(**k).is_some_and(|v| !v.is_empty() && v != "{}"))
    {
        return super::problem::Problem::bad_request(format!(
            "the query {key:?} of events is not supported yet"
        ))
        .into_response();
    }
    let (_, live) = handle.events.follow();
    let live = tokio_stream::wrappers::BroadcastStream::new(live);
    let lines = tokio_stream::StreamExt::filter_map(live, |event| {
        let mut text = serde_json::to_vec(&as_docker(&event.ok()?)).ok()?;
        text.push(b'\n');
        Some(Ok::<_, std::convert::Infallible>(text))
    });
    (
        [(header::CONTENT_TYPE, "application/json")],
        Body::from_stream(lines),
    )
        .into_response()
}

/// An event in Docker's words (Engine API, SystemEvents).
fn as_docker(event: &Event) -> Value {
    let mut attributes = event.attributes.clone();
    attributes.insert("name".to_owned(), event.name.clone());
    json!({
        "Type": event.kind,
        "Action": event.what,
        "Actor": { "ID": event.name, "Attributes": attributes },
        "scope": "local",
        "time": event.time.as_second(),
        "timeNano": i64::try_from(event.time.as_nanosecond()).unwrap_or(i64::MAX),
    })
}
