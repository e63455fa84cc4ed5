//! Volumes as containers see them: named, anonymous, binds, memory, under the embedded runtime and others.

#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::process::Command;

use model::spec::{Propagation, TmpfsMount, VolumeSource, VolumeUse};
use rustix::mount::{UnmountFlags, unmount};
use support::Container;
use support::volumes::{
    anonymous, bind, mount_memory, named, out, own_mounts, read_only, refused, with_volume,
};

#[test]
fn a_new_volume_is_given_what_the_image_has_once() {
    let (container, data) = with_volume("cat /data/page; stat -c '%a %u:%g' /data; echo mine > /data/page");
    let image = container.image().join("data");
    fs::create_dir(&image).unwrap();
    fs::write(image.join("page"), "of the image\n").unwrap();
    fs::set_permissions(&image, fs::Permissions::from_mode(0o2750)).unwrap();
    lchown(&image, Some(33), Some(34)).unwrap();
    fs::set_permissions(&image, fs::Permissions::from_mode(0o2750)).unwrap();
    assert_eq!(out(&container), "of the image\n2750 33:34\n");
    // From then on it is its own.
    assert_eq!(out(&container), "mine\n2750 33:34\n");
    fs::remove_file(data.join("page")).unwrap();
    assert_eq!(out(&container), "2750 33:34\n");
    assert_eq!(fs::read_to_string(image.join("page")).unwrap(), "of the image\n");
}

#[test]
fn a_volume_with_data_is_never_touched() {
    let (container, data) = with_volume("ls /data; stat -c '%a %u:%g' /data");
    let image = container.image().join("data");
    fs::create_dir(&image).unwrap();
    fs::write(image.join("page"), "of the image").unwrap();
    lchown(&image, Some(33), Some(34)).unwrap();
    fs::write(data.join("own"), "").unwrap();
    assert_eq!(out(&container), "own\n755 0:0\n");
}

#[test]
fn only_volumes_of_our_own_are_filled() {
    let (mut container, data) = with_volume("ls /data /bind /memory");
    for place in ["data", "bind", "memory"] {
        fs::create_dir(container.image().join(place)).unwrap();
        fs::write(container.image().join(place).join("page"), "").unwrap();
    }
    // A volume whose driver is not "local" leads elsewhere.
    let device = container.beside("device/_data");
    container
        .instance
        .volumes
        .insert("v".parse().unwrap(), device.clone());
    let source = container.beside("source");
    let container = container.with(|s| {
        s.volumes.push(bind(&source, "/bind"));
        s.tmpfs = vec![TmpfsMount {
            target: "/memory".into(),
            size: None,
            mode: None,
        }];
    });
    assert_eq!(out(&container), "/bind:\n\n/data:\n\n/memory:\n");
    for empty in [data, device, source] {
        assert_eq!(fs::read_dir(&empty).unwrap().count(), 0, "{}", empty.display());
    }
}

#[test]
fn a_read_only_volume_is_filled_and_then_read_only() {
    let (container, _) = with_volume("cat /data/page; (: > /data/x) 2>&1 | sed 's/.*: //'");
    fs::create_dir(container.image().join("data")).unwrap();
    fs::write(container.image().join("data/page"), "of the image\n").unwrap();
    let container = container.with(|s| s.volumes = vec![read_only(named("v", "/data"))]);
    assert_eq!(out(&container), "of the image\nRead-only file system\n");
}

#[test]
fn an_image_gives_nothing_of_the_hosts_to_a_volume() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "host").unwrap();
    for (link, target) in [("/etc", "etc"), ("../../../../etc", "etc"), ("OUTSIDE", "")] {
        let (container, data) = with_volume("ls /data");
        let link = link.replace("OUTSIDE", outside.path().to_str().unwrap());
        symlink(link, container.image().join("data")).unwrap();
        let seen = out(&container);
        match target {
            // The image's own /etc, and not ours. The names it is given as every container is are made there too.
            "etc" => assert_eq!(seen, "group\nhostname\nhosts\npasswd\nresolv.conf\n"),
            _ => assert_eq!(seen, ""),
        }
        if let Ok(passwd) = fs::read_to_string(data.join("passwd")) {
            assert!(passwd.contains("www:x:33:34"), "{passwd}");
        }
        assert!(!data.join("secret").exists() && !data.join("shadow").exists());
    }
}

