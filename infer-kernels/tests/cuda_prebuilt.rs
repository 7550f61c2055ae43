//! The prebuilt GPU kernels are those of the sources: `cuda/prebuilt/manifest.txt` has the hashes of both.
//!
//! `INFER_BLESS=1` compiles them afresh (nvcc on the PATH or in NVCC) and writes the manifest; `INFER_REBUILD_CUDA=1` compiles
//! them afresh and compares.

use std::fmt::Write as _;
use std::path::Path;

use sha2::{Digest, Sha256};

#[path = "../cuda/compile.rs"]
mod compile;

/// A line with the hash of each file of `folders` below `root`.
fn manifest(root: &Path) -> String {
    let mut text = format!("nvcc {}\n", compile::NVCC_VERSION);
    let mut files = vec!["compile.rs".to_owned()];
    for folder in ["kernels", "prebuilt"] {
        let names = std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| format!("{folder}/{}", name.into_string().unwrap()));
        let mut names: Vec<String> = names.filter(|name| !name.ends_with("manifest.txt")).collect();
        names.sort();
        files.extend(names);
    }
    for file in files {
        let hash: [u8; 32] = Sha256::digest(std::fs::read(root.join(&file)).unwrap()).into();
        let hex = hash.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        writeln!(text, "{hex} {file}").unwrap();
    }
    text
}

#[test]
fn prebuilt_kernels_are_what_the_sources_compile_to() {
    if std::env::var_os("INFER_REBUILD_CUDA").is_none_or(|value| value != "1") {
        println!("skipped: INFER_REBUILD_CUDA=1 asks for it");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let fresh = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda");
    std::fs::create_dir_all(&fresh).unwrap();
    compile::modules(&root.join("kernels"), &fresh, &[]).unwrap();
    let same = |module: &&&str| {
        let name = format!("{module}.fatbin");
        std::fs::read(fresh.join(&name)).unwrap() == std::fs::read(root.join("prebuilt").join(&name)).unwrap()
    };
    let others: Vec<_> = compile::MODULES.iter().filter(|module| !same(module)).collect();
    assert!(others.is_empty(), "{others:?} are not what their sources compile to");
}

#[test]
fn prebuilt_kernels_are_those_of_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let path = root.join("prebuilt/manifest.txt");
    if std::env::var_os("INFER_BLESS").is_some_and(|value| value == "1") {
        compile::modules(&root.join("kernels"), &root.join("prebuilt"), &[]).unwrap();
        std::fs::write(&path, manifest(&root)).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    let found = manifest(&root);
    assert_eq!(
        written, found,
        "the kernels' sources and what was compiled from them disagree; compile them again: \
         INFER_BLESS=1 cargo test -p infer-kernels --test cuda_prebuilt"
    );
}
