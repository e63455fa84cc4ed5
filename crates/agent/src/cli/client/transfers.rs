//! Archives both ways, between the socket and threads that may block.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, anyhow};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{Method, Request, StatusCode, header};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_stream::wrappers::ReceiverStream;

use super::{Client, good};

/// Pieces under way.
const PIECES: usize = 8;

impl Client {
    /// The header of a HEAD; none where nothing is there.
    pub async fn head(&self, path: &str, name: &str) -> anyhow::Result<Option<String>> {
        let response = self.send(Method::HEAD, path).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if !response.status().is_success() {
            // Of a HEAD no text comes back: the same asked by a GET says why.
            return match good(self.send(Method::GET, path).await?).await {
                Err(e) => Err(e),
                Ok(_) => Err(anyhow!("the agent answered {}", response.status())),
            };
        }
        let value = response
            .headers()
            .get(name)
            .context("the agent's answer says nothing of the file")?;
        Ok(Some(value.to_str()?.to_owned()))
    }

    /// A GET with a header of the answer, whose body `work` reads on a thread of its own.
    pub async fn download<T: Send + 'static>(
        &self,
        path: &str,
        name: &str,
        work: impl FnOnce(&str, Pieces) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let mut response = self.send(Method::GET, path).await?;
        if !response.status().is_success() {
            good(response).await?;
            return Err(anyhow!("the agent sent no archive"));
        }
        let value = response.headers().get(name).map(|value| value.to_str());
        let value = value.transpose()?.unwrap_or_default().to_owned();
        let (sender, receiver) = channel(PIECES);
        let pieces = Pieces {
            receiver,
            piece: Bytes::new(),
        };
        let done = tokio::task::spawn_blocking(move || work(&value, pieces));
        while let Some(frame) = response.body_mut().frame().await {
            let piece = match frame {
                Ok(frame) => frame.into_data().map_err(|_| io::ErrorKind::InvalidData.into()),
                Err(e) => Err(io::Error::other(format!("the agent broke off its answer: {e}"))),
            };
            // Whoever reads wants no more: the error is with it.
            if sender.send(piece).await.is_err() {
                break;
            }
        }
        drop(sender);
        done.await?
    }

    /// A PUT of what `work` writes on a thread of its own.
    pub async fn put(
        &self,
        path: &str,
        work: impl FnOnce(&mut dyn Write) -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let (sender, receiver) = channel::<io::Result<Frame<Bytes>>>(PIECES);
        let failure = Arc::new(Mutex::new(None));
        let told = Arc::clone(&failure);
        // Not joined: where the agent wants no more of it, what is read from may never end.
        std::thread::spawn(move || {
            let mut out = io::BufWriter::with_capacity(128 * 1024, Out(sender.clone()));
            let result = work(&mut out).and_then(|()| Ok(out.flush()?));
            drop(out.into_parts());
            if let Err(e) = result {
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                // What was sent is not the whole.
                drop(sender.blocking_send(Err(io::ErrorKind::UnexpectedEof.into())));
            }
        });
        let request = Request::builder()
            .method(Method::PUT)
            .uri(path)
            .header(header::HOST, "wharf")
            .header(header::CONTENT_TYPE, "application/x-tar")
            .body(StreamBody::new(ReceiverStream::new(receiver)))?;
        let answered = match self.send_request(request).await {
            Ok(response) => good(response).await.map(drop),
            Err(e) => Err(e),
        };
        // What went wrong here explains what went wrong there, unless it is only that nobody listened any more.
        let failure = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (answered, failure) {
            (Err(e), Some(own)) if own.downcast_ref::<io::Error>().is_some_and(is_broken_pipe) => Err(e),
            (_, Some(own)) => Err(own),
            (answered, None) => answered,
        }
    }
}

fn is_broken_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// A body that comes, for a thread that may block.
pub struct Pieces {
    receiver: Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.piece = piece?,
            }
        }
        let some = self.piece.len().min(buffer.len());
        buffer[..some].copy_from_slice(&self.piece.split_to(some));
        Ok(some)
    }
}

struct Out(Sender<io::Result<Frame<Bytes>>>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Frame::data(Bytes::copy_from_slice(bytes));
        let sent = self.0.blocking_send(Ok(piece));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
