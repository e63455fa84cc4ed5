//! Why a volume is not to be had from its server.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use model::nfs::Refusal;
use rustix::io::Errno;

/// The texts are for users; the volume's name stands before them.
#[derive(Debug, thiserror::Error)]
pub enum NfsError {
    #[error(
        "this kernel has no NFS client: nfs4 is not in /proc/filesystems and could not be loaded; boot one that has it, \
         or use another driver"
    )]
    NoClient,
    #[error("its `device` {0}")]
    Device(Refusal),
    #[error("its `options` {0}")]
    Options(Refusal),
    #[error("driver \"nfs\" needs device = \"SERVER:/PATH\"")]
    NoDevice,
    #[error("the address of the server {host} cannot be found: {source}; this is tried again")]
    Resolve {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("the server {host} has no address of the family that the option proto asks for")]
    Family { host: String },
    #[error("the kernel does not take the option {option}: {why}")]
    Option { option: String, why: String },
    #[error("{export} cannot be mounted from {at}: {why}")]
    Refused {
        export: String,
        /// `192.0.2.1 by NFS 4.2`.
        at: String,
        why: String,
        errno: Errno,
    },
    #[error(
        "{export} cannot be mounted: the server has not answered for {} s; this is tried again, and goes on when it \
         answers",
        after.as_secs()
    )]
    NoAnswer { export: String, after: Duration },
    #[error("what is mounted at {} does not answer ({why}): this goes on when it does", path.display())]
    Silent { path: PathBuf, why: String },
    #[error("nothing is mounted at {}: it is mounted again by itself", .0.display())]
    Unmounted(PathBuf),
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl NfsError {
    /// For `map_err`: what was being done at which path.
    pub(super) fn io<E: Into<io::Error>>(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |e| Self::Io {
            doing,
            path,
            source: e.into(),
        }
    }

    /// Another address of the server may do.
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Refused { errno, .. } if UNREACHABLE.contains(errno))
    }

    /// An older version of NFS may do.
    pub(super) fn is_of_version(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                errno: Errno::PROTONOSUPPORT | Errno::INVAL,
                ..
            }
        )
    }
}

const UNREACHABLE: [Errno; 7] = [
    Errno::CONNREFUSED,
    Errno::CONNRESET,
    Errno::TIMEDOUT,
    Errno::HOSTUNREACH,
    Errno::HOSTDOWN,
    Errno::NETUNREACH,
    Errno::NETDOWN,
];

/// What an error of fsconfig(2)'s FSCONFIG_CMD_CREATE means here, in front of the kernel's own words.
pub(super) fn meaning(errno: Errno, log: &str) -> String {
    let text = match errno {
        Errno::NOENT => {
            "the server exports no such path (what it exports with fsid=0 is its /, and paths begin there)"
                .to_owned()
        }
        Errno::ACCESS | Errno::PERM => {
            "the server refuses: it has to export that path to this host (exports(5))".to_owned()
        }
        Errno::NOTDIR => "that path of the server is no directory".to_owned(),
        Errno::CONNREFUSED => "no NFS server listens there".to_owned(),
        Errno::PROTONOSUPPORT => "the server, or this kernel, does not speak that version".to_owned(),
        other => io::Error::from(other).to_string(),
    };
    match log.is_empty() {
        true => text,
        false => format!("{text} ({log})"),
    }
}
