//! Links `wharf` at a fixed address: docs/decisions/030-fixed-address.md.

fn main() {
    println!("cargo:rustc-link-arg-bins=-no-pie");
    println!("cargo:rerun-if-changed=build.rs");
}
