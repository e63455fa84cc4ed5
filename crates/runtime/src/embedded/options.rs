//! Mount options of the OCI runtime-spec ("Linux mount options"), sorted by what they act on.

use std::path::Path;

use oci_spec::runtime::Mount;
use rustix::mount::MountAttrFlags as A;

use super::sys::MountAttributes;

/// What the options of one mount ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `bind` or `rbind`; with `true` the mounts below come along.
    pub bind: Option<bool>,
    /// On the mount itself.
    pub attributes: MountAttributes,
    /// On it and all below (`rro`, recursive propagation).
    pub recursive: MountAttributes,
    /// What is left is the filesystem's own: a flag, or a key and its value.
    pub data: Vec<(String, Option<String>)>,
}

impl Options {
    /// Sorts a mount's options.
    pub fn of(mount: &Mount) -> Self {
        let mut options = Self::default();
        if mount.typ().as_deref() == Some("bind") {
            options.bind = Some(false);
        }
        for option in mount.options().iter().flatten() {
            options.add(option);
        }
        options
    }

    fn add(&mut self, option: &str) {
        let (own, all) = (&mut self.attributes, &mut self.recursive);
        let atime = u64::from(A::MOUNT_ATTR__ATIME.bits());
        let bit = |flag: A| u64::from(flag.bits());
        match option {
            "bind" => self.bind = Some(false),
            "rbind" => self.bind = Some(true),
            "rw" | "defaults" | "relatime" => {}
            "ro" => own.set |= bit(A::MOUNT_ATTR_RDONLY),
            "rro" => all.set |= bit(A::MOUNT_ATTR_RDONLY),
            "nosuid" => own.set |= bit(A::MOUNT_ATTR_NOSUID),
            "nodev" => own.set |= bit(A::MOUNT_ATTR_NODEV),
            "noexec" => own.set |= bit(A::MOUNT_ATTR_NOEXEC),
            "nodiratime" => own.set |= bit(A::MOUNT_ATTR_NODIRATIME),
            "nosymfollow" => own.set |= bit(A::MOUNT_ATTR_NOSYMFOLLOW),
            "noatime" => (own.set, own.clear) = (own.set | bit(A::MOUNT_ATTR_NOATIME), own.clear | atime),
            "strictatime" => {
                (own.set, own.clear) = (own.set | bit(A::MOUNT_ATTR_STRICTATIME), own.clear | atime)
            }
            "private" => own.propagation = libc::MS_PRIVATE,
            "shared" => own.propagation = libc::MS_SHARED,
            "slave" => own.propagation = libc::MS_SLAVE,
            "rprivate" => all.propagation = libc::MS_PRIVATE,
            "rshared" => all.propagation = libc::MS_SHARED,
            "rslave" => all.propagation = libc::MS_SLAVE,
            other => self.data.push(match other.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (other.to_owned(), None),
            }),
        }
    }

    /// For fsmount(2): the attributes set.
    pub fn mount_flags(&self) -> A {
        let bits = self.attributes.set | self.recursive.set;
        A::from_bits_retain(bits as u32)
    }
}

/// Attributes (MOUNT_ATTR_*) that the options of a mount set on it.
pub fn attributes(mount: &Mount) -> u64 {
    Options::of(mount).attributes.set
}

/// The source as the mount table shows it.
pub fn source(mount: &Mount) -> &Path {
    mount.source().as_deref().unwrap_or(Path::new("none"))
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::MountBuilder;

    use super::*;

    #[test]
    fn options_are_sorted_by_what_they_act_on() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let mount = MountBuilder::default()
            .destination("/x")
            .typ("tmpfs")
            .options(words("nosuid rro rslave size=1k newinstance strictatime"))
            .build()
            .unwrap();
        let options = Options::of(&mount);
        assert_eq!(options.bind, None);
        assert_eq!(options.attributes.set, 2 | 0x20);
        assert_eq!(options.attributes.clear, 0x70);
        assert_eq!(options.recursive.set, 1);
        assert_eq!(options.recursive.propagation, libc::MS_SLAVE);
        assert_eq!(
            options.data,
            [
                ("size".into(), Some("1k".into())),
                ("newinstance".to_owned(), None)
            ]
        );
    }
}
