//! A small heap, for processes of which there are many or which live long.

pub use crate::sys::trim_heap as trim;

/// What glibc's allocator keeps, in bytes (mallopt(3)). Other C libraries have no such switches.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// So many threads have free memory to themselves; the others share it, and wait for each other: M_ARENA_MAX.
    pub arenas: i32,
    /// So much that is free at the end of the heap goes back to the kernel: M_TRIM_THRESHOLD.
    pub trim_threshold: i32,
    /// So much more than is needed is asked of the kernel: M_TOP_PAD.
    pub top_pad: i32,
    /// What is larger is mapped on its own: M_MMAP_THRESHOLD.
    pub mmap_threshold: i32,
}

/// Keeps the heap small from now on: to be called while there is one thread.
pub fn keep_small(limits: Limits) {
    crate::sys::limit_heap(limits);
}
