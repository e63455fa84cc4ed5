//! The child: mounts the root where nobody else sees it, and looks.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::{FileType, OFlags};
use rustix::mount::{MountFlags, mount};

use super::users::{self, UserFiles};
use super::{Answer, Prepared, Request, copy_up};
use crate::bundle::Overlay;
use crate::child;
use crate::embedded::{Doing, Make, create_path, find_program, mount_overlay, mounts, open_path};
use crate::launch::LaunchError;

/// What the command `wharf prepare` runs: a request on standard input, the answer on standard output.
pub fn child_main() -> ExitCode {
    let done = |request: &Request| look(request).map(Answer::Prepared);
    child::answer(done, |error| Answer::Refused {
        code: error.exit_code(),
        reason: error.to_string(),
    })
}

fn look(request: &Request) -> Result<Prepared, LaunchError> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .doing(|| "making a mount namespace".to_owned())?;
    let mut volumes = mounts::prepare(&request.volumes)?;
    mounts::keep_private(&mut volumes);
    let fills = copy_up::open(&request.fills)?;
    mounts::cut_propagation(false).doing(|| "leaving the host's mounts".to_owned())?;
    let root = throwaway_root(request)?;
    for volume in &fills {
        copy_up::fill(root.as_fd(), volume)?;
    }
    for volume in &volumes {
        mounts::make(root.as_fd(), volume)?;
    }
    let files = UserFiles {
        passwd: image_file(root.as_fd(), "/etc/passwd")?,
        group: image_file(root.as_fd(), "/etc/group")?,
    };
    let user = users::resolve(&request.user, &request.groups, &files).map_err(LaunchError::Setup)?;
    create_path(&root, &request.cwd, Make::Directory)
        .map_err(|e| LaunchError::Setup(format!("working_dir {}: {e}", request.cwd.display())))?;
    let program = find_program(root.as_fd(), &request.command, &request.path, &request.cwd)?;
    Ok(Prepared { user, program })
}

/// The layers under a writable one in memory, which ends with this process: mount targets are made there as they will
/// be in earnest.
fn throwaway_root(request: &Request) -> Result<OwnedFd, LaunchError> {
    let at = &request.scratch;
    let memory = || format!("mounting a tmpfs at {}", at.display());
    mount("tmpfs", at, "tmpfs", MountFlags::empty(), Some(c"mode=755")).doing(memory)?;
    let overlay = Overlay {
        lower: request.overlay.lower.clone(),
        upper: at.join("upper"),
        work: at.join("work"),
    };
    let root = at.join("root");
    for dir in [&overlay.upper, &overlay.work, &root] {
        std::fs::create_dir(dir).doing(|| format!("making {}", dir.display()))?;
    }
    mount_overlay(&overlay, true, &root)
}

/// A file of the image, empty where it has none. Larger than any real one is refused, as is what is no file.
pub(crate) fn image_file(root: BorrowedFd<'_>, path: &str) -> Result<String, LaunchError> {
    const MOST: u64 = 8 << 20;
    let what = || format!("reading the image's {path}");
    let fd = match open_path(root, Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(String::new());
        }
        result => result.doing(what)?,
    };
    let stat = rustix::fs::fstat(&fd).doing(what)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_size as u64 > MOST {
        return Err(LaunchError::Setup(format!(
            "the image's {path} is not a file, or larger than {MOST} bytes"
        )));
    }
    let mut bytes = Vec::new();
    std::fs::File::from(fd)
        .take(MOST)
        .read_to_end(&mut bytes)
        .doing(what)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
