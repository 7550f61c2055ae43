//! What the operators that only move data share.

use bytemuck::Zeroable;
use infer_kernels::call::{Elementwise, IndexMap, MAX_RANK};

use super::ImportNode;
use crate::calls::{LowerNode, Tensor, physical};
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, MAX_ELEMENTS, TensorType};

/// The most entries of a table that a call reads beside its input; more than any picture's side needs.
const MAX_TABLE: usize = 1 << 24;

/// The type of a result, refused where it is too large; empty extents count as one, so that strides never overflow.
pub(super) fn result_type(dtype: DataType, shape: Vec<usize>) -> Result<TensorType, Reason> {
    let product = shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent.max(1)));
    match product {
        Some(n) if n <= MAX_ELEMENTS => Ok(TensorType::new(dtype, shape)),
        _ => Err(Reason::new(format!("the result {shape:?} has more than {MAX_ELEMENTS} elements"))),
    }
}

/// An extent that the model gives as a number, refused where it is negative.
pub(super) fn extent(value: i64, name: &str) -> Result<usize, Reason> {
    usize::try_from(value).map_err(|_| Reason::new(format!("`{name}` holds the negative extent {value}")))
}

/// Refuses a table of `entries` entries where that is more than any sensible model needs.
pub(super) fn expect_table(entries: Option<usize>) -> Result<(), Reason> {
    match entries {
        Some(n) if n <= MAX_TABLE => Ok(()),
        _ => {
            Err(Reason::new(format!("an axis of the result needs a table of more than {MAX_TABLE} entries")))
        }
    }
}

