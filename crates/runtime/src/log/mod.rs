//! Container logs: Docker's json-file lines, written by the shim, rotated by size.
//!
//! [`split`] cuts a byte stream into lines, [`line`] writes one as JSON, [`file`] keeps the files.

pub mod file;
pub mod line;
pub mod read;
pub mod split;
pub mod tail;

use std::path::Path;

use jiff::Timestamp;
use model::spec::{LogDriver, Logging};

use file::LogFile;
use line::Stream;
use split::Splitter;

/// Bytes gathered before they are written: bounds the shim's memory, keeps system calls rare under load.
const BATCH: usize = 16 << 10;

/// The log of one container: both streams into one sequence of files.
#[derive(Debug)]
pub struct Log {
    file: Option<LogFile>,
    streams: [Splitter; 2],
    batch: Vec<u8>,
    lines: u64,
    dropped: u64,
}

impl Log {
    /// A log in `dir` (made if need be). Never fails: what cannot be written is counted instead.
    pub fn open(dir: &Path, logging: &Logging) -> Self {
        let file = (logging.driver != LogDriver::None).then(|| LogFile::new(dir, logging));
        Self {
            file,
            streams: [Splitter::default(), Splitter::default()],
            batch: Vec::new(),
            lines: 0,
            dropped: 0,
        }
    }

    /// Takes other sizes or another driver from the next line on.
    pub fn configure(&mut self, dir: &Path, logging: &Logging) {
        self.flush();
        match (&mut self.file, logging.driver) {
            (_, LogDriver::None) => self.file = None,
            (Some(file), _) => file.configure(logging),
            (None, _) => self.file = Some(LogFile::new(dir, logging)),
        }
    }

    /// Lines (or parts of long ones) that could not be written, since the shim began.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes what one read gave.
    pub fn feed(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) {
        if self.file.is_none() {
            return;
        }
        let time = now.to_string();
        let mut splitter = std::mem::take(&mut self.streams[stream as usize]);
        splitter.feed(bytes, |piece| self.push(stream, piece, &time));
        self.streams[stream as usize] = splitter;
        self.flush();
    }

    /// Ends both streams: an unfinished last line is written as it stands.
    pub fn finish(&mut self, now: Timestamp) {
        let time = now.to_string();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = self.streams[stream as usize].take();
            if !rest.is_empty() && self.file.is_some() {
                self.push(stream, &rest, &time);
            }
        }
        self.flush();
    }

    fn push(&mut self, stream: Stream, piece: &[u8], time: &str) {
        let start = self.batch.len();
        line::push(&mut self.batch, stream, piece, time);
        self.lines += 1;
        let room = self.file.as_ref().is_none_or(|f| f.has_room(self.batch.len()));
        if !room && start > 0 {
            // The new line begins the next file; what came before it fills this one.
            let newest = self.batch.split_off(start);
            self.lines -= 1;
            self.flush();
            self.batch = newest;
            self.lines = 1;
        }
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let written = self.file.as_mut().is_some_and(|f| f.write(&self.batch).is_ok());
        if !written {
            self.dropped += self.lines;
        }
        self.batch.clear();
        self.batch.shrink_to(BATCH);
        self.lines = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::spec::LogDriver;

    fn read(dir: &Path, files: u32) -> String {
        let mut all = String::new();
        for n in (0..files).rev() {
            all.push_str(&std::fs::read_to_string(file::path(dir, n)).unwrap_or_default());
        }
        all
    }

    #[test]
    fn a_hundred_thousand_lines_are_kept_in_order_over_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let logging = Logging {
            driver: LogDriver::File,
            max_size: 1 << 20,
            max_files: 20,
        };
        let mut log = Log::open(dir.path(), &logging);
        let text: String = (0..100_000).map(|n| format!("line {n}\n")).collect();
        for chunk in text.as_bytes().chunks(7_919) {
            log.feed(Stream::Stdout, chunk, Timestamp::UNIX_EPOCH);
        }
        log.finish(Timestamp::UNIX_EPOCH);
        assert_eq!(log.dropped(), 0);
        let all = read(dir.path(), 20);
        let mut seen = 0;
        for (n, line) in all.lines().enumerate() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(value["log"], format!("line {n}\n"));
            seen += 1;
        }
        assert_eq!(seen, 100_000);
        for n in 0..20 {
            let size = std::fs::metadata(file::path(dir.path(), n)).map_or(0, |m| m.len());
            assert!(size <= 1 << 20, "file {n} has {size} bytes");
        }
        assert!(file::path(dir.path(), 1).exists());
    }

    #[test]
    fn a_full_disk_costs_lines_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", file::path(dir.path(), 0)).unwrap();
        let mut log = Log::open(dir.path(), &Logging::default());
        log.feed(Stream::Stderr, b"one\ntwo\nthree", Timestamp::UNIX_EPOCH);
        log.finish(Timestamp::UNIX_EPOCH);
        assert_eq!(log.dropped(), 3);
        std::fs::remove_file(file::path(dir.path(), 0)).unwrap();
        log.configure(dir.path(), &Logging::default());
        log.feed(Stream::Stderr, b"four\n", Timestamp::UNIX_EPOCH);
        assert_eq!(
            read(dir.path(), 1),
            "{\"log\":\"four\\n\",\"stream\":\"stderr\",\"time\":\"1970-01-01T00:00:00Z\"}\n"
        );
    }

    #[test]
    fn no_driver_keeps_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let none = Logging {
            driver: LogDriver::None,
            ..Logging::default()
        };
        let mut log = Log::open(dir.path(), &none);
        log.feed(Stream::Stdout, b"gone\n", Timestamp::UNIX_EPOCH);
        log.finish(Timestamp::UNIX_EPOCH);
        assert_eq!((log.dropped(), dir.path().read_dir().unwrap().count()), (0, 0));
    }
}
