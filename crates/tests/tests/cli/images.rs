//! Images looked at, named, saved, loaded and checked: by `wharf image`, and by the stock docker client.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;
use tests::Host;
use tests::client::Said;
use tests::images::{LayerBuilder, busybox};
use tests::pty::Pty;

use super::{assert_error, json, pipe};

/// A host whose store has an image under the name `app:1`, of two layers.
fn with_app() -> Host {
    let mut host = Host::new();
    let image = busybox()
        .layer(LayerBuilder::new().file("word", 0o4640, b"hello\n"))
        .cmd(&["sh", "-c", "cat /word; exec sleep 1000"]);
    let source = host.oci_dir("app", &image);
    host.write("seed.toml", &format!("[image.seed]\npull = {source:?}\n"));
    host.start_agent();
    host.converge();
    host.wharf(["image", "tag", &source, "app:1"]).ok();
    host
}

fn file(host: &Host, name: &str) -> String {
    host.dir().join(name).display().to_string()
}

/// Runs it with the file on its standard input.
fn fed(command: &mut Command, from: &str) -> Said {
    let out = command.stdin(Stdio::from(fs::File::open(from).unwrap())).output();
    Said::from(out.unwrap())
}

#[test]
fn an_image_is_described_as_docker_does() {
    let host = with_app();
    let one = json(&host.wharf(["image", "inspect", "app:1"]).ok());
    let (image, list) = (&one[0], json(&host.wharf(["image", "ls", "--json"]).ok()));
    let row = list
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["ref"] == "docker.io/library/app:1")
        .unwrap();
    assert_eq!(
        (&image["Id"], &image["RepoTags"]),
        (&row["id"], &serde_json::json!(["app:1"]))
    );
    assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 2);
    assert_eq!(image["Config"]["Cmd"][0], "sh");
    assert!(image["Size"].as_u64().unwrap() > 500_000, "{image}");
    let says = |format: &str| {
        host.docker(["image", "inspect", "-f", format, "app:1"])
            .ok()
            .stdout
    };
    assert_eq!(
        says("{{.Id}} {{index .Config.Cmd 0}} {{.Os}}"),
        format!("{} sh linux\n", image["Id"].as_str().unwrap())
    );
    // By its id, and where docker does not know whether it is a container.
    let id = &image["Id"].as_str().unwrap()["sha256:".len()..][..12];
    let found: Value = serde_json::from_str(&host.docker(["inspect", id]).ok().stdout).unwrap();
    assert_eq!(found[0]["Id"], image["Id"]);
    assert_eq!(host.docker(["inspect", "nothing"]).code, 1);
    assert_error(
        &host.wharf(["image", "inspect", "nothing"]),
        1,
        &["nothing", "image ls"],
    );

    let text = host.wharf(["image", "history", "app:1"]).ok().stdout;
    assert!(
        text.starts_with("IMAGE ") && text.lines().count() == 3 && text.contains(id),
        "{text}"
    );
    let rows = json(&host.wharf(["image", "history", "--json", "app:1"]).ok());
    assert_eq!(
        (&rows[0]["Id"], &rows[1]["Id"]),
        (&image["Id"], &Value::from("<missing>"))
    );
    assert_eq!(rows[0]["Size"], 6);
    let ids = |args: &[&str]| {
        host.wharf([&["image", "history"], args, &["app:1"]].concat())
            .ok()
            .stdout
    };
    assert_eq!(ids(&["-q"]), format!("{id}\n<missing>\n"));
    assert_eq!(
        ids(&["-q", "--no-trunc"]),
        format!("{}\n<missing>\n", image["Id"].as_str().unwrap())
    );
    let docker = host.docker(["history", "-q", "app:1"]).ok().stdout;
    assert_eq!(docker, format!("{id}\n<missing>\n"));
}

#[test]
fn a_name_more_is_an_image_more_and_nothing_is_asked() {
    let host = with_app();
    host.docker(["tag", "app:1", "localhost:1/team/other:2"]).ok();
    let container = |name: &str, image: &str| {
        host.write(
            &format!("{name}.toml"),
            &format!("[container.{name}]\nimage = {image:?}\npull = \"never\"\nstop_signal = \"SIGKILL\"\n"),
        );
        host.wait_for(name);
    };
    container("a", "app:1");
    // Nobody listens there.
    container("b", "localhost:1/team/other:2");
    host.remove("seed.toml");
    host.converge();
    let tags = json(&host.wharf(["image", "inspect", "app:1"]).ok());
    assert_eq!(
        tags[0]["RepoTags"],
        serde_json::json!(["app:1", "localhost:1/team/other:2"])
    );
    for (target, says) in [
        ("X", "lower-case"),
        ("app@sha256:00", "digest"),
        ("oci:/x", "NAME[:TAG]"),
    ] {
        assert_error(&host.wharf(["image", "tag", "app:1", target]), 1, &[says]);
    }
    assert_error(&host.wharf(["image", "tag", "nothing:1", "x"]), 1, &["nothing:1"]);
}

