//! Blobs and manifests into a repository: OCI distribution-spec 1.1, "Push".
//!
//! A blob goes in one request. Where that breaks, or the registry will not have so much at once, it goes on in pieces
//! from where the registry says it is, or from the start where the registry does not know any more. Whatever a registry
//! says of how far it is, a transfer ends: each time that it gets no further counts as a try.

use std::ops::Range;
use std::sync::atomic::Ordering;

use hyper::Method;
use hyper::header::{self, HeaderMap};
use model::digest::Digest;

use super::ask::Ask;
use super::body::{Outgoing, Source};
use super::endpoint::{Origin, Target};
use super::error::RegistryError;
use super::find::DIGEST_HEADER;
use super::session::Session;
use super::wire::Watch;

/// The first size of pieces, and the smallest.
const PIECE: u64 = 16 << 20;
const LEAST_PIECE: u64 = 512 << 10;
/// A transfer that got this much further since it last failed has all its tries again.
const WORTH: u64 = 256 << 10;
/// What is sent when nobody has said anything else (RFC 2046).
const BYTES: &str = "application/octet-stream";

/// Bytes to be stored under their digest.
#[derive(Clone)]
pub struct Blob {
    /// For messages: `layer sha256:…`.
    pub what: String,
    pub digest: Digest,
    pub size: u64,
    pub source: Source,
}

/// An upload that the registry has opened.
pub struct Begun(Target);

/// What asking for a mount came to.
pub enum Mount {
    Done,
    /// An upload was begun instead, to which any blob can be sent.
    Begun(Begun),
    Not,
}

impl Session {
    /// Whether the repository has a blob of this digest and size. One that it will not tell about is not there.
    pub fn has_blob(&self, digest: &Digest, size: u64, watch: Watch<'_>) -> Result<bool, RegistryError> {
        let path = self.path(&format!("/blobs/{digest}"));
        let ask = Ask::new(format!("blob {digest}"), Method::HEAD, path);
        match self.patiently(watch, || self.head(&ask, watch)) {
            Ok((headers, _)) => {
                Ok(number(&headers, header::CONTENT_LENGTH.as_str()).is_none_or(|n| n == size))
            }
            Err(e) if e.is_no() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Has the registry give this repository a blob that it has in another one.
    pub fn mount(&self, digest: &Digest, from: &str, watch: Watch<'_>) -> Result<Mount, RegistryError> {
        // Names of repositories need no escaping but for their slashes.
        let from = from.replace('/', "%2F");
        let path = self.path(&format!("/blobs/uploads/?mount={digest}&from={from}"));
        let ask = Ask {
            good: &[201, 202],
            ..Ask::new(format!("blob {digest}"), Method::POST, path)
        };
        match self.patiently(watch, || self.head_with_status(&ask, watch)) {
            Ok((201, _, _)) => Ok(Mount::Done),
            Ok((_, headers, origin)) => {
                let begun = self.redirect(&ask.what, &origin, &headers);
                Ok(begun.map_or(Mount::Not, |place| Mount::Begun(Begun(place))))
            }
            Err(e) if e.is_no() => Ok(Mount::Not),
            Err(e) => Err(e),
        }
    }

    /// Sends a blob, in an upload that was begun or in one of its own. `tell` hears how many bytes are there.
    pub fn send_blob(
        &self,
        blob: &Blob,
        begun: Option<Begun>,
        watch: Watch<'_>,
        tell: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RegistryError> {
        let mut transfer = Transfer {
            session: self,
            blob,
            watch,
            tell,
            place: begun.map(|Begun(place)| place),
            done: 0,
            piece: None,
            tries: 0,
            furthest: 0,
        };
        tell(0);
        loop {
            match transfer.step() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(e) => transfer.after(e)?,
            }
        }
    }

    /// Puts a manifest under a tag or its digest.
    pub fn put_manifest(
        &self,
        name: &str,
        media_type: &str,
        bytes: &[u8],
        watch: Watch<'_>,
    ) -> Result<(), RegistryError> {
        let what = format!("manifest {name}");
        let ask = Ask {
            body: Outgoing::bytes(bytes.to_vec()),
            content_type: Some(media_type.to_owned()),
            good: &[200, 201, 202],
            ..Ask::new(&what, Method::PUT, self.path(&format!("/manifests/{name}")))
        };
        let (headers, origin) = self.patiently(watch, || self.head(&ask, watch))?;
        same_digest(&what, &headers, &crate::hash::of(bytes), &origin)
    }

    fn head_with_status(
        &self,
        ask: &Ask,
        watch: Watch<'_>,
    ) -> Result<(u16, HeaderMap, Origin), RegistryError> {
        let answer = self.ask(ask, watch)?;
        let status = answer.response.status().as_u16();
        let (headers, origin) = self.finish(answer, watch)?;
        Ok((status, headers, origin))
    }
}

/// A blob under way.
struct Transfer<'a> {
    session: &'a Session,
    blob: &'a Blob,
    watch: Watch<'a>,
    tell: &'a (dyn Fn(u64) + Sync),
    /// Where the registry wants the next bytes. None before the first of them, and after the upload was lost.
    place: Option<Target>,
    /// Bytes that the registry has.
    done: u64,
    /// How much at a time. None: all at once.
    piece: Option<u64>,
    tries: u32,
    furthest: u64,
}

impl Transfer<'_> {
    /// One request. True when the blob is there.
    fn step(&mut self) -> Result<bool, RegistryError> {
        let Some(place) = self.place.clone() else {
            self.place = Some(self.begin()?);
            self.done = 0;
            return Ok(false);
        };
        let size = self.blob.size;
        match self.piece {
            None if self.done == 0 => self.close(&place, 0..size),
            _ if self.done == size => self.close(&place, size..size),
            piece => {
                let end = size.min(self.done + piece.unwrap_or(PIECE));
                self.patch(&place, self.done..end).map(|()| false)
            }
        }
    }

