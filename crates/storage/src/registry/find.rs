//! From a reference to manifest, config and layers.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hyper::Method;
use hyper::header;
use model::digest::Digest;

use super::ask::{Aim, Answer, Ask};
use super::error::{RegistryError, tame};
use super::routes::{Route, routes};
use super::session::Session;
use super::{Reference, RegistryConfig};
use crate::error::LoadError;
use crate::hash;
use crate::source::oci::{self, Documents, INDEX_TYPES, MANIFEST_TYPES};
use crate::source::spec::Descriptor;
use crate::source::{Found, MAX_DOCUMENT, Origin};

const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const DIGEST_HEADER: &str = "docker-content-digest";

/// Finds the image. None where the reference leads to `known`, as it did before.
pub fn find(
    config: &RegistryConfig,
    reference: &str,
    known: Option<Digest>,
    cancel: &AtomicBool,
) -> Result<Option<Found>, LoadError> {
    let reference = Reference::parse(reference)?;
    let search: Vec<&str> = match &reference.registry {
        Some(registry) => vec![registry],
        None => config.search.iter().map(String::as_str).collect(),
    };
    let conf = config.conf()?;
    let mut missing = Vec::new();
    for registry in &search {
        let routes = routes(config, &conf, &reference, registry)?;
        match first(config, routes, &reference, known, cancel) {
            Err(LoadError::Registry(e)) if e.is_missing() && search.len() > 1 => missing.push(e.to_string()),
            found => return found,
        }
    }
    Err(RegistryError::NotInAny(missing.join("; ")).into())
}

/// From the first that has it. Whatever a mirror does, the next one is asked.
fn first(
    config: &RegistryConfig,
    routes: Vec<Route>,
    reference: &Reference,
    known: Option<Digest>,
    cancel: &AtomicBool,
) -> Result<Option<Found>, LoadError> {
    let (mut mirrors, last) = (Vec::new(), routes.len().saturating_sub(1));
    for (number, route) in routes.into_iter().enumerate() {
        let registry = route.registry.clone();
        let found = Session::new(config, route, Aim::Pull)
            .map_err(LoadError::from)
            .and_then(|session| {
                let session = Arc::new(session);
                Lookup { session, cancel }.find(reference, known)
            });
        match found {
            Err(LoadError::Cancelled | LoadError::Registry(RegistryError::Cancelled)) => {
                return Err(LoadError::Cancelled);
            }
            Err(e) if number < last => {
                tracing::debug!("mirror {registry}: {e}; asking the next one");
                mirrors.push(format!("{registry}: {e}"));
            }
            Err(LoadError::Registry(last)) if !mirrors.is_empty() => {
                let (mirrors, last) = (mirrors.join("; "), Box::new(last));
                return Err(RegistryError::Mirrored { last, mirrors }.into());
            }
            found => return found,
        }
    }
    Err(LoadError::refused(
        reference.wanted(),
        "there is nowhere to ask for it",
    ))
}

/// One repository, as a place of documents.
struct Lookup<'a> {
    session: Arc<Session>,
    cancel: &'a AtomicBool,
}

