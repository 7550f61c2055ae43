//! Reductions over axes, and the positions of extremes along one.
//!
//! Specification: <https://onnx.ai/onnx/operators/>, one page an operator.
//! Types: f32; sums, means, products and extremes of f64, i32 and i64 too. f16 and bf16 compute in f32, smaller
//! integers in i32; extremes of bool are whether all or any are true. The rest is written as other operators.
//! History: negative axes since opset 11; axes are an input since 13 (ReduceSum) or 18 (the others), with
//! `noop_with_empty_axes`; bool since 20; `select_last_index` since 12.

use infer_kernels::call::{Axis, MAX_RANK, Pool, Reduce as Params};

use super::compose::{cast, scalar};
use super::element_type::{compute_type, converted, expect_kernel, with_output};
use super::number::{Rules, Scalar, of_scalars, tensor_of};
use crate::calls::{Blocked, LowerNode, Tensor};
use crate::diagnostic::Reason;
use crate::ops::{
    Blocking, Expansion, ImportNode, NodeTypes, Operator, Row, Wire, resolve_axes, resolve_axis,
};
use crate::tensor_type::{DataType, TensorType};

macro_rules! kinds {
    ($($kind:ident $name:literal $family:literal $doc:literal;)*) => {
        /// Which reduction.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ReduceKind {
            $(#[doc = $doc] $kind,)*
        }

        /// Each reduction's name in ONNX and in the kernels.
        const KINDS: &[(ReduceKind, &str, &str)] = &[$((ReduceKind::$kind, $name, $family),)*];

        /// The rows of the operator table.
        pub const OPERATORS: &[Row] = &[
            $(Row { name: $name, domain: "", since: 1, inputs: 1..=2, outputs: 1..=1, import },)*
            Row { name: "ArgMax", domain: "", since: 1, inputs: 1..=1, outputs: 1..=1, import: import_arg },
            Row { name: "ArgMin", domain: "", since: 1, inputs: 1..=1, outputs: 1..=1, import: import_arg },
        ];
    };
}

kinds! {
    L1 "ReduceL1" "reduce_l1" "Σ |x|";
    L2 "ReduceL2" "reduce_l2" "√(Σ x²)";
    LogSum "ReduceLogSum" "reduce_log_sum" "ln Σ x";
    LogSumExp "ReduceLogSumExp" "reduce_log_sum_exp" "ln Σ eˣ";
    Max "ReduceMax" "reduce_max" "The greatest";
    Mean "ReduceMean" "reduce_mean" "The mean";
    Min "ReduceMin" "reduce_min" "The least";
    Prod "ReduceProd" "reduce_prod" "The product";
    Sum "ReduceSum" "reduce_sum" "Σ x";
    SumSquare "ReduceSumSquare" "reduce_sum_square" "Σ x²";
}

/// A reduction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reduce {
    /// Which.
    pub kind: ReduceKind,
    /// The axes where they are an attribute; `None` where they are left out or input 1 has them.
    pub axes: Option<Vec<i64>>,
    /// Whether reduced axes stay, with extent 1.
    pub keepdims: bool,
    /// Whether no axes means none, instead of all.
    pub noop_with_empty_axes: bool,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let known = KINDS.iter().find(|(_, name, _)| *name == node.op_type);
    let &(kind, ..) = known.ok_or_else(|| Reason::new(format!("{} is no reduction", node.op_type)))?;
    let has_input = node.opset >= if kind == ReduceKind::Sum { 13 } else { 18 };
    if !has_input && node.inputs.len() > 1 {
        return Err(Reason::new(format!("axes are an attribute in opset {}, not an input", node.opset)));
    }
    Ok(Box::new(Reduce {
        kind,
        axes: if has_input { None } else { node.attributes.ints("axes")? },
        keepdims: node.attributes.flag("keepdims", true)?,
        noop_with_empty_axes: has_input && node.attributes.flag("noop_with_empty_axes", false)?,
    }))
}

