//! A client of etcd's version 3 API by its JSON gateway (etcd, "gRPC gateway"), over HTTP/1.1.
//!
//! Each question goes to the member that answered last, and to the others in turn where that one does not. Every wait has
//! an end, and every answer a size that it must not exceed: what etcd says is checked like anybody's.

mod answers;
mod tls;
mod watch;
mod wire;

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use model::spec::{ClusterSettings, EtcdUrl};
use serde_json::{Value, json};

pub use answers::{Entry, Event};
use answers::{Granted, Kept, Ranged, Txned};
pub use watch::Watch;
use wire::{Connection, Trust};

/// Entries in one answer; more hosts than any cluster has.
const MOST_ENTRIES: usize = 20_000;

/// Why etcd could not be asked, or what it said instead of an answer.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    #[error("{url} cannot be reached: {why}")]
    Unreachable { url: String, why: String },
    #[error("{url} did not answer within {} s", .after.as_secs())]
    Silent { url: String, after: Duration },
    #[error("{url} broke off its answer: {why}")]
    BrokenOff { url: String, why: String },
    #[error("{url} refused: {why}")]
    Refused { url: String, why: String, code: u16 },
    #[error("{url} sent an answer of more than {most} bytes")]
    TooLarge { url: String, most: usize },
    #[error("{url} sent what is no answer of etcd's: {why}")]
    Nonsense { url: String, why: String },
    #[error("the certificates of {file} cannot be read: {why}")]
    Certificates { file: String, why: String },
}

impl EtcdError {
    /// The lease, or what else was asked for, is not there: nothing is wrong with etcd.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }

    /// Another member may know better.
    fn asks_another(&self) -> bool {
        match self {
            Self::Refused { code, .. } => *code >= 500,
            Self::Certificates { .. } => false,
            _ => true,
        }
    }
}

/// Where in its history an answer is from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Of a cluster, for as long as it exists.
    pub cluster: u64,
    pub revision: i64,
}

/// All keys below a prefix.
#[derive(Debug)]
pub struct Below {
    pub at: Moment,
    pub entries: Vec<Entry>,
}

/// A change of keys, all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Nothing below these prefixes was written after that revision.
    pub unless_written: Vec<(String, i64)>,
    /// These keys are not there.
    pub unless_there: Vec<String>,
    /// Key, value, lease.
    pub puts: Vec<(String, String, i64)>,
    pub deletes: Vec<String>,
}

/// The client.
pub struct Client {
    members: Vec<EtcdUrl>,
    trust: Trust,
    /// The member that answered last.
    current: usize,
    open: Option<Connection>,
}

impl Client {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// The certificates of `ca` cannot be read.
    pub fn new(settings: &ClusterSettings) -> Result<Self, EtcdError> {
        let https = settings.etcd.iter().any(|url| url.https);
        Ok(Self {
            members: settings.etcd.clone(),
            trust: Trust::new(https, settings.ca.as_deref())?,
            current: 0,
            open: None,
        })
    }

    /// The address that this host was last seen to reach etcd from, unless it is on this very host.
    pub fn own_address(&self) -> Option<IpAddr> {
        let local = self.open.as_ref()?.local;
        (!local.is_loopback()).then_some(local)
    }

    /// A lease of so many seconds; its number.
    pub async fn grant(&mut self, ttl: u64) -> Result<i64, EtcdError> {
        let answer: Granted = self
            .ask("/v3/lease/grant", &json!({ "TTL": ttl.to_string() }))
            .await?;
        match answer.id {
            0 => Err(self.nonsense("it granted no lease")),
            id => Ok(id),
        }
    }

    /// Keeps a lease alive; false where there is none of that number any more.
    pub async fn keep_alive(&mut self, lease: i64) -> Result<bool, EtcdError> {
        let question = json!({ "ID": lease.to_string() });
        let answer: Kept = self.ask("/v3/lease/keepalive", &question).await?;
        Ok(answer.result.ttl > 0)
    }

