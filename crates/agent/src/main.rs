//! wharf, the host agent: the daemon, its API and its command line.
fn main() {}
