//! What can go wrong with a registry, and which of it is worth another try.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a registry did not give what was asked for. `what` names it: `manifest latest`, `layer sha256:…`.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("cancelled")]
    Cancelled,
    #[error("cannot start a client for registries: {0}")]
    Client(#[source] io::Error),
    #[error("{origin} cannot be reached: {source}")]
    Connect {
        origin: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "{origin} is not trusted: {source}; put its authority into the system's certificates, \
         or set insecure = true under [registry.{name:?}]"
    )]
    Tls {
        origin: String,
        /// What the settings call the registry.
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("the connection to {origin} broke: {source}")]
    Broken {
        origin: String,
        #[source]
        source: hyper::Error,
    },
    #[error("{origin} sends nothing, or next to nothing, for {} s", after.as_secs_f64().ceil())]
    Stalled { origin: String, after: Duration },
    #[error("{what}: the transfer from {origin} ended after {done} of {total} bytes")]
    Cut {
        what: String,
        origin: String,
        done: u64,
        total: u64,
    },
    #[error("{what}: {origin} answers {status}{said}")]
    Status {
        what: String,
        origin: String,
        status: u16,
        /// The server's own words with a separator in front, or nothing.
        said: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    #[error("{registry} has no {what}")]
    NotFound { registry: String, what: String },
    #[error("{what}: {registry} refuses access{said}: {hint}")]
    Denied {
        what: String,
        registry: String,
        said: String,
        hint: String,
    },
    #[error("{what}: {why}")]
    Refused { what: String, why: String },
    #[error("cannot read the password file {} of registry {registry}: {source}", path.display())]
    Password {
        registry: String,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("none of the registries that are searched has it: {0}")]
    NotInAny(String),
    #[error("{last} (before that its mirrors were asked: {mirrors})")]
    Mirrored {
        #[source]
        last: Box<RegistryError>,
        mirrors: String,
    },
    #[error("{last} (tried {tries} times)")]
    Tried {
        tries: u32,
        #[source]
        last: Box<RegistryError>,
    },
}

impl RegistryError {
    pub(super) fn refused(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Refused {
            what: what.into(),
            why: why.into(),
        }
    }

    /// Whoever asks is not let in.
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Denied { .. } => true,
            Self::Tried { last, .. } => last.is_denied(),
            _ => false,
        }
    }

    /// Whether the same question may get another answer in a moment.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Broken { .. } | Self::Stalled { .. } | Self::Cut { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// The server understood and will not: asking again helps nothing, another way may.
    pub(super) fn is_no(&self) -> bool {
        match self {
            Self::NotFound { .. } | Self::Denied { .. } => true,
            Self::Status { status, .. } => (400..500).contains(status) && !self.passes(),
            _ => false,
        }
    }

    /// An upload that is lost, too large at once or elsewhere than we thought: it can be begun again.
    pub(super) fn is_about_the_upload(&self) -> bool {
        match self {
            Self::NotFound { .. } => true,
            Self::Status { status, .. } => matches!(status, 405 | 411 | 413 | 416 | 501),
            _ => false,
        }
    }

    /// It is not there, or not for us.
    pub(super) fn is_missing(&self) -> bool {
        match self {
            Self::NotFound { .. } | Self::Denied { .. } => true,
            Self::Mirrored { last, .. } => last.is_missing(),
            _ => false,
        }
    }

    /// How long the server wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// A server's words fit for a line of a log: no control characters, not too many.
pub(super) fn tame(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut tame: String = text.chars().take(300).map(plain).collect();
    tame.truncate(tame.trim_end().len());
    tame
}
