//! What nobody named is picked, and kept: addresses, subnets, host ports, device names.
//!
//! Each is a pure function of what is taken already, so that the same state gives the same pick.

pub mod address;
pub mod address6;
pub mod device;
pub mod port;
pub mod subnet;

#[cfg(test)]
mod tests;
