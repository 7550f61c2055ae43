//! Compiles models from a build script, as the attribute does while the program compiles.
//!
//! For models of gigabytes, or of names that only a build script knows. In `build.rs`, with infer-embed and its feature
//! `build` among the build dependencies:
//!
//! ```no_run
//! // The body of `fn main() -> Result<(), infer_embed::build::Error>`.
//! infer_embed::build::Config::new("Digits", "models/digits.onnx").dim("batch", 1).compile()?;
//! # Ok::<(), infer_embed::build::Error>(())
//! ```
//!
//! and in the program `include!(concat!(env!("OUT_DIR"), "/digits.rs"));`.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use infer_core::cache::Cache;
use infer_core::codegen::{self, Embed, Request};
use infer_core::diagnostic::Diagnostic;
use infer_core::options::{Backends, Options, Precision};
use proc_macro2::{Ident, Span};
use quote::quote;

/// Compiles the model at `path`, relative to the folder of `Cargo.toml`, with the defaults.
///
/// # Errors
///
/// Those of [`Config::compile`].
pub fn compile(name: &str, path: impl Into<PathBuf>) -> Result<PathBuf, Error> {
    Config::new(name, path).compile()
}

/// What to compile, and how: the arguments of the attribute.
#[derive(Clone, Debug)]
pub struct Config {
    name: String,
    path: PathBuf,
    precision: String,
    dims: Vec<(String, u64)>,
    embed: Embed,
    tactics: Option<PathBuf>,
    strict: bool,
    winograd: bool,
    backend: String,
}

impl Config {
    /// The struct `name` from the model at `path`, relative to the folder of `Cargo.toml`.
    pub fn new(name: &str, path: impl Into<PathBuf>) -> Self {
        Config {
            name: name.to_owned(),
            path: path.into(),
            precision: Precision::default().name().to_owned(),
            dims: Vec::new(),
            embed: Embed::default(),
            tactics: None,
            strict: false,
            winograd: true,
            backend: Backends::BUILT.name().to_owned(),
        }
    }

    /// How weights are stored, and what GPUs compute in: `"fp32"`, `"fp16"`, `"tf32"` or `"bf16"`.
    #[must_use]
    pub fn precision(mut self, precision: &str) -> Self {
        precision.clone_into(&mut self.precision);
        self
    }

    /// The extent of the symbolic dimension `symbol`.
    #[must_use]
    pub fn dim(mut self, symbol: &str, extent: u64) -> Self {
        self.dims.push((symbol.to_owned(), extent));
        self
    }

    /// Embeds the compiled model by `include_bytes!`, for programs that forbid unsafe code.
    #[must_use]
    pub fn embed_bytes(mut self) -> Self {
        self.embed = Embed::Bytes;
        self
    }

    /// The file that `infer tune` wrote, relative as the model's path is: how each layer is computed.
    #[must_use]
    pub fn tactics(mut self, path: impl Into<PathBuf>) -> Self {
        self.tactics = Some(path.into());
        self
    }

    /// Whether Winograd's algorithm is used for the convolutions that it makes faster, and Strassen's for such products,
    /// as they are by default; they round otherwise than direct computation.
    #[must_use]
    pub fn winograd(mut self, winograd: bool) -> Self {
        self.winograd = winograd;
        self
    }

    /// What the model is compiled for: `"cpu"`, `"cuda"`, or `"auto"`, which is both, and the default with the feature
    /// `cuda`, which the program's infer-embed needs too then.
    #[must_use]
    pub fn backend(mut self, backend: &str) -> Self {
        backend.clone_into(&mut self.backend);
        self
    }

    /// Makes what would be a note an error.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Compiles the model and writes `OUT_DIR/name.rs`, the struct's name in small letters, for `include!`. Tells cargo
    /// to run the build script again when the model changes.
    ///
    /// # Errors
    ///
    /// If the model or an argument is refused, or a file cannot be written.
    pub fn compile(self) -> Result<PathBuf, Error> {
        let folder = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
        let out = PathBuf::from(variable("OUT_DIR")?);
        let file_name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = parse_name(&self.name)?;
        let mut options = Options::new(folder.join(&self.path));
        options.precision = Precision::from_name(&self.precision).ok_or_else(|| {
            let names: Vec<&str> = Precision::ALL.iter().map(|precision| precision.name()).collect();
            Error(format!("unknown precision `{}`; the precisions are {}", self.precision, names.join(", ")))
        })?;
        options.backends = Backends::from_name(&self.backend).ok_or_else(|| {
            let names: Vec<&str> = Backends::ALL.iter().map(|backends| backends.name()).collect();
            Error(format!("unknown backend `{}`; the backends are {}", self.backend, names.join(", ")))
        })?;
        options.dims = self.dims;
        options.tactics = self.tactics.map(|path| folder.join(path));
        options.winograd = self.winograd;
        // Before anything can fail: a model that was mended is compiled again.
        for path in [Some(&options.model), options.tactics.as_ref()].into_iter().flatten() {
            println!("cargo:rerun-if-changed={}", path.display());
        }

        let mut stored = Cache::near(&out).compile(&options).map_err(|errors| refused(&errors, &folder))?;
        for source in &stored.sources {
            println!("cargo:rerun-if-changed={}", source.display());
        }
        if self.strict && !stored.summary.notes.is_empty() {
            return Err(Error(format!("{file_name} has notes:\n- {}", stored.summary.notes.join("\n- "))));
        }
        // The script does not run again while its inputs are as they were, so the plan must outlive the cache.
        for path in [Some(&mut stored.plan), stored.cuda_plan.as_mut().map(|plan| &mut plan.path)] {
            let Some(path) = path else { continue };
            let plan = out.join(path.file_name().unwrap_or_default());
            copy(path, &plan)
                .map_err(|error| Error(format!("cannot write `{}`: {error}", plan.display())))?;
            *path = plan;
        }

        let tokens = codegen::generate(&Request {
            attributes: quote!(),
            visibility: quote!(pub),
            name,
            crate_path: quote!(::infer_embed),
            embed: self.embed,
            file_name,
            span: Span::call_site(),
            stored: &stored,
        })
        .map_err(|error| refused(&[error], &folder))?;
        let path = out.join(format!("{}.rs", codegen::snake_case(&self.name)));
        let code = format!("// Generated by infer_embed::build.\n{tokens}\n");
        fs::write(&path, code)
            .map_err(|error| Error(format!("cannot write `{}`: {error}", path.display())))?;
        Ok(path)
    }
}

fn variable(name: &str) -> Result<OsString, Error> {
    env::var_os(name).ok_or_else(|| Error(format!("{name} is not set; call this from a build script")))
}

fn parse_name(name: &str) -> Result<Ident, Error> {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_uppercase());
    if first && chars.all(|c| c.is_ascii_alphanumeric()) && name != "Self" {
        return Ok(Ident::new(name, Span::call_site()));
    }
    Err(Error(format!("`{name}` cannot name a struct; give a capital letter and then letters and digits")))
}

fn refused(diagnostics: &[Diagnostic], folder: &Path) -> Error {
    let messages: Vec<&str> = diagnostics.iter().map(|diagnostic| diagnostic.message.as_str()).collect();
    Error(messages.join("\n\n").replace(&format!("{}{}", folder.display(), std::path::MAIN_SEPARATOR), ""))
}

/// Makes `to` the file `from`: by a link, where the file system has them, as the files are large and never written to.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop))
}

/// Why a model was not compiled. Its display is the whole message.
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// As the display, since `main` of a build script prints errors so.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}
