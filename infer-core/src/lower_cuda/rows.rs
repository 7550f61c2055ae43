//! What runs on row-major tensors: elementwise functions with broadcasting, movement of elements, selection,
//! normalisation, reductions; and the way between rows and pictures.

use infer_kernels::call::{self, Activation};
use infer_kernels::cuda::plain::{Twin, twin};
use infer_kernels::cuda::{
    AXES, COUNTERS, ElementOp, ElementType, Elementwise, Gather as GatherCall, Layout, Norm, Reduction,
    ReductionKind,
};

use super::nodes::unsupported;
use super::pack::{self, padded};
use super::{Form, Lowering, Picture, int};
use crate::calls::{BufferKind, KernelCall, Span};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::graph::{Node, ValueId};
use crate::ops::binary::{Binary, BinaryKind};
use crate::ops::cast::Cast;
use crate::ops::clip::Clip;
use crate::ops::concat::Concat;
use crate::ops::expand::Expand;
use crate::ops::fused_attention::FusedAttention;
use crate::ops::gather::Gather;
use crate::ops::matmul::MatMul;
use crate::ops::normalization::LayerNormalization;
use crate::ops::reduce::{Reduce, ReduceKind};
use crate::ops::resolve_axis;
use crate::ops::slice::Slice;
use crate::ops::softmax::Softmax;
use crate::ops::split::Split;
use crate::ops::transpose::Transpose;
use crate::ops::unary::{Unary, UnaryKind};
use crate::ops::where_op::Where;
use crate::passes::strided::{Run, Strided, merged, row_major};
use crate::tensor_type::{DataType, TensorType};
use crate::value;

/// A row-major tensor in memory, without gaps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    pub span: Span,
    pub ty: ElementType,
}

/// An operand of an elementwise function: where it is, and the elements that it reads.
struct Walk {
    span: Span,
    ty: ElementType,
    offset: usize,
    strides: Vec<usize>,
}

