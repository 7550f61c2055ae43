//! What the attribute says about wrong requests, and code around it that must compile.
//!
//! One rejected input a file, in `tests/ui/rejected`, with the compiler's words beside it; `TRYBUILD=overwrite` writes
//! them anew, to be read before they are committed. The models are made by this test, because most are not valid.

#[path = "ui/models.rs"]
mod models;

use std::path::Path;
use std::process::Command;

/// The words of rustc differ from version to version; these are the version's that continuous integration runs.
const TOOLCHAIN: &str = "rustc 1.95.";

#[test]
fn ui() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output().expect("rustc runs");
    let version = String::from_utf8_lossy(&version.stdout);
    if !version.starts_with(TOOLCHAIN) {
        eprintln!("skipped: the expected messages are those of {TOOLCHAIN}x, this is {version}");
        return;
    }
    // Cases are built as programs of a package that trybuild makes here, and model paths are relative to a package.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it lies in the target directory");
    models::write(&target.join("tests/trybuild/infer-embed"));

    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/accepted/*.rs");
    cases.compile_fail("tests/ui/rejected/*.rs");
    // Cases are built with the features that this test was built with.
    if !cfg!(feature = "dynamic") {
        cases.compile_fail("tests/ui/without_dynamic/*.rs");
    }
}
