//! Tells the compiler what it is: the plan cache must never serve a plan that other sources made.

use std::fs;
use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    let mut hash = Fnv::default();
    // Beside this crate in the repository; from a registry the versions, which are pinned to each other, say as much.
    for folder in ["src", "../infer-kernels/src"] {
        if Path::new(folder).is_dir() {
            println!("cargo:rerun-if-changed={folder}");
            hash_folder(Path::new(folder), &mut hash)?;
        }
    }
    println!("cargo:rustc-env=INFER_CORE_SOURCES={:016x}", hash.0);
    println!("cargo:rustc-env=INFER_CORE_OPT_LEVEL={}", std::env::var("OPT_LEVEL").unwrap_or_default());
    Ok(())
}

fn hash_folder(folder: &Path, hash: &mut Fnv) -> io::Result<()> {
    let mut entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            hash_folder(&path, hash)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            hash.write(path.as_os_str().as_encoded_bytes());
            hash.write(&fs::read(&path)?);
        }
    }
    Ok(())
}

/// FNV-1a: the same on every machine and with every compiler.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&[0]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
