//! What happens in etcd, line by line (etcd API, "Watch"; grpc-gateway, streamed responses).

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};

use super::EtcdError;
use super::answers::{Event, Watched};
use super::wire::{Connection, MOST};

/// A watch under way.
pub struct Watch {
    url: String,
    body: Incoming,
    lines: Lines,
    _connection: Connection,
}

impl Watch {
    pub fn new(url: String, connection: Connection, body: Incoming) -> Self {
        Self {
            url,
            body,
            lines: Lines::default(),
            _connection: connection,
        }
    }

    /// Waits for the next thing that happens; may be given up at any time without losing anything. None: the watch has
    /// ended, and what happened since is to be read anew.
    pub async fn next(&mut self) -> Result<Option<Vec<Event>>, EtcdError> {
        loop {
            if let Some(line) = self.lines.next() {
                match events(&line).map_err(|why| self.nonsense(why))? {
                    Some(events) if events.is_empty() => continue,
                    told => return Ok(told),
                }
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let frame = frame.map_err(|e| EtcdError::BrokenOff {
                url: self.url.clone(),
                why: super::wire::causes(&e),
            })?;
            self.lines.feed(&frame.into_data().unwrap_or_default());
            if self.lines.held() > MOST {
                return Err(EtcdError::TooLarge {
                    url: self.url.clone(),
                    most: MOST,
                });
            }
        }
    }

    fn nonsense(&self, why: String) -> EtcdError {
        EtcdError::Nonsense {
            url: self.url.clone(),
            why,
        }
    }
}

/// What a line tells; none where it ends the watch.
pub fn events(line: &[u8]) -> Result<Option<Vec<Event>>, String> {
    let told: Watched = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    if let Some(error) = told.error {
        return Err(super::wire::shown(&error.message));
    }
    let Some(result) = told.result else {
        return Err("a line of a watch without a result".to_owned());
    };
    if result.canceled {
        tracing::debug!(
            "etcd ended a watch: {}",
            super::wire::shown(&result.cancel_reason)
        );
        return Ok(None);
    }
    let events: Result<Vec<Event>, String> = result.events.into_iter().map(Event::read).collect();
    events.map(Some)
}

/// Cuts what comes into lines, wherever it was cut on the way.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
    /// Up to where there is no end of a line.
    searched: usize,
}

impl Lines {
    pub fn feed(&mut self, bytes: &Bytes) {
        self.rest.extend_from_slice(bytes);
    }

    /// The next one that is whole and not empty.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let end = self.rest[self.searched..].iter().position(|b| *b == b'\n');
            let Some(end) = end.map(|end| end + self.searched) else {
                self.searched = self.rest.len();
                return None;
            };
            let rest = self.rest.split_off(end + 1);
            let line = std::mem::replace(&mut self.rest, rest);
            self.searched = 0;
            if !line.trim_ascii().is_empty() {
                return Some(line);
            }
        }
    }

    /// Bytes that wait for the end of their line.
    pub fn held(&self) -> usize {
        self.rest.len()
    }
}