impl Reduce {
    fn names(&self) -> (&'static str, &'static str) {
        KINDS
            .iter()
            .find(|(kind, ..)| *kind == self.kind)
            .map_or(("", ""), |&(_, name, family)| (name, family))
    }

    /// For each axis of the input whether it is reduced.
    pub fn reduced(&self, node: &NodeTypes<'_>) -> Result<Vec<bool>, Reason> {
        let rank = node.ty(0)?.rank();
        let axes = match &self.axes {
            Some(axes) => axes.clone(),
            None => node.known_i64s(1, "axes")?.unwrap_or_default(),
        };
        if axes.is_empty() {
            return Ok(vec![!self.noop_with_empty_axes; rank]);
        }
        let axes = resolve_axes(&axes, rank)?;
        Ok((0..rank).map(|axis| axes.contains(&axis)).collect())
    }

    /// The family of the kernel for elements of `ty`, and the type it computes in.
    fn kernel(&self, ty: &TensorType) -> Result<(&'static str, DataType), Reason> {
        match (self.kind, ty.dtype) {
            // Whether any is true: no truths at all give false, where the greatest of no integers would be true.
            (ReduceKind::Max, DataType::Bool) => Ok(("reduce_sum", DataType::I64)),
            (ReduceKind::Min, DataType::Bool) => Ok(("reduce_min", DataType::I32)),
            _ => Ok((self.names().1, expect_kernel(self.names().1, ty)?)),
        }
    }

    /// Whether it is the mean of each channel of a picture.
    fn is_global_average(&self, node: &NodeTypes<'_>) -> bool {
        let picture = node.ty(0).is_ok_and(|ty| ty.dtype == DataType::F32 && ty.elements() > 0);
        let spatial = self.reduced(node).is_ok_and(|reduced| reduced == [false, false, true, true]);
        picture && spatial && self.kind == ReduceKind::Mean && self.keepdims
    }
}

impl Reduce {
    /// A reduction of `x` over the same axes.
    fn reduce(&self, nodes: &mut Expansion<'_>, name: &str, x: Wire, keepdims: bool) -> Result<Wire, Reason> {
        let axes = match &self.axes {
            Some(axes) => Some(nodes.i64s(axes)),
            None => nodes.optional_input(1),
        };
        let attributes = [
            ("keepdims", i64::from(keepdims).into()),
            ("noop_with_empty_axes", i64::from(self.noop_with_empty_axes).into()),
        ];
        let outputs = nodes.nodes_of("", name, &[Some(x), axes], &attributes, 1)?;
        outputs.first().copied().ok_or_else(|| Reason::new(format!("{name} gives no output")))
    }

    /// A reduction without a kernel, of f64 or i64.
    fn compose(&self, nodes: &mut Expansion<'_>, x: Wire) -> Result<Wire, Reason> {
        let keep = self.keepdims;
        match self.kind {
            ReduceKind::L1 => {
                let magnitude = nodes.node("Abs", &[x], &[])?;
                self.reduce(nodes, "ReduceSum", magnitude, keep)
            }
            ReduceKind::SumSquare | ReduceKind::L2 => {
                let square = nodes.node("Mul", &[x, x], &[])?;
                let sum = self.reduce(nodes, "ReduceSum", square, keep)?;
                if self.kind == ReduceKind::L2 { nodes.node("Sqrt", &[sum], &[]) } else { Ok(sum) }
            }
            ReduceKind::LogSum => {
                let sum = self.reduce(nodes, "ReduceSum", x, keep)?;
                nodes.node("Log", &[sum], &[])
            }
            ReduceKind::LogSumExp => {
                // The greatest is taken out of the sum, which would overflow; where it is infinite, the largest
                // number instead, so that no difference of infinities arises.
                let dtype = nodes.ty(x)?.dtype;
                let (low, high) = (scalar(nodes, dtype, f64::MIN)?, scalar(nodes, dtype, f64::MAX)?);
                let greatest = self.reduce(nodes, "ReduceMax", x, true)?;
                let greatest = nodes.node("Clip", &[greatest, low, high], &[])?;
                let difference = nodes.node("Sub", &[x, greatest], &[])?;
                let power = nodes.node("Exp", &[difference], &[])?;
                let sum = self.reduce(nodes, "ReduceSum", power, keep)?;
                let log = nodes.node("Log", &[sum], &[])?;
                let greatest = self.reduce(nodes, "ReduceMax", x, keep)?;
                let greatest = nodes.node("Clip", &[greatest, low, high], &[])?;
                nodes.node("Add", &[log, greatest], &[])
            }
            ReduceKind::Max | ReduceKind::Mean | ReduceKind::Min | ReduceKind::Prod | ReduceKind::Sum => {
                self.reduce(nodes, self.names().0, x, keep)
            }
        }
    }

