//! `[image.NAME]`, `[config.NAME]` and `[secret.NAME]`.

use crate::image::ImageSource;
use crate::spec::{BuildSpec, FileSource, ImageSpec, MountedFileSpec, OnChange};

use super::container;
use super::known;
use super::reader::{Item, Table};

/// Reads an image.
pub(super) fn image(table: &Table<'_>) -> ImageSpec {
    let mut spec = ImageSpec::default();
    table.fill("pull", &mut spec.pull, container::image_reference);
    spec.build = table.table("build").and_then(|table| build(&table));
    table.set("push", &mut spec.push, |item| {
        item.each(
            |entry| match super::image_ref::parse(entry.text()?, &entry.report.search) {
                Ok(ImageSource::Registry { reference }) => Some(reference),
                Ok(_) => {
                    entry.fault("must be a registry reference", "");
                    None
                }
                Err(error) => {
                    entry.fault(error.problem, error.hint);
                    None
                }
            },
        )
    });
    match (table.has("pull"), table.has("build")) {
        (false, false) => table.missing("pull", "write pull = \"oci:/path/to/layout\""),
        (true, true) => {
            let message = "an image has either `pull` or `build`, not both".to_owned();
            table.fault(Some("build"), message, "take one of them out");
        }
        _ => {}
    }
    spec
}

fn build(table: &Table<'_>) -> Option<BuildSpec> {
    let mut context = None;
    table.fill("context", &mut context, Item::path);
    if !table.has("context") {
        table.missing("context", "the directory that the build sees");
    }
    let mut dockerfile = "Dockerfile".to_owned();
    table.set("dockerfile", &mut dockerfile, Item::filled);
    let mut target = None;
    // An empty target is the last stage, as in Docker.
    table.fill("target", &mut target, |item| {
        item.string().filter(|t| !t.is_empty())
    });
    let mut args = std::collections::BTreeMap::new();
    table.set("args", &mut args, |item| item.texts(known::env_name_problem));
    Some(BuildSpec {
        context: context?,
        dockerfile,
        target,
        args,
    })
}

/// Reads a config: `file` or `content`.
pub(super) fn config(table: &Table<'_>) -> Option<MountedFileSpec> {
    mounted_file(table, &["file", "content"], 0o444)
}

/// Reads a secret: `file`, `env` or `credential`.
pub(super) fn secret(table: &Table<'_>) -> Option<MountedFileSpec> {
    mounted_file(table, &["file", "env", "credential"], 0o400)
}

fn mounted_file(table: &Table<'_>, sources: &[&str], mode: u32) -> Option<MountedFileSpec> {
    let source = file_source(table, sources);
    let mut target = None;
    if sources.contains(&"content") {
        table.fill("target", &mut target, self::target);
    }
    let mut spec_mode = mode;
    table.set("mode", &mut spec_mode, container::mode);
    let (mut uid, mut gid) = (0, 0);
    table.set("uid", &mut uid, Item::integer);
    table.set("gid", &mut gid, Item::integer);
    let mut on_change = OnChange::Restart;
    table.set("on_change", &mut on_change, self::on_change);
    Some(MountedFileSpec {
        source: source?,
        target,
        mode: spec_mode,
        uid,
        gid,
        on_change,
    })
}

/// Exactly one of the keys that say where the content is.
fn file_source(table: &Table<'_>, sources: &[&str]) -> Option<FileSource> {
    let written: Vec<&str> = sources.iter().copied().filter(|key| table.has(key)).collect();
    let list = sources.join(", ");
    match written[..] {
        [] => table.missing(sources[0], &format!("write one of {list}")),
        [_] => {}
        [_, second, ..] => {
            let message = format!("exactly one of {list} says where the content is");
            table.fault(Some(second), message, "keep one of them");
        }
    }
    let key = written.first()?;
    let item = table.get(key)?;
    Some(match *key {
        "file" => FileSource::File(item.path()?),
        "content" => FileSource::Content(content(&item)?),
        "env" => FileSource::Env(named(&item, known::env_name_problem)?),
        _ => FileSource::Credential(named(&item, credential_problem)?),
    })
}

/// Where a config appears: a file of its own, of the container's.
fn target(item: &Item<'_>) -> Option<String> {
    let target = item.path_text()?;
    let kernels = ["/proc", "/sys", "/dev"];
    let below = |dir: &&str| target == **dir || target.starts_with(&format!("{dir}/"));
    if target == "/" || target.split('/').any(|part| part == ".." || part == ".") {
        item.fault(
            format!("cannot be {target:?}"),
            "write the file's own path, from / on",
        );
        return None;
    }
    if let Some(dir) = kernels.iter().find(|dir| below(dir)) {
        item.fault(format!("cannot be below {dir}, which is the kernel's"), "");
        return None;
    }
    Some(target)
}

/// A content of which no more is delivered than of a file.
fn content(item: &Item<'_>) -> Option<String> {
    let text = item.string()?;
    if text.len() as u64 > crate::content::LIMIT {
        let message = format!(
            "has {} bytes; at most {} are delivered",
            text.len(),
            crate::content::LIMIT
        );
        item.fault(message, "use a volume");
        return None;
    }
    Some(text)
}

fn named(item: &Item<'_>, problem: impl Fn(&str) -> Option<String>) -> Option<String> {
    let name = item.filled()?;
    if let Some(problem) = problem(&name) {
        item.fault(format!("has {name:?}, which {problem}"), "");
        return None;
    }
    Some(name)
}

/// A credential is a file in a directory (systemd.exec(5)).
fn credential_problem(name: &str) -> Option<String> {
    let wrong = name.contains('/') || name == "." || name == "..";
    wrong.then(|| "is no credential's name".to_owned())
}

fn on_change(item: &Item<'_>) -> Option<OnChange> {
    Some(match item.word()? {
        ("signal:", name) => {
            let signal = known::signal_name(name);
            if signal.is_none() {
                item.fault(format!("has the signal {name:?}"), "write \"signal:HUP\"");
            }
            OnChange::Signal(signal?)
        }
        ("replace", _) => OnChange::Replace,
        ("none", _) => OnChange::None,
        _ => OnChange::Restart,
    })
}
