//! What an agent knows of etcd's from the one before: who this host is there, and what etcd said last.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use model::cluster::ClusterNetwork;
use model::name::Name;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::whole_file::{self, Outlives};

/// The format written.
const VERSION: u32 = 1;

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    version: u32,
    /// This host's id, made once at random.
    pub host: String,
    /// Which etcd it was, and how far its history had come.
    pub cluster: u64,
    pub revision: i64,
    pub leases: Option<Leases>,
    pub networks: BTreeMap<Name, ClusterNetwork>,
}

/// The numbers of this host's leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leases {
    /// Seconds that the first one lasts without being kept alive.
    pub ttl: u64,
    /// Of what says that this host is there.
    pub alive: i64,
    /// Of its parts of subnets, which outlive that.
    pub ranges: i64,
}

/// Its file in the state dir.
#[derive(Clone, Debug)]
pub struct StateFile(PathBuf);

impl StateFile {
    pub fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("cluster.json"))
    }

    /// What it holds; a fresh one where it is not there, or cannot be understood: then this host is another one to etcd.
    pub fn read(&self) -> State {
        let path = self.0.display();
        let why = match std::fs::read(&self.0) {
            Ok(bytes) => match serde_json::from_slice::<State>(&bytes) {
                Ok(state) if state.version == VERSION && super::records::is_id(&state.host) => return state,
                Ok(_) => "it is of another version".to_owned(),
                Err(e) => e.to_string(),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => return State::fresh(),
            Err(e) => e.to_string(),
        };
        warn!("{path} cannot be read, this host begins as a new one in etcd: {why}");
        State::fresh()
    }

    /// Whole or not at all, and on disk.
    pub fn write(&self, state: &State) -> io::Result<()> {
        whole_file::write(&self.0, &serde_json::to_vec(state)?, Outlives::Power).map(drop)
    }
}

impl State {
    fn fresh() -> Self {
        let id = crate::engine::fresh_id();
        Self {
            version: VERSION,
            // As much of it as people can tell apart.
            host: id.as_str().chars().take(16).collect(),
            cluster: 0,
            revision: 0,
            leases: None,
            networks: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_back_and_a_damaged_one_is_a_new_host() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::new(dir.path());
        let mut state = file.read();
        assert_eq!(state.host.len(), 16);
        assert_ne!(file.read().host, state.host, "nothing was written yet");
        state
            .networks
            .insert("mesh".parse().unwrap(), ClusterNetwork::default());
        file.write(&state).unwrap();
        assert_eq!(file.read(), state);
        for damage in [
            "",
            "{",
            "[]",
            r#"{"version":9,"host":"a","cluster":0,"revision":0,"leases":null,"networks":{}}"#,
        ] {
            std::fs::write(dir.path().join("cluster.json"), damage).unwrap();
            assert_ne!(file.read().host, state.host);
        }
    }
}
