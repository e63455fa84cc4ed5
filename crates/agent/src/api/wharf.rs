//! `/wharf/v1/`: status, plan, reload, wait, events.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use model::plan::Plan;
use model::status::{self, Status};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::problem::Problem;
use crate::engine::{Handle, Request, Snapshot, Wake};
use crate::report::PlanReport;

type Result<T> = std::result::Result<T, Problem>;

/// The status after the directory was read as it is now.
pub async fn status(State(handle): State<Handle>) -> Result<Json<Status>> {
    Ok(Json(Status::clone(&refreshed(&handle, false).await?.status)))
}

/// What a pass would do now.
pub async fn plan(State(handle): State<Handle>) -> Result<Json<PlanReport>> {
    let (answer, plan) = oneshot::channel::<Plan>();
    ask(&handle, Request::Plan { answer })?;
    let plan = plan.await.map_err(|_| Problem::leaving())?;
    Ok(Json(PlanReport::of(&plan)))
}

/// How a full pass is asked for.
#[derive(Debug, Deserialize)]
pub struct ReloadQuery {
    /// An empty or missing directory is meant.
    #[serde(default)]
    accept_empty: bool,
    /// Nobody wants the listings.
    #[serde(default)]
    brief: bool,
}

/// A full pass; answered when it was decided.
pub async fn reload(State(handle): State<Handle>, Query(query): Query<ReloadQuery>) -> Result<Json<Status>> {
    if query.accept_empty {
        let (answer, done) = oneshot::channel();
        ask(&handle, Request::AcceptEmpty { answer })?;
        done.await.map_err(|_| Problem::leaving())?;
        return Ok(Json(told(&handle.snapshot.borrow().status, query.brief)));
    }
    Ok(Json(told(&refreshed(&handle, true).await?.status, query.brief)))
}

fn told(status: &Status, brief: bool) -> Status {
    match brief {
        false => status.clone(),
        true => Status {
            generation: status.generation,
            converged: status.converged,
            config_dir: status.config_dir.clone(),
            firewall: status.firewall.clone(),
            firewall_note: status.firewall_note.clone(),
            version: status.version.clone(),
            errors: status.errors.clone(),
            containers: Vec::new(),
            networks: Vec::new(),
            volumes: Vec::new(),
            images: Vec::new(),
        },
    }
}

/// What to wait for.
#[derive(Debug, Deserialize)]
pub struct WaitQuery {
    /// Comma-separated; empty: converged.
    #[serde(default)]
    names: String,
    timeout_ms: u64,
}

/// How a wait ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct WaitAnswer {
    pub reached: bool,
    /// What is missing, a line each.
    pub missing: Vec<String>,
}

/// Waits until the named containers count as converged, or everything does.
pub async fn wait(State(handle): State<Handle>, Query(query): Query<WaitQuery>) -> Result<Json<WaitAnswer>> {
    let names: Vec<&str> = query.names.split(',').filter(|n| !n.is_empty()).collect();
    let first = refreshed(&handle, false).await?;
    if let Some(unknown) = names.iter().find(|n| {
        !first
            .status
            .containers
            .iter()
            .any(|c| c.name == **n || c.service == **n)
    }) {
        return Err(Problem::not_found(format!(
            "no container {unknown:?} is declared; `wharf status` lists them"
        )));
    }
    let deadline = Instant::now() + Duration::from_millis(query.timeout_ms);
    let mut snapshot = handle.snapshot.clone();
    loop {
        let missing = missing(&snapshot.borrow_and_update().status, &names);
        if missing.is_empty() {
            return Ok(Json(WaitAnswer {
                reached: true,
                missing,
            }));
        }
        match tokio::time::timeout_at(deadline, snapshot.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Problem::leaving()),
            Err(_) => {
                return Ok(Json(WaitAnswer {
                    reached: false,
                    missing,
                }));
            }
        }
    }
}

