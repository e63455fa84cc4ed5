//! The mount call: what mount.nfs(8) does for NFS 4, done with fsopen(2), fsconfig(2) and fsmount(2).
//!
//! All of it may take as long as a server pleases, so it runs on a thread of its own. What comes of it is mounted nowhere
//! yet, and gone when its descriptor is closed.

use std::collections::BTreeSet;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;

use model::nfs::{Attribute, Export, Options};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use super::error::{NfsError, meaning};

/// NFS 4 alone, by its name in /proc/filesystems.
pub(super) const KIND: &str = "nfs4";

/// Tried in turn where the table asks for none.
const MINORS: [u8; 3] = [2, 1, 0];

/// RFC 7530, 3.1: only for the look-up of a name; the kernel has it by itself.
const PORT: u16 = 2049;

/// What a table asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub export: Export,
    pub options: Options,
}

impl Wanted {
    /// Whom to ask: the option `addr` before the device.
    fn server(&self) -> &str {
        self.options.addr.as_deref().unwrap_or(&self.export.host)
    }

    /// What the mount is called.
    fn source(&self) -> String {
        let host = match self.export.host.as_str() {
            "" => self.server(),
            host => host,
        };
        let export = Export {
            host: host.to_owned(),
            path: self.export.path.clone(),
        };
        export.to_string()
    }
}

/// A mount of it, at no place yet: of the server's addresses the first that answers, of the versions the newest that
/// both sides speak.
pub(super) fn mount(wanted: &Wanted) -> Result<OwnedFd, NfsError> {
    // Before anybody is asked for an address.
    drop(context()?);
    let mut unreachable = None;
    for address in addresses(wanted.server(), wanted.options.ipv6)? {
        match newest(wanted, address) {
            Err(e) if e.is_unreachable() => unreachable = Some(e),
            other => return other,
        }
    }
    let host = wanted.server().to_owned();
    Err(unreachable.unwrap_or(NfsError::Family { host }))
}

fn newest(wanted: &Wanted, address: IpAddr) -> Result<OwnedFd, NfsError> {
    let minors = match &wanted.options.minor {
        Some(minor) => std::slice::from_ref(minor),
        None => &MINORS,
    };
    let mut refused = None;
    for minor in minors {
        match once(wanted, address, *minor) {
            // What is said of the newest one is said, should all be refused.
            Err(e) if e.is_of_version() => {
                refused.get_or_insert(e);
            }
            other => return other,
        }
    }
    Err(refused.expect("there is a version to be tried"))
}

fn once(wanted: &Wanted, address: IpAddr, minor: u8) -> Result<OwnedFd, NfsError> {
    let context = context()?;
    for (name, value) in parameters(wanted, address, minor) {
        let set = match &value {
            Some(value) => fsconfig_set_string(&context, name.as_str(), value.as_str()),
            None => fsconfig_set_flag(&context, name.as_str()),
        };
        set.map_err(|errno| NfsError::Option {
            option: value.map_or(name.clone(), |value| format!("{name}={value}")),
            why: said(&context).unwrap_or_else(|| std::io::Error::from(errno).to_string()),
        })?;
    }
    let made = fsconfig_create(&context).and_then(|()| {
        fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            attributes(&wanted.options.attributes),
        )
    });
    made.map_err(|errno| NfsError::Refused {
        export: wanted.source(),
        at: format!("{address} by NFS 4.{minor}"),
        why: meaning(errno, &said(&context).unwrap_or_default()),
        errno,
    })
}

fn context() -> Result<OwnedFd, NfsError> {
    fsopen(KIND, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| match errno {
        Errno::NODEV => NfsError::NoClient,
        other => NfsError::io("open a context of", format!("the file system {KIND}"))(other),
    })
}

/// What the kernel is told, in its order. mount.nfs finds `addr` for it as well: the kernel asks no name server.
fn parameters(wanted: &Wanted, address: IpAddr, minor: u8) -> Vec<(String, Option<String>)> {
    let fixed = [
        ("source", wanted.source()),
        ("vers", format!("4.{minor}")),
        ("addr", address.to_string()),
    ];
    let fixed = fixed
        .into_iter()
        .map(|(name, value)| (name.to_owned(), Some(value)));
    fixed.chain(wanted.options.parameters.iter().cloned()).collect()
}

fn attributes(wanted: &BTreeSet<Attribute>) -> MountAttrFlags {
    let no_times = wanted.contains(&Attribute::NoAtime);
    let flags = wanted.iter().map(|attribute| match attribute {
        Attribute::ReadOnly => MountAttrFlags::MOUNT_ATTR_RDONLY,
        Attribute::NoSuid => MountAttrFlags::MOUNT_ATTR_NOSUID,
        Attribute::NoDev => MountAttrFlags::MOUNT_ATTR_NODEV,
        Attribute::NoExec => MountAttrFlags::MOUNT_ATTR_NOEXEC,
        Attribute::NoAtime => MountAttrFlags::MOUNT_ATTR_NOATIME,
        Attribute::NoDirAtime => MountAttrFlags::MOUNT_ATTR_NODIRATIME,
        // Beside the other one the kernel would refuse both.
        Attribute::StrictAtime if no_times => MountAttrFlags::empty(),
        Attribute::StrictAtime => MountAttrFlags::MOUNT_ATTR_STRICTATIME,
    });
    flags.collect()
}

