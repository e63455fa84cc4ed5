//! Volumes shared: with the host's mounts, among containers, from one life of a container to the next.

#![allow(clippy::unwrap_used)] // helpers of tests

mod shimhost;
mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use model::action::Instance;
use model::image::ImageSource;
use model::spec::{ContainerSpec, Propagation, RestartPolicy};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use shimhost::{Host, instance, kill};
use support::volumes::{bind, bind_how, make, mount_memory, named, out, own_mounts, refused};
use support::{Container, busybox_image};

const MOUNT_INSIDE: &str = "mkdir /x/sub && mount -t tmpfs none /x/sub && : > /x/sub/file";

fn with_mounting(script: &str) -> Container {
    Container::sh(script).with(|s| s.cap_add = vec!["SYS_ADMIN".into()])
}

#[test]
fn a_shared_volume_shows_the_containers_mounts_on_the_host_and_no_other_does() {
    own_mounts();
    for propagation in [
        Propagation::Private,
        Propagation::Rprivate,
        Propagation::Slave,
        Propagation::Rslave,
        Propagation::Shared,
        Propagation::Rshared,
    ] {
        let container = with_mounting(MOUNT_INSIDE);
        let source = container.beside("shared");
        mount_memory(&source);
        mount_change(&source, MountPropagationFlags::SHARED).unwrap();
        let container = container.with(|s| s.volumes = vec![bind_how(&source, "/x", propagation)]);
        out(&container);
        let both_ways = matches!(propagation, Propagation::Shared | Propagation::Rshared);
        assert_eq!(source.join("sub/file").exists(), both_ways, "{propagation:?}");
        assert!(source.join("sub").exists());
        unmount(&source, UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_slave_sees_what_the_host_mounts_later() {
    own_mounts();
    for runtime in [None, Some("runc")] {
        let container = Container::sh(
            ": > /x/up; until [ -e /x/sub/file ]; do sleep 0.02; done; [ -e /y/sub/file ] || echo only in x",
        );
        let source = container.beside("shared");
        mount_memory(&source);
        mount_change(&source, MountPropagationFlags::SHARED).unwrap();
        fs::create_dir(source.join("sub")).unwrap();
        let container = container.with(|s| {
            s.volumes = vec![bind_how(&source, "/x", Propagation::Rslave), bind(&source, "/y")];
        });
        let container = match runtime {
            Some(runtime) => container.external(runtime),
            None => container,
        };
        let seen = std::thread::scope(|scope| {
            let running = scope.spawn(|| out(&container));
            while !source.join("up").exists() {
                assert!(!running.is_finished(), "it ended before it was up");
                std::thread::sleep(Duration::from_millis(5));
            }
            mount_memory(&source.join("sub"));
            fs::write(source.join("sub/file"), "").unwrap();
            running.join().unwrap()
        });
        assert_eq!(seen, "only in x\n", "{runtime:?}");
        unmount(&source, UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn sharing_that_would_do_nothing_or_too_much_is_refused() {
    own_mounts();
    let container = Container::sh("true");
    let (source, other) = (container.beside("source"), container.beside("other"));
    let container = container.with(|s| s.volumes = vec![bind_how(&source, "/x", Propagation::Rslave)]);
    let text = refused(&container);
    assert!(
        text.contains("which this host does not share: `mount --make-rshared"),
        "{text}"
    );

    mount_memory(&source);
    mount_change(&source, MountPropagationFlags::SHARED).unwrap();
    let built = |change: &dyn Fn(&mut ContainerSpec)| {
        let container = Container::sh("true").with(|s| {
            s.volumes = vec![bind_how(&source, "/x", Propagation::Rshared)];
            change(s);
        });
        container.prepare().unwrap();
        container
            .try_build(&Default::default())
            .map(drop)
            .map_err(|e| e.to_string())
    };
    assert_eq!(built(&|_| ()), Ok(()));
    let inside = built(&|s| s.volumes.push(bind(&other, "/x/in"))).unwrap_err();
    assert!(
        inside.contains("what is mounted at /x/in lies inside /x"),
        "{inside}"
    );
    let inside = built(&|s| s.volumes[0].target = "/etc".into()).unwrap_err();
    assert!(inside.contains("lies inside /etc"), "{inside}");
    let masked = built(&|s| s.volumes[0].target = "/sys".into()).unwrap_err();
    assert!(masked.contains("lies inside /sys"), "{masked}");
    let outside = Container::sh("true").external("runc");
    let outside = outside.with(|s| s.volumes = vec![bind_how(&source, "/x", Propagation::Rshared)]);
    outside.prepare().unwrap();
    let text = outside.try_build(&Default::default()).unwrap_err().to_string();
    assert!(text.contains("takes the embedded runtime"), "{text}");
    unmount(&source, UnmountFlags::DETACH).unwrap();
}

/// An instance of busybox below a host whose shims are real.
fn supervised(host: &Host, name: &str, script: &str) -> Instance {
    let root = host.dir.path().join("rootfs");
    if !root.exists() {
        busybox_image(&root);
        fs::create_dir(root.join("data")).unwrap();
        fs::write(root.join("data/page"), "of the image\n").unwrap();
    }
    let mut i = instance(name, &["/bin/sh", "-c", script]);
    i.image.layers = vec![root.clone()];
    i.spec.image = ImageSource::Rootfs { dir: root };
    i
}

fn use_volume(host: &Host, i: &mut Instance) {
    let data = make(&host.roots.volumes(), "v");
    i.volumes.insert("v".parse().unwrap(), data);
    i.spec.volumes = vec![named("v", "/data")];
}

#[test]
fn containers_share_a_volume_and_it_outlives_them() {
    let host = Host::new();
    let mut writer = supervised(
        &host,
        "writer",
        "echo hello > /data/tmp; mv /data/tmp /data/word; exec sleep 1000",
    );
    let mut reader = supervised(
        &host,
        "reader",
        "until [ -e /data/word ]; do sleep 0.02; done; cat /data/word /data/page; exec sleep 1000",
    );
    for i in [&mut reader, &mut writer] {
        use_volume(&host, i);
        host.start(i);
    }
    host.until(&reader, "it has read", |_| host.log(&reader).len() == 2);
    assert_eq!(host.log(&reader)[0].1, "hello\n");
    for i in [&reader, &writer] {
        host.runtime.remove(&i.id, &i.name).unwrap();
        host.assert_gone(i);
    }
    let mut later = supervised(&host, "later", "cat /data/word /data/page; exec sleep 1000");
    use_volume(&host, &mut later);
    host.start(&later);
    host.until(&later, "it has read", |_| host.log(&later).len() == 2);
    assert_eq!(host.log(&later)[1].1, "of the image\n");
}

#[test]
fn containers_that_start_together_fill_a_volume_once() {
    let host = Host::new();
    let all: Vec<Instance> = (0..6)
        .map(|n| {
            let mut i = supervised(&host, &format!("c{n}"), "exec sleep 1000");
            use_volume(&host, &mut i);
            i
        })
        .collect();
    let image = host.dir.path().join("rootfs/data");
    for n in 0..100 {
        fs::write(image.join(n.to_string()), n.to_string()).unwrap();
    }
    std::thread::scope(|scope| {
        for i in &all {
            scope.spawn(|| host.runtime.prepare(i).unwrap());
        }
    });
    let home = host.roots.volumes().join("v");
    assert_eq!(fs::read_dir(home.join("_data")).unwrap().count(), 101);
    let mut beside: Vec<_> = fs::read_dir(&home)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    beside.sort();
    assert_eq!(beside, ["_data", "filled"]);
}

#[test]
fn an_images_volume_is_kept_over_a_crash_and_gone_with_the_container() {
    let host = Host::new();
    let mut i = supervised(
        &host,
        "crash",
        "echo run >> /data/runs; cat /data/runs; exec sleep 1000",
    );
    i.image.config.volumes = vec!["/data".to_owned()];
    i.spec.restart.policy = RestartPolicy::Always;
    i.spec.restart.backoff = Duration::from_millis(1);
    i.spec.read_only = true;
    host.start(&i);
    host.until(&i, "it has spoken", |_| host.log(&i).len() == 1);
    kill(host.state(&i).payload.unwrap());
    host.until(&i, "it has spoken again", |_| host.log(&i).len() == 3);
    // The same over a stop, where the bundle is written anew.
    host.runtime.stop(&i.id, "SIGKILL", Duration::ZERO).unwrap();
    host.start(&i);
    host.until(&i, "it has spoken once more", |_| host.log(&i).len() == 6);
    let data = host.files(&i).state.join("volumes/_2fdata/_data");
    assert_eq!(fs::metadata(data.join("runs")).unwrap().size(), 12);
    host.runtime.remove(&i.id, &i.name).unwrap();
    host.assert_gone(&i);
}

#[test]
fn a_fill_that_is_killed_is_completed_by_the_next() {
    let host = Host::new();
    const FILES: usize = 25;
    let mut i = supervised(&host, "victim", "exec sleep 1000");
    let image = host.dir.path().join("rootfs/data");
    for n in 0..FILES {
        fs::create_dir(image.join(n.to_string())).unwrap();
        fs::write(image.join(format!("{n}/file")), vec![b'x'; 3000]).unwrap();
    }
    use_volume(&host, &mut i);
    let home = host.roots.volumes().join("v");
    let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
    println!("seed {seed}");
    let (mut state, mut halfway) = (seed, 0);
    let began = std::time::Instant::now();
    host.runtime.prepare(&i).unwrap();
    let span = began.elapsed().as_micros() as u64;
    for _ in 0..10 {
        for name in ["_data", "filled", ".fill", ".fill-ready"] {
            let path = home.join(name);
            fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)).ok();
        }
        fs::create_dir(home.join("_data")).unwrap();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        kill_while_preparing(&host, &i, Duration::from_micros(state % span));
        halfway += usize::from(home.join(".fill").exists() || home.join(".fill-ready").exists());
        host.runtime.prepare(&i).unwrap();
        let count = fs::read_dir(home.join("_data")).unwrap().count();
        assert_eq!(count, FILES + 1, "all of it");
        for n in 0..FILES {
            let file = home.join(format!("_data/{n}/file"));
            assert_eq!(fs::metadata(&file).unwrap().len(), 3000);
        }
        let left = fs::read_dir(&home).unwrap().count();
        assert_eq!(left, 2, "data and mark");
    }
    println!("{halfway} of 10 were killed halfway");
}

/// Starts an agent that prepares, in a session of its own, and kills all of it.
fn kill_while_preparing(host: &Host, i: &Instance, after: Duration) {
    use std::io::Write;
    use std::os::unix::process::CommandExt;
    let mut agent = Command::new(env!("CARGO_BIN_EXE_runtime-testbin"))
        .arg("prepare-only")
        .args([&host.roots.state, &host.roots.run])
        .arg(&host.parent)
        .stdin(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let json = serde_json::to_vec(i).unwrap();
    agent.stdin.take().unwrap().write_all(&json).unwrap();
    std::thread::sleep(after);
    let group = nix::unistd::Pid::from_raw(agent.id().cast_signed());
    // Its child among them, which does the work. Not reaped yet, so the number is still its own.
    nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).unwrap();
    agent.wait().unwrap();
}
