//! Where the `wharf` under test is.

use std::path::PathBuf;

/// `WHARF_BIN`, or the binary of the same build beside the test's own: `target/{debug,release}/wharf`.
pub fn wharf() -> PathBuf {
    if let Some(path) = std::env::var_os("WHARF_BIN") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "WHARF_BIN={} is no file", path.display());
        return path;
    }
    let me = std::env::current_exe().unwrap();
    let found = me
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("wharf"))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "no `wharf` binary beside {}: run `cargo build -p agent` first, or set WHARF_BIN",
            me.display()
        )
    })
}

/// The checkout.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}
