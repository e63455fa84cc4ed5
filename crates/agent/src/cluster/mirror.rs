//! What is in etcd, as far as it was heard.

use std::collections::BTreeMap;

use super::etcd::{Below, Change, Entry, Event, Moment};

/// A copy of all of it, kept up to date by what is told.
#[derive(Clone, Debug, Default)]
pub struct Mirror {
    pub at: Moment,
    pub entries: BTreeMap<String, Entry>,
}

impl Mirror {
    pub fn of(below: Below) -> Self {
        Self {
            at: below.at,
            entries: below.entries.into_iter().map(|e| (e.key.clone(), e)).collect(),
        }
    }

    /// Takes up what happened. What is older than what is known changes nothing: it was told twice.
    pub fn hear(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Put(entry) => {
                    self.at.revision = self.at.revision.max(entry.written);
                    let known = self.entries.get(&entry.key).map_or(0, |known| known.written);
                    if entry.written >= known {
                        self.entries.insert(entry.key.clone(), entry);
                    }
                }
                Event::Deleted(key, at) => {
                    self.at.revision = self.at.revision.max(at);
                    if self.entries.get(&key).is_some_and(|known| known.written < at) {
                        self.entries.remove(&key);
                    }
                }
            }
        }
    }

    /// Takes up a change of our own that was carried out.
    pub fn note(&mut self, change: &Change, revision: i64) {
        let puts = change.puts.iter().map(|(key, value, lease)| {
            Event::Put(Entry {
                key: key.clone(),
                value: value.clone().into_bytes(),
                written: revision,
                lease: *lease,
            })
        });
        let deletes = change.deletes.iter();
        let deletes = deletes.map(|key| Event::Deleted(key.clone(), revision));
        // Others may have written meanwhile: what they wrote is told still, so the revision is not to run ahead.
        let at = self.at;
        self.hear(puts.chain(deletes).collect());
        self.at = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str, written: i64) -> Event {
        Event::Put(Entry {
            key: key.to_owned(),
            value: value.into(),
            written,
            lease: 1,
        })
    }

    #[test]
    fn what_is_told_twice_or_late_changes_nothing() {
        let mut mirror = Mirror::default();
        mirror.hear(vec![put("a", "1", 5), put("b", "1", 6)]);
        mirror.hear(vec![Event::Deleted("a".to_owned(), 7), put("b", "2", 8)]);
        mirror.hear(vec![Event::Deleted("b".to_owned(), 4), put("b", "1", 6)]);
        let held: Vec<_> = mirror
            .entries
            .iter()
            .map(|(k, e)| (k.as_str(), e.value.as_slice()))
            .collect();
        assert_eq!(held, [("b", b"2".as_slice())]);
        assert_eq!(mirror.at.revision, 8);
    }

    #[test]
    fn an_own_change_is_known_at_once_and_others_are_still_awaited() {
        let mut mirror = Mirror::default();
        mirror.hear(vec![put("a", "1", 5)]);
        let change = Change {
            puts: vec![("b".to_owned(), "1".to_owned(), 1)],
            deletes: vec!["a".to_owned()],
            ..Change::default()
        };
        mirror.note(&change, 9);
        assert_eq!(mirror.entries.keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(mirror.at.revision, 5);
        mirror.hear(vec![put("a", "2", 7)]);
        assert_eq!(mirror.entries.len(), 2);
    }
}
