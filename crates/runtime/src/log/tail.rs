//! The end of a container's log, without reading all of it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::read::LogLine;

/// Bytes looked at: what a program says as it dies is in them.
const WINDOW: u64 = 16 << 10;

/// The last lines of the current file, at most `count`, oldest first. What was rotated away a moment ago is not among
/// them; no log yet has none.
pub fn last_lines(dir: &Path, count: usize) -> io::Result<Vec<LogLine>> {
    let mut file = match File::open(dir.join("container.log")) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(WINDOW)))?;
    let mut bytes = Vec::new();
    file.take(WINDOW).read_to_end(&mut bytes)?;
    // The first line of the window may be cut, the last one half written: neither is one.
    let lines: Vec<LogLine> = bytes
        .split(|&b| b == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    Ok(lines[lines.len().saturating_sub(count)..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_a_long_log() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(last_lines(dir.path(), 3).unwrap(), []);
        let line = |n: u32| {
            format!("{{\"log\":\"{n}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:00Z\"}}\n")
        };
        let text: String = (0..2000).map(line).collect();
        std::fs::write(dir.path().join("container.log"), text + "{\"log\":\"half").unwrap();
        let last: Vec<String> = last_lines(dir.path(), 3)
            .unwrap()
            .into_iter()
            .map(|l| l.log)
            .collect();
        assert_eq!(last, ["1997\n", "1998\n", "1999\n"]);
    }
}
