//! `[volume.NAME]`.

use std::path::PathBuf;

use crate::nfs::{Export, Options, Refusal};
use crate::spec::{VolumeDriver, VolumeSpec};

use super::reader::{Item, Table};
use super::tree::Value;

/// Reads a volume.
pub(super) fn volume(table: &Table<'_>) -> VolumeSpec {
    let mut spec = VolumeSpec::default();
    table.set("driver", &mut spec.driver, |item| {
        Some(match item.word()?.0 {
            "bind" => VolumeDriver::Bind,
            "tmpfs" => VolumeDriver::Tmpfs,
            "nfs" => VolumeDriver::Nfs,
            _ => VolumeDriver::Local,
        })
    });
    let driver = spec.driver;
    table.fill("device", &mut spec.device, |item| match driver {
        VolumeDriver::Bind => item.path(),
        VolumeDriver::Nfs => {
            let export = taken(item, Export::parse(&item.filled()?))?;
            Some(PathBuf::from(export.to_string()))
        }
        VolumeDriver::Local | VolumeDriver::Tmpfs => item.filled().map(PathBuf::from),
    });
    table.set("options", &mut spec.options, options);
    table.set("labels", &mut spec.labels, |item| item.texts(|_| None));
    table.set("keep", &mut spec.keep, Item::boolean);
    table.set("exclusive", &mut spec.exclusive, Item::boolean);
    suits_driver(table, driver);
    has_server(table, &spec);
    spec
}

/// What a driver needs, and what it can do nothing with.
fn suits_driver(table: &Table<'_>, driver: VolumeDriver) {
    let device = match driver {
        VolumeDriver::Bind => Some("the directory of this host that is the volume"),
        VolumeDriver::Nfs => Some("the server and its directory: \"nas:/srv\""),
        VolumeDriver::Local | VolumeDriver::Tmpfs => None,
    };
    match device {
        Some(what) if !table.has("device") => table.missing("device", what),
        None if table.has("device") => {
            let message = "`device` means nothing with this driver".to_owned();
            let hint = "take it out, or write driver = \"bind\" (or \"nfs\")";
            table.fault(Some("device"), message, hint);
        }
        _ => {}
    }
    if driver != VolumeDriver::Nfs && table.has("options") {
        let message = "`options` means nothing with this driver".to_owned();
        table.fault(
            Some("options"),
            message,
            "take it out: only driver = \"nfs\" has any",
        );
    }
}

/// `device = ":/srv"` leaves it to the option `addr` to say where.
fn has_server(table: &Table<'_>, spec: &VolumeSpec) {
    let export = spec.device.as_deref().and_then(|device| device.to_str());
    let nowhere = spec.driver == VolumeDriver::Nfs && export.is_some_and(|device| device.starts_with(":/"));
    if nowhere && !spec.options.iter().any(|option| option.starts_with("addr=")) {
        let message = "`device` names no server".to_owned();
        table.fault(
            Some("device"),
            message,
            "write \"SERVER:/PATH\", or the option addr=SERVER",
        );
    }
}

/// A list, or all of them in one string, as mount(8) takes them.
fn options(item: &Item<'_>) -> Option<Vec<String>> {
    let written: Vec<String> = match &item.node.value {
        Value::String(_) => vec![item.filled()?],
        _ => item.each(Item::filled)?,
    };
    let each = written.iter().flat_map(|text| text.split(','));
    let list: Vec<String> = each.map(|text| text.trim().to_owned()).collect();
    if list.iter().any(String::is_empty) {
        item.fault("has an empty option", "take the comma out");
        return None;
    }
    taken(item, Options::parse(&list))?;
    Some(list)
}

fn taken<T>(item: &Item<'_>, read: Result<T, Refusal>) -> Option<T> {
    read.map_err(|refusal| item.fault(refusal.problem, &refusal.hint))
        .ok()
}