    fn begin(&mut self) -> Result<Target, RegistryError> {
        let ask = Ask {
            good: &[202],
            ..self.ask(Method::POST, self.session.path("/blobs/uploads/"))
        };
        let (headers, origin) = self.session.head(&ask, self.watch)?;
        self.session.redirect(&self.blob.what, &origin, &headers)
    }

    /// The last of it, which says what all of it is.
    fn close(&mut self, place: &Target, part: Range<u64>) -> Result<bool, RegistryError> {
        let joint = if place.path.query().is_some() { '&' } else { '?' };
        let path = format!("{}{joint}digest={}", place.path, self.blob.digest);
        let ask = Ask {
            good: &[200, 201, 204],
            ..self.carrying(self.at(place, Method::PUT, path), &part)
        };
        let (headers, origin) = self.sending(&ask, part.start)?;
        same_digest(&self.blob.what, &headers, &self.blob.digest, &origin)?;
        (self.tell)(self.blob.size);
        Ok(true)
    }

    fn patch(&mut self, place: &Target, part: Range<u64>) -> Result<(), RegistryError> {
        let ask = Ask {
            range: Some((part.start, part.end - 1)),
            good: &[200, 201, 202, 204],
            ..self.carrying(self.at(place, Method::PATCH, place.path.to_string()), &part)
        };
        let (headers, origin) = self.sending(&ask, part.start)?;
        // After one byte it is 0-0 too.
        let told = there(&headers).filter(|has| *has > 0 || part.end > 1);
        let has = told.unwrap_or(part.end);
        if !(part.start < has && has <= part.end) {
            let why = format!(
                "{origin} says that it has {has} bytes, after {} were sent",
                part.end
            );
            return Err(RegistryError::refused(&self.blob.what, why));
        }
        if headers.contains_key(header::LOCATION) {
            self.place = Some(self.session.redirect(&self.blob.what, &origin, &headers)?);
        }
        self.done = has;
        (self.tell)(has);
        Ok(())
    }

