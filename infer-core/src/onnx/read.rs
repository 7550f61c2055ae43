//! Reading a model file.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

use super::external_data::ExternalData;
use super::proto::ModelProto;
use super::{IR_VERSIONS, OPSETS, normalize_domain};
use crate::diagnostic::Diagnostic;

/// A model as read from its file, all elements of its tensors in memory.
#[derive(Clone, Debug)]
pub struct ModelFile {
    /// The file's name without its folder, as messages give it.
    pub name: String,
    /// The bytes of the file.
    pub bytes: Bytes,
    /// The model; the elements of external tensors have been moved into their `raw_data`.
    pub proto: ModelProto,
    /// Every file read: the model, then its external data.
    pub sources: Vec<PathBuf>,
}

/// Reads the model at `path` and the files of external data that it names, none of which may lie outside of its
/// folder.
///
/// # Errors
///
/// Where a file is missing, unreadable, damaged, or not an ONNX model of a known version.
pub fn read(path: &Path) -> Result<ModelFile, Diagnostic> {
    let failed = |e: std::io::Error| {
        let what = match e.kind() {
            ErrorKind::NotFound => "there is no such file".to_owned(),
            ErrorKind::PermissionDenied => "the file may not be read (permission denied)".to_owned(),
            _ => e.to_string(),
        };
        Diagnostic::model(format!("{}: {what}", path.display()))
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        return Err(Diagnostic::model(format!("{}: this is a folder, not an ONNX file", path.display())));
    }
    if !metadata.is_file() {
        return Err(Diagnostic::model(format!("{}: this is no regular file", path.display())));
    }
    let bytes = Bytes::from(fs::read(path).map_err(failed)?);
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let mut proto = decode(&name, bytes.clone())?;
    let mut external = ExternalData::new(path.parent().unwrap_or(Path::new("")));
    external.load(&mut proto).map_err(|e| Diagnostic::model(format!("{name}: {e}")))?;
    let sources = std::iter::once(path.to_owned()).chain(external.sources).collect();
    Ok(ModelFile { name, bytes, proto, sources })
}

/// Decodes the bytes of a model, called `name` in messages, and checks its versions. Data in other files is left
/// where it is.
///
/// # Errors
///
/// Where the bytes are not an ONNX model of a known version.
pub fn decode(name: &str, bytes: Bytes) -> Result<ModelProto, Diagnostic> {
    let error = |message: String| Diagnostic::model(format!("{name}: {message}"));
    if bytes.is_empty() {
        return Err(error("the file is empty".to_owned()));
    }
    let not_onnx = |why: &str| match looks_like(&bytes) {
        Some(other) => error(format!("this is not an ONNX file but {other}")),
        None => error(format!("this is not an ONNX file{why}")),
    };
    let model = match ModelProto::decode(bytes.clone()) {
        Ok(model) => model,
        // Files begin with the version of the format, field 1 as a varint.
        Err(e) if bytes.first() == Some(&0x08) && looks_like(&bytes).is_none() => {
            return Err(error(format!("the file ({} bytes) is damaged or cut short: {e}", bytes.len())));
        }
        Err(_) => return Err(not_onnx("")),
    };
    let Some(ir_version) = model.ir_version else {
        return Err(not_onnx(": it states no IR version"));
    };
    if !IR_VERSIONS.contains(&ir_version) {
        let (oldest, newest) = IR_VERSIONS.into_inner();
        return Err(error(format!(
            "IR version {ir_version} is not supported, only {oldest} to {newest} are"
        )));
    }
    if model.graph.is_none() {
        return Err(error("the file holds no graph (it may be cut short)".to_owned()));
    }
    check_opsets(&model).map_err(error)?;
    Ok(model)
}

