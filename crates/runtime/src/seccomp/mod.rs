//! seccomp: which system calls a container may make.
//!
//! [`profile`] has Docker's default as a table, and reads profiles users bring; both give the OCI form that stands in
//! `config.json`, so that every runtime applies the same. [`compile`] turns that form into a BPF program.

mod compile;
mod numbers;
mod profile;

pub use compile::{CompileError, Program, compile};
pub use profile::{ProfileError, default_profile, kernel_version, read_profile};
