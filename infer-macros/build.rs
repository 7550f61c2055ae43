//! Gives the crate an `OUT_DIR`, from which the attribute finds the target directory and with it the plan cache.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
}
