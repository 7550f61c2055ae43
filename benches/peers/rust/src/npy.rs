//! Numpy's file format, as far as numpy itself writes it for f32 and i64.

use std::fs;
use std::path::Path;

use crate::{Data, Result, Tensor};

const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";

/// The tensor in a file.
pub(crate) fn read(path: &Path) -> Result<Tensor> {
    let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&bytes).ok_or_else(|| format!("{} is no npy file of f32 or i64", path.display()).into())
}

fn parse(bytes: &[u8]) -> Option<Tensor> {
    let (length, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<2>()?;
    let (header, data) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
    let header = str::from_utf8(header).ok()?;
    let (_, shape) = header.split_once("'shape': (")?;
    let extents = shape.split_once(')')?.0.split(',').map(str::trim).filter(|extent| !extent.is_empty());
    let shape: Vec<usize> = extents.map(|extent| extent.parse().ok()).collect::<Option<_>>()?;
    if !header.contains("'fortran_order': False") {
        return None;
    }
    let data = if header.contains("'<f4'") {
        Data::F32(data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    } else if header.contains("'<i8'") {
        let number = |b: &[u8]| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
        Data::I64(data.chunks_exact(8).map(number).collect())
    } else {
        return None;
    };
    let tensor = Tensor { shape, data };
    (tensor.shape.iter().product::<usize>() == tensor.len()).then_some(tensor)
}

/// Writes a file that holds `tensor`.
pub(crate) fn write(path: &Path, tensor: &Tensor) -> Result<()> {
    let code = match tensor.data {
        Data::F32(_) => "<f4",
        Data::I64(_) => "<i8",
    };
    let shape: String = tensor.shape.iter().map(|extent| format!("{extent},")).collect();
    let mut header = format!("{{'descr': '{code}', 'fortran_order': False, 'shape': ({shape}), }}");
    while (MAGIC.len() + 2 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = MAGIC.to_vec();
    bytes.extend(u16::try_from(header.len())?.to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(tensor.bytes());
    Ok(fs::write(path, bytes)?)
}

impl Tensor {
    /// How many elements there are.
    pub fn len(&self) -> usize {
        match &self.data {
            Data::F32(values) => values.len(),
            Data::I64(values) => values.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements' bytes, little-endian.
    pub fn bytes(&self) -> Vec<u8> {
        match &self.data {
            Data::F32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Data::I64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let path = std::env::temp_dir().join(format!("peers-{}.npy", std::process::id()));
        for tensor in [
            Tensor { shape: vec![2, 3], data: Data::F32(vec![0.5, -1.0, 2.0, 3.0, 4.0, f32::MAX]) },
            Tensor { shape: vec![], data: Data::I64(vec![-7]) },
        ] {
            write(&path, &tensor).unwrap();
            assert_eq!(read(&path).unwrap(), tensor);
        }
        fs::remove_file(path).unwrap();
    }
}
