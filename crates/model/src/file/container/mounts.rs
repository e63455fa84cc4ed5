//! `volumes`, `tmpfs`, `secrets`, `configs`, `devices`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::spec::{ContainerSpec, DeviceUse, Propagation, TmpfsMount, VolumeSource, VolumeUse};
use crate::units;

use super::super::reader::{Item, Table};
use super::super::tree::Value;

pub(super) fn read(table: &Table<'_>, spec: &mut ContainerSpec) {
    let mut targets = BTreeSet::new();
    table.set("volumes", &mut spec.volumes, |item| {
        item.each(|entry| {
            let volume = volume(entry)?;
            once(entry, &mut targets, &volume.target);
            Some(volume)
        })
    });
    table.set("tmpfs", &mut spec.tmpfs, |item| {
        item.each(|entry| {
            let mount = tmpfs(entry)?;
            once(entry, &mut targets, &mount.target);
            Some(mount)
        })
    });
    // Their order says nothing: what is mounted below another one is mounted after it.
    spec.volumes.sort_by(|a, b| a.target.cmp(&b.target));
    spec.tmpfs.sort_by(|a, b| a.target.cmp(&b.target));
    table.set("volumes_from", &mut spec.volumes_from, |item| {
        item.each(volumes_from)
    });
    table.set("secrets", &mut spec.secrets, |item| item.each(Item::name));
    table.set("configs", &mut spec.configs, |item| item.each(Item::name));
    spec.secrets.sort();
    spec.configs.sort();
    table.set("read_only", &mut spec.read_only, Item::boolean);
    table.set("devices", &mut spec.devices, |item| item.each(device));
    spec.devices.sort_by(|a, b| a.container.cmp(&b.container));
}

fn once(item: &Item<'_>, targets: &mut BTreeSet<String>, target: &str) {
    if !targets.insert(target.to_owned()) {
        item.fault(
            format!("mounts on {target} a second time"),
            "one mount a directory",
        );
    }
}

/// `SOURCE:TARGET[:OPTIONS]`, `TARGET`, or a table.
fn volume(item: &Item<'_>) -> Option<VolumeUse> {
    match &item.node.value {
        Value::Table(_) => volume_table(&item.table()?, item),
        Value::String(_) => volume_text(item),
        _ => {
            item.mismatch("a string or a table", None);
            None
        }
    }
}

fn volume_text(item: &Item<'_>) -> Option<VolumeUse> {
    let parts: Vec<&str> = item.text()?.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => {
            item.fault(
                "has too many colons",
                "SOURCE:TARGET[:OPTIONS], or a table for odd names",
            );
            return None;
        }
    };
    let target = target_path(item, target)?;
    let (read_only, propagation) = volume_options(item, options)?;
    let source = match source {
        None => VolumeSource::Anonymous,
        Some(path) if path.starts_with(['/', '.', '~']) => VolumeSource::Bind {
            source: PathBuf::from(item.absolute(path)?),
            create: false,
            propagation,
            require_mount: false,
        },
        Some(name) => VolumeSource::Named(item.named(name)?),
    };
    Some(VolumeUse {
        source,
        target,
        read_only,
    })
}

fn target_path(item: &Item<'_>, text: &str) -> Option<String> {
    let target = item.absolute(text)?;
    if target == "/" {
        item.fault(
            "mounts over the whole root",
            "use `rootfs` for a root of your own",
        );
        return None;
    }
    Some(target)
}

fn volume_options(item: &Item<'_>, options: &str) -> Option<(bool, Propagation)> {
    let (mut read_only, mut how) = (false, Propagation::Rprivate);
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            other => match propagation(other) {
                Some(found) => how = found,
                None => {
                    let hint = "known: ro, rw, private, rprivate, shared, rshared, slave, rslave";
                    item.fault(format!("has the option {other:?}"), hint);
                    return None;
                }
            },
        }
    }
    Some((read_only, how))
}

fn propagation(word: &str) -> Option<Propagation> {
    Some(match word {
        "private" => Propagation::Private,
        "rprivate" => Propagation::Rprivate,
        "shared" => Propagation::Shared,
        "rshared" => Propagation::Rshared,
        "slave" => Propagation::Slave,
        "rslave" => Propagation::Rslave,
        _ => return None,
    })
}

/// The keys of a volume's table; which of them make sense depends on its type.
#[derive(Default)]
struct Written {
    source: Option<String>,
    target: Option<String>,
    read_only: bool,
    create: bool,
    propagation: Option<Propagation>,
    require_mount: bool,
    size: Option<u64>,
    mode: Option<u32>,
}

