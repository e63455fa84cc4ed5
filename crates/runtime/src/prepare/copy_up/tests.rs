use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};

use rustix::fs::{FileType, Timespec, Timestamps, XattrFlags, lsetxattr, mknodat, utimensat};

use super::*;

/// An image's root and a volume, both empty.
struct Fixture {
    dir: tempfile::TempDir,
    image: PathBuf,
    home: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (image, home) = (dir.path().join("image"), dir.path().join("volume"));
        fs::create_dir_all(image.join("data")).unwrap();
        fs::create_dir_all(home.join(VOLUME_DATA)).unwrap();
        Self { dir, image, home }
    }

    fn source(&self) -> PathBuf {
        self.image.join("data")
    }

    fn data(&self) -> PathBuf {
        self.home.join(VOLUME_DATA)
    }

    fn fill(&self) -> Result<(), LaunchError> {
        self.fill_at("/data")
    }

    fn fill_at(&self, target: &str) -> Result<(), LaunchError> {
        let fills = [Fill {
            target: target.into(),
            home: self.home.clone(),
        }];
        let root = fs::File::open(&self.image).unwrap();
        fill(root.as_fd(), &open(&fills)?[0])
    }

    fn beside(&self) -> Vec<String> {
        entries(&self.home)
    }
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn date(path: &Path, seconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 123_456_789,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    Some(value[..length].to_vec())
}

#[test]
fn everything_about_every_kind_of_file_is_copied() {
    let fixture = Fixture::new();
    let from = fixture.source();
    fs::create_dir(from.join("dir")).unwrap();
    fs::write(from.join("dir/file"), "content").unwrap();
    fs::hard_link(from.join("dir/file"), from.join("twice")).unwrap();
    symlink("/nowhere/at all", from.join("link")).unwrap();
    fs::hard_link(from.join("link"), from.join("link2")).unwrap();
    let mode = |bits| Mode::from_raw_mode(bits);
    let device = rustix::fs::makedev(1, 3);
    mknodat(
        CWD,
        from.join("null"),
        FileType::CharacterDevice,
        mode(0o640),
        device,
    )
    .unwrap();
    mknodat(CWD, from.join("fifo"), FileType::Fifo, mode(0o600), 0).unwrap();
    mknodat(CWD, from.join("socket"), FileType::Socket, mode(0o600), 0).unwrap();
    for (n, name) in ["dir/file", "dir", "link", "null", "fifo", "socket", "."]
        .iter()
        .enumerate()
    {
        lchown(from.join(name), Some(1000 + n as u32), Some(2000 + n as u32)).unwrap();
    }
    for (name, bits) in [
        ("dir/file", 0o6751),
        ("dir", 0o3770),
        ("fifo", 0o622),
        (".", 0o1775),
    ] {
        fs::set_permissions(from.join(name), fs::Permissions::from_mode(bits)).unwrap();
    }
    // VFS_CAP_REVISION_2 with CAP_NET_BIND_SERVICE (capabilities(7)).
    let mut capability = [0; 20];
    capability[..4].copy_from_slice(&0x0200_0001u32.to_le_bytes());
    capability[4..8].copy_from_slice(&(1u32 << 10).to_le_bytes());
    let none = XattrFlags::empty();
    lsetxattr(from.join("dir/file"), "security.capability", &capability, none).unwrap();
    lsetxattr(from.join("dir"), "trusted.note", b"kept", none).unwrap();
    lsetxattr(from.join("."), "trusted.own", b"also kept", none).unwrap();
    lsetxattr(from.join("dir"), "trusted.overlay.opaque", b"y", none).unwrap();
    for (n, name) in ["dir/file", "link", "null", "dir", "."].iter().enumerate() {
        date(&from.join(name), 1_000_000_000 + n as i64);
    }

    fixture.fill().unwrap();
    let to = fixture.data();
    let picture = |root: &Path, name: &str| {
        let meta = fs::symlink_metadata(root.join(name)).unwrap();
        let what = (meta.mode(), meta.uid(), meta.gid(), meta.rdev());
        (what, meta.mtime(), meta.mtime_nsec(), meta.nlink())
    };
    for name in [
        ".", "dir", "dir/file", "twice", "link", "link2", "null", "fifo", "socket",
    ] {
        assert_eq!(picture(&to, name), picture(&from, name), "{name}");
    }
    assert_eq!(entries(&to), entries(&from));
    assert_eq!(fs::read_to_string(to.join("dir/file")).unwrap(), "content");
    assert_eq!(
        fs::read_link(to.join("link")).unwrap(),
        Path::new("/nowhere/at all")
    );
    let inode = |name: &str| fs::symlink_metadata(to.join(name)).unwrap().ino();
    assert_eq!(inode("dir/file"), inode("twice"));
    assert_eq!(inode("link"), inode("link2"));
    assert!(
        fs::symlink_metadata(to.join("socket"))
            .unwrap()
            .file_type()
            .is_socket()
    );
    assert_eq!(
        xattr(&to.join("dir/file"), "security.capability").unwrap(),
        capability
    );
    assert_eq!(xattr(&to.join("dir"), "trusted.note").unwrap(), b"kept");
    assert_eq!(xattr(&to, "trusted.own").unwrap(), b"also kept");
    assert_eq!(xattr(&to.join("dir"), "trusted.overlay.opaque"), None);
    assert_eq!(fixture.beside(), ["_data", "filled"]);
}

