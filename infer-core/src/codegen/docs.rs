//! The documentation of what is generated.

use super::{Item, Request};
use crate::codegen::types::array_type;
use crate::compile::Place;
use crate::value::ValuePort;

/// `` `images` in the model: f32 `[1, 3, 608, 608]`, 4,435,968 bytes ``
pub(super) fn describe(port: &ValuePort) -> String {
    let name = quoted(&port.name);
    match array_type(&port.ty) {
        Some(ty) => {
            let bytes = grouped(ty.bytes() as u64);
            format!("`{name}` in the model: {} `{:?}`, {bytes} bytes", ty.dtype, ty.shape)
        }
        None => format!("`{name}` in the model: `{}`", port.ty),
    }
}

/// A name that stands between backticks in documentation.
pub(super) fn quoted(name: &str) -> String {
    name.replace('`', "'").replace(['\n', '\r'], " ")
}

/// `62,001,757`
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

pub(super) fn list(items: &[Item]) -> String {
    let lines = items.iter().map(|item| format!("- `{}`: {}\n", item.ident, item.doc));
    lines.collect()
}

/// What the struct is, for its documentation.
pub(super) fn struct_doc(request: &Request<'_>, inputs: &[Item], outputs: &[Item]) -> String {
    let summary = &request.stored.summary;
    let steps = match summary.run_time_nodes {
        0 => String::new(),
        1 => " One step has shapes or values that only the run knows.".to_owned(),
        count => format!(" {} steps have shapes or values that only the run knows.", grouped(count)),
    };
    let on_processor = summary.cuda_parts.iter().filter(|part| part.place == Place::Processor);
    let helped: u64 = on_processor.map(|part| part.count).sum();
    let help = match helped {
        0 => String::new(),
        1 => " Where it runs on a GPU, one node runs on the processor.".to_owned(),
        count => format!(" Where it runs on a GPU, {} nodes run on the processor.", grouped(count)),
    };
    // An empty line first: the user's own documentation may stand above.
    format!(
        "\n\nCompiled from `{}` (opset {}): {} parameters in {} bytes, {} bytes of memory and {} floating-point operations \
         an inference.{steps}{help}\n\n# Inputs\n\n{}\n# Outputs\n\n{}",
        quoted(&request.file_name),
        summary.opset,
        grouped(summary.parameters),
        grouped(summary.weight_bytes),
        grouped(summary.arena_bytes),
        grouped(summary.flops),
        list(inputs),
        list(outputs),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 62_001_757].map(grouped), ["0", "999", "1,000", "62,001,757"]);
    }
}
