//! The mounts, in the order they are made.

use std::path::{Path, PathBuf};

use model::action::Instance;
use model::name::Name;
use model::paths::VOLUME_DATA;
use model::plan::fingerprint;
use model::spec::{NamespaceMode, Propagation, RuntimeChoice, TmpfsMount, VolumeSource, VolumeUse};
use oci_spec::OciSpecError;
use oci_spec::runtime::{Mount, MountBuilder};

use super::{BundleInput, Failed, contents};

/// Of a file name's 255 bytes, what a target may take before it is cut and told apart by a fingerprint.
const MOST_NAME: usize = 200;

const SHM: &str = "/dev/shm";

/// In the bundle directory: where an external runtime finds the `/dev/shm` of the container whose ipc it shares.
pub(crate) const SHARED_SHM: &str = "shm";

/// Why the volumes of a container cannot be mounted as they are written.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error(
        "volumes: volume {name} (at {target}) has no place on this host yet; it is made first, and this tried again"
    )]
    Unplaced { name: Name, target: String },
    #[error(
        "the image declares VOLUME {0:?}, which is no absolute path below /: mount something there by `volumes`, or \
         correct the image"
    )]
    OfImage(String),
    #[error(
        "volumes: what is mounted at {inner} lies inside {outer}, whose propagation is \"{propagation}\": the mount \
         would appear on the host as well, and stay there; mount it elsewhere, or leave `propagation` out"
    )]
    InsideShared {
        inner: String,
        outer: String,
        propagation: &'static str,
    },
    #[error(
        "volumes: propagation \"{propagation}\" at {target} takes the embedded runtime: leave `runtime` out, or use \
         \"rslave\""
    )]
    SharedOutside {
        target: String,
        propagation: &'static str,
    },
    #[error("volumes: the mount at {target}: {source}")]
    Spec {
        target: String,
        #[source]
        source: OciSpecError,
    },
}

/// Docker's own mounts, then the files of `/etc`, then what the table and the image ask for, parents before children,
/// then configs and secrets. A volume or config at the place of one of ours, or a volume above it, replaces it.
pub fn mounts(input: &BundleInput<'_>) -> Result<Vec<Mount>, Failed> {
    let mut mounts = kernel_mounts(input)?;
    let mut own = etc_files(input)?;
    let instance = input.instance;
    let volumes = volumes(instance)?;
    for volume in &volumes {
        replace(&mut own, volume_mount(instance, input.state_dir, volume)?);
    }
    for tmpfs in &instance.spec.tmpfs {
        replace(&mut own, tmpfs_mount(tmpfs)?);
    }
    by_depth(&mut own);
    for content in contents::mounts(instance, input.contents_dir, &volumes)? {
        replace(&mut own, content);
    }
    for volume in &volumes {
        refuse_sharing(instance, volume, &own)?;
    }
    mounts.retain(|m| !own.iter().any(|o| m.destination().starts_with(o.destination())));
    mounts.extend(own);
    Ok(mounts)
}

/// Parents before children.
pub fn by_depth(mounts: &mut [Mount]) {
    mounts.sort_by_key(|m| m.destination().components().count());
}

/// What the table mounts, then an anonymous volume for each VOLUME of the image that nothing else is mounted on.
pub fn volumes(instance: &Instance) -> Result<Vec<VolumeUse>, VolumeError> {
    let spec = &instance.spec;
    let mut volumes = spec.volumes.clone();
    for declared in &instance.image.config.volumes {
        let target = clean(declared).ok_or_else(|| VolumeError::OfImage(declared.clone()))?;
        let covered = |other: &str| clean(other).as_ref() == Some(&target);
        if volumes.iter().any(|v| covered(&v.target)) || spec.tmpfs.iter().any(|t| covered(&t.target)) {
            continue;
        }
        volumes.push(VolumeUse {
            source: VolumeSource::Anonymous,
            target,
            read_only: false,
        });
    }
    Ok(volumes)
}

