//! Reshape, Flatten, Squeeze, Unsqueeze and Identity: the same elements under another shape.
//!
//! Axes and shapes are attributes in old opsets, inputs in newer ones (Squeeze and Unsqueeze since 13).

use super::movement::{extent, result_type};
use super::{
    Blocking, ImportNode, NodeTypes, NodeValues, Operator, Row, StringUse, resolve_axes, resolve_axis,
};
use crate::calls::LowerNode;
use crate::diagnostic::Reason;
use crate::tensor_type::TensorType;
use crate::value::Value;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[
    Row { name: "Reshape", domain: "", since: 5, inputs: 2..=2, outputs: 1..=1, import: import_reshape },
    Row { name: "Flatten", domain: "", since: 1, inputs: 1..=1, outputs: 1..=1, import: import_flatten },
    Row { name: "Squeeze", domain: "", since: 1, inputs: 1..=2, outputs: 1..=1, import: import_squeeze },
    Row { name: "Unsqueeze", domain: "", since: 1, inputs: 1..=2, outputs: 1..=1, import: import_unsqueeze },
    Row {
        name: "Identity",
        domain: "",
        since: 1,
        inputs: 1..=1,
        outputs: 1..=1,
        import: |_| Ok(Box::new(Identity)),
    },
];

/// Reshape.
#[derive(Debug)]
pub struct Reshape {
    /// Whether 0 in the shape means an empty axis, not the input's extent.
    pub allow_zero: bool,
}

/// Flatten to a matrix.
#[derive(Debug)]
pub struct Flatten {
    /// The first axis of the columns.
    pub axis: i64,
}

/// Squeeze: removes axes of extent 1.
#[derive(Debug)]
pub struct Squeeze {
    /// Which axes, where the model says so by an attribute.
    pub axes: Option<Vec<i64>>,
}

/// Unsqueeze: inserts axes of extent 1.
#[derive(Debug)]
pub struct Unsqueeze {
    /// Which axes of the output, where the model says so by an attribute.
    pub axes: Option<Vec<i64>>,
}

/// Identity.
#[derive(Debug)]
pub struct Identity;

fn import_reshape(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(Reshape { allow_zero: node.attributes.flag("allowzero", false)? }))
}

fn import_flatten(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(Flatten { axis: node.attributes.int("axis")?.unwrap_or(1) }))
}

fn import_squeeze(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(Squeeze { axes: node.attributes.ints("axes")? }))
}

fn import_unsqueeze(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(Unsqueeze { axes: node.attributes.ints("axes")? }))
}

