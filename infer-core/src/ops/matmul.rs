//! MatMul, Gemm.
//!
//! <https://onnx.ai/onnx/operators/onnx__MatMul.html>: numpy's matmul. <https://onnx.ai/onnx/operators/onnx__Gemm.html>:
//! alpha·A·B + beta·C, C optional since opset 11.
//!
//! Types: f32; f16 and bf16 compute in f32. Products of f64 and integers have plain kernels, with which Gemm is written;
//! nothing is fused into them.
//!
//! Of f32, both are the convolution kernel on a picture of one row, with a pixel for each row of the left matrix. The left
//! matrix is copied into blocks of 16 columns first where there is enough work to pay for that: rows a power of two
//! apart would fall on the same lines of the cache. Large products by constant matrices run by Strassen's algorithm.

use infer_kernels::call::{self, Activation, BLOCK, View, residual};

use crate::calls::{LowerNode, Span, Tensor};
use crate::decisions::Candidate;
use crate::diagnostic::Reason;
use crate::ops::compose;
use crate::ops::element_type::wrapping;
use crate::ops::pack::{Dense, store};
use crate::ops::{Expansion, ImportNode, NodeTypes, Operator, Row, Wire, broadcast, expect_dtype};
use crate::tensor_type::{DataType, TensorType};

/// The table's rows.
pub const OPERATORS: &[Row] = &[
    Row { name: "MatMul", domain: "", since: 1, inputs: 2..=2, outputs: 1..=1, import: import_matmul },
    Row { name: "Gemm", domain: "", since: 6, inputs: 2..=3, outputs: 1..=1, import: import_gemm },
];

/// Rows of the left matrix that the kernel works on together.
const TILE_ROWS: usize = 14;

/// How much longer several tiles take on rows, which lie so far apart that they compete for the same lines of a cache.
const ROWS_COST: f64 = 1.2;

/// What copying an element into blocks takes, in multiply-adds: it pays from 64 columns.
const COPY_COST: f64 = 12.7;

/// Rows for which Strassen's algorithm is thought of.
const STRASSEN_ROWS: usize = 48;
const STRASSEN_MAX_ROWS: usize = 4096;

/// The most channels of a half of one of its parts: a sum of quarters of a panel's weights stays in the nearest cache.
const STRASSEN_HALF: usize = 384;

/// What an element of the weights takes for its share of their sums, and an element of a quarter of the result for each
/// part, in multiply-adds.
const STRASSEN_WEIGHT_COST: f64 = 3.0;
const STRASSEN_STEP_COST: f64 = 25.0;

/// A product of matrices, with what later passes fused into it: input 2 is added, input 3 too.
#[derive(Clone, Debug, PartialEq)]
pub struct MatMul {
    /// Whether it is ONNX's Gemm, whose operands are matrices.
    pub gemm: bool,
    /// Whether the left matrix is transposed.
    pub trans_a: bool,
    /// Whether the right matrix is transposed.
    pub trans_b: bool,
    /// The factor of the product.
    pub alpha: f32,
    /// The factor of input 2.
    pub beta: f32,
    /// Applied to the result.
    pub activation: Activation,
    /// Where input 3, of the output's shape, is added, one of [`residual`].
    pub residual_mode: u64,
    /// How many products of one left matrix, of as many columns each, are side by side.
    pub products: usize,
}

fn import_matmul(_: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(MatMul {
        gemm: false,
        trans_a: false,
        trans_b: false,
        alpha: 1.0,
        beta: 1.0,
        activation: Activation::NONE,
        residual_mode: residual::NONE,
        products: 1,
    }))
}

fn import_gemm(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(MatMul {
        gemm: true,
        trans_a: node.attributes.flag("transA", false)?,
        trans_b: node.attributes.flag("transB", false)?,
        alpha: node.attributes.float("alpha")?.unwrap_or(1.0),
        beta: node.attributes.float("beta")?.unwrap_or(1.0),
        activation: Activation::NONE,
        residual_mode: residual::NONE,
        products: 1,
    }))
}

/// The types that ONNX multiplies matrices of.
const NUMBERS: &[DataType] = &[
    DataType::F32,
    DataType::F64,
    DataType::F16,
    DataType::Bf16,
    DataType::I32,
    DataType::I64,
    DataType::U32,
    DataType::U64,
];

