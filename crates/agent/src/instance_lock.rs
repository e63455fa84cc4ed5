//! One owner: the locks on the state and the run dir.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use model::paths::Roots;
use rustix::fs::{FlockOperation, flock};

/// Of 20 ms each.
const PATIENCE_TRIES: u32 = 250;

/// Held as long as the agent lives; the kernel drops it with the process.
#[derive(Debug)]
pub struct InstanceLock {
    _state: File,
    _run: File,
}

/// Makes both directories where they are missing and locks them; a second agent is told who holds them.
pub fn take(roots: &Roots) -> anyhow::Result<InstanceLock> {
    make(&roots.state, 0o710)?;
    make(&roots.run, 0o755)?;
    Ok(InstanceLock {
        _state: lock(&roots.state)?,
        _run: lock(&roots.run)?,
    })
}

fn make(dir: &Path, mode: u32) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .with_context(|| format!("cannot make the directory {}", dir.display()))
}

fn lock(dir: &Path) -> anyhow::Result<File> {
    let path = dir.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open the lock {}", path.display()))?;
    if !free_within_patience(&mut file) {
        let mut holder = String::new();
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.read_to_string(&mut holder))
            .with_context(|| format!("cannot read the lock {}", path.display()))?;
        bail!(
            "another agent (pid {}) owns {}; stop it first, or give this one directories of its own with --state-dir and --run-dir",
            holder.trim(),
            dir.display()
        );
    }
    file.set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| write!(file, "{}", std::process::id()))
        .with_context(|| format!("cannot write the lock {}", path.display()))?;
    Ok(file)
}

/// Takes the lock. A killed agent's may live on for a moment in a child it had forked and that was not yet another
/// program; that is waited for, a holder that is alive is not.
fn free_within_patience(file: &mut File) -> bool {
    for _ in 0..PATIENCE_TRIES {
        if flock(&*file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return true;
        }
        let mut holder = String::new();
        let read = file
            .seek(SeekFrom::Start(0))
            .and_then(|_| file.read_to_string(&mut holder));
        if read.is_ok() && Path::new("/proc").join(holder.trim()).exists() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Makes the run dir this boot's: what another boot left there is dropped before anybody believes it.
pub fn settle_boot(roots: &Roots) -> anyhow::Result<()> {
    let now =
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read this boot's id")?;
    let path = roots.run.join("boot_id");
    let before = std::fs::read_to_string(&path).ok();
    if before.as_deref() != Some(now.as_str()) {
        for stale in ["containers", "contents", "delivered"].map(|name| roots.run.join(name)) {
            match std::fs::remove_dir_all(&stale) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    let doing = || format!("cannot drop {} of an earlier boot", stale.display());
                    return Err(e).with_context(doing);
                }
                _ => {}
            }
        }
        std::fs::write(&path, now).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_told_who_holds_the_directories() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots {
            state: dir.path().join("state"),
            run: dir.path().join("run"),
        };
        let first = take(&roots).unwrap();
        let refused = take(&roots).unwrap_err().to_string();
        assert!(
            refused.contains(&format!("pid {}", std::process::id())),
            "{refused}"
        );
        drop(first);
        take(&roots).unwrap();
    }

    #[test]
    fn what_another_boot_left_in_the_run_dir_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots {
            state: dir.path().join("state"),
            run: dir.path().join("run"),
        };
        let left = roots.run.join("containers/x");
        std::fs::create_dir_all(&left).unwrap();
        std::fs::write(roots.run.join("boot_id"), "another").unwrap();
        settle_boot(&roots).unwrap();
        assert!(!left.exists());
        std::fs::create_dir_all(&left).unwrap();
        settle_boot(&roots).unwrap();
        assert!(left.exists(), "this boot's own is kept");
    }
}
