//! Entries of `volumes`, and hosts that mount.

use std::fs;
use std::path::{Path, PathBuf};

use model::spec::{Propagation, VolumeSource, VolumeUse};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use super::Container;

pub fn out(container: &Container) -> String {
    let ran = container.run();
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.stdout
}

pub fn refused(container: &Container) -> String {
    container.prepare().unwrap_err().to_string()
}

pub fn named(name: &str, target: &str) -> VolumeUse {
    VolumeUse {
        source: VolumeSource::Named(name.parse().unwrap()),
        target: target.to_owned(),
        read_only: false,
    }
}

pub fn anonymous(target: &str) -> VolumeUse {
    VolumeUse {
        source: VolumeSource::Anonymous,
        ..named("x", target)
    }
}

pub fn bind(source: &Path, target: &str) -> VolumeUse {
    bind_how(source, target, Propagation::Rprivate)
}

pub fn bind_how(source: &Path, target: &str, propagation: Propagation) -> VolumeUse {
    VolumeUse {
        source: VolumeSource::Bind {
            source: source.to_path_buf(),
            create: false,
            propagation,
            require_mount: false,
        },
        ..named("x", target)
    }
}

pub fn read_only(volume: VolumeUse) -> VolumeUse {
    VolumeUse {
        read_only: true,
        ..volume
    }
}

/// Makes a volume as the store does: a directory around `_data`.
pub fn make(volumes: &Path, name: &str) -> PathBuf {
    let data = volumes.join(name).join("_data");
    fs::create_dir_all(&data).unwrap();
    data
}

/// A container with a named volume at `/data`; its data.
pub fn with_volume(script: &str) -> (Container, PathBuf) {
    let mut container = Container::sh(script);
    let data = make(&container.beside("volumes"), "v");
    container
        .instance
        .volumes
        .insert("v".parse().unwrap(), data.clone());
    (container.with(|s| s.volumes = vec![named("v", "/data")]), data)
}

/// A mount namespace for this thread and what it starts, where nothing is shared.
pub fn own_mounts() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
}

pub fn mount_memory(at: &Path) {
    fs::create_dir_all(at).unwrap();
    mount("tmpfs", at, "tmpfs", MountFlags::empty(), None).unwrap();
}
