//! Images that go to docker, podman and skopeo and come from there: by archives and by a registry, held against each other
//! by their digests and file by file.
#![allow(clippy::unwrap_used)]

#[path = "engines/files.rs"]
mod files;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tests::Host;
use tests::client::Said;
use tests::engines::{Dockerd, Engine, Podman};
use tests::images::{Compression, LayerBuilder, busybox};
use tests::registry::Registry;

/// A host and its registry. The host goes first: nobody asks a registry that is gone.
struct Site {
    host: Host,
    registry: Registry,
}

impl Site {
    /// With an image of several layers, of which the upper ones hide, replace and describe what is in the lower ones, and
    /// one that was committed from a container.
    fn new() -> Self {
        let mut host = Host::new();
        let dir = host.dir().join("registry");
        let registry = host.ns.within(|| Registry::start(&dir));
        host.start_agent();
        let site = Self { host, registry };
        let low = LayerBuilder::new()
            .dir("srv", 0o755)
            .dir("srv/hidden", 0o755)
            .file("srv/hidden/low", 0o644, b"low")
            .file("srv/removed", 0o644, b"removed")
            .file("srv/replaced", 0o644, b"low")
            .file("srv/tool", 0o4751, &[7; 200_000])
            .compressed(Compression::Gzip);
        let high = LayerBuilder::new()
            .dir("srv", 0o755)
            .dir("srv/hidden", 0o1777)
            .file("srv/hidden/.wh..wh..opq", 0o644, b"")
            .file("srv/hidden/high", 0o600, b"high")
            .file("srv/.wh.removed", 0o644, b"")
            // Of the mode that the link's own header has: docker takes that one, GNU tar and wharf the file's.
            .file("srv/replaced", 0o644, b"high")
            .file("srv/a name with spaces and \u{fc}mlaut", 0o644, b"x")
            .hard_link("srv/again", "srv/replaced")
            .symlink("srv/link", "hidden/high")
            .fifo("srv/fifo")
            .compressed(Compression::Gzip);
        let image = busybox().layer(low).layer(high).env("WORD=said").cmd(&[
            "sh",
            "-c",
            "echo $WORD; exec sleep 1000",
        ]);
        let source = site.host.oci_dir("ours", &image);
        site.host
            .write("seed.toml", &format!("[image.seed]\npull = {source:?}\n"));
        site.host.converge();
        site.wharf(&["image", "tag", &source, &site.name("ours:1")]);
        site.commit(&site.name("ours:1"), &site.name("made:1"));
        site
    }

    /// What an image is called, here and everywhere: where it is pushed to.
    fn name(&self, name: &str) -> String {
        format!("{}/team/{name}", self.registry.address())
    }

    fn file(&self, name: &str) -> String {
        self.host.dir().join(name).display().to_string()
    }

    #[track_caller]
    fn wharf(&self, args: &[&str]) -> Said {
        self.host.wharf(args).ok()
    }

    fn inspect(&self, image: &str) -> Value {
        let found: Value = serde_json::from_str(&self.wharf(&["image", "inspect", image]).stdout).unwrap();
        found[0].clone()
    }

    /// A running container of an image here.
    fn start(&self, name: &str, image: &str) {
        // Of an image that was committed elsewhere the command is the one that made it what it is.
        let table = format!(
            "[container.{name}]\nimage = {image:?}\npull = \"never\"\nstop_signal = \"SIGKILL\"\nnetwork_mode = \"none\"\n\
             entrypoint = []\ncommand = [\"sleep\", \"1000\"]\n"
        );
        self.host.write(&format!("{name}.toml"), &table);
        self.host.wait_for(name);
    }

    fn stop(&self, name: &str) {
        self.host.remove(&format!("{name}.toml"));
        self.host.until("gone", |s| {
            s.converged && s.containers.iter().all(|c| c.name != name)
        });
    }

    /// An image of what a container changed.
    fn commit(&self, from: &str, to: &str) {
        self.start("box", from);
        let line = format!("{CHANGES}; mknod /srv/null c 1 3");
        self.wharf(&["exec", "box", "sh", "-ec", &line]);
        self.wharf(&["commit", "-a", "tests", "box", to]);
        self.stop("box");
    }

