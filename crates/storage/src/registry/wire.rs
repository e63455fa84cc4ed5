//! Connections: HTTP/1.1 by hyper, TLS by rustls, every wait with an end and an ear for the cancel flag.
//!
//! Callers block. Each [`Wire`] has a small runtime of its own that runs only while something is waited for, so a pull
//! needs no threads beyond those that unpack.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::header;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::body::Outgoing;
use super::endpoint::{Origin, is_own};
use super::error::RegistryError;
use super::proxy::{Proxies, Proxy, tunnel};
use super::tls::{self, Certificates};

/// How often a wait looks whether it was cancelled.
const TICK: Duration = Duration::from_millis(50);
/// How long one address may take to answer.
const CONNECT: Duration = Duration::from_secs(10);
/// Most bytes of an answer's head, and of the body read at a time.
const BUFFER: usize = 256 * 1024;
/// Fewer bytes than this while the patience lasts are as good as none.
const LEAST: u64 = 8 * 1024;
/// More bytes than this are checked and put away before there is an answer to them, and there is so much more patience
/// for that.
const MUCH: u64 = 1 << 20;
const DIGESTION: u32 = 10;

/// What one load allows its waits.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    pub cancel: &'a AtomicBool,
    /// How long a server may be silent.
    pub stall: Duration,
    /// Called now and then while something is waited for, from within a future: it does not block.
    pub each: Option<&'a (dyn Fn() + Sync)>,
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
    /// It is the registry itself: it may see who we are.
    pub own: bool,
    /// Accept any certificate.
    pub blind: bool,
    /// This machine's own addresses may be meant.
    pub loopback: bool,
    pub certificates: &'a Certificates,
    pub proxies: &'a Proxies,
}

type Sender = SendRequest<Outgoing>;

/// A connection that is open.
struct Line {
    sender: Sender,
    /// Whom it goes to where that is not the server itself: it is told the whole URL then (RFC 9112 §3.2.2).
    proxy: Option<Proxy>,
}

/// Connections that are kept open, one a server.
pub struct Wire {
    /// There until the end.
    runtime: Option<Runtime>,
    open: BTreeMap<Origin, Line>,
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
    /// then a new one is made, unless the request may be sent once only.
    pub fn send(
        &mut self,
        origin: &Origin,
        trust: Trust<'_>,
        request: &Request<Outgoing>,
        watch: Watch<'_>,
    ) -> Result<Response<Incoming>, RegistryError> {
        if let Some(line) = self.open.remove(origin) {
            match self.exchange(line, origin, request, watch) {
                Err(_) if request.body().may_repeat() => {}
                done => return done,
            }
        }
        watch.check()?;
        let line = self.wait(watch, origin, connect(origin, trust))??;
        self.exchange(line, origin, request, watch)
    }

    fn exchange(
        &mut self,
        mut line: Line,
        origin: &Origin,
        request: &Request<Outgoing>,
        watch: Watch<'_>,
    ) -> Result<Response<Incoming>, RegistryError> {
        let sending = match &line.proxy {
            Some(proxy) => by(proxy, origin, request)?,
            None => request.clone(),
        };
        let sender = &mut line.sender;
        let exchange = async {
            sender.ready().await?;
            sender.send_request(sending).await
        };
        let response = match request.body().len() {
            0 => self.wait(watch, origin, exchange),
            length => self.wait_sending(watch, origin, length, &request.body().sent(), exchange),
        };
        let response = response?.map_err(|e| broken(origin, e))?;
        self.open.insert(origin.clone(), line);
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
        let end = Instant::now() + watch.stall;
        self.wait_until(watch, origin, || end, future)
    }

