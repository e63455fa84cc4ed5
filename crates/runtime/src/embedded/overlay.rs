//! The root filesystem: layers, and a writable one over them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::error::Doing;
use super::sys::{self, MountAttributes};
use crate::bundle::Overlay;
use crate::launch::LaunchError;

/// Mounts an overlay at a directory and opens its root (O_PATH). The caller has a mount namespace of its own.
///
/// Without `writable` only the layers are put together, read-only.
pub fn mount(overlay: &Overlay, writable: bool, at: &Path) -> Result<OwnedFd, LaunchError> {
    let lower = overlay
        .lower
        .iter()
        .map(|dir| open_dir(dir).doing(|| format!("opening image layer {}", dir.display())))
        .collect::<Result<Vec<_>, _>>()?;
    let upper = match writable {
        true => Some((
            open_dir(&overlay.upper)
                .doing(|| format!("opening the writable layer {}", overlay.upper.display()))?,
            open_dir(&overlay.work)
                .doing(|| format!("opening the work directory {}", overlay.work.display()))?,
        )),
        false => None,
    };
    if let (None, [only]) = (&upper, lower.as_slice()) {
        return read_only_clone(only)
            .and_then(|tree| attach(tree, at))
            .doing(|| "mounting the image's layer".to_owned());
    }
    let layers = Layers { lower, upper };
    match layers.configured(overlay) {
        // Kernels before 6.7 know no lowerdir+.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => layers.old_way(at),
        Err(e) => Err(e),
        Ok(tree) => attach(tree, at),
    }
    .doing(|| "mounting the container's overlay".to_owned())
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn read_only_clone(dir: &OwnedFd) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(dir, c"", flags)?;
    let change = MountAttributes {
        set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()),
        ..MountAttributes::default()
    };
    sys::mount_setattr(tree.as_fd(), false, change)?;
    Ok(tree)
}

fn attach(tree: OwnedFd, at: &Path) -> io::Result<OwnedFd> {
    move_mount(&tree, c"", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(tree)
}

/// Open layers, bottom first; with them upper and work directory.
struct Layers {
    lower: Vec<OwnedFd>,
    upper: Option<(OwnedFd, OwnedFd)>,
}

impl Layers {
    /// By the mount API of Linux 5.2 and `lowerdir+` of 6.7, one layer a call, so that there is no limit to their
    /// length together.
    fn configured(&self, paths: &Overlay) -> io::Result<OwnedFd> {
        let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, c"source", c"overlay")?;
        for (fd, path) in self.lower.iter().zip(&paths.lower).rev() {
            fsconfig_set_string(&context, c"lowerdir+", by_name(fd, path))?;
        }
        if let Some((upper, work)) = &self.upper {
            fsconfig_set_string(&context, c"upperdir", by_name(upper, &paths.upper))?;
            fsconfig_set_string(&context, c"workdir", by_name(work, &paths.work))?;
        } else {
            fsconfig_set_flag(&context, c"ro")?;
        }
        fsconfig_create(&context)?;
        Ok(fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )?)
    }

    /// By mount(2), whose options fill at most a page: layers are named by descriptor numbers, seen from /proc/self/fd.
    fn old_way(&self, at: &Path) -> io::Result<OwnedFd> {
        let number = |fd: &OwnedFd| fd.as_raw_fd().to_string();
        let lower: Vec<String> = self.lower.iter().rev().map(number).collect();
        let mut options = format!("lowerdir={}", lower.join(":"));
        let mut flags = MountFlags::empty();
        match &self.upper {
            Some((upper, work)) => {
                options.push_str(&format!(",upperdir={},workdir={}", number(upper), number(work)));
            }
            None => flags |= MountFlags::RDONLY,
        }
        if options.len() > 4000 {
            return Err(Errno::TOOBIG.into());
        }
        let options = std::ffi::CString::new(options)?;
        let before = open_dir(Path::new("."))?;
        rustix::process::chdir("/proc/self/fd")?;
        let mounted = rustix::mount::mount("overlay", at, "overlay", flags, options.as_c_str());
        rustix::process::fchdir(&before)?;
        mounted?;
        open_dir(at)
    }
}

/// Its own path reads better in mount tables; but a value has at most 255 bytes, and backslashes would be taken away.
fn by_name(fd: &OwnedFd, path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.len() < 256 && !bytes.contains(&b'\\') {
        path.to_path_buf()
    } else {
        format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
    }
}

/// Makes a mounted root the root of this mount namespace; the old one is let go whole (pivot_root(2)).
pub fn pivot(root: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(c".", c".")?;
    // The old root now lies over the new one at "/" and is what "." of it names.
    rustix::mount::unmount(c".", rustix::mount::UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir(c"/")?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Kernels before 6.7 go this way; newer ones still know it.
    #[test]
    fn the_old_way_puts_the_same_layers_together() {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        super::super::mounts::cut_propagation(false).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let lower = vec![make("bottom"), make("a:b,c"), make("top")];
        for layer in &lower {
            fs::write(layer.join("which"), layer.file_name().unwrap().as_encoded_bytes()).unwrap();
            fs::write(layer.join(layer.file_name().unwrap()), "").unwrap();
        }
        let layers = Layers {
            lower: lower.iter().map(|l| open_dir(l).unwrap()).collect(),
            upper: Some((
                open_dir(&make("upper")).unwrap(),
                open_dir(&make("work")).unwrap(),
            )),
        };
        let at = make("at");
        layers.old_way(&at).unwrap();
        assert_eq!(fs::read_to_string(at.join("which")).unwrap(), "top");
        assert_eq!(fs::read_dir(&at).unwrap().count(), 4);
        fs::write(at.join("new"), "").unwrap();
        assert!(dir.path().join("upper/new").exists());
        rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}
