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
    ///
    /// Gives why nothing may be removed, where that is so.
    pub(super) fn beware_of_another_directory(&mut self, contents: &Contents) -> Option<Diagnostic> {
        let accepts = std::mem::take(&mut self.accepts_empty);
        let mut unreadable = contents.unreadable.clone();
        let (mut known, mut empty_accepted) = (self.ledger.config_dir.clone(), self.ledger.empty_accepted);
        match &contents.seen {
            Some((now, true)) => {
                // With the boot its device number may change, which alone is no other directory.
                known = Some(self.identity(now));
                empty_accepted = false;
            }
            Some((now, false)) => {
                let now = self.identity(now);
                if accepts {
                    known = Some(now.clone());
                }
                let another = known.as_ref().is_some_and(|before| !before.is_same(&now));
                if another && is_kept(&self.ledger) && !empty_accepted {
                    unreadable = Some(self.another_directory());
                }
            }
            None if contents.missing => {
                empty_accepted |= accepts;
                if empty_accepted {
                    unreadable = None;
                }
            }
            None => {}
        }
        if known != self.ledger.config_dir || empty_accepted != self.ledger.empty_accepted {
            let ledger = Ledger {
                config_dir: known,
                empty_accepted,
                ..Ledger::clone(&self.ledger)
            };
            // Not written, it is found again with the next look at the directory.
            self.write_ledger(ledger).ok();
        }
        unreadable
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
        if self.write_ledger(Ledger::clone(&self.ledger)).is_ok() {
            self.events.emit("agent", "ledger", "repair", found);
        }
    }
}

fn is_kept(ledger: &Ledger) -> bool {
    !ledger.containers.is_empty() || !ledger.networks.is_empty() || !ledger.volumes.is_empty()
}