/// The STRING attribute `name` as one of `choices`, the first of which is the default.
pub(super) fn choice<T: Copy>(
    node: &mut ImportNode,
    name: &str,
    choices: &[(&'static str, T)],
) -> Result<T, Reason> {
    let names = || choices.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let chosen = match node.attributes.string(name)? {
        None => choices.first(),
        Some(value) => match choices.iter().find(|(known, _)| *known == value) {
            None => {
                return Err(Reason::new(format!("{name} \"{value}\" is not supported")).supported(names()));
            }
            found => found,
        },
    };
    chosen.map(|(_, value)| *value).ok_or_else(|| Reason::new(format!("{name} has no default")))
}

/// `value` as the bytes of one element of type `dtype`.
pub(super) fn element_bits(dtype: DataType, value: f32) -> u64 {
    match dtype {
        DataType::F32 => value.to_bits().into(),
        DataType::F64 => f64::from(value).to_bits(),
        DataType::F16 => half::f16::from_f32(value).to_bits().into(),
        DataType::Bf16 => half::bf16::from_f32(value).to_bits().into(),
        DataType::Bool => (value != 0.0).into(),
        DataType::U64 => value as u64,
        DataType::U8 | DataType::U16 | DataType::U32 | DataType::U4 | DataType::U2 => u64::from(value as u32),
        DataType::C64 => value.to_bits().into(),
        // No operator fills 8-bit and 4-bit floats, or complex numbers of 16 bytes, with anything but zero.
        DataType::C128
        | DataType::F8E4M3FN
        | DataType::F8E4M3FNUZ
        | DataType::F8E5M2
        | DataType::F8E5M2FNUZ
        | DataType::F4E2M1
        | DataType::F8E8M0 => 0,
        DataType::I4 | DataType::I2 => value as i64 as u64,
        DataType::I8 | DataType::I16 | DataType::I32 | DataType::I64 => value as i64 as u64,
    }
}

/// The width of the kernels that move elements of type `dtype`, and how many such parts make one.
pub(super) fn kernel_width(dtype: DataType) -> (usize, usize) {
    match dtype.size_bytes() {
        16 => (8, 2),
        width => (width, 1),
    }
}

/// Writes `value`, the bytes of one element, into all of a plain `output`.
pub(super) fn fill(node: &mut LowerNode<'_>, output: &Tensor, value: u64) -> Result<(), Reason> {
    let (width, parts) = kernel_width(output.ty.dtype);
    let mut call = Elementwise::new(&[output.ty.elements() * parts], &[(&[1], 0)])
        .ok_or_else(|| Reason::new(format!("{} cannot be filled", output.ty)))?;
    call.value = value;
    node.call(format!("fill_b{width}"), &call, &[Some(output.span)]);
    Ok(())
}

/// Writes `output` from the elements of `input` that `tables`, one for each axis, select; `value`, the bytes of one
/// element, where an entry is −1.
pub(super) fn index_map(
    node: &mut LowerNode<'_>,
    input: &Tensor,
    output: &Tensor,
    tables: &[Vec<i64>],
    value: u64,
) -> Result<(), Reason> {
    let extents = input.ty.shape.iter().map(|&extent| extent as u64);
    let mut axes: Vec<(u64, Vec<i64>)> = extents.zip(tables.iter().cloned()).collect();
    axes.retain(|(extent, table)| *extent != 1 || table != &[0]);
    let (width, parts) = kernel_width(output.ty.dtype);
    if parts > 1 {
        axes.push((parts as u64, (0..parts as i64).collect()));
    }
    while axes.len() > MAX_RANK {
        // Two axes that stay as they are count as one; only then, because the merged table is their product.
        let merged = axes.windows(2).position(|pair| pair.iter().all(is_identity));
        let Some(at) = merged else {
            return Err(Reason::new(format!(
                "more than {MAX_RANK} axes change between {} and {}",
                input.ty, output.ty
            )));
        };
        let (inner, _) = axes.remove(at + 1);
        let extent = axes[at].0 * inner;
        expect_table(usize::try_from(extent).ok())?;
        axes[at] = (extent, (0..extent as i64).collect());
    }
    let mut call = IndexMap { rank: axes.len() as u64, value, ..IndexMap::zeroed() };
    for (slot, (extent, table)) in axes.iter().enumerate() {
        call.in_dims[slot] = *extent;
        call.out_dims[slot] = table.len() as u64;
    }
    let entries: Vec<i64> = axes.into_iter().flat_map(|(_, table)| table).collect();
    let tables = node.data(&entries);
    node.call(format!("index_map_b{width}"), &call, &[Some(input.span), Some(tables), Some(output.span)]);
    Ok(())
}

fn is_identity((extent, table): &(u64, Vec<i64>)) -> bool {
    *extent == table.len() as u64 && table.iter().enumerate().all(|(i, &entry)| entry == i as i64)
}

/// Which way [`copy_part`] copies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// The part into its place in the whole, as Concat does.
    IntoWhole,
    /// The part out of the whole, as Split does.
    OutOfWhole,
}

/// Copies between `part` and the elements of `whole` from `start` on along `axis`, both plain or both blocked;
/// nothing where the part lies at its place already.
pub(super) fn copy_part(
    node: &mut LowerNode<'_>,
    part: &Tensor,
    whole: &Tensor,
    axis: usize,
    start: usize,
    direction: Direction,
) -> Result<(), Reason> {
    if part.ty.elements() == 0 {
        return Ok(());
    }
    let block = whole.blocked.map(|blocked| blocked.block);
    let step = if axis == 1 { block.unwrap_or(1) } else { 1 };
    if part.blocked.map(|blocked| blocked.block) != block || !start.is_multiple_of(step) {
        return Err(Reason::new(format!("{} at {start} lies in other blocks than {}", part.ty, whole.ty)));
    }
    let (shape, (part_strides, part_offset)) = physical(part);
    let (_, (whole_strides, mut whole_offset)) = physical(whole);
    whole_offset += (start / step) as u64 * whole_strides[axis] as u64;
    let width = part.ty.dtype.size_bytes() as u64;
    let placed = part.span.buffer == whole.span.buffer
        && part.span.offset_bytes + part_offset * width == whole.span.offset_bytes + whole_offset * width
        && (0..shape.len()).all(|axis| shape[axis] == 1 || part_strides[axis] == whole_strides[axis]);
    if placed {
        return Ok(());
    }
    let (inner, outer) = ((part_strides.as_slice(), part_offset), (whole_strides.as_slice(), whole_offset));
    match direction {
        Direction::IntoWhole => node.copy_between(part, inner, whole, outer, &shape),
        Direction::OutOfWhole => node.copy_between(whole, outer, part, inner, &shape),
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::Attribute;
    use crate::ops::test_support::{bools, check, i64s, run_values, tensor};
    use crate::tensor_type::DataType;
    use crate::value::{Strings, Value};

    fn strings<const R: usize>(shape: [usize; R], values: &[&str]) -> Value {
        let values = values.iter().map(|&value| value.to_owned()).collect();
        Strings::new(shape, values).unwrap().into()
    }

    #[test]
    fn strings_move_like_numbers() {
        let data = strings([2, 2], &["a", "b", "c", "a"]);
        let longs = |values: &[i64]| Value::Tensor(crate::constant::Constant::of_i64(values));
        let moved = |name: &str, inputs: &[Value]| {
            let inputs: Vec<Option<Value>> = inputs.iter().cloned().map(Some).collect();
            run_values((name, 18), &[], &inputs, 1).unwrap().swap_remove(0)
        };
        let d = || data.clone();
        assert_eq!(moved("Transpose", &[d()]), strings([2, 2], &["a", "c", "b", "a"]));
        assert_eq!(moved("Gather", &[d(), longs(&[-1])]), strings([1, 2], &["c", "a"]));
        assert_eq!(moved("Reshape", &[d(), longs(&[-1])]), strings([4], &["a", "b", "c", "a"]));
        assert_eq!(moved("Slice", &[d(), longs(&[1]), longs(&[2])]), strings([1, 2], &["c", "a"]));
        assert_eq!(moved("Pad", &[d(), longs(&[0, 0, 0, -1])]), strings([2, 1], &["a", "c"]));
        assert_eq!(moved("Pad", &[strings([1], &["a"]), longs(&[1, 0])]), strings([2], &["", "a"]));
        assert_eq!(moved("Identity", &[d()]), data);
        assert_eq!(moved("Trilu", &[d()]), strings([2, 2], &["a", "b", "", "a"]));
        assert_eq!(moved("CenterCropPad", &[d(), longs(&[1, 1])]), strings([1, 1], &["a"]));
        assert_eq!(moved("GatherND", &[d(), longs(&[0, 1])]), strings([], &["b"]));
        let condition = Value::Tensor(bools([2], &[true, false]));
        let other = strings([], &["z"]);
        assert_eq!(moved("Where", &[condition, d(), other]), strings([2, 2], &["a", "z", "c", "z"]));
        assert_eq!(moved("Shape", &[d()]), longs(&[2, 2]));
        let equal = moved("Equal", &[d(), strings([], &["a"])]);
        assert_eq!(equal, Value::Tensor(bools([2, 2], &[true, false, false, true])));
        let sequence = Value::Optional(Some(Box::new(Value::Sequence(vec![d()]))));
        assert_eq!(moved("Identity", std::slice::from_ref(&sequence)), sequence);
    }

    #[test]
    fn wide_elements_move_as_halves() {
        let complex = |values: &[u64]| values.iter().flat_map(|&v| [v, v + 100]).collect::<Vec<u64>>();
        let wide = |shape: [usize; 2], values: &[u64]| tensor(DataType::C128, shape, &complex(values));
        let data = wide([2, 2], &[1, 2, 3, 4]);
        check(("Transpose", 13), &[], std::slice::from_ref(&data), &wide([2, 2], &[1, 3, 2, 4]));
        check(("Gather", 13), &[], &[data.clone(), i64s([1], &[1])], &wide([1, 2], &[3, 4]));
        check(("GatherElements", 13), &[], &[data.clone(), i64s([1, 2], &[1, 0])], &wide([1, 2], &[3, 2]));
        let edge = [("mode", Attribute::String("edge".into()))];
        check(("Pad", 19), &edge, &[data.clone(), i64s([4], &[0, 1, -1, 0])], &wide([1, 3], &[1, 1, 2]));
        let padded = crate::ops::test_support::run(("Pad", 19), &[], &[data, i64s([4], &[1, 0, -2, 0])]);
        assert!(padded.unwrap().data().iter().all(|&byte| byte == 0));
    }
}
