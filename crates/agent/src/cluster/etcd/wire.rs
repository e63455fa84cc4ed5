//! Connections to a member of etcd: HTTP/1.1 by hyper, TLS by rustls, every wait with an end.

use std::error::Error;
use std::future::Future;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use model::spec::EtcdUrl;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::EtcdError;
use super::answers::Refusal;
use super::tls::{self, Tls};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long an answer may take. etcd itself gives up after seven seconds without a leader.
const ANSWER: Duration = Duration::from_secs(8);
/// Most bytes of an answer, or of a line of a watch.
pub const MOST: usize = 16 << 20;
/// Most bytes of an answer's head, and of what is read at a time.
const BUFFER: usize = 64 << 10;
/// Most bytes of a refusal that are looked at, and most characters that are shown.
const MOST_TOLD: usize = 64 << 10;
const MOST_SHOWN: usize = 300;

/// Whose certificates are believed; none where every member speaks plain http.
pub struct Trust(Option<Tls>);

impl Trust {
    pub fn new(https: bool, ca: Option<&Path>) -> Result<Self, EtcdError> {
        Ok(Self(https.then(|| tls::config(ca)).transpose()?))
    }
}

/// One connection.
pub struct Connection {
    url: String,
    authority: String,
    sender: SendRequest<Full<Bytes>>,
    /// This host's end.
    pub local: IpAddr,
}

impl Connection {
    pub async fn open(url: &EtcdUrl, trust: &Trust) -> Result<Self, EtcdError> {
        let opened = within(url, CONNECT, async {
            let stream = dial(url).await.map_err(|e| unreachable(url, &e))?;
            let local = stream.local_addr().map_err(|e| unreachable(url, &e))?.ip();
            let sender = match trust.0.as_ref().filter(|_| url.https) {
                None => speak(url, stream).await?,
                Some(tls) => speak(url, tls::wrap(url, tls, stream).await?).await?,
            };
            Ok((sender, local))
        });
        let (sender, local) = opened.await?;
        Ok(Self {
            url: url.to_string(),
            authority: url.authority(),
            sender,
            local,
        })
    }

    /// A question and its whole answer.
    pub async fn ask(&mut self, path: &str, question: &str) -> Result<Vec<u8>, EtcdError> {
        let url = self.url.clone();
        let asked = async {
            let body = self.begin(path, question.to_owned()).await?;
            let whole = Limited::new(body, MOST)
                .collect()
                .await
                .map_err(|e| broken_off(&url, e))?;
            Ok(whole.to_bytes().to_vec())
        };
        within(&url, ANSWER, asked).await
    }

    /// A question whose answer comes piece by piece.
    pub async fn send(&mut self, path: &str, question: String) -> Result<Incoming, EtcdError> {
        let url = self.url.clone();
        within(&url, ANSWER, self.begin(path, question)).await
    }

    async fn begin(&mut self, path: &str, question: String) -> Result<Incoming, EtcdError> {
        let why = |e: &dyn Error| EtcdError::BrokenOff {
            url: self.url.clone(),
            why: causes(e),
        };
        let request = Request::post(path)
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(question)))
            .map_err(|e| why(&e))?;
        self.sender.ready().await.map_err(|e| why(&e))?;
        let response = self.sender.send_request(request).await.map_err(|e| why(&e))?;
        match response.status().is_success() {
            true => Ok(response.into_body()),
            false => Err(refused(&self.url, response).await),
        }
    }
}

async fn within<T>(
    url: impl ToString,
    limit: Duration,
    work: impl Future<Output = Result<T, EtcdError>>,
) -> Result<T, EtcdError> {
    match timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(EtcdError::Silent {
            url: url.to_string(),
            after: limit,
        }),
    }
}

/// The first of the name's addresses that answers.
async fn dial(url: &EtcdUrl) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect((url.host.as_str(), url.port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn speak<S>(url: &EtcdUrl, stream: S) -> Result<SendRequest<Full<Bytes>>, EtcdError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let shaken = Builder::new()
        .max_buf_size(BUFFER)
        .handshake(TokioIo::new(stream))
        .await;
    let (sender, connection) = shaken.map_err(|e| unreachable(url, &e))?;
    // What breaks it breaks the question too, and is said there.
    tokio::spawn(connection);
    Ok(sender)
}

/// What it says why.
async fn refused(url: &str, response: Response<Incoming>) -> EtcdError {
    let status = response.status();
    let told = Limited::new(response.into_body(), MOST_TOLD).collect().await;
    let told = told.map(|body| body.to_bytes()).unwrap_or_default();
    let message = match serde_json::from_slice::<Refusal>(&told) {
        Ok(refusal) if !refusal.message.is_empty() => refusal.message,
        _ => format!("it answers {status}"),
    };
    EtcdError::Refused {
        url: url.to_owned(),
        why: shown(&message),
        code: status.as_u16(),
    }
}

fn broken_off(url: &str, e: Box<dyn Error + Send + Sync>) -> EtcdError {
    let url = url.to_owned();
    match e.downcast_ref::<LengthLimitError>() {
        Some(_) => EtcdError::TooLarge { url, most: MOST },
        None => EtcdError::BrokenOff {
            url,
            why: causes(e.as_ref()),
        },
    }
}

pub fn unreachable(url: &EtcdUrl, e: &dyn Error) -> EtcdError {
    EtcdError::Unreachable {
        url: url.to_string(),
        why: causes(e),
    }
}

/// An error with what it came of.
pub fn causes(e: &dyn Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Somebody else's words, for people: without control characters, and not too many.
pub fn shown(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(MOST_SHOWN)
        .collect()
}
