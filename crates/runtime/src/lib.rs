//! Running a container: the OCI bundle, the embedded runtime, the shim, cgroups and logs.
