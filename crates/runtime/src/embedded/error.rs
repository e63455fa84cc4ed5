//! Telling what was being done when it failed.

use std::fmt::Display;

use crate::launch::LaunchError;

/// Adds what was being done.
pub trait Doing<T> {
    /// `mounting /proc: Operation not permitted`.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, LaunchError>;
}

impl<T, E: Display> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, LaunchError> {
        self.map_err(|error| LaunchError::Setup(format!("{}: {error}", what())))
    }
}