/// Whether products of such elements have a plain kernel, which adds and applies nothing.
fn is_plain(dtype: DataType) -> bool {
    !matches!(dtype, DataType::F32 | DataType::F16 | DataType::Bf16)
}

/// One side's matrices: extents of the leading axes, then rows and columns as multiplied.
struct Side {
    lead: Vec<usize>,
    rows: usize,
    columns: usize,
    /// Between rows, and between columns, in elements.
    strides: [usize; 2],
}

struct Product {
    a: Side,
    b: Side,
    lead: Vec<usize>,
    output: TensorType,
}

impl MatMul {
    fn side(ty: &TensorType, transposed: bool, left: bool) -> Result<Side, Reason> {
        let (lead, rows, columns) = match *ty.shape.as_slice() {
            [] => return Err(Reason::new(format!("{ty} is no matrix"))),
            [k] if left => (&[][..], 1, k),
            [k] => (&[][..], k, 1),
            [ref lead @ .., rows, columns] => (lead, rows, columns),
        };
        let lead = lead.to_vec();
        Ok(match transposed {
            false => Side { lead, rows, columns, strides: [columns, 1] },
            true => Side { lead, rows: columns, columns: rows, strides: [1, columns] },
        })
    }

    fn product(&self, a: &TensorType, b: &TensorType) -> Result<Product, Reason> {
        expect_dtype(a, if self.gemm { &[DataType::F32] } else { NUMBERS })?;
        if a.dtype != b.dtype {
            return Err(Reason::new(format!("{a} times {b}: the element types differ")));
        }
        if self.gemm && (a.rank() != 2 || b.rank() != 2) {
            return Err(Reason::new(format!("{a} times {b}: Gemm multiplies matrices")));
        }
        let (left, right) = (Self::side(a, self.trans_a, true)?, Self::side(b, self.trans_b, false)?);
        if left.columns != right.rows {
            return Err(Reason::new(format!(
                "{a} times {b}: {} columns meet {} rows",
                left.columns, right.rows
            )));
        }
        let lead = broadcast(&[&left.lead, &right.lead])?;
        let mut shape = lead.clone();
        if a.rank() > 1 {
            shape.push(left.rows);
        }
        if b.rank() > 1 {
            shape.push(right.columns);
        }
        Ok(Product { a: left, b: right, lead, output: TensorType::new(a.dtype, shape) })
    }
}

impl Operator for MatMul {
    fn name(&self) -> &'static str {
        if self.gemm { "Gemm" } else { "MatMul" }
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let dtype = nodes.types.ty(0)?.dtype;
        match dtype {
            DataType::F32 => return Ok(None),
            _ if is_plain(dtype) && !self.gemm => return Ok(None),
            _ => expect_dtype(nodes.types.ty(0)?, NUMBERS)?,
        }
        if nodes.types.ty(1)?.dtype != dtype {
            return Err(Reason::new(format!(
                "{} times {}: the element types differ",
                dtype,
                nodes.types.ty(1)?
            )));
        }
        if is_plain(dtype) {
            return Ok(Some(vec![self.compose(nodes, dtype)?]));
        }
        let mut inputs = Vec::new();
        for index in 0..nodes.types.inputs.len() {
            if nodes.types.optional(index).is_some() {
                inputs.push(compose::wide_input(nodes, index)?);
            }
        }
        let flag = |value: bool| i64::from(value).into();
        let attributes = match self.gemm {
            false => Vec::new(),
            true => vec![
                ("transA", flag(self.trans_a)),
                ("transB", flag(self.trans_b)),
                ("alpha", self.alpha.into()),
                ("beta", self.beta.into()),
            ],
        };
        let product = nodes.node(self.name(), &inputs, &attributes)?;
        Ok(Some(vec![compose::cast(nodes, product, dtype)?]))
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let product = self.product(node.ty(0)?, node.ty(1)?)?;
        if let Some(c) = node.optional(2) {
            let fits = broadcast(&[&c.shape, &product.output.shape])
                .is_ok_and(|shape| shape == product.output.shape);
            if !fits || c.dtype != product.output.dtype {
                return Err(Reason::new(format!("input `C` {c} does not broadcast to {}", product.output)));
            }
        }
        Ok(vec![product.output])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (a, b, y) = (node.input(0)?, node.input(1)?, node.output(0)?);
        let product = self.product(&a.ty, &b.ty)?;
        if y.ty.elements() == 0 {
            return Ok(());
        }
        if is_plain(y.ty.dtype) {
            return Self::lower_plain(node, &product);
        }
        let (k, columns) = (product.b.rows, product.b.columns);
        // Matrices of the left side that one right matrix serves are one long matrix.
        let shared = product.b.lead.iter().all(|&d| d == 1);
        let batch: usize = product.lead.iter().product();
        let merge = shared && !self.trans_a;
        let (images, rows) = if merge { (1, batch * product.a.rows) } else { (batch, product.a.rows) };
        let a = self.spread(node, a, &product, &product.a)?;
        let (weights, suffix, weights_stride_n) = self.right(node, b, &product, shared)?;