#[test]
fn holes_stay_holes() {
    let fixture = Fixture::new();
    let sparse = fs::File::create(fixture.source().join("sparse")).unwrap();
    sparse.set_len(1 << 36).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 1 << 35).unwrap();
    fs::write(fixture.source().join("empty"), "").unwrap();
    fixture.fill().unwrap();
    let copy = fs::File::open(fixture.data().join("sparse")).unwrap();
    let meta = copy.metadata().unwrap();
    assert_eq!(meta.len(), 1 << 36);
    assert!(meta.blocks() < 10_000, "{}", meta.blocks());
    let mut text = [0; 13];
    std::os::unix::fs::FileExt::read_exact_at(&copy, &mut text, 1 << 35).unwrap();
    assert_eq!(&text, b"in the middle");
    assert_eq!(fs::metadata(fixture.data().join("empty")).unwrap().len(), 0);
}

#[test]
fn a_volume_is_decided_by_the_first_image_that_has_a_directory_there() {
    let fixture = Fixture::new();
    fs::write(fixture.image.join("file"), "").unwrap();
    symlink("loop", fixture.image.join("loop")).unwrap();
    for target in ["/nothing", "/file", "/loop", "/file/below"] {
        fixture.fill_at(target).unwrap();
        assert_eq!(fixture.beside(), ["_data"], "{target} decides nothing");
    }
    fixture.fill().unwrap();
    assert_eq!(fixture.beside(), ["_data", "filled"]);
    fs::write(fixture.source().join("late"), "").unwrap();
    fixture.fill().unwrap();
    assert_eq!(entries(&fixture.data()), Vec::<String>::new());
}

#[test]
fn data_that_are_there_decide_as_well() {
    let fixture = Fixture::new();
    fs::write(fixture.source().join("file"), "of the image").unwrap();
    fs::write(fixture.data().join("own"), "").unwrap();
    fixture.fill().unwrap();
    assert_eq!(entries(&fixture.data()), ["own"]);
    fs::remove_file(fixture.data().join("own")).unwrap();
    fixture.fill().unwrap();
    assert_eq!(entries(&fixture.data()), Vec::<String>::new());
}

#[test]
fn what_was_copied_and_not_yet_moved_is_moved_around_what_was_written_since() {
    let fixture = Fixture::new();
    fs::write(fixture.source().join("changed since"), "").unwrap();
    let ready = fixture.home.join(READY);
    fs::create_dir(&ready).unwrap();
    fs::set_permissions(&ready, fs::Permissions::from_mode(0o2771)).unwrap();
    fs::create_dir(ready.join("dir")).unwrap();
    fs::write(ready.join("dir/x"), "").unwrap();
    fs::write(ready.join("both"), "of the image").unwrap();
    fs::write(fixture.data().join("both"), "of a container").unwrap();
    fs::write(fixture.data().join("moved"), "").unwrap();
    fixture.fill().unwrap();
    assert_eq!(entries(&fixture.data()), ["both", "dir", "moved"]);
    assert!(fixture.data().join("dir/x").exists());
    assert_eq!(
        fs::read_to_string(fixture.data().join("both")).unwrap(),
        "of a container"
    );
    assert_eq!(fs::metadata(fixture.data()).unwrap().mode() & 0o7777, 0o2771);
    assert_eq!(fixture.beside(), ["_data", "filled"]);
}