/// The addresses of a server, each once.
fn addresses(host: &str, ipv6: Option<bool>) -> Result<Vec<IpAddr>, NfsError> {
    let found: Vec<IpAddr> = match host.parse() {
        Ok(address) => vec![address],
        Err(_) => (host, PORT)
            .to_socket_addrs()
            .map_err(|source| NfsError::Resolve {
                host: host.to_owned(),
                source,
            })?
            .map(|found| found.ip())
            .collect(),
    };
    let mut seen = BTreeSet::new();
    let fits = |address: &IpAddr| ipv6.is_none_or(|ipv6| address.is_ipv6() == ipv6);
    Ok(found
        .into_iter()
        .filter(fits)
        .filter(|address| seen.insert(*address))
        .collect())
}

/// What the kernel logged of a context (fsconfig(2)): a letter and a text a read, until there is nothing more.
fn said(context: &OwnedFd) -> Option<String> {
    let mut lines = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut buffer[..]) {
        let text = String::from_utf8_lossy(&buffer[..length]);
        let text = text.trim_end();
        lines.push(text.get(2..).unwrap_or(text).to_owned());
    }
    (!lines.is_empty()).then(|| lines.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(device: &str, options: &str) -> Wanted {
        let list: Vec<String> = options
            .split(',')
            .filter(|o| !o.is_empty())
            .map(str::to_owned)
            .collect();
        Wanted {
            export: Export::parse(device).unwrap(),
            options: Options::parse(&list).unwrap(),
        }
    }

    fn told(device: &str, options: &str, address: &str, minor: u8) -> String {
        let all = parameters(&wanted(device, options), address.parse().unwrap(), minor);
        let one = |(name, value): (String, Option<String>)| {
            value.map_or(name.clone(), |value| format!("{name}={value}"))
        };
        all.into_iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_kernel_is_told_source_version_address_and_what_the_table_says() {
        for (device, options, address, says) in [
            (
                "nas:/srv",
                "ro,soft,timeo=50,nosuid",
                "192.0.2.1",
                "source=nas:/srv vers=4.2 addr=192.0.2.1 soft timeo=50",
            ),
            (
                "[fd00::1]:/srv",
                "proto=tcp6",
                "fd00::1",
                "source=[fd00::1]:/srv vers=4.2 addr=fd00::1 proto=tcp6",
            ),
            (
                ":/srv",
                "addr=fd00::1,vers=4.2",
                "fd00::1",
                "source=[fd00::1]:/srv vers=4.2 addr=fd00::1",
            ),
            (
                "nas:/",
                "addr=192.0.2.9",
                "192.0.2.9",
                "source=nas:/ vers=4.2 addr=192.0.2.9",
            ),
        ] {
            assert_eq!(told(device, options, address, 2), says);
        }
    }

    #[test]
    fn attributes_are_of_the_mount_and_not_for_the_server() {
        let read_only = wanted("nas:/srv", "ro,noatime,strictatime,nodev").options;
        let flags = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOATIME;
        assert_eq!(
            attributes(&read_only.attributes),
            flags | MountAttrFlags::MOUNT_ATTR_NODEV
        );
        assert!(read_only.parameters.is_empty());
    }

    #[test]
    fn a_server_has_its_addresses_once_and_of_the_family_asked_for() {
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(addresses("127.0.0.1", None).unwrap(), [loopback]);
        assert_eq!(addresses("localhost", Some(false)).unwrap(), [loopback]);
        assert!(addresses("127.0.0.1", Some(true)).unwrap().is_empty());
        // Too long for a name: nobody is asked for it.
        let error = addresses(&"x".repeat(64), None).unwrap_err().to_string();
        assert!(error.contains("xxx"), "{error}");
    }

    #[test]
    fn the_kernels_own_words_are_in_the_error() {
        // Any file system shows it: this one is in every kernel.
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        assert_eq!(said(&context), None);
        fsconfig_set_string(&context, "soft", "x").unwrap_err();
        let text = said(&context).unwrap();
        assert!(text.contains("tmpfs: Unknown parameter 'soft'"), "{text}");
    }

    #[test]
    fn every_refusal_of_a_server_says_what_to_do() {
        for (errno, says) in [
            (Errno::NOENT, "exports no such path"),
            (Errno::ACCESS, "exports(5)"),
            (Errno::CONNREFUSED, "no NFS server listens there"),
            (Errno::PROTONOSUPPORT, "does not speak that version"),
            (Errno::HOSTUNREACH, "No route to host"),
        ] {
            let text = meaning(errno, "NFS: mind");
            assert!(text.contains(says) && text.ends_with("(NFS: mind)"), "{text}");
        }
    }
}
