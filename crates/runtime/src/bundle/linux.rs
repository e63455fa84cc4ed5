//! Namespaces, devices, sysctls, seccomp, hidden paths.

use std::collections::HashMap;

use model::spec::{NamespaceMode, Seccomp};
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder,
    LinuxDeviceType, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResourcesBuilder,
    LinuxSeccomp,
};

use super::process::capabilities;
use super::{BundleError, BundleInput, CgroupPlace, DeviceNode, Failed, Unshare};
use crate::seccomp::{default_profile, read_profile};

/// What of /proc and /sys tells about the host or changes it.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

pub fn linux(input: &BundleInput<'_>, unshare: Unshare) -> Result<Linux, Failed> {
    let spec = &input.instance.spec;
    let place = CgroupPlace::of(input.cgroup_parent, input.instance);
    let resources = LinuxResourcesBuilder::default()
        .devices(device_rules(input)?)
        .build()?;
    let paths = |list: &[&str]| -> Vec<String> {
        let list = if spec.privileged { &[] } else { list };
        list.iter().map(|&p| p.to_owned()).collect()
    };
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(input)?)
        .devices(devices(input)?)
        .resources(resources)
        .cgroups_path(format!("{}/{}/payload", place.parent, place.name))
        .masked_paths(paths(MASKED))
        .readonly_paths(paths(READ_ONLY))
        .sysctl(sysctls(input, unshare)?)
        .build()?;
    linux.set_seccomp(seccomp(input)?);
    Ok(linux)
}

/// New ones; net, uts and ipc are the shim's and so inherited, shared ones are found as it starts.
fn namespaces(input: &BundleInput<'_>) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    let private_pid = input.instance.spec.pid == NamespaceMode::Private;
    let pid = private_pid.then_some(LinuxNamespaceType::Pid);
    let others = [LinuxNamespaceType::Mount, LinuxNamespaceType::Cgroup];
    pid.into_iter()
        .chain(others)
        .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build())
        .collect()
}

fn kind(node: &DeviceNode) -> LinuxDeviceType {
    if node.block {
        LinuxDeviceType::B
    } else {
        LinuxDeviceType::C
    }
}

/// The nodes to make, with the access each is given.
fn wanted<'a>(
    input: &BundleInput<'a>,
) -> Result<Vec<(std::path::PathBuf, &'a DeviceNode, String)>, BundleError> {
    let (spec, nodes) = (&input.instance.spec, &input.host.devices);
    if spec.privileged {
        let all = nodes
            .iter()
            .map(|(path, node)| (path.clone(), node, "rwm".to_owned()));
        return Ok(all.collect());
    }
    let find = |device: &model::spec::DeviceUse| {
        let node = nodes
            .get(&device.host)
            .ok_or_else(|| BundleError::UnknownDevice {
                container: input.instance.name.to_string(),
                path: device.host.clone(),
            })?;
        Ok((device.container.clone(), node, device.access.clone()))
    };
    spec.devices.iter().map(find).collect()
}

fn devices(input: &BundleInput<'_>) -> Result<Vec<LinuxDevice>, Failed> {
    let mut devices = Vec::new();
    for (path, node, _) in wanted(input)? {
        devices.push(
            LinuxDeviceBuilder::default()
                .path(path)
                .typ(kind(node))
                .major(i64::from(node.major))
                .minor(i64::from(node.minor))
                .file_mode(node.mode & 0o7777)
                .uid(node.uid)
                .gid(node.gid)
                .build()?,
        );
    }
    Ok(devices)
}

/// Docker's list: nothing, but making nodes, the harmless ones of /dev, terminals of its own, and what was asked for.
fn device_rules(input: &BundleInput<'_>) -> Result<Vec<LinuxDeviceCgroup>, Failed> {
    let rule = |allow, typ, major: Option<i64>, minor: Option<i64>, access: &str| {
        let mut rule = LinuxDeviceCgroupBuilder::default()
            .allow(allow)
            .typ(typ)
            .access(access);
        if let Some(major) = major {
            rule = rule.major(major);
        }
        if let Some(minor) = minor {
            rule = rule.minor(minor);
        }
        rule.build()
    };
    let privileged = input.instance.spec.privileged;
    let mut rules = vec![rule(privileged, LinuxDeviceType::A, None, None, "rwm")?];
    if privileged {
        return Ok(rules);
    }
    rules.push(rule(true, LinuxDeviceType::C, None, None, "m")?);
    rules.push(rule(true, LinuxDeviceType::B, None, None, "m")?);
    // null, zero, full, random, urandom; tty, ptmx; the pseudo-terminals
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        rules.push(rule(true, LinuxDeviceType::C, Some(major), Some(minor), "rwm")?);
    }
    rules.push(rule(true, LinuxDeviceType::C, Some(136), None, "rwm")?);
    for (_, node, access) in wanted(input)? {
        let (major, minor) = (Some(i64::from(node.major)), Some(i64::from(node.minor)));
        rules.push(rule(true, kind(node), major, minor, &access)?);
    }
    Ok(rules)
}

fn sysctls(input: &BundleInput<'_>, unshare: Unshare) -> Result<HashMap<String, String>, BundleError> {
    let sysctls = &input.instance.spec.sysctls;
    for name in sysctls.keys() {
        let ipc = ["kernel.msg", "kernel.shm", "fs.mqueue."];
        let of_ipc = name == "kernel.sem" || ipc.iter().any(|p| name.starts_with(p));
        let ours = (unshare.net && name.starts_with("net.")) || (unshare.ipc && of_ipc);
        if !ours || name.contains("..") || name.contains('/') {
            return Err(BundleError::ForeignSysctl {
                container: input.instance.name.to_string(),
                name: name.clone(),
            });
        }
    }
    Ok(sysctls.clone().into_iter().collect())
}

fn seccomp(input: &BundleInput<'_>) -> Result<Option<LinuxSeccomp>, BundleError> {
    let spec = &input.instance.spec;
    let capabilities = capabilities(input)?;
    let (profile, result) = match &spec.seccomp {
        _ if spec.privileged => return Ok(None),
        Seccomp::Unconfined => return Ok(None),
        Seccomp::Default => ("default".to_owned(), default_profile(&capabilities)),
        Seccomp::Profile(path) => {
            let text = input.host.seccomp_profile.as_deref().unwrap_or_default();
            (
                path.display().to_string(),
                read_profile(text, &capabilities, input.host.kernel),
            )
        }
    };
    result.map(Some).map_err(|source| BundleError::Seccomp {
        container: input.instance.name.to_string(),
        profile,
        source,
    })
}