    /// Reductions of u64, in i64: sums and products have the same bits, extremes the same order where 2⁶³ is taken off.
    fn compose_u64(&self, nodes: &mut Expansion<'_>, x: Wire) -> Result<Wire, Reason> {
        match self.kind {
            ReduceKind::Max | ReduceKind::Min => {
                let shifted = shifted(nodes, x)?;
                let extreme = self.reduce(nodes, self.names().0, shifted, self.keepdims)?;
                let least = i64_scalar(nodes, i64::MIN)?;
                let back = nodes.node("Sub", &[extreme, least], &[])?;
                cast(nodes, back, DataType::U64)
            }
            ReduceKind::L2 | ReduceKind::LogSum | ReduceKind::LogSumExp => {
                let x = cast(nodes, x, DataType::F64)?;
                let result = self.compose(nodes, x)?;
                cast(nodes, result, DataType::U64)
            }
            ReduceKind::L1
            | ReduceKind::Sum
            | ReduceKind::Prod
            | ReduceKind::SumSquare
            | ReduceKind::Mean => {
                let signed = cast(nodes, x, DataType::I64)?;
                let sum = match self.kind {
                    ReduceKind::Prod => self.reduce(nodes, "ReduceProd", signed, self.keepdims)?,
                    ReduceKind::SumSquare => self.compose(nodes, signed)?,
                    _ => self.reduce(nodes, "ReduceSum", signed, self.keepdims)?,
                };
                let sum = cast(nodes, sum, DataType::U64)?;
                if self.kind != ReduceKind::Mean {
                    return Ok(sum);
                }
                let count = nodes.ty(x)?.elements() / nodes.ty(sum)?.elements().max(1);
                let count = Scalar::Integer(count as i128);
                let ty = TensorType::new(DataType::U64, []);
                let count = of_scalars(ty, std::iter::once(count), Rules::default())?;
                let count = nodes.constant(count);
                nodes.node("Div", &[sum, count], &[])
            }
        }
    }
}

fn i64_scalar(nodes: &mut Expansion<'_>, value: i64) -> Result<Wire, Reason> {
    Ok(nodes.constant(tensor_of(DataType::I64, &[], &[value])?))
}

/// `x`, of u64, less 2⁶³ as i64, which keeps the order.
fn shifted(nodes: &mut Expansion<'_>, x: Wire) -> Result<Wire, Reason> {
    let signed = cast(nodes, x, DataType::I64)?;
    let least = i64_scalar(nodes, i64::MIN)?;
    nodes.node("Add", &[signed, least], &[])
}

