//! The volumes of a container before it starts: found or made, and which of them are given what the image has.

use std::fs;
use std::io;
use std::path::Path;

use model::action::Instance;
use model::name::Name;
use model::paths::VOLUME_DATA;
use model::spec::{Propagation, VolumeSource, VolumeUse};
use oci_spec::runtime::Mount;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::copy_up::Fill;
use super::{Places, PrepareError, make_dir};
use crate::bundle::{contents, mounts, required};

/// What the child is told of them.
pub struct Volumes {
    /// Parents before children; what configs and secrets hold comes last.
    pub mounts: Vec<Mount>,
    pub fills: Vec<Fill>,
}

/// Makes what is to be made and checks the rest. Idempotent.
pub fn prepare(places: &Places<'_>, instance: &Instance) -> Result<Volumes, PrepareError> {
    let refused = |e: mounts::VolumeError| PrepareError::refused(instance, e.to_string());
    let mut prepared = Volumes {
        mounts: Vec::new(),
        fills: Vec::new(),
    };
    let volumes = mounts::volumes(instance).map_err(refused)?;
    let contents = contents::mounts(instance, places.contents_dir, &volumes);
    let contents = contents.map_err(|e| PrepareError::refused(instance, e.to_string()))?;
    for required in required::of(instance, places.servers_dir) {
        required
            .check()
            .map_err(|e| PrepareError::refused(instance, e.to_string()))?;
    }
    for volume in volumes {
        if let Some(home) = make(places, instance, &volume)? {
            let target = volume.target.clone().into();
            prepared.fills.push(Fill { target, home });
        }
        let mount = mounts::volume_mount(instance, places.state_dir, &volume).map_err(refused)?;
        prepared.mounts.push(mount);
    }
    mounts::by_depth(&mut prepared.mounts);
    prepared.mounts.extend(contents);
    Ok(prepared)
}

/// Gives the directory around the data where they are ours, so that they can be filled from the image.
fn make(
    places: &Places<'_>,
    instance: &Instance,
    volume: &VolumeUse,
) -> Result<Option<std::path::PathBuf>, PrepareError> {
    match &volume.source {
        VolumeSource::Named(name) => find_named(places, instance, name, volume),
        VolumeSource::Anonymous => {
            let home = mounts::anonymous(places.state_dir, &volume.target);
            make_dir(instance, &home.join(VOLUME_DATA))?;
            Ok(Some(home))
        }
        VolumeSource::Tmpfs { .. } => Ok(None),
        VolumeSource::Bind {
            source,
            create,
            propagation,
            ..
        } => {
            check_bind(instance, volume, source, *create)?;
            check_propagation(instance, volume, source, *propagation)?;
            Ok(None)
        }
    }
}

/// Those of the driver "local" are ours; what others lead to is taken as it is.
fn find_named(
    places: &Places<'_>,
    instance: &Instance,
    name: &Name,
    volume: &VolumeUse,
) -> Result<Option<std::path::PathBuf>, PrepareError> {
    let data = mounts::named(instance, name, volume);
    let data = data.map_err(|e| PrepareError::refused(instance, e.to_string()))?;
    if !data.is_dir() {
        let (shown, target) = (data.display(), &volume.target);
        let reason = format!(
            "volumes: the directory {shown} of volume {name} (at {target}) does not exist: the device of a bind volume \
             has to be made or mounted, that of any other is made again by itself"
        );
        return Err(PrepareError::refused(instance, reason));
    }
    let home = places.volumes_dir.join(name.as_str());
    Ok((data == home.join(VOLUME_DATA)).then_some(home))
}

fn check_bind(
    instance: &Instance,
    volume: &VolumeUse,
    source: &Path,
    create: bool,
) -> Result<(), PrepareError> {
    let (shown, target) = (source.display(), &volume.target);
    let refuse = |why: &str| {
        let reason = format!("volumes: the source {shown} of what is mounted at {target} {why}");
        Err(PrepareError::refused(instance, reason))
    };
    match fs::metadata(source) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound && create => make_dir(instance, source),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            refuse("does not exist: make it, or write the entry as a table with `create = true`")
        }
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            refuse("does not exist: a part of its path is a file")
        }
        Err(e) => Err(PrepareError::io(instance, "looking at volume source", source)(e)),
    }
}

/// A mount can only be shared with the host where the host shares it; elsewhere the key would do nothing, silently.
fn check_propagation(
    instance: &Instance,
    volume: &VolumeUse,
    source: &Path,
    propagation: Propagation,
) -> Result<(), PrepareError> {
    let (word, slave_will_do) = match propagation {
        Propagation::Private | Propagation::Rprivate => return Ok(()),
        Propagation::Shared => ("shared", false),
        Propagation::Rshared => ("rshared", false),
        Propagation::Slave => ("slave", true),
        Propagation::Rslave => ("rslave", true),
    };
    let on = mount_of(source).map_err(PrepareError::io(instance, "looking for the mount of", source))?;
    if on.shared || (slave_will_do && on.slave) {
        return Ok(());
    }
    let (shown, target, at) = (source.display(), &volume.target, on.at);
    let reason = format!(
        "volumes: propagation \"{word}\" at {target}: its source {shown} lies on the mount at {at}, which this host \
         does not share: `mount --make-rshared {at}`, or leave `propagation` out"
    );
    Err(PrepareError::refused(instance, reason))
}

/// The mount a path lies on.
struct Found {
    at: String,
    shared: bool,
    slave: bool,
}

fn mount_of(path: &Path) -> io::Result<Found> {
    let id = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?
        .stx_mnt_id
        .to_string();
    let table = fs::read_to_string("/proc/thread-self/mountinfo")?;
    let found = table.lines().find_map(|line| parse(line, &id));
    found.ok_or_else(|| io::Error::other("it is not in the mount table"))
}

/// A line of the table (proc_pid_mountinfo(5)): `ID PARENT DEV ROOT AT OPTIONS [shared:N] [master:N] … - …`.
fn parse(line: &str, id: &str) -> Option<Found> {
    let mut words = line.split(' ');
    if words.next() != Some(id) {
        return None;
    }
    let at = words.nth(3)?.to_owned();
    let tags: Vec<&str> = words.skip(1).take_while(|word| *word != "-").collect();
    Some(Found {
        at,
        shared: tags.iter().any(|tag| tag.starts_with("shared:")),
        slave: tags.iter().any(|tag| tag.starts_with("master:")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_how_a_mount_is_shared() {
        let line = "36 35 98:0 /mnt1 /mnt2 rw,noatime shared:7 master:1 - ext3 /dev/root rw,errors=continue";
        let found = parse(line, "36").unwrap();
        assert_eq!(
            (found.at.as_str(), found.shared, found.slave),
            ("/mnt2", true, true)
        );
        assert!(parse(line, "35").is_none());
        let line = "36 35 98:0 / / rw - ext3 shared:7 rw";
        assert!(!parse(line, "36").unwrap().shared);
        assert!(
            mount_of(Path::new("/proc/self/status"))
                .unwrap()
                .at
                .starts_with('/')
        );
    }
}
