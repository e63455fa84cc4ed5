//! Writing a container's bundle to its run dir.

use std::io;
use std::path::Path;

use model::action::Instance;
use serde::Serialize;

use super::{Result, Runtime, RuntimeError};
use crate::bundle::{self, BundleInput, Extra, Shared};
use crate::prepare::{self, Places};
use crate::shim::files::{self, Files, ShimConfig};

/// Whether the bundle of this very instance is there whole: `shim.json` is written last.
pub fn is_written(i: &Instance, files: &Files) -> bool {
    let config: Option<ShimConfig> = files::read(&files.config()).unwrap_or(None);
    files.container().exists()
        && config.is_some_and(|config| {
            config.id == i.id
                && config.policy == i.shim_policy()
                && config.shared == Shared::of(i)
                && config.told == ShimConfig::told(i)
        })
}

/// Checks user and program, makes the bundle and writes it. No shim works by it meanwhile.
pub fn write(runtime: &Runtime, i: &Instance, files: &Files) -> Result<()> {
    let config = files.config();
    files::remove(&config).map_err(RuntimeError::file("remove", &config))?;
    let host = prepare::host(i)?;
    prepare::limits(i, &runtime.cgroup_parent)?;
    let volumes_dir = runtime.roots.volumes();
    let contents_dir = runtime.roots.container_contents(&i.id);
    let servers_dir = runtime.roots.nfs();
    let places = Places {
        state_dir: &files.state,
        contents_dir: &contents_dir,
        volumes_dir: &volumes_dir,
        servers_dir: &servers_dir,
        exe: &runtime.exe,
    };
    let prepared = prepare::check(&places, i, &host)?;
    let bundle = bundle::build(&BundleInput {
        instance: i,
        user: &prepared.user,
        host: &host,
        bundle_dir: &files.run,
        state_dir: &files.state,
        contents_dir: &contents_dir,
        servers_dir: &servers_dir,
        cgroup_parent: &runtime.cgroup_parent,
    })?;
    prepare::ulimits(i, &host, &bundle.spec)?;
    let rootfs = files.run.join(bundle::ROOTFS);
    make_dir(&rootfs).map_err(RuntimeError::file("make", &rootfs))?;
    write_json(&files.run.join(bundle::CONFIG), &bundle.spec)?;
    write_json(&files.run.join(bundle::EXTRA), &bundle.extra)?;
    for (name, text) in &bundle.files {
        let path = files.run.join(name);
        std::fs::write(&path, text).map_err(RuntimeError::file("write", &path))?;
    }
    write_json(
        &config,
        &shim_config(runtime, i, &bundle.extra, bundle.spec.hostname().as_deref()),
    )
}

fn shim_config(runtime: &Runtime, i: &Instance, extra: &Extra, hostname: Option<&str>) -> ShimConfig {
    ShimConfig {
        id: i.id.clone(),
        name: i.name.clone(),
        cgroup_parent: runtime.cgroup_parent.clone(),
        hostname: hostname.filter(|_| extra.unshare.uts).map(str::to_owned),
        own_net: extra.unshare.net,
        own_ipc: extra.unshare.ipc,
        shared: extra.shared.clone(),
        told: ShimConfig::told(i),
        policy: i.shim_policy(),
    }
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    files::write(path, value).map_err(RuntimeError::file("write", path))
}

fn make_dir(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
