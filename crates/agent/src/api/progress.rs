//! Long work that tells how far it is: lines of JSON, as Docker's clients show them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use storage::Progress;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;

use super::problem::Problem;

/// Where the lines go. A client that goes away ends the work, also where nothing is said for long.
pub struct Lines {
    out: Sender<io::Result<Vec<u8>>>,
    pub cancel: Arc<AtomicBool>,
}

impl Lines {
    /// Waits for a client that reads slowly: not to be called by what must not block, such as a future.
    pub fn say(&self, value: &Value) {
        if self.out.blocking_send(Ok(bytes(value))).is_err() {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }

    /// What may be missed, how far the work is: waits for nobody. False where there was no room for it.
    pub fn hint(&self, value: &Value) -> bool {
        match self.out.try_send(Ok(bytes(value))) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => false,
            Err(TrySendError::Closed(_)) => {
                self.cancel.store(true, Ordering::Relaxed);
                false
            }
        }
    }

    /// How the work ended badly.
    pub fn fail(&self, text: &str) {
        self.say(&json!({ "errorDetail": { "message": text }, "error": text }));
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    let mut line = value.to_string().into_bytes();
    line.extend(b"\r\n");
    line
}

/// How far one layer is: what is being done with it, or what was.
pub fn line(progress: &Progress, doing: &str, done: &str) -> Value {
    let (status, detail) = match progress.done == progress.total {
        true => (done, json!({})),
        false => (
            doing,
            json!({ "current": progress.done, "total": progress.total }),
        ),
    };
    json!({ "status": status, "id": &progress.layer.hex()[..12], "progressDetail": detail })
}

/// The answer that the work writes, on a thread of its own. Where that one breaks off the answer does too, so that nobody
/// takes what was said by then for all there is.
pub fn answer(work: impl FnOnce(&Lines) + Send + 'static) -> Response {
    let (out, receiver) = channel(256);
    let last = out.clone();
    let cancel = Arc::new(AtomicBool::new(false));
    let lines = Lines {
        out,
        cancel: Arc::clone(&cancel),
    };
    let working = tokio::task::spawn_blocking(move || work(&lines));
    tokio::spawn(async move {
        tokio::select! {
            done = working => if let Err(e) = done {
                // A client that went away does not miss it.
                drop(last.send(Err(io::Error::other(e))).await);
            },
            () = last.closed() => cancel.store(true, Ordering::Relaxed),
        }
    });
    let stream = ReceiverStream::new(receiver);
    (
        [(header::CONTENT_TYPE, "application/json")],
        Body::from_stream(stream),
    )
        .into_response()
}

/// Work that blocks and says nothing meanwhile; told to end when the client goes away.
pub async fn quietly<T: Send + 'static>(
    work: impl FnOnce(&AtomicBool) -> T + Send + 'static,
) -> Result<T, Problem> {
    let cancel = Arc::new(AtomicBool::new(false));
    let _left = SetOnDrop(Arc::clone(&cancel));
    let done = tokio::task::spawn_blocking(move || work(&cancel)).await;
    done.map_err(|e| Problem::failed(e.to_string()))
}

struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
