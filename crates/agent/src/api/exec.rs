//! Docker's routes about processes run inside a container: `POST /containers/NAME/exec`, `/exec/ID/start|resize`,
//! `GET /exec/ID/json`.
//!
//! A session that was not detached lives as long as its client's connection: when the client goes away, its processes
//! are killed (dockerd leaves them running, and nobody knows of them any more). One that was detached lives as long as
//! the agent. In a terminal or not, what a command has put into the background when it ends goes on.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::OnUpgrade;
use model::name::ContainerId;
use model::status::State as ContainerState;
use runtime::client::RuntimeError;
use runtime::exec::{ExecEnd, ExecHandle, ExecSession, ExecSpec};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc::channel;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tracing::debug;

use super::containers::{accepted, find};
use super::exec_table::Phase;
use super::problem::Problem;
use super::session::{self, Attached, QUEUED, Streams};
use super::wharf::seen;
use crate::engine::{Handle, Snapshot};

type Result<T> = std::result::Result<T, Problem>;

/// Docker's exit code of what failed without being the command's fault.
const OWN_FAILURE: i32 = 125;

/// No request about a session is longer, in bytes.
const LONGEST: usize = 1 << 20;

/// What `POST /containers/NAME/exec` asks for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Config {
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    tty: bool,
    console_size: Option<[u16; 2]>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: String,
    working_dir: String,
    privileged: bool,
}

impl Config {
    fn spec(&self, size: Option<[u16; 2]>) -> ExecSpec {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        ExecSpec {
            args: self.cmd.clone().unwrap_or_default(),
            env: self.env.clone().unwrap_or_default(),
            user: given(&self.user),
            working_dir: given(&self.working_dir),
            tty: self.tty,
            size: size.map(|[rows, columns]| (rows, columns)),
            stdin: self.attach_stdin,
            privileged: self.privileged,
        }
    }

    fn attached(&self) -> Attached {
        Attached {
            stdin: self.attach_stdin,
            stdout: self.attach_stdout,
            stderr: self.attach_stderr,
        }
    }
}

/// `POST /containers/NAME/exec`.
pub async fn create(State(handle): State<Handle>, Path(name): Path<String>, body: Bytes) -> Result<Response> {
    let config: Config = parsed(&body)?;
    if config.cmd.as_ref().is_none_or(Vec::is_empty) {
        return Err(Problem::bad_request("No exec command specified"));
    }
    let id = seen(&handle, |snapshot| running(snapshot, &name)).await?;
    let id = handle.execs.make(id, config)?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": id }))).into_response())
}

fn running(snapshot: &Snapshot, name: &str) -> Result<ContainerId> {
    let c = find(snapshot, name)?;
    match (c.state, accepted(snapshot, c)) {
        (ContainerState::Running, Some(accepted)) => Ok(accepted.id.clone()),
        (ContainerState::Paused, _) => Err(Problem::conflict(format!(
            "container {} is paused; `wharf unpause {}` first",
            c.name, c.name
        ))),
        _ => Err(Problem::conflict(format!("container {} is not running", c.name))),
    }
}

/// What `POST /exec/ID/start` asks for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Start {
    detach: bool,
    /// Rows, columns.
    console_size: Option<[u16; 2]>,
}

/// `POST /exec/ID/start`: the connection becomes the session's streams, raw for a terminal, in frames otherwise. A
/// client that does not ask for that gets the command's output as the answer's body.
pub async fn start(
    State(handle): State<Handle>,
    Path(id): Path<String>,
    mut request: Request,
) -> Result<Response> {
    let upgrade = hyper::upgrade::on(&mut request);
    let upgrade = request.headers().contains_key(header::UPGRADE).then_some(upgrade);
    let body = axum::body::to_bytes(request.into_body(), LONGEST)
        .await
        .map_err(|e| Problem::bad_request(format!("the request's body: {e}")))?;
    let start = if body.is_empty() {
        Start::default()
    } else {
        parsed(&body)?
    };
    // In a task of its own: a client that goes away meanwhile leaves nothing half begun.
    let begun = tokio::spawn(begin(handle, id, start, upgrade)).await;
    begun.map_err(|e| Problem::failed(e.to_string()))?
}

async fn begin(handle: Handle, id: String, start: Start, upgrade: Option<OnUpgrade>) -> Result<Response> {
    let (container, config) = handle.execs.claim(&id)?;
    let spec = config.spec(start.console_size.or(config.console_size));
    let session = match run(&handle, container, spec).await {
        Ok(session) => session,
        Err(problem) => {
            handle.execs.set(&id, Phase::Ended(OWN_FAILURE));
            return Err(problem);
        }
    };
    let pid = session.pid;
    let (io, session) = session.split();
    let session = Arc::new(session);
    handle.execs.set(&id, Phase::Running(pid, Arc::clone(&session)));
    let ended = tokio::spawn(end(handle, id, Arc::clone(&session)));
    let streams = Streams::new(io, config.attached())
        .map_err(|e| Problem::failed(format!("the command's streams cannot be read: {e}")))?;
    if start.detach {
        return detached(pid, streams, ended).await;
    }
    Ok(match upgrade {
        Some(upgrade) => hijacked(upgrade, streams, ended, session, config.tty),
        None => streamed(streams, ended, session, config.tty),
    })
}

