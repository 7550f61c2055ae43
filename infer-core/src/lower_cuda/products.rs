//! Products of row-major tensors: with constants as convolutions of one tap, with each other, and attention.

use infer_kernels::call::{self, Activation, residual};
use infer_kernels::cuda::{self, HEADS, HeadView, MOST_SIZE, Product};

use super::nodes::{product_weights, unsupported};
use super::pack::padded;
use super::rows::Rows;
use super::{Lowering, Picture, int, tactics};
use crate::calls::BufferKind;
use crate::diagnostic::Reason;
use crate::graph::{Node, ValueId};
use crate::ops::matmul::MatMul;
use crate::passes::strided::{broadcast, row_major};
use crate::tensor_type::DataType;

impl Lowering<'_> {
    pub(super) fn attention(
        &mut self,
        p: &call::Attention,
        node: &Node,
        output: ValueId,
    ) -> Result<(), Reason> {
        let number = |value: u64| int(usize::try_from(value).unwrap_or(usize::MAX));
        let view = |view: &call::HeadView| -> Result<HeadView, Reason> {
            let mut lead = [0; call::LEAD];
            for (slot, &stride) in lead.iter_mut().zip(&view.lead) {
                *slot = number(stride)?;
            }
            let (offset, row, element) = (number(view.offset)?, number(view.row)?, number(view.element)?);
            Ok(HeadView { offset, lead, row, element })
        };
        if p.size > MOST_SIZE || p.value_size > MOST_SIZE {
            return Err(Reason::new(format!("heads of {} elements on the GPU", p.size.max(p.value_size)))
                .supported(format!("{MOST_SIZE}")));
        }
        let mut params = cuda::Attention {
            lead: [number(p.lead[0])?, number(p.lead[1])?, number(p.lead[2])?, number(p.lead[3])?],
            rows: number(p.rows)?,
            keys: number(p.keys)?,
            size: number(p.size)?,
            value_size: number(p.value_size)?,
            q: view(&p.query)?,
            k: view(&p.key)?,
            v: view(&p.value)?,
            m: view(&p.mask)?,
            o: view(&p.output)?,
            causal: number(p.causal)?,
            causal_offset: number(p.causal_offset)?,
            scale: p.scale,
            steps: 1,
        };
        let mut operands = [None; 5];
        for (index, operand) in operands.iter_mut().enumerate().take(4) {
            if let Some(id) = node.input(index) {
                *operand = Some(self.rows(id)?.span);
            }
        }
        operands[4] = Some(self.new_rows(output)?.span);
        let views = [&params.q, &params.k, &params.v, &params.o];
        let grouped = views.iter().all(|view| {
            let strides = view.lead.iter().chain([&view.offset, &view.row]);
            view.element == 1 && strides.into_iter().all(|stride| stride % 8 == 0)
        });
        let heads: u64 = p.lead.iter().product();
        // Blocks of many rows, which share their keys, where there are enough of them for all multiprocessors.
        let rows = if heads * p.rows.div_ceil(64) >= tactics::MULTIPROCESSORS as u64 { 64 } else { 16 };
        let fast = HEADS.iter().find(|heads| {
            let sizes = [p.size, p.value_size].iter().all(|&size| size == u64::from(heads.size));
            self.float == heads.ty && grouped && sizes && heads.rows == rows
        });
        match fast {
            Some(heads) => {
                params.steps = tactics::attention_steps(heads, p.keys);
                self.call_named(heads.name, &params, &operands, 1);
            }
            None => self.call("attention", &params, &operands, 1),
        }
        Ok(())
    }

    /// A product whose right matrix is a constant runs as a convolution of one tap; others by a kernel of their own.
    pub(super) fn matrices(&mut self, product: &MatMul, node: &Node, output: ValueId) -> Result<(), Reason> {
        let (left, right) = node.input(0).zip(node.input(1)).ok_or_else(unsupported)?;
        let (x_type, w_type) = (self.graph.ty(left).clone(), self.graph.ty(right).clone());
        if x_type.dtype != DataType::F32 {
            return Err(Reason::new(format!("a product of {x_type} on the GPU")).supported("f32"));
        }
        let is_dense = self.graph.constant(Some(right)).is_some()
            && w_type.rank() == 2
            && x_type.rank() >= 2
            && !product.trans_a;
        if !is_dense {
            return self.computed_product(product, node, output);
        }
        let depth = x_type.shape[x_type.rank() - 1];
        let rows = Self::elements(&x_type)? / depth;
        let (weights, bias, columns) = product_weights(self, product, node, depth)?;
        let x = self.repacked(left, [rows, depth, 1, 1])?;
        let added = match product.residual_mode {
            residual::NONE => None,
            _ => Some(self.repacked(node.input(3).ok_or_else(unsupported)?, [rows, columns, 1, 1])?),
        };
        let whole = columns.is_multiple_of(padded(1));
        let y = match whole {
            true => {
                let span = self.new_rows(output)?.span;
                Picture { span, stride: columns, n: rows, c: columns, h: 1, w: 1 }
            }
            false => self.scratch_picture([rows, columns, 1, 1]),
        };
        self.dense_product(&x, weights, bias, (added, product.residual_mode as i32), product.activation, &y)?;
        if !whole {
            let to = self.new_rows(output)?;
            self.call("to_rows", &Self::layout(&y)?, &[Some(y.span), Some(to.span)], 1);
        }
        Ok(())
    }

    fn computed_product(&mut self, product: &MatMul, node: &Node, output: ValueId) -> Result<(), Reason> {
        let summand = node.input(2).filter(|_| product.beta != 0.0);
        if product.residual_mode != residual::NONE || summand.is_some() && product.beta != 1.0 {
            return Err(Reason::new("a summand of a product of computed matrices on the GPU"));
        }
        let (left, right) = node.input(0).zip(node.input(1)).ok_or_else(unsupported)?;
        let (a, b) = (self.graph.ty(left).shape.clone(), self.graph.ty(right).shape.clone());
        let ([a_lead @ .., a_rows, a_columns], [b_lead @ .., b_rows, b_columns]) = (&a[..], &b[..]) else {
            return Err(Reason::new("a product of a vector on the GPU"));
        };
        let (left_strides, right_strides) = ([*a_columns, 1], [*b_columns, 1]);
        let (mut m, mut k, mut left_strides) = (*a_rows, *a_columns, left_strides);
        if product.trans_a {
            (m, k, left_strides) = (k, m, [left_strides[1], left_strides[0]]);
        }
        let (mut n, mut right_strides) = (*b_columns, right_strides);
        if product.trans_b {
            (n, right_strides) = (*b_rows, [right_strides[1], right_strides[0]]);
        }
        let lead = crate::ops::broadcast(&[a_lead, b_lead])?;
        let strides = |own: &[usize], matrix: usize| -> Result<Vec<usize>, Reason> {
            let axes = row_major(own).ok_or_else(unsupported)?;
            let axes = broadcast(&axes, &lead).ok_or_else(unsupported)?;
            Ok(axes.iter().map(|axis| axis.last().map_or(0, |run| run.stride * matrix)).collect())
        };
        let left_lead = strides(a_lead, a_rows * a_columns)?;
        let right_lead = strides(b_lead, b_rows * b_columns)?;
        if lead.len() > 4 {
            return Err(Reason::new("a product of more than four leading axes on the GPU"));
        }
        let filled = |values: &[usize], fill: i32| -> Result<[i32; 4], Reason> {
            let mut slots = [fill; 4];
            for (slot, &value) in (4 - values.len()..).zip(values) {
                slots[slot] = int(value)?;
            }
            Ok(slots)
        };
        let params = Product {
            lead: filled(&lead, 1)?,
            left_lead: filled(&left_lead, 0)?,
            right_lead: filled(&right_lead, 0)?,
            rows: int(m)?,
            columns: int(n)?,
            depth: int(k)?,
            batches: int(lead.iter().product())?,
            left_row: int(left_strides[0])?,
            left_column: int(left_strides[1])?,
            right_row: int(right_strides[0])?,
            right_column: int(right_strides[1])?,
            alpha: product.alpha,
            reserved: 0,
            activation: if summand.is_some() { Activation::NONE } else { product.activation },
        };
        let (a, b) = (self.rows(left)?, self.rows(right)?);
        let to = self.new_rows(output)?;
        let Some(summand) = summand else {
            self.call("product", &params, &[Some(a.span), Some(b.span), Some(to.span)], 1);
            return Ok(());
        };
        let buffer = self.calls.add_buffer(BufferKind::Arena, to.span.bytes);
        let sums = Rows { span: self.calls.whole(buffer), ty: to.ty };
        self.call("product", &params, &[Some(a.span), Some(b.span), Some(sums.span)], 1);
        self.add(sums, summand, to, output, product.activation)
    }
}
