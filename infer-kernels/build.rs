//! With the feature `cuda`: where the compiled GPU kernels are, those of `cuda/prebuilt/`, or with `INFER_BUILD_CUDA=1`
//! fresh ones.

use std::path::{Path, PathBuf};

#[path = "cuda/compile.rs"]
mod compile;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=cuda");
    println!("cargo::rerun-if-env-changed=INFER_BUILD_CUDA");
    println!("cargo::rerun-if-env-changed=NVCC");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let modules = if std::env::var_os("INFER_BUILD_CUDA").is_some_and(|value| value == "1") {
        let out = std::env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
        if let Err(error) = compile::modules(&folder.join("kernels"), &out) {
            println!("cargo::error=INFER_BUILD_CUDA=1: {error}");
        }
        out
    } else {
        folder.join("prebuilt")
    };
    println!("cargo::rustc-env=INFER_CUDA_MODULES={}", modules.display());
}