    /// Sends it, telling how far it is.
    fn sending(&self, ask: &Ask, from: u64) -> Result<(HeaderMap, Origin), RegistryError> {
        let sent = ask.body.sent();
        let length = ask.body.len();
        let watch = Watch {
            each: Some(&|| (self.tell)(from + sent.load(Ordering::Relaxed).min(length))),
            ..self.watch
        };
        self.session.head(ask, watch)
    }

    /// After a failure: waits, and finds out where to go on; or says that it was the last.
    fn after(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        if !error.passes() && !error.is_about_the_upload() {
            return Err(error);
        }
        if self.done >= self.furthest + WORTH {
            self.tries = 0;
        }
        self.furthest = self.furthest.max(self.done);
        self.tries += 1;
        self.session.pause(error, self.tries, self.watch)?;
        self.piece = Some(self.piece.map_or(PIECE, |piece| (piece / 2).max(LEAST_PIECE)));
        let Some(place) = self.place.take() else {
            return Ok(());
        };
        match self.status(&place) {
            Ok((place, done)) => (self.place, self.done) = (Some(place), done),
            Err(RegistryError::Cancelled) => return Err(RegistryError::Cancelled),
            // It is begun again.
            Err(e) => {
                tracing::debug!("{}: {e}; sending it from the start", self.blob.what);
                self.done = 0;
            }
        }
        (self.tell)(self.done);
        Ok(())
    }

    /// Where the registry wants the rest, and how much it has.
    fn status(&self, place: &Target) -> Result<(Target, u64), RegistryError> {
        let ask = Ask {
            good: &[200, 204],
            ..self.at(place, Method::GET, place.path.to_string())
        };
        let (headers, origin) = self.session.head(&ask, self.watch)?;
        let done = there(&headers).unwrap_or(0);
        if done > self.blob.size {
            let why = format!("{origin} says that it has {done} bytes of {}", self.blob.size);
            return Err(RegistryError::refused(&self.blob.what, why));
        }
        let place = match headers.contains_key(header::LOCATION) {
            true => self.session.redirect(&self.blob.what, &origin, &headers)?,
            false => place.clone(),
        };
        Ok((place, done))
    }

    fn ask(&self, method: Method, path: String) -> Ask {
        Ask::new(&self.blob.what, method, path)
    }

    fn at(&self, place: &Target, method: Method, path: String) -> Ask {
        Ask {
            at: Some(place.origin.clone()),
            ..self.ask(method, path)
        }
    }

    fn carrying(&self, ask: Ask, part: &Range<u64>) -> Ask {
        Ask {
            body: Outgoing::part(self.blob.source.clone(), part.start, part.end),
            content_type: Some(BYTES.to_owned()),
            ..ask
        }
    }
}

/// How many bytes are there, by a `Range: 0-LAST`. Nothing yet is `0-0` too with some, and sending one byte twice is
/// noticed at the end.
fn there(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(header::RANGE)?.to_str().ok()?;
    let (first, last) = text.trim_start_matches("bytes=").split_once('-')?;
    let last: u64 = last.parse().ok()?;
    match (first, last) {
        ("0", 0) => Some(0),
        ("0", last) => last.checked_add(1),
        _ => None,
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// A registry that says what it has stored has to say the same as we.
fn same_digest(what: &str, headers: &HeaderMap, ours: &Digest, origin: &Origin) -> Result<(), RegistryError> {
    let told = headers.get(DIGEST_HEADER).and_then(|value| value.to_str().ok());
    match told {
        Some(told) if told != ours.to_string() => {
            let why = format!(
                "{origin} has stored something else than was sent: {:?} instead of {ours}",
                super::error::tame(told)
            );
            Err(RegistryError::refused(what, why))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn how_much_a_registry_says_it_has() {
        for (range, expected) in [
            ("0-0", Some(0)),
            ("0-9", Some(10)),
            ("bytes=0-9", Some(10)),
            ("5-9", None),
            ("0-", None),
            ("0--5", None),
            ("0-18446744073709551615", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, range.parse().unwrap());
            assert_eq!(there(&headers), expected, "{range}");
        }
    }
}
