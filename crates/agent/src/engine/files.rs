//! Reading the config dir, and taking up what it says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::desired::Desired;
use model::diagnostic::Diagnostic;
use model::ledger::Ledger;
use model::spec::Settings;
use storage::{Proxies, RegistryConfig, RegistryFiles};
use tracing::warn;

use super::Engine;
use crate::config_dir::{self, Contents};
use crate::contents;

/// The host's name servers (resolv.conf(5)), which ours asks where no others are set.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How often the config dir is read in one pass while what has to be watched changes.
const MAX_READS: usize = 8;

type ReadSettings = Result<Settings, Vec<Diagnostic>>;

/// What the wish was last made of.
pub(super) struct TakenUp {
    contents: Arc<Contents>,
    settings: ReadSettings,
    /// Why nothing may be removed.
    unreadable: Option<Diagnostic>,
}

/// The files that the wish and the ledger name: with many containers it takes long to find them.
#[derive(Default)]
pub(super) struct Named {
    /// That they are of.
    revision: u64,
    paths: Vec<PathBuf>,
}

/// One reading.
struct Read {
    contents: Arc<Contents>,
    settings: ReadSettings,
    /// None where nothing of both differs from what was taken up before.
    desired: Option<Desired>,
}

impl Engine {
    /// Reads until nothing can have happened between a look and the watch on what it found.
    pub(super) fn read_files(&mut self) {
        let mut read = self.read_once();
        for _ in 1..MAX_READS {
            if !self.watch(&read) {
                break;
            }
            read = self.read_once();
        }
        // Where somebody changes it all the time, what is watched by now tells of the next change.
        self.take_files(read);
    }

    fn read_once(&mut self) -> Read {
        let settings = config_dir::read_settings(&self.places.settings);
        let search = settings
            .as_ref()
            .map_or(&self.desired.settings.search, |settings| &settings.search);
        let contents = self.reader.read(&self.places.config_dir, search);
        let same = self
            .taken_up
            .as_ref()
            .is_some_and(|up| Arc::ptr_eq(&up.contents, &contents) && up.settings == settings);
        let desired = (!same).then(|| self.resolved(&contents, &settings));
        Read {
            contents,
            settings,
            desired,
        }
    }

    fn resolved(&self, contents: &Contents, settings: &ReadSettings) -> Desired {
        let settings = settings.as_ref().unwrap_or(&self.desired.settings);
        let mut desired = reconciler::resolve::resolve(&contents.files, &contents.broken, settings);
        reconciler::resolve::keep_lent(&mut desired, &self.ledger);
        desired
    }

    /// Watches all that this reading depends on: also what files of the host containers see, by what the directory says
    /// now and by what was accepted before. True where something is watched that was not.
    fn watch(&mut self, read: &Read) -> bool {
        let mut watched = read.contents.watched.clone();
        watched.path(&self.places.settings);
        watched.path(Path::new(RESOLV_CONF));
        let found = match &read.desired {
            None if self.named.revision == self.revision => None,
            desired => Some(named(desired.as_ref().unwrap_or(&self.desired), &self.ledger)),
        };
        for path in found.as_ref().unwrap_or(&self.named.paths) {
            watched.path(path);
        }
        self.watch.arm(&watched)
    }

    fn take_files(&mut self, read: Read) {
        let unreadable = self.beware_of_another_directory(&read.contents);
        let settings = read.settings.as_ref().unwrap_or(&self.desired.settings);
        let files = RegistryFiles::of_this_host(std::env::home_dir().as_deref());
        let registries = RegistryConfig::new(settings, files).with_proxies(Proxies::of_environment());
        self.host.store.set_registries(registries);
        let as_before = self
            .taken_up
            .as_ref()
            .is_some_and(|up| up.unreadable == unreadable);
        match read.desired {
            None if as_before => {}
            desired => {
                let desired = desired.unwrap_or_else(|| self.resolved(&read.contents, &read.settings));
                self.wish_for(desired, unreadable.clone());
                self.settings_errors = read.settings.as_ref().err().cloned().unwrap_or_default();
                self.taken_up = Some(TakenUp {
                    contents: read.contents,
                    settings: read.settings,
                    unreadable,
                });
            }
        }
        if self.named.revision != self.revision {
            self.look_for_named();
        }
        self.dirty.contents = true;
        self.dirty.around = true;
    }

    /// From now on what the wish and the ledger name is looked at.
    fn look_for_named(&mut self) {
        let (desired, ledger) = (&self.desired, &self.ledger);
        self.host.contents.set_sources(contents::sources(desired, ledger));
        self.host
            .around
            .set_wanted(crate::around::Wanted::by(desired, ledger));
        self.named = Named {
            revision: self.revision,
            paths: named(desired, ledger),
        };
    }

    fn wish_for(&mut self, mut desired: Desired, unreadable: Option<Diagnostic>) {
        if let Some(problem) = unreadable {
            desired.held.everything = true;
            desired.errors.push(problem);
        }
        let before: BTreeSet<&Diagnostic> = self.desired.errors.iter().collect();
        for problem in desired.errors.iter().filter(|e| !before.contains(e)) {
            let place = problem.at.to_string();
            warn!(%place, "{}", problem.message);
            self.events
                .emit("config", &place, "error", problem.message.clone());
        }
        self.desired = desired;
        self.revision += 1;
    }
}

/// Files of the host that containers see, and those that overlays have their peers from.
fn named(desired: &Desired, ledger: &Ledger) -> Vec<PathBuf> {
    let sources = contents::sources(desired, ledger);
    let peers = crate::around::peers_files(desired, ledger);
    contents::paths(&sources).chain(peers).collect()
}
