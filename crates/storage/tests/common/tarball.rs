//! Writes tar archives field by field, so that anything can be said in them.

/// One member as it is to be spelled.
#[derive(Clone, Debug)]
pub struct Member {
    pub path: Vec<u8>,
    pub flag: u8,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: u64,
    pub link: Vec<u8>,
    pub device: (u32, u32),
    pub pax: Vec<(Vec<u8>, Vec<u8>)>,
    pub content: Vec<u8>,
    /// How what does not fit its field, or need not be in it, is written.
    pub spelling: Spelling,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// Pax records for what does not fit.
    Pax,
    /// Pax records for everything, nonsense in the header.
    PaxOnly,
    /// GNU long names and base-256 numbers.
    Gnu,
    /// The ustar prefix where a name is long, pax where that does not do.
    Ustar,
}

impl Member {
    pub fn new(flag: u8, path: impl AsRef<[u8]>) -> Self {
        Self {
            path: path.as_ref().to_vec(),
            flag,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 1_600_000_000,
            link: Vec::new(),
            device: (0, 0),
            pax: Vec::new(),
            content: Vec::new(),
            spelling: Spelling::Pax,
        }
    }

    pub fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        Self {
            content: content.as_ref().to_vec(),
            ..Self::new(b'0', path)
        }
    }

    pub fn dir(path: impl AsRef<[u8]>) -> Self {
        Self {
            mode: 0o755,
            ..Self::new(b'5', path)
        }
    }

    pub fn symlink(path: impl AsRef<[u8]>, link: impl AsRef<[u8]>) -> Self {
        Self {
            link: link.as_ref().to_vec(),
            mode: 0o777,
            ..Self::new(b'2', path)
        }
    }

    pub fn hardlink(path: impl AsRef<[u8]>, link: impl AsRef<[u8]>) -> Self {
        Self {
            link: link.as_ref().to_vec(),
            ..Self::new(b'1', path)
        }
    }

    pub fn fifo(path: impl AsRef<[u8]>) -> Self {
        Self::new(b'6', path)
    }

    pub fn character(path: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        Self {
            device: (major, minor),
            ..Self::new(b'3', path)
        }
    }

    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    pub fn owner(self, uid: u64, gid: u64) -> Self {
        Self { uid, gid, ..self }
    }

    pub fn spelled(self, spelling: Spelling) -> Self {
        Self { spelling, ..self }
    }

    pub fn pax(mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    pub fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(format!("SCHILY.xattr.{name}"), value)
    }
}