/// Out of one host and into another, by files and by pipes, by either client.
#[test]
fn archives_go_from_host_to_host() {
    let host = with_app();
    let mut other = Host::new();
    other.start_agent();
    let id = |host: &Host, name: &str| json(&host.wharf(["image", "inspect", name]).ok())[0]["Id"].clone();
    host.wharf(["image", "tag", "app:1", "again:2"]).ok();
    let was = id(&host, "app:1");

    let docker = file(&host, "docker.tar");
    host.wharf(["image", "save", "-o", &docker, "app:1", "again:2"])
        .ok();
    let loaded = other.wharf(["image", "load", "-i", &docker]).ok().stdout;
    assert_eq!(loaded, "docker.io/library/app:1\ndocker.io/library/again:2\n");
    assert_eq!(
        (id(&other, "app:1"), id(&other, "again:2")),
        (was.clone(), was.clone())
    );
    other.write(
        "app.toml",
        "[container.app]\nimage = \"app:1\"\nstop_signal = \"SIGKILL\"\n",
    );
    other.wait_for("app");
    other.until("its word", |_| other.wharf(["logs", "app"]).stdout == "hello\n");

    // What one saves the other one loads, packed and through pipes.
    let saved = file(&host, "client.tar");
    host.docker(["save", "-o", &saved, "app:1", "again:2"]).ok();
    assert!(
        fs::read(&saved).unwrap() == fs::read(&docker).unwrap(),
        "the clients have different archives"
    );
    let oci = file(&host, "oci.tar");
    pipe(
        &host,
        &format!("$WHARF image save --format oci-archive app:1 > {oci}"),
    );
    for (number, packing) in ["cat", "gzip -1", "zstd -1", "xz -0"].iter().enumerate() {
        let packed = file(&host, "packed");
        let source = if number % 2 == 0 { &docker } else { &oci };
        let made = Command::new("sh")
            .args(["-c", &format!("{packing} < {source} > {packed}")])
            .status();
        assert!(made.unwrap().success());
        let mut fresh = Host::new();
        fresh.start_agent();
        let said = match number % 2 {
            0 => fed(fresh.docker_command().args(["load"]), &packed).ok().stdout,
            _ => {
                fed(fresh.wharf_command().args(["image", "load"]), &packed)
                    .ok()
                    .stdout
            }
        };
        assert!(said.contains("app:1"), "{packing}: {said}");
        assert_eq!(id(&fresh, "app:1"), was, "{packing}");
    }
    // What is no archive of images changes nothing.
    let before = other.wharf(["image", "ls"]).stdout;
    let nothing = "nothing of the kind".repeat(100);
    fs::write(&saved, &nothing).unwrap();
    assert_error(&other.wharf(["image", "load", "-i", &saved]), 1, &["tar archive"]);
    assert_eq!(fed(other.docker_command().args(["load"]), &saved).code, 1);
    assert_error(
        &other.wharf(["image", "save", "-o", &saved, "nothing:1"]),
        1,
        &["nothing:1"],
    );
    assert_eq!(fs::read_to_string(&saved).unwrap(), nothing);
    assert_eq!(other.wharf(["image", "ls"]).stdout, before);
}

/// Damage below a container that runs is found, named, mended from where the image came from, and the container goes on.
#[test]
fn damage_is_mended_below_a_running_container() {
    let host = with_app();
    host.write(
        "app.toml",
        "[container.app]\nimage = \"app:1\"\nstop_signal = \"SIGKILL\"\n",
    );
    host.wait_for("app");
    let pid = host.container("app").pid;
    let said = host.wharf(["image", "verify"]).ok();
    assert_eq!(
        said.stderr.matches(": Checked\n").count(),
        2,
        "a layer once, whoever has it: {said:?}"
    );
    assert!(!said.stderr.contains(['\r', '\x1b']), "no terminal: {said:?}");
    let good = said.stdout;
    assert!(
        good.lines().count() == 2 && good.lines().all(|line| line.ends_with(": good")),
        "{good}"
    );
    let layers = host.state_dir().join("store/layers");
    let layers = fs::read_dir(&layers).unwrap().map(|entry| entry.unwrap().path());
    let word = layers
        .map(|layer| layer.join("word"))
        .find(|word| word.exists())
        .unwrap();
    fs::write(&word, "hellO\n").unwrap();
    let said = host.wharf(["image", "verify", "app:1"]);
    assert_eq!(said.code, 1);
    assert!(
        said.stdout.contains("\"word\": its content is not what it was"),
        "{said:?}"
    );
    assert!(
        said.stderr.contains("1 of 1 images are damaged; --repair"),
        "{said:?}"
    );
    let saved = host.wharf(["image", "save", "-o", &file(&host, "x.tar"), "app:1"]);
    assert_eq!(saved.code, 1, "{saved:?}");
    assert!(!host.dir().join("x.tar").exists());
    let found = host.wharf(["image", "verify", "--json", "app:1"]);
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(
        (&found[0]["ok"], &found[0]["damage"][0]["path"]),
        (&Value::from(false), &Value::from("\"word\""))
    );

    let said = host.wharf(["image", "verify", "--repair", "app:1"]).ok().stdout;
    assert!(said.starts_with("docker.io/library/app:1: repaired"), "{said}");
    assert_eq!(fs::read_to_string(&word).unwrap(), "hello\n");
    let mut command = host.wharf_command();
    command.args(["image", "verify"]);
    let mut verify = Pty::spawn(&command);
    verify.until(" of 2 layers, ");
    verify.until(": good\r\n");
    assert_eq!(verify.end(), 0);
    assert_eq!(host.container("app").pid, pid);
    host.wharf(["exec", "app", "cat", "/word"]).ok();
    // What it has looked up stays as it was; a new run looks anew.
    host.wharf(["restart", "app"]).ok();
    assert_eq!(host.wharf(["exec", "app", "cat", "/word"]).ok().stdout, "hello\n");
}