impl Lowering<'_> {
    /// How the elements of a type are stored.
    pub(super) fn stored(&self, dtype: DataType) -> Result<ElementType, Reason> {
        Ok(match dtype {
            DataType::F32 => self.float,
            DataType::F64 => ElementType::F64,
            DataType::F16 => ElementType::F16,
            DataType::Bf16 => ElementType::Bf16,
            DataType::I64 => ElementType::I64,
            DataType::I32 => ElementType::I32,
            DataType::I16 => ElementType::I16,
            DataType::I8 => ElementType::I8,
            DataType::U64 => ElementType::U64,
            DataType::U32 => ElementType::U32,
            DataType::U16 => ElementType::U16,
            DataType::U8 => ElementType::U8,
            DataType::Bool => ElementType::Bool,
            other => return Err(Reason::new(format!("{other} on the GPU"))),
        })
    }

    pub(super) fn elements(ty: &TensorType) -> Result<usize, Reason> {
        let elements = ty.shape.iter().try_fold(1usize, |count, &extent| count.checked_mul(extent));
        match elements {
            Some(count @ ..=0x3fff_ffff) => Ok(count),
            _ => Err(Reason::new(format!("{ty} on the GPU")).supported("up to 2^30 elements")),
        }
    }

    /// Memory for a value, which a call is about to write.
    pub(super) fn new_rows(&mut self, id: ValueId) -> Result<Rows, Reason> {
        let ty = self.graph.ty(id);
        let stored = self.stored(ty.dtype)?;
        let bytes = Self::elements(ty)? as u64 * stored.bytes();
        let buffer = self.calls.add_buffer(BufferKind::Arena, bytes);
        let rows = Rows { span: self.calls.whole(buffer), ty: stored };
        self.rows[id.index()] = Some(rows);
        Ok(rows)
    }

    /// Where a value lies row-major: it is converted the first time that it is asked for, where it does not.
    pub(super) fn rows(&mut self, id: ValueId) -> Result<Rows, Reason> {
        if let Some(rows) = self.rows[id.index()] {
            return Ok(rows);
        }
        let ty = self.graph.ty(id).clone();
        if let Some(span) = self.full[id.index()] {
            let rows = self.new_rows(id)?;
            self.copy(Rows { span, ty: ElementType::F32 }, rows, Self::elements(&ty)?)?;
            return Ok(rows);
        }
        if let Some(constant) = self.graph.value(id).constant.as_ref() {
            let rows = self.constant_rows(constant)?;
            self.rows[id.index()] = Some(rows);
            return Ok(rows);
        }
        if self.forms[id.index()] == Form::Picture {
            let picture = self.picture(id)?;
            if picture.is_matrix() {
                let ty = self.stored(ty.dtype)?;
                let rows = Rows { span: picture.span, ty };
                self.rows[id.index()] = Some(rows);
                return Ok(rows);
            }
            let rows = self.new_rows(id)?;
            let layout = Self::layout(&picture)?;
            self.call("to_rows", &layout, &[Some(picture.span), Some(rows.span)], 1);
            return Ok(rows);
        }
        if let Some(port) = self.graph.inputs.iter().position(|&input| input == id) {
            let given = Rows { span: self.input(port), ty: self.given(ty.dtype)? };
            if given.ty == self.stored(ty.dtype)? {
                self.rows[id.index()] = Some(given);
                return Ok(given);
            }
            let rows = self.new_rows(id)?;
            self.copy(given, rows, Self::elements(&ty)?)?;
            return Ok(rows);
        }
        let writer = self.writers[id.index()].map(|writer| &self.graph.nodes[writer]);
        let input = writer.filter(|node| node.op.is_view()).and_then(|node| node.input(0));
        if input.is_none() && self.failed {
            return self.new_rows(id);
        }
        let input = input.ok_or_else(|| Reason::new("a value that nothing computes on the GPU"))?;
        let rows = self.rows(input)?;
        self.rows[id.index()] = Some(rows);
        Ok(rows)
    }

    /// How the caller has the elements of a type.
    fn given(&self, dtype: DataType) -> Result<ElementType, Reason> {
        if dtype == DataType::F32 { Ok(ElementType::F32) } else { self.stored(dtype) }
    }

    fn constant_rows(&mut self, constant: &Constant) -> Result<Rows, Reason> {
        let ty = self.stored(constant.ty().dtype)?;
        Self::elements(constant.ty())?;
        let bytes = match constant.ty().dtype {
            DataType::F32 => pack::elements(constant.values::<f32>().into_owned(), self.float),
            _ => constant.data().clone(),
        };
        Ok(Rows { span: self.data(bytes), ty })
    }

    /// Writes `from` to `to`, in the latter's type.
    pub(super) fn copy(&mut self, from: Rows, to: Rows, elements: usize) -> Result<(), Reason> {
        if elements == 0 {
            return Ok(());
        }
        if from.ty == to.ty && !from.ty.is_common() {
            return self.copy_bits(from, to, elements);
        }
        let read = Walk { span: from.span, ty: from.ty, offset: 0, strides: vec![1] };
        let write = Walk { span: to.span, ty: to.ty, offset: 0, strides: vec![1] };
        let params = Elementwise::default();
        self.walk(&[elements], &[read], &write, params)
    }

    /// Writes `from` to `to`, of the same type, as it is.
    fn copy_bits(&mut self, from: Rows, to: Rows, elements: usize) -> Result<(), Reason> {
        let params = call::Elementwise::new(&[elements], &[(&[1], 0), (&[1], 0)]).ok_or_else(unsupported)?;
        let kernel = format!("copy_b{}", from.ty.bytes());
        let Some(Twin::Call { kernel, params }) = twin(&kernel, bytemuck::bytes_of(&params)) else {
            return Err(unsupported());
        };
        let operands = vec![Some(from.span), Some(to.span)];
        let node = self.node.clone();
        self.calls.calls.push(KernelCall { kernel: kernel.to_owned(), params, operands, outputs: 1, node });
        Ok(())
    }

    /// Gives an output of the graph to the caller.
    pub(super) fn give(&mut self, port: usize, id: ValueId) -> Result<(), Reason> {
        let known = self.full[self.viewed(id).index()];
        let from = match known {
            Some(span) => Rows { span, ty: ElementType::F32 },
            None => self.rows(id)?,
        };
        let ty = self.graph.ty(id);
        let (elements, given) = (Self::elements(ty)?, self.given(ty.dtype)?);
        let buffer = self.calls.add_buffer(BufferKind::Output(port), ty.bytes() as u64);
        let to = Rows { span: self.calls.whole(buffer), ty: given };
        self.copy(from, to, elements)
    }

    /// A picture of a value that lies row-major.
    pub(super) fn picture_of_rows(&mut self, id: ValueId) -> Result<Picture, Reason> {
        if let Some(picture) = self.pictures[id.index()] {
            return Ok(picture);
        }
        let [n, c, h, w] = super::extents(self.graph.ty(id))?;
        let picture = self.repacked(id, [n, c, h, w])?;
        self.pictures[id.index()] = Some(picture);
        Ok(picture)
    }

    /// A value that lies row-major as a picture of these extents.
    pub(super) fn repacked(&mut self, id: ValueId, [n, c, h, w]: [usize; 4]) -> Result<Picture, Reason> {
        let rows = self.rows(id)?;
        if c.is_multiple_of(padded(1)) && h * w == 1 {
            return Ok(Picture { span: rows.span, stride: c, n, c, h, w });
        }
        let picture = self.scratch_picture([n, c, h, w]);
        let layout = Self::layout(&picture)?;
        self.call("from_rows", &layout, &[Some(rows.span), Some(picture.span)], 1);
        Ok(picture)
    }

    pub(super) fn scratch_picture(&mut self, [n, c, h, w]: [usize; 4]) -> Picture {
        let stride = padded(c);
        let bytes = (n * h * w * stride * self.element_bytes()) as u64;
        let buffer = self.calls.add_buffer(BufferKind::Arena, bytes);
        Picture { span: self.calls.whole(buffer), stride, n, c, h, w }
    }

    /// Calls the elementwise kernel over axes of these extents.
    fn walk(
        &mut self,
        extents: &[usize],
        inputs: &[Walk],
        output: &Walk,
        params: Elementwise,
    ) -> Result<(), Reason> {
        // Neighbouring axes that every operand walks as one are one.
        let mut axes: Vec<(usize, Vec<usize>)> = Vec::new();
        for (axis, &extent) in extents.iter().enumerate().filter(|&(_, &extent)| extent > 1) {
            let strides: Vec<usize> = inputs.iter().chain([output]).map(|walk| walk.strides[axis]).collect();
            match axes.last_mut() {
                Some((outer, last)) if last.iter().zip(&strides).all(|(last, s)| *last == s * extent) => {
                    *outer *= extent;
                    *last = strides;
                }
                _ => axes.push((extent, strides)),
            }
        }
        if axes.len() > AXES {
            return Err(Reason::new(format!("{} axes that do not lie in a row on the GPU", axes.len())));
        }
        let mut params = Elementwise {
            extents: [1; AXES],
            elements: int(axes.iter().map(|(extent, _)| extent).product())?,
            operands: int(inputs.len())?,
            out_type: output.ty as i32,
            out_offset: int(output.offset)?,
            ..params
        };
        for (slot, (extent, strides)) in (AXES - axes.len()..).zip(&axes) {
            params.extents[slot] = int(*extent)?;
            for (operand, &stride) in strides.iter().enumerate() {
                match operand == inputs.len() {
                    true => params.out_strides[slot] = int(stride)?,
                    false => params.strides[operand][slot] = int(stride)?,
                }
            }
        }
        let mut operands = [None; 4];
        for (index, input) in inputs.iter().enumerate() {
            params.types[index] = input.ty as i32;
            params.offsets[index] = int(input.offset)?;
            operands[index] = Some(input.span);
        }
        operands[3] = Some(output.span);
        // Integers are exact in integers alone; what neither computes moves as it is.
        let is_whole = |ty: ElementType| !ty.is_common_float();
        let decided = inputs.iter().all(|input| is_whole(input.ty)) && is_whole(output.ty);
        params.integer = i32::from(decided);
        if decided && params.operation > 19 {
            return Err(Reason::new("a function of numbers that are no f32 on the GPU"));
        }
        self.call_named(params.kernel(), &params, &operands, 1);
        Ok(())
    }

    /// A value as an operand whose elements are repeated to `shape`.
    fn spread(&mut self, id: ValueId, shape: &[usize]) -> Result<Walk, Reason> {
        let rows = self.rows(id)?;
        let own = &self.graph.ty(id).shape;
        let lead = shape.len().checked_sub(own.len()).ok_or_else(unsupported)?;
        let mut strides = vec![0; shape.len()];
        let mut stride = 1;
        for (axis, &extent) in own.iter().enumerate().rev() {
            if extent == shape[lead + axis] {
                strides[lead + axis] = stride;
            } else if extent != 1 {
                return Err(Reason::new("shapes that do not broadcast"));
            }
            stride *= extent;
        }
        Ok(Walk { span: rows.span, ty: rows.ty, offset: 0, strides })
    }

    fn in_order(rows: Rows, shape: &[usize]) -> Walk {
        let mut strides = vec![0; shape.len()];
        let mut stride = 1;
        for (slot, &extent) in strides.iter_mut().zip(shape).rev() {
            *slot = stride;
            stride *= extent;
        }
        Walk { span: rows.span, ty: rows.ty, offset: 0, strides }
    }

    /// A function of the node's first inputs.
    fn each(
        &mut self,
        node: &Node,
        count: usize,
        operation: ElementOp,
        (alpha, beta, activation): (f32, f32, Activation),
    ) -> Result<(), Reason> {
        let output = node.output(0).ok_or_else(unsupported)?;
        let shape = self.graph.ty(output).shape.clone();
        let inputs = (0..count)
            .map(|index| self.spread(node.input(index).ok_or_else(unsupported)?, &shape))
            .collect::<Result<Vec<_>, _>>()?;
        let written = Self::in_order(self.new_rows(output)?, &shape);
        let params =
            Elementwise { operation: operation as i32, alpha, beta, activation, ..Elementwise::default() };
        self.walk(&shape, &inputs, &written, params)
    }

    /// Writes activation(`sums` + `summand`) to `to`, which all have the elements of `output`.
    pub(super) fn add(
        &mut self,
        sums: Rows,
        summand: ValueId,
        to: Rows,
        output: ValueId,
        activation: Activation,
    ) -> Result<(), Reason> {
        let shape = self.graph.ty(output).shape.clone();
        let inputs = [Self::in_order(sums, &shape), self.spread(summand, &shape)?];
        let operation = ElementOp::Add as i32;
        let params = Elementwise { operation, activation, ..Elementwise::default() };
        self.walk(&shape, &inputs, &Self::in_order(to, &shape), params)
    }

    /// Lowers a node whose output lies row-major.
    pub(super) fn lower_rows(&mut self, node: &Node, output: ValueId) -> Result<(), Reason> {
        const PLAIN: (f32, f32, Activation) = (0.0, 0.0, Activation::NONE);
        if node.op_as::<Cast>().is_some() && self.is_stored_alike(node, output) {
            let rows = self.rows(node.input(0).ok_or_else(unsupported)?)?;
            self.rows[output.index()] = Some(rows);
            return Ok(());
        }
        let is_common = |id: &ValueId| {
            use DataType::{Bool, F32, I32, I64};
            [F32, I64, I32, Bool].contains(&self.graph.ty(*id).dtype)
        };
        if !node.inputs.iter().chain(&node.outputs).flatten().all(is_common) {
            return Err(unsupported());
        }
        if let Some(binary) = node.op_as::<Binary>() {
            let is_f32 = node.input(0).is_some_and(|id| self.graph.ty(id).dtype == DataType::F32);
            let operation = binary_op(binary.kind, is_f32).ok_or_else(unsupported)?;
            return self.each(node, 2, operation, PLAIN);
        }
        if let Some(unary) = node.op_as::<Unary>() {
            if let Some(activation) = unary.activation() {
                return self.each(node, 1, ElementOp::First, (0.0, 0.0, activation));
            }
            let operation = unary_op(unary.kind).ok_or_else(unsupported)?;
            return self.each(node, 1, operation, (unary.alpha, unary.beta, Activation::NONE));
        }
        if let Some(clip) = node.op_as::<Clip>() {
            let activation = self.graph.with_types(node, |types| clip.activation(types));
            let activation = activation.ok_or_else(unsupported)?;
            return self.each(node, 1, ElementOp::First, (0.0, 0.0, activation));
        }
        if let Some(cast) = node.op_as::<Cast>() {
            return match cast.to {
                Some(value::ElementType::Number(_)) => self.each(node, 1, ElementOp::First, PLAIN),
                _ => Err(unsupported()),
            };
        }
        if node.op_as::<Where>().is_some() {
            return self.each(node, 3, ElementOp::Where, PLAIN);
        }
        if let Some(product) = node.op_as::<MatMul>() {
            return self.matrices(product, node, output);
        }
        if let Some(norm) = node.op_as::<LayerNormalization>() {
            return self.layer_norm(norm, node, output);
        }
        if let Some(attention) = node.op_as::<FusedAttention>() {
            return self.attention(&attention.call, node, output);
        }
        if let Some(softmax) = node.op_as::<Softmax>() {
            return self.softmax(softmax, node, output);
        }
        if let Some(reduce) = node.op_as::<Reduce>() {
            return self.reduce(reduce, node, output);
        }
        if let Some(concat) = node.op_as::<Concat>() {
            return self.join(concat, node, output);
        }
        let moves = node.op_as::<Transpose>().is_some()
            || node.op_as::<Slice>().is_some()
            || node.op_as::<Split>().is_some()
            || node.op_as::<Expand>().is_some();
        if moves {
            return node.outputs.iter().flatten().try_for_each(|&output| self.moved(node, output));
        }
        if let Some(gather) = node.op_as::<Gather>() {
            return self.gather(gather, node, output);
        }
        Err(unsupported())
    }

    /// Whether a cast is between types whose elements are stored alike, as f16 and f32 are where f32 is stored as f16.
    fn is_stored_alike(&self, node: &Node, output: ValueId) -> bool {
        let stored = |id: ValueId| {
            let dtype = self.graph.ty(id).dtype;
            self.stored(dtype).ok().filter(|_| dtype.is_float())
        };
        let [from, to] = [node.input(0).and_then(stored), stored(output)];
        from.is_some() && from == to
    }

    /// Transposes, slices, parts and repetitions: elements that only move.
    fn moved(&mut self, node: &Node, output: ValueId) -> Result<(), Reason> {
        let input = node.input(0).ok_or_else(unsupported)?;
        let from = self.rows(input)?;
        let view = Strided::whole(self.graph, input).and_then(|view| view.moved(self.graph, node, output));
        let view = view.ok_or_else(unsupported)?;
        let runs: Vec<Run> = view.axes.concat();
        let extents: Vec<usize> = runs.iter().map(|run| run.extent).collect();
        let strides = runs.iter().map(|run| run.stride).collect();
        let written = Self::in_order(self.new_rows(output)?, &extents);
        let read = Walk { span: from.span, ty: from.ty, offset: view.offset, strides };
        self.walk(&extents, &[read], &written, Elementwise::default())
    }

    fn join(&mut self, concat: &Concat, node: &Node, output: ValueId) -> Result<(), Reason> {
        let shape = self.graph.ty(output).shape.clone();
        let axis = resolve_axis(concat.axis, shape.len())?;
        let inner: usize = shape[axis + 1..].iter().product();
        let outer: usize = shape[..axis].iter().product();
        let parts: Vec<Rows> =
            node.inputs.iter().flatten().map(|&part| self.rows(part)).collect::<Result<_, _>>()?;
        let whole = self.new_rows(output)?;
        let mut offset = 0;
        for (part, &id) in parts.into_iter().zip(node.inputs.iter().flatten()) {
            let length = self.graph.ty(id).shape[axis] * inner;
            let extents = [outer, length];
            let read = Walk { span: part.span, ty: part.ty, offset: 0, strides: vec![length, 1] };
            let strides = vec![shape[axis] * inner, 1];
            let written = Walk { span: whole.span, ty: whole.ty, offset, strides };
            self.walk(&extents, &[read], &written, Elementwise::default())?;
            offset += length;
        }
        Ok(())
    }

    fn gather(&mut self, gather: &Gather, node: &Node, output: ValueId) -> Result<(), Reason> {
        let (data, indices) = node.input(0).zip(node.input(1)).ok_or_else(unsupported)?;
        let shape = self.graph.ty(data).shape.clone();
        let axis = resolve_axis(gather.axis, shape.len())?;
        let count = Self::elements(self.graph.ty(indices))?;
        let (from, index) = (self.rows(data)?, self.rows(indices)?);
        let to = self.new_rows(output)?;
        let inner: usize = shape[axis + 1..].iter().product();
        let outer: usize = shape[..axis].iter().product();
        let mut bytes = from.ty.bytes() as usize;
        let mut inner = inner;
        while bytes < 16 && inner.is_multiple_of(2) {
            (bytes, inner) = (bytes * 2, inner / 2);
        }
        let params = GatherCall {
            outer: int(outer)?,
            axis: int(shape[axis])?,
            count: int(count)?,
            inner: int(inner)?,
            bytes: int(bytes)?,
            index_type: index.ty as i32,
            elements: int(outer * count * inner)?,
            failure: int(COUNTERS)?,
        };
        let operands = [Some(from.span), Some(index.span), Some(to.span)];
        self.call_named(&format!("cuda_gather_b{bytes}"), &params, &operands, 1);
        Ok(())
    }

    fn layer_norm(&mut self, norm: &LayerNormalization, node: &Node, output: ValueId) -> Result<(), Reason> {
        if node.output(1).is_some() || node.output(2).is_some() {
            return Err(Reason::new("statistics of a normalisation as outputs on the GPU"));
        }
        let input = node.input(0).ok_or_else(unsupported)?;
        let shape = self.graph.ty(input).shape.clone();
        let axis = resolve_axis(norm.axis, shape.len())?;
        let inner: usize = shape[axis..].iter().product();
        let outer: usize = shape[..axis].iter().product();
        let mut params = [None, None];
        for (slot, index) in params.iter_mut().zip([1, 2]) {
            if node.input(index).is_some() {
                let values = self.constant(node, index)?;
                if values.len() != inner {
                    return Err(Reason::new("a scale of other than the normalised elements on the GPU"));
                }
                *slot = Some(self.data(bytes::Bytes::copy_from_slice(bytemuck::cast_slice(&values))));
            }
        }
        let [scale, bias] = params;
        let from = self.rows(input)?;
        let to = self.new_rows(output)?;
        let params = Norm { outer: int(outer)?, inner: int(inner)?, epsilon: norm.epsilon, kind: 0 };
        self.call("layer_norm", &params, &[Some(from.span), scale, bias, Some(to.span)], 1);
        Ok(())
    }

    fn softmax(&mut self, softmax: &Softmax, node: &Node, output: ValueId) -> Result<(), Reason> {
        let input = node.input(0).ok_or_else(unsupported)?;
        let shape = self.graph.ty(input).shape.clone();
        let axis = resolve_axis(softmax.axis, shape.len())?;
        let after: usize = shape[axis + 1..].iter().product();
        if after > 1 && !softmax.flatten {
            return Err(Reason::new("softmax along other than the last axis on the GPU"));
        }
        let inner = shape[axis] * after;
        let from = self.rows(input)?;
        let to = self.new_rows(output)?;
        let outer: usize = shape[..axis].iter().product();
        let params = Norm { outer: int(outer)?, inner: int(inner)?, epsilon: 0.0, kind: softmax.log.into() };
        self.call("softmax", &params, &[Some(from.span), None, None, Some(to.span)], 1);
        Ok(())
    }

    fn reduce(&mut self, reduce: &Reduce, node: &Node, output: ValueId) -> Result<(), Reason> {
        let kind = match reduce.kind {
            ReduceKind::Sum => ReductionKind::Sum,
            ReduceKind::Mean => ReductionKind::Mean,
            ReduceKind::Max => ReductionKind::Max,
            ReduceKind::Min => ReductionKind::Min,
            ReduceKind::Prod => ReductionKind::Prod,
            ReduceKind::L1 => ReductionKind::L1,
            ReduceKind::L2 => ReductionKind::L2,
            ReduceKind::SumSquare => ReductionKind::SumSquare,
            ReduceKind::LogSum | ReduceKind::LogSumExp => return Err(unsupported()),
        };
        let input = node.input(0).ok_or_else(unsupported)?;
        let ty = self.graph.ty(input).clone();
        if ty.dtype != DataType::F32 {
            return Err(Reason::new(format!("a reduction of {ty} on the GPU")).supported("f32"));
        }
        Self::elements(&ty)?;
        let reduced = self.graph.with_types(node, |types| reduce.reduced(types))?;
        let axes = row_major(&ty.shape).ok_or_else(unsupported)?;
        let walked = |inside: bool| -> Result<([i32; AXES], [i32; AXES], i32), Reason> {
            let axes = axes.iter().zip(&reduced).filter(|&(_, &is)| is == inside).map(|(axis, _)| axis);
            let runs = merged(axes);
            if runs.len() > AXES {
                return Err(unsupported());
            }
            let (mut extents, mut strides) = ([1; AXES], [0; AXES]);
            let mut count = 1;
            for (slot, run) in (AXES - runs.len()..).zip(runs) {
                (extents[slot], strides[slot]) = (int(run.extent)?, int(run.stride)?);
                count *= run.extent;
            }
            Ok((extents, strides, int(count)?))
        };
        let (extents, strides, elements) = walked(false)?;
        let (inner_extents, inner_strides, count) = walked(true)?;
        let from = self.rows(input)?;
        let to = self.new_rows(output)?;
        let kind = kind as i32;
        let params =
            Reduction { extents, strides, inner_extents, inner_strides, elements, count, kind, reserved: 0 };
        self.call("reduce", &params, &[Some(from.span), Some(to.span)], 1);
        Ok(())
    }
}

