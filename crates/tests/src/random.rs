//! Small repeatable randomness (xorshift64*): the same seed, the same test.

/// A generator.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From `WHARF_SEED`, else from the clock; the seed is printed, so that a failure can be repeated.
    pub fn seeded() -> Self {
        let clock = || {
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_nanos() as u64
        };
        let seed = std::env::var("WHARF_SEED")
            .map_or_else(|_| clock(), |s| s.parse().expect("WHARF_SEED is a number"));
        eprintln!("seed: WHARF_SEED={seed}");
        Self(seed.max(1))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.bits() >> 11) % end
    }
}
