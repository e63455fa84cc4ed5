//! Reading a container's log: over its rotated files, oldest first, and on as it grows.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Deserialize;

/// Numbers in a row that may be free where others follow: one a rotation, and no more of those come within a few opens.
const MOST_MISSING: u32 = 4;

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
        Ok(Self {
            dir: dir.to_owned(),
            current: None,
            waiting: newer_than(dir, None)?,
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
        if self.waiting.is_empty() {
            // There was no log yet: by now it may have been rotated, too.
            self.waiting = newer_than(&self.dir, None)?;
        }
        let next = self.waiting.pop_front();
        self.current = next.map(|(file, inode)| (BufReader::new(file), inode));
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
        self.waiting = newer_than(&self.dir, Some(*own))?;
        Ok(!self.waiting.is_empty())
    }
}

/// The files after the one with this inode, oldest first; all of them, if it is not among them.
///
/// A rotation makes the files older one by one, the oldest first, so that a number is free for a moment: nothing is over
/// at the first one that is not there. A file only ever gets a higher number, so that a walk upwards passes none by, and
/// may meet one twice. Were there two rotations meanwhile it may meet a newer one behind an older one: then it walks again.
fn newer_than(dir: &Path, own: Option<u64>) -> io::Result<VecDeque<(File, u64)>> {
    let newest = || -> io::Result<_> {
        let inode = |number| Ok::<_, io::Error>(open_number(dir, number)?.map(|(_, inode)| inode));
        Ok((inode(0)?, inode(1)?))
    };
    loop {
        let before = newest()?;
        let found = walk(dir, own)?;
        if newest()? == before {
            return Ok(found);
        }
    }
}

fn walk(dir: &Path, own: Option<u64>) -> io::Result<VecDeque<(File, u64)>> {
    let mut found: VecDeque<(File, u64)> = VecDeque::new();
    let mut missing = 0;
    for number in 0.. {
        match open_number(dir, number)? {
            Some((_, inode)) if Some(inode) == own => break,
            Some((file, inode)) => {
                missing = 0;
                if found.iter().all(|(_, i)| *i != inode) {
                    found.push_front((file, inode));
                }
            }
            None if missing == MOST_MISSING => break,
            None => missing += 1,
        }
    }
    Ok(found)
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
    fn a_rotation_half_way_hides_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = |n: u32| dir.path().join(format!("container.log.{n}"));
        for n in 1..=4 {
            std::fs::write(path(n), line(10 - n)).unwrap();
        }
        std::fs::write(dir.path().join("container.log"), line(10)).unwrap();
        let mut early = LogReader::open(dir.path()).unwrap();
        assert_eq!(early.next_line().unwrap().unwrap().log, "6\n");
        std::fs::rename(path(4), path(5)).unwrap();
        std::fs::rename(path(3), path(4)).unwrap();
        assert_eq!(all(&mut early), ["7", "8", "9", "10"]);
        let mut late = LogReader::open(dir.path()).unwrap();
        assert_eq!(all(&mut late), ["6", "7", "8", "9", "10"]);
    }

    #[test]
    fn files_rotated_away_fast_are_followed_without_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = LogReader::open(dir.path()).unwrap();
        let to = dir.path().to_owned();
        let writer = std::thread::spawn(move || {
            let logging = model::spec::Logging {
                driver: model::spec::LogDriver::File,
                max_size: 250,
                max_files: 200,
            };
            let mut file = super::super::file::LogFile::new(&to, &logging);
            for n in 0..400 {
                file.write(line(n).as_bytes()).unwrap();
            }
        });
        let mut seen = Vec::new();
        while !writer.is_finished() {
            seen.extend(all(&mut reader));
        }
        writer.join().unwrap();
        seen.extend(all(&mut reader));
        let wanted: Vec<String> = (0..400).map(|n| n.to_string()).collect();
        assert_eq!(seen, wanted);
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
