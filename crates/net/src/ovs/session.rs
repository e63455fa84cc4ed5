//! One piece of work with the database: what it holds is read, and changed until ovs-vswitchd has followed.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::SwitchError;
use super::connection::Connection;
use super::row::{Database, columns};

/// The database's name.
const NAME: &str = "Open_vSwitch";
/// Opening a port takes ovs-vswitchd some milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A conversation, and what the database holds as far as it was told.
#[derive(Debug)]
pub(super) struct Session {
    pub connection: Connection,
    pub database: Database,
    until: Instant,
}

impl Session {
    /// For something that is to be done now.
    pub fn open(socket: &Path) -> Result<Self, SwitchError> {
        Self::within(socket, PATIENCE)
    }

    /// `patience`: for all that is asked from now on.
    pub fn within(socket: &Path, patience: Duration) -> Result<Self, SwitchError> {
        let until = Instant::now() + patience;
        let mut connection = Connection::open(socket)?;
        let mut database = Database::default();
        let all = connection.call("monitor", json!([NAME, "wharf", columns()]), until)?;
        database.update(&all);
        Ok(Self {
            connection,
            database,
            until,
        })
    }

    /// Takes up what changed meanwhile; whether anything did.
    pub fn refresh(&mut self) -> Result<bool, SwitchError> {
        let told = self.connection.told()?;
        told.iter().for_each(|updates| self.database.update(updates));
        Ok(!told.is_empty())
    }

    /// Changes the database in one transaction, and waits until ovs-vswitchd has done what that asks of it.
    /// `why` is written to the database's log (ovsdb-tool(1), `show-log`).
    pub fn change(&mut self, mut operations: Vec<Value>, why: &str) -> Result<(), SwitchError> {
        let count = operations.len();
        operations.push(json!({ "op": "comment", "comment": format!("wharf: {why}") }));
        // How ovs-vsctl does it: the switch says in cur_cfg which next_cfg it has read.
        operations.push(json!({
            "op": "mutate", "table": NAME, "where": [], "mutations": [["next_cfg", "+=", 1]],
        }));
        operations.push(json!({ "op": "select", "table": NAME, "where": [], "columns": ["next_cfg"] }));
        let mut params = vec![json!(NAME)];
        params.append(&mut operations);
        let results = self
            .connection
            .call("transact", Value::Array(params), self.until)?;
        refused(&results)?;
        let wanted = results[count + 2]["rows"][0]["next_cfg"].as_i64();
        let wanted = wanted.ok_or_else(|| self.connection.malformed("no next_cfg".to_owned()))?;
        self.until(|database| database.done_config >= wanted)
    }

    /// Waits until the database shows it.
    pub fn until(&mut self, is_so: impl Fn(&Database) -> bool) -> Result<(), SwitchError> {
        while !is_so(&self.database) {
            let told = match self.connection.wait_told(self.until) {
                Err(SwitchError::Silent { .. }) => {
                    let seconds = PATIENCE.as_secs();
                    return Err(SwitchError::NotDone { seconds });
                }
                told => told?,
            };
            told.iter().for_each(|updates| self.database.update(updates));
        }
        Ok(())
    }
}

/// One result an operation, and one more where the whole was refused (RFC 7047, section 4.1.3).
fn refused(results: &Value) -> Result<(), SwitchError> {
    let mut all = results.as_array().into_iter().flatten();
    match all.find(|result| !result["error"].is_null()) {
        None => Ok(()),
        Some(result) => {
            let text = |key: &str| result[key].as_str().unwrap_or_default().to_owned();
            Err(SwitchError::Refused(format!(
                "{}: {}",
                text("error"),
                text("details")
            )))
        }
    }
}
