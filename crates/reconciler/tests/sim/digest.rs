//! A number that two runs share where the simulated world did the same in both: so that a change of how something is
//! computed can be told from a change of what is decided. Made where `WHARF_SIM_DIGEST` is set, as it takes its time.

use std::fmt::{self, Debug, Write};
use std::sync::LazyLock;

static ASKED_FOR: LazyLock<bool> = LazyLock::new(|| std::env::var_os("WHARF_SIM_DIGEST").is_some());

/// FNV-1a over the text of everything that is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(u64);

impl Digest {
    /// None where nobody asks for it.
    pub fn begin() -> Option<Self> {
        ASKED_FOR.then_some(Self(0xcbf2_9ce4_8422_2325))
    }

    pub fn note(&mut self, what: &dyn Debug) {
        write!(self, "{what:?}").expect("a digest takes every text");
    }

    /// Of two lives, whichever came first.
    pub fn and(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }
}

impl Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}
