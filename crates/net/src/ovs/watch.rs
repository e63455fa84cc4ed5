//! Word from Open vSwitch that something changed, or that it came or went.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::made::is_ours;
use super::openflow;
use super::session::Session;
use super::{Switch, SwitchError};

/// How often one that is not there is looked for.
const AGAIN: Duration = Duration::from_millis(900);
/// The same of one that does not answer.
const REST: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(2);

/// A listener of its own beside those who look and change.
pub struct SwitchWatch {
    switch: Arc<Switch>,
    session: Option<Session>,
    tried: Option<Instant>,
    /// A conversation with each bridge of ours, which ends with ovs-vswitchd.
    bridges: BTreeMap<String, openflow::Bridge>,
}

impl SwitchWatch {
    pub(crate) fn new(switch: Arc<Switch>) -> Self {
        Self {
            switch,
            session: None,
            tried: None,
            bridges: BTreeMap::new(),
        }
    }

    /// Readable when there may be something to tell.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let database = self.session.iter().map(|session| session.connection.as_fd());
        database.chain(self.bridges.values().map(AsFd::as_fd))
    }

    /// Whether something may be different since this was last asked. To be asked now and then, too: nobody tells that Open
    /// vSwitch was started.
    pub(crate) fn has_news(&mut self) -> bool {
        if !self.switch.is_wanted() {
            self.session = None;
            self.bridges.clear();
            return false;
        }
        let Some(session) = &mut self.session else {
            return self.found();
        };
        match session.refresh() {
            Ok(news) => self.follow_bridges() || news,
            Err(_) => {
                self.session = None;
                self.bridges.clear();
                true
            }
        }
    }

    fn found(&mut self) -> bool {
        if !self.is_time() {
            return false;
        }
        let opened = Session::within(&self.switch.socket(), PATIENCE);
        self.session = self.unless_silent(opened);
        self.session.is_some()
    }

    /// Others are heard meanwhile.
    fn unless_silent<T>(&mut self, opened: Result<T, SwitchError>) -> Option<T> {
        if let Err(SwitchError::Silent { .. }) = opened {
            self.tried = Some(Instant::now() + REST);
        }
        opened.ok()
    }

    fn is_time(&mut self) -> bool {
        let now = Instant::now();
        let due = self.tried.is_none_or(|tried| now >= tried + AGAIN);
        if due {
            self.tried = Some(now);
        }
        due
    }

    /// Whether one came or went.
    fn follow_bridges(&mut self) -> bool {
        let before = self.bridges.len();
        self.bridges.retain(|_, bridge| bridge.is_there());
        let went = self.bridges.len() != before;
        let bridges = self.session.iter().flat_map(|s| s.database.bridges.values());
        let ours = bridges.filter(|bridge| is_ours(&bridge.external_ids, &self.switch.owner));
        let names: Vec<String> = ours.map(|bridge| bridge.name.clone()).collect();
        self.bridges.retain(|name, _| names.contains(name));
        let missing: Vec<String> = names
            .into_iter()
            .filter(|name| !self.bridges.contains_key(name))
            .collect();
        if missing.is_empty() || !self.is_time() {
            return went;
        }
        let mut came = false;
        for name in missing {
            let opened = openflow::Bridge::open(&self.switch.flows_of(&name));
            let Some(bridge) = self.unless_silent(opened) else {
                break;
            };
            self.bridges.insert(name, bridge);
            came = true;
        }
        went || came
    }
}
