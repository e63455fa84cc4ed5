//! Writing tar archives the way Go's `archive/tar` does, so that what every engine reads of them is what it knows: ustar
//! (POSIX.1-1988) where an entry fits into it, a pax header (POSIX.1-2001) for what does not. Holes, where they are to be
//! kept, go the way GNU tar writes them (pax 1.0), which Go's reader knows too.

use std::io::{self, Write};

use super::header::BLOCK;
use super::sparse::{Segment, map_of};
use super::{Entry, Kind};

/// The largest number of eleven octal digits: 8 GiB less one, and a time in 2242.
const MOST_OCTAL: u64 = 0o777_7777_7777;
/// The largest one of seven.
const MOST_ID: u64 = 0o777_7777;

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// An archive being written. Of a file's data exactly as many bytes have to follow as its entry says.
pub struct Writer<W> {
    out: W,
    /// Data of the current entry that is still to come.
    left: u64,
    padding: u64,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W) -> Self {
        Self {
            out,
            left: 0,
            padding: 0,
        }
    }

    /// Begins the next entry. Of a sparse file the data that follows is that of its parts, one after the other.
    ///
    /// # Errors
    /// `InvalidInput` where data of the entry before is missing, or a name has a NUL in it.
    pub fn begin(&mut self, entry: &Entry) -> io::Result<()> {
        self.end_entry()?;
        match &entry.sparse {
            Some(segments) if entry.kind == Kind::File => self.begin_sparse(entry, segments),
            _ => self.begin_as(entry, Vec::new()),
        }
    }

    /// GNU tar's pax 1.0: a file of another name, which is the map of what has data and then that data; what it is called
    /// and how long it is say records of its header. Whoever knows no such records unpacks a file of that other name.
    fn begin_sparse(&mut self, entry: &Entry, segments: &[Segment]) -> io::Result<()> {
        let map = map_of(segments);
        let data: u64 = segments.iter().map(|segment| segment.length).sum();
        let stored = Entry {
            path: beside(&entry.path, b"GNUSparseFile.0/"),
            size: map.len() as u64 + data,
            sparse: None,
            ..entry.clone()
        };
        let size = entry.size.to_string();
        let records: [(&[u8], &[u8]); 4] = [
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", &entry.path),
            (b"GNU.sparse.realsize", size.as_bytes()),
        ];
        let records = records.map(|(key, value)| (key.to_vec(), value.to_vec()));
        self.begin_as(&stored, records.to_vec())?;
        self.data(&map)
    }

    /// Headers as the entry has it, with these records besides.
    fn begin_as(&mut self, entry: &Entry, more: Vec<(Vec<u8>, Vec<u8>)>) -> io::Result<()> {
        let records = records(entry, more)?;
        if !records.is_empty() {
            self.extension(&entry.path, &records)?;
        }
        self.out.write_all(&header(entry))?;
        if entry.kind == Kind::File {
            self.left = entry.size;
            self.padding = super::padding(entry.size);
        }
        Ok(())
    }

    /// The next bytes of the entry's data.
    ///
    /// # Errors
    /// `InvalidInput` where they are more than the entry said.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.left = self
            .left
            .checked_sub(bytes.len() as u64)
            .ok_or(io::ErrorKind::InvalidInput)?;
        self.out.write_all(bytes)
    }

    /// So many zeros of its data.
    pub fn zeros(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            let some = count.min(ZEROS.len() as u64);
            self.data(&ZEROS[..some as usize])?;
            count -= some;
        }
        Ok(())
    }

    /// Ends the archive by two blocks of zeros, and flushes it.
    pub fn finish(mut self) -> io::Result<W> {
        self.end_entry()?;
        self.out.write_all(&ZEROS[..2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn end_entry(&mut self) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.out.write_all(&ZEROS[..self.padding as usize])?;
        self.padding = 0;
        Ok(())
    }

    /// A pax header, which describes the entry after it.
    fn extension(&mut self, path: &[u8], records: &[u8]) -> io::Result<()> {
        let name = beside(path.strip_suffix(b"/").unwrap_or(path), b"PaxHeaders.0/");
        let mut block = Block::new(b'x');
        // Whoever knows no pax takes it for a file of this name.
        block.text(0, 100, &ascii(&name));
        block.octal(124, 12, records.len() as u64);
        self.out.write_all(&block.sealed())?;
        self.out.write_all(records)?;
        let rest = super::padding(records.len() as u64);
        self.out.write_all(&ZEROS[..rest as usize])
    }
}

/// The last part of a path moved into a directory beside it.
fn beside(path: &[u8], directory: &[u8]) -> Vec<u8> {
    let at = path.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
    [&path[..at], directory, &path[at..]].concat()
}

/// What the ustar header has no room for, and what is to be said besides, in the order of the keywords as Go has them.
fn records(entry: &Entry, mut all: Vec<(Vec<u8>, Vec<u8>)>) -> io::Result<Vec<u8>> {
    let mut put = |key: &[u8], value: &[u8]| all.push((key.to_vec(), value.to_vec()));
    if entry.path.contains(&0) || link(&entry.kind).contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (name, value) in &entry.xattrs {
        put(&[b"SCHILY.xattr.", &name[..]].concat(), value);
    }
    for (key, id) in [(&b"gid"[..], entry.gid), (b"uid", entry.uid)] {
        if id > MOST_ID {
            put(key, id.to_string().as_bytes());
        }
    }
    let target = link(&entry.kind);
    if target.len() > 100 || !target.is_ascii() {
        put(b"linkpath", target);
    }
    let seconds = entry.mtime.seconds;
    if entry.mtime.nanoseconds > 0 || u64::try_from(seconds).is_ok_and(|s| s > MOST_OCTAL) || seconds < 0 {
        put(b"mtime", time(seconds, entry.mtime.nanoseconds).as_bytes());
    }
    if split(&entry.path).is_none() {
        put(b"path", &entry.path);
    }
    if entry.size > MOST_OCTAL && entry.kind == Kind::File {
        put(b"size", entry.size.to_string().as_bytes());
    }
    all.sort();
    Ok(all.iter().flat_map(|(key, value)| record(key, value)).collect())
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let bare = key.len() + value.len() + 3;
    let mut length = bare + bare.to_string().len();
    // The length may be longer by a digit for having been counted.
    length = bare + length.to_string().len();
    let mut record = length.to_string().into_bytes();
    record.push(b' ');
    record.extend_from_slice(key);
    record.push(b'=');
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

/// Seconds with a fraction; before 1970 the fraction goes the other way.
fn time(seconds: i64, nanoseconds: u32) -> String {
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    let (sign, whole, rest) = if seconds < 0 {
        ("-", -(seconds + 1), 1_000_000_000 - nanoseconds)
    } else {
        ("", seconds, nanoseconds)
    };
    let text = format!("{sign}{whole}.{rest:09}");
    text.trim_end_matches('0').to_owned()
}

fn header(entry: &Entry) -> [u8; BLOCK] {
    let mut block = Block::new(flag(&entry.kind));
    let at = |value: u64, most: u64| if value > most { 0 } else { value };
    match split(&entry.path) {
        Some((prefix, name)) => {
            block.text(0, 100, name);
            block.text(345, 155, prefix);
        }
        None => block.text(0, 100, &ascii(&entry.path)),
    }
    block.octal(100, 8, u64::from(entry.mode & 0o7777));
    block.octal(108, 8, at(entry.uid, MOST_ID));
    block.octal(116, 8, at(entry.gid, MOST_ID));
    if entry.kind == Kind::File {
        block.octal(124, 12, at(entry.size, MOST_OCTAL));
    }
    let seconds = u64::try_from(entry.mtime.seconds).unwrap_or(0);
    block.octal(136, 12, at(seconds, MOST_OCTAL));
    block.text(157, 100, &ascii(link(&entry.kind)));
    if let Kind::Character(major, minor) | Kind::Block(major, minor) = entry.kind {
        block.octal(329, 8, u64::from(major));
        block.octal(337, 8, u64::from(minor));
    }
    block.sealed()
}

fn flag(kind: &Kind) -> u8 {
    match kind {
        Kind::File => b'0',
        Kind::HardLink(_) => b'1',
        Kind::Symlink(_) => b'2',
        Kind::Character(..) => b'3',
        Kind::Block(..) => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    }
}

fn link(kind: &Kind) -> &[u8] {
    match kind {
        Kind::HardLink(target) | Kind::Symlink(target) => target,
        _ => &[],
    }
}

/// Prefix and name of ustar; none where that has no room for a path, or it is not ASCII.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if !path.is_ascii() {
        return None;
    }
    if path.len() <= 100 {
        return Some((&[], path));
    }
    // As far right as possible; a directory's last slash belongs to its name.
    let within = &path[..path.len().min(156)];
    let within = match within.len() == path.len() {
        true => within.strip_suffix(b"/").unwrap_or(within),
        false => within,
    };
    let slash = within.iter().rposition(|b| *b == b'/').filter(|at| *at > 0)?;
    let (prefix, name) = (&path[..slash], &path[slash + 1..]);
    (!name.is_empty() && name.len() <= 100).then_some((prefix, name))
}