    /// The same for an answer to `length` bytes: as long as they go out it is waited for.
    fn wait_sending<T>(
        &self,
        watch: Watch<'_>,
        origin: &Origin,
        length: u64,
        sent: &AtomicU64,
        future: impl Future<Output = T>,
    ) -> Result<T, RegistryError> {
        // Of an earlier try of the same bytes.
        let before = sent.load(Ordering::Relaxed);
        let (mut last, mut end) = (0, Instant::now() + watch.stall);
        let mut over = false;
        let until = || {
            let now = sent.load(Ordering::Relaxed) - before;
            if now == length && !over {
                over = true;
                let longer = if length > MUCH { DIGESTION } else { 1 };
                end = Instant::now() + watch.stall.saturating_mul(longer);
            } else if now - last >= LEAST && !over {
                last = now;
                end = Instant::now() + watch.stall;
            }
            end
        };
        self.wait_until(watch, origin, until, future)
    }

    /// Waits, looking now and then until when it may take.
    fn wait_until<T>(
        &self,
        watch: Watch<'_>,
        origin: &Origin,
        mut end: impl FnMut() -> Instant,
        future: impl Future<Output = T>,
    ) -> Result<T, RegistryError> {
        let runtime = self.runtime.as_ref().expect("it is taken on drop alone");
        runtime.block_on(async {
            let mut future = std::pin::pin!(future);
            loop {
                watch.check()?;
                if let Some(each) = watch.each {
                    each();
                }
                let left = end().saturating_duration_since(Instant::now());
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

/// The request as a proxy is to have it.
fn by(
    proxy: &Proxy,
    origin: &Origin,
    request: &Request<Outgoing>,
) -> Result<Request<Outgoing>, RegistryError> {
    let mut request = request.clone();
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let whole = format!("{origin}{path}").parse();
    *request.uri_mut() =
        whole.map_err(|e| RegistryError::refused(origin.to_string(), format!("cannot ask it: {e}")))?;
    if let Some(pass) = &proxy.pass {
        request
            .headers_mut()
            .insert(header::PROXY_AUTHORIZATION, pass.clone());
    }
    Ok(request)
}

async fn connect(origin: &Origin, trust: Trust<'_>) -> Result<Line, RegistryError> {
    let proxy = trust.proxies.before(origin)?;
    let mut stream = match &proxy {
        // Whoever names a proxy may mean one of this machine; what it reaches is its own affair.
        Some(proxy) => dial((&proxy.host, proxy.port), origin, |_| Ok(())).await?,
        None => {
            dial((&origin.host, origin.port), origin, |ip| {
                is_elsewhere(ip, origin, trust)
            })
            .await?
        }
    };
    if !origin.https {
        let sender = speak(origin, TokioIo::new(stream)).await?;
        return Ok(Line { sender, proxy });
    }
    if let Some(proxy) = &proxy {
        tunnel(&mut stream, origin, proxy).await?;
    }
    let stream = tls::wrap(origin, trust, stream).await?;
    Ok(Line {
        sender: speak(origin, TokioIo::new(stream)).await?,
        proxy: None,
    })
}

/// Or this machine is meant to be asked.
fn is_elsewhere(ip: &IpAddr, origin: &Origin, trust: Trust<'_>) -> Result<(), RegistryError> {
    if trust.loopback || !is_own(ip) {
        return Ok(());
    }
    let registry = trust.registry;
    let why = format!("registry {registry} sends us to this machine itself: refused");
    Err(RegistryError::refused(origin.to_string(), why))
}

/// The first of the name's addresses that answers.
async fn dial(
    (host, port): (&str, u16),
    origin: &Origin,
    may_be: impl Fn(&IpAddr) -> Result<(), RegistryError>,
) -> Result<TcpStream, RegistryError> {
    let unreached = |source| RegistryError::Connect {
        origin: match host == origin.host {
            true => origin.to_string(),
            false => format!("{origin} by the proxy {host}:{port}"),
        },
        source,
    };
    let addresses = tokio::net::lookup_host((host, port)).await;
    let addresses = addresses.map_err(unreached)?;
    let mut last = io::Error::other("its name has no address");
    for address in addresses {
        may_be(&address.ip())?;
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
