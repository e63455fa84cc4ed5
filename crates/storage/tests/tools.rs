//! Images made by buildah and skopeo, compared file by file with what was put in. Fails where the tools are missing.
#![allow(clippy::unwrap_used)]

mod common;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::snapshot::{CHARACTER, FILE, Picture};
use common::{Fixture, entries, snapshot};
use model::image::{Image, ImageSource};

/// Runs a program and returns what it printed.
fn run(program: &str, args: &[&OsStr]) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|e| panic!("{program} must be installed for this test: {e}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Buildah with a storage of its own.
struct Buildah {
    dir: PathBuf,
}

impl Buildah {
    fn new(dir: PathBuf) -> Self {
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(
            dir.join("policy.json"),
            r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
        )
        .unwrap();
        Self { dir }
    }

    fn run(&self, args: &[&str]) -> String {
        let (root, runroot) = (self.dir.join("root"), self.dir.join("run"));
        let own = ["--storage-driver", "vfs", "--root"].map(OsStr::new);
        let mut all = own.to_vec();
        all.extend([root.as_os_str(), OsStr::new("--runroot"), runroot.as_os_str()]);
        all.extend(args.iter().map(OsStr::new));
        run("buildah", &all)
    }

    fn push(&self, image: &str, to: &str, more: &[&str]) {
        let policy = self.dir.join("policy.json");
        let mut args = vec!["push", "--signature-policy", policy.to_str().unwrap()];
        args.extend(more);
        args.extend([image, to]);
        self.run(&args);
    }
}

/// Files of every kind that these tools carry.
fn fill(tree: &Path) {
    for dir in ["etc", "usr/bin", "usr/lib/deep/er", "var", "tmp", "empty"] {
        std::fs::create_dir_all(tree.join(dir)).unwrap();
    }
    let mode = |path: &str, mode| {
        std::fs::set_permissions(tree.join(path), PermissionsExt::from_mode(mode)).unwrap();
    };
    let content: Vec<u8> = (0..200_000_u32)
        .flat_map(|i| i.wrapping_mul(i).to_le_bytes())
        .collect();
    std::fs::write(tree.join("usr/lib/deep/er/big"), content).unwrap();
    std::fs::write(tree.join("usr/bin/tool"), "#!/bin/sh\n").unwrap();
    std::fs::write(tree.join("usr/bin/ping"), "ping").unwrap();
    std::fs::write(tree.join("etc/a name with spaces\nand ünïcode"), "x").unwrap();
    std::fs::write(tree.join(format!("var/{}", "long".repeat(50))), "long").unwrap();
    std::fs::hard_link(tree.join("usr/bin/tool"), tree.join("usr/bin/tool2")).unwrap();
    symlink("usr/bin", tree.join("bin")).unwrap();
    symlink("/nowhere", tree.join("etc/dangling")).unwrap();
    std::os::unix::fs::chown(tree.join("etc"), Some(12), Some(34)).unwrap();
    std::os::unix::fs::chown(tree.join("usr/bin/tool"), Some(3_000_000), Some(5)).unwrap();
    mode("usr/bin/tool", 0o6755);
    mode("usr/bin/ping", 0o711);
    mode("tmp", 0o1777);
    mode("empty", 0o500);
    for (path, node) in snapshot(tree) {
        if node.kind() == FILE {
            settle(&tree.join(OsStr::from_bytes(&path)));
        }
    }
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let set = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::setxattr(tree.join(path), name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("usr/bin/ping", "security.capability", &capability);
    set("usr/bin/tool", "user.note", b"kept");
}

/// Gives a file a time in whole seconds: tools round the rest away.
fn settle(file: &Path) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_500_000_000);
    std::fs::File::open(file).unwrap().set_modified(time).unwrap();
}

/// What both trees must agree in: not the times of links and directories, which copying changes.
fn comparable(picture: Picture) -> Picture {
    let rough = picture.into_iter().map(|(path, mut node)| {
        node.mtime = if node.kind() == FILE { node.mtime } else { (0, 0) };
        (path, node)
    });
    rough.filter(|(path, _)| !path.is_empty()).collect()
}

/// One above the other as a container would see them.
fn merged(image: &Image) -> Picture {
    let mut all = Picture::new();
    for layer in &image.layers {
        for (path, node) in snapshot(layer) {
            if node.kind() == CHARACTER && node.device == 0 {
                let below = [&path[..], b"/"].concat();
                all.retain(|p, _| *p != path && !p.starts_with(&below));
            } else {
                all.insert(path, node);
            }
        }
    }
    all
}

