//! What etcd answers: the messages of its API in JSON (proto3, "JSON Mapping"), of which what is not sent has its default.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};

use super::Moment;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Header {
    #[serde(deserialize_with = "number")]
    pub cluster_id: u64,
    #[serde(deserialize_with = "number")]
    pub revision: i64,
}

impl Header {
    pub fn moment(&self) -> Moment {
        Moment {
            cluster: self.cluster_id,
            revision: self.revision,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct KeyValue {
    key: String,
    value: String,
    #[serde(deserialize_with = "number")]
    mod_revision: i64,
    #[serde(deserialize_with = "number")]
    lease: i64,
}

/// A key and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Vec<u8>,
    /// The revision it was last written at.
    pub written: i64,
    /// It goes with this; 0: with none.
    pub lease: i64,
}

impl Entry {
    /// # Errors
    /// What is not as it should be.
    pub fn read(kv: KeyValue) -> Result<Self, String> {
        let bytes = |text: &str| {
            STANDARD
                .decode(text)
                .map_err(|e| format!("a key or value is not base64: {e}"))
        };
        let key = String::from_utf8(bytes(&kv.key)?).map_err(|_| "a key is not UTF-8".to_owned())?;
        Ok(Self {
            key,
            value: bytes(&kv.value)?,
            written: kv.mod_revision,
            lease: kv.lease,
        })
    }
}

#[derive(Debug, Deserialize)]
pub struct Ranged {
    pub header: Header,
    #[serde(default)]
    pub kvs: Vec<KeyValue>,
    #[serde(default)]
    pub more: bool,
}

#[derive(Debug, Deserialize)]
pub struct Txned {
    pub header: Header,
    #[serde(default)]
    pub succeeded: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Granted {
    #[serde(rename = "ID", deserialize_with = "number")]
    pub id: i64,
}

#[derive(Debug, Deserialize)]
pub struct Kept {
    pub result: Lived,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Lived {
    /// Seconds; 0 of a lease that is not there.
    #[serde(rename = "TTL", deserialize_with = "number")]
    pub ttl: i64,
}

/// One line of a watch.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Watched {
    pub result: Option<Happened>,
    pub error: Option<Refusal>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Happened {
    pub canceled: bool,
    pub cancel_reason: String,
    pub events: Vec<Told>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Told {
    #[serde(rename = "type")]
    what: String,
    kv: KeyValue,
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Put(Entry),
    /// And at which revision.
    Deleted(String, i64),
}

impl Event {
    /// # Errors
    /// What is not as it should be.
    pub fn read(told: Told) -> Result<Self, String> {
        let entry = Entry::read(told.kv)?;
        match told.what.as_str() {
            // The first word is the one that is not sent.
            "" | "PUT" => Ok(Self::Put(entry)),
            "DELETE" => Ok(Self::Deleted(entry.key, entry.written)),
            other => Err(format!("{other:?} is no kind of event")),
        }
    }
}

/// An answer that is none, in the words of all versions of the gateway.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Refusal {
    pub message: String,
}

/// 64 bits come as text, since JavaScript has no such numbers.
fn number<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr + TryFrom<i64>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Number(i64),
    }
    let bad = || serde::de::Error::custom("a number is expected");
    match Either::deserialize(deserializer)? {
        Either::Text(text) => text.parse().map_err(|_| bad()),
        Either::Number(number) => T::try_from(number).map_err(|_| bad()),
    }
}
