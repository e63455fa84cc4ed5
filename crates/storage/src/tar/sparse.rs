//! Sparse files: the old GNU form (type `S`, map in the header and in blocks after it) and pax 0.1 and 1.0.

use super::header::{BLOCK, Header, number};
use super::pax::{Pax, decimal};
use super::{Entry, Reader, Source, TarError, shown};

/// Most parts one sparse file may have.
pub const MAX_SEGMENTS: usize = 1 << 20;
/// Longest decimal number in a pax 1.0 map.
const MAX_DIGITS: usize = 20;

/// A part of a sparse file that has data; what is between them reads as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub offset: u64,
    pub length: u64,
}

impl<S: Source> Reader<S> {
    /// Finds the entry's map, if it has one, and leaves the reader at the first byte of data.
    pub(super) fn read_sparse(
        &mut self,
        header: &Header,
        pax: &Pax,
        entry: &mut Entry,
    ) -> Result<(), TarError> {
        let bad = |why| TarError::Entry {
            name: shown(&entry.path),
            why,
        };
        let (size, map) = match (header.flag, pax.sparse.version) {
            (b'S', _) => self.gnu_map(header)?,
            (_, (Some(1), Some(0))) => (pax.sparse.real_size, self.pax_map()?),
            (_, (None, None) | (Some(0), Some(1))) if pax.sparse.map.is_some() => {
                (pax.sparse.real_size, list(pax.sparse.map.as_deref()))
            }
            (_, (None, None)) if !pax.sparse.repeated => return Ok(()),
            _ => {
                return Err(bad(
                    "this form of sparse file is not supported (pax 0.1, 1.0 and GNU are)",
                ));
            }
        };
        let (Some(size), Some(map)) = (size, map) else {
            return Err(bad("its map of holes is malformed"));
        };
        if !fits(&map, size, self.left) {
            return Err(bad("its map of holes does not fit its size"));
        }
        entry.size = size;
        entry.sparse = Some(map);
        Ok(())
    }

    fn gnu_map(&mut self, header: &Header) -> Result<(Option<u64>, Option<Vec<Segment>>), TarError> {
        let block = header.raw();
        let size = number(&block[483..495]).and_then(|n| u64::try_from(n).ok());
        let mut map = Vec::new();
        let mut whole = gnu_segments(&block[386..482], &mut map);
        let mut more = block[482] != 0;
        while more && whole && map.len() <= MAX_SEGMENTS {
            let block = self.block()?.ok_or(TarError::Truncated)?;
            whole = gnu_segments(&block[..504], &mut map);
            more = block[504] != 0;
        }
        Ok((size, (whole && map.len() <= MAX_SEGMENTS).then_some(map)))
    }

    /// Decimal lines before the data: how many, then offset and length of each, padded to a block.
    fn pax_map(&mut self) -> Result<Option<Vec<Segment>>, TarError> {
        let before = self.left;
        let Some(count) = self.line()?.filter(|n| *n <= MAX_SEGMENTS as u64) else {
            return Ok(None);
        };
        let mut map = Vec::new();
        for _ in 0..count {
            let (Some(offset), Some(length)) = (self.line()?, self.line()?) else {
                return Ok(None);
            };
            map.push(Segment { offset, length });
        }
        let used = before - self.left;
        let rest = (used.wrapping_neg() % BLOCK as u64).min(self.left);
        self.source.skip(rest)?;
        self.left -= rest;
        Ok(Some(map))
    }

    fn line(&mut self) -> Result<Option<u64>, TarError> {
        let mut digits = Vec::new();
        let mut byte = [0];
        while digits.len() <= MAX_DIGITS && self.read_data(&mut byte)? == 1 {
            if byte[0] == b'\n' {
                return Ok(decimal(&digits));
            }
            digits.push(byte[0]);
        }
        Ok(None)
    }
}

/// The map of pax 1.0, as it stands before the data (GNU tar manual, "PAX Format, Version 1.0").
pub fn map_of(segments: &[Segment]) -> Vec<u8> {
    let mut text = format!("{}\n", segments.len());
    for segment in segments {
        text += &format!("{}\n{}\n", segment.offset, segment.length);
    }
    let mut map = text.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// Reads pairs of twelve-byte numbers until an empty one; whether all were numbers.
fn gnu_segments(fields: &[u8], map: &mut Vec<Segment>) -> bool {
    for pair in fields.chunks_exact(24).take_while(|pair| pair[0] != 0) {
        let value = |field| number(field).and_then(|n| u64::try_from(n).ok());
        let (Some(offset), Some(length)) = (value(&pair[..12]), value(&pair[12..])) else {
            return false;
        };
        map.push(Segment { offset, length });
    }
    true
}

/// `offset,length,…` of pax 0.1.
fn list(text: Option<&[u8]>) -> Option<Vec<Segment>> {
    let text = text.filter(|text| !text.is_empty());
    let Some(text) = text else { return Some(Vec::new()) };
    let numbers: Vec<u64> = text.split(|b| *b == b',').map(decimal).collect::<Option<_>>()?;
    if !numbers.len().is_multiple_of(2) {
        return None;
    }
    let segment = |pair: &[u64]| Segment {
        offset: pair[0],
        length: pair[1],
    };
    Some(numbers.chunks_exact(2).map(segment).collect())
}

/// In order, apart, within the file, and together exactly the data there is.
fn fits(map: &[Segment], size: u64, data: u64) -> bool {
    let mut end = 0_u64;
    let mut total = 0_u64;
    for segment in map {
        let Some(next) = segment.offset.checked_add(segment.length) else {
            return false;
        };
        if segment.offset < end || next > size {
            return false;
        }
        end = next;
        total += segment.length;
    }
    total == data
}
