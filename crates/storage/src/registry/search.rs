//! Looking for images: the v1 search that docker.io, quay.io and others still offer, else the list of a registry's
//! repositories (OCI distribution has none; distribution's `_catalog`, docs/spec/api.md, "Catalog"), looked through here.
//!
//! A list may be as long as the registry likes. It is read a page at a time, nothing of it is kept but what was looked
//! for, and after so many pages it is given up.

use std::sync::atomic::AtomicBool;

use hyper::Method;
use hyper::header::{self, HeaderMap};
use serde::Deserialize;

use super::RegistryConfig;
use super::ask::{Aim, Ask};
use super::endpoint::{DOCKER_IO, Target};
use super::error::{RegistryError, tame};
use super::reference::is_repository;
use super::routes::Route;
use super::session::Session;
use crate::source::MAX_DOCUMENT;

/// Where docker.io's search is; its API for images does not have one.
const DOCKER_SEARCH: &str = "index.docker.io";
/// Names on a page that we ask for, and pages that are read: 300,000 names where the registry goes along.
const PAGE: u32 = 1000;
const MOST_PAGES: usize = 300;
/// Most that one registry is asked for.
pub const MOST_HITS: usize = 1000;

/// An image that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// `HOST[:PORT]`.
    pub registry: String,
    /// The repository there.
    pub name: String,
    pub description: String,
    pub stars: u64,
    pub official: bool,
    pub automated: bool,
}

impl RegistryConfig {
    /// The registries that a term is looked for in, and what is left of it then: the one that it names, of which nothing
    /// need be said but its name, else those of `registries.search`.
    pub fn search_in(&self, term: &str) -> (Vec<String>, String) {
        match term.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (vec![first.to_ascii_lowercase()], rest.to_owned())
            }
            None if term.contains(':') || term == "localhost" => {
                (vec![term.to_ascii_lowercase()], String::new())
            }
            _ => (self.search.clone(), term.to_owned()),
        }
    }

    /// At most `limit` repositories of a registry that have something to do with the term.
    pub fn search(
        &self,
        registry: &str,
        term: &str,
        limit: usize,
        cancel: &AtomicBool,
    ) -> Result<Vec<Hit>, RegistryError> {
        let leads = self.conf()?.leads(registry, false)?;
        let insecure = leads.own.is_some_and(|place| place.insecure);
        let session = |host: &str| {
            let route = Route {
                registry: host.to_owned(),
                repository: String::new(),
                insecure: insecure.then_some(true),
            };
            Session::new(self, route, Aim::Search)
        };
        let host = if registry == DOCKER_IO {
            DOCKER_SEARCH
        } else {
            registry
        };
        let search = Search {
            session: session(host)?,
            registry,
            term,
            limit: limit.clamp(1, MOST_HITS),
            cancel,
        };
        match search.first_version()? {
            Some(hits) => Ok(hits),
            None => search.catalogue(),
        }
    }
}

struct Search<'a> {
    session: Session,
    registry: &'a str,
    term: &'a str,
    limit: usize,
    cancel: &'a AtomicBool,
}

#[derive(Deserialize)]
struct FirstVersion {
    results: Vec<Found>,
}

#[derive(Deserialize)]
struct Found {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    star_count: Option<f64>,
    #[serde(default)]
    is_official: bool,
    #[serde(default)]
    is_automated: bool,
}

#[derive(Deserialize)]
struct Page {
    repositories: Option<Vec<String>>,
}

impl Search<'_> {
    /// None where the registry has no such thing.
    fn first_version(&self) -> Result<Option<Vec<Hit>>, RegistryError> {
        let query = super::auth::encode(&[("q", self.term), ("n", &self.limit.to_string())]);
        let ask = Ask::new(
            format!("search of {}", self.registry),
            Method::GET,
            format!("/v1/search?{query}"),
        );
        let watch = self.session.watch(self.cancel);
        let bytes = match self.session.document(&ask, MAX_DOCUMENT, watch) {
            Ok((_, bytes)) => bytes,
            Err(e) if e.is_no() => return Ok(None),
            Err(e) => return Err(e),
        };
        let Ok(found) = serde_json::from_slice::<FirstVersion>(&bytes) else {
            return Ok(None);
        };
        let good = found
            .results
            .into_iter()
            .filter(|found| is_repository(&found.name));
        let hits = good.take(self.limit).map(|found| Hit {
            description: tame(&found.description.unwrap_or_default()),
            // Some count in halves, and what is no number is none.
            stars: found.star_count.map_or(0, |stars| stars.max(0.0) as u64),
            official: found.is_official,
            automated: found.is_automated,
            ..self.hit(found.name)
        });
        Ok(Some(hits.collect()))
    }

    fn catalogue(&self) -> Result<Vec<Hit>, RegistryError> {
        let watch = self.session.watch(self.cancel);
        let what = format!("the list of repositories of {}", self.registry);
        let mut path = format!("/v2/_catalog?n={PAGE}");
        let mut hits = Vec::new();
        for _ in 0..MOST_PAGES {
            let ask = Ask::new(&what, Method::GET, path.clone());
            let (headers, bytes) = self.session.document(&ask, MAX_DOCUMENT, watch)?;
            let page: Page = serde_json::from_slice(&bytes)
                .map_err(|e| RegistryError::refused(&what, format!("it cannot be read: {e}")))?;
            let names = page.repositories.unwrap_or_default();
            let fitting = names
                .into_iter()
                .filter(|name| name.contains(self.term) && is_repository(name));
            hits.extend(fitting.take(self.limit - hits.len()).map(|name| self.hit(name)));
            if hits.len() == self.limit {
                return Ok(hits);
            }
            match self.next(&what, &headers)? {
                None => return Ok(hits),
                Some(next) if next == path => {
                    return Err(RegistryError::refused(
                        &what,
                        "its next page is the same page again",
                    ));
                }
                Some(next) => path = next,
            }
        }
        let why = format!("it has more than {MOST_PAGES} pages: say more of the name, or name the image");
        match hits.is_empty() {
            true => Err(RegistryError::refused(&what, why)),
            false => Ok(hits),
        }
    }

    /// The path of the next page: a `Link` of RFC 8288, `<URL>; rel="next"`, of the same server.
    fn next(&self, what: &str, headers: &HeaderMap) -> Result<Option<String>, RegistryError> {
        let Some(link) = headers.get(header::LINK).and_then(|link| link.to_str().ok()) else {
            return Ok(None);
        };
        let inside = link.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
        let Some((url, _)) = inside.filter(|(_, rest)| rest.contains("next")) else {
            return Ok(None);
        };
        let path = match url.starts_with('/') && !url.starts_with("//") {
            true => Some(url.to_owned()),
            false => {
                let target = Target::parse(url);
                let ours = self.session.known_origin();
                target
                    .filter(|target| Some(&target.origin) == ours.as_ref())
                    .map(|target| target.path.to_string())
            }
        };
        match path.filter(|path| path.starts_with("/v2/_catalog")) {
            Some(path) => Ok(Some(path)),
            None => {
                let why = format!(
                    "its next page is said to be {:?}, which is none of its own",
                    tame(url)
                );
                Err(RegistryError::refused(what, why))
            }
        }
    }

    fn hit(&self, name: String) -> Hit {
        Hit {
            registry: self.registry.to_owned(),
            name,
            description: String::new(),
            stars: 0,
            official: false,
            automated: false,
        }
    }
}