impl Operator for Reduce {
    fn name(&self) -> &'static str {
        self.names().0
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let dtype = nodes.types.ty(0)?.dtype;
        if dtype == DataType::Bool || compute_type(self.names().1, dtype).is_some() {
            return Ok(None);
        }
        let x = nodes.input(0)?;
        let result = match dtype {
            DataType::U64 => self.compose_u64(nodes, x)?,
            DataType::F64 => self.compose(nodes, x)?,
            DataType::I8
            | DataType::U8
            | DataType::I16
            | DataType::U16
            | DataType::I32
            | DataType::U32
            | DataType::I64 => {
                let roots = matches!(self.kind, ReduceKind::L2 | ReduceKind::LogSum | ReduceKind::LogSumExp);
                let x = cast(nodes, x, if roots { DataType::F64 } else { DataType::I64 })?;
                let result = self.compose(nodes, x)?;
                cast(nodes, result, dtype)?
            }
            _ => return Ok(None),
        };
        Ok(Some(vec![result]))
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let input = node.ty(0)?;
        self.kernel(input)?;
        let reduced = self.reduced(node)?;
        let extents = input.shape.iter().zip(reduced);
        let shape: Vec<usize> = match self.keepdims {
            true => extents.map(|(&extent, reduced)| if reduced { 1 } else { extent }).collect(),
            false => extents.filter(|(_, reduced)| !reduced).map(|(&extent, _)| extent).collect(),
        };
        Ok(vec![TensorType::new(input.dtype, shape)])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        if let (Some(from), Some(to)) = (input.blocked, output.blocked) {
            average_pictures(node, (&input, from), (&output, to));
            return Ok(());
        }
        let reduced = node.with_types(|types| self.reduced(types))?;
        let params = collapse(&input.ty, &reduced).ok_or_else(|| {
            Reason::new(format!("more than {MAX_RANK} separate dimensions in {}", input.ty))
        })?;
        let (family, dtype) = self.kernel(&input.ty)?;
        let x = converted(node, &input, dtype)?;
        with_output(node, &output, dtype, |node, out| {
            node.call(format!("{family}_{dtype}"), &params, &[Some(x.span), Some(out.span)]);
            Ok(())
        })
    }

    fn blocking(&self, node: &NodeTypes<'_>) -> Blocking {
        if self.is_global_average(node) { Blocking::Follows } else { Blocking::Never }
    }
}

/// Averages each channel of a blocked picture: pooling with the whole picture as its window.
fn average_pictures(
    node: &mut LowerNode<'_>,
    (input, from): (&Tensor, Blocked),
    (output, to): (&Tensor, Blocked),
) {
    let [n, channels, h, w] = crate::calls::picture(&input.ty).map(|extent| extent as u64);
    let pool = Pool {
        n,
        blocks: channels.div_ceil(from.block as u64),
        in_h: h,
        in_w: w,
        out_h: 1,
        out_w: 1,
        kernel: [h, w],
        stride: [1, 1],
        dilation: [1, 1],
        input: from.view,
        output: to.view,
        ..Pool::default()
    };
    node.call("average_pool_f32", &pool, &[Some(input.span), Some(output.span)]);
}

/// The call's parameters: neighbouring axes of a kind merged, axes of extent 1 dropped; `None` where more than
/// [`MAX_RANK`] of a kind remain.
fn collapse(ty: &TensorType, reduced: &[bool]) -> Option<Params> {
    let mut axes: Vec<(bool, u64, u64)> = Vec::new();
    for ((&extent, stride), &reduced) in ty.shape.iter().zip(ty.strides()).zip(reduced) {
        match axes.last_mut() {
            _ if extent == 1 => {}
            Some((kind, merged, inner)) if *kind == reduced => {
                *merged *= extent as u64;
                *inner = stride as u64;
            }
            _ => axes.push((reduced, extent as u64, stride as u64)),
        }
    }
    let mut params = Params::default();
    for (reduced, extent, stride) in axes {
        let (rank, dims, strides) = match reduced {
            true => (&mut params.reduced_rank, &mut params.reduced_dims, &mut params.reduced_strides),
            false => (&mut params.kept_rank, &mut params.kept_dims, &mut params.kept_strides),
        };
        *dims.get_mut(*rank as usize)? = extent;
        *strides.get_mut(*rank as usize)? = stride;
        *rank += 1;
    }
    Some(params)
}

