//! Speaking HTTP over the API socket.

mod quiet;
pub mod transfers;

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

use quiet::Quiet;

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
        each: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.streamed(Method::GET, path, each).await
    }

    /// The same for a POST.
    pub async fn stream_post(
        &self,
        path: &str,
        each: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.streamed(Method::POST, path, each).await
    }

    async fn streamed(
        &self,
        method: Method,
        path: &str,
        mut each: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut response = self.send(method, path).await?;
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

    /// The JSON answer of a POST that carries JSON.
    pub async fn post_json<T: DeserializeOwned>(&self, path: &str, body: &Value) -> anyhow::Result<T> {
        let request = json(Method::POST, path, body)?;
        let body = good(self.send_request(request).await?).await?;
        serde_json::from_slice(&body)
            .with_context(|| format!("the agent's answer to {path} is no JSON this wharf knows"))
    }

    /// A POST that carries JSON and whose answer says nothing but that it was done.
    pub async fn command_json(&self, path: &str, body: &Value) -> anyhow::Result<()> {
        let request = json(Method::POST, path, body)?;
        good(self.send_request(request).await?).await.map(drop)
    }

    /// The JSON answer of a DELETE.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let body = good(self.send(Method::DELETE, path).await?).await?;
        // Docker answers some removals with nothing.
        let body = if body.is_empty() {
            Bytes::from_static(b"null")
        } else {
            body
        };
        serde_json::from_slice(&body)
            .with_context(|| format!("the agent's answer to {path} is no JSON this wharf knows"))
    }

    /// A POST after which the connection is a stream of bytes both ways (Docker's hijacking).
    pub async fn hijack(&self, path: &str, body: &Value) -> anyhow::Result<Upgraded> {
        let mut request = json(Method::POST, path, body)?;
        let headers = request.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
        let response = self.send_request(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return match good(response).await {
                Ok(_) => Err(anyhow!("the agent did not hand out the session's streams")),
                Err(e) => Err(e),
            };
        }
        hyper::upgrade::on(response)
            .await
            .context("the agent broke off the session")
    }

    /// The JSON answer of a POST that carries a stream of bytes, read on a thread of its own.
    pub async fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        media_type: &'static str,
        mut from: impl std::io::Read + Send + 'static,
    ) -> anyhow::Result<T> {
        let (pieces, receiver) = tokio::sync::mpsc::channel::<std::io::Result<Frame<Bytes>>>(4);
        // Not joined: where the agent wants no more of it, whoever writes may never end.
        std::thread::spawn(move || {
            let mut buffer = vec![0; 128 * 1024];
            loop {
                let piece = match from.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(read) => Ok(Frame::data(Bytes::copy_from_slice(&buffer[..read]))),
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(e) => Err(e),
                };
                let last = piece.is_err();
                if pieces.blocking_send(piece).is_err() || last {
                    return;
                }
            }
        });
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, "wharf")
            .header(header::CONTENT_TYPE, media_type)
            .body(StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(
                receiver,
            )))?;
        let body = good(self.send_request(request).await?).await?;
        serde_json::from_slice(&body)
            .with_context(|| format!("the agent's answer to {path} is no JSON this wharf knows"))
    }

    async fn send(&self, method: Method, path: &str) -> anyhow::Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "wharf")
            .body(Full::<Bytes>::default())?;
        self.send_request(request).await
    }

    async fn send_request<B>(&self, request: Request<B>) -> anyhow::Result<Response<Incoming>>
    where
        B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
    {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|e| no_agent(&self.socket, e))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(Quiet(stream))).await?;
        tokio::spawn(async move {
            // An error here is also seen by whoever reads the answer.
            drop(connection.with_upgrades().await);
        });
        sender
            .send_request(request)
            .await
            .context("the agent did not answer")
    }
}

fn json(method: Method, path: &str, body: &Value) -> anyhow::Result<Request<Full<Bytes>>> {
    Ok(Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "wharf")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(serde_json::to_vec(body)?))?)
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
