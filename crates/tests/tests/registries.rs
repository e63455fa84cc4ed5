//! Images from a registry: Debian's `docker-registry` on the loopback of a test host.
#![allow(clippy::unwrap_used)]

#[path = "registries/hostile.rs"]
mod hostile;
#[path = "registries/push.rs"]
mod push;

use std::fs;

use model::status::{State, Status};
use tests::images::{LayerBuilder, busybox};
use tests::pty::Pty;
use tests::registry::{Options, PASSWORD, Registry, USER};
use tests::{Host, namespace::Namespace};

/// A host and its registry. The host goes first: nobody asks a registry that is gone.
struct Site {
    host: Host,
    registry: Registry,
}

impl Site {
    fn new() -> Self {
        Self::with(Options::default(), |_| String::new())
    }

    /// With settings that know the registry's address.
    fn with(options: Options, settings: impl Fn(&str) -> String) -> Self {
        let mut host = Host::new();
        let registry = registry(&host.ns, &host, options);
        fs::write(
            host.settings(),
            settings(&format!("localhost:{}", registry.port())),
        )
        .unwrap();
        host.start_agent();
        Self { host, registry }
    }

    /// What stands behind `image =` for `app:1`.
    fn reference(&self, name: &str) -> String {
        format!("localhost:{}/{name}", self.registry.port())
    }

    /// Pushes an image whose command says `word` and stays; its whole reference.
    fn push(&self, word: &str, name: &str) -> String {
        let image = busybox()
            .layer(LayerBuilder::new().file("word", 0o644, format!("{word}\n").as_bytes()))
            .cmd(&["sh", "-c", "cat /word; exec sleep 1000"]);
        let source = self.host.oci_dir(&format!("app-{word}"), &image);
        self.host.ns.within(|| self.registry.push(&source, name));
        self.reference(name)
    }

    /// A container of that image in a file of its own.
    fn declare(&self, name: &str, image: &str, more: &str) {
        let table = format!("[container.{name}]\nimage = {image:?}\nstop_signal = \"SIGKILL\"\n{more}\n");
        self.host.write(&format!("{name}.toml"), &table);
    }

    /// The word of the container's image, once it said it.
    fn word(&self, name: &str) -> String {
        self.host.wait_for(name);
        let said = || self.host.wharf(["logs", name]).stdout;
        self.host.until("a word", |_| said().ends_with('\n'));
        said().trim().to_owned()
    }

    /// Until the container failed with an error that says all of this.
    fn until_error(&self, name: &str, parts: &[&str]) {
        self.host.until(&format!("{name}: {parts:?}"), |s| {
            error(s, name).is_some_and(|e| parts.iter().all(|p| e.contains(p)))
        });
    }
}

fn registry(ns: &Namespace, host: &Host, options: Options) -> Registry {
    let dir = host.dir().join("registry");
    ns.within(|| Registry::start_as(&dir, options))
}

fn error(status: &Status, name: &str) -> Option<String> {
    let found = status.containers.iter().find(|c| c.name == name)?;
    found.error.clone()
}

#[test]
fn an_image_is_pulled_by_its_name() {
    let mut site = Site::new();
    let image = site.push("one", "app:1");
    site.declare("web", &image, "");
    assert_eq!(site.word("web"), "one");
    let host = &mut site.host;
    let status = host.converge();
    let (web, row) = (&status.containers[0], &status.images[0]);
    assert_eq!(
        (web.image.as_str(), row.reference.as_str()),
        (image.as_str(), image.as_str())
    );
    assert_eq!(row.used_by, ["web"]);
    let digest = row.digest.clone().unwrap();
    assert_eq!(web.image_digest.as_ref(), Some(&digest));
    // The same by its digest: its config is asked for, its layers are here.
    assert_eq!(site.registry.requests(&["wharf/", "GET", "/blobs/"], 3), 3);
    let (repository, _) = image.rsplit_once(':').unwrap();
    site.declare("pinned", &format!("{repository}@{digest}"), "");
    assert_eq!(site.word("pinned"), "one");
    assert_eq!(site.registry.requests(&["wharf/", "GET", "/blobs/"], 4), 4);
    // Once it is here, nobody needs the registry: not a new agent, not a new container.
    let Site { mut host, registry } = site;
    drop(registry);
    host.kill_agent();
    host.start_agent();
    host.write(
        "more.toml",
        &format!("[container.more]\nimage = {image:?}\nstop_signal = \"SIGKILL\"\n"),
    );
    host.converge();
    assert_eq!(host.container("more").state, State::Running);
    assert_eq!(host.container("web").pid, web.pid);
}

