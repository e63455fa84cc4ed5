//! Docker's routes about containers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use model::action::Noun;
use model::ledger::{Accepted, ContainerEntry};
use model::network::Attachment;
use model::observed::ExitRecord;
use model::spec::{ContainerSpec, LinkSpec};
use model::status::{ContainerStatus, EndpointStatus, State as ContainerState};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::details;
use super::filters::Filters;
use super::problem::Problem;
use super::wharf::{ask, current, refreshed, seen};
use crate::engine::{Answer, Handle, Refusal, Request, Snapshot};
use crate::report;

/// How long a client waits for a container to get where it wants it, besides the grace of a stop.
const LIMIT: Duration = Duration::from_secs(60);

type Result<T> = std::result::Result<T, Problem>;

/// `GET /containers/json`: flags are `1` or `true`, filters JSON.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ListQuery {
    all: String,
    limit: Option<i64>,
    filters: String,
}

/// `GET /containers/json?all=1`. A limit or a filter by status means all states, as in Docker.
pub async fn list(State(handle): State<Handle>, Query(query): Query<ListQuery>) -> Result<Json<Value>> {
    let filters = Filters::parse(&query.filters, &["id", "label", "name", "status"])?;
    let limit = query
        .limit
        .and_then(|n| usize::try_from(n).ok())
        .filter(|n| *n > 0);
    let all = matches!(query.all.as_str(), "1" | "true" | "True") || limit.is_some() || filters.has("status");
    let snapshot = current(&handle).await?;
    let shown =
        |c: &&ContainerStatus| all || matches!(c.state, ContainerState::Running | ContainerState::Paused);
    let mut found: Vec<&ContainerStatus> = snapshot.status.containers.iter().filter(shown).collect();
    found.retain(|c| passes(&filters, &snapshot, c));
    if let Some(limit) = limit {
        found.sort_by_key(|c| std::cmp::Reverse(c.created_at));
        found.truncate(limit);
    }
    Ok(Json(found.into_iter().map(|c| row(&snapshot, c)).collect()))
}

/// Docker matches names and ids by a part of them, labels by `KEY` or `KEY=VALUE`.
fn passes(filters: &Filters, snapshot: &Snapshot, c: &ContainerStatus) -> bool {
    let labels = details::labels(c, accepted(snapshot, c));
    let labelled = |wanted: &str| {
        let (key, value) = wanted
            .split_once('=')
            .map_or((wanted, None), |(k, v)| (k, Some(v)));
        labels.get(key).is_some_and(|is| value.is_none_or(|v| v == is))
    };
    filters.fits("name", |v| c.name.contains(v.trim_start_matches('/')))
        && filters.fits("id", |v| c.id.as_ref().is_some_and(|id| id.starts_with(v)))
        && filters.fits("status", |v| docker_state(c.state) == v)
        && filters.all("label", labelled)
}

fn row(snapshot: &Snapshot, c: &ContainerStatus) -> Value {
    let accepted = accepted(snapshot, c);
    let command = accepted.map(|a| command(a).join(" ")).unwrap_or_default();
    json!({
        "Id": c.id,
        "Names": [format!("/{}", c.name)],
        "Image": c.image,
        "ImageID": c.image_id,
        "Command": command,
        "Created": c.created_at.map_or(0, |t| t.as_second()),
        "Ports": c.ports.iter().map(|p| json!({
            "IP": p.ip, "PrivatePort": p.container, "PublicPort": p.host, "Type": p.protocol,
        })).collect::<Vec<_>>(),
        "Labels": details::labels(c, accepted),
        "State": docker_state(c.state),
        "Status": report::docker_status(c, jiff::Timestamp::now()),
        "HostConfig": { "NetworkMode": "default" },
        "NetworkSettings": { "Networks": networks(c, accepted) },
        "Mounts": details::mounts(snapshot, accepted.map(|a| &*a.spec)),
    })
}

