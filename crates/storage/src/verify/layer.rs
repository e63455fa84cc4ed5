//! One layer: its tar put together again and hashed, its tree compared with what that tar says.

use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;

use model::digest::Digest;

use super::trees::{self, Difference};
use super::{Damage, MAX_TOLD, Part, VerifyOptions};
use crate::error::{LoadError, StoreError};
use crate::layer::{Cancellable, Temporary};
use crate::registry::{Progress, Report};
use crate::split::{LayerTar, Split};
use crate::store::Store;
use crate::tar::{Reader, Stream, shown};
use crate::unpack::{self, Contents};

/// Bytes read at a time.
const BUFFER: usize = 64 * 1024;

/// Bytes after which it is told again how far it is.
const STEP: u64 = 1 << 20;

impl Store {
    /// What is wrong with a layer.
    pub(super) fn layer_damage(
        &self,
        diff_id: Digest,
        options: &VerifyOptions<'_>,
    ) -> Result<Vec<Damage>, StoreError> {
        let one = |path: Option<String>, why: String| Damage {
            what: format!("layer {diff_id}"),
            path,
            why,
            part: Part::Layer(diff_id),
        };
        let tar = match self.tar_of(diff_id)? {
            Ok(tar) => tar,
            Err(why) => return Ok(vec![one(None, why)]),
        };
        let total = tar.size();
        let layer = self.layout.layer(&diff_id);
        let wrong = |error: LoadError| self.adding(&format!("layer {diff_id}"), error);
        let hollow = Temporary::create(&self.layout.tmp).map_err(wrong)?;
        let looked = look(diff_id, tar.lenient(), &hollow, self.limits.entries, options);
        if options.cancel.load(Ordering::Relaxed) {
            return Err(StoreError::Stopped);
        }
        let (contents, broken) = looked.map_err(wrong)?;
        let mut damage: Vec<Damage> = Vec::new();
        for split in contents {
            let (path, why) = match split {
                Split::File { path, why } => (Some(path), why),
                other => (None, other.to_string()),
            };
            damage.push(one(path, why));
        }
        if let Some(why) = broken {
            damage.push(one(None, why));
            told(options.looking, diff_id, total, total);
            return Ok(damage);
        }
        let comparing = StoreError::io("compare", &layer);
        for Difference { path, what } in trees::compare(&hollow.root(), &layer, false).map_err(comparing)? {
            let path = match path.as_os_str().is_empty() {
                true => shown(b"/"),
                false => shown(path.as_os_str().as_bytes()),
            };
            // What cannot be read has been told.
            if !damage.iter().any(|known| known.path.as_ref() == Some(&path)) {
                damage.push(one(Some(path), what.to_string()));
            }
        }
        if damage.len() > MAX_TOLD {
            let more = damage.len() - MAX_TOLD;
            damage.truncate(MAX_TOLD);
            damage.push(one(None, format!("and {more} more")));
        }
        told(options.looking, diff_id, total, total);
        Ok(damage)
    }

    /// The tar that a layer can be put together to; or why it cannot, if that is the layer's damage.
    pub(super) fn tar_of(&self, diff_id: Digest) -> Result<Result<LayerTar, String>, StoreError> {
        let layer = self.layout.layer(&diff_id);
        let root = match std::fs::File::open(&layer) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Err("it is not here".to_owned())),
            other => other.map_err(StoreError::io("open", &layer))?,
        };
        let opened = LayerTar::open(diff_id, &self.layout.tar(&diff_id), root.into(), None);
        Ok(opened.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                "an older wharf brought it in and kept no record of its tar".to_owned()
            }
            _ => Split::Record(e).to_string(),
        }))
    }
}

fn told(looking: Report<'_>, layer: Digest, done: u64, total: u64) {
    if let Some(report) = looking {
        report(Progress { layer, done, total });
    }
}

/// A layer's tar that tells how much of it has been read. That all of it was is for whoever has compared the rest.
struct Counted<'a> {
    tar: LayerTar,
    layer: Digest,
    done: u64,
    said: u64,
    looking: Report<'a>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.tar.read(buffer)?;
        self.done += read as u64;
        let total = self.tar.size();
        if self.done >= self.said + STEP && self.done < total {
            self.said = self.done;
            told(self.looking, self.layer, self.done, total);
        }
        Ok(read)
    }
}

/// Reads the whole tar and unpacks it without content; gives what was wrong with content, and why the rest could not be
/// read at all.
fn look(
    layer: Digest,
    tar: LayerTar,
    hollow: &Temporary,
    entries: u64,
    options: &VerifyOptions<'_>,
) -> Result<(Vec<Split>, Option<String>), LoadError> {
    let findings = tar.findings();
    let (cancel, looking) = (options.cancel, options.looking);
    let counted = Counted {
        tar,
        layer,
        done: 0,
        said: 0,
        looking,
    };
    let tar = Cancellable {
        blob: Box::new(counted),
        cancel,
    };
    let mut reader = Reader::new(Stream(BufReader::with_capacity(BUFFER, tar)));
    let path = hollow.root();
    let (root, trash) = hollow.open().map_err(LoadError::io("open", &path))?;
    let unpacked = unpack::unpack(&mut reader, root, trash, Contents::Hollow, entries, cancel);
    let rest = io::copy(&mut reader.into_source().0, &mut io::sink());
    let broken = match (unpacked, rest) {
        (Ok(_), Ok(_)) => None,
        (Err(error), _) => match LoadError::NewLayer(error) {
            error @ LoadError::NewLayer(_) => Some(error.to_string()),
            error => return Err(error),
        },
        (_, Err(error)) => Some(error.to_string()),
    };
    let findings = std::mem::take(&mut *findings.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    Ok((findings, broken))
}