#[test]
fn images_of_buildah_and_skopeo_in_every_form() {
    let fixture = Fixture::new();
    let tree = fixture.path("tree");
    std::fs::create_dir(&tree).unwrap();
    fill(&tree);
    let buildah = Buildah::new(fixture.path("buildah"));
    let container = buildah.run(&["from", "scratch"]);
    // `buildah add` would give everything to root.
    let mount = PathBuf::from(buildah.run(&["mount", &container]));
    run(
        "cp",
        &[OsStr::new("-a"), tree.join(".").as_os_str(), mount.as_os_str()],
    );
    buildah.run(&[
        "config",
        "--cmd",
        "/bin/tool",
        "--env",
        "A=b",
        "--user",
        "1:2",
        "--port",
        "80/tcp",
        &container,
    ]);
    buildah.run(&[
        "config",
        "--healthcheck",
        "CMD /bin/tool",
        "--healthcheck-interval",
        "7s",
        &container,
    ]);
    buildah.run(&[
        "commit",
        "--quiet",
        "--format",
        "docker",
        &container,
        "localhost/first",
    ]);
    // A second layer that removes and replaces.
    for path in [&tree, &mount] {
        std::fs::remove_dir_all(path.join("usr/lib/deep")).unwrap();
        std::fs::remove_file(path.join("etc/dangling")).unwrap();
    }
    std::fs::write(tree.join("added"), "new").unwrap();
    settle(&tree.join("added"));
    let added = tree.join("added");
    buildah.run(&["add", "--quiet", &container, added.to_str().unwrap(), "/added"]);
    buildah.run(&["umount", &container]);
    let image = buildah.run(&[
        "commit",
        "--quiet",
        "--format",
        "docker",
        &container,
        "localhost/app:1",
    ]);
    let file = |name: &str| fixture.path(name);
    let to = |kind: &str, name: &str, reference: &str| format!("{kind}:{}:{reference}", file(name).display());
    buildah.push(&image, &to("oci", "layout", "v1"), &["--format", "oci"]);
    buildah.push(&image, &to("oci-archive", "oci.tar", "v1"), &["--format", "oci"]);
    buildah.push(
        &image,
        &to("docker-archive", "docker.tar", "localhost/app:1"),
        &[],
    );
    let policy = buildah.dir.join("policy.json");
    let skopeo = |from: &str, to: &str, more: &[&str]| {
        let mut args = vec![OsStr::new("--policy"), policy.as_os_str(), OsStr::new("copy")];
        args.extend(more.iter().map(OsStr::new));
        args.extend([OsStr::new(from), OsStr::new(to)]);
        run("skopeo", &args)
    };
    let layout = to("oci", "layout", "v1");
    skopeo(
        &layout,
        &to("docker-archive", "skopeo.tar", "localhost/app:1"),
        &[],
    );
    skopeo(
        &layout,
        &to("oci", "zstd", "v1"),
        &["--dest-compress-format", "zstd", "--dest-compress"],
    );
    let oci = |name: &str| ImageSource::Oci {
        dir: file(name),
        reference: Some("v1".into()),
    };
    let docker = |name: &str| ImageSource::DockerArchive {
        file: file(name),
        reference: Some("localhost/app:1".into()),
    };
    let sources = [
        oci("layout"),
        oci("zstd"),
        ImageSource::OciArchive {
            file: file("oci.tar"),
            reference: None,
        },
        docker("docker.tar"),
        docker("skopeo.tar"),
    ];
    let expected = comparable(snapshot(&tree));
    for source in sources {
        // A store each, so that every form is really read.
        let store = storage::Store::open(&fixture.path(&format!("store-of-{}", source.key().len()))).unwrap();
        let image = store
            .load(&source, &storage::LoadOptions::new(&false.into()))
            .unwrap();
        let got = comparable(merged(&image));
        let paths = |picture: &Picture| -> Vec<String> {
            picture
                .keys()
                .map(|path| String::from_utf8_lossy(path).into_owned())
                .collect()
        };
        assert_eq!(paths(&got), paths(&expected), "{source:?}");
        for (path, node) in &expected {
            assert!(
                got[path] == *node,
                "{source:?}: {}: {:?} is not {node:?}",
                path.escape_ascii(),
                got[path]
            );
        }
        assert_eq!(image.config.cmd, ["/bin/tool"]);
        assert_eq!(
            (image.config.user.as_deref(), &image.config.exposed_ports[..]),
            (Some("1:2"), &["80/tcp".to_owned()][..])
        );
        assert!(image.config.env.contains(&"A=b".to_owned()));
        store.prune(&Default::default(), false).unwrap();
        assert_eq!(
            entries(
                &fixture
                    .path(&format!("store-of-{}", source.key().len()))
                    .join("layers")
            ),
            Vec::<String>::new()
        );
    }
    let health = fixture
        .load(&docker("docker.tar"))
        .unwrap()
        .config
        .healthcheck
        .unwrap();
    assert_eq!(health.interval, std::time::Duration::from_secs(7));
    assert_eq!(health.test, ["CMD", "/bin/tool"]);
    let containers = buildah.run(&["rm", "--all"]);
    assert!(!containers.is_empty());
}
