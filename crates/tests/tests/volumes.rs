//! Volumes: named with copy-up, anonymous, binds, tmpfs, others'; that data is kept, and copied; and the room on the disk.
#![allow(clippy::unwrap_used)]

#[path = "volumes/binds.rs"]
mod binds;
#[path = "volumes/copies.rs"]
mod copies;
#[path = "volumes/filled.rs"]
mod filled;
#[path = "volumes/full.rs"]
mod full;
#[path = "volumes/kept.rs"]
mod kept;
#[path = "volumes/lent.rs"]
mod lent;
#[path = "volumes/servers.rs"]
mod servers;
#[path = "volumes/space.rs"]
mod space;

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use model::status::State;
use tests::images::busybox;
use tests::leaks::Snapshot;
use tests::{Host, images};

fn inside(host: &Host, line: &str) -> String {
    host.wharf(["exec", "box", "sh", "-c", line]).ok().stdout
}

fn with_box(host: &mut Host, more: &str) {
    host.write("box.toml", &host.busybox_table("box", "exec sleep 1000", more));
    host.start_agent();
    host.converge();
}

#[test]
fn a_named_volume_outlives_its_containers_and_its_table() {
    let mut host = Host::new();
    with_box(&mut host, "volumes = [\"data:/data\"]\n");
    inside(&host, "echo kept > /data/file");
    // Killed, replaced, removed and declared again.
    let before = host.container("box");
    host.wharf(["kill", "box"]).ok();
    host.until("again", |s| {
        s.containers[0].restarts == 1 && s.containers[0].pid.is_some()
    });
    assert_eq!(inside(&host, "cat /data/file"), "kept\n");
    let other = |env: &str| {
        host.busybox_table(
            "box",
            "exec sleep 1000",
            &format!("env = {{ A = \"{env}\" }}\nvolumes = [\"data:/data\"]\n"),
        )
    };
    host.write("box.toml", &other("1"));
    host.until("replaced", |s| s.converged && s.containers[0].id != before.id);
    assert_eq!(inside(&host, "cat /data/file"), "kept\n");
    host.remove_all();
    let gone = host.until("gone", |s| s.containers.is_empty() && s.converged);
    assert_eq!(gone.volumes.len(), 1);
    assert_eq!(
        (gone.volumes[0].name.as_str(), gone.volumes[0].kept),
        ("data", true)
    );
    assert!(gone.volumes[0].used_by.is_empty());
    host.write("box.toml", &other("2"));
    host.converge();
    assert_eq!(inside(&host, "cat /data/file"), "kept\n");
    let listed = host.wharf(["volume", "ls"]).ok().stdout;
    assert!(listed.contains("data") && listed.contains("box"), "{listed}");
    let refused = host.wharf(["volume", "rm", "data"]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("box"), "{refused:?}");
    host.remove_all();
    host.until("gone", |s| s.containers.is_empty() && s.converged);
    host.wharf(["volume", "rm", "data"]).ok();
    assert!(host.status().volumes.is_empty());
}

#[test]
fn an_empty_volume_gets_what_the_image_has_there() {
    let mut host = Host::new();
    let layer = images::LayerBuilder::new()
        .dir("site", 0o750)
        .file("site/index.html", 0o640, b"from the image")
        .symlink("site/link", "index.html");
    let image = host.oci_dir("site", &busybox().layer(layer));
    host.write(
        "box.toml",
        &format!("[container.box]\nimage = {image:?}\ncommand = [\"sleep\", \"1000\"]\nstop_signal = \"SIGKILL\"\nvolumes = [\"site:/site\"]\n"),
    );
    host.start_agent();
    let status = host.converge();
    assert_eq!(
        inside(&host, "cat /site/link; stat -c %a /site /site/index.html"),
        "from the image750\n640\n"
    );
    let path = std::path::Path::new(&status.volumes[0].path);
    assert_eq!(std::fs::metadata(path).unwrap().mode() & 0o7777, 0o750);
    // What is in it is never filled again.
    inside(&host, "rm /site/index.html; echo mine > /site/own");
    host.wharf(["restart", "box"]).ok();
    assert_eq!(inside(&host, "ls /site"), "link\nown\n");
}

