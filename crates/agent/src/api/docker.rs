//! Docker's routes about the engine itself.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
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
pub(super) fn docker_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