/// What of a text the header may hold where a pax record has all of it.
fn ascii(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(u8::is_ascii).collect()
}

/// A header block being filled in.
struct Block([u8; BLOCK]);

impl Block {
    fn new(flag: u8) -> Self {
        let mut block = Self([0; BLOCK]);
        block.0[156] = flag;
        block.text(257, 8, b"ustar\x0000");
        for (at, length) in [
            (100, 8),
            (108, 8),
            (116, 8),
            (124, 12),
            (136, 12),
            (329, 8),
            (337, 8),
        ] {
            block.octal(at, length, 0);
        }
        block
    }

    fn text(&mut self, at: usize, length: usize, text: &[u8]) {
        let text = &text[..text.len().min(length)];
        self.0[at..at + text.len()].copy_from_slice(text);
    }

    /// Octal digits, ended by a NUL.
    fn octal(&mut self, at: usize, length: usize, value: u64) {
        let digits = format!("{value:0width$o}\0", width = length - 1);
        self.text(at, length, digits.as_bytes());
    }

    fn sealed(mut self) -> [u8; BLOCK] {
        self.text(148, 8, b"        ");
        let sum: u64 = self.0.iter().map(|b| u64::from(*b)).sum();
        self.text(148, 8, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_count_themselves() {
        for n in 0..2000 {
            let record = record(b"path", &vec![b'x'; n]);
            let text = String::from_utf8(record).unwrap();
            let (length, _) = text.split_once(' ').unwrap();
            assert_eq!(length.parse::<usize>().unwrap(), text.len(), "{n}");
        }
    }

    #[test]
    fn times_before_1970_and_fractions() {
        assert_eq!(time(5, 0), "5");
        assert_eq!(time(5, 500_000_000), "5.5");
        assert_eq!(time(-2, 0), "-2");
        assert_eq!(time(-2, 250_000_000), "-1.75");
    }
}
