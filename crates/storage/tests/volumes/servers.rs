//! Volumes on servers, as far as it goes without any: what is refused, and that nothing is left of it. A real server is in
//! `./test --vm`.

use std::os::fd::AsRawFd;

use model::observed::Reach;

use super::*;

fn nfs(device: &str, options: &[&str]) -> VolumeSpec {
    VolumeSpec {
        device: Some(device.into()),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        ..spec(VolumeDriver::Nfs)
    }
}

fn kernel_has_nfs() -> bool {
    fs::read_to_string("/proc/filesystems").unwrap().contains("nfs4")
}

#[test]
fn what_cannot_be_mounted_is_refused_before_anybody_is_asked() {
    let host = Host::new();
    let volumes = host.open();
    for (wanted, says) in [
        (spec(VolumeDriver::Nfs), "needs device = \"SERVER:/PATH\""),
        (nfs("/srv", &[]), "its `device` must be SERVER:/PATH"),
        (nfs(":/srv", &["soft"]), "needs device = \"SERVER:/PATH\""),
        (nfs("nas:/srv", &["vers=3"]), "its `options` has \"vers=3\""),
    ] {
        assert_says(&refused(&volumes, "far", &wanted), &["volume far: ", says]);
    }
    assert!(volumes.list().unwrap().is_empty());
    assert!(entries(&host.roots.nfs()).is_empty());
}

#[test]
fn a_server_that_cannot_be_had_leaves_no_volume() {
    let host = Host::new();
    let volumes = host.open();
    // Nobody listens at this port of this machine.
    let closed = refused(
        &volumes,
        "far",
        &nfs("127.0.0.1:/srv", &["port=1", "soft", "timeo=10", "retrans=1"]),
    );
    match kernel_has_nfs() {
        true => assert_says(
            &closed,
            &["127.0.0.1:/srv cannot be mounted from 127.0.0.1 by NFS 4.2"],
        ),
        false => assert_says(
            &closed,
            &["volume far: this kernel has no NFS client", "/proc/filesystems"],
        ),
    }
    assert!(volumes.list().unwrap().is_empty());
    assert!(entries(&host.roots.nfs()).is_empty());
    assert_eq!(volumes.remove(&name("far")).unwrap(), None);
}

/// A record of one, as an earlier agent left it.
fn recorded(host: &Host, volumes: &Volumes, volume: &str) {
    volumes.apply(&name(volume), &spec(VolumeDriver::Local)).unwrap();
    let record = host.home(volume).join("volume.json");
    let text = fs::read_to_string(&record).unwrap();
    let text = text.replace("\"local\",\"device\":null", "\"nfs\",\"device\":\"nas:/srv\"");
    assert!(text.contains("nas:/srv"), "{text}");
    fs::write(record, text).unwrap();
    fs::remove_dir(host.home(volume).join("_data")).unwrap();
}

#[test]
fn one_that_is_not_mounted_is_there_and_cannot_be_had() {
    let host = Host::new();
    let volumes = host.open();
    recorded(&host, &volumes, "far");
    let seen = volumes.list().unwrap().remove(&name("far")).unwrap();
    assert_eq!(seen.reach, Reach::Unmounted);
    assert_eq!(seen.path, host.roots.nfs().canonicalize().unwrap().join("far"));
    let says = ["volume far: nothing is mounted at", "mounted again by itself"];
    let error = volumes.at_hand(&name("far"), &seen.path).unwrap_err().to_string();
    assert_says(&error, &says);
    let never = std::sync::atomic::AtomicBool::new(false);
    let error = volumes
        .clone_as(&name("far"), &name("near"), &never)
        .unwrap_err()
        .to_string();
    assert_says(&error, &says);
    // What it was goes into the trash; of what is on the server nothing is.
    let kept = volumes.remove(&name("far")).unwrap().unwrap();
    assert_eq!(entries(&kept), ["volume.json"]);
    assert!(volumes.list().unwrap().is_empty());
}

/// The place of a volume, with another file system at it: how it is mounted, the kernel does not care.
fn mounted(host: &Host, volume: &str) -> PathBuf {
    let point = host.roots.nfs().join(volume);
    fs::create_dir(&point).unwrap();
    nix::mount::mount(
        Some("x"),
        &point,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    fs::write(point.join("file"), "data").unwrap();
    point
}

fn is_mounted(point: &Path) -> bool {
    let table = fs::read("/proc/thread-self/mountinfo").unwrap();
    let point = point.canonicalize().unwrap_or_else(|_| point.to_owned());
    model::mounts::parse(&table).any(|mount| mount.point == point)
}

/// This thread from now on, and those that it begins, in a mount namespace of their own.
fn alone() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
}

