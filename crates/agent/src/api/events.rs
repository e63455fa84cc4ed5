//! `GET /events`: Docker's stream of events (Engine API, SystemEvents).

use std::convert::Infallible;
use std::future::pending;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use model::event::Event;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::{Sender, channel};

use super::filters::Filters;
use super::logs::seconds;
use super::problem::Problem;
use crate::engine::Handle;

/// Docker's query: times in seconds, filters as JSON.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct EventsQuery {
    since: String,
    until: String,
    filters: String,
}

/// What is sent, decided.
#[derive(Debug, Default)]
struct Wanted {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    filters: Filters,
}

/// What comes from now on; with `since` or `until` also what was; with `until` it ends then.
pub async fn events(
    State(handle): State<Handle>,
    Query(query): Query<EventsQuery>,
) -> Result<Response, Problem> {
    let wanted = decide(&query)?;
    let (sender, receiver) = channel::<Vec<u8>>(64);
    tokio::spawn(send(handle, wanted, sender));
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let body = Body::from_stream(tokio_stream::StreamExt::map(stream, Ok::<_, Infallible>));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

fn decide(query: &EventsQuery) -> Result<Wanted, Problem> {
    let time = |text: &str| match text {
        "" => Ok(None),
        text => seconds(text)
            .map(Some)
            .ok_or_else(|| Problem::bad_request(format!("{text:?} is no time in seconds"))),
    };
    Ok(Wanted {
        since: time(&query.since)?,
        until: time(&query.until)?,
        filters: Filters::parse(
            &query.filters,
            &["container", "event", "image", "network", "type"],
        )?,
    })
}

impl Wanted {
    fn takes(&self, event: &Event, id: &str) -> bool {
        self.since.is_none_or(|t| event.time >= t)
            && self.until.is_none_or(|t| event.time < t)
            && self.filters.fits("type", |v| v == event.kind)
            && self.filters.fits("event", |v| v == action(event))
            && ["container", "image", "network"].iter().all(|kind| {
                self.filters.fits(kind, |v| {
                    event.kind == *kind && (v == event.name || (v.len() >= 4 && id.starts_with(v)))
                })
            })
    }
}

/// Until the client goes away, or `until` has come.
async fn send(handle: Handle, wanted: Wanted, sender: Sender<Vec<u8>>) {
    let (kept, mut live) = handle.events.follow();
    let line = |event: &Event| {
        let id = id(&handle, event);
        wanted.takes(event, &id).then(|| as_docker(event, &id))
    };
    if wanted.since.is_some() || wanted.until.is_some() {
        for bytes in kept.iter().filter_map(line) {
            if sender.send(bytes).await.is_err() {
                return;
            }
        }
    }
    let end = async {
        match wanted.until {
            Some(at) => tokio::time::sleep(left(at)).await,
            None => pending().await,
        }
    };
    tokio::pin!(end);
    loop {
        let event = tokio::select! {
            event = live.recv() => event,
            () = &mut end => return,
            () = sender.closed() => return,
        };
        let bytes = match event {
            Ok(event) => line(&event),
            // Too slow for the ring: on with what is still there.
            Err(RecvError::Lagged(_)) => None,
            Err(RecvError::Closed) => return,
        };
        if let Some(bytes) = bytes
            && sender.send(bytes).await.is_err()
        {
            return;
        }
    }
}

fn left(at: Timestamp) -> std::time::Duration {
    at.duration_since(Timestamp::now()).try_into().unwrap_or_default()
}

/// A container's id where it is still known, else the name.
fn id(handle: &Handle, event: &Event) -> String {
    let snapshot = handle.snapshot.borrow();
    let entry = snapshot
        .ledger
        .containers
        .get(event.name.as_str())
        .filter(|_| event.kind == "container");
    entry.map_or_else(|| event.name.clone(), |e| e.current.id.to_string())
}

/// Docker's word for what happened.
fn action(event: &Event) -> &str {
    match (event.kind.as_str(), event.what.as_str()) {
        ("container" | "network", "remove") => "destroy",
        (_, what) => what,
    }
}

fn as_docker(event: &Event, id: &str) -> Vec<u8> {
    let mut attributes = event.attributes.clone();
    attributes.insert("name".to_owned(), event.name.clone());
    let line = json!({
        "Type": event.kind,
        "Action": action(event),
        "Actor": { "ID": id, "Attributes": attributes },
        "scope": "local",
        "time": event.time.as_second(),
        "timeNano": i64::try_from(event.time.as_nanosecond()).unwrap_or(i64::MAX),
    });
    format!("{line}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_chosen_by_time_type_word_and_container() {
        let event = |kind: &str, what: &str| Event {
            time: Timestamp::from_second(100).unwrap(),
            kind: kind.to_owned(),
            name: "web".to_owned(),
            what: what.to_owned(),
            reason: String::new(),
            attributes: std::collections::BTreeMap::new(),
        };
        let takes = |since: &str, until: &str, filters: &str, event: &Event| {
            let query = EventsQuery {
                since: since.to_owned(),
                until: until.to_owned(),
                filters: filters.to_owned(),
            };
            decide(&query).unwrap().takes(event, "abcdef")
        };
        let removed = event("container", "remove");
        assert!(takes("", "", "", &removed) && takes("100", "101", "{}", &removed));
        assert!(!takes("101", "", "", &removed) && !takes("", "100", "", &removed));
        assert!(takes(
            "",
            "",
            r#"{"type":["container"],"event":["destroy"]}"#,
            &removed
        ));
        assert!(!takes("", "", r#"{"event":["die"]}"#, &removed));
        for named in ["web", "abcd"] {
            assert!(takes(
                "",
                "",
                &format!(r#"{{"container":["{named}"]}}"#),
                &removed
            ));
        }
        assert!(!takes("", "", r#"{"container":["abc"]}"#, &removed));
        assert!(!takes(
            "",
            "",
            r#"{"container":["web"]}"#,
            &event("network", "apply")
        ));
    }
}
