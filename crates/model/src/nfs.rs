//! Volumes on a server: what `device` and `options` of `driver = "nfs"` say, in the words of nfs(5).
//!
//! NFS 4 alone. The kernel mounts it by itself, and needs one port of one server; NFS 3 wants a port mapper, and daemons on
//! this side for its locks.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::file::suggest;

/// Why a device or an option is not taken, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The rest of a sentence that begins with the key: `must be SERVER:/PATH, not …`.
    pub problem: String,
    pub hint: String,
}

impl Refusal {
    fn new(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            hint: hint.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hint.is_empty() {
            true => f.write_str(&self.problem),
            false => write!(f, "{}: {}", self.problem, self.hint),
        }
    }
}

/// What a server gives out, and where it stands in the table: `nas:/srv`, `[fd00::1]:/srv`, or `:/srv` where the option
/// `addr` names the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// A name or an address, without brackets; empty where only an option says it.
    pub host: String,
    pub path: String,
}

impl Export {
    /// Reads a `device`.
    pub fn parse(device: &str) -> Result<Self, Refusal> {
        if let Some(rest) = device.strip_prefix("nfs://") {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            return Err(Refusal::new(
                format!("must be SERVER:/PATH, not {device:?}"),
                format!("write \"{host}:/{path}\""),
            ));
        }
        let (host, path) = match device.strip_prefix('[') {
            Some(rest) => bracketed(device, rest)?,
            None => plain(device)?,
        };
        if path.split('/').any(|part| part == "..") || path.chars().any(char::is_control) {
            return Err(Refusal::new(
                format!("has the path {path:?}, which no server exports"),
                "",
            ));
        }
        let trimmed = path.trim_end_matches('/');
        let path = if trimmed.is_empty() { "/" } else { trimmed };
        Ok(Self {
            host: host.to_owned(),
            path: path.to_owned(),
        })
    }
}

/// As the kernel takes it, and mountinfo shows it.
impl fmt::Display for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.path),
            false => write!(f, "{}:{}", self.host, self.path),
        }
    }
}

fn bracketed<'a>(device: &str, rest: &'a str) -> Result<(&'a str, &'a str), Refusal> {
    let parts = rest.split_once("]:").filter(|(_, path)| path.starts_with('/'));
    let Some((host, path)) = parts else {
        return Err(Refusal::new(
            format!("must be [ADDRESS]:/PATH, not {device:?}"),
            "write \"[fd00::1]:/srv\"",
        ));
    };
    match host.parse::<Ipv6Addr>() {
        Ok(_) => Ok((host, path)),
        Err(_) => Err(Refusal::new(
            format!("has {host:?} in brackets, which is no IPv6 address"),
            "only such an address stands in brackets",
        )),
    }
}

fn plain(device: &str) -> Result<(&str, &str), Refusal> {
    let Some(at) = device.find(":/") else {
        let hint = match device.split_once(':') {
            Some((host, path)) => format!("the path begins with a slash: \"{host}:/{path}\""),
            None if device.starts_with('/') => format!(
                "write the server before the path: \"nas:{device}\"; a directory of this host is driver = \"bind\""
            ),
            None => "write \"nas:/srv\"".to_owned(),
        };
        return Err(Refusal::new(
            format!("must be SERVER:/PATH, not {device:?}"),
            hint,
        ));
    };
    let (host, path) = (&device[..at], &device[at + 1..]);
    if host.contains(':') {
        return Err(Refusal::new(
            format!("must be SERVER:/PATH, not {device:?}"),
            format!("an IPv6 address stands in brackets: \"[{host}]:{path}\""),
        ));
    }
    match is_host(host) {
        true => Ok((host, path)),
        false => Err(Refusal::new(
            format!("has {host:?}, which is no server's name or address"),
            "",
        )),
    }
}

/// Empty too: an option may say it.
fn is_host(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    text.chars().all(plain) && !text.starts_with('-')
}

/// What holds for the mount itself, whatever file system is behind it (mount_setattr(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attribute {
    ReadOnly,
    NoSuid,
    NoDev,
    NoExec,
    NoAtime,
    NoDirAtime,
    StrictAtime,
}

/// `options`, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub attributes: BTreeSet<Attribute>,
    /// For the kernel, in their order: names, and values where they have one. Never an address or a version.
    pub parameters: Vec<(String, Option<String>)>,
    /// The server's name or address, where it is another one than the device says.
    pub addr: Option<String>,
    /// The minor version of NFS 4 that was asked for; none: the newest that both sides speak.
    pub minor: Option<u8>,
    /// `proto` names an address family: of IPv6, or of IPv4.
    pub ipv6: Option<bool>,
}

