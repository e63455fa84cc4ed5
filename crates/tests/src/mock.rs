//! A registry that does what a test tells it to: serves blobs of a layout, unless a hook has something else in mind.
//!
//! It listens on the loopback of the network namespace of the thread that starts it.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// What is no UTF-8 is `raw` alone.
    pub body: String,
    pub raw: Vec<u8>,
    /// It was cut off by us, somewhere in its body.
    pub cut: bool,
}

impl Asked {
    /// The whole number after `NAME=` in the path.
    pub fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.path.split_once('?')?;
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// How an answer's body comes.
#[derive(Clone, Debug)]
pub enum Body {
    /// With its length.
    Whole(Vec<u8>),
    /// In chunks, without a length.
    Chunked(Vec<u8>),
    /// A length that is not the body's; the connection is closed after the body.
    Lying(u64, Vec<u8>),
    /// Chunks without an end.
    Endless,
    /// A length, these bytes, and then nothing, the connection staying open.
    Stalled(u64, Vec<u8>),
    /// A length, and a byte now and then.
    Dripping(u64),
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Body,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Body::Whole(body.into()),
        }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn body(self, body: Body) -> Self {
        Self { body, ..self }
    }
}

type Hook = Box<dyn Fn(&Asked) -> Option<Reply> + Send + Sync>;
/// After how many bytes of its body a request is cut off, given its head.
pub type Cut = Box<dyn Fn(&Asked) -> Option<usize> + Send + Sync>;

struct Shared {
    hook: Hook,
    cut: Cut,
    /// By the end of the path behind the repository.
    documents: BTreeMap<String, (String, Vec<u8>)>,
    asked: Mutex<Vec<Asked>>,
    over: AtomicBool,
    tls: Option<Arc<ServerConfig>>,
}

