//! Lowering `memory.max` on v2. The kernel kills where it cannot take enough back; v1's refuses, which is what a change
//! on a running container is to do.

use std::fs;
use std::path::Path;

use super::{LimitError, Setting};

/// Takes back what can be taken, and refuses the limit where that is not enough.
pub(super) fn make(setting: &Setting) -> Result<(), LimitError> {
    let file = &setting.file;
    let wanted = file
        .ends_with("memory.max")
        .then(|| setting.value.parse::<u64>().ok());
    let Some(wanted) = wanted.flatten() else {
        return Ok(());
    };
    let over = || number(&file.with_file_name("memory.current")).saturating_sub(wanted);
    // Before a run there is nobody to be killed.
    let events = fs::read_to_string(file.with_file_name("cgroup.events"));
    let empty = events.is_ok_and(|text| text.lines().any(|line| line == "populated 0"));
    if over() == 0 || empty {
        return Ok(());
    }
    // Refused where less could be taken; how much is left is what counts. Linux before 5.19 does not have it.
    let _ = fs::write(file.with_file_name("memory.reclaim"), over().to_string());
    if over() == 0 {
        return Ok(());
    }
    Err(LimitError::InUse {
        limit: setting.limit,
        value: setting.value.clone(),
    })
}

/// 0 where the kernel does not say.
fn number(file: &Path) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}
