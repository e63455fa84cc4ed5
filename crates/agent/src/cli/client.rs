//! Speaking HTTP over the API socket.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// A client of one agent. A connection a request: they are local and few.
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Nothing is opened yet.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The JSON answer of a GET.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let body = good(self.send(Method::GET, path).await?).await?;
        serde_json::from_slice(&body)
            .with_context(|| format!("the agent's answer to {path} is no JSON this wharf knows"))
    }

    /// The JSON answer of a POST.
    pub async fn post<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let body = good(self.send(Method::POST, path).await?).await?;
        serde_json::from_slice(&body)
            .with_context(|| format!("the agent's answer to {path} is no JSON this wharf knows"))
    }

    /// A POST whose answer says nothing but that it was done.
    pub async fn command(&self, path: &str) -> anyhow::Result<()> {
        good(self.send(Method::POST, path).await?).await.map(drop)
    }

    /// A GET whose body comes piece by piece, until it ends or `each` says stop.
    pub async fn stream(
        &self,
        path: &str,
        mut each: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut response = self.send(Method::GET, path).await?;
        if !response.status().is_success() {
            return good(response).await.map(drop);
        }
        while let Some(frame) = response.body_mut().frame().await {
            let frame = frame.context("the agent broke off its answer")?;
            if let Some(data) = frame.data_ref() {
                each(data)?;
            }
        }
        Ok(())
    }

    async fn send(&self, method: Method, path: &str) -> anyhow::Result<Response<Incoming>> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|e| no_agent(&self.socket, e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // An error here is also seen by whoever reads the answer.
            drop(connection.await);
        });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "wharf")
            .body(Empty::<Bytes>::new())?;
        sender
            .send_request(request)
            .await
            .context("the agent did not answer")
    }
}

fn no_agent(socket: &Path, error: std::io::Error) -> anyhow::Error {
    use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    let shown = socket.display();
    match error.kind() {
        NotFound | ConnectionRefused => {
            anyhow!(
                "no agent answers at {shown}; start one with `wharf agent`, or name its socket with --socket or --run-dir"
            )
        }
        PermissionDenied => anyhow!(
            "the socket {shown} may not be opened; run this as root or as a member of the group wharf"
        ),
        _ => anyhow!("cannot connect to {shown}: {error}"),
    }
}

/// The body of a good answer; the message of a bad one as the error.
async fn good(response: Response<Incoming>) -> anyhow::Result<Bytes> {
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .context("the agent broke off its answer")?
        .to_bytes();
    if status.is_success() || status == StatusCode::NOT_MODIFIED {
        return Ok(body);
    }
    let message = serde_json::from_slice::<serde_json::Value>(&body)
        .ok()
        .and_then(|v| Some(v["message"].as_str()?.to_owned()));
    match message {
        Some(message) => bail!("{message}"),
        None => bail!("the agent answered {status}"),
    }
}

/// A text made fit for a query's value or a path's part (RFC 3986, unreserved characters stay).
pub fn escaped(text: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes()
        .map(|b| {
            if keep(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}
