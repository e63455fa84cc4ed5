//! Events on disk: a line of JSON each, in two files of which the older one is replaced.
//!
//! Nothing waits for the disk: a power cut may cost the last moments. A line cut short by one is skipped.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use model::event::Event;

/// The files, one open to be appended to.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    file: Option<File>,
    lines: usize,
    /// Lines a file has at most.
    most: usize,
    /// It was said already that nothing can be written.
    told: bool,
}

impl Kept {
    /// Reads the latest `most` events, oldest first. Whatever is wrong with the files, there is something to append to.
    pub fn open(path: &Path, most: usize) -> (Self, VecDeque<Event>) {
        let mut kept = Self {
            path: path.to_owned(),
            file: None,
            lines: 0,
            most,
            told: false,
        };
        let mut events = VecDeque::new();
        for file in [older(path), path.to_owned()] {
            match std::fs::read(&file) {
                Ok(bytes) => {
                    let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty());
                    kept.lines = lines.clone().count();
                    events.extend(lines.filter_map(|line| serde_json::from_slice(line).ok()));
                    kept.finish_line(&file, &bytes);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => kept.lines = 0,
                Err(e) => kept.tell(&e),
            }
        }
        let surplus = events.len().saturating_sub(most);
        events.drain(..surplus);
        (kept, events)
    }

    /// Appends one.
    pub fn append(&mut self, event: &Event) {
        if let Err(e) = self.try_append(event) {
            self.file = None;
            self.tell(&e);
        }
    }

    fn try_append(&mut self, event: &Event) -> io::Result<()> {
        if self.lines >= self.most {
            self.file = None;
            std::fs::rename(&self.path, older(&self.path))?;
            self.lines = 0;
        }
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let file = match &mut self.file {
            Some(file) => file,
            closed => closed.insert(open(&self.path)?),
        };
        file.write_all(&line)?;
        self.lines += 1;
        Ok(())
    }

    /// What a power cut left of a line gets its end, so that the next one stands for itself.
    fn finish_line(&mut self, path: &Path, bytes: &[u8]) {
        if bytes.last().is_some_and(|b| *b != b'\n')
            && let Err(e) = open(path).and_then(|mut file| file.write_all(b"\n"))
        {
            self.tell(&e);
        }
    }

    fn tell(&mut self, e: &io::Error) {
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(path = %self.path.display(), "events are not kept over a restart of the agent: {e}");
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("jsonl.1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn event(n: usize) -> Event {
        Event {
            time: Timestamp::from_second(n as i64).unwrap(),
            kind: "container".into(),
            name: "web".into(),
            what: "start".into(),
            reason: format!("run {n}"),
            attributes: Default::default(),
        }
    }

    fn numbers(events: &VecDeque<Event>) -> Vec<i64> {
        events.iter().map(|e| e.time.as_second()).collect()
    }

    #[test]
    fn the_latest_are_there_after_any_number_of_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        for n in 0..25 {
            let (mut kept, before) = Kept::open(&path, 4);
            let from = n.max(4) as i64 - 4;
            assert_eq!(numbers(&before), (from..n as i64).collect::<Vec<_>>());
            kept.append(&event(n));
        }
        assert_eq!(dir.path().read_dir().unwrap().count(), 2);
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 4);
    }

    #[test]
    fn a_line_cut_short_costs_that_line_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let (mut kept, _) = Kept::open(&path, 10);
        kept.append(&event(1));
        kept.append(&event(2));
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 9]).unwrap();
        let (mut kept, events) = Kept::open(&path, 10);
        assert_eq!(numbers(&events), [1]);
        kept.append(&event(3));
        std::fs::write(older(&path), "\0\0garbage\n\n").unwrap();
        assert_eq!(numbers(&Kept::open(&path, 10).1), [1, 3]);
    }

    #[test]
    fn where_nothing_can_be_written_events_are_only_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("not/there/events.jsonl");
        let (mut kept, events) = Kept::open(&path, 10);
        kept.append(&event(1));
        assert!(events.is_empty() && kept.told);
    }
}
