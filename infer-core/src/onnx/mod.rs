//! The ONNX file format alone; knows no operators.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod external_data;
pub mod proto;
mod read;
mod tensor;
mod value;

pub use crate::diagnostic::{printable, quote};
pub use read::{ModelFile, decode, read};
pub use tensor::{STRING, data_type_name, tensor_type, to_constant, to_dense, to_value};
pub use value::{read_value, write_value};

/// The oldest and the newest opset of ai.onnx that are understood.
pub const OPSETS: std::ops::RangeInclusive<i64> = 1..=28;

/// The oldest and the newest version of the file format that are understood.
pub const IR_VERSIONS: std::ops::RangeInclusive<i64> = 3..=14;

pub use crate::tensor_type::MAX_RANK;

/// The domain `domain`, with the long name of the default one as the short one.
pub fn normalize_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}
