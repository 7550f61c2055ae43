//! Tensors whose elements lie in files beside the model.

use std::collections::HashMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

use super::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};
use super::{quote, tensor_type};

/// Reads external data, each file once.
pub(super) struct ExternalData {
    folder: PathBuf,
    files: HashMap<String, Bytes>,
    /// The files read, in order.
    pub(super) sources: Vec<PathBuf>,
}

impl ExternalData {
    /// External data of a model that lies in `folder`.
    pub(super) fn new(folder: &Path) -> Self {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        ExternalData { folder: folder.to_owned(), files: HashMap::new(), sources: Vec::new() }
    }

    /// Moves the elements of every external tensor of the model into its `raw_data`.
    pub(super) fn load(&mut self, model: &mut ModelProto) -> Result<(), String> {
        if let Some(graph) = &mut model.graph {
            self.load_graph(graph)?;
        }
        model.functions.iter_mut().try_for_each(|function| self.load_nodes(&mut function.node))
    }

    // The decoder refuses messages nested deeper than a hundred levels, which bounds this recursion.
    fn load_graph(&mut self, graph: &mut GraphProto) -> Result<(), String> {
        for tensor in &mut graph.initializer {
            let name = tensor.name.clone();
            self.load_tensor(tensor).map_err(|e| format!("initializer {}: {e}", quote(&name)))?;
        }
        self.load_nodes(&mut graph.node)
    }

    fn load_nodes(&mut self, nodes: &mut [NodeProto]) -> Result<(), String> {
        for node in nodes {
            for attribute in &mut node.attribute {
                self.load_attribute(attribute).map_err(|e| format!("node {}: {e}", quote(&node.name)))?;
            }
        }
        Ok(())
    }

    fn load_attribute(&mut self, attribute: &mut AttributeProto) -> Result<(), String> {
        let name = &attribute.name;
        for tensor in attribute.t.as_deref_mut().into_iter().chain(&mut attribute.tensors) {
            self.load_tensor(tensor).map_err(|e| format!("attribute {}: {e}", quote(name)))?;
        }
        attribute
            .g
            .as_deref_mut()
            .into_iter()
            .chain(&mut attribute.graphs)
            .try_for_each(|g| self.load_graph(g))
    }

    fn load_tensor(&mut self, tensor: &mut TensorProto) -> Result<(), String> {
        if tensor.data_location != 1 {
            return Ok(());
        }
        let entry =
            |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).map(|e| e.value.as_str());
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => match text.parse::<u64>() {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(format!("external data has {key} {}, which is no number", quote(text))),
            },
        };
        let location = entry("location").ok_or("external data without a location")?;
        let ty = tensor_type(tensor).map_err(|reason| reason.what)?;
        let needed = ty.bytes() as u64;
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?.unwrap_or(needed);
        if length != needed {
            return Err(format!("{ty} needs {needed} bytes, its external data has length {length}"));
        }
        let data = self.file(location)?;
        let size = data.len() as u64;
        let end = offset.checked_add(length).filter(|&end| end <= size).ok_or_else(|| {
            format!(
                "external data file {} is too short: bytes {offset} to {} are wanted, it has {size}",
                quote(location),
                u128::from(offset) + u128::from(length)
            )
        })?;
        tensor.raw_data = Some(data.slice(offset as usize..end as usize));
        tensor.data_location = 0;
        tensor.external_data.clear();
        Ok(())
    }

    fn file(&mut self, location: &str) -> Result<Bytes, String> {
        if let Some(data) = self.files.get(location) {
            return Ok(data.clone());
        }
        let path = self.inside_folder(location)?;
        let failed = |e: std::io::Error| format!("external data file {}: {e}", quote(location));
        if !fs::metadata(&path).map_err(failed)?.is_file() {
            return Err(format!("external data {} is no file", quote(location)));
        }
        let data = Bytes::from(fs::read(&path).map_err(failed)?);
        self.files.insert(location.to_owned(), data.clone());
        self.sources.push(path);
        Ok(data)
    }

    /// The path of `location`, which neither by its own words nor through symbolic links leaves the model's folder.
    fn inside_folder(&self, location: &str) -> Result<PathBuf, String> {
        let leaves = || format!("external data path {} leaves the model's folder", quote(location));
        let inside = |component| matches!(component, Component::Normal(_) | Component::CurDir);
        if location.is_empty() || !Path::new(location).components().all(inside) {
            return Err(leaves());
        }
        let path = self.folder.join(location);
        let missing = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => {
                format!("external data file {} is missing beside the model", quote(location))
            }
            _ => format!("external data file {}: {e}", quote(location)),
        };
        let folder = self.folder.canonicalize().map_err(missing)?;
        let real = path.canonicalize().map_err(missing)?;
        if real.starts_with(&folder) { Ok(path) } else { Err(leaves()) }
    }
}
