//! Many seeds at once, on all cores.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use reconciler::plan::Mutation;

use super::{Outcome, run};

/// After so many failures others say nothing new.
const ENOUGH: usize = 20;

/// What became of them.
pub struct Lived {
    pub sum: Outcome,
    pub seeds: u64,
    /// The whole text of each failure, by seed.
    pub failed: BTreeMap<u64, String>,
    pub seconds: f64,
}

/// Lives all of them through, and goes on after one that fails. Prints failures as they come, and how far it is.
pub fn live(range: Range<u64>) -> Lived {
    let begun = Instant::now();
    let (next, lived, enough) = (
        AtomicU64::new(range.start),
        AtomicU64::new(0),
        AtomicBool::new(false),
    );
    let (sum, failed) = (Mutex::new(Outcome::default()), Mutex::new(BTreeMap::new()));
    let every = ((range.end - range.start) / 50).clamp(1_000, 10_000);
    let worker = || {
        while !enough.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= range.end {
                break;
            }
            match survives(seed, None) {
                Ok(outcome) => sum.lock().unwrap().add(outcome),
                Err(error) => {
                    println!("seed {seed} fails: {}", first_line(&error));
                    let mut failed = failed.lock().unwrap();
                    failed.insert(seed, error);
                    enough.store(failed.len() >= ENOUGH, Ordering::Relaxed);
                }
            }
            let lived = lived.fetch_add(1, Ordering::Relaxed) + 1;
            if lived.is_multiple_of(every) {
                let rate = lived as f64 / begun.elapsed().as_secs_f64();
                let failed = failed.lock().unwrap().len();
                println!("{lived} seeds, {rate:.0} a second, {failed} failed");
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(worker);
        }
    });
    Lived {
        sum: sum.into_inner().unwrap(),
        seeds: lived.into_inner(),
        failed: failed.into_inner().unwrap(),
        seconds: begun.elapsed().as_secs_f64(),
    }
}

/// A planner that panics has failed as well.
pub fn survives(seed: u64, mutation: Option<Mutation>) -> Result<Outcome, String> {
    let lived = catch_unwind(AssertUnwindSafe(|| run(seed, mutation)));
    lived.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panics: {}", text.unwrap_or("without a word")))
    })
}

pub fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
