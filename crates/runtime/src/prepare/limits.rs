//! Limits that this host cannot enforce or give, found before anything is stopped for the sake of the new container.

use model::action::Instance;
use model::spec::Limits;
use oci_spec::runtime::{PosixRlimit, Spec};

use super::PrepareError;
use crate::bundle::Host;
use crate::cgroup::{self, Hierarchies};
use crate::embedded::beyond_ours;

/// Whether each of `limits` can be enforced on a control group below this parent.
pub fn limits(instance: &Instance, cgroup_parent: &str) -> Result<(), PrepareError> {
    let limits = &instance.spec.limits;
    if *limits == Limits::default() {
        return Ok(());
    }
    let refused = |why: &dyn std::fmt::Display| PrepareError::refused(instance, why.to_string());
    let hierarchies = Hierarchies::detect().map_err(|e| refused(&e))?;
    cgroup::limits::check(&hierarchies, cgroup_parent, limits).map_err(|e| refused(&e))
}

/// Whether each of `ulimits` is within what wharf may pass on.
pub fn ulimits(instance: &Instance, host: &Host, spec: &Spec) -> Result<(), PrepareError> {
    if host.capabilities.contains("SYS_RESOURCE") {
        return Ok(());
    }
    let limits = spec.process().as_ref().and_then(|p| p.rlimits().as_deref());
    let beyond = |limit: &PosixRlimit| beyond_ours(limit);
    match limits.unwrap_or_default().iter().find_map(beyond) {
        Some(why) => Err(PrepareError::refused(instance, why)),
        None => Ok(()),
    }
}
