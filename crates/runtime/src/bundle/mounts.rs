//! The mounts, in the order they are made.

use std::path::{Path, PathBuf};

use model::name::Name;
use model::spec::{NamespaceMode, Propagation, TmpfsMount, VolumeSource, VolumeUse};
use oci_spec::OciSpecError;
use oci_spec::runtime::{Mount, MountBuilder};

use super::{BundleInput, Failed};

/// Docker's own mounts, then the files of `/etc`, then what the table asks for, parents before children. A volume at
/// the place of one of ours replaces it.
pub fn mounts(input: &BundleInput<'_>) -> Result<Vec<Mount>, Failed> {
    let mut mounts = kernel_mounts(input)?;
    let mut own = etc_files(input)?;
    let spec = &input.instance.spec;
    for volume in &spec.volumes {
        replace(
            &mut own,
            volume_mount(input.state_dir, input.volumes_dir, volume)?,
        );
    }
    for tmpfs in &spec.tmpfs {
        replace(&mut own, tmpfs_mount(tmpfs)?);
    }
    own.sort_by_key(|m| m.destination().components().count());
    mounts.retain(|m| !own.iter().any(|o| o.destination() == m.destination()));
    mounts.extend(own);
    Ok(mounts)
}

fn replace(mounts: &mut Vec<Mount>, mount: Mount) {
    mounts.retain(|m| m.destination() != mount.destination());
    mounts.push(mount);
}

fn mount(to: impl Into<PathBuf>, kind: &str, from: &Path, options: &[&str]) -> Result<Mount, OciSpecError> {
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
    if spec.ipc == NamespaceMode::Host {
        let options = ["rbind", "rprivate", "nosuid", "noexec", "nodev"];
        mounts.push(simple("/dev/shm", "bind", "/dev/shm", &options)?);
    } else {
        let shm = ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"];
        mounts.push(simple("/dev/shm", "tmpfs", "shm", &shm)?);
    }
    Ok(mounts)
}

fn etc_files(input: &BundleInput<'_>) -> Result<Vec<Mount>, Failed> {
    let file = |name: &str| {
        mount(
            format!("/etc/{name}"),
            "bind",
            &input.bundle_dir.join(name),
            &["rbind", "rprivate"],
        )
    };
    Ok(vec![file("resolv.conf")?, file("hostname")?, file("hosts")?])
}

/// The mount of one entry of `volumes`.
pub fn volume_mount(state_dir: &Path, volumes_dir: &Path, volume: &VolumeUse) -> Result<Mount, OciSpecError> {
    let (source, propagation) = match &volume.source {
        VolumeSource::Named(name) => (named(volumes_dir, name), "rprivate"),
        VolumeSource::Anonymous => (anonymous(state_dir, &volume.target), "rprivate"),
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
    mount(&volume.target, "bind", &source, &options)
}

/// Where a named volume's data lie.
pub fn named(volumes_dir: &Path, name: &Name) -> PathBuf {
    volumes_dir.join(name.as_str()).join("_data")
}

/// Where an anonymous volume lies: below the container's kept directory, gone with it.
pub fn anonymous(state_dir: &Path, target: &str) -> PathBuf {
    let name: String = target
        .bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' => char::from(b).to_string(),
            other => format!("_{other:02x}"),
        })
        .collect();
    state_dir.join("volumes").join(name)
}

fn propagation_option(propagation: Propagation) -> &'static str {
    match propagation {
        Propagation::Private => "private",
        Propagation::Rprivate => "rprivate",
        Propagation::Shared => "shared",
        Propagation::Rshared => "rshared",
        Propagation::Slave => "slave",
        Propagation::Rslave => "rslave",
    }
}

fn tmpfs_mount(tmpfs: &TmpfsMount) -> Result<Mount, OciSpecError> {
    tmpfs_options(tmpfs, false)
}

fn tmpfs_options(tmpfs: &TmpfsMount, read_only: bool) -> Result<Mount, OciSpecError> {
    let mut options = vec!["nosuid".to_owned(), "noexec".to_owned(), "nodev".to_owned()];
    if read_only {
        options.push("ro".to_owned());
    }
    options.extend(tmpfs.size.map(|size| format!("size={size}")));
    options.push(format!("mode={:o}", tmpfs.mode.unwrap_or(0o1777)));
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    mount(&tmpfs.target, "tmpfs", Path::new("tmpfs"), &options)
}
