//! Debian's `etcd-server` on a LAN, as a host of its own.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Lan;
use crate::namespace::{Duty, Namespace};

/// Only a failing test waits this long.
const START: Duration = Duration::from_secs(60);
const PORT: u16 = 2379;

/// A cluster of one member.
#[derive(Debug)]
pub struct Etcd {
    pub ns: Namespace,
    address: String,
    dir: TempDir,
    child: Option<Child>,
    /// It is asked by https, but for tests, who ask its loopback address.
    secured: bool,
}

impl Etcd {
    /// On this LAN at this address, running, with nothing in it.
    pub fn on(lan: &Lan, address: &str) -> Self {
        Self::new(lan, address, false)
    }

    /// The same, asked by https: its certificate is of an authority of its own, whose certificate is [`Self::ca`].
    pub fn secured(lan: &Lan, address: &str) -> Self {
        Self::new(lan, address, true)
    }

    fn new(lan: &Lan, address: &str, secured: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("wharf-test-").tempdir().unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap();
        let duty = Duty {
            run_dir: Some(dir.path()),
            cgroup_parent: &format!("/{name}"),
            temp_dir: Some(dir.path()),
        };
        let ns = Namespace::new("etcd", &duty);
        lan.join(&ns, &format!("{address}/24"));
        let mut etcd = Self {
            ns,
            address: address.to_owned(),
            dir,
            child: None,
            secured,
        };
        if secured {
            etcd.certify();
        }
        etcd.start();
        etcd
    }

    /// What its certificate is to be checked by, PEM.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Makes the authority, and a certificate by it for this address (openssl-req(1), openssl-x509(1)).
    fn certify(&self) {
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        let script = format!(
            "set -e; cd {dir}
             openssl req -x509 {key} -keyout ca.key -out ca.pem -days 30 -subj /CN=tests \\
                 -addext keyUsage=critical,keyCertSign
             openssl req {key} -keyout etcd.key -out etcd.csr -subj /CN=etcd
             printf 'subjectAltName=IP:{address}\\nextendedKeyUsage=serverAuth,clientAuth\\n' >extensions
             openssl x509 -req -in etcd.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out etcd.pem -days 30 \\
                 -extfile extensions",
            dir = self.dir.path().display(),
            address = self.address,
        );
        let made = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// What the settings call it.
    pub fn url(&self) -> String {
        let scheme = if self.secured { "https" } else { "http" };
        format!("{scheme}://{}:{PORT}", self.address)
    }

    /// Where tests ask.
    fn plain(&self) -> String {
        let address = if self.secured { "127.0.0.1" } else { &self.address };
        format!("{address}:{PORT}")
    }

    /// Starts it with what it had; returns once it is well.
    pub fn start(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let peers = "http://127.0.0.1:2380";
        let mut command = self.ns.command(program());
        let mut urls = self.url();
        if self.secured {
            urls += &format!(",http://{}", self.plain());
            let file = |name: &str| self.dir.path().join(name);
            command.arg("--cert-file").arg(file("etcd.pem"));
            command.arg("--key-file").arg(file("etcd.key"));
        }
        command
            .args(["--name", "only", "--data-dir"])
            .arg(self.data())
            .args([
                "--listen-client-urls",
                &urls,
                "--advertise-client-urls",
                &self.url(),
            ])
            .args([
                "--listen-peer-urls",
                peers,
                "--initial-advertise-peer-urls",
                peers,
            ])
            .args(["--initial-cluster", &format!("only={peers}"), "--logger", "zap"])
            .env("WHARF_RUN_DIR", self.dir.path());
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let begun = Instant::now();
        let question = json!({ "key": "YQ==" });
        while self
            .try_ask("/v3/kv/range", &question)
            .is_none_or(|answer| answer.get("header").is_none())
        {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && begun.elapsed() < START,
                "etcd does not start: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it, as a power cut does.
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Takes away all that it knew; it does not run.
    pub fn forget(&self) {
        std::fs::remove_dir_all(self.data()).unwrap();
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// An answer of its JSON gateway.
    pub fn ask(&self, path: &str, question: &Value) -> Value {
        self.try_ask(path, question)
            .unwrap_or_else(|| panic!("etcd does not answer {path}: {}", self.log()))
    }

    fn try_ask(&self, path: &str, question: &Value) -> Option<Value> {
        let (address, question) = (self.plain(), question.to_string());
        let answer = self.ns.within(|| -> std::io::Result<String> {
            let mut stream = TcpStream::connect(&address)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            let length = question.len();
            write!(
                stream,
                "POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n{question}"
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        });
        let answer = answer.ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// What somebody said, in its own words.
    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Installed, or unpacked into the cache by `./test`.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|dir| dir.join("etcd"));
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let unpacked = home.join(".cache/wharf/etcd-server/usr/bin/etcd");
    let found = installed.chain([unpacked]).find(|program| program.is_file());
    found.expect("etcd is neither on PATH nor below ~/.cache/wharf; ./test unpacks it")
}