#[test]
fn half_a_copy_is_begun_anew() {
    let fixture = Fixture::new();
    fs::write(fixture.source().join("file"), "whole").unwrap();
    fs::create_dir_all(fixture.home.join(FILL).join("deep/er")).unwrap();
    fs::write(fixture.home.join(FILL).join("file"), "ha").unwrap();
    fixture.fill().unwrap();
    assert_eq!(entries(&fixture.data()), ["file"]);
    assert_eq!(fs::read_to_string(fixture.data().join("file")).unwrap(), "whole");
}

#[test]
fn links_in_the_image_lead_nowhere_else() {
    let fixture = Fixture::new();
    let outside = fixture.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "host").unwrap();
    let inside = fixture.source();
    symlink(&outside, fixture.image.join("absolute")).unwrap();
    symlink("../outside", fixture.image.join("relative")).unwrap();
    symlink("/proc/self/root", fixture.image.join("magic")).unwrap();
    for target in ["/absolute", "/relative", "/magic", "/../outside"] {
        fixture.fill_at(target).unwrap();
        assert_eq!(fixture.beside(), ["_data"], "{target}");
    }
    // A link further down is a link in the volume too.
    symlink(&outside, inside.join("link")).unwrap();
    fixture.fill().unwrap();
    let link = fs::symlink_metadata(fixture.data().join("link")).unwrap();
    assert!(link.is_symlink());
    // And one in place of what is ours leads nowhere either.
    let fixture = Fixture::new();
    fs::remove_dir(fixture.data()).unwrap();
    symlink(&outside, fixture.data()).unwrap();
    assert!(fixture.fill().is_err());
}

#[test]
fn directories_without_end_are_refused_and_nothing_is_left() {
    let fixture = Fixture::new();
    let mut here = fs::File::open(fixture.source()).unwrap();
    for _ in 0..400 {
        rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
        here = directory(&here, Path::new("d")).unwrap().into();
    }
    let text = fixture.fill().unwrap_err().to_string();
    assert!(
        text.starts_with("giving the volume at /data what the image has there: d/d/"),
        "{text}"
    );
    assert!(text.ends_with("nested more than 300 deep"), "{text}");
    assert_eq!(fixture.beside(), ["_data"]);
    assert_eq!(entries(&fixture.data()), Vec::<String>::new());
}

#[test]
fn a_full_disk_is_said_so_and_not_left_full() {
    let fixture = Fixture::new();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    crate::embedded::mounts::cut_propagation(false).unwrap();
    let none = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &fixture.home, "tmpfs", none, Some(c"size=256k")).unwrap();
    fs::create_dir(fixture.data()).unwrap();
    for n in 0..8 {
        fs::write(fixture.source().join(n.to_string()), vec![1; 100_000]).unwrap();
    }
    let text = fixture.fill().unwrap_err().to_string();
    assert!(
        text.contains("no space left on the file system of the volume"),
        "{text}"
    );
    assert_eq!(fixture.beside(), ["_data"]);
    for n in 1..8 {
        fs::remove_file(fixture.source().join(n.to_string())).unwrap();
    }
    fixture.fill().unwrap();
    assert_eq!(entries(&fixture.data()), ["0"]);
    rustix::mount::unmount(&fixture.home, rustix::mount::UnmountFlags::DETACH).unwrap();
}

#[test]
fn a_big_directory_is_copied_whole() {
    let fixture = Fixture::new();
    for n in 0..500 {
        fs::write(fixture.source().join(format!("file-{n}")), n.to_string()).unwrap();
    }
    fixture.fill().unwrap();
    assert_eq!(entries(&fixture.data()), entries(&fixture.source()));
    let last = fs::read_to_string(fixture.data().join("file-499")).unwrap();
    assert_eq!(last, "499");
}
