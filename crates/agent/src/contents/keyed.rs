//! Fingerprints of bytes: SHA-256, and for secrets HMAC-SHA256 (RFC 2104) with a key that nobody else has.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::Path;

use ring::hmac;
use sha2::{Digest, Sha256};

use crate::whole_file::{self, Outlives};

/// The key of one agent, of this boot.
pub struct Key {
    hmac: hmac::Key,
    /// Told with each fingerprint: those of different keys say nothing about each other.
    name: String,
}

impl Key {
    /// The key kept at `path`; a new one where there is none, or not a whole one.
    pub fn settle(path: &Path) -> io::Result<Self> {
        let mut bytes = [0; 32];
        if let Ok(mut file) = std::fs::File::open(path)
            && file.read_exact(&mut bytes).is_ok()
        {
            return Ok(Self::new(bytes));
        }
        // getrandom(2): up to 256 bytes are never cut short.
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        whole_file::write(path, &bytes, Outlives::Agent)?;
        Ok(Self::new(bytes))
    }

    fn new(bytes: [u8; 32]) -> Self {
        Self {
            name: hex(&Sha256::digest(bytes)[..4]),
            hmac: hmac::Key::new(hmac::HMAC_SHA256, &bytes),
        }
    }

    /// `KEY:HASH`, as [`model::content::differ`] reads it.
    pub fn fingerprint(&self, bytes: &[u8]) -> String {
        let tag = hmac::sign(&self.hmac, bytes);
        format!("{}:{}", self.name, hex(tag.as_ref()))
    }
}

/// `sha256:HASH`.
pub fn plain(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keyed_hash_is_the_standards() {
        // RFC 4231, test case 1, whose key of 20 bytes is padded with zeroes to any length up to a block.
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        let fingerprint = Key::new(key).fingerprint(b"Hi There");
        let (_, hash) = fingerprint.split_once(':').unwrap();
        assert_eq!(
            hash,
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
    }

    #[test]
    fn a_key_is_kept_and_a_damaged_one_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contents.key");
        let first = Key::settle(&path).unwrap().fingerprint(b"x");
        assert_eq!(Key::settle(&path).unwrap().fingerprint(b"x"), first);
        assert_ne!(Key::settle(&path).unwrap().fingerprint(b"y"), first);
        std::fs::write(&path, b"short").unwrap();
        let other = Key::settle(&path).unwrap().fingerprint(b"x");
        assert_ne!(other, first);
        assert!(
            !model::content::differ(&first, &other),
            "nothing is known of them"
        );
    }
}
