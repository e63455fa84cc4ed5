//! Whether servers answer, found out without waiting for them: a thread asks, and may hang as long as it pleases.
//!
//! One question a volume at a time. What came of the last one is told; that it takes too long is an answer too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvError, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use model::name::Name;
use model::observed::Reach;
use rustix::io::Errno;

/// A server that has not answered by then does not.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

type Tell = Box<dyn Fn() + Send + Sync>;

/// What is known of the mounts that were asked about.
#[derive(Default)]
pub(super) struct Answers {
    known: Mutex<BTreeMap<Name, Known>>,
    changed: Condvar,
    /// Who wants to hear of an answer that differs from the one before.
    tell: OnceLock<Tell>,
}

struct Known {
    /// Since when somebody asks; which is also how he knows that the question is still his.
    asking: Option<Instant>,
    reach: Reach,
}

impl Answers {
    /// From now on, whoever this calls hears of changes. Once.
    pub fn tell(&self, tell: Tell) {
        // A second one would be of a second agent.
        self.tell.set(tell).ok();
    }

    /// What the last answer was, however fast the next one comes: asks anew, where nobody does.
    pub fn last(self: &Arc<Self>, name: &Name, at: &Path) -> Reach {
        let since = Instant::now();
        let before = {
            let mut all = self.lock();
            let known = all.entry(name.clone()).or_insert(Known {
                asking: None,
                reach: Reach::Here,
            });
            if known.asking.is_some() {
                return known.reach.clone();
            }
            known.asking = Some(since);
            known.reach.clone()
        };
        let (name, at) = (name.clone(), at.to_owned());
        let asks = Arc::clone(self);
        let begun = {
            let name = name.clone();
            thread::Builder::new().spawn(move || asks.wait(&name, at, since))
        };
        if let Err(e) = begun {
            let why = format!("cannot start the thread that asks: {e}");
            self.settle(&name, since, Reach::Silent(why), false);
        }
        before
    }

    /// The answer to a question that is asked now; waits for it no longer than [`PATIENCE`].
    pub fn now(self: &Arc<Self>, name: &Name, at: &Path) -> Reach {
        self.last(name, at);
        let asked =
            |known: &mut BTreeMap<Name, Known>| known.get(name).is_some_and(|known| known.asking.is_some());
        let waited = self.changed.wait_timeout_while(self.lock(), PATIENCE, asked);
        let (known, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match known.get(name) {
            Some(known) if known.asking.is_none() => known.reach.clone(),
            Some(_) => no_answer(),
            None => Reach::Unmounted,
        }
    }

    /// Another mount is there, or none any more.
    pub fn forget(&self, name: &Name) {
        self.lock().remove(name);
        self.changed.notify_all();
    }

    fn wait(&self, name: &Name, at: PathBuf, since: Instant) {
        let (tell, told) = channel();
        // It may outlive this: nobody waits for it for ever.
        let begun = thread::Builder::new().spawn(move || tell.send(rustix::fs::statfs(&at).map(drop)));
        if let Err(e) = begun {
            let why = format!("cannot start the thread that asks: {e}");
            return self.settle(name, since, Reach::Silent(why), false);
        }
        let answer = match told.recv_timeout(PATIENCE) {
            Err(RecvTimeoutError::Timeout) => {
                self.settle(name, since, no_answer(), true);
                told.recv()
            }
            other => other.map_err(|_| RecvError),
        };
        let reach = match answer {
            Ok(Ok(())) => Reach::Here,
            // The server has forgotten what it gave out: only another mount helps.
            Ok(Err(Errno::STALE)) => Reach::Unmounted,
            Ok(Err(errno)) => Reach::Silent(std::io::Error::from(errno).to_string()),
            Err(_) => Reach::Silent("the question broke off inside wharf".to_owned()),
        };
        self.settle(name, since, reach, false);
    }

    fn settle(&self, name: &Name, since: Instant, reach: Reach, still_asking: bool) {
        let mut all = self.lock();
        let Some(known) = all.get_mut(name).filter(|known| known.asking == Some(since)) else {
            return;
        };
        if !still_asking {
            known.asking = None;
        }
        let changed = known.reach != reach;
        known.reach = reach;
        drop(all);
        self.changed.notify_all();
        if let Some(tell) = self.tell.get().filter(|_| changed) {
            tell();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_answer() -> Reach {
    Reach::Silent(format!("no answer for {} s", PATIENCE.as_secs()))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn an_answer_is_known_and_a_change_of_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("there");
        let name: Name = "v".parse().unwrap();
        let answers = Arc::new(Answers::default());
        let (tell, told) = channel();
        answers.tell(Box::new(move || _ = tell.send(())));
        // Nobody has answered yet: that is no reason to hold anybody up.
        assert_eq!(answers.last(&name, &at), Reach::Here);
        told.recv().unwrap();
        let missing = answers.now(&name, &at);
        assert!(
            matches!(&missing, Reach::Silent(why) if why.contains("No such file")),
            "{missing:?}"
        );
        std::fs::create_dir(&at).unwrap();
        assert_eq!(answers.now(&name, &at), Reach::Here);
        told.recv().unwrap();
        answers.forget(&name);
        assert_eq!(answers.last(&name, &at), Reach::Here);
    }
}