#[test]
fn a_tag_that_is_not_there_is_that_containers_error() {
    let site = Site::new();
    let good = site.push("good", "app:1");
    let wrong = site.reference("app:2");
    site.declare("web", &good, "");
    site.declare("lost", &wrong, "");
    let address = format!("localhost:{}", site.registry.port());
    site.until_error("lost", &[&wrong, &address, "no manifest"]);
    assert_eq!(site.word("web"), "good");
    let lost = site.host.container("lost");
    assert!(lost.pid.is_none(), "{lost:?}");
    let row = site.host.status();
    assert!(!row.converged);
    assert_eq!(site.host.wharf(["status"]).code, 3);
    // It is asked for again, without anybody's doing.
    site.push("late", "app:2");
    assert_eq!(site.word("lost"), "late");
    assert_eq!(site.host.container("lost").error, None);
    site.host.converge();
}

#[test]
fn never_pulls_nothing_and_always_asks_for_each_new_container() {
    let site = Site::new();
    let image = site.push("one", "app:1");
    site.declare("frugal", &image, "pull = \"never\"");
    site.until_error("frugal", &[&image, "never"]);
    assert_eq!(site.registry.requests(&["wharf/"], 0), 0, "nobody asked");
    site.declare("eager", &image, "pull = \"always\"");
    assert_eq!(site.word("eager"), "one");
    assert_eq!(site.word("frugal"), "one", "it came with the other");
    // The tag is moved: who runs goes on with what he has.
    let before = site.host.container("eager");
    site.push("two", "app:1");
    site.host.wharf(["reload"]).ok();
    site.host.converge();
    assert_eq!(site.host.container("eager").pid, before.pid);
    site.declare("missing", &image, "");
    assert_eq!(site.word("missing"), "one", "it is here, so nobody asks");
    site.declare("eager", &image, "pull = \"always\"\nhostname = \"other\"");
    site.host.until("replaced", |s| {
        s.converged
            && s.containers
                .iter()
                .any(|c| c.name == "eager" && c.id != before.id)
    });
    assert_eq!(site.word("eager"), "two");
    assert_ne!(site.host.container("eager").image_digest, before.image_digest);
}

#[test]
fn slow_newer_follows_its_tag_and_outlives_its_registry() {
    let site = Site::new();
    let image = site.push("one", "app:1");
    site.declare("web", &image, "pull = \"newer\"\nupdate_check = \"1s\"");
    assert_eq!(site.word("web"), "one");
    let (repository, _) = image.rsplit_once(':').unwrap();
    let before = site.host.container("web");
    let digest = before.image_digest.clone().unwrap();
    let pinned = format!("{repository}@{digest}");
    site.declare("pinned", &pinned, "pull = \"newer\"\nupdate_check = \"1s\"");
    assert_eq!(site.word("pinned"), "one");
    // It is asked again and again, and nothing comes of it.
    let questions = ["wharf/", "/manifests/1"];
    let asked = site.registry.requests(&questions, 1);
    assert!(site.registry.requests(&questions, asked + 3) >= asked + 3);
    let same = site.host.container("web");
    assert_eq!((same.id, same.pid), (before.id.clone(), before.pid));
    // A question that is on its way is something to wait for.
    site.host.until("nothing came of it", |s| s.converged);
    // The tag is moved, and nobody says a word here.
    site.push("two", "app:1");
    site.host.until("the new image", |s| {
        let web = s.containers.iter().find(|c| c.name == "web");
        s.converged && web.is_some_and(|c| c.id != before.id && c.state == State::Running)
    });
    assert_eq!(site.word("web"), "two");
    let after = site.host.container("web");
    assert_ne!(after.image_digest.as_ref(), Some(&digest));
    let by_digest = ["wharf/", digest.as_str()];
    let once = site.registry.requests(&by_digest, 1);
    // Without the registry nothing happens to who runs, nor to who is made.
    let Site { host, registry } = site;
    assert_eq!(
        registry.requests(&by_digest, once),
        once,
        "what a digest leads to is not asked for"
    );
    drop(registry);
    host.until("a registry that is away", |s| {
        s.converged && s.images.iter().any(|i| i.reference == image && i.error.is_some())
    });
    let web = host.container("web");
    assert_eq!((web.pid, web.error), (after.pid, None));
    let more = format!("[container.more]\nimage = {image:?}\npull = \"newer\"\nstop_signal = \"SIGKILL\"\n");
    host.write("more.toml", &more);
    host.wait_for("more");
    assert_eq!(host.container("more").image_digest, after.image_digest);
    assert_eq!(host.container("web").pid, after.pid);
}

#[test]
fn the_settings_log_in() {
    let login = Options {
        login: true,
        ..Options::default()
    };
    let password_file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&password_file, format!("{PASSWORD}\n")).unwrap();
    let site = Site::with(login, |address| {
        format!(
            "[registry.{address:?}]\nusername = {USER:?}\npassword_file = {:?}\n",
            password_file.path().display().to_string()
        )
    });
    let image = site.push("secret", "app:1");
    site.declare("web", &image, "");
    assert_eq!(site.word("web"), "secret");
    let log = site.host.log();
    assert!(!log.contains(PASSWORD), "{log}");
}