#[test]
fn binds_are_as_they_are_written() {
    let mut host = Host::new();
    let dir = host.dir().join("srv");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("file"), "host's").unwrap();
    let dir = dir.display();
    let more = format!(
        "volumes = [\"{dir}:/rw\", \"{dir}:/ro:ro\", {{ type = \"bind\", source = \"{dir}/made/new\", target = \"/made\", create = true }}, \"{dir}/file:/one\"]\n"
    );
    with_box(&mut host, &more);
    assert_eq!(
        inside(&host, "cat /rw/file /ro/file /one; ls -d /made"),
        "host'shost'shost's/made\n"
    );
    let refused = host.wharf(["exec", "box", "sh", "-c", "echo x > /ro/file"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    inside(&host, "echo changed > /rw/file; chmod 600 /rw/file");
    let file = host.dir().join("srv/file");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "changed\n");
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn a_bind_that_cannot_be_is_named() {
    let mut host = Host::new();
    let missing = host.dir().join("missing");
    let line = format!("volumes = [\"{}:/x\"]\n", missing.display());
    host.write("box.toml", &host.busybox_table("box", "exec sleep 1000", &line));
    let mount = format!(
        "volumes = [{{ type = \"bind\", source = \"{}\", target = \"/x\", require_mount = true }}]\n",
        host.images_dir().display()
    );
    host.write("mnt.toml", &host.busybox_table("mnt", "exec sleep 1000", &mount));
    host.start_agent();
    let seen = host.until_state("box", State::Failed);
    assert!(
        seen.error.as_ref().unwrap().contains(missing.to_str().unwrap()),
        "{seen:?}"
    );
    let seen = host.until_state("mnt", State::Failed);
    assert!(seen.error.as_ref().unwrap().contains("mount"), "{seen:?}");
    // Put right, it comes by itself.
    std::fs::create_dir(&missing).unwrap();
    host.wait_for("box");
}

#[test]
fn memory_and_anonymous_volumes() {
    let mut host = Host::new();
    host.start_agent();
    host.converge();
    let rest = Snapshot::take(&host);
    let more = "volumes = [\"/anon\", { type = \"tmpfs\", target = \"/mem\", size = \"1M\", mode = \"0700\" }]\ntmpfs = [\"/run:size=64K\"]\n";
    host.write("box.toml", &host.busybox_table("box", "exec sleep 1000", more));
    host.converge();
    assert_eq!(
        inside(
            &host,
            "stat -c %a /mem; dd if=/dev/zero of=/mem/x bs=1k count=2000 2>/dev/null || echo full"
        ),
        "700\nfull\n"
    );
    inside(&host, "echo anonymous > /anon/x");
    host.wharf(["restart", "box"]).ok();
    assert_eq!(inside(&host, "cat /anon/x; ls /mem"), "anonymous\n");
    host.remove_all();
    host.until("gone", |s| s.containers.is_empty() && s.converged);
    host.assert_no_leaks(&rest);
}

#[test]
fn two_containers_share_a_volume() {
    let mut host = Host::new();
    let box2 = host.busybox_table("other", "exec sleep 1000", "volumes = [\"data:/data:ro\"]\n");
    host.write("other.toml", &box2);
    host.write("volume.toml", "[volume.data]\nlabels = { what = \"shared\" }\n");
    with_box(&mut host, "volumes = [\"data:/data\"]\n");
    inside(&host, "echo shared > /data/x");
    assert_eq!(
        host.wharf(["exec", "other", "cat", "/data/x"]).ok().stdout,
        "shared\n"
    );
    assert_ne!(host.wharf(["exec", "other", "touch", "/data/y"]).code, 0);
    let status = host.status();
    assert_eq!(status.volumes[0].used_by, ["box", "other"]);
    let shown = host.wharf(["volume", "inspect", "data"]).ok().stdout;
    assert!(shown.contains("shared") || shown.contains("local"), "{shown}");
}

#[test]
fn a_volume_that_is_not_kept_goes_with_its_table() {
    let mut host = Host::new();
    host.write("volume.toml", "[volume.data]\nkeep = false\n");
    with_box(&mut host, "volumes = [\"data:/data\"]\n");
    let path = host.status().volumes[0].path.clone();
    assert!(std::path::Path::new(&path).is_dir());
    host.remove_all();
    host.until("gone", |s| {
        s.volumes.is_empty() && s.containers.is_empty() && s.converged
    });
    assert!(!std::path::Path::new(&path).exists());
}
