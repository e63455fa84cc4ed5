//! Connections: HTTP/1.1 by hyper, TLS by rustls, every wait with an end and an ear for the cancel flag.
//!
//! Callers block. Each [`Wire`] has a small runtime of its own that runs only while something is waited for, so a pull
//! needs no threads beyond those that unpack.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::endpoint::{Origin, is_own};
use super::error::RegistryError;
use super::tls::{self, Certificates};

/// How often a wait looks whether it was cancelled.
const TICK: Duration = Duration::from_millis(50);
/// How long one address may take to answer.
const CONNECT: Duration = Duration::from_secs(10);
/// Most bytes of an answer's head, and of the body read at a time.
const BUFFER: usize = 256 * 1024;
/// Fewer bytes than this while the patience lasts are as good as none.
const LEAST: u64 = 8 * 1024;

/// What one load allows its waits.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    pub cancel: &'a AtomicBool,
    /// How long a server may be silent.
    pub stall: Duration,
}

impl Watch<'_> {
    pub fn check(&self) -> Result<(), RegistryError> {
        match self.cancel.load(Ordering::Relaxed) {
            true => Err(RegistryError::Cancelled),
            false => Ok(()),
        }
    }

    /// Sleeps, unless cancelled.
    pub fn sleep(&self, time: Duration) -> Result<(), RegistryError> {
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(TICK));
        }
    }
}

/// What a connection is allowed.
#[derive(Clone, Copy)]
pub struct Trust<'a> {
    /// What the settings call the registry, for messages.
    pub registry: &'a str,
    /// Accept any certificate.
    pub blind: bool,
    /// This machine's own addresses may be meant.
    pub loopback: bool,
    pub certificates: &'a Certificates,
}

type Sender = SendRequest<Full<Bytes>>;

/// Connections that are kept open, one a server.
pub struct Wire {
    /// There until the end.
    runtime: Option<Runtime>,
    open: BTreeMap<Origin, Sender>,
}

impl Wire {
    pub fn new() -> Result<Self, RegistryError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self {
            runtime: Some(runtime.map_err(RegistryError::Client)?),
            open: BTreeMap::new(),
        })
    }

    /// Sends a request and returns the answer's head. A kept connection may have been closed meanwhile by the server:
    /// then a new one is made.
    pub fn send(
        &mut self,
        origin: &Origin,
        trust: Trust<'_>,
        request: &Request<Full<Bytes>>,
        watch: Watch<'_>,
    ) -> Result<Response<Incoming>, RegistryError> {
        if let Some(sender) = self.open.remove(origin)
            && let Ok(response) = self.exchange(sender, origin, request, watch)
        {
            return Ok(response);
        }
        watch.check()?;
        let sender = self.wait(watch, origin, connect(origin, trust))??;
        self.exchange(sender, origin, request, watch)
    }

    fn exchange(
        &mut self,
        mut sender: Sender,
        origin: &Origin,
        request: &Request<Full<Bytes>>,
        watch: Watch<'_>,
    ) -> Result<Response<Incoming>, RegistryError> {
        let exchange = async {
            sender.ready().await?;
            sender.send_request(request.clone()).await
        };
        let response = self
            .wait(watch, origin, exchange)?
            .map_err(|e| broken(origin, e))?;
        self.open.insert(origin.clone(), sender);
        Ok(response)
    }

    /// The next piece of a body; none at its end.
    pub fn frame(
        &self,
        origin: &Origin,
        body: &mut Incoming,
        pace: &mut Pace,
        watch: Watch<'_>,
    ) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let begun = Instant::now();
            let Some(frame) = self.wait(watch, origin, body.frame())? else {
                return Ok(None);
            };
            // Trailers say nothing that is wanted.
            let bytes = frame
                .map_err(|e| broken(origin, e))?
                .into_data()
                .unwrap_or_default();
            if pace.is_crawling(begun.elapsed(), bytes.len() as u64, watch.stall) {
                return Err(stalled(origin, watch));
            }
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
    }

    fn wait<T>(
        &self,
        watch: Watch<'_>,
        origin: &Origin,
        future: impl Future<Output = T>,
    ) -> Result<T, RegistryError> {
        let runtime = self.runtime.as_ref().expect("it is taken on drop alone");
        runtime.block_on(async {
            let mut future = std::pin::pin!(future);
            let end = Instant::now() + watch.stall;
            loop {
                watch.check()?;
                let left = end.saturating_duration_since(Instant::now());
                match timeout(left.min(TICK), future.as_mut()).await {
                    Ok(value) => return Ok(value),
                    Err(_) if left.is_zero() => return Err(stalled(origin, watch)),
                    Err(_) => {}
                }
            }
        })
    }
}

impl Drop for Wire {
    /// A name that is being looked up cannot be called back, and is not waited for.
    fn drop(&mut self) {
        self.open.clear();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Tells a slow transfer from one that is only kept from ending. Time that we take ourselves does not count.
#[derive(Default)]
pub struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn is_crawling(&mut self, waited: Duration, bytes: u64, patience: Duration) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < patience {
            return false;
        }
        let crawling = self.bytes < LEAST;
        *self = Self::default();
        crawling
    }
}

fn broken(origin: &Origin, source: hyper::Error) -> RegistryError {
    RegistryError::Broken {
        origin: origin.to_string(),
        source,
    }
}

fn stalled(origin: &Origin, watch: Watch<'_>) -> RegistryError {
    RegistryError::Stalled {
        origin: origin.to_string(),
        after: watch.stall,
    }
}

async fn connect(origin: &Origin, trust: Trust<'_>) -> Result<Sender, RegistryError> {
    let stream = dial(origin, trust).await?;
    if !origin.https {
        return speak(origin, TokioIo::new(stream)).await;
    }
    let stream = tls::wrap(origin, trust, stream).await?;
    speak(origin, TokioIo::new(stream)).await
}

/// The first of the name's addresses that answers.
async fn dial(origin: &Origin, trust: Trust<'_>) -> Result<TcpStream, RegistryError> {
    let unreached = |source| RegistryError::Connect {
        origin: origin.to_string(),
        source,
    };
    let addresses = tokio::net::lookup_host((origin.host.as_str(), origin.port)).await;
    let addresses = addresses.map_err(unreached)?;
    let mut last = io::Error::other("its name has no address");
    for address in addresses {
        if !trust.loopback && is_own(&address.ip()) {
            let why = format!(
                "registry {} sends us to this machine itself: refused",
                trust.registry
            );
            return Err(RegistryError::refused(origin.to_string(), why));
        }
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(unreached)?;
                return Ok(stream);
            }
            Ok(Err(e)) => last = e,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(unreached(last))
}

async fn speak<S>(origin: &Origin, stream: TokioIo<S>) -> Result<Sender, RegistryError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let handshake = Builder::new().max_buf_size(BUFFER).handshake(stream).await;
    let (sender, connection) = handshake.map_err(|e| broken(origin, e))?;
    // What breaks it breaks the request too, and is said there.
    tokio::spawn(connection);
    Ok(sender)
}
