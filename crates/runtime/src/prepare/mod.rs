//! All of a new container that can fail without stopping its predecessor: directories, volumes, user, program.
//!
//! The image's files are looked at by a short-lived child of ours (`wharf prepare`) with a mount namespace of its own,
//! where root and volumes are mounted as they will be, so that nothing of it ever shows on the host, and a hostile
//! image meets a process that holds nothing.

mod child;
mod copy_up;
mod host;
mod limits;
mod users;
mod volumes;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use model::action::Instance;
use oci_spec::runtime::Mount;
use serde::{Deserialize, Serialize};

pub use child::child_main;
pub(crate) use child::image_file;
pub use host::host;
pub use limits::{limits, ulimits};
pub(crate) use users::{UserFiles, resolve as resolve_user};

use copy_up::Fill;

use crate::bundle::{Host, Overlay, ResolvedUser, process};

/// Why a container cannot be made. The text names the container.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error("container {container}: {doing} {path}: {source}", path = path.display())]
    Io {
        container: String,
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Something the user has to put right.
    #[error("container {container}: {reason}")]
    Refused {
        container: String,
        reason: String,
        /// 125, 126 (not executable) or 127 (not found).
        code: i32,
    },
}

impl PrepareError {
    fn refused(instance: &Instance, reason: impl Into<String>) -> Self {
        Self::Refused {
            container: instance.name.to_string(),
            reason: reason.into(),
            code: 125,
        }
    }

    fn io<'a>(
        instance: &'a Instance,
        doing: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io {
            container: instance.name.to_string(),
            doing,
            path: path.to_path_buf(),
            source,
        }
    }

    /// 125 ours, 126 not executable, 127 not found.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Io { .. } => 125,
            Self::Refused { code, .. } => *code,
        }
    }
}

/// Where things are.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// The container's kept directory.
    pub state_dir: &'a Path,
    /// What its configs and secrets hold, delivered before.
    pub contents_dir: &'a Path,
    /// Named volumes of the driver "local" lie below it, as `NAME/_data`: only those are given what the image has.
    pub volumes_dir: &'a Path,
    /// Volumes of servers are mounted right below it.
    pub servers_dir: &'a Path,
    /// The binary whose `prepare` command calls [`child_main`]: `/proc/self/exe`.
    pub exe: &'a Path,
}

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    pub user: ResolvedUser,
    /// The program in the root.
    pub program: PathBuf,
}

/// What the child is told.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    overlay: Overlay,
    volumes: Vec<Mount>,
    fills: Vec<Fill>,
    /// An existing directory to mount on.
    scratch: PathBuf,
    user: String,
    groups: Vec<String>,
    command: String,
    path: String,
    cwd: PathBuf,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Prepared(Prepared),
    Refused { code: i32, reason: String },
}

/// Makes the container's directories (`upper`, `work`, volumes), gives new volumes what the image has at their places,
/// and checks user and program. Idempotent.
pub fn check(places: &Places<'_>, instance: &Instance, host: &Host) -> Result<Prepared, PrepareError> {
    let overlay = Overlay {
        lower: instance.image.layers.clone(),
        upper: places.state_dir.join("upper"),
        work: places.state_dir.join("work"),
    };
    for dir in [&overlay.upper, &overlay.work] {
        make_dir(instance, dir)?;
    }
    let volumes = volumes::prepare(places, instance)?;
    let command_line = process::command_line(&instance.spec, &instance.image.config);
    let Some(command) = command_line.into_iter().next() else {
        let reason = "neither the image nor `command` or `entrypoint` says what to run: set `command`";
        return Err(PrepareError::refused(instance, reason));
    };
    let user = instance
        .spec
        .user
        .as_ref()
        .or(instance.image.config.user.as_ref());
    ask(
        places,
        instance,
        &Request {
            overlay,
            volumes: volumes.mounts,
            fills: volumes.fills,
            scratch: places.state_dir.to_path_buf(),
            user: user.cloned().unwrap_or_default(),
            groups: instance.spec.groups.clone(),
            command,
            path: process::search_path(instance, &host.env_files),
            cwd: process::working_dir(instance).into(),
        },
    )
}

fn make_dir(instance: &Instance, dir: &Path) -> Result<(), PrepareError> {
    let mut builder = fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(PrepareError::io(instance, "making", dir))
}

fn ask(places: &Places<'_>, instance: &Instance, request: &Request) -> Result<Prepared, PrepareError> {
    let failed = |source| PrepareError::io(instance, "checking with", places.exe)(source);
    let mut command = Command::new(places.exe);
    // argv[0] is what process listings show.
    std::os::unix::process::CommandExt::arg0(&mut command, "wharf");
    let mut child = command
        .arg("prepare")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    let text = serde_json::to_vec(request).map_err(|e| failed(e.into()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that ended early says why on its output.
        let _ = stdin.write_all(&text);
    }
    let output = child.wait_with_output().map_err(failed)?;
    match serde_json::from_slice(&output.stdout) {
        Ok(Answer::Prepared(prepared)) => Ok(prepared),
        Ok(Answer::Refused { code, reason }) => Err(PrepareError::Refused {
            container: instance.name.to_string(),
            reason,
            code,
        }),
        Err(e) => Err(failed(io::Error::other(format!(
            "it gave no answer ({}): {e}",
            output.status
        )))),
    }
}