#[test]
fn a_mount_goes_with_its_volume_and_what_is_there_stays() {
    alone();
    let host = Host::new();
    let volumes = host.open();
    recorded(&host, &volumes, "far");
    drop(volumes);
    let (point, orphan) = (mounted(&host, "far"), mounted(&host, "orphan"));
    // An agent that starts finds it, and takes away what is nobody's.
    let volumes = host.open();
    assert!(is_mounted(&point) && !is_mounted(&orphan) && !orphan.exists());
    let seen = &volumes.list().unwrap()[&name("far")];
    assert_eq!(seen.reach, Reach::Here);
    volumes.at_hand(&name("far"), &seen.path).unwrap();
    let open = fs::File::open(&point).unwrap();
    volumes.remove(&name("far")).unwrap();
    assert!(!is_mounted(&point) && !point.exists());
    // Who had it open has it still.
    let file = format!("/proc/thread-self/fd/{}/file", open.as_raw_fd());
    assert_eq!(fs::read_to_string(file).unwrap(), "data");
}

#[test]
fn another_driver_unmounts_it() {
    alone();
    let host = Host::new();
    let volumes = host.open();
    recorded(&host, &volumes, "far");
    let point = mounted(&host, "far");
    volumes.apply(&name("far"), &spec(VolumeDriver::Local)).unwrap();
    assert!(!is_mounted(&point));
    let seen = &volumes.list().unwrap()[&name("far")];
    assert_eq!(
        (seen.path.clone(), &seen.reach),
        (host.home("far/_data"), &Reach::Here)
    );
}

#[test]
fn what_is_unmounted_by_somebody_is_seen_at_once() {
    alone();
    let host = Host::new();
    let volumes = host.open();
    recorded(&host, &volumes, "far");
    let point = mounted(&host, "far");
    let seen = || volumes.list().unwrap().remove(&name("far")).unwrap();
    assert_eq!(seen().reach, Reach::Here);
    // Somebody who looks at it makes it busy.
    nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH).unwrap();
    assert_eq!(seen().reach, Reach::Unmounted);
    let error = volumes.at_hand(&name("far"), &seen().path).unwrap_err();
    assert_says(&error.to_string(), &["nothing is mounted at"]);
}

/// A file system whose server answers nothing at all, until this is closed (fuse(4)).
fn mounted_from_nobody(host: &Host, volume: &str) -> fs::File {
    let device = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .unwrap();
    let point = host.roots.nfs().join(volume);
    fs::create_dir(&point).unwrap();
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let none = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("nobody"), &point, Some("fuse"), none, Some(&*options)).unwrap();
    device
}

#[test]
fn slow_a_server_that_answers_nothing_holds_up_nobody_and_is_told_of() {
    alone();
    let host = Host::new();
    let volumes = host.open();
    recorded(&host, &volumes, "far");
    volumes.apply(&name("near"), &spec(VolumeDriver::Local)).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    volumes.tell_of_servers(move || tell.send(()).unwrap());
    let device = mounted_from_nobody(&host, "far");
    let reach = || volumes.list().unwrap().remove(&name("far")).unwrap().reach;
    assert_eq!(reach(), Reach::Here, "nobody was asked yet");
    // It is found out meanwhile.
    told.recv().unwrap();
    assert_eq!(reach(), Reach::Silent("no answer for 5 s".to_owned()));
    let path = host.roots.nfs().canonicalize().unwrap().join("far");
    let error = volumes.at_hand(&name("far"), &path).unwrap_err().to_string();
    assert_says(
        &error,
        &[
            "volume far: what is mounted at",
            "does not answer (no answer for 5 s)",
        ],
    );
    volumes.at_hand(&name("near"), &host.home("near/_data")).unwrap();
    // Another answer, if not a better one: the connection is closed.
    drop(device);
    told.recv().unwrap();
    assert!(matches!(reach(), Reach::Silent(why) if why != "no answer for 5 s"));
    volumes.remove(&name("far")).unwrap();
}

#[test]
fn a_volume_of_a_server_that_answers_nothing_is_removed() {
    alone();
    let host = Host::new();
    let volumes = host.open();
    recorded(&host, &volumes, "far");
    let device = mounted_from_nobody(&host, "far");
    drop(volumes);
    let volumes = host.open();
    assert_eq!(volumes.list().unwrap().len(), 1);
    volumes.remove(&name("far")).unwrap();
    assert!(volumes.list().unwrap().is_empty());
    assert!(entries(&host.roots.nfs()).is_empty());
    drop(device);
}