/// What keeps a wait from ending.
fn missing(status: &Status, names: &[&str]) -> Vec<String> {
    let asked = |c: &&status::ContainerStatus| {
        names.is_empty() || names.contains(&&*c.name) || names.contains(&&*c.service)
    };
    let mut lines: Vec<String> = status
        .containers
        .iter()
        .filter(asked)
        .filter(|c| !reconciler::status::counts(c))
        .map(crate::report::why_not_converged)
        .collect();
    if names.is_empty() && !status.converged {
        lines.extend(status.errors.iter().map(|e| format!("{}: {}", e.at, e.message)));
        lines.extend(
            status
                .networks
                .iter()
                .filter_map(|n| Some(format!("network {}: {}", n.name, n.error.as_ref()?))),
        );
        if lines.is_empty() {
            lines.push("there is still something to do; `wharf plan` shows it".to_owned());
        }
    }
    lines
}

/// How events are asked for.
#[derive(Debug, Deserialize)]
pub struct EventsQuery {
    #[serde(default)]
    follow: bool,
    /// RFC 3339 or seconds; empty: all that is kept.
    #[serde(default)]
    since: String,
    /// Likewise; nothing is followed then.
    #[serde(default)]
    until: String,
}

/// Events as JSON lines: what is kept, and with `follow` what comes.
pub async fn events(State(handle): State<Handle>, Query(query): Query<EventsQuery>) -> Result<Response> {
    let (since, until) = (time(&query.since)?, time(&query.until)?);
    let (mut kept, live) = handle.events.follow();
    kept.retain(|e| since.is_none_or(|t| e.time >= t) && until.is_none_or(|t| e.time < t));
    let line = |event: &model::event::Event| {
        let mut text = serde_json::to_vec(event).expect("events are plain data");
        text.push(b'\n');
        text
    };
    if !query.follow || until.is_some() {
        return Ok(kept.iter().flat_map(line).collect::<Vec<u8>>().into_response());
    }
    let kept = tokio_stream::iter(
        kept.into_iter()
            .map(move |e| Ok::<_, std::convert::Infallible>(line(&e))),
    );
    let live = tokio_stream::wrappers::BroadcastStream::new(live);
    // A follower too slow for the ring has missed some; it goes on with what is still there.
    let live = tokio_stream::StreamExt::filter_map(live, move |e| e.ok().map(|e| Ok(line(&e))));
    Ok(Body::from_stream(tokio_stream::StreamExt::chain(kept, live)).into_response())
}

fn time(text: &str) -> Result<Option<Timestamp>> {
    if text.is_empty() {
        return Ok(None);
    }
    let unknown = || Problem::bad_request(format!("{text:?} is no time: RFC 3339, or seconds since 1970"));
    super::logs::seconds(text).map(Some).ok_or_else(unknown)
}

/// Has the directory read (and with `whole` everything looked at) and gives the picture after that pass.
pub async fn refreshed(handle: &Handle, whole: bool) -> Result<Arc<Snapshot>> {
    let (answer, done) = oneshot::channel();
    ask(handle, Request::Refresh { whole, answer })?;
    done.await.map_err(|_| Problem::leaving())?;
    Ok(Arc::clone(&handle.snapshot.borrow()))
}

/// Has everything looked at: something was made or changed by hand, and files may have waited for it.
pub async fn ask_again(handle: &Handle) -> Result<()> {
    refreshed(handle, true).await.map(drop)
}

/// The picture as it is; after the first pass, for an agent that was started a moment ago.
pub async fn current(handle: &Handle) -> Result<Arc<Snapshot>> {
    let seen = Arc::clone(&handle.snapshot.borrow());
    if seen.passes > 0 {
        return Ok(seen);
    }
    refreshed(handle, false).await
}

/// What is found in the picture as it is. A reason to refuse has to be one in a picture that is taken only now: what was
/// told to a client a moment ago may not be in the other yet.
pub async fn seen<T>(handle: &Handle, found: impl Fn(&Snapshot) -> Result<T>) -> Result<T> {
    if let Ok(found) = found(&*current(handle).await?) {
        return Ok(found);
    }
    found(&*refreshed(handle, true).await?)
}

/// Puts a request to the loop.
pub fn ask(handle: &Handle, request: Request) -> Result<()> {
    handle
        .wakes
        .send(Wake::Request(request))
        .map_err(|_| Problem::leaving())
}
