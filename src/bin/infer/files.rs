//! Values in files: `input_<j>` and `output_<j>` in a folder, as .npy or .pb.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use infer_core::diagnostic::quote;
use infer_core::onnx;
use infer_core::value::{Value, ValueType};

use crate::model::Declared;
use crate::npy;

/// The values of `ports` in `folder`: `<kind>_0` is that of the first.
///
/// # Errors
///
/// If one is missing, there are more, or one is damaged or of another type than declared.
pub fn read(folder: &Path, kind: &str, ports: &[Declared]) -> anyhow::Result<Vec<Value>> {
    let present = list(folder, kind)?;
    let mut values = Vec::with_capacity(ports.len());
    for (index, port) in ports.iter().enumerate() {
        let found: Vec<&(usize, PathBuf)> = present.iter().filter(|(number, _)| *number == index).collect();
        let path = match found.as_slice() {
            [(_, path)] => path,
            [] => bail!(
                "{} has no {kind}_{index}.npy and no {kind}_{index}.pb for {kind} {}, which is {port}",
                folder.display(),
                quote(&port.name)
            ),
            _ => bail!("{} has {kind}_{index} both as .npy and as .pb; remove one", folder.display()),
        };
        let value = read_value(path, port.ty.as_ref())
            .with_context(|| format!("{} for {kind} {}", path.display(), quote(&port.name)))?;
        values.push(value);
    }
    if let Some((_, path)) = present.iter().find(|(number, _)| *number >= ports.len()) {
        let s = if ports.len() == 1 { "" } else { "s" };
        bail!("{} is one too many: the model has {} {kind}{s}", path.display(), ports.len());
    }
    Ok(values)
}

/// Refuses values that are not of the declared types: symbolic dimensions may have any size, the same everywhere.
///
/// # Errors
///
/// If a value is of another type; the error names the input and both types.
pub fn expect_types(ports: &[Declared], values: &[Value], folder: &Path) -> anyhow::Result<()> {
    for (index, (port, value)) in ports.iter().zip(values).enumerate() {
        if port.ty.as_ref().is_some_and(|ty| !ty.admits(value)) {
            let (name, given) = (quote(&port.name), value.describe());
            bail!("input {name} is {port}; input_{index} in {} is {given}", folder.display());
        }
    }
    Ok(())
}

/// Writes `values` to `folder`, and gives the names of the files.
///
/// # Errors
///
/// If the folder cannot be made or written to.
pub fn write(folder: &Path, kind: &str, values: &[Value]) -> anyhow::Result<Vec<String>> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let mut names = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        let (bytes, extension, other) = match value.as_tensor().and_then(npy::write) {
            Some(bytes) => (bytes, "npy", "pb"),
            None => (onnx::write_value(value), "pb", "npy"),
        };
        let name = format!("{kind}_{index}.{extension}");
        // One of an earlier run must not stand beside it.
        let _ = fs::remove_file(folder.join(format!("{kind}_{index}.{other}")));
        let path = folder.join(&name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        names.push(name);
    }
    Ok(names)
}

/// The files `<kind>_<number>.npy` and `.pb` in `folder`, by number.
fn list(folder: &Path, kind: &str) -> anyhow::Result<BTreeSet<(usize, PathBuf)>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let mut found = BTreeSet::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read the folder {}", folder.display()))?.path();
        let is_data = path.extension().is_some_and(|extension| extension == "npy" || extension == "pb");
        let number = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.strip_prefix(kind)?.strip_prefix('_')?.parse().ok());
        if let Some(number) = number.filter(|_| is_data) {
            found.insert((number, path));
        }
    }
    Ok(found)
}

fn read_value(path: &Path, ty: Option<&ValueType>) -> anyhow::Result<Value> {
    let bytes = fs::read(path)?;
    if path.extension().is_some_and(|extension| extension == "npy") {
        return npy::read(&bytes).map(Value::Tensor);
    }
    let ty = ty.ok_or_else(|| anyhow!("the model does not declare its type"))?;
    onnx::read_value(&bytes, ty).map_err(|reason| anyhow!(reason.what))
}
