//! A simulated host: a seeded world in which files change, actions fail, looks fail and the agent dies.

#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]

mod checks;
mod files;
pub mod host;
mod laws;
mod probes;
mod rng;
mod world;

pub use world::{Outcome, note, run};
