//! The files of a log: `container.log` and, older by one each, `container.log.1`, `container.log.2`, ….

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use model::spec::Logging;

/// No line is longer: a full piece, every byte of it escaped, and what is around it.
const LONGEST_LINE: u64 = 6 * super::split::LONGEST as u64 + 256;

/// The current file, and what is known of its size.
#[derive(Debug)]
pub struct LogFile {
    dir: PathBuf,
    max_size: u64,
    max_files: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    size: u64,
}

/// `container.log` for 0, `container.log.N` for the Nth older one.
pub fn path(dir: &Path, number: u32) -> PathBuf {
    match number {
        0 => dir.join("container.log"),
        n => dir.join(format!("container.log.{n}")),
    }
}

impl LogFile {
    /// Nothing is opened before the first line.
    pub fn new(dir: &Path, logging: &Logging) -> Self {
        let mut this = Self {
            dir: dir.to_owned(),
            max_size: 0,
            max_files: 0,
            open: None,
        };
        this.configure(logging);
        this
    }

    /// Takes other sizes; files that are now too many go at the next rotation.
    pub fn configure(&mut self, logging: &Logging) {
        self.max_size = logging.max_size.max(1);
        self.max_files = logging.max_files.max(1);
        self.open = None;
    }

    /// Whether so many bytes still fit into the current file. One that is empty takes anything.
    pub fn has_room(&self, bytes: usize) -> bool {
        let size = self.open.as_ref().map_or(0, |open| open.size);
        size + bytes as u64 <= self.max_size
    }

    /// Writes whole lines, into a fresh file if they do not fit. After an error nothing of them is left behind.
    pub fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.open.is_none() {
            self.open = Some(open(&self.dir)?);
        }
        let full = self.open.as_ref().is_some_and(|open| open.size > 0);
        if full && !self.has_room(lines.len()) {
            // A log that cannot be rotated grows: better than one that ends.
            if rotate(&self.dir, self.max_files).is_ok() {
                self.open = Some(open(&self.dir)?);
            }
        }
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        match open.file.write_all(lines) {
            Ok(()) => {
                open.size += lines.len() as u64;
                Ok(())
            }
            Err(e) => {
                let _ = open.file.set_len(open.size);
                // Opened anew the next time: the file itself may be what was wrong.
                self.open = None;
                Err(e)
            }
        }
    }
}

/// Opens the current file for appending. What a power cut left of a line is cut off.
fn open(dir: &Path) -> io::Result<Open> {
    std::fs::create_dir_all(dir)?;
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path(dir, 0))?;
    let size = file.metadata()?.len();
    let whole = whole_lines(&mut file, size)?;
    if whole < size {
        file.set_len(whole)?;
    }
    Ok(Open { file, size: whole })
}

/// How many bytes at the beginning are whole lines.
fn whole_lines(file: &mut File, size: u64) -> io::Result<u64> {
    if size == 0 {
        return Ok(0);
    }
    let mut last = [0];
    file.seek(SeekFrom::Start(size - 1))?;
    file.read_exact(&mut last)?;
    if last == [b'\n'] {
        return Ok(size);
    }
    let from = size.saturating_sub(LONGEST_LINE);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.read_to_end(&mut tail)?;
    let end = tail
        .iter()
        .rposition(|&b| b == b'\n')
        .map_or(0, |at| at as u64 + 1);
    Ok(from + end)
}

/// Makes every file one older; the oldest goes.
fn rotate(dir: &Path, max_files: u32) -> io::Result<()> {
    drop_older(dir, max_files)?;
    for number in (0..max_files - 1).rev() {
        match std::fs::rename(path(dir, number), path(dir, number + 1)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    if max_files == 1 {
        std::fs::remove_file(path(dir, 0))?;
    }
    Ok(())
}

/// Removes files past the number that is kept, which may have been larger once.
fn drop_older(dir: &Path, max_files: u32) -> io::Result<()> {
    for number in max_files.. {
        match std::fs::remove_file(path(dir, number)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::spec::LogDriver;

    fn logging(max_size: u64, max_files: u32) -> Logging {
        Logging {
            driver: LogDriver::File,
            max_size,
            max_files,
        }
    }

    fn text(dir: &Path, number: u32) -> String {
        std::fs::read_to_string(path(dir, number)).unwrap_or_else(|_| "-".to_owned())
    }

    #[test]
    fn files_move_on_by_one_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = LogFile::new(dir.path(), &logging(4, 3));
        for line in ["aa\n", "bb\n", "cc\n", "dd\n"] {
            file.write(line.as_bytes()).unwrap();
        }
        let all: Vec<_> = (0..4).map(|n| text(dir.path(), n)).collect();
        assert_eq!(all, ["dd\n", "cc\n", "bb\n", "-"]);
        file.configure(&logging(4, 1));
        file.write(b"ee\n").unwrap();
        let all: Vec<_> = (0..4).map(|n| text(dir.path(), n)).collect();
        assert_eq!(all, ["ee\n", "-", "-", "-"]);
    }

    #[test]
    fn what_a_power_cut_left_of_a_line_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        for (before, after) in [("", "x\n"), ("a\nb", "a\nx\n"), ("b", "x\n"), ("a\n", "a\nx\n")] {
            std::fs::write(path(dir.path(), 0), before).unwrap();
            LogFile::new(dir.path(), &logging(100, 1)).write(b"x\n").unwrap();
            assert_eq!(text(dir.path(), 0), after, "{before:?}");
        }
    }
}
