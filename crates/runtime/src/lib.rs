//! Running a container: the OCI bundle, the embedded runtime, the shim, cgroups and logs.

pub mod bundle;
pub mod cgroup;
pub mod client;
pub mod embedded;
pub mod error;
mod external;
pub mod launch;
pub mod log;
pub mod observe;
pub mod prepare;
pub mod seccomp;
pub mod shim;
