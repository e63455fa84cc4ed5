//! Lines of a mount table, `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mount. What lies there is not touched by knowing of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    pub point: PathBuf,
    /// Of the file system, as `ext4`.
    pub kind: String,
}

/// The mounts of a table in their order: of several at one place, the last one is what is seen there.
pub fn parse(table: &[u8]) -> impl Iterator<Item = Mounted> {
    table.split(|b| *b == b'\n').filter_map(line)
}

/// `ID PARENT DEVICE ROOT POINT OPTIONS [TAG]… - KIND SOURCE OPTIONS`.
fn line(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|b| *b == b' ');
    let point = fields.nth(4)?;
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mounted {
        point: PathBuf::from(OsString::from_vec(plain(point))),
        kind: String::from_utf8_lossy(kind).into_owned(),
    })
}

/// Blanks and the like stand there as `\040`.
fn plain(mut field: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    while let [first, rest @ ..] = field {
        let octal = |b: &u8| (b'0'..=b'7').contains(b).then(|| u32::from(b - b'0'));
        let escaped = match rest {
            [a, b, c, ..] if *first == b'\\' => octal(a).zip(octal(b)).zip(octal(c)),
            _ => None,
        };
        let value = escaped.and_then(|((a, b), c)| u8::try_from(a * 64 + b * 8 + c).ok());
        text.push(value.unwrap_or(*first));
        field = if value.is_some() { &rest[3..] } else { rest };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &[u8]) -> Option<(String, String)> {
        let mounted = parse(line).next()?;
        Some((mounted.point.to_str()?.to_owned(), mounted.kind))
    }

    #[test]
    fn a_mount_is_read_with_its_blanks_and_tags() {
        let line =
            b"36 35 98:0 /mnt1 /srv/my\\040data\\134x rw,noatime master:1 shared:7 - ext3 /dev/root rw";
        assert_eq!(read(line), Some(("/srv/my data\\x".into(), "ext3".into())));
        let line = b"1 2 0:4 / /srv\\04 rw - nfs4 nas:/srv rw,vers=4.2";
        assert_eq!(read(line), Some(("/srv\\04".into(), "nfs4".into())));
        assert_eq!(read(b"36 35"), None);
        assert_eq!(read(b"1 2 3:4 / /srv rw"), None);
    }
}