/// Options of a word alone.
const FLAGS: &[&str] = &[
    "ac",
    "async",
    "cto",
    "fsc",
    "hard",
    "lock",
    "migration",
    "noac",
    "nocto",
    "nofsc",
    "nolock",
    "nomigration",
    "nordirplus",
    "noresvport",
    "nosharecache",
    "nosoftreval",
    "rdirplus",
    "rdma",
    "resvport",
    "sharecache",
    "soft",
    "softerr",
    "softreval",
    "sync",
    "tcp",
];

/// Options with a number, and what it may be.
const NUMBERS: &[(&str, u32, u32)] = &[
    ("acdirmax", 0, i32::MAX as u32),
    ("acdirmin", 0, i32::MAX as u32),
    ("acregmax", 0, i32::MAX as u32),
    ("acregmin", 0, i32::MAX as u32),
    ("actimeo", 0, i32::MAX as u32),
    ("bsize", 0, i32::MAX as u32),
    ("max_connect", 1, 16),
    ("nconnect", 1, 16),
    ("port", 1, 65535),
    ("retrans", 0, i32::MAX as u32),
    ("rsize", 1024, i32::MAX as u32),
    ("timeo", 1, i32::MAX as u32),
    ("wsize", 1024, i32::MAX as u32),
];

/// Options with one of a few words.
const WORDS: &[(&str, &[&str])] = &[
    ("local_lock", &["all", "flock", "none", "posix"]),
    ("lookupcache", &["all", "none", "pos", "positive"]),
    ("proto", &["tcp", "tcp6", "rdma", "rdma6"]),
    ("sec", &["sys", "none", "krb5", "krb5i", "krb5p"]),
    ("write", &["eager", "lazy", "wait"]),
    ("xprtsec", &["none", "tls", "mtls"]),
];

/// Those of the mount: set, or taken away again.
const ATTRIBUTES: &[(&str, &str, Attribute)] = &[
    ("ro", "rw", Attribute::ReadOnly),
    ("nosuid", "suid", Attribute::NoSuid),
    ("nodev", "dev", Attribute::NoDev),
    ("noexec", "exec", Attribute::NoExec),
    ("noatime", "atime", Attribute::NoAtime),
    ("nodiratime", "diratime", Attribute::NoDirAtime),
    ("strictatime", "relatime", Attribute::StrictAtime),
];

/// With values of their own kind.
const OTHERS: &[&str] = &["addr", "clientaddr", "minorversion", "nfsvers", "vers"];

/// What is known elsewhere, and why it is not taken here.
const REFUSED: &[(&[&str], &str, &str)] = &[
    (
        &["bg", "fg", "retry"],
        "is for mount(8)",
        "take it out: wharf tries again by itself, and holds nobody else up meanwhile",
    ),
    (
        &[
            "_netdev", "auto", "comment", "defaults", "nofail", "noauto", "nouser", "owner", "user", "users",
        ],
        "is for fstab(5)",
        "take it out",
    ),
    (
        &["intr", "nointr"],
        "does nothing, since Linux 2.6.25",
        "take it out",
    ),
    (
        &[
            "acl",
            "mountaddr",
            "mounthost",
            "mountport",
            "mountproto",
            "mountvers",
            "namlen",
            "noacl",
            "noposix",
            "posix",
            "udp",
            "v2",
            "v3",
        ],
        "is of NFS 2 or 3",
        OLD,
    ),
];

const OLD: &str =
    "wharf mounts NFS 4; mount it on the host, and use driver = \"bind\" with the mount point as `device`";

