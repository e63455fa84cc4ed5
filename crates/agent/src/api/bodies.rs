//! Bodies of any length between a client and work that blocks: what is sent as a reader, what is answered as a writer.
//! Nothing is held in memory but a few pieces, so whoever is slower sets the pace.

use std::io::{self, Read, Write};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tokio::runtime::Handle as Runtime;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::problem::Problem;

/// Pieces under way.
const PIECES: usize = 8;
const PIECE: usize = 128 * 1024;

/// How long what is left of a request is read after its work failed: a client that still sends would take the closed
/// connection for the failure.
const PATIENCE: Duration = Duration::from_secs(5);

/// A request's body, for a thread that may block.
pub struct Incoming {
    stream: BodyDataStream,
    runtime: Runtime,
    piece: Bytes,
}

impl Incoming {
    /// To be called where the runtime is known.
    pub fn new(body: Body) -> Self {
        Self {
            stream: body.into_data_stream(),
            runtime: Runtime::current(),
            piece: Bytes::new(),
        }
    }

    /// Reads what is left and throws it away, for a while.
    pub fn drain(self) {
        self.runtime.block_on(drain(self.stream));
    }
}

async fn drain(mut stream: BodyDataStream) {
    let rest = async { while let Some(Ok(_)) = stream.next().await {} };
    // Over or not, the answer follows.
    drop(tokio::time::timeout(PATIENCE, rest).await);
}

/// Goes on with a body where the request it came with can be carried out at all; else that is read all the same.
pub async fn accepted<T>(body: Body, request: Result<T, Problem>) -> Result<(T, Body), Problem> {
    match request {
        Ok(request) => Ok((request, body)),
        Err(problem) => {
            drain(body.into_data_stream()).await;
            Err(problem)
        }
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.runtime.block_on(self.stream.next()) {
                None => return Ok(0),
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(e)) => return Err(io::Error::other(format!("the client broke off: {e}"))),
            }
        }
        let some = self.piece.len().min(buffer.len());
        buffer[..some].copy_from_slice(&self.piece.split_to(some));
        Ok(some)
    }
}

/// Does work with a request's body on a thread of its own.
pub async fn take<T: Send + 'static>(
    body: Body,
    work: impl FnOnce(&mut dyn Read) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let mut incoming = Incoming::new(body);
    let done = tokio::task::spawn_blocking(move || {
        let result = work(&mut incoming);
        incoming.drain();
        result
    });
    done.await.unwrap_or_else(|e| Err(Problem::failed(e.to_string())))
}

/// A response's body, written by a thread that may block. A client that went away is an error of the next write.
struct Outgoing(Sender<io::Result<Bytes>>);

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An answer that work writes, of this media type. A failure before the first piece is the answer; one after it breaks
/// the body off, and is in the log.
pub async fn give(
    media_type: &'static str,
    work: impl FnOnce(&mut dyn Write) -> Result<(), Problem> + Send + 'static,
) -> Result<Response, Problem> {
    let (pieces, mut receiver) = channel(PIECES);
    let done = tokio::task::spawn_blocking(move || {
        let mut out = io::BufWriter::with_capacity(PIECE, Outgoing(pieces.clone()));
        let result = work(&mut out).and_then(|()| out.flush().map_err(|e| Problem::failed(e.to_string())));
        if let Err(problem) = &result {
            tracing::warn!("an answer was broken off: {}", problem.message());
            // What is in the buffer would look like a part of a whole.
            drop(out.into_parts());
            drop(pieces.blocking_send(Err(io::Error::other(problem.message().to_owned()))));
        }
        result
    });
    match receiver.recv().await {
        Some(Ok(first)) => {
            Ok(([(header::CONTENT_TYPE, media_type)], stream(first, receiver)).into_response())
        }
        Some(Err(_)) | None => match done.await {
            Ok(Ok(())) => Ok(([(header::CONTENT_TYPE, media_type)], Body::empty()).into_response()),
            Ok(Err(problem)) => Err(problem),
            Err(e) => Err(Problem::failed(e.to_string())),
        },
    }
}

fn stream(first: Bytes, rest: Receiver<io::Result<Bytes>>) -> Body {
    Body::from_stream(tokio_stream::iter([Ok(first)]).chain(ReceiverStream::new(rest)))
}