/// `GET /containers/NAME/json`.
pub async fn inspect(State(handle): State<Handle>, Path(name): Path<String>) -> Result<Json<Value>> {
    let found = |snapshot: &Snapshot| find(snapshot, &name).map(|c| inspected(snapshot, c));
    seen(&handle, found).await.map(Json)
}

fn inspected(snapshot: &Snapshot, c: &ContainerStatus) -> Value {
    let accepted = accepted(snapshot, c);
    let spec = accepted.map(|a| &*a.spec);
    let running = matches!(c.state, ContainerState::Running | ContainerState::Paused);
    let ports: BTreeMap<String, Vec<Value>> = c.ports.iter().fold(BTreeMap::new(), |mut map, p| {
        let binding = json!({ "HostIp": p.ip, "HostPort": p.host.to_string() });
        map.entry(format!("{}/{}", p.container, p.protocol))
            .or_default()
            .push(binding);
        map
    });
    json!({
        "Id": c.id,
        "Name": format!("/{}", c.name),
        "Created": c.created_at,
        "Image": c.image_id,
        "RestartCount": c.restarts,
        "State": {
            "Status": docker_state(c.state), "Running": running, "Paused": c.state == ContainerState::Paused,
            "Restarting": c.state == ContainerState::Backoff, "OOMKilled": c.oom_killed, "Dead": false,
            "Pid": c.pid.unwrap_or(0), "ExitCode": c.exit_code.unwrap_or(0), "Error": c.error.clone().unwrap_or_default(),
            "StartedAt": c.started_at, "FinishedAt": c.finished_at,
            "Health": details::health(snapshot, c, accepted),
        },
        "Config": {
            "Hostname": spec.and_then(|s| s.hostname.clone()).unwrap_or_else(|| c.name.clone()),
            "User": spec.and_then(|s| s.user.clone()).unwrap_or_default(),
            "Env": spec.map(|s| s.env.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>()).unwrap_or_default(),
            "Cmd": accepted.map(command).unwrap_or_default(),
            "Image": c.image,
            "Labels": details::labels(c, accepted),
            "Tty": false, "OpenStdin": false,
        },
        "HostConfig": {
            "NetworkMode": "default",
            "Links": links(c, spec),
            "Privileged": spec.is_some_and(|s| s.privileged),
            "ReadonlyRootfs": spec.is_some_and(|s| s.read_only),
            "CapAdd": spec.map(|s| s.cap_add.clone()).unwrap_or_default(),
            "CapDrop": spec.map(|s| s.cap_drop.clone()).unwrap_or_default(),
            "RestartPolicy": { "Name": spec.map(|s| s.restart.policy), "MaximumRetryCount": 0 },
            "LogConfig": { "Type": "json-file", "Config": {} },
        },
        "NetworkSettings": { "Networks": networks(c, accepted), "Ports": ports },
        "Mounts": details::mounts(snapshot, spec),
        "Wharf": c,
    })
}

/// As Docker has them: `/TARGET:/NAME/ALIAS`; null where there are none.
fn links(c: &ContainerStatus, spec: Option<&ContainerSpec>) -> Option<Vec<String>> {
    let links = spec.map(|spec| &spec.links).filter(|links| !links.is_empty())?;
    let one = |link: &LinkSpec| format!("/{}:/{}/{}", link.container, c.name, link.alias);
    Some(links.iter().map(one).collect())
}

fn networks<'c>(c: &'c ContainerStatus, accepted: Option<&Accepted>) -> BTreeMap<&'c str, Value> {
    let one = |(name, e): (&'c String, &EndpointStatus)| {
        let mut places = accepted.into_iter().flat_map(|a| &a.attachments);
        let place = places.find(|a| a.network.as_str() == name.as_str());
        let value = json!({
            "IPAddress": e.ip.clone().unwrap_or_default(), "MacAddress": e.mac,
            "Gateway": e.gateway.clone().unwrap_or_default(),
            "IPPrefixLen": place.and_then(Attachment::v4).map_or(0, |v4| v4.prefix),
            "GlobalIPv6Address": e.ip6.clone().unwrap_or_default(),
            "GlobalIPv6PrefixLen": place.and_then(Attachment::v6).map_or(0, |v6| v6.prefix),
            "IPv6Gateway": e.gateway6.clone().unwrap_or_default(),
        });
        (name.as_str(), value)
    };
    c.networks.iter().map(one).collect()
}

