//! From exec to a relay that is ready: lock, rights given up. What it is besides, [`detach`] does.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use detach::{heap, lock};

use super::server::Server;
use crate::dns::files::{self, Files, Process};
use crate::dns::{sandbox, start};

/// What the relay keeps of free memory.
const HEAP: heap::Limits = heap::Limits {
    trim_threshold: 64 << 10,
    top_pad: 16 << 10,
    mmap_threshold: 128 << 10,
};
/// Descriptors: two for each connection, one for each port and for whoever sends datagrams.
const OPEN_FILES: u64 = 16_384;

/// Where its files are.
pub fn files(run_dir: &Path) -> Files {
    Files::at(run_dir.join("relay"))
}

/// Entry point of `wharf relay`: to be called before anything large is touched or a thread is started. Returns in the
/// process that was called when the relay is ready or has failed to be, and in the relay itself when it leaves.
pub fn main() -> ExitCode {
    heap::keep_small(HEAP);
    let serve = |(_lock, mut server): (File, Server)| {
        let Err(_gone) = server.run();
        ExitCode::FAILURE
    };
    detach::run(set_up, serve).unwrap_or_else(|e| {
        eprintln!("error: cannot begin a relay: {e}");
        ExitCode::FAILURE
    })
}

/// The relay, and the lock it lives by.
fn set_up() -> Result<(File, Server), String> {
    let run_dir = std::env::var_os("WHARF_RUN_DIR")
        .ok_or("WHARF_RUN_DIR is not set: the relay is started by the agent, not by hand")?;
    let files = files(Path::new(&run_dir));
    let told = |what: String| move |e: io::Error| format!("cannot {what}: {e}");
    let lock = lock::take(&files.lock)
        .map_err(told(format!("lock {}", files.lock.display())))?
        .ok_or_else(|| format!("a relay for {} runs already", files.dir.display()))?;
    Process::own()
        .and_then(|process| files::write(&files.process, &process))
        .map_err(told(format!("write {}", files.process.display())))?;
    let control = start::leave_surroundings().map_err(told("let go of its standard streams".to_owned()))?;
    let server = Server::new(control).map_err(told("watch its control socket".to_owned()))?;
    sandbox::enter_with(OPEN_FILES).map_err(told("give up its rights".to_owned()))?;
    Ok((lock, server))
}
