//! Bad input of every kind: a clear error on that file or container alone, everything else converged.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};

use model::status::{State, Status};
use nix::sys::stat::Mode;
use tests::images::{self, ImageBuilder, LayerBuilder};
use tests::{From, Host};

/// A host where `good` runs: it has to run on, whatever else is in the directory.
fn with_good() -> Host {
    let mut host = Host::new();
    host.write("good.toml", &host.hello_table("good", &["8080:80"]));
    host.start_agent();
    host.converge();
    host
}

fn assert_good(host: &Host) {
    let good = host.container("good");
    assert_eq!((good.state, good.restarts), (State::Running, 0));
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
}

/// The file is named in an error with these words, and only good runs.
#[track_caller]
fn assert_file_error(host: &Host, file: &str, words: &[&str]) {
    host.wharf(["reload"]);
    let has = |s: &Status| s.errors.iter().any(|e| e.at.file.ends_with(file));
    let status = host.until(&format!("an error on {file}"), has);
    let error = status.errors.iter().find(|e| e.at.file.ends_with(file)).unwrap();
    let said = format!("{} {}", error.message, error.hint.clone().unwrap_or_default());
    for word in words {
        assert!(
            said.to_lowercase().contains(word),
            "{file}: no {word:?} in {said:?}"
        );
    }
    assert!(!status.converged);
    assert_eq!(host.wharf(["status"]).code, 3);
    assert_eq!(
        host.wharf(["wait", "good"]).code,
        0,
        "the error does not concern it"
    );
    assert_eq!(host.wharf(["validate"]).code, 1);
    assert_good(host);
}

/// The container is listed as failed with these words, and good runs.
#[track_caller]
fn assert_container_error(host: &Host, name: &str, words: &[&str]) {
    host.wharf(["reload"]);
    // What it waits for is told as well, for a moment; failed and backoff are verdicts.
    let verdict = |s: State| matches!(s, State::Failed | State::Backoff);
    let has = |s: &Status| s.containers.iter().any(|c| c.name == name && verdict(c.state));
    let status = host.until(&format!("a verdict on {name}"), has);
    let row = status.containers.iter().find(|c| c.name == name).unwrap();
    let said = row.error.clone().unwrap_or_else(|| panic!("no error on {row:?}"));
    for word in words {
        assert!(
            said.to_lowercase().contains(&word.to_lowercase()),
            "{name}: no {word:?} in {said:?}"
        );
    }
    assert!(!status.converged && row.pid.is_none(), "{row:?}");
    assert_good(host);
}

fn table(name: &str, image: &str, more: &str) -> String {
    format!("[container.{name}]\nimage = {image:?}\n{more}\n")
}

#[test]
fn a_directory_a_fifo_and_links_that_lead_nowhere() {
    let host = with_good();
    let dir = host.config_dir();
    fs::create_dir(dir.join("dir.toml")).unwrap();
    assert_file_error(&host, "dir.toml", &["directory"]);
    fs::remove_dir(dir.join("dir.toml")).unwrap();
    nix::unistd::mkfifo(&dir.join("pipe.toml"), Mode::from_bits_truncate(0o644)).unwrap();
    assert_file_error(&host, "pipe.toml", &["fifo"]);
    host.remove("pipe.toml");
    symlink("loop.toml", dir.join("loop.toml")).unwrap();
    assert_file_error(&host, "loop.toml", &["link"]);
    host.remove("loop.toml");
    symlink("/nowhere", dir.join("nowhere.toml")).unwrap();
    assert_file_error(&host, "nowhere.toml", &[]);
    host.remove("nowhere.toml");
    host.wharf(["reload"]).ok();
    assert!(host.converge().errors.is_empty(), "an error goes with its file");
}

#[test]
fn a_file_that_is_too_large_not_utf8_world_writable_or_foreign() {
    let host = with_good();
    let dir = host.config_dir();
    File::create(dir.join("huge.toml"))
        .unwrap()
        .set_len(100 << 20)
        .unwrap();
    assert_file_error(&host, "huge.toml", &["bytes"]);
    host.remove("huge.toml");
    fs::write(dir.join("latin.toml"), b"[container.a]\nimage = \"caf\xe9\"\n").unwrap();
    assert_file_error(&host, "latin.toml", &["utf-8"]);
    host.remove("latin.toml");
    host.write("open.toml", "");
    fs::set_permissions(dir.join("open.toml"), fs::Permissions::from_mode(0o666)).unwrap();
    assert_file_error(&host, "open.toml", &["chmod"]);
    host.remove("open.toml");
    host.write("foreign.toml", "");
    std::os::unix::fs::chown(dir.join("foreign.toml"), Some(1000), Some(1000)).unwrap();
    assert_file_error(&host, "foreign.toml", &["chown"]);
}