        let plain = View {
            offset: 0,
            stride_n: (product.a.rows * k) as u64,
            stride_c: product.a.strides[1] as u64,
            stride_h: 0,
            stride_w: product.a.strides[0] as u64,
        };
        let extents = [images, rows, k, columns];
        let constant = node.constant(1).is_some() && shared;
        let parts = if constant && plain.stride_c == 1 { Self::strassen_parts(node, extents) } else { None };
        let (input, input_view) = match parts {
            Some(parts) => (Self::left_sums(node, a.span, plain, extents, parts), View::default()),
            None => self.left(node, a.span, plain, extents),
        };
        let output = View {
            offset: 0,
            stride_n: (rows * columns) as u64,
            stride_c: BLOCK as u64,
            stride_h: 0,
            stride_w: columns as u64,
        };
        let (bias, addend) = self.addend(node, &y, columns)?;
        let extra = node.optional_input(3);
        let (residual_span, residual_mode) = match (&addend, &extra) {
            (None, Some(extra)) => (Some(extra.span), self.residual_mode),
            (Some(addend), None) => (Some(addend.span), residual::BEFORE_ACTIVATION),
            (None, None) => (None, residual::NONE),
            (Some(_), Some(_)) => return Err(Reason::new("two full addends in one product")),
        };
        let params = call::Conv {
            n: images as u64,
            groups: 1,
            in_channels: k as u64,
            in_block: k.min(BLOCK) as u64,
            out_channels: columns as u64,
            output_padded: 0,
            out_h: 1,
            out_w: rows as u64,
            kernel_h: 1,
            kernel_w: 1,
            stride_h: 1,
            stride_w: 1,
            dilation_h: 1,
            dilation_w: 1,
            weights_stride_n,
            input: input_view,
            output,
            residual: if residual_span.is_some() { output } else { View::default() },
            residual_mode,
            activation: self.activation,
        };
        let operands = [Some(input), Some(weights), bias, residual_span, Some(y.span)];
        let Some(parts) = parts else {
            node.call(format!("conv_{suffix}"), &params, &operands);
            return Ok(());
        };
        let groups = params.out_channels / call::Strassen::COLUMNS;
        let products = self.products as u64;
        let products = if groups.is_multiple_of(products) { products } else { 1 };
        let params = call::Strassen { conv: params, parts, products };
        let slot = params.slot().unwrap_or(0) * size_of::<f32>() as u64;
        let scratch = node.scratch_slots(slot, groups);
        let [input, weights, bias, added, output] = operands;
        let operands = [input, weights, bias, added, output, Some(scratch)];
        node.call_with_outputs(format!("strassen_{suffix}"), &params, &operands, 2);
        Ok(())
    }

    fn flops(&self, node: &NodeTypes<'_>, outputs: &[&TensorType]) -> u64 {
        let k = node.ty(0).and_then(|a| Self::side(a, self.trans_a, true)).map_or(0, |side| side.columns);
        outputs.first().map_or(0, |output| 2 * (output.elements() * k) as u64)
    }
}