/// An archive being written.
#[derive(Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    pub fn of(members: impl IntoIterator<Item = Member>) -> Vec<u8> {
        let mut tar = Self::default();
        for member in members {
            tar.push(&member);
        }
        tar.end()
    }

    pub fn push(&mut self, member: &Member) {
        let mut pax = member.pax.clone();
        let (name, prefix) = self.name(member, &mut pax);
        let link = self.link(member, &mut pax);
        let gnu = member.spelling == Spelling::Gnu;
        if !gnu {
            self.numbers(member, &mut pax);
        }
        if !pax.is_empty() {
            let records: Vec<u8> = pax.iter().flat_map(|(k, v)| record(k, v)).collect();
            self.raw(
                b'x',
                b"PaxHeaders/x",
                b"",
                b"",
                &Member::new(b'x', ""),
                &records,
                false,
            );
        }
        let nonsense = member.spelling == Spelling::PaxOnly;
        let plain = Member {
            uid: 77,
            gid: 77,
            mtime: 1,
            ..member.clone()
        };
        let member_shown = if nonsense { &plain } else { member };
        self.raw(
            member.flag,
            &name,
            &prefix,
            &link,
            member_shown,
            &member.content,
            gnu,
        );
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }

    pub fn bytes(self) -> Vec<u8> {
        self.0
    }

    fn name(&mut self, member: &Member, pax: &mut Vec<(Vec<u8>, Vec<u8>)>) -> (Vec<u8>, Vec<u8>) {
        let path = &member.path;
        match member.spelling {
            Spelling::PaxOnly => {
                pax.push((b"path".to_vec(), path.clone()));
                (b"../../nonsense".to_vec(), Vec::new())
            }
            _ if path.len() <= 100 => (path.clone(), Vec::new()),
            Spelling::Gnu => {
                let long = [path, &b"\0"[..]].concat();
                self.raw(
                    b'L',
                    b"././@LongLink",
                    b"",
                    b"",
                    &Member::new(b'L', ""),
                    &long,
                    true,
                );
                (path[..100].to_vec(), Vec::new())
            }
            Spelling::Ustar if split(path).is_some() => split(path).unwrap(),
            _ => {
                pax.push((b"path".to_vec(), path.clone()));
                (path[..100].to_vec(), Vec::new())
            }
        }
    }

    fn link(&mut self, member: &Member, pax: &mut Vec<(Vec<u8>, Vec<u8>)>) -> Vec<u8> {
        let link = &member.link;
        match member.spelling {
            Spelling::PaxOnly if !link.is_empty() => {
                pax.push((b"linkpath".to_vec(), link.clone()));
                b"/nonsense".to_vec()
            }
            _ if link.len() <= 100 => link.clone(),
            Spelling::Gnu => {
                let long = [link, &b"\0"[..]].concat();
                self.raw(
                    b'K',
                    b"././@LongLink",
                    b"",
                    b"",
                    &Member::new(b'K', ""),
                    &long,
                    true,
                );
                link[..100].to_vec()
            }
            _ => {
                pax.push((b"linkpath".to_vec(), link.clone()));
                link[..100].to_vec()
            }
        }
    }

    fn numbers(&self, member: &Member, pax: &mut Vec<(Vec<u8>, Vec<u8>)>) {
        let all = member.spelling == Spelling::PaxOnly;
        let numbers = [
            ("uid", member.uid, 0o777_7777),
            ("gid", member.gid, 0o777_7777),
            ("mtime", member.mtime, 0o777_7777_7777),
        ];
        for (key, value, most) in numbers {
            let said = pax.iter().any(|(k, _)| k == key.as_bytes());
            if (all || value > most) && !said {
                pax.push((key.as_bytes().to_vec(), value.to_string().into_bytes()));
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a header has this many fields")]
    fn raw(&mut self, flag: u8, name: &[u8], prefix: &[u8], link: &[u8], m: &Member, data: &[u8], gnu: bool) {
        let mut block = [0; 512];
        put(&mut block[..100], name);
        number(&mut block[100..108], m.mode.into(), gnu);
        number(&mut block[108..116], m.uid, gnu);
        number(&mut block[116..124], m.gid, gnu);
        number(&mut block[124..136], data.len() as u64, gnu);
        number(&mut block[136..148], m.mtime, gnu);
        block[156] = flag;
        put(&mut block[157..257], link);
        put(
            &mut block[257..265],
            if gnu { b"ustar  \0" } else { b"ustar\x0000" },
        );
        number(&mut block[329..337], m.device.0.into(), gnu);
        number(&mut block[337..345], m.device.1.into(), gnu);
        put(&mut block[345..500], prefix);
        seal(&mut block);
        self.0.extend(block);
        self.0.extend(data);
        self.0.extend(vec![0; data.len().wrapping_neg() % 512]);
    }

    /// Bytes as they are, for what no writer would write.
    pub fn verbatim(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }
}

/// Sets a header's checksum.
pub fn seal(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn put(field: &mut [u8], value: &[u8]) {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
}

fn number(field: &mut [u8], value: u64, gnu: bool) {
    let digits = field.len() - 1;
    let most = (1_u64 << (3 * digits)) - 1;
    if value <= most {
        put(field, format!("{value:0digits$o}").as_bytes());
    } else if gnu {
        let bytes = value.to_be_bytes();
        let start = field.len().saturating_sub(8);
        let skip = 8_usize.saturating_sub(field.len());
        field[start..].copy_from_slice(&bytes[skip..]);
        field[0] |= 0x80;
    } else {
        put(field, format!("{most:0digits$o}").as_bytes());
    }
}

fn split(path: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let at =
        (0..path.len()).find(|i| path[*i] == b'/' && *i <= 155 && *i > 0 && path.len() - i - 1 <= 100)?;
    (at + 1 < path.len()).then(|| (path[at + 1..].to_vec(), path[..at].to_vec()))
}

pub fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = [b" ", key, b"=", value, b"\n"].concat();
    let mut length = body.len();
    while length != body.len() + length.to_string().len() {
        length = body.len() + length.to_string().len();
    }
    [length.to_string().as_bytes(), &body].concat()
}
