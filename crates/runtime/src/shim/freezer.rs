//! Keeping a group's processes from running: v1's freezer (cgroup-v1/freezer-subsystem.rst), v2's cgroup.freeze.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cgroup::CgroupSet;

/// A process in the middle of what cannot be interrupted stops only then; longer than this nobody is kept waiting.
const PATIENCE: Duration = Duration::from_secs(2);

/// Stops all processes of a group, and those to come; on failure they run on.
pub fn freeze(group: &CgroupSet) -> io::Result<()> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        // v1 wants it said again where a fork came in between.
        let (file, frozen) = set(group, true)?;
        if frozen {
            return Ok(());
        }
        if Instant::now() > give_up {
            let _ = set(group, false);
            let what = format!("{file} says that some process does not stop");
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Lets them go on.
pub fn thaw(group: &CgroupSet) -> io::Result<()> {
    set(group, false).map(drop)
}

/// Which file was asked, and whether it is so already.
fn set(group: &CgroupSet, frozen: bool) -> io::Result<(String, bool)> {
    let dirs = group.dirs();
    if let Some(file) = dirs
        .iter()
        .map(|dir| dir.join("freezer.state"))
        .find(|f| f.exists())
    {
        let wanted = if frozen { "FROZEN" } else { "THAWED" };
        fs::write(&file, wanted)?;
        let is = fs::read_to_string(&file)?;
        return Ok((shown(&file), is.trim() == wanted));
    }
    let Some(dir) = dirs.iter().find(|dir| dir.join("cgroup.freeze").exists()) else {
        let text = "this host has no freezer: mount cgroup v2, or v1's freezer";
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    };
    fs::write(dir.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
    let events = dir.join("cgroup.events");
    let wanted = format!("frozen {}", u8::from(frozen));
    let is = fs::read_to_string(&events)?.lines().any(|line| line == wanted);
    Ok((shown(&events), is))
}

fn shown(file: &Path) -> String {
    file.display().to_string()
}