#[test]
fn the_volumes_an_image_declares_are_anonymous_ones_unless_covered() {
    let mut container = Container::sh(
        "for d in /a /b /c /d/e; do echo $d $(ls $d) $(grep -c \" $d \" /proc/self/mountinfo); done; echo x > /a/x",
    );
    let source = container.beside("source");
    container.instance.image.config.volumes = ["/a/", "/./b", "/c", "/d/e"].map(str::to_owned).to_vec();
    fs::create_dir(container.image().join("a")).unwrap();
    fs::write(container.image().join("a/page"), "").unwrap();
    let container = container.with(|s| {
        s.volumes = vec![bind(&source, "/b")];
        s.tmpfs = vec![TmpfsMount {
            target: "/c".into(),
            size: None,
            mode: None,
        }];
    });
    assert_eq!(out(&container), "/a page 1\n/b 1\n/c 1\n/d/e 1\n");
    assert_eq!(out(&container), "/a page x 1\n/b 1\n/c 1\n/d/e 1\n");
    let kept = fs::read_dir(container.state_dir().join("volumes")).unwrap();
    assert_eq!(kept.count(), 2);
    for declared in ["/", "relative", "/.."] {
        let mut container = Container::sh("true");
        container.instance.image.config.volumes = vec![declared.to_owned()];
        let text = refused(&container);
        assert!(
            text.contains("container web: the image declares VOLUME"),
            "{text}"
        );
    }
}

#[test]
fn targets_of_any_length_have_a_volume() {
    let (one, other) = ("x".repeat(250), format!("{}y", "x".repeat(249)));
    let container = Container::sh(&format!("echo a > /{one}/f; cat /{other}/f"));
    let container = container.with(|s| {
        s.volumes = vec![anonymous(&format!("/{one}")), anonymous(&format!("/{other}"))];
    });
    assert_ne!(container.run().code, 0, "each has its own");
}

#[test]
fn volumes_inside_volumes_are_mounted_in_order_however_written() {
    let (container, data) = with_volume("echo $(ls /data /data/in /data/in/er); echo x > /data/in/er/x");
    let (inner, innermost) = (container.beside("inner"), container.beside("innermost"));
    fs::write(inner.join("i"), "").unwrap();
    let container = container.with(|s| {
        s.volumes.insert(0, bind(&inner, "/data/in"));
        s.volumes.insert(0, bind(&innermost, "/data/in/er"));
    });
    assert_eq!(out(&container), "/data: in /data/in: er i /data/in/er:\n");
    assert!(innermost.join("x").exists());
    // The places they are mounted on were made where they are.
    assert!(data.join("in").is_dir() && inner.join("er").is_dir());
}

