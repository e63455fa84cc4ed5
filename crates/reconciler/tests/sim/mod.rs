//! A simulated host: a seeded world in which files change, actions fail, looks fail and the agent dies.

#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]

mod checks;
pub mod contents;
mod damage;
pub mod digest;
mod files;
mod foreign;
pub mod host;
mod laws;
mod links;
mod probes;
mod replicas;
mod rng;
mod rollout;
pub mod schedule;
pub mod seeds;
mod world;

pub use files::image_source;
pub use world::{KINDS, Outcome, note, run, tell};