#[test]
fn without_a_login_the_error_says_who_wants_one() {
    let login = Options {
        login: true,
        ..Options::default()
    };
    let site = Site::with(login, |_| String::new());
    let image = site.push("secret", "app:1");
    site.declare("web", &image, "");
    let address = format!("localhost:{}", site.registry.port());
    site.until_error("web", &[&image, &address, "username"]);
}

#[test]
fn images_are_pulled_listed_and_removed_by_hand() {
    let site = Site::new();
    let [one, two] = ["one", "two"].map(|word| site.push(word, &format!("app:{word}")));
    let host = &site.host;
    let pulled = host.wharf(["image", "pull", &one, &two]).ok();
    assert_eq!(pulled.stdout, format!("{one}\n{two}\n"));
    assert!(pulled.stderr.contains("Pull complete"), "{pulled:?}");
    assert!(!pulled.stderr.contains(['\r', '\x1b']), "no terminal: {pulled:?}");
    let unknown = host.wharf(["image", "pull", &site.reference("app:three")]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.stderr.contains("app:three"), "{unknown:?}");
    assert!(unknown.stdout.is_empty(), "{unknown:?}");

    site.declare("web", &one, "");
    site.word("web");
    let listed = host.wharf(["image", "ls"]).ok().stdout;
    let line = |image: &str| listed.lines().find(|l| l.starts_with(image)).map(str::to_owned);
    assert!(line(&one).unwrap().ends_with(" web"), "{listed}");
    assert!(!line(&two).unwrap().contains("web"), "{listed}");

    let refused = host.wharf(["image", "rm", &one]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("container web"), "{refused:?}");
    let dry = host.wharf(["image", "prune", "--dry-run"]).ok().stdout;
    assert!(
        dry.starts_with(&format!("{two}\n")) && dry.contains("would be freed"),
        "{dry}"
    );
    assert_eq!(host.status().images.len(), 2);
    let wet = host.wharf(["image", "prune"]).ok().stdout;
    assert_eq!(wet, dry.replace("would be", "were"));
    assert_eq!(host.status().images.len(), 1);

    let mut command = host.wharf_command();
    command.args(["image", "pull", &two]);
    let mut pull = Pty::spawn(&command);
    pull.until(" layers, ");
    pull.until(&format!("{two}\r\n"));
    assert_eq!(pull.end(), 0);
    assert_eq!(host.wharf(["image", "rm", &two]).ok().stdout, format!("{two}\n"));
    host.remove("web.toml");
    host.until("gone", |s| s.containers.is_empty() && s.converged);
    host.wharf(["image", "rm", &one]).ok();
    assert!(host.status().images.is_empty());
    let layers = fs::read_dir(host.state_dir().join("store/layers"))
        .unwrap()
        .count();
    assert_eq!(layers, 0, "nothing is left of them");
}

#[test]
fn the_docker_client_pulls_lists_and_removes() {
    let site = Site::new();
    let [one, two] = ["one", "two"].map(|word| site.push(word, &format!("app:{word}")));
    let host = &site.host;
    let pulled = host.docker(["pull", &one]).ok().stdout;
    assert!(pulled.contains("Digest: sha256:"), "{pulled}");
    site.declare("web", &one, "");
    site.word("web");
    host.docker(["pull", "-q", &two]).ok();
    let failed = host.docker(["pull", &site.reference("app:three")]);
    assert_ne!(failed.code, 0);
    assert!(failed.stderr.contains("app:three"), "{failed:?}");

    let listed = host
        .docker([
            "images",
            "--digests",
            "--format",
            "{{.Repository}}:{{.Tag}} {{.Digest}}",
        ])
        .ok()
        .stdout;
    let digest = host.container("web").image_digest.unwrap();
    assert!(listed.contains(&format!("{one} {digest}\n")), "{listed}");
    assert!(listed.contains(&two), "{listed}");
    assert_eq!(host.docker(["images", "-q"]).ok().stdout.lines().count(), 2);
    assert_eq!(host.docker(["images", "-q", &two]).ok().stdout.lines().count(), 1);

    // It looks among containers, images and networks, in this order.
    let network = host.docker(["inspect", "-f", "{{.Name}}", "default"]).ok();
    assert_eq!(network.stdout, "default\n");

    let refused = host.docker(["rmi", &one]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("container web"), "{refused:?}");
    let removed = host.docker(["rmi", &two]).ok().stdout;
    assert!(removed.contains(&format!("Untagged: {two}")), "{removed}");
    host.docker(["pull", &two]).ok();
    host.docker(["image", "prune", "--force"]).ok();
    assert_eq!(host.status().images.len(), 2, "both have their names");
    let pruned = host.docker(["image", "prune", "--all", "--force"]).ok().stdout;
    assert!(pruned.contains(&two), "{pruned}");
    assert_eq!(host.status().images.len(), 1);
}