fn binary_op(kind: BinaryKind, is_f32: bool) -> Option<ElementOp> {
    Some(match kind {
        BinaryKind::Add => ElementOp::Add,
        BinaryKind::And => ElementOp::And,
        BinaryKind::Div => ElementOp::Div,
        BinaryKind::Equal => ElementOp::Equal,
        BinaryKind::Greater => ElementOp::Greater,
        BinaryKind::GreaterOrEqual => ElementOp::GreaterOrEqual,
        BinaryKind::Less => ElementOp::Less,
        BinaryKind::LessOrEqual => ElementOp::LessOrEqual,
        BinaryKind::Mul => ElementOp::Mul,
        BinaryKind::Or => ElementOp::Or,
        BinaryKind::PRelu if is_f32 => ElementOp::PRelu,
        BinaryKind::Pow if is_f32 => ElementOp::Pow,
        BinaryKind::Sub => ElementOp::Sub,
        BinaryKind::Xor => ElementOp::Xor,
        _ => return None,
    })
}

fn unary_op(kind: UnaryKind) -> Option<ElementOp> {
    Some(match kind {
        UnaryKind::Abs => ElementOp::Abs,
        UnaryKind::Ceil => ElementOp::Ceil,
        UnaryKind::Cos => ElementOp::Cos,
        UnaryKind::Elu => ElementOp::Elu,
        UnaryKind::Erf => ElementOp::Erf,
        UnaryKind::Exp => ElementOp::Exp,
        UnaryKind::Floor => ElementOp::Floor,
        UnaryKind::IsNaN => ElementOp::IsNan,
        UnaryKind::Log => ElementOp::Log,
        UnaryKind::Neg => ElementOp::Neg,
        UnaryKind::Not => ElementOp::Not,
        UnaryKind::Reciprocal => ElementOp::Reciprocal,
        UnaryKind::Round => ElementOp::Round,
        UnaryKind::Selu => ElementOp::Selu,
        UnaryKind::Sign => ElementOp::Sign,
        UnaryKind::Sin => ElementOp::Sin,
        UnaryKind::Softsign => ElementOp::Softsign,
        UnaryKind::Sqrt => ElementOp::Sqrt,
        UnaryKind::Swish => ElementOp::Swish,
        _ => return None,
    })
}

impl Picture {
    /// Whether it is a row-major matrix: one pixel an image and no gaps.
    fn is_matrix(&self) -> bool {
        self.h * self.w == 1 && self.stride == self.c
    }
}

impl Lowering<'_> {
    /// What pictures and rows share of `Layout`.
    pub(super) fn layout(picture: &Picture) -> Result<Layout, Reason> {
        Ok(Layout {
            images: int(picture.n)?,
            image_pixels: int(picture.h * picture.w)?,
            plain_channels: int(picture.c)?,
            channels: int(padded(picture.c))?,
            stride: int(picture.stride)?,
            reserved: 0,
        })
    }
}
