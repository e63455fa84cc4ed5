//! What configs and secrets hold, as files of a container.
//!
//! Below `RUN_DIR/contents/ID` (memory, 0700) lie `configs/NAME` and `secrets/NAME`. Each file is replaced by a rename
//! ([`deliver`]), so that nobody ever sees half of one. Every run of the payload has them mounted by its bundle
//! (`bundle::contents`): each config by itself at its target, the secrets as one directory at `/run/secrets`. A file
//! renamed in that directory is seen inside at once; a config mounted by itself keeps what it held, until its mount is
//! exchanged for one of the new file ([`refresh`], [`swap`]). Until then the file it was is kept, in `old/` ([`retired`]).

pub(crate) mod deliver;
pub(crate) mod refresh;
pub(crate) mod retired;
pub(crate) mod swap;

use std::path::{Path, PathBuf};

use model::content::ContentKind;

pub use refresh::child_main;

/// Where all secrets of a container are seen.
pub(crate) const SECRETS: &str = "/run/secrets";

/// Mount options of a config: a program or script among them may be run.
pub(crate) const CONFIG_OPTIONS: [&str; 5] = ["bind", "rprivate", "ro", "nosuid", "nodev"];

/// Mount options of the directory of secrets.
pub(crate) const SECRETS_OPTIONS: [&str; 6] = ["bind", "rprivate", "ro", "nosuid", "nodev", "noexec"];

/// The directory of one kind below a container's contents.
pub(crate) fn directory(contents: &Path, kind: ContentKind) -> PathBuf {
    contents.join(match kind {
        ContentKind::Config => "configs",
        ContentKind::Secret => "secrets",
    })
}
