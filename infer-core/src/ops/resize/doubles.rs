//! Resizing of f64, for which there are no kernels: axis by axis, with the taps of the kernels.

use super::super::NodeValues;
use super::super::elements::{around, expect_elements, with_types};
use super::super::number::tensor_of;
use super::{Resize, ResizeMode};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};

impl Resize {
    /// Whether the elements are interpolated in f64.
    pub(super) fn is_of_doubles(&self, ty: &TensorType) -> bool {
        self.mode != ResizeMode::Nearest && ty.dtype == DataType::F64
    }

    /// The result for an input of f64.
    pub(super) fn resize_doubles(&self, node: &NodeValues<'_>, input: &Constant) -> Result<Constant, Reason> {
        let axes = with_types(node, |types| self.plan(types))?;
        let mut shape = input.ty().shape.clone();
        let mut values = input.values::<f64>().into_owned();
        for (index, axis) in axes.iter().enumerate().filter(|(_, axis)| !axis.is_identity()) {
            let (outer, length, inner) = around(&shape, index);
            shape[index] = axis.output;
            let border = f64::from(self.extrapolation_value);
            let mut result = vec![border; expect_elements(&shape, size_of::<f64>())?];
            let taps = self.taps(axis)?;
            for (outer, (row, at)) in
                (0..outer).flat_map(|outer| taps.inside.clone().enumerate().map(move |row| (outer, row)))
            {
                let chosen = row * taps.each..(row + 1) * taps.each;
                for lane in 0..inner {
                    let terms = chosen.clone().map(|tap| {
                        let from = (outer * length + taps.indices[tap] as usize) * inner + lane;
                        f64::from(taps.weights[tap]) * values[from]
                    });
                    result[(outer * axis.output + at) * inner + lane] = terms.sum();
                }
            }
            values = result;
        }
        tensor_of(DataType::F64, &shape, &values)
    }
}
