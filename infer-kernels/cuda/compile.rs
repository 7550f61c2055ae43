//! Compiles the GPU kernels: `build.rs` and the test of the prebuilt files share this.

use std::path::Path;
use std::process::Command;

/// The version of nvcc that the prebuilt files are made with. PTX of a later one would not load on driver 580.
pub const NVCC_VERSION: &str = "V13.0.88";

/// The source files, without their extension.
pub const MODULES: &[&str] = &[
    "attention",
    "chain",
    "conv_bf16",
    "conv_bf16_tma",
    "conv_f16",
    "conv_f16_tma",
    "conv_f32",
    "conv_tf32",
    "norm",
    "picture",
    "plain_elements",
    "plain_index",
    "plain_recurrent",
    "plain_rows",
    "plain_windows",
    "retile",
    "rows",
    "stem",
];

/// Architectures that get machine code; the driver compiles the PTX for others.
const ARCHITECTURES: &[&str] = &["80", "86", "89", "90a", "100a", "120a"];

/// The architecture, the only one, of modules that end in `_tma`: no other has both wgmma and the tensor memory accelerator.
const TMA_ARCHITECTURE: &str = "90a";

/// Where the sources lie while they are compiled: PTX names what is local to a file by the file's whole path, and the
/// result is to be the same wherever it is made.
const FOLDER: &str = "/tmp/infer-embed-kernels";

/// Compiles every module of the folder `kernels` into the folder `out`, for these architectures (`90a`) or, where none are named, for
/// all that the prebuilt files have.
pub fn modules(kernels: &Path, out: &Path, architectures: &[&str]) -> Result<(), String> {
    let architectures = if architectures.is_empty() { ARCHITECTURES } else { architectures };
    let nvcc = std::env::var("NVCC").unwrap_or_else(|_| "nvcc".into());
    let run = |command: &mut Command| -> Result<String, String> {
        let output = command.output().map_err(|error| {
            format!(
                "{nvcc} does not start ({error}); put CUDA 13.0's nvcc on the PATH, or its path into NVCC"
            )
        })?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        Err(format!("{nvcc} failed:\n{text}{}", String::from_utf8_lossy(&output.stderr)))
    };
    let version = run(Command::new(&nvcc).arg("--version"))?;
    if !version.contains(NVCC_VERSION) {
        return Err(format!("{nvcc} is not of version {NVCC_VERSION}:\n{version}"));
    }
    let copied = || -> std::io::Result<()> {
        std::fs::create_dir_all(FOLDER)?;
        for entry in std::fs::read_dir(kernels)? {
            let entry = entry?;
            std::fs::copy(entry.path(), Path::new(FOLDER).join(entry.file_name()))?;
        }
        Ok(())
    };
    copied().map_err(|error| format!("the sources cannot be copied to {FOLDER}: {error}"))?;
    for module in MODULES {
        let mut command = Command::new(&nvcc);
        command.current_dir(FOLDER).args([
            "-O3",
            "-std=c++17",
            "--fatbin",
            "--compress-mode=size",
            "--threads=0",
        ]);
        let copies = module.ends_with("_tma");
        for architecture in if copies { &[TMA_ARCHITECTURE] } else { architectures } {
            command.arg(format!("-gencode=arch=compute_{architecture},code=sm_{architecture}"));
        }
        if !copies {
            command.arg("-gencode=arch=compute_80,code=compute_80");
        }
        command.arg("-o").arg(out.join(format!("{module}.fatbin"))).arg(format!("{module}.cu"));
        run(&mut command)?;
    }
    Ok(())
}