impl Operator for Reshape {
    fn name(&self) -> &'static str {
        "Reshape"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let ty = node.ty(0)?;
        let wanted = node.known_i64s(1, "shape")?.ok_or_else(|| Reason::new("input `shape` is missing"))?;
        let mismatch = || Reason::new(format!("{ty} cannot be reshaped to {wanted:?}"));
        let mut shape = Vec::with_capacity(wanted.len());
        let mut unknown = None;
        for (axis, &value) in wanted.iter().enumerate() {
            shape.push(match value {
                0 if !self.allow_zero => *ty.shape.get(axis).ok_or_else(mismatch)?,
                -1 if unknown.replace(axis).is_some() => return Err(mismatch()),
                -1 => 1,
                _ => extent(value, "shape")?,
            });
        }
        if let Some(axis) = unknown {
            let rest = result_type(ty.dtype, shape.clone())?.elements();
            shape[axis] = ty.elements().checked_div(rest).ok_or_else(mismatch)?;
        }
        let result = result_type(ty.dtype, shape)?;
        if result.elements() != ty.elements() {
            return Err(mismatch());
        }
        Ok(vec![result])
    }

    fn lower(&self, _node: &mut LowerNode<'_>) -> Result<(), Reason> {
        Ok(())
    }

    fn is_view(&self) -> bool {
        true
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

impl Operator for Flatten {
    fn name(&self) -> &'static str {
        "Flatten"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let ty = node.ty(0)?;
        // The axis after the last stands for a single column.
        let axis =
            if self.axis == ty.rank() as i64 { ty.rank() } else { resolve_axis(self.axis, ty.rank())? };
        let (rows, columns) = ty.shape.split_at(axis);
        Ok(vec![result_type(ty.dtype, vec![rows.iter().product(), columns.iter().product()])?])
    }

    fn lower(&self, _node: &mut LowerNode<'_>) -> Result<(), Reason> {
        Ok(())
    }

    fn is_view(&self) -> bool {
        true
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

impl Operator for Squeeze {
    fn name(&self) -> &'static str {
        "Squeeze"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let ty = node.ty(0)?;
        let axes = match &self.axes {
            Some(axes) => Some(axes.clone()),
            None => node.known_i64s(1, "axes")?,
        };
        let removed = match axes {
            Some(axes) => resolve_axes(&axes, ty.rank())?,
            None => (0..ty.rank()).filter(|&axis| ty.shape[axis] == 1).collect(),
        };
        if let Some(axis) = removed.iter().find(|&&axis| ty.shape[axis] != 1) {
            return Err(Reason::new(format!("axis {axis} of {ty} is not 1 and cannot be squeezed")));
        }
        let kept = (0..ty.rank()).filter(|axis| !removed.contains(axis));
        Ok(vec![TensorType::new(ty.dtype, kept.map(|axis| ty.shape[axis]).collect::<Vec<_>>())])
    }

    fn lower(&self, _node: &mut LowerNode<'_>) -> Result<(), Reason> {
        Ok(())
    }

    fn is_view(&self) -> bool {
        true
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

impl Operator for Unsqueeze {
    fn name(&self) -> &'static str {
        "Unsqueeze"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let ty = node.ty(0)?;
        let axes = match &self.axes {
            Some(axes) => axes.clone(),
            None => node.known_i64s(1, "axes")?.ok_or_else(|| Reason::new("`axes` is missing"))?,
        };
        let rank = ty.rank() + axes.len();
        let inserted = resolve_axes(&axes, rank)?;
        let mut extents = ty.shape.iter().copied();
        let shape: Vec<usize> = (0..rank)
            .filter_map(|axis| if inserted.contains(&axis) { Some(1) } else { extents.next() })
            .collect();
        Ok(vec![TensorType::new(ty.dtype, shape)])
    }

    fn lower(&self, _node: &mut LowerNode<'_>) -> Result<(), Reason> {
        Ok(())
    }

    fn is_view(&self) -> bool {
        true
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

impl Operator for Identity {
    fn name(&self) -> &'static str {
        "Identity"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        Ok(vec![node.ty(0)?.clone()])
    }

    fn lower(&self, _node: &mut LowerNode<'_>) -> Result<(), Reason> {
        Ok(())
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        Ok(Some(vec![node.value(0)?.clone()]))
    }

    fn is_view(&self) -> bool {
        true
    }

    fn blocking(&self, _node: &NodeTypes<'_>) -> Blocking {
        Blocking::Follows
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

#[cfg(test)]
mod tests {
    use super::super::Attribute;
    use super::super::test_support::{check, f32s, i64s, infer, run, tensor};
    use super::*;
    use crate::tensor_type::DataType;

    #[test]
    fn shapes_follow_from_constants() {
        let data = |shape: [usize; 3]| f32s(shape, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        check(("Reshape", 7), &[], &[data([1, 2, 3]), i64s([2], &[-1, 2])], &f32s([3, 2], &values));
        check(("Reshape", 13), &[], &[data([2, 1, 3]), i64s([3], &[0, 3, -1])], &f32s([2, 3, 1], &values));
        for (axis, shape) in [(0, [1, 6]), (1, [2, 3]), (-1, [2, 3]), (3, [6, 1])] {
            check(
                ("Flatten", 13),
                &[("axis", Attribute::Int(axis))],
                &[data([2, 1, 3])],
                &f32s(shape, &values),
            );
        }
        let axes = [("axes", Attribute::Ints(vec![-2]))];
        check(("Squeeze", 11), &axes, &[data([2, 1, 3])], &f32s([2, 3], &values));
        check(("Squeeze", 13), &[], &[data([1, 6, 1])], &f32s([6], &values));
        check(
            ("Unsqueeze", 13),
            &[],
            &[data([2, 1, 3]), i64s([2], &[-1, 0])],
            &f32s([1, 2, 1, 3, 1], &values),
        );
        check(("Identity", 16), &[], &[data([2, 1, 3])], &data([2, 1, 3]));
    }

    #[test]
    fn zeros_in_a_shape_depend_on_allowzero() {
        let empty = f32s([0, 3], &[]);
        check(("Reshape", 13), &[], &[empty.clone(), i64s([2], &[0, 5])], &f32s([0, 5], &[]));
        let allow = [("allowzero", Attribute::Int(1))];
        check(("Reshape", 14), &allow, &[empty.clone(), i64s([2], &[3, 0])], &f32s([3, 0], &[]));
        assert!(run(("Reshape", 14), &allow, &[empty, i64s([2], &[0, -1])]).is_err());
    }

    #[test]
    fn impossible_shapes_are_refused() {
        let data = f32s([2, 3], &[0.0; 6]);
        let shapes: [&[i64]; 7] =
            [&[4], &[-1, -1], &[-2], &[-1, 4], &[0, 0, 0], &[i64::MAX, i64::MAX, -1], &[1 << 40, 0, -1]];
        for shape in shapes {
            let shape = tensor(DataType::I64, [shape.len()], shape);
            assert!(run(("Reshape", 13), &[], &[data.clone(), shape]).is_err());
        }
        assert!(run(("Squeeze", 13), &[], &[data.clone(), i64s([1], &[0])]).is_err());
        assert!(run(("Unsqueeze", 13), &[], &[data.clone(), i64s([2], &[0, 0])]).is_err());
        assert!(run(("Unsqueeze", 13), &[], std::slice::from_ref(&data)).is_err());
        let axis = [("axis", Attribute::Int(3))];
        assert!(infer(("Flatten", 13), &axis, &[data.ty().clone()]).is_err());
        let unknown = [data.ty().clone(), TensorType::new(DataType::I64, [2])];
        assert!(infer(("Reshape", 13), &[], &unknown).unwrap_err().what.contains("run time"));
    }
}
