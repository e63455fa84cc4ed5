//! One question to a registry, and what its answer says beside what was asked for.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response};

use super::body::Outgoing;
use super::endpoint::{Origin, Target};
use super::error::{RegistryError, tame};
use super::wire::Wire;

const AGENT: &str = concat!("wharf/", env!("CARGO_PKG_VERSION"));

/// What is wanted of the registry: tokens are asked for nothing else, and refusals are explained by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aim {
    Pull,
    /// Mounting from these repositories, too.
    Push {
        sources: Vec<String>,
    },
    /// A list of its repositories.
    Search,
    /// To see whether it lets us in.
    Login,
}

/// One question.
pub struct Ask {
    /// For messages: `manifest latest`.
    pub what: String,
    pub method: Method,
    /// From the server's root on; [`Session::path`] makes one of the repository.
    pub path: String,
    /// The server, where it is not the registry's own.
    pub at: Option<Origin>,
    pub accept: Option<&'static str>,
    /// First byte wanted.
    pub from: u64,
    pub body: Outgoing,
    /// What the body is.
    pub content_type: Option<String>,
    /// First and last byte of the blob that the body is a part of.
    pub range: Option<(u64, u64)>,
    /// What a good answer's status is.
    pub good: &'static [u16],
}

impl Ask {
    /// To be asked of the registry itself, with nothing in it.
    pub fn new(what: impl Into<String>, method: Method, path: String) -> Self {
        Self {
            what: what.into(),
            method,
            path,
            at: None,
            accept: None,
            from: 0,
            body: Outgoing::empty(),
            content_type: None,
            range: None,
            good: &[200, 206],
        }
    }

    /// The request as it goes to `target`, with that in `Authorization`.
    pub(super) fn request(
        &self,
        target: &Target,
        pass: Option<&HeaderValue>,
    ) -> Result<Request<Outgoing>, RegistryError> {
        let mut request = request(&self.method, &target.origin, target.path.as_str());
        if let Some(accept) = self.accept {
            request = request.header(header::ACCEPT, accept);
        }
        if self.from > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", self.from));
        }
        if !self.method.is_safe() {
            request = request.header(header::CONTENT_LENGTH, self.body.len());
        }
        if let Some(kind) = &self.content_type {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        if let Some((first, last)) = self.range {
            // As the specification has it, which is not RFC 9110's form.
            request = request.header(header::CONTENT_RANGE, format!("{first}-{last}"));
        }
        if let Some(pass) = pass {
            request = request.header(header::AUTHORIZATION, pass);
        }
        well_formed(&target.origin, request.body(self.body.clone()))
    }
}

/// A good answer, its body not read yet.
pub struct Answer {
    pub wire: Wire,
    pub response: Response<Incoming>,
    /// Who gave it in the end.
    pub origin: Origin,
}

pub(super) fn request(method: &Method, origin: &Origin, path: &str) -> hyper::http::request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, origin.authority())
        .header(header::USER_AGENT, AGENT)
}

pub(super) fn well_formed(
    origin: &Origin,
    request: Result<Request<Outgoing>, hyper::http::Error>,
) -> Result<Request<Outgoing>, RegistryError> {
    request.map_err(|e| RegistryError::refused(origin.to_string(), format!("cannot ask it: {e}")))
}

/// The first message of an error's JSON (distribution-spec, "Error Codes").
pub(super) fn words(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let error = body.get("errors").map_or(&body, |errors| &errors[0]);
    let message = ["message", "details", "code"]
        .iter()
        .find_map(|key| error.get(key)?.as_str());
    message.filter(|message| !message.is_empty()).map(tame)
}

/// In seconds (RFC 9110 §10.2.3); a date is not looked at, the own backoff will do.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}
