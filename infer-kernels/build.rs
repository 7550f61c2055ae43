//! With the feature `cuda`: where the compiled GPU kernels are, those of `cuda/prebuilt/`, or with `INFER_BUILD_CUDA=1`
//! fresh ones, for all architectures or those of `INFER_CUDA_ARCHITECTURES`, such as `90a` or `80,90a`.

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
    println!("cargo::rerun-if-env-changed=INFER_CUDA_ARCHITECTURES");
    println!("cargo::rerun-if-env-changed=NVCC");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let modules = if std::env::var_os("INFER_BUILD_CUDA").is_some_and(|value| value == "1") {
        let out = std::env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
        let architectures = std::env::var("INFER_CUDA_ARCHITECTURES").unwrap_or_default();
        let architectures: Vec<&str> = architectures.split(',').filter(|name| !name.is_empty()).collect();
        if let Err(error) = compile::modules(&folder.join("kernels"), &out, &architectures) {
            println!("cargo::error=INFER_BUILD_CUDA=1: {error}");
        }
        out
    } else {
        folder.join("prebuilt")
    };
    println!("cargo::rustc-env=INFER_CUDA_MODULES={}", modules.display());
}
