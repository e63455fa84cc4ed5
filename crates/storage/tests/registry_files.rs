//! Where an image's name leads and as whom we ask: mirrors, registries.conf, certificates of a registry's own, helpers.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::mock::{Content, Mock};
use common::{Fixture, Layout, Member, Pack, Tar, assert_says};
use model::digest::Digest;
use model::image::ImageSource;
use model::spec::{RegistrySettings, Settings};
use serde_json::json;
use storage::{InUse, Patience, Proxies, RegistryConfig, RegistryFiles};
use tests::registry::{Options, Registry};

/// What fails is not tried as often as it would be.
const HASTY: Patience = Patience {
    stall: Duration::from_secs(30),
    tries: 2,
    backoff: Duration::from_millis(10),
    backoff_max: Duration::from_millis(10),
    longest_wait: Duration::from_secs(1),
};

fn layout(fixture: &Fixture, name: &str) -> Layout {
    let mut layout = Layout::new(&fixture.path(name));
    layout.image(None, &[(Pack::Gzip, Tar::of([Member::file("which", name)]))]);
    layout
}

fn certificates(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/certificates")
        .join(name)
}

fn with(name: &str, table: RegistrySettings) -> Settings {
    Settings {
        registries: [(name.to_owned(), table)].into(),
        ..Settings::default()
    }
}

/// Pulls into an empty store: what the image's manifest is.
fn pull(
    fixture: &Fixture,
    settings: &Settings,
    files: RegistryFiles,
    reference: &str,
) -> Result<Digest, String> {
    fixture.store.prune(&InUse::default(), false).unwrap();
    fixture
        .store
        .set_registries(RegistryConfig::new(settings, files).with_patience(HASTY));
    let reference = reference.to_owned();
    let loaded = fixture.load(&ImageSource::Registry { reference });
    loaded
        .map(|image| image.digest.unwrap())
        .map_err(|e| e.to_string())
}

#[test]
fn a_mirror_is_asked_first_and_whatever_it_does_the_registry_after_it() {
    let fixture = Fixture::new();
    let (own, other) = (layout(&fixture, "own"), layout(&fixture, "other"));
    let registry = Registry::start(&fixture.path("registry"));
    let mirror = Registry::start(&fixture.path("mirror"));
    let reference = registry.push(&own.source(None).key(), "app:1");
    let settings = with(
        &mirror.address(),
        RegistrySettings {
            mirror_of: Some(registry.address()),
            ..Default::default()
        },
    );
    let none = RegistryFiles::default;
    let first = pull(&fixture, &settings, none(), &reference).unwrap();
    assert!(
        mirror.requests(&["GET", "/v2/app/manifests/1"], 1) >= 1,
        "{}",
        mirror.log()
    );
    mirror.push(&other.source(None).key(), "app:1");
    let second = pull(&fixture, &settings, none(), &reference).unwrap();
    assert_ne!(first, second, "it comes from the mirror once that has it");
    // Pinned, the mirror's other image under the same name is none.
    let pinned = format!("{}@{first}", reference.rsplit_once(':').unwrap().0);
    assert_eq!(pull(&fixture, &settings, none(), &pinned).unwrap(), first);
    let gone = with(
        "127.0.0.1:1",
        RegistrySettings {
            mirror_of: Some(registry.address()),
            ..Default::default()
        },
    );
    fixture
        .store
        .set_registries(RegistryConfig::new(&gone, none()).with_patience(HASTY));
    let missing = ImageSource::Registry {
        reference: format!("{}/none:1", registry.address()),
    };
    let error = fixture.load(&missing).unwrap_err().to_string();
    assert_says(
        &error,
        &[
            "has no manifest 1",
            "before that its mirrors were asked",
            "127.0.0.1:1",
        ],
    );
}

