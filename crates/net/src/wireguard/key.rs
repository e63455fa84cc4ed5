//! This host's key pair. The private half is in a file that is its owner's alone, made once, and goes from there to the
//! kernel and nowhere else.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use curve25519_dalek::MontgomeryPoint;
use model::wireguard::{KEY, PublicKey, decode, encode};

use crate::error::{NetError, file_error};
use crate::net::lock;

const OWNERS_ALONE: u32 = 0o600;
/// More than a key takes.
const LONGEST: u64 = 256;

/// Where the private key is kept.
#[derive(Default)]
pub(crate) struct KeyFile {
    /// None: nowhere.
    path: Option<PathBuf>,
    /// As it was last read.
    held: Mutex<Option<Arc<Pair>>>,
}

/// Both halves. It has no way to be printed.
pub(crate) struct Pair {
    private: [u8; KEY],
    pub public: PublicKey,
}

impl Pair {
    fn of(private: [u8; KEY]) -> Self {
        let public = MontgomeryPoint::mul_base_clamped(private);
        Self {
            private,
            public: PublicKey::from_bytes(public.to_bytes()),
        }
    }

    fn fresh() -> io::Result<Self> {
        let mut private = [0; KEY];
        // getrandom(2): up to 256 bytes are never cut short once the pool is ready, and it blocks until then.
        rustix::rand::getrandom(&mut private, rustix::rand::GetRandomFlags::empty())?;
        // As `wg genkey` does it (RFC 7748, section 5).
        private[0] &= 248;
        private[KEY - 1] = private[KEY - 1] & 127 | 64;
        Ok(Self::of(private))
    }

    pub fn private(&self) -> &[u8; KEY] {
        &self.private
    }
}

impl KeyFile {
    pub fn new(path: PathBuf) -> Self {
        Self {
            path: Some(path),
            held: Mutex::default(),
        }
    }

    /// That of the file. Where there is none, a new pair is made; a file that somebody took away while its key is in use is
    /// written again.
    pub fn pair(&self) -> Result<Arc<Pair>, NetError> {
        let Some(path) = &self.path else {
            return Err(NetError::invalid(
                "WireGuard",
                "nothing says where this host's key is kept",
            ));
        };
        let mut held = lock(&self.held);
        let pair = match (read(path)?, held.take()) {
            (Some(private), Some(pair)) if pair.private == private => pair,
            (Some(private), _) => Arc::new(Pair::of(private)),
            (None, held) => {
                let pair = match held {
                    Some(pair) => pair,
                    None => Arc::new(Pair::fresh().map_err(file_error("make a key for", path))?),
                };
                write(path, &pair.private).map_err(file_error("write this host's key to", path))?;
                pair
            }
        };
        Ok(Arc::clone(held.insert(pair)))
    }
}

/// None where there is no file.
fn read(path: &Path) -> Result<Option<[u8; KEY]>, NetError> {
    let failed = || file_error("read this host's key from", path);
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed())?,
    };
    let mode = file.metadata().map_err(failed())?.permissions().mode();
    if mode & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(OWNERS_ALONE))
            .map_err(failed())?;
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).map_err(failed())?;
    match decode(text.trim()) {
        Some(private) => Ok(Some(private)),
        None => Err(NetError::invalid(
            path.display().to_string(),
            "there is no private key of WireGuard in it (44 characters of base64); remove it, and a new one is made, \
             whose public half the other hosts are to be told",
        )),
    }
}

/// Whole or not at all, and on disk.
fn write(path: &Path, private: &[u8; KEY]) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    match fs::remove_file(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(OWNERS_ALONE)
        .open(&beside)?;
    file.write_all(format!("{}\n", encode(private)).as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (tempfile::TempDir, KeyFile, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wireguard.key");
        (dir, KeyFile::new(path.clone()), path)
    }

    #[test]
    fn the_public_half_is_that_of_rfc_7748() {
        let private = decode("dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=").unwrap();
        let public = Pair::of(private).public;
        assert_eq!(public.to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
    }

    #[test]
    fn a_key_is_made_once_and_is_its_owners_alone() {
        let (_dir, keys, path) = file();
        let made = keys.pair().unwrap().public;
        assert_eq!(keys.pair().unwrap().public, made);
        assert_eq!(KeyFile::new(path.clone()).pair().unwrap().public, made);
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), OWNERS_ALONE);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_eq!((keys.pair().unwrap().public, mode()), (made, OWNERS_ALONE));
        // What is in use is not lost with its file.
        fs::remove_file(&path).unwrap();
        assert_eq!(keys.pair().unwrap().public, made);
        assert_eq!(KeyFile::new(path).pair().unwrap().public, made);
    }

    #[test]
    fn another_key_in_the_file_is_taken_up_and_nonsense_is_told_without_it() {
        let (_dir, keys, path) = file();
        keys.pair().unwrap();
        fs::write(&path, "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\n").unwrap();
        let taken = keys.pair().unwrap().public.to_string();
        assert_eq!(taken, "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
        fs::write(&path, "almost a secret\n").unwrap();
        let why = keys.pair().err().unwrap().to_string();
        assert!(why.contains("wireguard.key") && !why.contains("secret"), "{why}");
    }
}
