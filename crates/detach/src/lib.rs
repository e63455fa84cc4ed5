//! Processes that outlive whoever started them: a container's shim, the name server, the holder of the scope.
//!
//! Whoever starts one makes a [`command`], which hands on nothing of its own, and [`start`]s it: that returns when the
//! process is ready, or says why it is not. The process itself does all it does within [`run`]: it is nobody's child
//! by then. It lives by a [`lock`], which the kernel lets go of however it ends, and is told from a later process with
//! the same pid by when it [began](process::start_time).
//!
//! A leaf: it knows no noun of the product, and what it is built with is small, because a shim is there once for each
//! container.

mod daemon;
pub mod heap;
pub mod lock;
pub mod process;
mod spawn;
mod sys;

pub use daemon::{leave_surroundings, run};
pub use spawn::{StartError, command, start};
pub use sys::close_inherited;
