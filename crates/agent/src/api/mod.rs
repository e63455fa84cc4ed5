//! The API socket: Docker's routes for what Docker has words for, `/wharf/v1/` for the rest (INTERFACE §4).

mod archive;
mod bodies;
mod commit;
mod containers;
mod copies;
mod details;
mod docker;
mod events;
mod exec;
mod exec_table;
mod fd_stream;
mod filters;
mod image_archives;
mod image_details;
mod image_paths;
mod images;
mod logs;
mod networks;
mod problem;
mod progress;
mod push;
mod registries;
mod session;
mod space;
mod volumes;
mod wharf;

pub use exec_table::Execs;
pub use wharf::WaitAnswer;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixListener;
use tower::ServiceExt;
use tracing::{debug, warn};

use crate::engine::Handle;
use problem::Problem;

/// Goes on with the socket that systemd opened.
pub fn take_over(listener: std::os::unix::net::UnixListener) -> anyhow::Result<UnixListener> {
    listener
        .set_nonblocking(true)
        .and_then(|()| UnixListener::from_std(listener))
        .context("cannot take over the API socket from systemd")
}

/// Binds the socket. The group `wharf` may speak to it, where there is one: it is as good as root.
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    // We hold the run dir's lock: whatever stands there is a dead agent's.
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot remove the stale socket {}", path.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot make the API socket {}", path.display()))?;
    let modes = || -> anyhow::Result<()> {
        if let Some(group) = nix::unistd::Group::from_name("wharf")? {
            std::os::unix::fs::chown(path, Some(0), Some(group.gid.as_raw()))?;
        }
        Ok(std::fs::set_permissions(
            path,
            std::fs::Permissions::from_mode(0o660),
        )?)
    };
    modes().with_context(|| format!("cannot set owner and mode of {}", path.display()))?;
    Ok(listener)
}

/// Serves until the process ends.
pub async fn serve(listener: UnixListener, handle: Handle) {
    let app = router(handle);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Out of descriptors, usually: what is open must end first.
                warn!("the API socket cannot accept: {e}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let app = app.clone();
        tokio::spawn(async move {
            let service = TowerToHyperService::new(app.map_request(without_version));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            if let Err(e) = connection.with_upgrades().await {
                debug!("a client's connection ended early: {e}");
            }
        });
    }
}

fn router(handle: Handle) -> Router {
    let docker = Router::new()
        .route("/_ping", get(docker::ping).head(docker::ping))
        .route("/version", get(docker::version))
        .route("/info", get(docker::info))
        .route("/events", get(events::events))
        .route("/auth", post(registries::auth))
        .route("/images/search", get(registries::docker_search))
        .route("/system/df", get(space::disk_usage))
        .route("/containers/prune", post(space::prune_containers))
        .route("/networks/prune", post(space::prune_networks))
        .route("/build/prune", post(space::prune_builds))
        .route("/containers/json", get(containers::list))
        .route("/containers/{name}/json", get(containers::inspect))
        .route("/containers/{name}/logs", get(logs::logs))
        .route("/containers/{name}/start", post(containers::start))
        .route("/containers/{name}/stop", post(containers::stop))
        .route("/containers/{name}/restart", post(containers::restart))
        .route("/containers/{name}/kill", post(containers::kill))
        .route("/containers/{name}/pause", post(containers::pause))
        .route("/containers/{name}/unpause", post(containers::unpause))
        .route("/containers/{name}/exec", post(exec::create))
        .route(
            "/containers/{name}/archive",
            get(archive::get).head(archive::head).put(archive::put),
        )
        .route("/containers/{name}/changes", get(archive::changes))
        .route("/containers/{name}/export", get(archive::export))
        .route("/commit", post(commit::commit))
        .route("/exec/{id}/start", post(exec::start))
        .route("/exec/{id}/resize", post(exec::resize))
        .route("/exec/{id}/json", get(exec::inspect))
        .route("/images/json", get(images::list))
        .route("/images/create", post(commit::create))
        .route("/images/prune", post(images::prune))
        .route("/images/get", get(image_archives::save))
        .route("/images/load", post(image_archives::load))
        .route(
            "/images/{*name}",
            get(image_paths::look)
                .post(image_paths::act)
                .delete(images::remove),
        )
        .route("/networks", get(networks::list))
        .route("/networks/{name}", get(networks::inspect))
        .route("/volumes", get(volumes::list))
        .route("/volumes/prune", post(volumes::prune))
        .route("/volumes/{name}", get(volumes::inspect).delete(volumes::remove))
        .method_not_allowed_fallback(unknown)
        .fallback(unknown);
    let own = Router::new()
        .route("/status", get(wharf::status))
        .route("/plan", get(wharf::plan))
        .route("/reload", post(wharf::reload))
        .route("/wait", get(wharf::wait))
        .route("/login", post(registries::login))
        .route("/logout", post(registries::logout))
        .route("/search", get(registries::search))
        .route("/prune", post(space::prune))
        .route("/volumes/{name}/export", get(copies::export))
        .route("/volumes/{name}/import", post(copies::import))
        .route("/volumes/{name}/clone", post(copies::clone))
        .route("/events", get(wharf::events))
        .route("/images/load", post(image_archives::load_listed))
        .route("/images/verify", post(image_archives::verify))
        .method_not_allowed_fallback(unknown)
        .fallback(unknown);
    Router::new()
        .nest("/wharf/v1", own)
        .merge(docker)
        .with_state(handle)
}

/// Docker's clients put the API's version before the route: `/v1.47/containers/json`. All versions are served alike.
fn without_version<B>(mut request: hyper::Request<B>) -> hyper::Request<B> {
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let rest = path
        .strip_prefix("/v1.")
        .and_then(|p| p.find('/').map(|at| &p[at..]));
    if let Some(uri) = rest.and_then(|rest| rest.parse().ok()) {
        *request.uri_mut() = uri;
    }
    request
}

/// A route that is not built says so. For what is only looked at it is as good as not there, and clients look elsewhere;
/// what is to be done cannot be done: were it a 404, `docker run` would go and pull the image.
async fn unknown(request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    let text = format!("{method} {path} is not supported yet");
    let problem = match method.is_safe() {
        true => Problem::not_found(text),
        false => Problem::not_built(text),
    };
    problem.into_response()
}