    /// Everything below a prefix, as a majority has it.
    pub async fn below(&mut self, prefix: &str) -> Result<Below, EtcdError> {
        let question = json!({
            "key": STANDARD.encode(prefix),
            "range_end": STANDARD.encode(end_of(prefix)),
            "limit": MOST_ENTRIES.to_string(),
        });
        let answer: Ranged = self.ask("/v3/kv/range", &question).await?;
        if answer.more {
            return Err(self.nonsense(&format!("there are more than {MOST_ENTRIES} keys below {prefix}")));
        }
        let entries: Result<Vec<Entry>, String> = answer.kvs.into_iter().map(Entry::read).collect();
        Ok(Below {
            at: answer.header.moment(),
            entries: entries.map_err(|why| self.nonsense(&why))?,
        })
    }

    /// Carries a change out; its revision, or none where a condition did not hold.
    pub async fn change(&mut self, change: &Change) -> Result<Option<i64>, EtcdError> {
        let answer: Txned = self.ask("/v3/kv/txn", &question_of(change)).await?;
        Ok(answer.succeeded.then_some(answer.header.revision))
    }

    /// What happens below a prefix from that revision on.
    pub async fn watch(&mut self, prefix: &str, from: i64) -> Result<Watch, EtcdError> {
        let url = &self.members[self.current];
        let question = json!({ "create_request": {
            "key": STANDARD.encode(prefix),
            "range_end": STANDARD.encode(end_of(prefix)),
            "start_revision": from.to_string(),
        }});
        let mut connection = Connection::open(url, &self.trust).await?;
        let body = connection.send("/v3/watch", question.to_string()).await?;
        Ok(Watch::new(url.to_string(), connection, body))
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &mut self,
        path: &str,
        question: &Value,
    ) -> Result<T, EtcdError> {
        let question = question.to_string();
        // A connection that was kept may have been closed meanwhile.
        if let Some(mut open) = self.open.take()
            && let Ok(answer) = open.ask(path, &question).await
        {
            self.open = Some(open);
            return self.read(&answer);
        }
        let mut tried = 0;
        loop {
            match self.ask_anew(path, &question).await {
                Ok(answer) => return self.read(&answer),
                Err(e) => {
                    tried += 1;
                    if tried >= self.members.len() || !e.asks_another() {
                        return Err(e);
                    }
                    self.current = (self.current + 1) % self.members.len();
                }
            }
        }
    }

    async fn ask_anew(&mut self, path: &str, question: &str) -> Result<Vec<u8>, EtcdError> {
        let mut connection = Connection::open(&self.members[self.current], &self.trust).await?;
        let answer = connection.ask(path, question).await?;
        self.open = Some(connection);
        Ok(answer)
    }

    fn read<T: serde::de::DeserializeOwned>(&self, answer: &[u8]) -> Result<T, EtcdError> {
        serde_json::from_slice(answer).map_err(|e| self.nonsense(&e.to_string()))
    }

    fn nonsense(&self, why: &str) -> EtcdError {
        EtcdError::Nonsense {
            url: self.members[self.current].to_string(),
            why: why.to_owned(),
        }
    }
}

/// The first key after all that begin with the prefix (etcd API, "range_end"). Ours end in a slash.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn question_of(change: &Change) -> Value {
    let written = change.unless_written.iter().map(|(prefix, revision)| {
        json!({
            "target": "MOD", "result": "LESS", "key": STANDARD.encode(prefix),
            "range_end": STANDARD.encode(end_of(prefix)), "mod_revision": (revision + 1).to_string(),
        })
    });
    let there = change.unless_there.iter().map(|key| {
        json!({ "target": "CREATE", "result": "EQUAL", "key": STANDARD.encode(key), "create_revision": "0" })
    });
    let puts = change.puts.iter().map(|(key, value, lease)| {
        json!({ "request_put": {
            "key": STANDARD.encode(key), "value": STANDARD.encode(value), "lease": lease.to_string(),
        }})
    });
    let deletes = change.deletes.iter();
    let deletes = deletes.map(|key| json!({ "request_delete_range": { "key": STANDARD.encode(key) } }));
    json!({
        "compare": written.chain(there).collect::<Vec<_>>(),
        "success": puts.chain(deletes).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests;