    /// What a container of an image sees in `/srv`.
    fn tree(&self, image: &str) -> PathBuf {
        self.start("look", image);
        let archive = self.file("look.tar");
        self.wharf(&["export", "-o", &archive, "look"]);
        self.stop("look");
        files::unpacked(&self.host, &archive, "wharf")
    }
}

/// Of every sort: a file that is new, gone, has other rights, is somebody else's, became a directory.
const CHANGES: &str = "cd /srv; echo new >new; chown 1000:1001 new; rm tool; chmod 2750 hidden; rm replaced; \
                       mkdir replaced; echo in >replaced/in; chown -h 5:6 link";

/// The engine sees of an image what is seen here: the same id, layers and config, and in a container the same files.
#[track_caller]
fn assert_same(site: &Site, engine: &impl Engine, image: &str, what: &str) {
    let (ours, theirs) = (site.inspect(image), engine.inspect(image));
    let id = |image: &Value| {
        let id = image["Id"].as_str().unwrap();
        id.strip_prefix("sha256:").unwrap_or(id).to_owned()
    };
    assert_eq!(id(&theirs), id(&ours), "{what}");
    assert_eq!(theirs["RootFS"]["Layers"], ours["RootFS"]["Layers"], "{what}");
    for key in ["Cmd", "Env", "Entrypoint", "WorkingDir"] {
        let said = |image: &Value| match &image["Config"][key] {
            Value::String(text) if text.is_empty() => Value::Null,
            Value::Array(list) if list.is_empty() => Value::Null,
            other => other.clone(),
        };
        assert_eq!(said(&theirs), said(&ours), "{what}: {key}");
    }
    engine.run(&["create", "--network", "none", "--name", "look", image]);
    let archive = site.file("theirs.tar");
    engine.run(&["export", "-o", &archive, "look"]);
    engine.run(&["rm", "look"]);
    let theirs = files::unpacked(&site.host, &archive, "theirs");
    files::assert_same(&site.tree(image), &theirs, what);
}

/// Which manifest a name leads to, by who pushed or pulled it.
fn digest_of(image: &Value, name: &str) -> String {
    let repository = name.rsplit_once(':').unwrap().0;
    let all = image["RepoDigests"].as_array().unwrap();
    let mut own = all
        .iter()
        .filter_map(|digest| digest.as_str()?.strip_prefix(&format!("{repository}@")));
    own.next_back()
        .unwrap_or_else(|| panic!("{name}: {all:?}"))
        .to_owned()
}

/// Both ways, by each archive that the engine can load and save (what it is here, and what asks the engine for it), and by
/// the registry, with these flags.
fn exchange(site: &Site, engine: &impl Engine, formats: &[(&str, &[&str])], flags: &[&str]) {
    for name in [site.name("ours:1"), site.name("made:1")] {
        let name = name.as_str();
        for (format, _) in formats {
            let archive = site.file("ours.tar");
            site.wharf(&["image", "save", "--format", format, "-o", &archive, name]);
            engine.run(&["load", "-i", &archive]);
            assert_same(site, engine, name, &format!("{name} loaded from a {format}"));
            engine.run(&["rmi", name]);
        }
        site.wharf(&["image", "push", name]);
        engine.run(&[&["pull"], flags, &[name]].concat());
        assert_same(site, engine, name, &format!("{name} pulled"));
        assert_eq!(
            digest_of(&engine.inspect(name), name),
            digest_of(&site.inspect(name), name),
            "{name} is the one that was pushed"
        );
    }

    // An image of the engine's own making, from one of ours that ran there.
    let (ours, line) = (site.name("ours:1"), format!("echo $WORD; {CHANGES}"));
    let run = ["run", "--network", "none", "--name", "box"].map(str::to_owned);
    let command = [ours, "sh".into(), "-ec".into(), line];
    let said = engine.run(&[&run[..], &engine.run_flags(), &command].concat());
    assert_eq!(said, "said\n");
    let theirs = site.name("theirs:1");
    let theirs = theirs.as_str();
    engine.run(&["commit", "box", theirs]);
    engine.run(&["rm", "box"]);
    for (format, asked) in formats {
        let archive = site.file("back.tar");
        drop(fs::remove_file(&archive));
        engine.run(&[&["save"], *asked, &["-o", archive.as_str(), theirs]].concat());
        let loaded = site.wharf(&["image", "load", "-i", &archive]).stdout;
        assert_eq!(loaded, format!("{theirs}\n"), "{format}");
        assert_same(site, engine, theirs, &format!("{theirs} saved to a {format}"));
        site.wharf(&["image", "rm", theirs]);
    }
    engine.run(&[&["push"], flags, &[theirs]].concat());
    site.wharf(&["image", "pull", theirs]);
    assert_same(site, engine, theirs, &format!("{theirs} pushed"));
    let pulled = site.inspect(theirs);
    let pinned = format!("{}@{}", site.name("theirs"), digest_of(&pulled, theirs));
    engine.run(&[&["pull"], flags, &[pinned.as_str()]].concat());
    assert_eq!(engine.inspect(&pinned)["Id"], engine.inspect(theirs)["Id"]);
}