impl Options {
    /// Reads the list, each entry one option.
    pub fn parse(list: &[String]) -> Result<Self, Refusal> {
        let mut options = Self::default();
        let mut seen = BTreeSet::new();
        for text in list {
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (text.as_str(), None),
            };
            if !seen.insert(name) {
                return Err(Refusal::new(format!("has {name:?} twice"), "keep one of them"));
            }
            refused(text, name)?;
            match value {
                None => options.take_word(name)?,
                Some(value) => options.take_value(text, name, value)?,
            }
        }
        Ok(options)
    }

    fn take_word(&mut self, name: &str) -> Result<(), Refusal> {
        if let Some((set, _, attribute)) = ATTRIBUTES.iter().find(|(a, b, _)| [*a, *b].contains(&name)) {
            match name == *set {
                true => self.attributes.insert(*attribute),
                false => self.attributes.remove(attribute),
            };
            return Ok(());
        }
        if let Some(minor) = name.strip_prefix('v').and_then(version) {
            return self.take_version(name, minor);
        }
        if FLAGS.contains(&name) {
            self.parameters.push((name.to_owned(), None));
            return Ok(());
        }
        match with_value().any(|known| known == name) {
            true => Err(Refusal::new(
                format!("has {name:?} without its value"),
                format!("write \"{name}=…\""),
            )),
            false => Err(unknown(name, name)),
        }
    }

    fn take_value(&mut self, text: &str, name: &str, value: &str) -> Result<(), Refusal> {
        let has = |what: &str, hint: &str| Err(Refusal::new(format!("has {text:?}{what}"), hint));
        match name {
            "addr" => {
                let host = value.trim_start_matches('[').trim_end_matches(']');
                if host.is_empty() || (host.parse::<IpAddr>().is_err() && !is_host(host)) {
                    return has(", which is no server's name or address", "");
                }
                self.addr = Some(host.to_owned());
                return Ok(());
            }
            "vers" | "nfsvers" => {
                return match version(value) {
                    Some(minor) => self.take_version(text, minor),
                    None if matches!(value.split('.').next(), Some("2" | "3")) => {
                        has(", which is an older NFS", OLD)
                    }
                    None => has(", which is no version of NFS", "write 4, 4.0, 4.1 or 4.2"),
                };
            }
            "minorversion" => {
                return match version(&format!("4.{value}")) {
                    Some(minor) => self.take_version(text, minor),
                    None => has(", which is no version of NFS 4", "write 0, 1 or 2"),
                };
            }
            "clientaddr" if value.parse::<IpAddr>().is_err() => return has(", which is no address", ""),
            "proto" => self.ipv6 = Some(value.ends_with('6')),
            _ => {}
        }
        if !with_value().any(|known| known == name) {
            return match FLAGS.contains(&name) || ATTRIBUTES.iter().any(|(a, b, _)| [*a, *b].contains(&name))
            {
                true => has(", which takes no value", &format!("write \"{name}\"")),
                false => Err(unknown(text, name)),
            };
        }
        in_bounds(text, name, value)?;
        self.parameters.push((name.to_owned(), Some(value.to_owned())));
        Ok(())
    }

    /// Of several they have to agree: `vers=4,minorversion=1` does.
    fn take_version(&mut self, text: &str, minor: Option<u8>) -> Result<(), Refusal> {
        if let (Some(before), Some(now)) = (self.minor, minor)
            && before != now
        {
            return Err(Refusal::new(
                format!("has {text:?} beside another version, 4.{before}"),
                "keep one of them",
            ));
        }
        self.minor = self.minor.or(minor);
        Ok(())
    }
}

/// The names of options that have a value.
fn with_value() -> impl Iterator<Item = &'static str> {
    let numbers = NUMBERS.iter().map(|(name, ..)| *name);
    let words = WORDS.iter().map(|(name, _)| *name);
    numbers.chain(words).chain(OTHERS.iter().copied())
}

/// `4`, or with its minor version.
fn version(text: &str) -> Option<Option<u8>> {
    Some(match text {
        "4" => None,
        "4.0" => Some(0),
        "4.1" => Some(1),
        "4.2" => Some(2),
        _ => return None,
    })
}

fn refused(text: &str, name: &str) -> Result<(), Refusal> {
    let known = REFUSED.iter().find(|(names, ..)| names.contains(&name));
    let (why, hint) = match known {
        Some((_, why, hint)) => (*why, *hint),
        None if name.starts_with("x-") => ("is for fstab(5)", "take it out"),
        None => return Ok(()),
    };
    Err(Refusal::new(format!("has {text:?}, which {why}"), hint))
}

fn unknown(text: &str, name: &str) -> Refusal {
    let mut names: Vec<&str> = with_value().chain(FLAGS.iter().copied()).collect();
    names.extend(ATTRIBUTES.iter().flat_map(|(set, unset, _)| [*set, *unset]));
    let hint = match suggest::nearest(name, &names) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => "nfs(5) lists them".to_owned(),
    };
    Refusal::new(format!("has {text:?}, which is no option of NFS 4"), hint)
}