#[test]
fn read_only_goes_for_mounts_below_too() {
    own_mounts();
    for runtime in [None, Some("runc"), Some("crun")] {
        let container = Container::sh(
            "for f in /fixed/x /fixed/below/x /free/below/x; do (: > $f) 2>/dev/null && echo $f; done; true",
        );
        let source = container.beside("source");
        mount_memory(&source.join("below"));
        let container = container.with(|s| {
            s.volumes = vec![read_only(bind(&source, "/fixed")), bind(&source, "/free")];
        });
        let container = match runtime {
            Some(runtime) => container.external(runtime),
            None => container,
        };
        assert_eq!(out(&container), "/free/below/x\n", "{runtime:?}");
        unmount(source.join("below"), UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn external_runtimes_have_the_same_volumes() {
    for runtime in ["runc", "crun"] {
        let (mut container, data) = with_volume(
            "cat /data/page /file; ls /declared; (: > /t/x) && df /t | grep -c ' /t$'; echo y > /data/y",
        );
        fs::create_dir(container.image().join("data")).unwrap();
        fs::write(container.image().join("data/page"), "page\n").unwrap();
        container.instance.image.config.volumes = vec!["/declared".to_owned()];
        let file = container.beside("files").join("file");
        fs::write(&file, "file\n").unwrap();
        let container = container.external(runtime).with(|s| {
            s.volumes.push(read_only(bind(&file, "/file")));
            s.tmpfs = vec![TmpfsMount {
                target: "/t".into(),
                size: Some(1 << 20),
                mode: None,
            }];
        });
        assert_eq!(out(&container), "page\nfile\n1\n", "{runtime}");
        assert_eq!(fs::read_to_string(data.join("y")).unwrap(), "y\n");
    }
}

#[test]
fn a_file_is_a_volume_as_well() {
    let container =
        Container::sh("cat /etc/app/conf; echo new > /etc/app/conf; (: > /ro) 2>&1 | sed 's/.*: //'");
    let file = container.beside("files").join("conf");
    fs::write(&file, "old\n").unwrap();
    let container = container.with(|s| {
        s.volumes = vec![bind(&file, "/etc/app/conf"), read_only(bind(&file, "/ro"))];
    });
    assert_eq!(out(&container), "old\nRead-only file system\n");
    assert_eq!(fs::read_to_string(&file).unwrap(), "new\n");
}

#[test]
fn a_source_that_is_not_there_is_refused_or_made() {
    let container = Container::sh("echo x > /x/file");
    let source = container.beside("parent").join("new/deep");
    let wanted = |create: bool, require_mount: bool| VolumeUse {
        source: VolumeSource::Bind {
            source: source.clone(),
            create,
            propagation: Propagation::Rprivate,
            require_mount,
        },
        ..named("x", "/x")
    };
    let container = container.with(|s| s.volumes = vec![wanted(false, false)]);
    let text = refused(&container);
    let expected = format!(
        "container web: volumes: the source {} of what is mounted at /x does not exist: make it, or write the entry as \
         a table with `create = true`",
        source.display()
    );
    assert_eq!(text, expected);
    let container = container.with(|s| s.volumes = vec![wanted(true, true)]);
    assert!(
        refused(&container).contains("is not a mount point"),
        "never made where a mount is wanted"
    );
    let container = container.with(|s| s.volumes = vec![wanted(true, false)]);
    assert_eq!(out(&container), "");
    assert!(source.join("file").exists());
}

#[test]
fn a_required_mount_has_to_be_one() {
    own_mounts();
    let container = Container::sh("ls /x");
    let source = container.beside("disk");
    let wanted = VolumeUse {
        source: VolumeSource::Bind {
            source: source.clone(),
            create: false,
            propagation: Propagation::Rprivate,
            require_mount: true,
        },
        ..named("x", "/x")
    };
    let container = container.with(|s| s.volumes = vec![wanted]);
    let text = refused(&container);
    assert!(
        text.contains("is not a mount point, and `require_mount` is set"),
        "{text}"
    );
    // A bind of the same file system is a mount point too.
    let other = container.beside("other");
    fs::write(other.join("file"), "").unwrap();
    rustix::mount::mount_bind(&other, &source).unwrap();
    assert_eq!(out(&container), "file\n");
    // Each start asks for itself: the shim begins later runs with the bundle as it is.
    let bundle = container.build(&container.prepare().unwrap().user);
    unmount(&source, UnmountFlags::DETACH).unwrap();
    for _ in 0..2 {
        let ran = container.run_bundle(&bundle);
        assert_eq!((ran.code, ran.stdout.as_str()), (125, ""), "{ran:?}");
        assert!(
            ran.stderr
                .contains("is not a mount point, and `require_mount` is set"),
            "{ran:?}"
        );
    }
    rustix::mount::mount_bind(&other, &source).unwrap();
    assert_eq!(container.run_bundle(&bundle).stdout, "file\n");
    unmount(&source, UnmountFlags::DETACH).unwrap();
}

#[test]
fn a_volume_of_a_server_is_mounted_whenever_it_starts() {
    own_mounts();
    let mut container = Container::sh("ls /data").with(|s| s.volumes = vec![named("v", "/data")]);
    let source = container.beside("nfs").join("v");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("below"), "").unwrap();
    let volumes = &mut container.instance.volumes;
    volumes.insert("v".parse().unwrap(), source.clone());
    let text = refused(&container);
    assert!(
        text.contains("the volume at /data is not mounted at")
            && text.contains("as soon as its server answers"),
        "{text}"
    );
    mount_memory(&source);
    fs::write(source.join("file"), "").unwrap();
    assert_eq!(out(&container), "file\n");
    let bundle = container.build(&container.prepare().unwrap().user);
    unmount(&source, UnmountFlags::DETACH).unwrap();
    let ran = container.run_bundle(&bundle);
    assert_eq!((ran.code, ran.stdout.as_str()), (125, ""), "{ran:?}");
}

#[test]
fn a_named_volume_without_a_place_is_refused() {
    let container = Container::sh("true").with(|s| s.volumes = vec![named("v", "/data")]);
    let text = refused(&container);
    assert!(
        text.starts_with("container web: volumes: volume v (at /data) has no place"),
        "{text}"
    );
    let (container, data) = with_volume("true");
    fs::remove_dir(&data).unwrap();
    let text = refused(&container);
    assert!(text.contains("of volume v (at /data) does not exist"), "{text}");
}

#[test]
fn memory_has_the_size_and_mode_it_was_given() {
    let container = Container::sh(
        "dd if=/dev/zero of=/t/x bs=65536 count=64 2>&1 | grep -c 'No space left'; stat -c %a /t /v; \
         (: > /v/x) 2>&1 | sed 's/.*: //'; grep -E ' (/t|/v) ' /proc/self/mountinfo | cut -d' ' -f6",
    )
    .with(|s| {
        s.tmpfs = vec![TmpfsMount {
            target: "/t".into(),
            size: Some(1 << 20),
            mode: None,
        }];
        let source = VolumeSource::Tmpfs {
            size: Some(1 << 20),
            mode: Some(0o700),
        };
        s.volumes = vec![VolumeUse {
            source,
            target: "/v".into(),
            read_only: true,
        }];
    });
    let text = out(&container);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..4],
        ["1", "1777", "700", "Read-only file system"],
        "{text}"
    );
    for options in &lines[4..] {
        for option in ["nosuid", "nodev", "noexec"] {
            assert!(options.split(',').any(|o| o == option), "{text}");
        }
    }
    assert_eq!(lines.len(), 6);
}

#[test]
fn a_volume_may_lie_over_what_is_ours() {
    let container = Container::sh("cat /etc/hostname; ls /dev; ls /sys");
    let (file, dev, sys) = (
        container.beside("files").join("name"),
        container.beside("dev"),
        container.beside("sys"),
    );
    fs::write(&file, "mine\n").unwrap();
    let mut mknod = Command::new("mknod");
    let made = mknod.arg(dev.join("null")).args(["c", "1", "3"]).status();
    assert!(made.unwrap().success());
    fs::write(sys.join("only"), "").unwrap();
    let container = container.with(|s| {
        s.privileged = true;
        s.volumes = vec![
            bind(&file, "/etc/hostname"),
            bind(&dev, "/dev"),
            bind(&sys, "/sys"),
        ];
    });
    let text = out(&container);
    assert!(text.starts_with("mine\n") && text.ends_with("only\n"), "{text}");
    assert!(!text.contains("mqueue"), "{text}");
}
