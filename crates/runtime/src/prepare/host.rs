//! What a bundle takes from the host, read in one go.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use model::action::Instance;
use model::spec::Seccomp;

use super::PrepareError;
use crate::bundle::{DeviceNode, Host};
use crate::embedded::available_capabilities;
use crate::seccomp::kernel_version;

/// Reads what an instance needs of the host.
pub fn host(instance: &Instance) -> Result<Host, PrepareError> {
    let spec = &instance.spec;
    let read =
        |path: &Path, doing| fs::read_to_string(path).map_err(|e| PrepareError::io(instance, doing, path)(e));
    let seccomp_profile = match &spec.seccomp {
        Seccomp::Profile(path) => Some(read(path, "reading seccomp profile")?),
        _ => None,
    };
    let mut env_files = Vec::new();
    for path in &spec.env_file {
        env_files.push((path.clone(), read(path, "reading env_file")?));
    }
    Ok(Host {
        resolv_conf: resolv_conf(),
        hosts: fs::read_to_string("/etc/hosts").unwrap_or_default(),
        kernel: kernel_version(&rustix::system::uname().release().to_string_lossy()).unwrap_or_default(),
        shm: Path::new("/dev/shm").is_dir(),
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        capabilities: available_capabilities(),
        devices: devices(instance)?,
        seccomp_profile,
        env_files,
    })
}

/// Where the host asks only systemd's local resolver, the servers that one asks: a container does not reach the former.
fn resolv_conf() -> String {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let local = |line: &str| {
        let address = line.strip_prefix("nameserver")?.trim();
        Some(address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()))
    };
    let servers: Vec<bool> = text.lines().filter_map(local).collect();
    if !servers.is_empty() && servers.iter().all(|&l| l) {
        fs::read_to_string("/run/systemd/resolve/resolv.conf").unwrap_or(text)
    } else {
        text
    }
}

/// The nodes a table names; of a privileged container all below /dev.
fn devices(instance: &Instance) -> Result<BTreeMap<PathBuf, DeviceNode>, PrepareError> {
    let mut nodes = BTreeMap::new();
    if instance.spec.privileged {
        let dev = Path::new("/dev");
        all_devices(dev, &mut nodes).map_err(PrepareError::io(instance, "listing devices in", dev))?;
    }
    for device in &instance.spec.devices {
        let path = &device.host;
        let found = fs::metadata(path).map_err(PrepareError::io(instance, "looking at device", path))?;
        let Some(node) = node(&found) else {
            let reason = format!("{} is not a device", path.display());
            return Err(PrepareError::refused(instance, reason));
        };
        nodes.insert(path.clone(), node);
    }
    Ok(nodes)
}

fn node(found: &fs::Metadata) -> Option<DeviceNode> {
    let kind = found.file_type();
    (kind.is_block_device() || kind.is_char_device()).then(|| DeviceNode {
        block: kind.is_block_device(),
        major: rustix::fs::major(found.rdev()),
        minor: rustix::fs::minor(found.rdev()),
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
    })
}

/// Without what a container has of its own: pts, shm, mqueue, the console.
fn all_devices(dir: &Path, nodes: &mut BTreeMap<PathBuf, DeviceNode>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let own = ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/console", "/dev/ptmx"];
        if own.iter().any(|o| path == Path::new(o)) {
            continue;
        }
        let Ok(found) = fs::symlink_metadata(&path) else {
            continue;
        };
        if found.is_dir() {
            all_devices(&path, nodes)?;
        } else if let Some(node) = node(&found) {
            nodes.insert(path, node);
        }
    }
    Ok(())
}
