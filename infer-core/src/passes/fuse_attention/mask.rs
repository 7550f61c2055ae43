//! The masks of attentions: what they hide, and what constant ones come to.

use infer_kernels::call::{HeadView, LEAD};

use super::single;
use super::walk::Walk;
use crate::constant::Constant;
use crate::graph::{Graph, ValueId};
use crate::passes::strided::{Axis, extent};
use crate::tensor_type::{DataType, TensorType};

/// What masks hide by, at most: e to its power is 0 beside every score.
pub(super) const HIDDEN: f32 = -1e30;

/// The most elements of a mask that is computed from several.
pub(super) const MAX_MASK: usize = 1 << 24;

/// What is added to the scores.
#[derive(Clone)]
pub(super) struct Mask {
    pub(super) source: Source,
    /// Its axes over the scores as they are where it is added.
    pub(super) axes: Vec<Axis>,
}

#[derive(Clone)]
pub(super) enum Source {
    /// Elements of a value, from this one on.
    Value(ValueId, usize),
    /// Where the condition is true, or false, this number, elsewhere 0.
    Hidden { condition: ValueId, offset: usize, when: bool, by: f32 },
}

/// Whether no row is hidden whole by a condition, which must be a constant.
pub(super) fn leaves_each_row_something(graph: &Graph, condition: ValueId, when: bool) -> bool {
    let Some(constant) = graph.constant(Some(condition)) else { return false };
    let row = constant.ty().shape.last().copied().unwrap_or(1).max(1);
    constant.data().chunks(row).all(|row| row.iter().any(|&byte| (byte != 0) != when))
}

/// What a constant mask comes to.
pub(super) enum Known {
    Nothing,
    Causal(Causal),
}

/// Hides the keys beyond the row's number plus `offset`.
#[derive(PartialEq)]
pub(super) struct Causal {
    pub(super) offset: usize,
    pub(super) rows: usize,
    /// The leading axes of the scores where the mask is added.
    pub(super) lead: Vec<usize>,
}

pub(super) fn constant_mask(graph: &Graph, mask: &Mask) -> Option<Known> {
    let (over, [row_axis, key_axis]) = mask.axes.split_last_chunk::<2>()?;
    let (rows, keys) = (extent(row_axis), extent(key_axis));
    let number = number_of(graph, &mask.source)?;
    let (rows_apart, keys_apart) = (single(row_axis)?, single(key_axis)?);
    if over.iter().flatten().any(|run| run.stride != 0) {
        return None;
    }
    let at = |row: usize, key: usize| number(row * rows_apart + key * keys_apart);
    let shown = (0..keys).take_while(|&key| at(0, key) == 0.0).count();
    if shown == keys {
        let nothing = (0..rows).all(|row| (0..keys).all(|key| at(row, key) == 0.0));
        return nothing.then_some(Known::Nothing);
    }
    let offset = shown.checked_sub(1)?;
    let is_causal = (0..rows).all(|row| {
        (0..keys).all(|key| match key <= row + offset {
            true => at(row, key) == 0.0,
            false => at(row, key) <= HIDDEN,
        })
    });
    let lead = over.iter().map(|axis| extent(axis)).collect();
    is_causal.then_some(Known::Causal(Causal { offset, rows, lead }))
}

/// The elements of a constant mask, by their number from its beginning.
pub(super) fn number_of<'g>(graph: &'g Graph, source: &Source) -> Option<Box<dyn Fn(usize) -> f32 + 'g>> {
    match *source {
        Source::Value(id, offset) => {
            let values = graph.constant(Some(id))?.values::<f32>();
            Some(Box::new(move |index| values[offset + index]))
        }
        Source::Hidden { condition, offset, when, by } => {
            let bytes = graph.constant(Some(condition))?.data();
            Some(Box::new(move |index| if (bytes[offset + index] != 0) == when { by } else { 0.0 }))
        }
    }
}

/// The sum of several constant masks, and how it lies over the axes of `walk`.
pub(super) fn combined(
    graph: &Graph,
    masks: &[Mask],
    walk: &Walk,
    key_strides: &[usize],
    keys: usize,
) -> Option<(Constant, HeadView)> {
    let numbers: Option<Vec<_>> = masks.iter().map(|mask| number_of(graph, &mask.source)).collect();
    let numbers = numbers?;
    let operands: Vec<usize> = (4..4 + masks.len()).collect();
    // The leading axes, then the rows.
    let mut extents: Vec<usize> = walk.axes.iter().map(|axis| axis.extent).collect();
    for (extent, axis) in extents.iter_mut().zip(&walk.axes) {
        if operands.iter().all(|&operand| axis.strides[operand] == 0) {
            *extent = 1;
        }
    }
    let count = extents.iter().try_fold(keys, |n, &e| n.checked_mul(e)).filter(|&n| n <= MAX_MASK)?;
    let mut values = Vec::with_capacity(count);
    for index in 0..count {
        let (key, mut rest) = (index % keys, index / keys);
        let mut at: Vec<usize> = key_strides.iter().map(|stride| stride * key).collect();
        for (axis, &extent) in walk.axes.iter().zip(&extents).rev() {
            let position = rest % extent;
            rest /= extent;
            at.iter_mut().zip(&operands).for_each(|(at, &o)| *at += position * axis.strides[o]);
        }
        values.push(numbers.iter().zip(at).map(|(number, at)| number(at)).sum::<f32>());
    }
    let mut strides = vec![0_u64; extents.len()];
    let mut stride = keys as u64;
    for (slot, &extent) in strides.iter_mut().zip(&extents).rev() {
        if extent > 1 {
            *slot = stride;
        }
        stride *= extent as u64;
    }
    let mut lead = [0; LEAD];
    let (row, before) = strides.split_last()?;
    lead[LEAD - before.len()..].copy_from_slice(before);
    let constant = Constant::checked(TensorType::new(DataType::F32, [count]), &values)?;
    Some((constant, HeadView { offset: 0, lead, row: *row, element: 1 }))
}
