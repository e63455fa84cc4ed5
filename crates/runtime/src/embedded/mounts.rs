//! Everything mounted below the root: each mount is made detached and put in place by descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Mount;
use rustix::fs::{AtFlags, CWD, FileType, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount,
    open_tree,
};

use super::error::Doing;
use super::options::{self, Options};
use super::path::{self, Make};
use super::sys::{self, MountAttributes};
use crate::cgroup::{Hierarchies, Mode};
use crate::launch::LaunchError;

/// A mount of the bundle, with its source opened where it is a bind.
pub struct Prepared<'a> {
    mount: &'a Mount,
    options: Options,
    source: Option<OwnedFd>,
}

/// Opens the sources of all binds. Done first, in the host's view and before propagation is cut, so that a `shared` or
/// `slave` bind stays tied to the mount it came from.
pub fn prepare<'a>(mounts: &'a [Mount]) -> Result<Vec<Prepared<'a>>, LaunchError> {
    prepare_with(mounts, None)
}

/// The same where the source of what goes to one place is given: another container's `/dev/shm`.
pub fn prepare_with<'a>(
    mounts: &'a [Mount],
    given: Option<(&Path, &OwnedFd)>,
) -> Result<Vec<Prepared<'a>>, LaunchError> {
    mounts.iter().map(|mount| prepare_one(mount, given)).collect()
}

/// Has mounts made here show nowhere else, whatever their options say: for a look at what they will be.
pub fn keep_private(prepared: &mut [Prepared<'_>]) {
    for mount in prepared {
        mount.options.attributes.propagation = 0;
        mount.options.recursive.propagation = libc::MS_PRIVATE;
    }
}

fn prepare_one<'a>(mount: &'a Mount, given: Option<(&Path, &OwnedFd)>) -> Result<Prepared<'a>, LaunchError> {
    let options = Options::of(mount);
    let to = mount.destination();
    let given = given.filter(|(place, _)| options.bind.is_some() && place == to);
    let source = match (options.bind, given) {
        (Some(_), Some((_, tree))) => Some(
            tree.try_clone()
                .doing(|| format!("mounting what is shared at {}", to.display()))?,
        ),
        (Some(recursive), None) => {
            let from = options::source(mount);
            Some(clone_tree(CWD, from, recursive).map_err(|e| missing_source(mount, from, &e))?)
        }
        (None, _) => None,
    };
    Ok(Prepared {
        mount,
        options,
        source,
    })
}

fn missing_source(mount: &Mount, from: &Path, error: &io::Error) -> LaunchError {
    let (from, to) = (from.display(), mount.destination().display());
    LaunchError::Setup(if error.kind() == io::ErrorKind::NotFound {
        format!("volumes: the source {from} of what is mounted at {to} does not exist any more")
    } else {
        format!("opening {from}, the source of the volume at {to}: {error}")
    })
}

/// A detached copy of the mount tree at a path (open_tree(2)); an empty path is the descriptor itself.
pub fn clone_tree(at: impl AsFd, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.as_os_str().is_empty());
    Ok(open_tree(at, path, flags)?)
}

/// Puts a detached mount onto what a descriptor names.
pub fn put(mount: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let by_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, c"", target, c"", by_descriptor)?)
}

/// Cuts this mount namespace off: nothing mounted from here on shows on the host.
pub fn cut_propagation(from_host: bool) -> io::Result<()> {
    let kind = if from_host {
        MountPropagationFlags::DOWNSTREAM
    } else {
        MountPropagationFlags::PRIVATE
    };
    Ok(mount_change("/", kind | MountPropagationFlags::REC)?)
}

/// Makes one mount below the root.
pub fn make(root: BorrowedFd<'_>, prepared: &Prepared<'_>) -> Result<(), LaunchError> {
    let to = prepared.mount.destination();
    let kind = prepared.mount.typ().as_deref().unwrap_or_default();
    let what = || {
        format!(
            "mounting {} at {}",
            if kind.is_empty() { "a bind" } else { kind },
            to.display()
        )
    };
    match (&prepared.source, kind) {
        (Some(source), _) => bind(root, source, to, &prepared.options),
        (None, "cgroup" | "cgroup2") => cgroup(root, to, &prepared.options),
        (None, _) => new_filesystem(kind, options::source(prepared.mount), &prepared.options)
            .and_then(|fs| put(&fs, &target(root, to, kind)?)),
    }
    .doing(what)
}