/// An absolute path without what changes nothing; none for `/` and for what is not absolute. `..` goes up as text: what
/// links in the image make of the path is found out when it is mounted.
pub(super) fn clean(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.strip_prefix('/')?.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            other => parts.push(other),
        }
    }
    (!parts.is_empty()).then(|| format!("/{}", parts.join("/")))
}

/// A mount made below one that is shared with the host would be made on the host as well, and outlive the container.
/// That goes for our own masks over parts of /proc and /sys too.
fn refuse_sharing(instance: &Instance, volume: &VolumeUse, all: &[Mount]) -> Result<(), VolumeError> {
    let Some(propagation) = shared(volume) else {
        return Ok(());
    };
    let target = &volume.target;
    if instance.spec.runtime != RuntimeChoice::Embedded {
        let target = target.clone();
        return Err(VolumeError::SharedOutside { target, propagation });
    }
    let inside = |path: &Path| path != Path::new(target) && path.starts_with(target);
    let masked = ["/proc/sys", "/sys/firmware"].map(Path::new);
    let masked = masked.into_iter().filter(|_| !instance.spec.privileged);
    let mounted = all.iter().map(|m| m.destination().as_path());
    match mounted.chain(masked).find(|path| inside(path)) {
        None => Ok(()),
        Some(inner) => Err(VolumeError::InsideShared {
            inner: inner.display().to_string(),
            outer: target.clone(),
            propagation,
        }),
    }
}

/// How a volume is shared with the host, so that mounts go both ways.
fn shared(volume: &VolumeUse) -> Option<&'static str> {
    match &volume.source {
        VolumeSource::Bind {
            propagation: Propagation::Shared,
            ..
        } => Some("shared"),
        VolumeSource::Bind {
            propagation: Propagation::Rshared,
            ..
        } => Some("rshared"),
        _ => None,
    }
}

fn replace(mounts: &mut Vec<Mount>, mount: Mount) {
    mounts.retain(|m| m.destination() != mount.destination());
    mounts.push(mount);
}

pub(super) fn mount(
    to: impl Into<PathBuf>,
    kind: &str,
    from: &Path,
    options: &[&str],
) -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .destination(to)
        .typ(kind)
        .source(from)
        .options(options.iter().map(|&o| o.to_owned()).collect::<Vec<_>>())
        .build()
}

fn kernel_mounts(input: &BundleInput<'_>) -> Result<Vec<Mount>, Failed> {
    let spec = &input.instance.spec;
    let simple =
        |to: &str, kind: &str, from: &str, options: &[&str]| mount(to, kind, Path::new(from), options);
    let quiet = ["nosuid", "noexec", "nodev"];
    let writable = if spec.privileged { "rw" } else { "ro" };
    let with = |last| [quiet[0], quiet[1], quiet[2], last];
    let mut mounts = vec![
        simple("/proc", "proc", "proc", &quiet)?,
        simple(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        )?,
        simple(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        )?,
        simple("/sys", "sysfs", "sysfs", &with(writable))?,
        simple("/sys/fs/cgroup", "cgroup", "cgroup", &with(writable))?,
    ];
    // Of the ipc namespace it is mounted in, so it is the host's where that is shared.
    mounts.push(simple("/dev/mqueue", "mqueue", "mqueue", &quiet)?);
    let options = ["rbind", "rprivate", "nosuid", "noexec", "nodev"];
    mounts.push(match spec.ipc {
        NamespaceMode::Host if input.host.shm => simple(SHM, "bind", SHM, &options)?,
        // Where its owner's is put before it is started.
        NamespaceMode::Container(_) => mount(SHM, "bind", &input.bundle_dir.join(SHARED_SHM), &options)?,
        NamespaceMode::Private | NamespaceMode::Host => {
            let shm = ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"];
            simple(SHM, "tmpfs", "shm", &shm)?
        }
    });
    Ok(mounts)
}

