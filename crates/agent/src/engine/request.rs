//! What clients ask of the loop: answered between two passes, never by changing the host from here.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use model::action::Noun;
use model::ledger::{Hold, Ledger};
use model::name::Name;
use model::plan::{Plan, fingerprint};
use runtime::client::RuntimeError;
use tokio::sync::oneshot;

use super::{Done, Engine, Wake};

/// Why a request is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no container {0:?}; `wharf ps` lists them")]
    NoSuchContainer(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    InUse(String),
    #[error("{0} is busy; try again in a moment")]
    Busy(String),
    /// It has ended, or never began.
    #[error("{0}")]
    NotRunning(String),
    #[error("{0}")]
    Failed(String),
}

/// Where an answer goes.
pub type Answer<T> = oneshot::Sender<T>;

/// One request.
#[derive(Debug)]
pub enum Request {
    /// Read the directory as it is now and decide; answered once that was done.
    Refresh { whole: bool, answer: Answer<()> },
    /// The same whole, with an empty or missing directory for what is wished.
    AcceptEmpty { answer: Answer<()> },
    /// What a pass would do now, with the directory as it is.
    Plan { answer: Answer<Plan> },
    /// Hold it stopped.
    Stop {
        name: String,
        reason: String,
        answer: Answer<Result<(), Refusal>>,
    },
    /// Lift the hold; run a finished job once more.
    Start {
        name: String,
        answer: Answer<Result<(), Refusal>>,
    },
    /// Remove an image nothing wants; answered with its full name.
    RemoveImage {
        name: String,
        answer: Answer<Result<String, Refusal>>,
    },
    /// Remove all images nothing wants, or say which; only what is left of moved tags, where it is to be `dangling`.
    PruneImages {
        dry_run: bool,
        dangling: bool,
        answer: Answer<Result<storage::Pruned, Refusal>>,
    },
    /// Put away a volume nothing wants.
    RemoveVolume {
        name: String,
        answer: Answer<Result<(), Refusal>>,
    },
    /// Stop and start the payload in place.
    Restart {
        name: String,
        grace: Option<Duration>,
        answer: Answer<Result<(), Refusal>>,
    },
}

impl Engine {
    /// Takes a request up. Those that need a pass are answered after the next one.
    pub(super) fn answer(&mut self, request: Request) {
        match request {
            Request::Refresh { whole, answer } => {
                self.files_dirty = true;
                if whole {
                    self.take(Wake::Everything);
                }
                self.after_pass.push(answer);
            }
            Request::AcceptEmpty { answer } => self.accept_empty(answer),
            Request::Plan { answer } => {
                self.files_dirty = true;
                self.plan_requests.push(answer);
            }
            Request::Stop { name, reason, answer } => reply(answer, self.hold(&name, reason)),
            Request::Start { name, answer } => reply(answer, self.release(&name)),
            Request::Restart { name, grace, answer } => self.restart(&name, grace, answer),
            Request::RemoveImage { name, answer } => self.remove_image(&name, answer),
            Request::PruneImages {
                dry_run,
                dangling,
                answer,
            } => self.prune_images(dry_run, dangling, answer),
            Request::RemoveVolume { name, answer } => self.remove_volume(&name, answer),
        }
    }

    fn known(&self, name: &str) -> Result<Name, Refusal> {
        let by_id = |n: &&Name| {
            let id = self.ledger.containers[*n].current.id.as_str();
            name.len() >= 4 && id.starts_with(name)
        };
        self.ledger
            .containers
            .keys()
            .find(|n| n.as_str() == name)
            .or_else(|| self.ledger.containers.keys().find(by_id))
            .cloned()
            .ok_or_else(|| Refusal::NoSuchContainer(name.to_owned()))
    }

    fn hold(&mut self, name: &str, reason: String) -> Result<(), Refusal> {
        let name = self.known(name)?;
        let of = fingerprint(&self.ledger.containers[&name].current.spec);
        let mut ledger = Ledger::clone(&self.ledger);
        ledger.holds.entry(name).or_insert(Hold {
            reason,
            at: Timestamp::now(),
            fingerprint: of,
        });
        self.commit(ledger)
    }

    fn release(&mut self, name: &str) -> Result<(), Refusal> {
        let name = self.known(name)?;
        let mut ledger = Ledger::clone(&self.ledger);
        ledger.holds.remove(&name);
        if let Some(entry) = ledger.containers.get_mut(&name) {
            entry.current.finished = false;
        }
        if let Some(table) = ledger.timetables.get_mut(&name) {
            // A run by hand: the next due time stays what it is.
            table.due.get_or_insert(Timestamp::now());
        }
        self.failures.remove(&Noun::Container(name));
        self.commit(ledger)
    }

    fn commit(&mut self, ledger: model::ledger::Ledger) -> Result<(), Refusal> {
        self.write_ledger(ledger).map_err(Refusal::Failed)
    }

    fn restart(&mut self, name: &str, grace: Option<Duration>, answer: Answer<Result<(), Refusal>>) {
        let name = match self.known(name) {
            Ok(name) => name,
            Err(refusal) => return reply(answer, Err(refusal)),
        };
        if self.ledger.holds.contains_key(&name) {
            return reply(answer, self.release(name.as_str()));
        }
        let noun = Noun::Container(name.clone());
        if self.in_flight.contains(&noun) {
            return reply(answer, Err(Refusal::Busy(noun.to_string())));
        }
        let current = &self.ledger.containers[&name].current;
        let (id, grace) = (
            current.id.clone(),
            grace.unwrap_or(current.spec.stop_grace_period),
        );
        let signal = current.stop_signal();
        self.in_flight.insert(noun.clone());
        let (host, wakes) = (Arc::clone(&self.host), self.wakes.clone());
        tokio::task::spawn_blocking(move || {
            let result = host.runtime.restart(&id, &signal, grace);
            let refused = |e| match e {
                RuntimeError::NotRunning { .. } => Refusal::NotRunning(e.to_string()),
                e => Refusal::Failed(e.to_string()),
            };
            reply(answer, result.map_err(refused));
            // The loop outlives every action but at its own end.
            drop(wakes.send(Wake::Done(Box::new(Done {
                action: None,
                noun,
                why: String::new(),
                result: Ok(()),
            }))));
        });
    }
}

/// A client that has gone away needs no answer.
pub(super) fn reply<T>(answer: Answer<T>, value: T) {
    drop(answer.send(value));
}
