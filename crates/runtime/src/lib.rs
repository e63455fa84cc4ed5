//! Running a container: the OCI bundle, the embedded runtime, the shim, cgroups and logs.

pub mod bundle;
pub mod cgroup;
mod child;
pub mod client;
pub mod contents;
pub mod damage;
pub mod embedded;
pub mod error;
pub mod exec;
mod external;
pub mod init;
mod join;
pub mod launch;
pub mod log;
mod looks;
mod members;
pub mod observe;
pub mod prepare;
mod probe;
pub mod rootfs;
pub mod seccomp;
pub mod shim;