/// Docker's word for a state.
pub(super) fn docker_state(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Running => "running",
        ContainerState::Paused => "paused",
        ContainerState::Pending | ContainerState::Creating => "created",
        ContainerState::Backoff => "restarting",
        ContainerState::Removing => "removing",
        ContainerState::Stopped | ContainerState::Exited | ContainerState::Failed => "exited",
    }
}

/// What runs: entrypoint and command as the table and the image give them.
fn command(accepted: &Accepted) -> Vec<String> {
    let config = accepted.image.as_ref().map(|image| image.config.clone());
    let config = config.unwrap_or_default();
    let spec = &accepted.spec;
    let entrypoint = spec.entrypoint.clone().unwrap_or(config.entrypoint);
    let cmd = match (&spec.command, &spec.entrypoint) {
        (Some(command), _) => command.clone(),
        (None, Some(_)) => Vec::new(),
        (None, None) => config.cmd,
    };
    entrypoint.into_iter().chain(cmd).collect()
}

fn entry<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a ContainerEntry> {
    snapshot.ledger.containers.get(name)
}

/// The one a row is about: the active one, or one that runs beside it.
pub(super) fn accepted<'a>(snapshot: &'a Snapshot, c: &ContainerStatus) -> Option<&'a Accepted> {
    let entry = entry(snapshot, &c.name)?;
    let of_row = entry.all().find(|a| c.id.as_deref() == Some(a.id.as_str()));
    Some(of_row.unwrap_or(&entry.current))
}

/// By name, or by an id's first four digits or more.
pub(super) fn find<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a ContainerStatus> {
    let name = name.trim_start_matches('/');
    let by_id =
        |c: &&ContainerStatus| name.len() >= 4 && c.id.as_ref().is_some_and(|id| id.starts_with(name));
    let list = &snapshot.status.containers;
    list.iter()
        .find(|c| c.name == name)
        .or_else(|| list.iter().find(by_id))
        .ok_or_else(|| Refusal::NoSuchContainer(name.to_owned()).into())
}

/// `POST /containers/NAME/start`: lifts a hold; 304 where it runs.
pub async fn start(State(handle): State<Handle>, Path(name): Path<String>) -> Result<Response> {
    let snapshot = refreshed(&handle, false).await?;
    let c = find(&snapshot, &name)?;
    if c.state == ContainerState::Running {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let name = c.name.clone();
    let before = latest_run(&snapshot, &name);
    decided(&handle, |answer| Request::Start {
        name: name.clone(),
        answer,
    })
    .await?;
    until(&handle, &name, LIMIT, |now, c| match c.state {
        ContainerState::Running | ContainerState::Exited => Some(Ok(())),
        // It was started, and what came of that is the job's own affair.
        ContainerState::Failed if ran_since(now, &name, before.as_ref()) => Some(Ok(())),
        ContainerState::Failed | ContainerState::Backoff => Some(Err(report::why_not_converged(c))),
        _ => None,
    })
    .await
}

/// Which run of which container was its latest that ended.
type LatestRun = (String, u64);

fn latest_exit<'a>(snapshot: &'a Snapshot, name: &str) -> Option<(String, &'a ExitRecord)> {
    let id = &entry(snapshot, name)?.current.id;
    let seen = snapshot.observed.containers.known()?.get(id)?.known()?;
    let exit = seen.last_exit.as_ref()?;
    Some((id.to_string(), exit))
}

fn latest_run(snapshot: &Snapshot, name: &str) -> Option<LatestRun> {
    latest_exit(snapshot, name).map(|(id, exit)| (id, exit.run_no))
}

