//! Several things at the same time: what a test does is mostly waiting.

use std::panic::resume_unwind;

/// Does it for each of them on a thread of its own; what came out, in their order. One that panics has this panic.
pub fn at_once<I: Send, T: Send>(each: impl IntoIterator<Item = I>, work: impl Fn(I) -> T + Sync) -> Vec<T> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = each
            .into_iter()
            .map(|one| scope.spawn(move || work(one)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}