pub struct Mock {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

/// What the registry has, to be filled before it starts.
#[derive(Clone, Debug, Default)]
pub struct Content {
    documents: BTreeMap<String, (String, Vec<u8>)>,
}

impl Content {
    /// All blobs of an OCI layout, each of its manifests by its digest, and the last one of its index under `tag`.
    pub fn of(layout: &Path, tag: &str) -> Self {
        let mut content = Self::default();
        for entry in std::fs::read_dir(layout.join("blobs/sha256")).unwrap() {
            let path = entry.unwrap().path();
            let (name, bytes) = (
                path.file_name().unwrap().to_str().unwrap(),
                std::fs::read(&path).unwrap(),
            );
            content.put(
                &format!("/blobs/sha256:{name}"),
                "application/octet-stream",
                bytes.clone(),
            );
            let own: Option<Value> = serde_json::from_slice(&bytes).ok();
            if let Some(own) = own.and_then(|own| Some(own.get("mediaType")?.as_str()?.to_owned())) {
                content.put(&format!("/manifests/sha256:{name}"), &own, bytes);
            }
        }
        let index = std::fs::read(layout.join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let top = index["manifests"].as_array().unwrap().last().unwrap();
        let digest = top["digest"].as_str().unwrap();
        let (kind, bytes) = content.documents[&format!("/manifests/{digest}")].clone();
        content.put(&format!("/manifests/{tag}"), &kind, bytes);
        content
    }

    pub fn extend(&mut self, more: Self) {
        self.documents.extend(more.documents);
    }

    pub fn put(&mut self, path: &str, media_type: &str, bytes: impl Into<Vec<u8>>) {
        self.documents
            .insert(path.to_owned(), (media_type.to_owned(), bytes.into()));
    }
}

fn tls(wary: bool) -> Arc<ServerConfig> {
    let authority = crate::registry::authority();
    let read = |name: &str| CertificateDer::from_pem_file(authority.with_file_name(name)).unwrap();
    let key = PrivateKeyDer::from_pem_file(authority.with_file_name("localhost.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match wary {
        false => builder.with_no_client_auth(),
        true => {
            let mut roots = RootCertStore::empty();
            roots.add(read("authority.pem")).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let config = builder.with_single_cert(vec![read("localhost.pem")], key);
    Arc::new(config.unwrap())
}

/// Waits for what cannot fail otherwise than by taking too long.
const LONG: Duration = Duration::from_secs(60);

impl Mock {
    /// Serves repository `app`. What the hook has no reply for is answered from the content.
    pub fn start(content: Content, hook: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static) -> Self {
        Self::listen(content, Box::new(hook), None, Box::new(|_| None))
    }

    /// The same, cutting requests off in their bodies; the hook is told of those too, its reply goes nowhere.
    pub fn start_cutting(cut: Cut, hook: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static) -> Self {
        Self::listen(Content::default(), Box::new(hook), None, cut)
    }

    /// The same over TLS, for `localhost`, with a certificate of the tests' authority.
    pub fn start_tls(
        content: Content,
        hook: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        Self::listen(content, Box::new(hook), Some(tls(false)), Box::new(|_| None))
    }

    /// The same, for those alone who show a certificate of that authority.
    pub fn start_wary(content: Content) -> Self {
        Self::listen(content, Box::new(|_| None), Some(tls(true)), Box::new(|_| None))
    }

    fn listen(content: Content, hook: Hook, tls: Option<Arc<ServerConfig>>, cut: Cut) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            hook,
            cut,
            documents: content.documents,
            asked: Mutex::new(Vec::new()),
            over: AtomicBool::new(false),
            tls,
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.over.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), serving) = (stream, Arc::clone(&serving)) else {
                    continue;
                };
                // Whoever goes away in the middle is the test's own client.
                std::thread::spawn(move || drop(serving.serve(stream)));
            }
        });
        Self { address, shared }
    }

    /// `localhost:PORT/app:1`.
    pub fn reference(&self, tag: &str) -> String {
        format!("{}/app:{tag}", self.name())
    }

    pub fn name(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    pub fn asked_for(&self, part: &str) -> Vec<Asked> {
        let mut asked = self.asked();
        asked.retain(|asked| asked.path.contains(part));
        asked
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(LONG))?;
        stream.set_write_timeout(Some(LONG))?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => {
                // A TLS greeting is no request, and need not hold a line's end.
                let mut first = [0];
                if stream.peek(&mut first)? == 1 && first[0] == 0x16 {
                    return Ok(());
                }
                self.converse(stream)
            }
            Some(config) => {
                let connection = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
                self.converse(StreamOwned::new(connection, stream))
            }
        }
    }

    fn converse<S: Read + Write>(&self, stream: S) -> io::Result<()> {
        let mut reader = BufReader::new(stream);
        while let Some(asked) = read_request(&mut reader, &self.cut)? {
            // Layers would fill the memory.
            let raw = Vec::new();
            self.asked.lock().unwrap().push(Asked { raw, ..asked.clone() });
            if asked.cut {
                drop((self.hook)(&asked));
                return Ok(());
            }
            let reply = (self.hook)(&asked).unwrap_or_else(|| self.usual(&asked));
            if !self.answer(reader.get_mut(), &asked, reply)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What an honest registry says.
    fn usual(&self, asked: &Asked) -> Reply {
        if asked.path == "/v2/" {
            return Reply::new(200, "{}");
        }
        let found = asked
            .path
            .strip_prefix("/v2/app")
            .and_then(|path| self.documents.get(path));
        let Some((media_type, bytes)) = found else {
            return Reply::new(
                404,
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
            );
        };
        let range = asked
            .header("range")
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let reply = match range {
            Some(from) => {
                let from: usize = from;
                Reply::new(206, &bytes[from..]).with(
                    "Content-Range",
                    format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()),
                )
            }
            None => Reply::new(200, bytes.clone()),
        };
        let digest = format!("sha256:{}", crate::images::write::sha256(bytes));
        reply
            .with("Content-Type", media_type)
            .with("Docker-Content-Digest", digest)
    }

    /// Whether the connection may be used again.
    fn answer(&self, stream: &mut impl Write, asked: &Asked, reply: Reply) -> io::Result<bool> {
        let mut head = format!("HTTP/1.1 {} Said\r\n", reply.status);
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let length = match &reply.body {
            Body::Whole(bytes) => Some(bytes.len() as u64),
            Body::Lying(length, _) | Body::Stalled(length, _) | Body::Dripping(length) => Some(*length),
            Body::Chunked(_) | Body::Endless => None,
        };
        match length {
            Some(length) => head.push_str(&format!("Content-Length: {length}\r\n\r\n")),
            None => head.push_str("Transfer-Encoding: chunked\r\n\r\n"),
        }
        stream.write_all(head.as_bytes())?;
        if asked.method == "HEAD" {
            stream.flush()?;
            return Ok(true);
        }
        match reply.body {
            Body::Whole(bytes) => stream.write_all(&bytes)?,
            Body::Chunked(bytes) => {
                for chunk in bytes.chunks(7_000) {
                    write_chunk(stream, chunk)?;
                }
                stream.write_all(b"0\r\n\r\n")?;
            }
            Body::Lying(_, bytes) => {
                stream.write_all(&bytes)?;
                stream.flush()?;
                return Ok(false);
            }
            // Ends when the client has had enough of it.
            Body::Endless => loop {
                write_chunk(stream, &[b' '; 16 * 1024])?;
            },
            Body::Stalled(_, bytes) => {
                stream.write_all(&bytes)?;
                stream.flush()?;
                self.wait_for_end(Duration::from_millis(5), || Ok(()))?;
                return Ok(false);
            }
            Body::Dripping(_) => {
                self.wait_for_end(Duration::from_millis(20), || {
                    stream.write_all(b" ")?;
                    stream.flush()
                })?;
                return Ok(false);
            }
        }
        stream.flush()?;
        Ok(true)
    }

    fn wait_for_end(&self, tick: Duration, mut each: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        while !self.over.load(Ordering::Relaxed) {
            each()?;
            std::thread::sleep(tick);
        }
        Ok(())
    }
}

fn write_chunk(stream: &mut impl Write, chunk: &[u8]) -> io::Result<()> {
    write!(stream, "{:x}\r\n", chunk.len())?;
    stream.write_all(chunk)?;
    stream.write_all(b"\r\n")
}

fn read_request(reader: &mut impl BufRead, cut: &Cut) -> io::Result<Option<Asked>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length: usize = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut asked = Asked {
        method,
        path,
        headers,
        body: String::new(),
        raw: Vec::new(),
        cut: false,
    };
    let least = cut(&asked).filter(|least| *least < length);
    asked.cut = least.is_some();
    asked.raw = vec![0; least.unwrap_or(length)];
    reader.read_exact(&mut asked.raw)?;
    asked.body = String::from_utf8(asked.raw.clone()).unwrap_or_default();
    Ok(Some(asked))
}