/// Its program was started after `before` and has ended by now: a short job may be over before anybody saw it run.
fn ran_since(now: &Snapshot, name: &str, before: Option<&LatestRun>) -> bool {
    latest_exit(now, name)
        .filter(|(_, exit)| exit.error.is_none() && !exit.requested)
        .is_some_and(|(id, exit)| before != Some(&(id, exit.run_no)))
}

/// `t`: seconds of grace.
#[derive(Debug, Deserialize)]
pub struct GraceQuery {
    t: Option<i64>,
}

impl GraceQuery {
    fn grace(&self) -> Option<Duration> {
        self.t
            .and_then(|t| u64::try_from(t).ok())
            .map(Duration::from_secs)
    }
}

/// `POST /containers/NAME/stop`: a hold, remembered until `start`; 304 where it is stopped.
pub async fn stop(
    State(handle): State<Handle>,
    Path(name): Path<String>,
    Query(query): Query<GraceQuery>,
) -> Result<Response> {
    if query.grace().is_some() {
        return Err(Problem::bad_request(
            "a grace period of its own for stop is not supported yet; set stop_grace_period",
        ));
    }
    let snapshot = refreshed(&handle, false).await?;
    let c = find(&snapshot, &name)?;
    if c.state == ContainerState::Stopped {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let name = c.name.clone();
    let grace = entry(&snapshot, &name).map_or(Duration::from_secs(10), |e| e.current.spec.stop_grace_period);
    let reason = "stopped by hand".to_owned();
    decided(&handle, |answer| Request::Stop {
        name: name.clone(),
        reason,
        answer,
    })
    .await?;
    until(&handle, &name, grace + Duration::from_secs(30), |_, c| {
        (c.state == ContainerState::Stopped).then_some(Ok(()))
    })
    .await
}

/// `POST /containers/NAME/restart`. What is under way with it ends first; one that does not run is started.
pub async fn restart(
    State(handle): State<Handle>,
    Path(name): Path<String>,
    Query(query): Query<GraceQuery>,
) -> Result<Response> {
    let snapshot = refreshed(&handle, false).await?;
    let c = find(&snapshot, &name)?;
    if matches!(
        c.state,
        ContainerState::Stopped | ContainerState::Exited | ContainerState::Failed
    ) {
        return start(State(handle), Path(name)).await;
    }
    let name = c.name.clone();
    let grace = query.grace();
    let deadline = Instant::now() + LIMIT;
    let mut passes = handle.snapshot.clone();
    loop {
        passes.mark_unchanged();
        let decision = decision(&handle, |answer| Request::Restart {
            name: name.clone(),
            grace,
            answer,
        });
        match decision.await? {
            // Each action's end is followed by a pass.
            Err(Refusal::Busy(_)) if Instant::now() < deadline => {
                let changed = tokio::time::timeout_at(deadline, passes.changed()).await;
                if let Ok(Err(_)) = changed {
                    return Err(Problem::leaving());
                }
            }
            // What was under way may have ended it, or failed to start it.
            Err(Refusal::NotRunning(_)) => return start(State(handle), Path(name)).await,
            decided => break decided?,
        }
    }
    let before = latest_run(&snapshot, &name);
    until(&handle, &name, LIMIT, |now, c| match c.state {
        ContainerState::Running => Some(Ok(())),
        ContainerState::Exited | ContainerState::Failed if ran_since(now, &name, before.as_ref()) => {
            Some(Ok(()))
        }
        ContainerState::Failed => Some(Err(report::why_not_converged(c))),
        _ => None,
    })
    .await
}

/// `signal`: by name or number; SIGKILL when none.
#[derive(Debug, Deserialize)]
pub struct KillQuery {
    signal: Option<String>,
}

/// `POST /containers/NAME/kill`: a signal to its first process; what follows is the restart policy's affair.
pub async fn kill(
    State(handle): State<Handle>,
    Path(name): Path<String>,
    Query(query): Query<KillQuery>,
) -> Result<Response> {
    let snapshot = refreshed(&handle, false).await?;
    let c = find(&snapshot, &name)?;
    let signal = query.signal.unwrap_or_else(|| "SIGKILL".to_owned());
    let id = match (&c.state, accepted(&snapshot, c)) {
        (ContainerState::Running | ContainerState::Paused, Some(accepted)) => accepted.id.clone(),
        _ => return Err(Problem::conflict(format!("container {} is not running", c.name))),
    };
    let host = Arc::clone(&handle.host);
    let killed =
        tokio::task::spawn_blocking(move || host.runtime.kill(&id, &signal).map_err(|e| e.to_string()));
    killed
        .await
        .map_err(|e| Problem::failed(e.to_string()))?
        .map_err(Problem::failed)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `POST /containers/NAME/pause`: freezes all its processes.
pub async fn pause(State(handle): State<Handle>, Path(name): Path<String>) -> Result<Response> {
    freeze(&handle, &name, ContainerState::Running, ContainerState::Paused).await
}

/// `POST /containers/NAME/unpause`: lets them go on.
pub async fn unpause(State(handle): State<Handle>, Path(name): Path<String>) -> Result<Response> {
    freeze(&handle, &name, ContainerState::Paused, ContainerState::Running).await
}

async fn freeze(handle: &Handle, name: &str, from: ContainerState, to: ContainerState) -> Result<Response> {
    let snapshot = refreshed(handle, true).await?;
    let c = find(&snapshot, name)?;
    let id = match entry(&snapshot, &c.name) {
        Some(entry) if c.state == from => entry.current.id.clone(),
        _ => {
            let text = format!("container {} is {}", c.name, docker_state(c.state));
            return Err(Problem::conflict(text));
        }
    };
    let (host, name) = (Arc::clone(&handle.host), c.name.clone());
    let frozen = tokio::task::spawn_blocking(move || match to {
        ContainerState::Paused => host.runtime.pause(&id),
        _ => host.runtime.unpause(&id),
    });
    let frozen = frozen.await.map_err(|e| Problem::failed(e.to_string()))?;
    frozen.map_err(|e| Problem::failed(e.to_string()))?;
    until(handle, &name, LIMIT, |_, c| (c.state == to).then_some(Ok(()))).await
}

/// Has the loop take a decision, which has to be a good one.
async fn decided(
    handle: &Handle,
    request: impl FnOnce(Answer<std::result::Result<(), Refusal>>) -> Request,
) -> Result<()> {
    Ok(decision(handle, request).await??)
}

async fn decision(
    handle: &Handle,
    request: impl FnOnce(Answer<std::result::Result<(), Refusal>>) -> Request,
) -> Result<std::result::Result<(), Refusal>> {
    let (answer, done) = oneshot::channel();
    ask(handle, request(answer))?;
    done.await.map_err(|_| Problem::leaving())
}

/// Waits for a container to get where `verdict` says; 204.
async fn until(
    handle: &Handle,
    name: &str,
    limit: Duration,
    verdict: impl Fn(&Snapshot, &ContainerStatus) -> Option<std::result::Result<(), String>>,
) -> Result<Response> {
    let deadline = Instant::now() + limit;
    // The decision is only on the picture after the next pass.
    refreshed(handle, false).await?;
    let mut snapshot = handle.snapshot.clone();
    loop {
        let seen = {
            let current = snapshot.borrow_and_update();
            let c = find(&current, name)?;
            // What is so, but with the action still to be booked, would show as something to wait for.
            let busy = current
                .busy
                .iter()
                .any(|n| matches!(n, Noun::Container(b) if b.as_str() == name));
            verdict(&current, c)
                .filter(|v| v.is_err() || !busy)
                .ok_or_else(|| report::why_not_converged(c))
        };
        match seen {
            Ok(Ok(())) => return Ok(StatusCode::NO_CONTENT.into_response()),
            Ok(Err(message)) => return Err(Problem::failed(message)),
            Err(state) => match tokio::time::timeout_at(deadline, snapshot.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Problem::leaving()),
                Err(_) => return Err(Problem::failed(format!("after {} s: {state}", limit.as_secs()))),
            },
        }
    }
}
