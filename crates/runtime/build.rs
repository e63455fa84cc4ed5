//! Links this crate's programs at fixed addresses, as the product's binary is to be: in a position-independent one every
//! process relocates, and so owns, half a megabyte of pointers that shims would otherwise share.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-no-pie");
}