#[test]
fn images_go_to_docker_and_come_back() {
    let site = Site::new();
    let docker = Dockerd::start(&site.host);
    // Archives of OCI's kind alone are none that docker loads.
    exchange(&site, &docker, &[("docker-archive", &[])], &[]);
}

#[test]
fn images_go_to_podman_and_come_back() {
    let site = Site::new();
    let podman = Podman::on(&site.host);
    let [flag, policy] = podman.policy();
    let formats: [(&str, &[&str]); 2] = [
        ("docker-archive", &["--format", "docker-archive"]),
        ("oci-archive", &["--format", "oci-archive"]),
    ];
    exchange(&site, &podman, &formats, &["--tls-verify=false", &flag, &policy]);
}

/// Runs skopeo on the host's network.
#[track_caller]
fn skopeo(site: &Site, args: &[&str]) -> String {
    let mut command: Command = site.host.ns.command("skopeo");
    let out = command.arg("--insecure-policy").args(args).output();
    Said::from(out.unwrap()).ok().stdout
}

#[test]
fn images_go_through_skopeo_byte_for_byte() {
    let site = Site::new();
    for name in ["ours:1", "made:1"] {
        let image = site.name(name);
        site.wharf(&["image", "push", &image]);
        let (here, there) = (site.inspect(&image), format!("docker://{image}"));
        let inspect = ["inspect", "--tls-verify=false"];
        let found: Value =
            serde_json::from_str(&skopeo(&site, &[&inspect[..], &[there.as_str()]].concat())).unwrap();
        assert_eq!(found["Digest"], digest_of(&here, &image), "{name}");
        let config = skopeo(
            &site,
            &[&inspect[..], &["--config", "--raw", there.as_str()]].concat(),
        );
        let id = format!("sha256:{}", tests::images::write::sha256(config.as_bytes()));
        assert_eq!(here["Id"], id, "{name}");

        // To another name by skopeo, and back from there: nothing of it has changed.
        let copied = site.name(&format!("copied-{name}"));
        let plain = ["copy", "--src-tls-verify=false", "--dest-tls-verify=false"];
        let target = format!("docker://{copied}");
        skopeo(&site, &[&plain[..], &[there.as_str(), target.as_str()]].concat());
        site.wharf(&["image", "pull", &copied]);
        let back = site.inspect(&copied);
        assert_eq!(
            (&back["Id"], &back["RootFS"]),
            (&here["Id"], &here["RootFS"]),
            "{name}"
        );
        assert_eq!(digest_of(&back, &copied), digest_of(&here, &image), "{name}");
        let before = site.tree(&image);
        let kept = site.host.dir().join("before");
        fs::rename(before, &kept).unwrap();
        for kind in ["docker-archive", "oci-archive"] {
            let (file, loaded) = (site.file(&format!("{kind}.tar")), site.name("loaded:1"));
            drop(fs::remove_file(&file));
            let to = format!("{kind}:{file}:{loaded}");
            skopeo(&site, &["copy", "--src-tls-verify=false", &there, &to]);
            site.wharf(&["image", "load", "-i", &file]);
            let back = site.inspect(&loaded);
            assert_eq!(back["RootFS"], here["RootFS"], "{name} {kind}");
            files::assert_same(&kept, &site.tree(&loaded), &format!("{name} {kind}"));
            site.wharf(&["image", "rm", &loaded]);
        }
        fs::remove_dir_all(kept).unwrap();
    }
}