impl MatMul {
    /// A product of elements other than f32.
    fn lower_plain(node: &mut LowerNode<'_>, product: &Product) -> Result<(), Reason> {
        let [a, b, y] = [node.input(0)?, node.input(1)?, node.output(0)?].map(wrapping);
        let sides = [&product.a, &product.b];
        let mut params = call::MatMul {
            rank: product.lead.len() as u64,
            m: product.a.rows as u64,
            k: product.a.columns as u64,
            n: product.b.columns as u64,
            row_strides: sides.map(|side| side.strides[0] as u64),
            column_strides: sides.map(|side| side.strides[1] as u64),
            ..call::MatMul::default()
        };
        for (to, &extent) in params.dims.iter_mut().zip(&product.lead) {
            *to = extent as u64;
        }
        for (between, side) in params.between.iter_mut().zip(sides) {
            let lead = TensorType::new(y.ty.dtype, side.lead.clone());
            let strides = crate::calls::broadcast_strides(&lead, &product.lead)?;
            for (to, stride) in between.iter_mut().zip(strides) {
                *to = stride as u64 * (side.rows * side.columns) as u64;
            }
        }
        node.call(format!("matmul_{}", y.ty.dtype), &params, &[Some(a.span), Some(b.span), Some(y.span)]);
        Ok(())
    }

