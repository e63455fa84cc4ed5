//! Debian's `docker-registry` on a free port, with images pushed by skopeo.
//!
//! It runs in the network namespace of the thread that starts it: for one on a test host, start it inside
//! [`crate::namespace::Namespace::within`], and push from there too.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::engines::program;

/// Who may log in to a registry that wants it.
pub const USER: &str = "tester";
pub const PASSWORD: &str = "secret";
/// The same as a line of an htpasswd file: bcrypt, the only hash that docker-registry takes.
const HTPASSWD: &str = "tester:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
/// Only a failing test waits this long.
const START: Duration = Duration::from_secs(60);

/// How it is to be.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub address: IpAddr,
    /// Whether it wants to see [`USER`] and [`PASSWORD`].
    pub login: bool,
    /// Speaks TLS, as `localhost`, by a certificate of [`authority`].
    pub tls: bool,
    /// Wants tokens of `https://localhost:PORT/token`, signed by the key of that certificate, issued by and for `tests`.
    pub tokens_of: Option<u16>,
    /// Has what the registry on this port of the loopback has, and keeps it.
    pub mirror_of: Option<u16>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            login: false,
            tls: false,
            tokens_of: None,
            mirror_of: None,
        }
    }
}

/// The authority of the tests' certificates, beside `localhost.pem` and `localhost.key`.
pub fn authority() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../storage/tests/certificates/authority.pem")
}

/// A registry that runs until the value goes.
pub struct Registry {
    child: Child,
    address: SocketAddr,
    dir: PathBuf,
    login: bool,
    _port: Reserved,
}

/// A port that no other test's registry takes; free again with the value. That of a socket which is closed so that a server
/// can listen there is anybody's in between, and two servers that ask for it would be mistaken for each other.
struct Reserved {
    port: u16,
    _name: UnixListener,
}

impl Reserved {
    /// None where another test has the one that the kernel gives: the next is another.
    fn new(address: IpAddr) -> Option<Self> {
        let free = TcpListener::bind((address, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        let name = UnixAddr::from_abstract_name(format!("wharf-test-port-{port}")).unwrap();
        match UnixListener::bind_addr(&name) {
            Ok(name) => Some(Self { port, _name: name }),
            Err(e) if e.kind() == ErrorKind::AddrInUse => None,
            Err(e) => panic!("reserving port {port}: {e}"),
        }
    }
}

impl Registry {
    /// On the loopback, open to all; everything it keeps is in `dir`.
    pub fn start(dir: &Path) -> Self {
        Self::start_as(dir, Options::default())
    }

    /// As [`Registry::start`], otherwise.
    pub fn start_as(dir: &Path, options: Options) -> Self {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("htpasswd"), HTPASSWD).unwrap();
        // Between finding a free port and taking it somebody else may.
        for _ in 0..20 {
            let Some(reserved) = Reserved::new(options.address) else {
                continue;
            };
            let address = SocketAddr::new(options.address, reserved.port);
            let mut child = spawn(dir, address, options);
            if answers(&mut child, address) {
                let dir = dir.to_owned();
                let login = options.login;
                return Self {
                    child,
                    address,
                    dir,
                    login,
                    _port: reserved,
                };
            }
            let _ = child.kill();
            child.wait().unwrap();
        }
        panic!("docker-registry does not start: {}", log(dir));
    }

    /// `ADDRESS:PORT`, what stands in front of an image's name.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Pushes what skopeo calls `source` (`oci:DIR:TAG`, `oci-archive:FILE`, `docker-archive:FILE`), all platforms of
    /// it, byte for byte, as `name` (`app:1`). Returns the whole reference.
    pub fn push(&self, source: &str, name: &str) -> String {
        let reference = format!("{}/{name}", self.address);
        let mut skopeo = Command::new("skopeo");
        skopeo.args([
            "--insecure-policy",
            "copy",
            "--all",
            "--preserve-digests",
            "--dest-tls-verify=false",
        ]);
        if self.login {
            skopeo.args(["--dest-creds", &format!("{USER}:{PASSWORD}")]);
        }
        let output = skopeo.arg(source).arg(format!("docker://{reference}")).output();
        let output = output.expect("skopeo is installed by ./test");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "skopeo copy {source} {reference}: {said}"
        );
        reference
    }

    /// What it has logged so far: a line with method, path, status and the client's name for every request.
    pub fn log(&self) -> String {
        log(&self.dir)
    }

    /// How many requests were answered whose line has all of `parts` in it. A line may come later than its answer, so
    /// this waits for `expected` of them.
    pub fn requests(&self, parts: &[&str], expected: usize) -> usize {
        let begun = Instant::now();
        loop {
            let log = self.log();
            let answered = log.lines().filter(|line| line.contains("HTTP/1.1\" "));
            let count = answered
                .filter(|line| parts.iter().all(|part| line.contains(part)))
                .count();
            if count >= expected || begun.elapsed() > START {
                return count;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &Path, address: SocketAddr, options: Options) -> Child {
    let shown = dir.display();
    let authority = authority();
    let mut more = String::new();
    if options.login {
        more += &format!("auth: {{ htpasswd: {{ realm: tests, path: {shown}/htpasswd }} }}\n");
    }
    if let Some(port) = options.tokens_of {
        more += &format!(
            "auth: {{ token: {{ realm: 'https://localhost:{port}/token', service: tests, issuer: tests, \
             rootcertbundle: {} }} }}\n",
            authority.display()
        );
    }
    if let Some(port) = options.mirror_of {
        more += &format!("proxy: {{ remoteurl: 'http://127.0.0.1:{port}' }}\n");
    }
    let tls = match options.tls {
        true => format!(
            ", tls: {{ certificate: {}, key: {} }}",
            authority.with_file_name("localhost.pem").display(),
            authority.with_file_name("localhost.key").display()
        ),
        false => String::new(),
    };
    let config = format!(
        "version: 0.1\n\
         log: {{ level: error }}\n\
         storage: {{ filesystem: {{ rootdirectory: {shown}/data }}, delete: {{ enabled: true }} }}\n\
         http: {{ addr: '{address}', secret: tests{tls} }}\n{more}"
    );
    let path = dir.join("config.yml");
    fs::write(&path, config).unwrap();
    let log = File::create(dir.join("log")).unwrap();
    Command::new(program("docker-registry", "docker-registry"))
        .arg("serve")
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Whether this very process answers there before long.
fn answers(child: &mut Child, address: SocketAddr) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < START {
        let answer = hello(address);
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        // One that speaks TLS says so, and no more.
        let known = ["Docker-Distribution-Api-Version", "HTTPS server"];
        if answer.is_ok_and(|answer| known.iter().any(|words| answer.contains(words))) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

fn hello(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET /v2/ HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn log(dir: &Path) -> String {
    fs::read_to_string(dir.join("log")).unwrap_or_default()
}