fn in_bounds(text: &str, name: &str, value: &str) -> Result<(), Refusal> {
    if let Some((_, least, most)) = NUMBERS.iter().find(|(known, ..)| *known == name) {
        let fits = value.parse::<u32>().is_ok_and(|n| (*least..=*most).contains(&n));
        return match fits {
            true => Ok(()),
            false => Err(Refusal::new(
                format!("has {text:?}"),
                format!("it takes a number from {least} to {most}"),
            )),
        };
    }
    let Some((_, words)) = WORDS.iter().find(|(known, _)| *known == name) else {
        return Ok(());
    };
    // Several kinds of `sec` may stand side by side, the best first.
    let mut parts = value.split(if name == "sec" { ':' } else { ',' });
    match parts.all(|part| words.contains(&part)) {
        true => Ok(()),
        false => Err(Refusal::new(
            format!("has {text:?}"),
            format!("it takes one of {}", words.join(", ")),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(text: &str) -> String {
        Export::parse(text).map_or_else(|e| e.to_string(), |export| export.to_string())
    }

    #[test]
    fn a_device_is_a_server_and_an_absolute_path() {
        for (written, read) in [
            ("nas:/srv", "nas:/srv"),
            ("nas:/srv/a b//", "nas:/srv/a b"),
            ("192.0.2.1:/", "192.0.2.1:/"),
            ("[fd00::1]:/srv", "[fd00::1]:/srv"),
            (":/srv", ":/srv"),
        ] {
            assert_eq!(device(written), read);
        }
        for (written, hint) in [
            (
                "/srv",
                "\"nas:/srv\"; a directory of this host is driver = \"bind\"",
            ),
            ("nas:srv", "\"nas:/srv\""),
            ("nas", "write \"nas:/srv\""),
            ("fd00::1:/srv", "\"[fd00::1]:/srv\""),
            ("[nas]:/srv", "no IPv6 address"),
            ("[fd00::1]", "[ADDRESS]:/PATH"),
            ("nfs://nas/srv", "\"nas:/srv\""),
            ("na s:/srv", "no server's name"),
            ("nas:/srv/../etc", "no server exports"),
        ] {
            assert!(device(written).contains(hint), "{written}: {}", device(written));
        }
    }

    fn options(text: &str) -> Result<Options, Refusal> {
        let list: Vec<String> = text.split(',').map(str::to_owned).collect();
        Options::parse(&list)
    }

    #[test]
    fn options_are_for_the_mount_for_the_kernel_or_for_the_way_there() {
        let read =
            options("ro,nosuid,soft,timeo=50,vers=4,minorversion=1,addr=[fd00::1],proto=tcp6,sec=krb5p:sys");
        let read = read.unwrap();
        let attributes = [Attribute::ReadOnly, Attribute::NoSuid];
        assert_eq!(read.attributes, BTreeSet::from(attributes));
        let shown: Vec<String> = read
            .parameters
            .iter()
            .map(|(name, value)| format!("{name}={}", value.as_deref().unwrap_or("")))
            .collect();
        assert_eq!(shown, ["soft=", "timeo=50", "proto=tcp6", "sec=krb5p:sys"]);
        assert_eq!(
            (read.addr.as_deref(), read.minor, read.ipv6),
            (Some("fd00::1"), Some(1), Some(true))
        );
        assert_eq!(options("v4.2").unwrap().minor, Some(2));
        assert_eq!(options("nfsvers=4").unwrap().minor, None);
        assert!(options("ro,rw").unwrap().attributes.is_empty());
    }

    #[test]
    fn what_is_not_of_nfs_4_is_refused_with_what_to_do() {
        for (written, says) in [
            ("vers=3", "NFS 4; mount it on the host"),
            ("v3", "driver = \"bind\""),
            ("nfsvers=4.9", "4, 4.0, 4.1 or 4.2"),
            ("vers=4.1,v4.2", "beside another version, 4.1"),
            ("bg", "tries again by itself"),
            ("_netdev", "fstab(5)"),
            ("x-systemd.automount", "fstab(5)"),
            ("mountport=3", "NFS 2 or 3"),
            ("timeo", "write \"timeo=…\""),
            ("timeo=0", "from 1 to"),
            ("timeo=50,timeo=60", "\"timeo\" twice"),
            ("nconnect=99", "from 1 to 16"),
            ("sec=krb6", "sys, none, krb5"),
            ("soft=1", "takes no value"),
            ("sotf", "did you mean \"soft\"?"),
            ("upperdir=/etc", "no option of NFS 4"),
            ("source=nas:/x", "no option of NFS 4"),
            ("addr=", "no server's name"),
        ] {
            let error = options(written).unwrap_err().to_string();
            assert!(error.contains(says), "{written}: {error}");
        }
    }
}