/// ArgMax or ArgMin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgExtreme {
    /// Whether the greatest is looked for, not the least.
    pub greatest: bool,
    /// The axis.
    pub axis: i64,
    /// Whether the axis stays, with extent 1.
    pub keepdims: bool,
    /// Whether the last of equal extremes is selected.
    pub select_last_index: bool,
}

fn import_arg(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(ArgExtreme {
        greatest: node.op_type == "ArgMax",
        axis: node.attributes.int("axis")?.unwrap_or(0),
        keepdims: node.attributes.flag("keepdims", true)?,
        select_last_index: node.attributes.flag("select_last_index", false)?,
    }))
}

impl ArgExtreme {
    fn family(&self) -> &'static str {
        if self.greatest { "arg_max" } else { "arg_min" }
    }
}

impl Operator for ArgExtreme {
    fn name(&self) -> &'static str {
        if self.greatest { "ArgMax" } else { "ArgMin" }
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        if nodes.types.ty(0)?.dtype != DataType::U64 {
            return Ok(None);
        }
        let x = nodes.input(0)?;
        let x = shifted(nodes, x)?;
        let attributes = [
            ("axis", self.axis.into()),
            ("keepdims", i64::from(self.keepdims).into()),
            ("select_last_index", i64::from(self.select_last_index).into()),
        ];
        Ok(Some(vec![nodes.node(self.name(), &[x], &attributes)?]))
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let input = node.ty(0)?;
        expect_kernel(self.family(), input)?;
        let axis = resolve_axis(self.axis, input.rank())?;
        let mut shape = input.shape.clone();
        if shape[axis] == 0 {
            return Err(Reason::new(format!("axis {axis} of {input} has no elements to choose from")));
        }
        if self.keepdims {
            shape[axis] = 1;
        } else {
            shape.remove(axis);
        }
        Ok(vec![TensorType::new(DataType::I64, shape)])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        let dtype = expect_kernel(self.family(), &input.ty)?;
        let x = converted(node, &input, dtype)?;
        let mut params = along(&input.ty, resolve_axis(self.axis, input.ty.rank())?);
        params.select_last = self.select_last_index.into();
        node.call(format!("{}_{dtype}", self.family()), &params, &[Some(x.span), Some(output.span)]);
        Ok(())
    }
}

