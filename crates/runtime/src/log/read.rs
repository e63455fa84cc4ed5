//! Reading a container's log: over its rotated files, oldest first, and on as it grows.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Deserialize;

/// One line as the shim wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LogLine {
    /// The text with its newline; without one where a line over 16 KiB goes on in the next.
    pub log: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    pub time: Timestamp,
}

/// A place in a container's log. Files that are rotated away meanwhile are still read to their end.
#[derive(Debug)]
pub struct LogReader {
    dir: PathBuf,
    current: Option<(BufReader<File>, u64)>,
    waiting: VecDeque<(File, u64)>,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
}

impl LogReader {
    /// At the beginning of the oldest file. No log yet is an empty one.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let mut waiting: VecDeque<(File, u64)> = VecDeque::new();
        // From the newest on, so that a rotation in between shows a file twice rather than not at all.
        for number in 0.. {
            let Some((file, inode)) = open_number(dir, number)? else {
                break;
            };
            if waiting.iter().all(|(_, i)| *i != inode) {
                waiting.push_front((file, inode));
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            current: None,
            waiting,
            partial: Vec::new(),
        })
    }

    /// The next whole line; none when there is no more for now. What is no line of a log is passed over.
    pub fn next_line(&mut self) -> io::Result<Option<LogLine>> {
        loop {
            if self.current.is_none() && !self.advance()? {
                return Ok(None);
            }
            let Some((reader, _)) = &mut self.current else {
                return Ok(None);
            };
            reader.read_until(b'\n', &mut self.partial)?;
            if self.partial.ends_with(b"\n") {
                let line = serde_json::from_slice(&self.partial);
                self.partial.clear();
                match line {
                    Ok(line) => return Ok(Some(line)),
                    Err(_) => continue, // torn by a power cut
                }
            }
            if !self.has_successor()? {
                return Ok(None);
            }
            // The file was rotated away. What was written to it between our read and that look comes first.
            let (reader, _) = self.current.as_mut().expect("it was there a moment ago");
            if reader.fill_buf()?.is_empty() {
                self.current = None;
                self.partial.clear();
            }
        }
    }

    fn advance(&mut self) -> io::Result<bool> {
        if let Some((file, inode)) = self.waiting.pop_front() {
            self.current = Some((BufReader::new(file), inode));
            return Ok(true);
        }
        let first = open_number(&self.dir, 0)?;
        self.current = first.map(|(file, inode)| (BufReader::new(file), inode));
        Ok(self.current.is_some())
    }

    /// Whether the current file is no longer the newest; finds the ones after it.
    fn has_successor(&mut self) -> io::Result<bool> {
        if !self.waiting.is_empty() {
            return Ok(true);
        }
        let Some((_, own)) = &self.current else {
            return Ok(false);
        };
        let own = *own;
        for number in 0.. {
            match open_number(&self.dir, number)? {
                Some((_, inode)) if inode == own => break,
                Some(newer) => self.waiting.push_front(newer),
                None => break,
            }
        }
        Ok(!self.waiting.is_empty())
    }
}

/// `container.log` is number 0, `container.log.1` the one before it, and so on.
fn open_number(dir: &Path, number: u32) -> io::Result<Option<(File, u64)>> {
    let name = if number == 0 {
        "container.log".to_owned()
    } else {
        format!("container.log.{number}")
    };
    match File::open(dir.join(name)) {
        Ok(file) => {
            let inode = file.metadata()?.ino();
            Ok(Some((file, inode)))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn line(n: u32) -> String {
        format!("{{\"log\":\"{n}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:00Z\"}}\n")
    }

    fn all(reader: &mut LogReader) -> Vec<String> {
        std::iter::from_fn(|| reader.next_line().unwrap())
            .map(|l| l.log.trim_end().to_owned())
            .collect()
    }

    #[test]
    fn rotated_files_are_read_in_order_and_growth_is_followed_over_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let path = |n: u32| {
            dir.path().join(if n == 0 {
                "container.log".into()
            } else {
                format!("container.log.{n}")
            })
        };
        std::fs::write(path(2), line(1)).unwrap();
        std::fs::write(path(1), line(2)).unwrap();
        std::fs::write(path(0), line(3)).unwrap();
        let mut reader = LogReader::open(dir.path()).unwrap();
        assert_eq!(all(&mut reader), ["1", "2", "3"]);

        let mut current = File::options().append(true).open(path(0)).unwrap();
        write!(current, "{}", &line(4)[..10]).unwrap();
        assert_eq!(all(&mut reader), [""; 0]);
        write!(current, "{}", &line(4)[10..]).unwrap();
        assert_eq!(all(&mut reader), ["4"]);

        write!(current, "{}", line(5)).unwrap();
        for n in 6..8 {
            std::fs::rename(path(1), path(2)).unwrap();
            std::fs::rename(path(0), path(1)).unwrap();
            std::fs::write(path(0), line(n)).unwrap();
        }
        assert_eq!(all(&mut reader), ["5", "6", "7"]);
    }

    #[test]
    fn no_log_yet_is_an_empty_one_and_garbage_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = LogReader::open(dir.path()).unwrap();
        assert_eq!(all(&mut reader), [""; 0]);
        std::fs::write(dir.path().join("container.log"), format!("garbage\n{}", line(1))).unwrap();
        assert_eq!(all(&mut reader), ["1"]);
    }
}
