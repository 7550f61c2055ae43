//! Numpy's file format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.
//!
//! Files may come from anywhere, so nothing is allocated before what they hold has been counted, and the header is read
//! without recursion.

use anyhow::{Context, bail, ensure};
use infer_core::constant::Constant;
use infer_core::tensor_type::{DataType, TensorType};

const MAGIC: &[u8] = b"\x93NUMPY";

/// The types that npy holds, with numpy's codes for them.
const TYPES: [(DataType, &str); 15] = [
    (DataType::Bool, "b1"),
    (DataType::I8, "i1"),
    (DataType::I16, "i2"),
    (DataType::I32, "i4"),
    (DataType::I64, "i8"),
    (DataType::U8, "u1"),
    (DataType::U16, "u2"),
    (DataType::U32, "u4"),
    (DataType::U64, "u8"),
    (DataType::F16, "f2"),
    (DataType::F32, "f4"),
    (DataType::F64, "f8"),
    (DataType::C64, "c8"),
    (DataType::C128, "c16"),
    // As some write flags.
    (DataType::Bool, "?"),
];

/// The bytes of a file that holds `tensor`; `None` for a type that npy does not hold.
pub fn write(tensor: &Constant) -> Option<Vec<u8>> {
    let (_, code) = TYPES.iter().find(|(dtype, _)| *dtype == tensor.ty().dtype)?;
    let order = if tensor.ty().dtype.size_bytes() == 1 { '|' } else { '<' };
    let shape: String = tensor.ty().shape.iter().map(|extent| format!("{extent}, ")).collect();
    let shape = if tensor.ty().rank() == 1 { shape.trim_end() } else { shape.trim_end_matches(", ") };
    let mut header = format!("{{'descr': '{order}{code}', 'fortran_order': False, 'shape': ({shape}), }}");
    // The elements begin at a multiple of 64.
    let length = (MAGIC.len() + 4 + header.len() + 1).next_multiple_of(64) - MAGIC.len() - 4;
    header.push_str(&" ".repeat(length - header.len() - 1));
    header.push('\n');
    let mut bytes = MAGIC.to_vec();
    // At most 64 extents of at most 20 digits: it fits in 16 bits.
    bytes.extend([1, 0]);
    bytes.extend((length as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend_from_slice(tensor.data());
    Some(bytes)
}

/// The tensor in a file with these bytes.
pub fn read(bytes: &[u8]) -> anyhow::Result<Constant> {
    let rest = bytes.strip_prefix(MAGIC).context("this is no npy file")?;
    let cut = "the npy file is cut short";
    let (version, rest) = rest.split_first_chunk::<2>().context(cut)?;
    let (length, rest) = match version {
        [1, 0] => {
            rest.split_first_chunk::<2>().map(|(size, rest)| (u16::from_le_bytes(*size) as usize, rest))
        }
        [2 | 3, 0] => {
            rest.split_first_chunk::<4>().map(|(size, rest)| (u32::from_le_bytes(*size) as usize, rest))
        }
        [major, minor] => bail!("npy version {major}.{minor} is not supported; 1.0, 2.0 and 3.0 are"),
    }
    .context(cut)?;
    let (header, data) = rest.split_at_checked(length).context(cut)?;
    let header = std::str::from_utf8(header).ok().context("the npy header is no text")?;
    let header =
        Header::parse(header).with_context(|| format!("the npy header is damaged: {}", shown(header)))?;

    let (order, code) = header.descr.split_at_checked(1).unwrap_or(("", header.descr));
    let (order, code) =
        if matches!(order, "<" | ">" | "|" | "=") { (order, code) } else { ("=", header.descr) };
    let found = TYPES.iter().find(|(_, known)| *known == code);
    let Some(&(dtype, _)) = found else {
        bail!("element type {:?} is not supported in npy files; give a .pb file", shown(header.descr))
    };
    let ty = TensorType::new(dtype, header.shape);
    let size = dtype.size_bytes();
    let wanted = ty.checked_elements().and_then(|elements| elements.checked_mul(size));
    ensure!(
        wanted == Some(data.len()),
        "{ty} needs {} bytes, there are {}",
        wanted.map_or_else(|| "too many".to_owned(), |bytes| bytes.to_string()),
        data.len()
    );
    let mut data = data.to_vec();
    let is_complex = matches!(dtype, DataType::C64 | DataType::C128);
    if order == ">" {
        data.chunks_exact_mut(if is_complex { size / 2 } else { size }).for_each(<[u8]>::reverse);
    }
    if dtype == DataType::Bool {
        data.iter_mut().for_each(|byte| *byte = u8::from(*byte != 0));
    }
    if header.is_fortran {
        data = transposed(&data, &ty.shape, size);
    }
    Constant::checked(ty, &data).context("a tensor of another size")
}

/// Elements whose first axis is the innermost, row-major.
fn transposed(data: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut result = Vec::with_capacity(data.len());
    let mut position = vec![0; shape.len()];
    for _ in 0..data.len() / size {
        let from = position.iter().zip(shape).rev().fold(0, |offset, (&at, &extent)| offset * extent + at);
        result.extend_from_slice(&data[from * size..(from + 1) * size]);
        for (at, &extent) in position.iter_mut().zip(shape).rev() {
            *at += 1;
            if *at < extent {
                break;
            }
            *at = 0;
        }
    }
    result
}

/// The beginning of a text from a file.
fn shown(text: &str) -> String {
    text.trim().chars().take(100).collect()
}

struct Header<'a> {
    descr: &'a str,
    is_fortran: bool,
    shape: Vec<usize>,
}

impl<'a> Header<'a> {
    /// The dictionary `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`, its keys in any order.
    fn parse(text: &'a str) -> Option<Self> {
        const MOST_EXTENTS: usize = 64;
        let (mut descr, mut is_fortran, mut shape) = (None, None, None);
        let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
        while !rest.is_empty() {
            let (key, after) = string(rest)?;
            let value = after.trim_start().strip_prefix(':')?.trim_start();
            rest = match key {
                "descr" => {
                    let (value, after) = string(value)?;
                    descr = Some(value);
                    after
                }
                "fortran_order" => {
                    let (value, after) = match value.strip_prefix("True") {
                        Some(after) => (true, after),
                        None => (false, value.strip_prefix("False")?),
                    };
                    is_fortran = Some(value);
                    after
                }
                "shape" => {
                    let (extents, after) = value.strip_prefix('(')?.split_once(')')?;
                    let extents = extents.split(',').map(str::trim).filter(|extent| !extent.is_empty());
                    // Python 2 wrote long integers as such.
                    let extents = extents.map(|extent| extent.trim_end_matches('L').parse().ok());
                    shape = extents.take(MOST_EXTENTS + 1).collect::<Option<Vec<usize>>>();
                    after
                }
                _ => return None,
            };
            rest = rest.trim_start();
            rest = match rest.strip_prefix(',') {
                Some(rest) => rest.trim_start(),
                None if rest.is_empty() => rest,
                None => return None,
            };
        }
        let shape = shape.filter(|shape| shape.len() <= MOST_EXTENTS)?;
        Some(Header { descr: descr?, is_fortran: is_fortran?, shape })
    }
}

/// A quoted string without escapes, and what follows it.
fn string(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn refused(bytes: &[u8]) -> String {
        read(bytes).unwrap_err().to_string()
    }

    #[test]
    fn what_is_written_is_read() {
        for (dtype, _) in TYPES {
            for shape in [vec![], vec![3], vec![2, 3], vec![0, 4]] {
                let ty = TensorType::new(dtype, shape);
                let data: Vec<u8> = (0..ty.bytes()).map(|index| (index % 2) as u8).collect();
                let tensor = Constant::checked(ty, &data).unwrap();
                let bytes = write(&tensor).unwrap();
                assert_eq!((bytes.len() - data.len()) % 64, 0);
                assert!(read(&bytes).unwrap() == tensor);
            }
        }
        assert!(write(&Constant::checked(TensorType::new(DataType::Bf16, [1]), &[0u16]).unwrap()).is_none());
    }

    #[test]
    fn columns_first_and_big_ends_first_are_turned() {
        let header = "{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3)}";
        let bytes = file(header, &[0, 1, 0, 4, 0, 2, 0, 5, 0, 3, 0, 6]);
        assert_eq!(read(&bytes).unwrap().values::<i16>().into_owned(), [1, 2, 3, 4, 5, 6]);
        let header = "{'shape': (1L,), 'descr': '>c8', 'fortran_order': False, }";
        let bytes = file(header, &[0x3f, 0x80, 0, 0, 0x40, 0, 0, 0]);
        assert_eq!(read(&bytes).unwrap().values::<[f32; 2]>().into_owned(), [[1.0, 2.0]]);
    }

    #[test]
    fn damaged_files_are_refused() {
        assert_eq!(refused(b"PK\x03\x04"), "this is no npy file");
        assert_eq!(refused(b"\x93NUMPY\x01\x00\xff\xff{"), "the npy file is cut short");
        assert_eq!(refused(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{"), "the npy file is cut short");
        assert!(refused(b"\x93NUMPY\x09\x00").contains("version 9.0"));
        let deep = "(".repeat(60000);
        assert!(refused(&file(&deep, &[])).starts_with("the npy header is damaged"));
        let header = |descr: &str, shape: &str| {
            file(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"), &[0; 8])
        };
        assert!(read(&header("<f4", "(2,)")).is_ok());
        assert_eq!(refused(&header("<f4", "(3,)")), "f32[3] needs 12 bytes, there are 8");
        let huge = "(4294967296, 4294967296, 4294967296)";
        assert!(refused(&header("<f4", huge)).ends_with("needs too many bytes, there are 8"));
        assert!(refused(&header("<f4", "(-1,)")).contains("damaged"));
        assert!(refused(&header("<U5", "(2,)")).contains("\"<U5\" is not supported"));
        assert!(refused(&header("", "(2,)")).contains("is not supported"));
        assert!(refused(&header("é", "(2,)")).contains("is not supported"));
    }
}
