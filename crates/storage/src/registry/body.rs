//! What a request carries: nothing, a few bytes, or a part of a file that is read as it goes out.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};

/// Bytes read at a time.
const PIECE: u64 = 64 * 1024;

/// Where bytes come from. They are read where they are needed, so the same ones can be sent again.
#[derive(Clone)]
pub enum Source {
    Here(Bytes),
    File(Arc<File>),
}

/// A request's body, its length known beforehand.
#[derive(Clone)]
pub struct Outgoing {
    source: Source,
    at: u64,
    end: u64,
    sent: Arc<AtomicU64>,
    /// Sending it twice may not be the same as sending it once.
    once: bool,
}

impl Outgoing {
    /// Nothing.
    pub fn empty() -> Self {
        Self::bytes(Bytes::new())
    }

    /// These bytes.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let end = bytes.len() as u64;
        Self {
            once: false,
            ..Self::part(Source::Here(bytes), 0, end)
        }
    }

    /// The bytes from `at` up to `end`.
    pub fn part(source: Source, at: u64, end: u64) -> Self {
        Self {
            source,
            at,
            end,
            sent: Arc::default(),
            once: true,
        }
    }

    pub fn len(&self) -> u64 {
        self.end - self.at
    }

    /// Whether whoever sends it may send it again by himself.
    pub fn may_repeat(&self) -> bool {
        !self.once
    }

    /// Counts the bytes that went out, of all clones.
    pub fn sent(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sent)
    }

    fn next(&mut self) -> io::Result<Bytes> {
        let length = (self.end - self.at).min(PIECE);
        let piece = match &self.source {
            Source::Here(bytes) => {
                let from = usize::try_from(self.at).map_err(io::Error::other)?;
                let length = usize::try_from(length).map_err(io::Error::other)?;
                bytes.slice(from..from + length)
            }
            Source::File(file) => {
                let mut piece = vec![0; usize::try_from(length).map_err(io::Error::other)?];
                file.read_exact_at(&mut piece, self.at)?;
                piece.into()
            }
        };
        self.at += length;
        self.sent.fetch_add(length, Ordering::Relaxed);
        Ok(piece)
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    /// Reads from the disk at once: the runtime is this request's own.
    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let body = self.get_mut();
        Poll::Ready((body.at < body.end).then(|| body.next().map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len())
    }
}