async fn run(handle: &Handle, container: ContainerId, spec: ExecSpec) -> Result<ExecSession> {
    let host = Arc::clone(&handle.host);
    let begun = tokio::task::spawn_blocking(move || host.runtime.exec(&container, &spec, None));
    let begun = begun.await.map_err(|e| Problem::failed(e.to_string()))?;
    begun.map_err(|e| match e {
        RuntimeError::NotRunning { .. } | RuntimeError::Refused { .. } => Problem::conflict(e.to_string()),
        e => Problem::failed(e.to_string()),
    })
}

/// Waits for the command's end and books it. The text is what went wrong before it could run.
async fn end(handle: Handle, id: String, session: Arc<ExecHandle>) -> Option<String> {
    let waited = tokio::task::spawn_blocking(move || session.wait()).await;
    let ended = match waited {
        Ok(Ok(ended)) => ended,
        Ok(Err(e)) => failed(e.to_string()),
        Err(e) => failed(e.to_string()),
    };
    handle.execs.set(&id, Phase::Ended(ended.code));
    ended.error
}

fn failed(error: String) -> ExecEnd {
    ExecEnd {
        code: OWN_FAILURE,
        error: Some(error),
        timed_out: false,
    }
}

/// Nobody listens, so that only a failed start is told.
async fn detached(pid: u32, streams: Streams, ended: JoinHandle<Option<String>>) -> Result<Response> {
    if pid == 0
        && let Some(why) = why(ended).await
    {
        return Err(Problem::bad_request(why));
    }
    tokio::spawn(streams.drain());
    Ok(StatusCode::OK.into_response())
}

/// The answer after which the connection is the streams' (Docker Engine API, "ContainerAttach").
fn hijacked(
    upgrade: OnUpgrade,
    streams: Streams,
    ended: JoinHandle<Option<String>>,
    session: Arc<ExecHandle>,
    tty: bool,
) -> Response {
    tokio::spawn(async move {
        let carried = match upgrade.await {
            Ok(stream) => session::carry(stream, streams, why(ended)).await,
            Err(e) => Err(io::Error::other(e)),
        };
        if let Err(e) = carried {
            debug!("an exec's client went away: {e}");
        }
        kill(&session);
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type(tty));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
    response
}

/// For clients that only read, as `curl`: the answer's body ends with the command.
fn streamed(
    streams: Streams,
    ended: JoinHandle<Option<String>>,
    session: Arc<ExecHandle>,
    tty: bool,
) -> Response {
    let (queue, chunks) = channel(QUEUED);
    tokio::spawn(async move {
        let gone = queue.clone();
        tokio::select! {
            () = streams.tell(queue, why(ended)) => {}
            () = gone.closed() => debug!("an exec's client went away"),
        }
        kill(&session);
    });
    let body = Body::from_stream(ReceiverStream::new(chunks).map(Ok::<_, Infallible>));
    ([(header::CONTENT_TYPE, content_type(tty))], body).into_response()
}

async fn why(ended: JoinHandle<Option<String>>) -> Option<String> {
    ended.await.unwrap_or_else(|e| Some(e.to_string()))
}

/// A client that went away takes its session along. Of one that has ended nothing is left to kill.
fn kill(session: &ExecHandle) {
    if let Err(e) = session.kill() {
        debug!("an exec session cannot be ended: {e}");
    }
}

fn content_type(tty: bool) -> HeaderValue {
    HeaderValue::from_static(if tty {
        "application/vnd.docker.raw-stream"
    } else {
        "application/vnd.docker.multiplexed-stream"
    })
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|e| Problem::bad_request(format!("the request's body: {e}")))
}

/// `h` rows, `w` columns.
#[derive(Debug, Deserialize)]
pub struct SizeQuery {
    h: u16,
    w: u16,
}

/// `POST /exec/ID/resize`.
pub async fn resize(
    State(handle): State<Handle>,
    Path(id): Path<String>,
    Query(size): Query<SizeQuery>,
) -> Result<Response> {
    let session = handle.execs.running(&id).await?;
    session
        .resize(size.h, size.w)
        .map_err(|e| Problem::failed(e.to_string()))?;
    Ok(StatusCode::OK.into_response())
}

/// `GET /exec/ID/json`.
pub async fn inspect(State(handle): State<Handle>, Path(id): Path<String>) -> Result<Json<Value>> {
    let exec = handle.execs.get(&id)?;
    let (running, code, pid) = match &exec.phase {
        Phase::Made | Phase::Starting => (false, None, 0),
        Phase::Running(pid, _) => (true, None, *pid),
        Phase::Ended(code) => (false, Some(*code), 0),
    };
    let config = &exec.config;
    let mut words = config.cmd.iter().flatten();
    let program = words.next();
    Ok(Json(json!({
        "ID": id,
        "ContainerID": exec.container,
        "Running": running,
        "ExitCode": code,
        "Pid": pid,
        "OpenStdin": config.attach_stdin,
        "OpenStdout": config.attach_stdout,
        "OpenStderr": config.attach_stderr,
        "CanRemove": code.is_some(),
        "DetachKeys": "",
        "ProcessConfig": {
            "tty": config.tty, "entrypoint": program, "arguments": words.collect::<Vec<_>>(),
            "privileged": config.privileged, "user": config.user,
        },
    })))
}