    /// Gemm of elements whose products have a plain kernel.
    fn compose(&self, nodes: &mut Expansion<'_>, dtype: DataType) -> Result<Wire, Reason> {
        let mut sides = [nodes.input(0)?, nodes.input(1)?];
        for (side, transposed) in sides.iter_mut().zip([self.trans_a, self.trans_b]) {
            if nodes.shape(*side)?.len() != 2 {
                return Err(Reason::new(format!("{}: Gemm multiplies matrices", nodes.ty(*side)?)));
            }
            if transposed {
                *side = nodes.node("Transpose", &[*side], &[("perm", vec![1, 0].into())])?;
            }
        }
        let times = |nodes: &mut Expansion<'_>, wire: Wire, factor: f32| {
            if factor == 1.0 {
                return Ok(wire);
            }
            // A fractional factor of integers must not be cut before it is applied.
            let wide = compose::cast(nodes, wire, DataType::F64)?;
            let factor = compose::scalar(nodes, DataType::F64, factor.into())?;
            let scaled = nodes.node("Mul", &[wide, factor], &[])?;
            compose::cast(nodes, scaled, dtype)
        };
        let product = nodes.node("MatMul", &sides, &[])?;
        let product = times(nodes, product, self.alpha)?;
        let Some(c) = nodes.optional_input(2) else { return Ok(product) };
        let c = times(nodes, c, self.beta)?;
        let sum = nodes.node("Add", &[product, c], &[])?;
        if nodes.shape(sum)? != nodes.shape(product)? {
            return Err(Reason::new(format!("input `C` does not broadcast to {}", nodes.ty(product)?)));
        }
        Ok(sum)
    }

    /// The operand with its leading axes repeated as the product's are, where they broadcast unevenly.
    fn spread(
        &self,
        node: &mut LowerNode<'_>,
        tensor: Tensor,
        product: &Product,
        side: &Side,
    ) -> Result<Tensor, Reason> {
        if side.lead.iter().product::<usize>() == product.lead.iter().product() {
            return Ok(tensor);
        }
        let matrix = &tensor.ty.shape[tensor.ty.rank().saturating_sub(2)..];
        let mut shape = product.lead.clone();
        shape.extend(matrix);
        let strides = crate::calls::broadcast_strides(&tensor.ty, &shape)?;
        let full = node.scratch_tensor(TensorType::new(tensor.ty.dtype, shape.clone()));
        node.copy_strided(&tensor, &strides, 0, &full, &shape)?;
        Ok(full)
    }

    /// Whether the kernel reads the left matrices by rows, where they lie, and not from a copy in blocks.
    fn reads_rows(node: &mut LowerNode<'_>, [images, rows, k, columns]: [usize; 4]) -> bool {
        let elements = (images * rows * k) as f64;
        let by_rows = if rows >= TILE_ROWS { ROWS_COST } else { 1.0 };
        let ways = [
            Candidate { name: "rows", cost: elements * by_rows * columns as f64 },
            Candidate { name: "blocks", cost: elements * (columns as f64 + COPY_COST) },
        ];
        let signature = || format!("{images} × [{rows},{k}]·[{k},{columns}]");
        node.choose("left", signature, &ways) == 0
    }

    /// The parts of the sum by which Strassen's algorithm is to compute the product, if it is.
    fn strassen_parts(node: &mut LowerNode<'_>, [images, rows, k, columns]: [usize; 4]) -> Option<u64> {
        let halves = k / (2 * BLOCK);
        let fits = images == 1
            && (STRASSEN_ROWS..=STRASSEN_MAX_ROWS).contains(&rows)
            && k.is_multiple_of(2 * BLOCK)
            && columns.is_multiple_of(call::Strassen::COLUMNS as usize);
        if !node.calls.fewer_products || !fits {
            return None;
        }
        let parts = (1..=halves)
            .find(|&parts| halves.is_multiple_of(parts) && halves / parts * BLOCK <= STRASSEN_HALF)?;
        // In multiply-adds. Beside the seven products: sums of quarters of the weights and of the left matrix, and
        // what the steps of a tile keep.
        let [half_rows, k_all, columns_all] = [rows.div_ceil(2), k, columns].map(|extent| extent as f64);
        let ways = [
            Candidate { name: "direct", cost: rows as f64 * k_all * (columns_all + COPY_COST) },
            Candidate {
                name: "strassen",
                cost: 7.0 / 4.0 * half_rows * k_all * columns_all
                    + k_all * columns_all * STRASSEN_WEIGHT_COST
                    + half_rows * columns_all * parts as f64 * STRASSEN_STEP_COST
                    + 2.0 * half_rows * k_all * COPY_COST,
            },
        ];
        let signature = || format!("[{rows},{k}]·[{k},{columns}]");
        (node.choose("product", signature, &ways) == 1).then_some(parts as u64)
    }

    /// The left matrix as Strassen's algorithm reads it.
    fn left_sums(
        node: &mut LowerNode<'_>,
        span: Span,
        plain: View,
        [_, rows, k, _]: [usize; 4],
        parts: u64,
    ) -> Span {
        let params =
            call::StrassenLeft { rows: rows as u64, columns: k as u64, parts, stride: plain.stride_w };
        let sums = node.scratch(params.elements().unwrap_or(0) * size_of::<f32>() as u64);
        node.call("strassen_left_f32", &params, &[Some(span), Some(sums)]);
        sums
    }

    /// The left matrices as the kernel reads them, in blocks where that pays.
    fn left(
        &self,
        node: &mut LowerNode<'_>,
        span: Span,
        plain: View,
        [images, rows, k, columns]: [usize; 4],
    ) -> (Span, View) {
        let row_major = plain.stride_c == 1;
        if row_major && (k <= BLOCK || Self::reads_rows(node, [images, rows, k, columns])) {
            return (span, View { stride_c: BLOCK as u64, ..plain });
        }
        let blocks = k.div_ceil(BLOCK);
        let blocked = View {
            offset: 0,
            stride_n: (blocks * rows * BLOCK) as u64,
            stride_c: (rows * BLOCK) as u64,
            stride_h: 0,
            stride_w: BLOCK as u64,
        };
        let scratch = node.scratch((images * blocks * rows * BLOCK * size_of::<f32>()) as u64);
        let params = call::Reorder {
            n: images as u64,
            channels: k as u64,
            h: 1,
            w: rows as u64,
            block: BLOCK as u64,
            plain,
            blocked,
        };
        node.call("to_blocked_f32", &params, &[Some(span), Some(scratch)]);
        (scratch, blocked)
    }

    /// The right matrices in panels: packed now where they are constant, else by a call. Returns the memory, the
    /// kernel's suffix, and the elements between matrices.
    fn right(
        &self,
        node: &mut LowerNode<'_>,
        b: Tensor,
        product: &Product,
        shared: bool,
    ) -> Result<(Span, &'static str, u64), Reason> {
        let (k, columns) = (product.b.rows, product.b.columns);
        let stride = (columns.next_multiple_of(BLOCK) * k) as u64;
        if let Some(values) = node.constant(1).and_then(|constant| constant.to_f32s())
            && (shared || product.b.lead == product.lead)
        {
            let batch = if shared { 1 } else { product.lead.iter().product() };
            let [stride_k, stride_n] = product.b.strides.map(|s| s as isize);
            let dense = Dense {
                values: &values,
                offset: 0,
                groups: 1,
                out_channels: columns,
                in_channels: k,
                kernel: [1, 1],
                strides: [stride_n, stride_k, 0, 0],
                scale: self.alpha,
            };
            let packed: Vec<f32> = (0..batch)
                .flat_map(|matrix| Dense { offset: matrix * k * columns, ..dense }.panels())
                .collect();
            let (span, suffix) = store(node, packed);
            if batch == 1 {
                node.are_filters(span, [columns, 1, k]);
            }
            return Ok((span, suffix, if shared { 0 } else { stride }));
        }
        let b = if shared { b } else { self.spread(node, b, product, &product.b)? };
        let batch = if shared { 1 } else { product.lead.iter().product() };
        let span = if self.alpha == 1.0 {
            b.span
        } else {
            let scaled = node.scratch_tensor(b.ty.clone());
            let factor = node.data(&[self.alpha]);
            let factor = Tensor { ty: TensorType::new(DataType::F32, []), span: factor, blocked: None };
            node.elementwise("mul_f32", &[&b, &factor], &scaled, |_| {})?;
            scaled.span
        };
        let packed = node.scratch(batch as u64 * stride * size_of::<f32>() as u64);
        let params = call::PackB {
            batch: batch as u64,
            k: k as u64,
            n: columns as u64,
            stride_batch: (k * columns) as u64,
            stride_k: product.b.strides[0] as u64,
            stride_n: product.b.strides[1] as u64,
        };
        node.call("pack_b_f32", &params, &[Some(span), Some(packed)]);
        Ok((packed, "f32", if shared { 0 } else { stride }))
    }

    /// Input 2 times beta: as a bias where it has one element for each column, else as a tensor of the output's shape.
    fn addend(
        &self,
        node: &mut LowerNode<'_>,
        y: &Tensor,
        columns: usize,
    ) -> Result<(Option<Span>, Option<Tensor>), Reason> {
        let Some(c) = node.optional_input(2).filter(|_| self.beta != 0.0) else { return Ok((None, None)) };
        let row = c.ty.elements() == columns && c.ty.shape.last() == Some(&columns);
        if let (true, Some(values)) = (row, node.constant(2).and_then(|constant| constant.to_f32s())) {
            let mut values: Vec<f32> = values.iter().map(|v| v * self.beta).collect();
            values.resize(columns.next_multiple_of(BLOCK), 0.0);
            return Ok((Some(node.data(&values)), None));
        }
        if c.ty.shape == y.ty.shape && self.beta == 1.0 {
            return Ok((None, Some(c)));
        }
        let full = node.scratch_tensor(y.ty.clone());
        let factor = node.data(&[self.beta]);
        let factor = Tensor { ty: TensorType::new(DataType::F32, []), span: factor, blocked: None };
        node.elementwise("mul_f32", &[&c, &factor], &full, |_| {})?;
        Ok((None, Some(full)))
    }
}

