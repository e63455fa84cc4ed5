//! Registries that lie to an agent whose containers are at work: each is refused, nothing of it stays, the agent's memory
//! hardly grows, and no container notices. What else they try is in `crates/storage/tests/registry_hostile`.

use std::path::PathBuf;
use std::process::{Child, Stdio};

use serde_json::{Value, json};
use tests::images::builder::Parts;
use tests::images::{Compression, ImageBuilder};
use tests::load::{Client, Load};
use tests::mock::{Asked, Body, Content, Mock, Reply};
use tests::{From, client, host, memory};

use super::*;

/// Bytes that the agent may grow by.
const MOST: u64 = 64 << 20;

/// Somebody who lies, and what is said of it; nothing where it is taken for what it is.
struct Case {
    name: &'static str,
    mock: Mock,
    says: &'static [&'static str],
}

fn case(name: &'static str, mock: Mock, says: &'static [&'static str]) -> Case {
    Case { name, mock, says }
}

/// The parts of an image of one layer.
fn parts(file: Vec<u8>, compression: Compression) -> Parts {
    let layer = LayerBuilder::new().file("file", 0o644, &file);
    ImageBuilder::new().layer(layer.compressed(compression)).parts()
}

fn small() -> Parts {
    parts(vec![7; 70_000], Compression::Plain)
}

/// What an honest registry has of it.
fn content(parts: &Parts) -> Content {
    let mut content = Content::default();
    for blob in parts.layers.iter().chain([&parts.config]) {
        let path = format!("/blobs/sha256:{}", blob.hex());
        content.put(&path, &blob.media_type, blob.bytes.clone());
    }
    let manifest = &parts.manifest;
    content.put("/manifests/1", &manifest.media_type, manifest.bytes.clone());
    content
}

/// The same with another manifest, whose digest is right.
fn with_manifest(change: impl FnOnce(&mut Value)) -> Content {
    let parts = small();
    let mut manifest: Value = serde_json::from_slice(&parts.manifest.bytes).unwrap();
    change(&mut manifest);
    let mut content = content(&parts);
    content.put("/manifests/1", &parts.manifest.media_type, manifest.to_string());
    content
}

/// Half a layer, whose digest is right.
fn truncated() -> Content {
    let mut parts = parts(vec![7; 70_000], Compression::Gzip);
    let layer = &mut parts.layers[0];
    layer.bytes.truncate(layer.bytes.len() / 2);
    let mut manifest: Value = serde_json::from_slice(&parts.manifest.bytes).unwrap();
    manifest["layers"] = json!([layer.descriptor()]);
    parts.manifest.bytes = manifest.to_string().into_bytes();
    content(&parts)
}

/// A registry that answers so where a path has this in it.
fn lying(part: &str, reply: impl Fn() -> Reply + Send + Sync + 'static) -> Mock {
    lying_of(&small(), part, reply)
}

fn lying_of(parts: &Parts, part: &str, reply: impl Fn() -> Reply + Send + Sync + 'static) -> Mock {
    let part = part.to_owned();
    Mock::start(content(parts), move |asked: &Asked| {
        asked.path.contains(&part).then(&reply)
    })
}

/// One that has its layer come like that. No other has that layer: whoever pulls the same one waits for it.
fn silent(number: u8, body: impl Fn(u64) -> Body + Send + Sync + 'static) -> Mock {
    let parts = parts(vec![number; 70_000], Compression::Plain);
    let layer = &parts.layers[0];
    let (hex, size) = (layer.hex(), layer.bytes.len() as u64);
    lying_of(&parts, &hex, move || Reply::new(200, "").body(body(size)))
}

fn honest(content: Content) -> Mock {
    Mock::start(content, |_| None)
}

/// Those who send something: each is done with before long.
fn cases() -> Vec<Case> {
    let layer = format!("sha256:{}", small().layers[0].hex());
    let size = small().layers[0].bytes.len();
    let ok = |body: Body| move || Reply::new(200, "").body(body.clone());
    let moved = |to: &'static str| move || Reply::new(307, "").with("Location", to);
    let bomb = |compression| content(&parts(vec![0; 100 << 20], compression));
    let realm = "Bearer realm=\"file:///etc/shadow\",service=\"s\"";
    vec![
        case(
            "endless manifest",
            lying("/manifests/", ok(Body::Endless)),
            &["more than the 4194304"],
        ),
        case(
            "512 MB of manifest",
            lying("/manifests/", ok(Body::Stalled(512 << 20, vec![b' '; 5 << 20]))),
            &["more than the 4194304"],
        ),
        case(
            "deep manifest",
            lying("/manifests/", || Reply::new(200, "[".repeat(4_000_000))),
            &["nested more than 64"],
        ),
        case(
            "endless config",
            lying("/blobs/", ok(Body::Endless)),
            &["more than the"],
        ),
        case(
            "endless layer",
            lying(&layer, ok(Body::Endless)),
            &["sends more than"],
        ),
        case(
            "another layer",
            lying(&layer, move || Reply::new(200, vec![b'x'; size])),
            &["damaged or was changed"],
        ),
        case(
            "negative size",
            honest(with_manifest(|m| m["layers"][0]["size"] = json!(-1))),
            &["cannot be read"],
        ),
        case(
            "huge size",
            honest(with_manifest(|m| m["layers"][0]["size"] = json!(u64::MAX))),
            &["bytes and"],
        ),
        case("half a layer", honest(truncated()), &["layer sha256:"]),
        case(
            "redirects in a circle",
            lying("/manifests/", moved("/v2/app/manifests/1")),
            &["5 times"],
        ),
        case(
            "redirect to a file",
            lying("/manifests/", moved("file:///etc/shadow")),
            &["no http or https URL"],
        ),
        case(
            "realm that is a file",
            lying("/manifests/", move || {
                Reply::new(401, "").with("WWW-Authenticate", realm)
            }),
            &["no http or https URL"],
        ),
        case("gzip bomb", honest(bomb(Compression::Gzip)), &[]),
        case("zstd bomb", honest(bomb(Compression::Zstd)), &[]),
    ]
}

/// A host with a server under load and one that counts into a file, line by line.
struct AtWork {
    host: Host,
    load: Load,
    lines: PathBuf,
}

impl AtWork {
    fn new() -> Self {
        let mut host = Host::new();
        host.write("web.toml", &host.version_table("1", 0, "", ""));
        host.write_busybox(
            "count",
            "n=0; while :; do n=$((n+1)); echo $n >>/data/lines; sleep 0.01; done",
            "volumes = [\"data:/data\"]\n",
        );
        host.start_agent();
        let status = host.converge();
        let lines = PathBuf::from(&status.volumes[0].path).join("lines");
        host.http_get(From::Neighbour, &format!("http://{}:8080/", host::ADDRESS));
        let mut load = Load::new();
        for client in [Client::New, Client::Kept, Client::Datagram] {
            load.add(&host.neighbour, client, &format!("{}:8080", host::ADDRESS));
        }
        Self { host, load, lines }
    }

    fn counted(&self) -> Vec<u64> {
        let text = fs::read_to_string(&self.lines).unwrap();
        // The last line may be under way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// It goes on counting.
    fn until_it_counts(&self) {
        let before = self.counted().len();
        self.host.until("it counts on", |_| self.counted().len() > before);
    }

    fn in_store(&self, part: &str) -> usize {
        let at = self.host.state_dir().join("store").join(part);
        fs::read_dir(at).unwrap().count()
    }

    /// A pull that goes on in the background, once a layer is on its way.
    fn pulling(&self, mock: &Mock) -> Child {
        let others = self.in_store("tmp");
        let mut command = self.host.wharf_command();
        command.args(["image", "pull", &mock.reference("1")]);
        let pull = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The mock notes a request when its answer is over.
        self.host
            .until("a layer is on its way", |_| self.in_store("tmp") > others);
        pull
    }

    /// Ends the load: nobody missed an answer, and no line is missing.
    fn nobody_noticed(self, before: &Status) -> Host {
        let lines = self.counted();
        assert!(lines.iter().copied().eq(1..=lines.len() as u64), "{lines:?}");
        for (client, seen) in self.load.stop() {
            println!("{client:?}: {} answers", seen.answers);
            assert!(seen.lost.is_empty(), "{client:?}: {:?}", seen.lost);
            assert!(seen.answers > 0, "{client:?} asked nothing");
        }
        let now = self.host.converge();
        assert_eq!(client::pids(&now), client::pids(before));
        assert!(now.containers.iter().all(|c| c.restarts == 0), "{now:#?}");
        self.host
    }
}

#[test]
fn slow_hostile_registries_disturb_no_container_and_fill_no_memory() {
    let site = AtWork::new();
    let before = site.host.status();
    let agent = site.host.agent_pid().unwrap();
    let (images, layers) = (site.in_store("images"), site.in_store("layers"));
    let ns = &site.host.ns;
    memory::forget_peak(agent);
    let start = memory::peak(agent);
    // All the while two are pulled from that say nothing, or next to nothing.
    let silent = ns.within(|| {
        let stalled = silent(1, |size| Body::Stalled(size, vec![b'x'; 10]));
        [stalled, silent(2, Body::Dripping)]
    });
    let mut pulls = silent.each_ref().map(|mock| site.pulling(mock));
    for case in ns.within(cases) {
        let reference = case.mock.reference("1");
        let said = site.host.wharf(["image", "pull", &reference]);
        let grown = memory::peak(agent).saturating_sub(start);
        println!(
            "{}: {} kB more at most; {}",
            case.name,
            grown / 1024,
            said.stderr.trim()
        );
        assert!(grown < MOST, "{}: the agent grew by {grown} bytes", case.name);
        assert_eq!(said.code == 0, case.says.is_empty(), "{}: {said:?}", case.name);
        for needle in case.says {
            assert!(said.stderr.contains(needle), "{}: {needle}: {said:?}", case.name);
        }
        if said.code == 0 {
            site.host.wharf(["image", "rm", &reference]).ok();
        }
        site.until_it_counts();
        ns.within(|| drop(case));
    }
    for pull in &mut pulls {
        pull.kill().unwrap();
        pull.wait().unwrap();
    }
    site.host
        .until("nothing is under way", |_| site.in_store("tmp") == 0);
    // What came whole before the lie may stay for the next try, until it is collected.
    site.host.wharf(["image", "prune"]).ok();
    assert_eq!(
        (site.in_store("images"), site.in_store("layers")),
        (images, layers)
    );
    ns.within(|| drop(silent));
    let host = site.nobody_noticed(&before);
    // And an honest one is as good as ever.
    let mock = host.ns.within(|| honest(content(&small())));
    host.wharf(["image", "pull", &mock.reference("1")]).ok();
    host.ns.within(|| drop(mock));
}
