//! A blob as it streams in, going on where it was when the connection is cut. Its digest is its reader's business.

use std::io::{self, Read};
use std::sync::Mutex;

use hyper::Method;
use hyper::StatusCode;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap};
use model::digest::Digest;

use super::ask::{Answer, Ask};
use super::endpoint::Origin;
use super::error::RegistryError;
use super::session::{Session, lock};
use super::wire::{Pace, Watch, Wire};
use super::{Progress, Report};

/// A transfer that got this far since it was last cut has all its tries again.
const WORTH: u64 = 64 * 1024;
/// Bytes between two reports.
const REPORT: u64 = 256 * 1024;

pub struct Download<'a> {
    session: &'a Session,
    ask: Ask,
    digest: Digest,
    size: u64,
    /// Bytes handed on.
    done: u64,
    current: Option<Current>,
    chunk: Bytes,
    tries: u32,
    /// Where it was cut last.
    cut_at: u64,
    watch: Watch<'a>,
    report: Report<'a>,
    reported: u64,
    /// Why it ended early; an `io::Error` cannot say it as well.
    failure: &'a Mutex<Option<RegistryError>>,
}

/// A body under way.
struct Current {
    wire: Wire,
    origin: Origin,
    body: Incoming,
    pace: Pace,
    /// Bytes that were had before, from a server that cannot begin in the middle.
    skip: u64,
}

impl<'a> Download<'a> {
    pub fn new(
        session: &'a Session,
        digest: Digest,
        size: u64,
        watch: Watch<'a>,
        report: Report<'a>,
        failure: &'a Mutex<Option<RegistryError>>,
    ) -> Self {
        let path = session.path(&format!("/blobs/{digest}"));
        let ask = Ask::new(format!("layer {digest}"), Method::GET, path);
        let download = Self {
            session,
            ask,
            digest,
            size,
            done: 0,
            current: None,
            chunk: Bytes::new(),
            tries: 0,
            cut_at: 0,
            watch,
            report,
            reported: 0,
            failure,
        };
        download.tell();
        download
    }

    /// The next piece; none at the end.
    fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        self.watch.check()?;
        let mut current = match self.current.take() {
            Some(current) => current,
            None if self.done == self.size => return Ok(None),
            None => self.open()?,
        };
        loop {
            let frame = current
                .wire
                .frame(&current.origin, &mut current.body, &mut current.pace, self.watch);
            if self.done == self.size {
                return self.end(current, frame);
            }
            let mut bytes = frame?.ok_or_else(|| self.cut(&current.origin))?;
            let skipped = bytes.split_to(
                bytes
                    .len()
                    .min(usize::try_from(current.skip).unwrap_or(usize::MAX)),
            );
            current.skip -= skipped.len() as u64;
            if bytes.is_empty() {
                continue;
            }
            if bytes.len() as u64 > self.size - self.done {
                return Err(self.too_much(&current.origin));
            }
            self.current = Some(current);
            return Ok(Some(bytes));
        }
    }

    /// All is there. That the connection breaks now hurts nobody; that more comes is wrong.
    fn end(
        &self,
        current: Current,
        frame: Result<Option<Bytes>, RegistryError>,
    ) -> Result<Option<Bytes>, RegistryError> {
        match frame {
            Ok(Some(_)) => Err(self.too_much(&current.origin)),
            Ok(None) => {
                self.session.give_back(current.wire);
                Ok(None)
            }
            Err(_) => Ok(None),
        }
    }

    fn open(&mut self) -> Result<Current, RegistryError> {
        self.ask.from = self.done;
        let Answer {
            wire,
            response,
            origin,
        } = self.session.ask(&self.ask, self.watch)?;
        let (head, body) = response.into_parts();
        let whole = head.status == StatusCode::OK;
        if !whole && content_range(&head.headers).is_none_or(|(from, _)| from != self.done) {
            let why = format!("{origin} sends another part than was asked for");
            return Err(RegistryError::refused(&self.ask.what, why));
        }
        let total = match whole {
            true => content_length(&head.headers),
            false => content_range(&head.headers).and_then(|(_, total)| total),
        };
        if let Some(total) = total.filter(|total| *total != self.size) {
            let why = format!("it should have {} bytes and {origin} has {total}", self.size);
            return Err(RegistryError::refused(&self.ask.what, why));
        }
        Ok(Current {
            wire,
            origin,
            body,
            pace: Pace::default(),
            skip: if whole { self.done } else { 0 },
        })
    }

    fn cut(&self, origin: &Origin) -> RegistryError {
        RegistryError::Cut {
            what: self.ask.what.clone(),
            origin: origin.to_string(),
            done: self.done,
            total: self.size,
        }
    }

    fn too_much(&self, origin: &Origin) -> RegistryError {
        let why = format!("{origin} sends more than the {} bytes it should have", self.size);
        RegistryError::refused(&self.ask.what, why)
    }

    /// Waits for another try, or says that it was the last.
    fn after(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        if !error.passes() {
            return Err(error);
        }
        if self.done - self.cut_at >= WORTH {
            self.tries = 0;
        }
        self.cut_at = self.done;
        self.tries += 1;
        self.session.pause(error, self.tries, self.watch)
    }

    fn tell(&self) {
        if let Some(report) = self.report {
            report(Progress {
                layer: self.digest,
                done: self.done,
                total: self.size,
            });
        }
    }
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            if lock(self.failure).is_some() {
                return Err(io::Error::other("the transfer has failed"));
            }
            match self.next() {
                Ok(Some(bytes)) => self.chunk = bytes,
                Ok(None) => return Ok(0),
                Err(error) => {
                    if let Err(error) = self.after(error) {
                        *lock(self.failure) = Some(error);
                    }
                }
            }
        }
        let count = buffer.len().min(self.chunk.len());
        buffer[..count].copy_from_slice(&self.chunk.split_to(count));
        self.done += count as u64;
        if self.done - self.reported >= REPORT || self.done == self.size {
            self.reported = self.done;
            self.tell();
        }
        Ok(count)
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// First byte and total of `bytes FIRST-LAST/TOTAL`, where a `*` stands for an unknown total (RFC 9110 §14.4).
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some((first.parse().ok()?, total))
}