fn check_opsets(model: &ModelProto) -> Result<(), String> {
    if model.opset_import.is_empty() {
        return Err("the model imports no operator set".to_owned());
    }
    let of_functions = model.functions.iter().flat_map(|function| &function.opset_import);
    for import in model.opset_import.iter().chain(of_functions) {
        if normalize_domain(&import.domain).is_empty() && !OPSETS.contains(&import.version) {
            let (oldest, newest) = OPSETS.into_inner();
            return Err(format!(
                "opset {} is not supported, only {oldest} to {newest} are\n       \
                 help: convert the model with onnx.version_converter, or export it again",
                import.version
            ));
        }
    }
    Ok(())
}

/// What kind of file other than ONNX this is, where it can be told.
fn looks_like(bytes: &[u8]) -> Option<&'static str> {
    const STARTS: [(&[u8], &str); 14] = [
        (b"\x89PNG\r\n", "a PNG image"),
        (b"\xff\xd8\xff", "a JPEG image"),
        (b"GIF8", "a GIF image"),
        (b"%PDF-", "a PDF document"),
        (b"PK\x03\x04", "a zip archive (as PyTorch checkpoints and Keras models are)"),
        (b"\x1f\x8b", "gzip-compressed data"),
        (b"\x89HDF\r\n", "an HDF5 file (as Keras models are)"),
        (b"GGUF", "a GGUF file"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"\x80\x02", "a Python pickle (as old PyTorch checkpoints are)"),
        (b"\x7fELF", "a program"),
        (b"version https://git-lfs", "a Git LFS pointer (run `git lfs pull`)"),
        (b"<", "a text in XML or HTML"),
        (b"{", "a text in JSON"),
    ];
    match bytes.get(4..8) {
        Some(b"TFL3") => return Some("a TensorFlow Lite model"),
        Some(b"ORTM") => {
            return Some("a model in ONNX Runtime's own format (convert from the .onnx file instead)");
        }
        _ => {}
    }
    let header = bytes.first_chunk().map(|&length| u64::from_le_bytes(length));
    if bytes.get(8..10) == Some(b"{\"") && header.is_some_and(|length| length < bytes.len() as u64) {
        return Some("a safetensors file");
    }
    STARTS.iter().find(|(start, _)| bytes.starts_with(start)).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::{GraphProto, OperatorSetIdProto, StringStringEntryProto, TensorProto};
    use crate::onnx::to_constant;

    fn model() -> ModelProto {
        ModelProto {
            ir_version: Some(8),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 13 }],
            graph: Some(GraphProto::default()),
            ..ModelProto::default()
        }
    }

    fn refused(model: &ModelProto) -> String {
        decode("m.onnx", model.encode_to_vec().into()).unwrap_err().message
    }

    /// A folder of its own for one test, removed with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("infer-core-{name}-{}", std::process::id()));
            fs::create_dir_all(path.join("model")).unwrap();
            Folder(path)
        }

        fn read(&self, external: &[(&str, &str)]) -> Result<ModelFile, Diagnostic> {
            let mut model = model();
            model.graph.as_mut().unwrap().initializer.push(TensorProto {
                name: "w".into(),
                dims: vec![2],
                data_type: 1,
                data_location: 1,
                external_data: external
                    .iter()
                    .map(|&(key, value)| StringStringEntryProto { key: key.into(), value: value.into() })
                    .collect(),
                ..TensorProto::default()
            });
            let path = self.0.join("model/m.onnx");
            fs::write(&path, model.encode_to_vec()).unwrap();
            read(&path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn versions_are_checked() {
        assert!(decode("m.onnx", model().encode_to_vec().into()).is_ok());
        let mut old = model();
        old.opset_import[0].version = 0;
        assert!(refused(&old).starts_with("m.onnx: opset 0 is not supported, only 1 to 28 are"));
        old.opset_import[0] = OperatorSetIdProto { domain: "ai.onnx".into(), version: 99 };
        assert!(refused(&old).contains("opset 99"));
        let new = ModelProto { ir_version: Some(99), ..model() };
        assert_eq!(refused(&new), "m.onnx: IR version 99 is not supported, only 3 to 14 are");
        assert!(refused(&ModelProto { graph: None, ..model() }).contains("no graph"));
        assert!(refused(&ModelProto { opset_import: vec![], ..model() }).contains("no operator set"));
        assert!(refused(&ModelProto { ir_version: None, ..model() }).contains("not an ONNX file"));
    }

    #[test]
    fn other_files_are_told_apart() {
        let message = |bytes: &'static [u8]| decode("x", Bytes::from_static(bytes)).unwrap_err().message;
        assert_eq!(message(b""), "x: the file is empty");
        assert_eq!(message(b"\x89PNG\r\n\x1a\n"), "x: this is not an ONNX file but a PNG image");
        assert_eq!(message(b"\x1c\0\0\0TFL3"), "x: this is not an ONNX file but a TensorFlow Lite model");
        assert_eq!(message(b"hello, world"), "x: this is not an ONNX file");
    }

    #[test]
    fn a_truncated_file_says_so() {
        let mut long = model();
        long.producer_name = "a producer with a name".into();
        let bytes = long.encode_to_vec();
        let message = decode("x", Bytes::copy_from_slice(&bytes[..10])).unwrap_err().message;
        assert!(message.starts_with("x: the file (10 bytes) is damaged or cut short"), "{message}");
    }

    #[test]
    fn missing_files_and_folders_are_named() {
        let folder = Folder::new("missing");
        let path = folder.0.join("none.onnx");
        assert!(read(&path).unwrap_err().message.ends_with("none.onnx: there is no such file"));
        assert!(read(&folder.0).unwrap_err().message.ends_with("this is a folder, not an ONNX file"));
    }

    #[test]
    fn external_data_is_read() {
        let folder = Folder::new("external");
        let values = [0.0f32, 1.0, 2.0];
        fs::write(folder.0.join("model/w.bin"), bytemuck::cast_slice::<f32, u8>(&values)).unwrap();
        let file = folder.read(&[("location", "./w.bin"), ("offset", "4"), ("length", "8")]).unwrap();
        let tensor = &file.proto.graph.as_ref().unwrap().initializer[0];
        assert_eq!(to_constant(tensor).unwrap().values::<f32>().into_owned(), [1.0, 2.0]);
        assert_eq!(file.sources.len(), 2);
        assert!(folder.read(&[("location", "w.bin")]).is_ok());
    }

    #[test]
    fn external_data_stays_in_the_folder() {
        let folder = Folder::new("escape");
        fs::write(folder.0.join("secret"), [0; 8]).unwrap();
        let secret = folder.0.join("secret");
        let message = |location: &str| folder.read(&[("location", location)]).unwrap_err().message;
        for location in ["../secret", "x/../../secret", secret.to_str().unwrap(), ""] {
            assert!(message(location).ends_with("leaves the model's folder"), "{}", message(location));
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&secret, folder.0.join("model/link")).unwrap();
            assert!(message("link").ends_with("leaves the model's folder"));
        }
        assert_eq!(
            message("w.bin"),
            "m.onnx: initializer `w`: external data file `w.bin` is missing beside the model"
        );
        fs::create_dir(folder.0.join("model/sub")).unwrap();
        assert!(message("sub").ends_with("`sub` is no file"));
    }

    #[test]
    fn external_data_is_bounded() {
        let folder = Folder::new("short");
        fs::write(folder.0.join("model/w.bin"), [0; 10]).unwrap();
        let message = |offset: &str, length: &str| {
            folder.read(&[("location", "w.bin"), ("offset", offset), ("length", length)]).unwrap_err().message
        };
        assert!(message("4", "8").ends_with("`w.bin` is too short: bytes 4 to 12 are wanted, it has 10"));
        assert!(message("18446744073709551615", "8").contains("too short"));
        assert!(message("-1", "8").contains("offset `-1`, which is no number"));
        assert!(message("0", "4").contains("f32[2] needs 8 bytes, its external data has length 4"));
    }
}
