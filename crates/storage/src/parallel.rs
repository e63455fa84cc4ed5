//! Many things, some at a time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Does it for each, at most so many at a time, this thread being one of those who do; what came of them, in their order.
///
/// # Errors
/// The first there was. After it none is begun any more, and those under way are told by the flag.
pub fn each<I: Sync, T: Send, E: Send>(
    items: &[I],
    at_a_time: usize,
    work: impl Fn(&I, &AtomicBool) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let done = Mutex::new((Vec::new(), None));
    let run = || {
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(number) else { return };
            let result = work(item, &stop);
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(made) => done.0.push((number, made)),
                Err(e) => {
                    stop.store(true, Ordering::Relaxed);
                    done.1.get_or_insert(e);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..at_a_time.min(items.len()) {
            scope.spawn(run);
        }
        run();
    });
    match done.into_inner().unwrap_or_else(PoisonError::into_inner) {
        (_, Some(error)) => Err(error),
        (mut made, None) => {
            made.sort_by_key(|(number, _)| *number);
            Ok(made.into_iter().map(|(_, made)| made).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn results_come_in_order_and_as_many_are_at_work_as_may_be() {
        let all = Barrier::new(3);
        let doubled = each(&[1, 2, 3], 3, |n, _| {
            all.wait();
            Ok::<_, ()>(n * 2)
        });
        assert_eq!(doubled, Ok(vec![2, 4, 6]));
        assert_eq!(each(&[0; 0], 3, |_, _| Err::<(), _>(())), Ok(vec![]));
    }

    #[test]
    fn after_an_error_none_is_begun_and_the_others_are_told() {
        let (both, begun) = (Barrier::new(2), AtomicUsize::new(0));
        let result = each(&["fails", "waits", "never", "never"], 2, |what, stop| {
            begun.fetch_add(1, Ordering::Relaxed);
            both.wait();
            if *what == "fails" {
                return Err("first");
            }
            while !stop.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            Err::<(), _>("second")
        });
        assert_eq!(result, Err("first"));
        assert_eq!(begun.into_inner(), 2);
    }
}