#[test]
fn syntax_errors_unknown_and_unsupported_keys_have_their_place() {
    let host = with_good();
    host.write("syntax.toml", "[container.a]\nimage = \n");
    assert_file_error(&host, "syntax.toml", &[]);
    host.write("key.toml", "[container.b]\nimage = \"oci:/x\"\nimagee = 1\n");
    assert_file_error(&host, "key.toml", &["imagee"]);
    let status = host.status();
    let key = status
        .errors
        .iter()
        .find(|e| e.at.file.ends_with("key.toml"))
        .unwrap();
    assert_eq!((key.at.line, key.at.column), (Some(3), Some(1)), "{key:?}");
    host.write(
        "later.toml",
        "[container.c]\nimage = \"oci:/x\"\nuserns = \"auto\"\n",
    );
    assert_file_error(&host, "later.toml", &["not supported yet"]);
}

#[test]
fn a_file_that_breaks_keeps_what_it_held() {
    let host = with_good();
    host.write("good.toml", "[container.good]\nimage = 7\n");
    assert_file_error(&host, "good.toml", &[]);
}

#[test]
fn files_that_vanish_while_they_are_read_are_no_error() {
    let host = with_good();
    for n in 0..200 {
        let name = format!("gone{n}.toml");
        host.write(&name, "");
        host.remove(&name);
    }
    host.wharf(["reload"]).ok();
    assert!(host.converge().errors.is_empty());
    assert_good(&host);
}

#[test]
fn an_image_that_is_missing_truncated_or_lies_about_itself() {
    let host = with_good();
    host.write("x.toml", &table("missing", "oci:/nowhere/at/all", ""));
    assert_container_error(&host, "missing", &["/nowhere/at/all"]);
    host.write("x.toml", &table("no-archive", "docker-archive:/nowhere.tar", ""));
    assert_container_error(&host, "no-archive", &["/nowhere.tar"]);
    let tar = host.images_dir().join("cut.tar");
    images::hello().oci_archive(&tar);
    let half = fs::metadata(&tar).unwrap().len() / 2;
    File::options()
        .write(true)
        .open(&tar)
        .unwrap()
        .set_len(half)
        .unwrap();
    host.write(
        "x.toml",
        &table("cut", &format!("oci-archive:{}", tar.display()), ""),
    );
    assert_container_error(&host, "cut", &["cut.tar"]);
}

#[test]
fn a_wrong_digest_at_each_level() {
    let host = with_good();
    for level in ["manifest", "config", "layer", "diff"] {
        let dir = host.images_dir().join(format!("wrong-{level}"));
        // A layer of its own: one that the store holds already is not read again.
        let parts = one_of_a_kind(level).oci_dir(&dir);
        let spoil = |hex: &str| {
            let path = dir.join("blobs/sha256").join(hex);
            let mut bytes = fs::read(&path).unwrap();
            let at = bytes.len() - 1;
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
        };
        match level {
            "manifest" => spoil(&parts.manifest.hex()),
            "config" => spoil(&parts.config.hex()),
            "layer" => spoil(&parts.layers[1].hex()),
            _ => wrong_diff_id(&dir, &one_of_a_kind(level)),
        }
        let name = format!("wrong-{level}");
        host.write("x.toml", &table(&name, &format!("oci:{}", dir.display()), ""));
        assert_container_error(&host, &name, &[]);
    }
}

fn one_of_a_kind(word: &str) -> ImageBuilder {
    images::hello().layer(LayerBuilder::new().file("word", 0o644, word.as_bytes()))
}

/// An image whose blobs are what their digests say, but whose config promises another layer content.
fn wrong_diff_id(dir: &std::path::Path, image: &ImageBuilder) {
    use serde_json::{Value, json};
    use tests::images::write::Blob;
    fs::remove_dir_all(dir).unwrap();
    let parts = image.oci_dir(dir);
    let mut config: Value = serde_json::from_slice(&parts.config.bytes).unwrap();
    config["rootfs"]["diff_ids"] = json!([
        format!("sha256:{}", "0".repeat(64)),
        format!("sha256:{}", "1".repeat(64))
    ]);
    let config = Blob::json(&parts.config.media_type, &config);
    let mut manifest: Value = serde_json::from_slice(&parts.manifest.bytes).unwrap();
    manifest["config"] = config.descriptor();
    let manifest = Blob::json(&parts.manifest.media_type, &manifest);
    for blob in [&config, &manifest] {
        fs::write(dir.join("blobs/sha256").join(blob.hex()), &blob.bytes).unwrap();
    }
    let index = json!({ "schemaVersion": 2, "manifests": [manifest.descriptor()] });
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
}

