//! Long work that tells how far it is: lines of JSON, as Docker's clients show them.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use storage::Progress;
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::problem::Problem;

/// Where the lines go. A client that went away ends the work.
pub struct Lines {
    out: Sender<Vec<u8>>,
    pub cancel: AtomicBool,
}

impl Lines {
    pub fn say(&self, value: &Value) {
        let mut line = value.to_string().into_bytes();
        line.extend(b"\r\n");
        if self.out.blocking_send(line).is_err() {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }

    /// How the work ended badly.
    pub fn fail(&self, text: &str) {
        self.say(&json!({ "errorDetail": { "message": text }, "error": text }));
    }
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

/// The answer that the work writes, on a thread of its own.
pub fn answer(work: impl FnOnce(&Lines) + Send + 'static) -> Response {
    let (out, receiver) = channel(256);
    tokio::task::spawn_blocking(move || {
        let cancel = AtomicBool::new(false);
        work(&Lines { out, cancel });
    });
    let stream = ReceiverStream::new(receiver).map(Ok::<_, Infallible>);
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
