//! Guards: an empty directory in the place of another one is no wish, and a ledger that somebody touched is no ledger.

use model::diagnostic::{Diagnostic, Location};
use model::ledger::{DirIdentity, Ledger};
use tracing::error;

use super::Engine;
use super::request::Answer;
use crate::config_dir::{Contents, Identity};

impl Engine {
    /// An empty directory is a valid wish, but not where it took the place of one with files, nor where there is none at
    /// all: somebody is at work there, or something is not mounted. That holds over restarts and boots, until files are
    /// there or somebody says that it is meant.
    pub(super) fn beware_of_another_directory(&mut self, contents: &mut Contents) {
        let accepts = std::mem::take(&mut self.accepts_empty);
        let mut ledger = self.ledger.clone();
        match contents.seen.take() {
            Some((now, true)) => {
                let now = self.identity(&now);
                // With the boot its device number may change, which alone is no other directory.
                if ledger.config_dir.as_ref() != Some(&now) {
                    ledger.config_dir = Some(now);
                }
                ledger.empty_accepted = false;
            }
            Some((now, false)) => {
                let now = self.identity(&now);
                if accepts {
                    ledger.config_dir = Some(now.clone());
                }
                let another = ledger
                    .config_dir
                    .as_ref()
                    .is_some_and(|before| !before.is_same(&now));
                if another && is_kept(&ledger) && !ledger.empty_accepted {
                    contents.unreadable = Some(self.another_directory());
                }
            }
            None if contents.missing => {
                ledger.empty_accepted |= accepts;
                if ledger.empty_accepted {
                    contents.unreadable = None;
                }
            }
            None => {}
        }
        if ledger != self.ledger {
            // Not written, it is found again with the next look at the directory.
            self.write_ledger(ledger).ok();
        }
    }

    fn another_directory(&self) -> Diagnostic {
        let message = format!(
            "the config dir {} is another directory than before and holds no files; nothing is removed meanwhile",
            self.places.config_dir.display()
        );
        let hint =
            "put the files there, or mount it; to have everything removed, run `wharf reload --accept-empty`";
        Diagnostic::new(Location::file("."), message).hint(hint)
    }

    fn identity(&self, found: &Identity) -> DirIdentity {
        DirIdentity {
            device: found.device,
            inode: found.inode,
            made: found.made.and_then(|at| at.try_into().ok()),
            boot_id: self.boot_id.clone(),
        }
    }

    /// From now on an empty or missing directory is what is wished for.
    pub(super) fn accept_empty(&mut self, answer: Answer<()>) {
        self.accepts_empty = true;
        self.files_dirty = true;
        self.take(super::Wake::Everything);
        self.after_pass.push(answer);
    }

    /// A ledger that somebody deleted or wrote to is written again as it is known here; what it held is kept aside.
    pub(super) fn guard_ledger(&mut self) {
        let Some(found) = self.ledger_file.take_aside_if_touched() else {
            return;
        };
        error!("{found}");
        if self.write_ledger(self.ledger.clone()).is_ok() {
            self.events.emit("agent", "ledger", "repair", found);
        }
    }
}

fn is_kept(ledger: &Ledger) -> bool {
    !ledger.containers.is_empty() || !ledger.networks.is_empty() || !ledger.volumes.is_empty()
}
