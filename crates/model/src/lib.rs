//! The nouns of wharf: names, the file format, desired and observed state, actions.
//!
//! Everything else speaks in these types. No I/O, no async runtime, no kernel, no clock: `now` is always handed in.

pub mod action;
pub mod calendar;
pub mod cluster;
pub mod content;
pub mod damage;
pub mod desired;
pub mod diagnostic;
pub mod digest;
pub mod dns;
pub mod event;
pub mod families;
pub mod file;
pub mod firewall;
pub mod health;
pub mod image;
pub mod ledger;
pub mod links;
pub mod mounts;
pub mod name;
pub mod network;
pub mod nfs;
pub mod observed;
pub mod paths;
pub mod plan;
pub mod replica;
pub mod restart;
pub mod shared;
pub mod spec;
pub mod status;
pub mod surroundings;
pub mod timetable;
pub mod units;
pub mod wireguard;