/// The files of a shared network's owner are shared with it.
fn etc_files(input: &BundleInput<'_>) -> Result<Vec<Mount>, Failed> {
    let dir = match &input.instance.joins.net {
        Some(owner) => input.bundle_dir.with_file_name(owner.as_str()),
        None => input.bundle_dir.to_path_buf(),
    };
    let file = |name: &str| {
        mount(
            format!("/etc/{name}"),
            "bind",
            &dir.join(name),
            &["rbind", "rprivate"],
        )
    };
    Ok(vec![file("resolv.conf")?, file("hostname")?, file("hosts")?])
}

/// The mount of one volume.
pub fn volume_mount(instance: &Instance, state_dir: &Path, volume: &VolumeUse) -> Result<Mount, VolumeError> {
    let (source, propagation) = match &volume.source {
        VolumeSource::Named(name) => (named(instance, name, volume)?, "rprivate"),
        VolumeSource::Anonymous => (anonymous(state_dir, &volume.target).join(VOLUME_DATA), "rprivate"),
        VolumeSource::Bind {
            source, propagation, ..
        } => (source.clone(), propagation_option(*propagation)),
        VolumeSource::Tmpfs { size, mode } => {
            let tmpfs = TmpfsMount {
                target: volume.target.clone(),
                size: *size,
                mode: *mode,
            };
            return tmpfs_options(&tmpfs, volume.read_only);
        }
    };
    let mut options = vec!["rbind", propagation];
    if volume.read_only {
        // Mounts below the source too: a writable hole in a read-only volume is nobody's wish.
        options.push("rro");
    }
    mount(&volume.target, "bind", &source, &options).map_err(of_target(&volume.target))
}

fn of_target(target: &str) -> impl FnOnce(OciSpecError) -> VolumeError {
    let target = target.to_owned();
    move |source| VolumeError::Spec { target, source }
}

/// Where a named volume's data lie: decided by whoever made it.
pub fn named(instance: &Instance, name: &Name, volume: &VolumeUse) -> Result<PathBuf, VolumeError> {
    let place = instance.volumes.get(name).cloned();
    place.ok_or_else(|| VolumeError::Unplaced {
        name: name.clone(),
        target: volume.target.clone(),
    })
}

/// Where an anonymous volume lies, its data in [`VOLUME_DATA`]: below the container's kept directory, gone with it.
pub fn anonymous(state_dir: &Path, target: &str) -> PathBuf {
    let mut name: String = target
        .bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' => char::from(b).to_string(),
            other => format!("_{other:02x}"),
        })
        .collect();
    if name.len() > MOST_NAME {
        name = format!("{}-{}", &name[..MOST_NAME], fingerprint(&target));
    }
    state_dir.join("volumes").join(name)
}

/// A bind always brings the mounts below its source along, and they are treated alike: one left tied to the host's
/// would carry what is mounted inside the container over there.
fn propagation_option(propagation: Propagation) -> &'static str {
    match propagation {
        Propagation::Private | Propagation::Rprivate => "rprivate",
        Propagation::Shared | Propagation::Rshared => "rshared",
        Propagation::Slave | Propagation::Rslave => "rslave",
    }
}

fn tmpfs_mount(tmpfs: &TmpfsMount) -> Result<Mount, VolumeError> {
    tmpfs_options(tmpfs, false)
}

fn tmpfs_options(tmpfs: &TmpfsMount, read_only: bool) -> Result<Mount, VolumeError> {
    let mut options = vec!["nosuid".to_owned(), "noexec".to_owned(), "nodev".to_owned()];
    if read_only {
        options.push("ro".to_owned());
    }
    options.extend(tmpfs.size.map(|size| format!("size={size}")));
    options.push(format!("mode={:o}", tmpfs.mode.unwrap_or(0o1777)));
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    mount(&tmpfs.target, "tmpfs", Path::new("tmpfs"), &options).map_err(of_target(&tmpfs.target))
}
