//! The pushing half of an honest registry, for mocks: uploads whole, in pieces and resumed; blobs and manifests by digest.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::image::digest;
use super::mock::{Asked, Reply};

/// What was put there.
#[derive(Default)]
pub struct Shelf(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    uploads: BTreeMap<String, Vec<u8>>,
    blobs: BTreeMap<String, Vec<u8>>,
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    count: usize,
}

impl Shelf {
    /// The bytes of a blob.
    pub fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        self.0.lock().unwrap().blobs.get(digest).cloned()
    }

    /// A manifest by its tag or digest.
    pub fn manifest(&self, name: &str) -> Option<(String, Vec<u8>)> {
        self.0.lock().unwrap().manifests.get(name).cloned()
    }

    /// An honest answer to anything below `/v2/app/`; with `forgets`, what a request that was cut off had is lost.
    pub fn answer(&self, asked: &Asked, forgets: bool) -> Option<Reply> {
        let path = asked.path.split('?').next().unwrap();
        let rest = path.strip_prefix("/v2/app/")?;
        let mut inner = self.0.lock().unwrap();
        if let Some(id) = rest.strip_prefix("blobs/uploads/") {
            return Some(inner.upload(asked, id, forgets));
        }
        if let Some(digest) = rest.strip_prefix("blobs/") {
            return inner
                .blobs
                .get(digest)
                .map(|bytes| Reply::new(200, bytes.clone()));
        }
        let name = rest.strip_prefix("manifests/")?;
        if asked.method != "PUT" {
            let (kind, bytes) = inner.manifests.get(name)?;
            return Some(Reply::new(200, bytes.clone()).with("Content-Type", kind.clone()));
        }
        let (kind, own) = (
            asked.header("content-type")?.to_owned(),
            digest(&asked.raw).to_string(),
        );
        for name in [name.to_owned(), own.clone()] {
            inner.manifests.insert(name, (kind.clone(), asked.raw.clone()));
        }
        Some(Reply::new(201, "").with("Docker-Content-Digest", own))
    }
}

impl Inner {
    fn upload(&mut self, asked: &Asked, id: &str, forgets: bool) -> Reply {
        if asked.method == "POST" {
            self.count += 1;
            let id = format!("u{}", self.count);
            self.uploads.insert(id.clone(), Vec::new());
            return Reply::new(202, "").with("Location", format!("/v2/app/blobs/uploads/{id}?_state=0"));
        }
        let Some(mut bytes) = self.uploads.remove(id) else {
            return Reply::new(
                404,
                r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"upload unknown"}]}"#,
            );
        };
        if asked.cut && forgets {
            return Reply::new(500, "");
        }
        if let Some((first, _)) = asked
            .header("content-range")
            .and_then(|range| range.split_once('-'))
            && first != bytes.len().to_string()
        {
            self.uploads.insert(id.to_owned(), bytes);
            return Reply::new(416, "");
        }
        bytes.extend(&asked.raw);
        let length = bytes.len();
        if asked.method == "PUT" && !asked.cut {
            let own = digest(&bytes).to_string();
            if asked.query("digest") != Some(&own) {
                return Reply::new(
                    400,
                    r#"{"errors":[{"code":"DIGEST_INVALID","message":"digest invalid"}]}"#,
                );
            }
            self.blobs.insert(own.clone(), bytes);
            return Reply::new(201, "").with("Docker-Content-Digest", own);
        }
        self.uploads.insert(id.to_owned(), bytes);
        let status = if asked.method == "GET" { 204 } else { 202 };
        Reply::new(status, "")
            .with("Location", format!("/v2/app/blobs/uploads/{id}?_state={length}"))
            .with("Range", format!("0-{}", length.saturating_sub(1)))
    }
}
