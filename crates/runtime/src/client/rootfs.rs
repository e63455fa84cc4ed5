//! Finding a container's files, and keeping it from writing to them for a while.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command as Program;

use model::action::Instance;
use model::name::ContainerId;
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};

use super::{PATIENCE, Result, Runtime, RuntimeError, dirs, is_passing};
use crate::bundle::{BundleError, Overlay, mounts};
use crate::contents::SECRETS;
use crate::rootfs::{Place, View};
use crate::shim::protocol::{self, Answer, Command, Request};

/// Places that are mounted on in every container.
const ALWAYS: [&str; 7] = [
    "/dev",
    "/proc",
    "/sys",
    "/etc/resolv.conf",
    "/etc/hostname",
    "/etc/hosts",
    SECRETS,
];

/// A container whose processes do not run as long as this lives; if this process dies, they go on.
///
/// Dropping it waits until they do, or others keep them from it: whoever looks then does not find them paused by this.
/// That is a matter of microseconds, but no longer than [`PATIENCE`].
#[derive(Debug)]
pub struct Frozen {
    connection: OwnedFd,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // The shim closes its end when it is done. One that has gone, or of a version that does not wait with that, is no
        // worse than nobody to wait for: the processes go on all the same.
        if shutdown(&self.connection, Shutdown::Write).is_ok() {
            let mut byte = [0; 1];
            while recv(&self.connection, &mut byte[..], RecvFlags::empty()) == Err(Errno::INTR) {}
        }
    }
}

impl Runtime {
    /// Where an instance's files are. It runs, or its shim waits to start it again, or nothing of it does; whoever wants to
    /// write to one that does not run takes [`Runtime::hold_stopped`] before.
    pub fn view(&self, i: &Instance) -> Result<View> {
        let state = self.shim_state(&i.id)?;
        let files = self.files(&i.id);
        let overlay = Overlay {
            lower: i.image.layers.clone(),
            upper: files.state.join("upper"),
            work: files.state.join("work"),
        };
        if !overlay.upper.is_dir() {
            return Err(RuntimeError::Unknown { id: i.id.clone() });
        }
        let volumes = mounts::volumes(i).map_err(|source| BundleError::Volume {
            container: i.name.to_string(),
            source,
        })?;
        let targets = volumes.iter().map(|volume| PathBuf::from(&volume.target));
        let mut ours: BTreeSet<PathBuf> = targets.collect();
        ours.extend(ALWAYS.iter().map(PathBuf::from));
        ours.extend(i.spec.tmpfs.iter().map(|tmpfs| PathBuf::from(&tmpfs.target)));
        ours.extend(i.contents.iter().map(|file| PathBuf::from(&file.target)));
        ours.extend(i.spec.devices.iter().map(|device| device.container.clone()));
        let cwd = i
            .spec
            .working_dir
            .as_ref()
            .or(i.image.config.working_dir.as_ref());
        ours.extend(cwd.map(PathBuf::from));
        ours.remove(Path::new("/"));
        let place = match state.and_then(|state| state.payload) {
            Some(payload) => Place::Running(payload),
            None => {
                let mount = |volume| mounts::volume_mount(i, &files.state, volume);
                let ours = |source| BundleError::Volume {
                    container: i.name.to_string(),
                    source,
                };
                // A tmpfs holds nothing when nobody runs.
                let kept = |volume: &&model::spec::VolumeUse| {
                    !matches!(volume.source, model::spec::VolumeSource::Tmpfs { .. })
                };
                let volumes = volumes.iter().filter(kept).map(mount);
                let mut volumes = volumes
                    .collect::<std::result::Result<Vec<_>, _>>()
                    .map_err(ours)?;
                mounts::by_depth(&mut volumes);
                Place::Resting {
                    volumes,
                    read_only: i.spec.read_only,
                }
            }
        };
        Ok(View {
            overlay,
            place,
            ours,
            at: self.roots.run.join("containers"),
        })
    }

    /// The program that works on a [`View`], with nothing of this process's but its standard streams to be set.
    pub fn files_program(&self) -> Program {
        let mut program = detach::command(&self.exe);
        program.arg("files");
        program
    }

    /// Keeps a container that does not run from being started while this is held, by this process or one that inherits it.
    ///
    /// # Errors
    /// [`RuntimeError::Refused`] where its shim is about to start it again.
    pub fn hold_stopped(&self, i: &Instance) -> Result<Option<OwnedFd>> {
        dirs::make(&self.files(&i.id), i)?;
        let gate = self.gate(&i.id)?;
        match self.has_shim(&i.id)? {
            false => Ok(gate),
            true => Err(RuntimeError::Refused {
                id: i.id.clone(),
                why: "it is being started or restarted: try again in a moment, or stop it first".to_owned(),
            }),
        }
    }

    /// Freezes a running container until what this gives is dropped, or this process ends; none where it does not run.
    /// One that is paused stays so.
    pub fn freeze(&self, id: &ContainerId) -> Result<Option<Frozen>> {
        if self.shim_state(id)?.and_then(|state| state.payload).is_none() {
            return Ok(None);
        }
        let request = Request::new(Command::Freeze);
        let asked = protocol::open(&self.files(id).socket(), &request, &[], PATIENCE);
        let connection = match asked {
            Err(e) if is_passing(&e) => return Ok(None),
            result => result.map_err(RuntimeError::silent(id))?,
        };
        match protocol::receive(&connection)
            .map_err(RuntimeError::silent(id))?
            .answer
        {
            Answer::Done => Ok(Some(Frozen { connection })),
            Answer::Stale(why) | Answer::Refused(why) => Err(RuntimeError::Refused { id: id.clone(), why }),
        }
    }
}
