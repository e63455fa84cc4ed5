//! The mounts of configs and secrets. They come last, so that no volume or tmpfs hides them.

use std::path::Path;

use model::action::Instance;
use model::content::{ContentKind, Delivered};
use model::spec::VolumeUse;
use oci_spec::OciSpecError;
use oci_spec::runtime::Mount;

use super::mounts::{clean, mount};
use crate::contents::{CONFIG_OPTIONS, SECRETS, SECRETS_OPTIONS, directory};

/// Why the configs and secrets of a container cannot be mounted as they are written.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error(
        "config {config}: target {target:?} is no absolute path below /: write one, such as \"/etc/app.conf\""
    )]
    NoPath { config: String, target: String },
    #[error(
        "config {config}: its target {target} is taken by {by}: give one of them another place, or leave it out"
    )]
    Taken {
        config: String,
        target: String,
        by: String,
    },
    #[error("config {config}: its target {target} is the kernel's: write a path outside /proc and /sys")]
    OfKernel { config: String, target: String },
    #[error(
        "{what} at {target}: this is where secrets are, and nothing else can be: give it another place, or take the \
         secrets away"
    )]
    AmongSecrets { what: String, target: String },
    #[error("the mount of {what}: {source}")]
    Spec {
        what: String,
        #[source]
        source: OciSpecError,
    },
}

/// The mounts of an instance's contents, whose files lie below this directory; `volumes` are all it has of these.
pub fn mounts(
    instance: &Instance,
    contents: &Path,
    volumes: &[VolumeUse],
) -> Result<Vec<Mount>, ContentError> {
    refuse_conflicts(instance, volumes)?;
    let mut all = Vec::new();
    for file in of_kind(instance, ContentKind::Config) {
        let from = directory(contents, ContentKind::Config).join(file.name.as_str());
        let made = mount(&file.target, "bind", &from, &CONFIG_OPTIONS);
        all.push(made.map_err(of(format!("config {}", file.name)))?);
    }
    if of_kind(instance, ContentKind::Secret).next().is_some() {
        let from = directory(contents, ContentKind::Secret);
        let made = mount(SECRETS, "bind", &from, &SECRETS_OPTIONS);
        all.push(made.map_err(of("its secrets".to_owned()))?);
    }
    Ok(all)
}

fn of(what: String) -> impl FnOnce(OciSpecError) -> ContentError {
    move |source| ContentError::Spec { what, source }
}

fn of_kind(instance: &Instance, kind: ContentKind) -> impl Iterator<Item = &Delivered> {
    instance.contents.iter().filter(move |file| file.kind == kind)
}

fn refuse_conflicts(instance: &Instance, volumes: &[VolumeUse]) -> Result<(), ContentError> {
    let tmpfs = instance.spec.tmpfs.iter().map(|t| ("a tmpfs", &t.target));
    let others: Vec<(&str, String)> = volumes
        .iter()
        .map(|v| ("a volume", &v.target))
        .chain(tmpfs)
        .filter_map(|(what, target)| Some((what, clean(target)?)))
        .collect();
    let mut seen: Vec<(&Delivered, String)> = Vec::new();
    for file in of_kind(instance, ContentKind::Config) {
        let target = target_of(file)?;
        let other = others.iter().find(|(_, place)| *place == target);
        let twice = seen.iter().find(|(_, place)| *place == target);
        let by = other
            .map(|(what, _)| (*what).to_owned())
            .or_else(|| twice.map(|(file, _)| format!("config {}", file.name)));
        if let Some(by) = by {
            let config = file.name.to_string();
            return Err(ContentError::Taken { config, target, by });
        }
        seen.push((file, target));
    }
    if of_kind(instance, ContentKind::Secret).next().is_none() {
        return Ok(());
    }
    let configs = seen
        .iter()
        .map(|(file, target)| (format!("config {}", file.name), target));
    let others = others.iter().map(|(what, target)| ((*what).to_owned(), target));
    match configs
        .chain(others)
        .find(|(_, target)| Path::new(target).starts_with(SECRETS))
    {
        None => Ok(()),
        Some((what, target)) => Err(ContentError::AmongSecrets {
            what,
            target: target.clone(),
        }),
    }
}

fn target_of(file: &Delivered) -> Result<String, ContentError> {
    let (config, target) = (file.name.to_string(), file.target.clone());
    match clean(&file.target) {
        None => Err(ContentError::NoPath { config, target }),
        Some(path)
            if ["/proc", "/sys"]
                .iter()
                .any(|own| Path::new(&path).starts_with(own)) =>
        {
            Err(ContentError::OfKernel { config, target })
        }
        Some(path) => Ok(path),
    }
}