/// Layers that try to write outside; each is refused or kept inside, and nothing appears on the host.
#[test]
fn layers_that_try_to_get_out() {
    let host = with_good();
    let trap = host.dir().join("trap");
    fs::create_dir(&trap).unwrap();
    let out = trap.display().to_string();
    let dots = "../".repeat(12) + out.trim_start_matches('/');
    let hello = || LayerBuilder::new().file_from("hello", 0o755, images::hello_program());
    let layers = [
        ("dotdot", hello().file(&format!("{dots}/a"), 0o644, b"x")),
        ("absolute", hello().file(&format!("{out}/b"), 0o644, b"x")),
        (
            "through-link",
            hello().symlink("l", &out).file("l/c", 0o644, b"x"),
        ),
        (
            "through-dots",
            hello().symlink("l", &dots).file("l/d", 0o644, b"x"),
        ),
        ("hard-link", hello().hard_link("e", "/etc/shadow")),
        (
            "device-in-the-way",
            hello().device("d", 1, 3).file("d/f", 0o644, b"x"),
        ),
        ("fifo-in-the-way", hello().fifo("p").file("p/g", 0o644, b"x")),
    ];
    for (name, layer) in layers {
        let image = host.oci_dir(name, &ImageBuilder::new().layer(layer).entrypoint(&["/hello"]));
        host.write("x.toml", &table(name, &image, ""));
        host.wharf(["reload"]);
        let settled = |s: &Status| {
            s.containers
                .iter()
                .any(|c| c.name == name && (c.error.is_some() || c.pid.is_some()))
        };
        host.until(&format!("a verdict on {name}"), settled);
        assert_eq!(fs::read_dir(&trap).unwrap().count(), 0, "{name} got out");
        assert_good(&host);
    }
}

#[test]
fn a_command_that_cannot_be_run_and_a_user_that_is_not_there() {
    let host = with_good();
    let layer = LayerBuilder::new()
        .file("data", 0o644, b"no program")
        .file("script", 0o755, b"#!/no/such/interpreter\n")
        .file("garbage", 0o755, b"neither ELF nor script");
    let image = host.oci_dir("odd", &images::busybox().layer(layer));
    let cases = [
        ("absent", "command = [\"/absent\"]", "/absent"),
        ("not-in-path", "command = [\"nonesuch\"]", "nonesuch"),
        ("not-executable", "command = [\"/data\"]", "/data"),
        ("no-interpreter", "command = [\"/script\"]", "/script"),
        ("garbage", "command = [\"/garbage\"]", "/garbage"),
        ("a-directory", "command = [\"/etc\"]", "/etc"),
        (
            "no-user",
            "command = [\"sleep\", \"1000\"]\nuser = \"nobody-here\"",
            "nobody-here",
        ),
        (
            "no-dir-user",
            "command = [\"sleep\", \"1000\"]\ngroups = [\"no-group\"]",
            "no-group",
        ),
    ];
    for (name, more, word) in cases {
        host.write("x.toml", &table(name, &image, more));
        assert_container_error(&host, name, &[word]);
    }
}

#[test]
fn a_port_that_is_taken_names_who_holds_it() {
    let host = with_good();
    let mut server = host
        .ns
        .command(images::hello_program())
        .arg("8090")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    host.http_get(From::Host, "http://127.0.0.1:8090/");
    host.write("x.toml", &host.hello_table("late", &["8090:80"]));
    assert_container_error(&host, "late", &["8090", &server.id().to_string()]);
    server.kill().unwrap();
    server.wait().unwrap();
    host.wharf(["reload"]).ok();
    host.wait_for("late");
    // Ours against ours is found in the files.
    host.write("y.toml", &host.hello_table("later", &["8090:80"]));
    host.wharf(["reload"]);
    let status = host.until("an error", |s| !s.errors.is_empty());
    let said = format!("{:?}", status.errors);
    assert!(
        said.contains("8090") && said.contains("x.toml") && said.contains("y.toml"),
        "{said}"
    );
    assert_eq!(host.wharf(["wait", "late"]).code, 0);
    assert_good(&host);
}

#[test]
fn a_subnet_that_collides_with_the_hosts() {
    let host = with_good();
    let net = "[network.front]\nsubnet = \"192.0.2.0/25\"\n";
    host.write(
        "x.toml",
        &(net.to_owned() + &host.hello_table("inside", &[]) + "networks = [\"front\"]\n"),
    );
    host.wharf(["reload"]);
    let status = host.until("an error", |s| {
        !s.errors.is_empty()
            || s.containers.iter().any(|c| c.error.is_some())
            || s.networks.iter().any(|n| n.error.is_some())
    });
    let said = serde_json::to_string(&status).unwrap();
    assert!(said.contains("192.0.2"), "{said}");
    assert!(!status.converged);
    assert!(host.ns.sh("ip -o addr show dev eth0").contains("192.0.2.1/24"));
    assert_good(&host);
}
