//! Living under systemd, where there is one (INTERFACE §5): what it hands over, what it wants to hear, and the scope
//! that containers live in. Without it nothing here does anything.
//!
//! [`notify`] speaks to the service manager, [`activation`] takes its socket, [`scope`] has the containers' control
//! group made through it, [`hold`] is the process that keeps that group and empties it in order, by [`stop_order`].

pub mod hold;

mod activation;
mod notify;
mod scope;
mod stop_order;
mod sys;

pub use notify::Notifier;
pub use scope::Scope;

use std::path::PathBuf;

use model::ledger::Ledger;
use model::status::Status;
use tokio::time::Instant;
use tracing::{error, warn};

use crate::places::Places;

/// What a service manager gave this process.
#[derive(Debug, Default)]
pub struct Given {
    pub notifier: Notifier,
    /// The API socket, already listening.
    pub api: Option<std::os::unix::net::UnixListener>,
}

/// Takes everything over and out of the environment, so that nothing started from here believes itself addressed.
/// To be called while this process has one thread.
pub fn receive() -> anyhow::Result<Given> {
    Ok(Given {
        notifier: notify::from_env()?,
        api: activation::from_env()?,
    })
}

/// The loop's side of it all.
#[derive(Debug)]
pub struct Manager {
    notifier: Notifier,
    scope: Option<Scope>,
    run_dir: PathBuf,
    /// As last written.
    stop_order: Option<stop_order::Waves>,
}

impl Manager {
    /// Finds or makes the scope, and says in `places` where the containers' control groups go.
    pub fn settle(places: &mut Places) -> anyhow::Result<Self> {
        let scope = match places.cgroup_parent {
            Some(_) => None,
            None => Scope::of_this_host(&places.run_dir)?,
        };
        if let Some(scope) = &scope {
            scope.keep()?;
            places.cgroup_parent = Some(scope.group().to_owned());
        }
        Ok(Self {
            notifier: Notifier::default(),
            scope,
            run_dir: places.run_dir.clone(),
            stop_order: None,
        })
    }

    /// From now on this is told how the loop gets on.
    pub fn listen(&mut self, notifier: Notifier) {
        self.notifier = notifier;
    }

    /// The loop turns; by the time this gives it has to turn again.
    pub fn progress(&self) -> Option<Instant> {
        self.notifier.progress()
    }

    /// Before anything is started: its place has to be there. Rarely more than one look at a small file.
    pub fn before_actions(&self) {
        if let Some(scope) = &self.scope
            && !scope.is_kept()
            && let Err(e) = tokio::task::block_in_place(|| scope.keep())
        {
            error!("{e:#}");
        }
    }

    /// After a pass: the service is ready, and this is how things stand.
    pub fn after_pass(&mut self, status: &Status, ledger: &Ledger) {
        self.notifier.ready();
        self.notifier.status(&line(status));
        // Also when nothing is to be done, its keeper may be gone.
        self.before_actions();
        let Some(scope) = &self.scope else { return };
        if let Err(e) = scope.adopt_helpers() {
            warn!("name server and relay cannot be moved to the containers' scope: {e}");
        }
        self.keep_stop_order(ledger);
    }

    fn keep_stop_order(&mut self, ledger: &Ledger) {
        let waves = stop_order::of(ledger);
        if self.stop_order.as_ref() == Some(&waves) {
            return;
        }
        match stop_order::write(&self.run_dir, &waves) {
            Ok(()) => self.stop_order = Some(waves),
            Err(e) => error!(
                "cannot write {}, so a shutdown may stop containers in an older order: {e}",
                stop_order::path(&self.run_dir).display()
            ),
        }
    }
}

/// The one line `systemctl status` shows.
fn line(status: &Status) -> String {
    let all = status.containers.len();
    let good = status
        .containers
        .iter()
        .filter(|c| reconciler::status::counts(c))
        .count();
    let mut line = match all {
        0 => "no containers declared".to_owned(),
        _ => format!("{good} of {all} containers as declared"),
    };
    match status.errors.len() {
        0 => {}
        1 => line.push_str(", 1 error in the directory"),
        n => line.push_str(&format!(", {n} errors in the directory")),
    }
    line
}