/// A call along axis `axis` of `ty`.
pub(super) fn along(ty: &TensorType, axis: usize) -> Axis {
    let count = |extents: &[usize]| extents.iter().product::<usize>() as u64;
    let (outer, inner) = (count(&ty.shape[..axis]), count(&ty.shape[axis + 1..]));
    Axis { outer, axis: ty.shape[axis] as u64, inner, select_last: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test_support::{bools, check, f32s, i64s, import, infer, tensor};
    use crate::ops::{Attribute, InputType};

    fn axes(axes: &[i64], keepdims: i64) -> [(&'static str, Attribute); 2] {
        [("axes", Attribute::Ints(axes.to_vec())), ("keepdims", Attribute::Int(keepdims))]
    }

    #[test]
    fn reductions_compute_what_onnx_says() {
        let x = f32s([2, 2], &[1.0, -2.0, 3.0, 4.0]);
        let cases: &[(&str, [f32; 2])] = &[
            ("ReduceL1", [3.0, 7.0]),
            ("ReduceL2", [2.236_068, 5.0]),
            ("ReduceLogSum", [f32::NAN, 1.945_910_1]),
            ("ReduceLogSumExp", [1.048_587_4, 4.313_261_5]),
            ("ReduceMax", [1.0, 4.0]),
            ("ReduceMean", [-0.5, 3.5]),
            ("ReduceMin", [-2.0, 3.0]),
            ("ReduceProd", [-2.0, 12.0]),
            ("ReduceSum", [-1.0, 7.0]),
            ("ReduceSumSquare", [5.0, 25.0]),
        ];
        for (name, expected) in cases {
            check((name, 11), &axes(&[1], 0), &[&x], &f32s([2], expected));
            check((name, 18), &[], &[x.clone(), i64s([1], &[-1])], &f32s([2, 1], expected));
        }
        assert_eq!(cases.len() + 2, OPERATORS.len());
    }

    #[test]
    fn axes_may_be_any() {
        // x[i, j, k, l] = 24·i + 12·j + 4·k + l over 2×2×3×4, reduced over alternate axes.
        let x = f32s([2, 2, 3, 4], &(0..48).map(|i| i as f32).collect::<Vec<_>>());
        let by_hand: Vec<f32> = (0..8)
            .map(|at| {
                let (i, l) = (at / 4, at % 4);
                (0..6).map(|jk| (24 * i + 12 * (jk / 3) + 4 * (jk % 3) + l) as f32).sum()
            })
            .collect();
        check(("ReduceSum", 11), &axes(&[1, 2], 0), &[&x], &f32s([2, 4], &by_hand));
        let alternate: Vec<f32> = (0..6)
            .map(|at| {
                let (j, k) = (at / 3, at % 3);
                (0..8).map(|il| (24 * (il / 4) + 12 * j + 4 * k + il % 4) as f32).fold(f32::MIN, f32::max)
            })
            .collect();
        check(("ReduceMax", 18), &[], &[x.clone(), i64s([2], &[0, -1])], &f32s([1, 2, 3, 1], &alternate));
        check(("ReduceMean", 13), &[], &[&x], &f32s([1, 1, 1, 1], &[23.5]));
        check(("ReduceMean", 13), &[("keepdims", Attribute::Int(0))], &[x], &f32s([], &[23.5]));
    }

    #[test]
    fn no_axes_are_all_or_none() {
        let (x, none) = (f32s([2], &[3.0, -4.0]), i64s([0], &[]));
        let noop = [("noop_with_empty_axes", Attribute::Int(1))];
        check(("ReduceSum", 13), &[], &[x.clone(), none.clone()], &f32s([1], &[-1.0]));
        check(("ReduceSum", 13), &noop, &[x.clone(), none.clone()], &x);
        check(("ReduceSumSquare", 18), &noop, &[x, none], &f32s([2], &[9.0, 16.0]));
        let empty = f32s([2, 0], &[]);
        check(("ReduceSum", 13), &[], &[empty.clone(), i64s([1], &[1])], &f32s([2, 1], &[0.0, 0.0]));
        check(("ReduceMax", 20), &[], &[empty, i64s([1], &[1])], &f32s([2, 1], &[f32::NEG_INFINITY; 2]));
    }

    #[test]
    fn other_types_keep_their_own() {
        let big = i64s([2], &[1 << 60, 1]);
        check(("ReduceSum", 13), &[], &[big], &i64s([1], &[(1 << 60) + 1]));
        let bytes = tensor(DataType::U8, [3], &[7u8, 250, 3]);
        check(("ReduceMax", 18), &[], &[bytes], &tensor(DataType::U8, [1], &[250u8]));
        check(("ReduceMin", 20), &[], &[bools([2], &[true, false])], &bools([1], &[false]));
        check(("ReduceMax", 20), &[], &[bools([2], &[true, false])], &bools([1], &[true]));
        check(("ReduceMax", 20), &[], &[bools([0], &[])], &bools([1], &[false]));
        assert!(infer(("ReduceSum", 13), &[], &[TensorType::new(DataType::Bool, [2])]).is_err());
    }

    #[test]
    fn extremes_are_found() {
        let x = f32s([2, 3], &[2.0, 7.0, 7.0, -1.0, -1.0, 0.0]);
        let last = [("axis", Attribute::Int(-1)), ("select_last_index", Attribute::Int(1))];
        check(("ArgMax", 13), &last, &[&x], &i64s([2, 1], &[2, 2]));
        check(("ArgMin", 13), &last, &[&x], &i64s([2, 1], &[0, 1]));
        check(("ArgMax", 13), &[("keepdims", Attribute::Int(0))], &[x], &i64s([3], &[0, 0, 0]));
        let bytes = tensor(DataType::U8, [3], &[7u8, 250, 3]);
        check(("ArgMax", 13), &[], &[bytes], &i64s([1], &[1]));
    }

    #[test]
    fn wrong_axes_are_refused() {
        let x = || TensorType::new(DataType::F32, [2, 3]);
        assert!(infer(("ReduceSum", 11), &axes(&[2], 1), &[x()]).unwrap_err().what.contains("axis 2"));
        assert!(infer(("ReduceSum", 11), &axes(&[1, -1], 1), &[x()]).unwrap_err().what.contains("twice"));
        let unknown = infer(("ReduceSum", 13), &[], &[x(), TensorType::new(DataType::I64, [1])]).unwrap_err();
        assert!(unknown.what.contains("known only at run time"), "{}", unknown.what);
        let empty = infer(("ArgMax", 13), &[], &[TensorType::new(DataType::F32, [0, 3])]);
        assert_eq!(empty.unwrap_err().what, "axis 0 of f32[0,3] has no elements to choose from");
        assert!(import(("ReduceMean", 17), &[], 2, 1).is_err());
    }

    #[test]
    fn means_of_pictures_follow_the_layout() {
        let ty = TensorType::new(DataType::F32, [1, 20, 5, 7]);
        let inputs = [Some(InputType { ty: &ty, constant: None })];
        let node = NodeTypes { inputs: &inputs, outputs: &[true] };
        let mean = Reduce {
            kind: ReduceKind::Mean,
            axes: Some(vec![2, -1]),
            keepdims: true,
            noop_with_empty_axes: false,
        };
        assert_eq!(mean.blocking(&node), Blocking::Follows);
        assert_eq!(Reduce { keepdims: false, ..mean.clone() }.blocking(&node), Blocking::Never);
        assert_eq!(Reduce { kind: ReduceKind::Max, ..mean.clone() }.blocking(&node), Blocking::Never);
        assert_eq!(Reduce { axes: Some(vec![3]), ..mean }.blocking(&node), Blocking::Never);
    }

    #[test]
    fn types_without_kernels_are_composed() {
        let doubles = |values: [f64; 2]| tensor(DataType::F64, [2], &values);
        let all = axes(&[0], 0);
        let double = |name: &str, values| {
            let y = crate::ops::test_support::run((name, 13), &all, &[doubles(values)]).unwrap();
            y.values::<f64>()[0]
        };
        assert_eq!(double("ReduceL1", [-3.0, 4.0]), 7.0);
        assert_eq!(double("ReduceL2", [-3.0, 4.0]), 5.0);
        assert_eq!(double("ReduceSumSquare", [-3.0, 4.0]), 25.0);
        assert_eq!(double("ReduceLogSum", [0.25, 0.75]), 0.0);
        assert_eq!(double("ReduceLogSumExp", [1000.0, 1000.0]), 1000.0 + std::f64::consts::LN_2);
        assert_eq!(double("ReduceLogSumExp", [f64::NEG_INFINITY; 2]), f64::NEG_INFINITY);
        let longs = |values: &[u64]| tensor(DataType::U64, [2], values);
        let long = |value: u64| tensor(DataType::U64, [], &[value]);
        let large = longs(&[u64::MAX, 1]);
        check(("ReduceMax", 13), &all, &[&large], &long(u64::MAX));
        check(("ReduceMin", 13), &all, &[&large], &long(1));
        check(("ReduceSum", 11), &all, &[&large], &long(0));
        check(("ReduceMean", 13), &all, &[longs(&[3, 5])], &long(4));
        check(("ArgMax", 13), &axes(&[0], 0)[1..], &[&large], &i64s([], &[0]));
        let ints = tensor(DataType::I32, [2], &[-3i32, 4]);
        check(("ReduceL1", 13), &all, &[&ints], &tensor(DataType::I32, [], &[7i32]));
        check(("ReduceL2", 13), &all, &[&ints], &tensor(DataType::I32, [], &[5i32]));
    }
}