#[cfg(test)]
mod tests {
    use crate::decisions::Decisions;
    use crate::lower::lower;
    use crate::options::Precision;
    use crate::passes;
    use crate::passes::test_support::{assert_close, compiled, inputs, model, reference};

    const LARGE: &str = "input x 1,97,256
        random w 256,256
        random b 256
        random v 256,40
        a = MatMul(x, w)
        c = Add(a, b)
        d = Relu(c)
        e = Add(d, x)
        y = MatMul(e, v)
        output y";

    #[test]
    fn large_products_agree_with_their_reference() {
        let graph = model(LARGE);
        let inputs = inputs(&graph);
        let expected = reference(&graph, &inputs);
        let mut finished = model(LARGE);
        passes::run(&mut finished, |_, _| {}).unwrap();
        for precision in [Precision::Fp32, Precision::Fp16] {
            let calls = lower(&finished, precision, true, Decisions::default()).unwrap();
            let count = |name: &str| calls.calls.iter().filter(|call| call.kernel.starts_with(name)).count();
            assert_eq!([count("strassen_left"), count("strassen_f"), count("conv")], [1, 1, 1]);
            let tolerance = if precision == Precision::Fp32 { 1e-4 } else { 1e-2 };
            assert_close(&compiled(&finished, &inputs, precision), &expected, tolerance, LARGE);
        }
        let calls = lower(&finished, Precision::Fp32, false, Decisions::default()).unwrap();
        assert!(calls.calls.iter().all(|call| !call.kernel.starts_with("strassen")));
    }
}