fn volume_table(table: &Table<'_>, item: &Item<'_>) -> Option<VolumeUse> {
    let mut kind = None;
    table.fill("type", &mut kind, |item| Some(item.word()?.0));
    let mut written = Written::default();
    table.fill("source", &mut written.source, Item::filled);
    table.fill("target", &mut written.target, |item| {
        target_path(item, item.text()?)
    });
    table.set("read_only", &mut written.read_only, Item::boolean);
    table.set("create", &mut written.create, Item::boolean);
    table.fill("propagation", &mut written.propagation, |item| {
        propagation(item.word()?.0)
    });
    table.set("require_mount", &mut written.require_mount, Item::boolean);
    table.fill("size", &mut written.size, Item::size);
    table.fill("mode", &mut written.mode, mode);
    for key in ["type", "target"] {
        if !table.has(key) {
            table.missing(key, "a mount has a type (bind, volume, tmpfs) and a target");
        }
    }
    let kind = kind?;
    misplaced(table, kind);
    Some(VolumeUse {
        target: written.target.take()?,
        read_only: written.read_only,
        source: volume_source(table, item, kind, written)?,
    })
}

/// Keys that mean nothing with that type are mistakes.
fn misplaced(table: &Table<'_>, kind: &str) {
    let strange: &[&str] = match kind {
        "bind" => &["size", "mode"],
        "volume" => &["size", "mode", "create", "propagation", "require_mount"],
        _ => &["source", "create", "propagation", "require_mount"],
    };
    for key in strange.iter().filter(|key| table.has(key)) {
        let message = format!("`{key}` means nothing with type \"{kind}\"");
        table.fault(Some(key), message, "take it out");
    }
}

fn volume_source(table: &Table<'_>, item: &Item<'_>, kind: &str, written: Written) -> Option<VolumeSource> {
    if kind == "tmpfs" {
        let (size, mode) = (written.size, written.mode);
        return Some(VolumeSource::Tmpfs { size, mode });
    }
    if kind == "volume" && !table.has("source") {
        return Some(VolumeSource::Anonymous);
    }
    if !table.has("source") {
        table.missing("source", "the directory of the host that is mounted");
    }
    let source = written.source?;
    if kind == "volume" {
        return item.named(&source).map(VolumeSource::Named);
    }
    Some(VolumeSource::Bind {
        source: PathBuf::from(item.absolute(&source)?),
        create: written.create,
        propagation: written.propagation.unwrap_or(Propagation::Rprivate),
        require_mount: written.require_mount,
    })
}

/// An octal mode in quotes, as chmod(1) takes it.
pub(in super::super) fn mode(item: &Item<'_>) -> Option<u32> {
    mode_text(item, item.text()?)
}

fn mode_text(item: &Item<'_>, text: &str) -> Option<u32> {
    let digits = (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    if !digits {
        item.fault(format!("must be an octal mode like \"0755\", not {text:?}"), "");
        return None;
    }
    u32::from_str_radix(text, 8).ok()
}

/// `PATH[:size=64M,mode=1777]`.
fn tmpfs(item: &Item<'_>) -> Option<TmpfsMount> {
    let text = item.text()?;
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    let mut mount = TmpfsMount {
        target: target_path(item, path)?,
        size: None,
        mode: None,
    };
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option.split_once('=') {
            Some(("size", size)) => mount.size = Some(item.or_fault(units::parse_size(size))?),
            Some(("mode", mode)) => mount.mode = Some(mode_text(item, mode)?),
            _ => {
                item.fault(format!("has the option {option:?}"), "known: size=64M, mode=1777");
                return None;
            }
        }
    }
    Some(mount)
}

/// `NAME[:ro]`.
fn volumes_from(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    let (name, option) = text.split_once(':').unwrap_or((text, "rw"));
    item.named(name)?;
    if !matches!(option, "ro" | "rw") {
        item.fault(format!("has the option {option:?}"), "known: ro, rw");
        return None;
    }
    Some(text.to_owned())
}

/// `HOST[:CONTAINER][:rwm]`.
fn device(item: &Item<'_>) -> Option<DeviceUse> {
    let parts: Vec<&str> = item.text()?.split(':').collect();
    let (host, container, access) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, access] if !access.starts_with('/') => (host, host, access),
        [host, container] => (host, container, "rwm"),
        [host, container, access] => (host, container, access),
        _ => {
            item.fault("has too many colons", "HOST[:CONTAINER][:rwm]");
            return None;
        }
    };
    let known = |c: char| matches!(c, 'r' | 'w' | 'm');
    if access.is_empty() || !access.chars().all(known) {
        item.fault(
            format!("has the access {access:?}"),
            "some of r (read), w (write), m (make)",
        );
        return None;
    }
    Some(DeviceUse {
        host: PathBuf::from(item.absolute(host)?),
        container: PathBuf::from(item.absolute(container)?),
        access: "rwm".chars().filter(|c| access.contains(*c)).collect(),
    })
}