/// Kernel filesystems go onto real directories only: a link there, made by the image, would put /proc elsewhere and
/// leave a forged one in its place.
fn target(root: BorrowedFd<'_>, to: &Path, kind: &str) -> io::Result<OwnedFd> {
    if kind == "tmpfs" && to != Path::new("/dev") {
        return checked_target(path::create(root, to, Make::Directory)?);
    }
    match path::open_without_links(root, to, OFlags::PATH | OFlags::DIRECTORY) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => path::create(root, to, Make::Directory),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) => Err(io::Error::other(
            "the image has a link or a file where this directory must be",
        )),
        result => result,
    }
}

/// A target that turned out to lie in procfs would hide or forge what the kernel says there.
pub fn checked_target(target: OwnedFd) -> io::Result<OwnedFd> {
    match path::magic(&target)? {
        path::PROC => Err(io::Error::other("nothing can be mounted inside /proc")),
        _ => Ok(target),
    }
}

fn bind(root: BorrowedFd<'_>, source: &OwnedFd, to: &Path, options: &Options) -> io::Result<()> {
    let stat = rustix::fs::statat(source, c"", AtFlags::EMPTY_PATH)?;
    let make = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Make::Directory,
        _ => Make::File,
    };
    let target = path::create(root, to, make).map_err(|e| match e.kind() {
        io::ErrorKind::ReadOnlyFilesystem => io::Error::other(
            "there is nothing at that place, and what it lies on is mounted read-only: make an empty file or directory \
             there first",
        ),
        _ => e,
    })?;
    let target = checked_target(target)?;
    for (recursive, change) in [(true, options.recursive), (false, options.attributes)] {
        if change != MountAttributes::default() {
            sys::mount_setattr(source.as_fd(), recursive, change)?;
        }
    }
    put(source, &target)
}

/// A new filesystem, detached.
pub fn new_filesystem(kind: &str, source: &Path, options: &Options) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, c"source", source)?;
    for (key, value) in &options.data {
        match value {
            Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str())?,
            None => fsconfig_set_flag(&context, key.as_str())?,
        }
    }
    fsconfig_create(&context)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, options.mount_flags())?;
    if options.attributes.propagation != 0 {
        let change = MountAttributes {
            propagation: options.attributes.propagation,
            ..MountAttributes::default()
        };
        sys::mount_setattr(mount.as_fd(), false, change)?;
    }
    Ok(mount)
}

/// The container's own control groups, seen from its cgroup namespace: on v2 one mount, on v1 a directory with one for
/// each hierarchy it was put in.
fn cgroup(root: BorrowedFd<'_>, to: &Path, options: &Options) -> io::Result<()> {
    let hierarchies = Hierarchies::detect().map_err(io::Error::other)?;
    let at = target(root, to, "cgroup")?;
    let named = Path::new("cgroup");
    if hierarchies.mode() == Mode::V2 {
        return put(&new_filesystem("cgroup2", named, options)?, &at);
    }
    let data = |list: &[&str]| list.iter().map(|c| (c.to_string(), None)).collect();
    let dir = Options {
        data: vec![("mode".into(), Some("755".into()))],
        attributes: MountAttributes {
            set: options.attributes.set & !u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()),
            ..options.attributes
        },
        ..Options::default()
    };
    let tmpfs = new_filesystem("tmpfs", Path::new("tmpfs"), &dir)?;
    put(&tmpfs, &at)?;
    for (controllers, place) in hierarchies.mounted() {
        let Some(name) = place.file_name() else { continue };
        rustix::fs::mkdirat(&tmpfs, name, rustix::fs::Mode::from_raw_mode(0o755))?;
        let kind = if controllers.is_empty() {
            "cgroup2"
        } else {
            "cgroup"
        };
        let controllers: Vec<&str> = controllers.iter().map(String::as_str).collect();
        let own = Options {
            data: data(&controllers),
            ..options.clone()
        };
        let mounted = new_filesystem(kind, named, &own)?;
        let below = path::open(&tmpfs, Path::new(name), OFlags::PATH)?;
        put(&mounted, &below)?;
        for link in controllers.iter().filter(|c| std::ffi::OsStr::new(c) != name) {
            rustix::fs::symlinkat(name, &tmpfs, *link)?;
        }
    }
    let finish = MountAttributes {
        set: options.attributes.set,
        ..MountAttributes::default()
    };
    sys::mount_setattr(tmpfs.as_fd(), false, finish)
}