impl Lookup<'_> {
    fn find(&self, reference: &Reference, known: Option<Digest>) -> Result<Option<Found>, LoadError> {
        let wanted = reference.wanted();
        let what = format!("manifest {wanted}");
        if known.is_some() && self.head(&what, &wanted)? == known {
            return Ok(None);
        }
        let ask = self.manifest(&what, Method::GET, &wanted);
        let (headers, bytes) = self.session.document(&ask, MAX_DOCUMENT, self.watch())?;
        let digest = hash::of(&bytes);
        let told = headers
            .get(DIGEST_HEADER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        for expected in [reference.digest, told].into_iter().flatten() {
            same(&what, expected, digest)?;
        }
        if Some(digest) == known {
            return Ok(None);
        }
        let content_type = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let top = Descriptor {
            media_type: media_type(&what, content_type.unwrap_or_default(), &bytes)?,
            digest: digest.to_string(),
            size: bytes.len() as u64,
            platform: None,
            annotations: None,
        };
        let (descriptor, manifest) = oci::descend(self, &top, bytes.clone())?;
        let mut found = oci::assemble(self, &descriptor, manifest)?;
        found.top = Some(digest);
        if found.digest != found.top {
            found.documents.push((digest, bytes));
        }
        Ok(Some(found))
    }

    /// The manifest's digest without the manifest; none where the registry does not say.
    fn head(&self, what: &str, wanted: &str) -> Result<Option<Digest>, RegistryError> {
        let ask = self.manifest(what, Method::HEAD, wanted);
        let Answer { wire, response, .. } = match self.session.ask(&ask, self.watch()) {
            Ok(answer) => answer,
            // It is asked the long way then, which tries again and has better errors.
            Err(RegistryError::Cancelled) => return Err(RegistryError::Cancelled),
            Err(_) => return Ok(None),
        };
        let digest = response
            .headers()
            .get(DIGEST_HEADER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        drop(response);
        self.session.give_back(wire);
        Ok(digest)
    }

    fn manifest(&self, what: &str, method: Method, wanted: &str) -> Ask {
        let path = self.session.path(&format!("/manifests/{wanted}"));
        Ask {
            accept: Some(ACCEPT),
            ..Ask::new(what, method, path)
        }
    }

    fn watch(&self) -> super::wire::Watch<'_> {
        self.session.watch(self.cancel)
    }
}

impl Documents for Lookup<'_> {
    fn read(&self, descriptor: &Descriptor, digest: &Digest, what: &str) -> Result<Vec<u8>, LoadError> {
        let is_manifest = [MANIFEST_TYPES, INDEX_TYPES]
            .as_flattened()
            .contains(&descriptor.media_type.as_str());
        let ask = match is_manifest {
            true => self.manifest(what, Method::GET, &digest.to_string()),
            false => Ask::new(what, Method::GET, self.session.path(&format!("/blobs/{digest}"))),
        };
        let (_, bytes) = self.session.document(&ask, descriptor.size, self.watch())?;
        Ok(bytes)
    }

    fn name(&self) -> String {
        format!("{}/{}", self.session.endpoint.name, self.session.repository)
    }

    fn layer(&self, digest: &Digest) -> Origin {
        Origin::Registry(Arc::clone(&self.session), *digest)
    }
}

fn same(what: &str, expected: Digest, actual: Digest) -> Result<(), LoadError> {
    if expected == actual {
        return Ok(());
    }
    Err(LoadError::Digest {
        what: what.to_owned(),
        expected,
        actual,
    })
}

/// What the document is: by its own word, else the header's, else its shape. Word and header may not be at odds, since
/// two readers could then take it for two things.
fn media_type(what: &str, header: &str, bytes: &[u8]) -> Result<String, LoadError> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        fs_layers: Option<serde::de::IgnoredAny>,
    }
    let header = header.split(';').next().unwrap_or_default().trim();
    let shape: Shape = crate::source::spec::parse(bytes, what)?;
    if shape.fs_layers.is_some() {
        let why = "it is a manifest of schema 1, which is no longer supported: push the image again with a newer client";
        return Err(LoadError::refused(what, why));
    }
    let is_known = |name: &str| [MANIFEST_TYPES, INDEX_TYPES].as_flattened().contains(&name);
    match shape.media_type {
        Some(own) if is_known(header) && own != header => {
            let why = format!(
                "the registry calls it {header}, and it calls itself {:?}",
                tame(&own)
            );
            Err(LoadError::refused(what, why))
        }
        Some(own) => Ok(own),
        None if is_known(header) => Ok(header.to_owned()),
        None if shape.manifests.is_some() => Ok(INDEX_TYPES[0].to_owned()),
        None => Ok(MANIFEST_TYPES[0].to_owned()),
    }
}
