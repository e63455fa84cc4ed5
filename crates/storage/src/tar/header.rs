//! One 512-byte header block (POSIX.1-1988 ustar, its v7 ancestor, and the GNU and star dialects).

use super::{Kind, TarError, Time, shown};

pub const BLOCK: usize = 512;

/// A header whose checksum holds. Fields are read when asked for, since pax records may stand in for bad ones.
pub struct Header {
    pub flag: u8,
    block: [u8; BLOCK],
}

impl Header {
    pub fn parse(block: &[u8; BLOCK]) -> Result<Self, TarError> {
        let stored = number(&block[148..156]);
        let with_blanks = |i: usize, b: u8| if (148..156).contains(&i) { b' ' } else { b };
        let unsigned: i64 = (0..BLOCK).map(|i| i64::from(with_blanks(i, block[i]))).sum();
        // Some old programs summed signed characters.
        let signed: i64 = (0..BLOCK)
            .map(|i| i64::from(with_blanks(i, block[i]).cast_signed()))
            .sum();
        if stored != Some(unsigned) && stored != Some(signed) {
            return Err(TarError::Malformed("a header's checksum is wrong"));
        }
        Ok(Self {
            flag: block[156],
            block: *block,
        })
    }

    /// The block as it came, for the GNU sparse map in it.
    pub fn raw(&self) -> &[u8; BLOCK] {
        &self.block
    }

    pub fn path(&self) -> Vec<u8> {
        let name = text(&self.block[..100]);
        let prefix = match &self.block[257..263] {
            b"ustar\0" if &self.block[508..512] == b"tar\0" => text(&self.block[345..476]),
            b"ustar\0" => text(&self.block[345..500]),
            // GNU keeps other things there.
            _ => &[],
        };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    pub fn link(&self) -> Vec<u8> {
        text(&self.block[157..257]).to_vec()
    }

    /// Whether data can follow: links, devices and directories have none, whatever their size field says.
    pub fn has_data(&self) -> bool {
        !matches!(self.flag, b'1'..=b'6')
    }

    /// What the entry is; a v7 directory is a file whose name ends in a slash.
    pub fn kind(&self, path: &[u8], link: Vec<u8>) -> Result<Kind, TarError> {
        Ok(match self.flag {
            b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink(link),
            b'2' => Kind::Symlink(link),
            b'3' => Kind::Character(self.device(329)?, self.device(337)?),
            b'4' => Kind::Block(self.device(329)?, self.device(337)?),
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            flag => {
                return Err(TarError::Type {
                    name: shown(path),
                    flag: flag.into(),
                });
            }
        })
    }

    pub fn size(&self) -> Result<u64, TarError> {
        unsigned(&self.block[124..136], "a size is not a number")
    }

    pub fn mode(&self) -> Result<u32, TarError> {
        let mode = number(&self.block[100..108]).ok_or(TarError::Malformed("a mode is not a number"))?;
        Ok((mode & 0o7777) as u32)
    }

    pub fn uid(&self) -> Result<u64, TarError> {
        unsigned(&self.block[108..116], "a user id is not a number")
    }

    pub fn gid(&self) -> Result<u64, TarError> {
        unsigned(&self.block[116..124], "a group id is not a number")
    }

    pub fn mtime(&self) -> Result<Time, TarError> {
        let seconds = number(&self.block[136..148]).ok_or(TarError::Malformed("a time is not a number"))?;
        Ok(Time {
            seconds,
            nanoseconds: 0,
        })
    }

    fn device(&self, at: usize) -> Result<u32, TarError> {
        let bad = "a device number is not a number";
        let value = unsigned(&self.block[at..at + 8], bad)?;
        value.try_into().map_err(|_| TarError::Malformed(bad))
    }
}

fn unsigned(field: &[u8], bad: &'static str) -> Result<u64, TarError> {
    let value = number(field).and_then(|n| u64::try_from(n).ok());
    value.ok_or(TarError::Malformed(bad))
}

/// A numeric field: octal text, or GNU's base-256 where its first bit is set.
pub fn number(field: &[u8]) -> Option<i64> {
    if field.first()? & 0x80 != 0 {
        return base256(field);
    }
    let text = text(field.trim_ascii_start_nul()).trim_ascii();
    text.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// Two's complement, big endian; the first bit only marks the form, the second is the sign.
fn base256(field: &[u8]) -> Option<i64> {
    let first = field[0] & 0x7f;
    let negative = first & 0x40 != 0;
    let start = if negative {
        i128::from(first) - 0x80
    } else {
        i128::from(first)
    };
    let value = field[1..].iter().try_fold(start, |value, byte| {
        value.checked_mul(256)?.checked_add(i128::from(*byte))
    });
    value?.try_into().ok()
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

trait TrimNul {
    fn trim_ascii_start_nul(&self) -> &[u8];
}

impl TrimNul for [u8] {
    /// Some writers pad numbers with NULs in front.
    fn trim_ascii_start_nul(&self) -> &[u8] {
        let start = self.iter().position(|b| *b != 0 && *b != b' ');
        &self[start.unwrap_or(self.len())..]
    }
}