#[test]
fn registries_conf_leads_elsewhere_and_blocks() {
    let fixture = Fixture::new();
    let layout = layout(&fixture, "own");
    let registry = Registry::start(&fixture.path("registry"));
    registry.push(&layout.source(None).key(), "near/team/app:1");
    let conf = fixture.path("registries.conf");
    let files = || RegistryFiles {
        conf: Some(conf.clone()),
        ..RegistryFiles::default()
    };
    let text = format!(
        "[[registry]]\nprefix = 'far.example/team'\nlocation = '{}/near/team'\n",
        registry.address()
    );
    std::fs::write(&conf, &text).unwrap();
    let settings = Settings::default();
    pull(&fixture, &settings, files(), "far.example/team/app:1").unwrap();
    let images = fixture.store.images().unwrap();
    assert_eq!(
        images.keys().collect::<Vec<_>>(),
        ["far.example/team/app:1"],
        "its name is what was asked for"
    );
    std::fs::write(
        &conf,
        text + "[[registry]]\nlocation = 'far.example'\nblocked = true\n",
    )
    .unwrap();
    pull(&fixture, &settings, files(), "far.example/team/app:1").unwrap();
    let refused = pull(&fixture, &settings, files(), "far.example/other:1").unwrap_err();
    assert_says(&refused, &["far.example/other", "blocked by", "registries.conf"]);
    std::fs::write(&conf, "[[registry]").unwrap();
    let broken = pull(&fixture, &settings, files(), "far.example/team/app:1").unwrap_err();
    assert_says(&broken, &["registries.conf"]);
}

#[test]
fn an_authority_and_a_certificate_of_the_registry_s_own() {
    let fixture = Fixture::new();
    let layout = layout(&fixture, "own");
    let registry = Mock::start_wary(Content::of(&layout.dir, "1"));
    let checked = |ca: Option<PathBuf>| {
        let table = RegistrySettings {
            insecure: Some(false),
            ca,
            ..Default::default()
        };
        with(&registry.name(), table)
    };
    let dirs = fixture.path("certs.d");
    let files = || RegistryFiles {
        certificates: vec![fixture.path("nowhere"), dirs.clone()],
        ..RegistryFiles::default()
    };
    let reference = registry.reference("1");
    let error = pull(&fixture, &checked(None), files(), &reference).unwrap_err();
    assert_says(&error, &["is not trusted"]);
    // Its authority is known, and it wants to see who we are.
    let authority = Some(certificates("authority.pem"));
    let error = pull(&fixture, &checked(authority.clone()), files(), &reference).unwrap_err();
    assert!(!error.contains("is not trusted"), "{error}");
    let own = dirs.join(registry.name());
    std::fs::create_dir_all(&own).unwrap();
    std::fs::copy(certificates("localhost.pem"), own.join("client.cert")).unwrap();
    let error = pull(&fixture, &checked(authority.clone()), files(), &reference).unwrap_err();
    assert_says(&error, &["client.key"]);
    std::fs::copy(certificates("localhost.key"), own.join("client.key")).unwrap();
    pull(&fixture, &checked(authority), files(), &reference).unwrap();
    // The same with the authority in the directory; one that is none is told.
    std::fs::copy(certificates("authority.pem"), own.join("ca.crt")).unwrap();
    pull(&fixture, &checked(None), files(), &reference).unwrap();
    let none = Some(certificates("localhost.key"));
    let error = pull(&fixture, &checked(none), files(), &reference).unwrap_err();
    assert_says(&error, &["localhost.key: it holds no certificate in PEM"]);
}

/// A proxy that leads everything to one server, and notes how it was asked: the first lines, and what it was shown.
struct Relay {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Relay {
    fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::default());
        let noted = Arc::clone(&asked);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let noted = Arc::clone(&noted);
                // A connection that breaks off is the client's to notice.
                std::thread::spawn(move || drop(relay(client, to, &noted)));
            }
        });
        Self { address, asked }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn relay(client: TcpStream, to: SocketAddr, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut server = TcpStream::connect(to)?;
    let mut back = client.try_clone()?;
    let mut reader = BufReader::new(client);
    let mut answering = None;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let line = head.lines().next().unwrap_or_default().to_owned();
        let pass = "proxy-authorization: Basic bWU6d29yZA==";
        let shown = head.lines().any(|l| l.eq_ignore_ascii_case(pass));
        asked
            .lock()
            .unwrap()
            .push(format!("{line}{}", if shown { " shown" } else { "" }));
        let tunnel = line.starts_with("CONNECT ");
        match tunnel {
            true => back.write_all(b"HTTP/1.1 200 Fine\r\n\r\n")?,
            false => server.write_all(head.replacen("http://far.example:5000", "", 1).as_bytes())?,
        }
        if answering.is_none() {
            let (mut answers, mut back) = (server.try_clone()?, back.try_clone()?);
            answering = Some(std::thread::spawn(move || {
                let copied = std::io::copy(&mut answers, &mut back);
                // One that breaks off is over likewise.
                back.shutdown(std::net::Shutdown::Both).and(copied)
            }));
        }
        if tunnel {
            std::io::copy(&mut reader, &mut server)?;
            return Ok(());
        }
    }
}

