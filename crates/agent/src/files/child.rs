//! The child: goes where the files are, does one thing, and ends.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use runtime::launch::LaunchError;
use runtime::rootfs::{OwnFds, Place, View};
use rustix::fs::{Mode, StatVfsMountFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use storage::files::{self, Extract, Fds, FilesError, Links, Owners, PackOptions, Trees};

use super::{Head, Order, Refused, Task, Why, receive, send};

const BUFFER: usize = 128 * 1024;

/// What the command `wharf files` runs.
pub fn main() -> ExitCode {
    let done = streams().and_then(|(input, output)| serve(input, output));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Nobody may listen any more; the exit code says it too.
            drop(writeln!(io::stderr(), "{e}"));
            ExitCode::FAILURE
        }
    }
}

/// The standard streams without the standard library's buffers.
fn streams() -> io::Result<(File, File)> {
    let own = |fd: &dyn AsFd| -> io::Result<File> { Ok(fd.as_fd().try_clone_to_owned()?.into()) };
    Ok((own(&io::stdin())?, own(&io::stdout())?))
}

fn serve(input: File, mut output: File) -> io::Result<()> {
    umask(Mode::empty());
    // Each level of a tree takes a descriptor or three.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    )?;
    let order: Order = receive(&input)?;
    let fds = OwnFds::open()?;
    let mut work = Work {
        view: &order.view,
        fds: &fds,
        output: &mut output,
        told: false,
    };
    let refused = match work.carry_out(&order.task, input) {
        Ok(()) => return Ok(()),
        Err(refused) => refused,
    };
    match work.told && !matches!(order.task, Task::Extract { .. }) {
        // It is in the middle of the archive: only breaking off can say so.
        true => Err(io::Error::other(refused.text)),
        false => send(&mut output, &Head::Refused(refused)),
    }
}

struct Work<'a> {
    view: &'a View,
    fds: &'a OwnFds,
    output: &'a mut File,
    /// The head was sent.
    told: bool,
}

type Result<T> = std::result::Result<T, Refused>;

impl Work<'_> {
    fn carry_out(&mut self, task: &Task, input: File) -> Result<()> {
        match task {
            Task::Stat { path } => {
                let root = self.enter(false)?;
                let stat = files::stat(&root, path)?;
                self.tell(&Head::Stat(stat))
            }
            Task::Archive { path } => self.archive(path),
            Task::Extract { path, keep_kinds } => self.extract(path, *keep_kinds, input),
            Task::Export => {
                let root = self.view.merged()?;
                self.own_fds()?;
                self.tell(&Head::Ready)?;
                let root = readable(&root)?;
                files::pack_tree(&root, self.archive_out(), options())?;
                Ok(())
            }
            Task::Changes => {
                let changes = files::changes(&self.trees()?)?;
                self.tell(&Head::Ready)?;
                let mut out = self.archive_out();
                serde_json::to_writer(&mut out, &changes).map_err(io::Error::from)?;
                Ok(out.flush()?)
            }
            Task::Layer => {
                let trees = self.trees()?;
                self.tell(&Head::Ready)?;
                files::layer(&trees, self.archive_out(), options())?;
                Ok(())
            }
        }
    }

    fn archive(&mut self, path: &Path) -> Result<()> {
        let root = self.enter(false)?;
        let stat = files::stat(&root, path)?;
        let target = files::target(&root, path)?;
        self.tell(&Head::Stat(stat))?;
        let name = target.base();
        files::pack(&target, &name, self.archive_out(), options())?;
        Ok(())
    }

    fn extract(&mut self, path: &Path, keep_kinds: bool, input: File) -> Result<()> {
        let root = self.enter(true)?;
        // Its last part is followed: what a link leads to is a place as good as any.
        let into = path.join(".");
        let target = files::target(&root, &into).map_err(|error| match error {
            FilesError::NotDirectory(_) => refused(Why::Bad, "extraction point is not a directory"),
            error => error.into(),
        })?;
        self.check_writable(&root, &target)?;
        self.tell(&Head::Ready)?;
        let how = Extract {
            root: root.as_fd(),
            into,
            links: Links::FollowBelow,
            owners: Owners::Archive,
            rename: None,
            keep_kinds,
        };
        let mut input = input;
        files::extract(files::plain(Read::by_ref(&mut input))?, &how)?;
        // Whoever sends is not to find the pipe closed.
        io::copy(&mut input, &mut io::sink())?;
        self.tell(&Head::Ready)
    }

    /// As Docker says it, before anything is sent.
    fn check_writable(&self, root: &OwnedFd, target: &files::Target) -> Result<()> {
        let of_root = rustix::fs::fstat(root).map_err(io::Error::from)?.st_dev == target.stat.st_dev;
        let flags = rustix::fs::fstatvfs(&target.parent)
            .map_err(io::Error::from)?
            .f_flag;
        let locked = matches!(self.view.place, Place::Resting { read_only: true, .. });
        match (
            of_root,
            flags.contains(StatVfsMountFlags::RDONLY) || (of_root && locked),
        ) {
            (_, false) => Ok(()),
            (true, true) => Err(refused(Why::ReadOnly, "container rootfs is marked read-only")),
            (false, true) => Err(refused(Why::ReadOnly, "mounted volume is marked read-only")),
        }
    }

    fn trees(&self) -> Result<Trees> {
        let parts = self.view.parts()?;
        self.own_fds()?;
        Ok(Trees {
            upper: parts.upper,
            merged: readable(&parts.merged)?,
            base: readable(&parts.base)?,
            ours: self.view.ours.clone(),
        })
    }

    fn enter(&self, writable: bool) -> Result<OwnedFd> {
        let root = self.view.enter(writable)?;
        self.own_fds()?;
        Ok(root)
    }

    fn own_fds(&self) -> Result<()> {
        Ok(self.fds.enter()?)
    }

    fn tell(&mut self, head: &Head) -> Result<()> {
        self.told = true;
        Ok(send(&mut *self.output, head)?)
    }

    fn archive_out(&mut self) -> BufWriter<&mut File> {
        BufWriter::with_capacity(BUFFER, self.output)
    }
}

fn options() -> PackOptions {
    PackOptions {
        fds: Fds::here(),
        ..PackOptions::default()
    }
}

/// The directory itself, to be listed.
fn readable(path: &OwnedFd) -> Result<OwnedFd> {
    use rustix::fs::OFlags;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(path, c".", flags, Mode::empty());
    Ok(opened.map_err(io::Error::from)?)
}

fn refused(why: Why, text: &str) -> Refused {
    Refused {
        why,
        text: text.to_owned(),
    }
}

impl From<LaunchError> for Refused {
    fn from(error: LaunchError) -> Self {
        refused(Why::Failed, &error.to_string())
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        refused(Why::Failed, &error.to_string())
    }
}

impl From<FilesError> for Refused {
    fn from(error: FilesError) -> Self {
        let why = match &error {
            FilesError::NotFound(_) => Why::NotFound,
            FilesError::NotDirectory(_) | FilesError::Tar(_) | FilesError::Refused { .. } => Why::Bad,
            FilesError::Io { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                Why::ReadOnly
            }
            FilesError::Io { .. } | FilesError::Output(_) => Why::Failed,
        };
        refused(why, &error.to_string())
    }
}
