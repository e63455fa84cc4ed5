//! The pure part of the loop: files to desired state, allocation, and the plan with its reasons.
//!
//! No I/O, no clock, no randomness: `now` and new ids are handed in, so every decision can be replayed by a test.

pub mod allocate;
pub mod diff;
pub mod plan;
pub mod resolve;
pub mod status;