#[test]
fn proxies_are_gone_through_but_to_the_loopback() {
    let fixture = Fixture::new();
    let layout = layout(&fixture, "own");
    let content = Content::of(&layout.dir, "1");
    let settings = with(
        "far.example:5000",
        RegistrySettings {
            insecure: Some(true),
            ..Default::default()
        },
    );
    let by = |relay: &Relay, no: &str, reference: &str| {
        let url = format!("http://me:word@{}", relay.address);
        let config = RegistryConfig::new(&settings, RegistryFiles::default()).with_patience(HASTY);
        fixture.store.prune(&InUse::default(), false).unwrap();
        fixture
            .store
            .set_registries(config.with_proxies(Proxies::new(&url, &url, no)));
        let reference = reference.to_owned();
        let loaded = fixture.load(&ImageSource::Registry { reference });
        (loaded.map_err(|e| e.to_string()), relay.take())
    };
    let secret = Mock::start_tls(content.clone(), |_| None);
    let (pulled, asked) = by(&Relay::start(secret.address), "", "far.example:5000/app:1");
    pulled.unwrap();
    assert!(
        !asked.is_empty()
            && asked
                .iter()
                .all(|line| line == "CONNECT far.example:5000 HTTP/1.1 shown"),
        "{asked:?}"
    );

    let plain = Mock::start(content, |_| None);
    let relay = Relay::start(plain.address);
    let (pulled, asked) = by(&relay, "", "far.example:5000/app:1");
    pulled.unwrap();
    let manifest = "GET http://far.example:5000/v2/app/manifests/1 HTTP/1.1 shown";
    assert!(asked.iter().any(|line| line == manifest), "{asked:?}");
    // Neither the loopback nor what the user says.
    let (pulled, asked) = by(&relay, "", &plain.reference("1"));
    pulled.unwrap();
    assert_eq!(asked, [""; 0]);
    let (pulled, asked) = by(&relay, "far.example", "far.example:5000/app:1");
    assert!(pulled.is_err());
    assert_eq!(asked, [""; 0]);
}

const HELPERS: &str = "STORAGE_TEST_HELPERS";

/// Helpers are looked for in PATH, so this runs once more in a process that has ours there.
#[test]
fn a_helper_is_asked_for_the_login() {
    let Some(dir) = std::env::var_os(HELPERS).map(PathBuf::from) else {
        let dir = tempfile::tempdir().unwrap();
        let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_helper_is_asked_for_the_login"])
            .env(HELPERS, dir.path())
            .env("PATH", path)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        return;
    };
    let helper = |name: &str, lines: &str| {
        let file = dir.join(format!("docker-credential-{name}"));
        std::fs::write(&file, format!("#!/bin/sh\n{lines}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    let fixture = Fixture::new();
    let options = Options {
        login: true,
        ..Options::default()
    };
    let registry = Registry::start_as(&fixture.path("registry"), options);
    let reference = registry.push(&layout(&fixture, "own").source(None).key(), "app:1");
    helper("none", "echo credentials not found in native keychain; exit 1");
    helper("broken", "echo the keychain is locked; exit 1");
    helper("mad", "echo '{\"Username\": 1}'");
    // It answers for the server that it was asked about on its standard input, and no other.
    let answer =
        json!({ "ServerURL": "", "Username": tests::registry::USER, "Secret": tests::registry::PASSWORD });
    helper(
        "good",
        &format!(
            "[ \"$1\" = get ] && [ \"$(cat)\" = {} ] && echo '{answer}'",
            registry.address()
        ),
    );
    let file = fixture.path("config.json");
    let with = |config: serde_json::Value| {
        std::fs::write(&file, config.to_string()).unwrap();
        let files = RegistryFiles {
            logins: vec![file.clone()],
            ..RegistryFiles::default()
        };
        pull(&fixture, &Settings::default(), files, &reference)
    };
    with(json!({ "credsStore": "good" })).unwrap();
    with(json!({ "credsStore": "none", "credHelpers": { registry.address(): "good" } })).unwrap();
    for (name, says) in [
        ("none", "refuses access"),
        ("broken", "docker-credential-broken: the keychain is locked"),
        ("mad", "docker-credential-mad does not answer in JSON"),
        ("a/b", "is no name of a credential helper"),
    ] {
        assert_says(
            &with(json!({ "credsStore": name })).unwrap_err(),
            &["refuses access", says],
        );
    }
}
