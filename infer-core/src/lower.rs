//! Graph → kernel calls: where each value lies, then each operator's calls.
//!
//! Values share memory where no copy is needed: a view with its input, the parts of a concatenation with the whole,
//! the parts of a split likewise. Blocked pictures get the halo that the widest of their readers wants; whoever writes
//! the picture has its halo filled right after.

mod join_depthwise;
mod pool_convolutions;
mod winograd;

use std::collections::HashMap;

use infer_kernels::call::{self, View};

use crate::calls::{
    Blocked, BufferId, BufferKind, Calls, LowerNode, Span, Squares, Tensor, picture, sized_kernel,
};
use crate::decisions::{Decisions, Layer};
use crate::diagnostic::Reason;
use crate::graph::{Graph, Layout, Node, ValueId};
use crate::ops::concat::Concat;
use crate::ops::reorder::Reorder;
use crate::ops::split::Split;
use crate::options::Precision;
use crate::tensor_type::TensorType;

/// Lowers a graph; `winograd`: with Winograd's algorithm for the convolutions that it makes faster, and Strassen's for
/// such products.
///
/// # Errors
///
/// The node that could not be lowered, and why: a refusal that inference should have given.
pub fn lower(
    graph: &Graph,
    precision: Precision,
    winograd: bool,
    decisions: Decisions,
) -> Result<Calls, (String, Reason)> {
    let mut lowering = Lowering {
        graph,
        calls: Calls::deciding(decisions),
        homes: place(graph),
        halos: halos(graph),
        roots: vec![None; graph.values.len()],
    };
    lowering.calls.fewer_products = winograd;
    lowering.share_halos();
    lowering.unwrap_pixels();
    lowering.place_ports();
    let squares = if winograd { winograd::choose(graph) } else { HashMap::new() };
    for (index, node) in graph.nodes.iter().enumerate() {
        lowering
            .lower_node(node, precision, squares.get(&index).copied())
            .map_err(|reason| (node.name.clone(), reason))?;
    }
    lowering.copy_outputs();
    pool_convolutions::pool_convolutions(&mut lowering.calls);
    join_depthwise::join_depthwise(&mut lowering.calls);
    Ok(lowering.calls)
}

/// Whether a node runs on blocked pictures.
pub fn is_blocked(graph: &Graph, node: &Node) -> bool {
    !matches!(node.op_as(), Some(Reorder))
        && node.output(0).is_some_and(|id| graph.value(id).layout != Layout::Plain)
}

/// Where a value's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// Its own.
    Own,
    /// Inside that of another value, from this element of the axis that the value is a part of: bytes for row-major
    /// values, channels for blocked ones.
    Inside(ValueId, usize),
}

/// Decides for each value whether it lies inside another.
fn place(graph: &Graph) -> Vec<Home> {
    let mut homes = vec![Home::Own; graph.values.len()];
    let mut fixed: Vec<bool> = graph.values.iter().map(|value| value.constant.is_some()).collect();
    for id in graph.inputs.iter().chain(&graph.outputs) {
        fixed[id.index()] = true;
    }
    for node in &graph.nodes {
        let (Some(input), Some(output)) = (node.input(0), node.output(0)) else { continue };
        if node.op.is_view() {
            homes[output.index()] = Home::Inside(input, 0);
        } else if let Some(parts) = split_parts(graph, node) {
            for (part, start) in parts {
                homes[part.index()] = Home::Inside(input, start);
            }
        }
    }
    for node in &graph.nodes {
        let Some(whole) = node.output(0) else { continue };
        for (part, start) in concat_parts(graph, node).into_iter().flatten() {
            if homes[part.index()] == Home::Own && !fixed[part.index()] {
                homes[part.index()] = Home::Inside(whole, start);
            }
        }
    }
    homes
}

/// The parts of a split with where they start, if they lie in its input without gaps.
fn split_parts(graph: &Graph, node: &Node) -> Option<Vec<(ValueId, usize)>> {
    let axis = node.op_as::<Split>()?.axis;
    let parts: Vec<ValueId> = node.outputs.iter().copied().collect::<Option<_>>()?;
    consecutive(graph, node.input(0)?, axis, &parts)
}

/// The parts of a concatenation with where they start, if they lie in its output without gaps.
fn concat_parts(graph: &Graph, node: &Node) -> Option<Vec<(ValueId, usize)>> {
    let axis = node.op_as::<Concat>()?.axis;
    let parts: Vec<ValueId> = node.inputs.iter().copied().collect::<Option<_>>()?;
    consecutive(graph, node.output(0)?, axis, &parts)
}

/// Where consecutive `parts` of `whole` along `axis` start: see [`Home::Inside`].
fn consecutive(graph: &Graph, whole: ValueId, axis: i64, parts: &[ValueId]) -> Option<Vec<(ValueId, usize)>> {
    let ty = graph.ty(whole);
    let axis = crate::ops::resolve_axis(axis, ty.rank()).ok()?;
    let mut start = 0;
    let mut placed = Vec::new();
    for &part in parts {
        match graph.value(whole).layout {
            Layout::Plain => {
                if graph.value(part).layout != Layout::Plain || ty.shape[..axis].iter().any(|&d| d != 1) {
                    return None;
                }
                placed.push((part, start));
                start += graph.ty(part).bytes();
            }
            Layout::Blocked { block } => {
                // With several images the parts of one would lie between those of another, written at other times.
                if graph.value(part).layout != graph.value(whole).layout
                    || axis != 1
                    || ty.shape[0] != 1
                    || !start.is_multiple_of(block)
                {
                    return None;
                }
                placed.push((part, start));
                start += graph.ty(part).shape[1];
            }
        }
    }
    Some(placed)
}

/// For each value the halo that its own readers want.
fn halos(graph: &Graph) -> Vec<[usize; 4]> {
    let mut halos = vec![[0; 4]; graph.values.len()];
    for node in graph.nodes.iter().filter(|node| is_blocked(graph, node)) {
        let Some(input) = node.input(0) else { continue };
        let wanted = graph.with_types(node, |types| node.op.halo(types));
        for (side, wanted) in halos[input.index()].iter_mut().zip(wanted) {
            *side = wanted.max(*side);
        }
    }
    halos
}

/// The layouts of a node's pictures, in words: from that of its input to that of its output, where they differ.
fn layout(graph: &Graph, node: &Node) -> String {
    let name = |id: ValueId| match graph.value(id).layout {
        Layout::Plain => "row-major".to_owned(),
        Layout::Blocked { block } => format!("NCHW{block}c"),
    };
    let [input, output] = [node.input(0), node.output(0)]
        .map(|id| id.filter(|&id| graph.value(id).constant.is_none()).map(name));
    match (input, output) {
        (Some(input), Some(output)) if input != output => format!("{input} to {output}"),
        (_, output) => output.unwrap_or_default(),
    }
}

/// A value that owns its memory, once that is known.
#[derive(Clone, Copy)]
struct Root {
    buffer: BufferId,
    view: View,
}

struct Lowering<'a> {
    graph: &'a Graph,
    calls: Calls,
    homes: Vec<Home>,
    halos: Vec<[usize; 4]>,
    roots: Vec<Option<Root>>,
}

impl<'a> Lowering<'a> {
    fn root(&self, mut id: ValueId) -> ValueId {
        while let Home::Inside(outer, _) = self.homes[id.index()] {
            id = outer;
        }
        id
    }

    /// Gives every owner of memory the widest halo wanted by the values that lie inside it.
    fn share_halos(&mut self) {
        for index in 0..self.graph.values.len() {
            let root = self.root(ValueId(index as u32)).index();
            let wanted = self.halos[index];
            for (side, wanted) in self.halos[root].iter_mut().zip(wanted) {
                *side = wanted.max(*side);
            }
        }
    }

    /// Lets row-major forms of one-pixel pictures share the memory of the blocked ones, where those begin with the
    /// same bytes.
    fn unwrap_pixels(&mut self) {
        for node in self.graph.nodes.iter().filter(|node| node.op_as::<Reorder>().is_some()) {
            let (Some(input), Some(output)) = (node.input(0), node.output(0)) else { continue };
            let Layout::Blocked { block } = self.graph.value(input).layout else { continue };
            let alone = |id: ValueId| self.homes[id.index()] == Home::Own;
            if alone(input)
                && alone(output)
                && self.halos[input.index()] == [0; 4]
                && Reorder::is_prefix(self.graph.ty(input), block)
            {
                self.homes[output.index()] = Home::Inside(input, 0);
            }
        }
    }

    /// Graph inputs lie where the caller has them; a graph output too, where its memory is its own.
    fn place_ports(&mut self) {
        for (port, &id) in self.graph.inputs.iter().enumerate() {
            let bytes = self.graph.ty(id).bytes() as u64;
            let buffer = self.calls.add_buffer(BufferKind::Input(port), bytes);
            self.roots[id.index()] = Some(Root { buffer, view: View::default() });
        }
        for (port, &id) in self.graph.outputs.iter().enumerate() {
            let root = self.root(id);
            let (value, bytes) = (self.graph.value(root), self.graph.ty(id).bytes());
            let free = self.roots[root.index()].is_none() && value.constant.is_none();
            if free && value.layout == Layout::Plain && self.graph.ty(root).bytes() == bytes {
                let buffer = self.calls.add_buffer(BufferKind::Output(port), bytes as u64);
                self.roots[root.index()] = Some(Root { buffer, view: View::default() });
            }
        }
    }

    fn place_root(&mut self, id: ValueId) -> Root {
        if let Some(root) = self.roots[id.index()] {
            return root;
        }
        let value = self.graph.value(id);
        let ty = self.graph.ty(id);
        let root = match (&value.constant, value.layout) {
            (Some(constant), _) => {
                let kind = BufferKind::Constant(constant.data().clone());
                Root { buffer: self.calls.add_buffer(kind, ty.bytes() as u64), view: View::default() }
            }
            (None, Layout::Plain) => Root {
                buffer: self.calls.add_buffer(BufferKind::Arena, ty.bytes() as u64),
                view: View::default(),
            },
            (None, Layout::Blocked { block }) => {
                let [n, c, h, w] = picture(ty);
                let [above, left, below, right] = self.halos[id.index()];
                let stride_h = ((left + w + right) * block) as u64;
                let stride_c = (above + h + below) as u64 * stride_h;
                let stride_n = c.div_ceil(block) as u64 * stride_c;
                let offset = above as u64 * stride_h + (left * block) as u64;
                let view = View { offset, stride_n, stride_c, stride_h, stride_w: block as u64 };
                let bytes = n as u64 * stride_n * size_of::<f32>() as u64;
                Root { buffer: self.calls.add_buffer(BufferKind::Arena, bytes), view }
            }
        };
        self.roots[id.index()] = Some(root);
        root
    }

    /// Where value `id` lies.
    fn tensor(&mut self, id: ValueId) -> Tensor {
        let (mut start, mut outer) = (0, id);
        while let Home::Inside(next, offset) = self.homes[outer.index()] {
            (start, outer) = (start + offset, next);
        }
        let root = self.place_root(outer);
        let ty = self.graph.ty(id).clone();
        match self.graph.value(id).layout {
            Layout::Plain => {
                let span = Span { buffer: root.buffer, offset_bytes: start as u64, bytes: ty.bytes() as u64 };
                Tensor { ty, span, blocked: None }
            }
            Layout::Blocked { block } => {
                let view = root.view;
                let [n, channels, ..] = picture(&ty);
                let block_bytes = view.stride_c * size_of::<f32>() as u64;
                let blocks = match n {
                    1 => channels.div_ceil(block),
                    _ => n * self.graph.ty(outer).shape[1].div_ceil(block),
                };
                let span = Span {
                    buffer: root.buffer,
                    offset_bytes: (start / block) as u64 * block_bytes,
                    bytes: blocks as u64 * block_bytes,
                };
                Tensor { ty, span, blocked: Some(Blocked { block, view, halo: self.halos[outer.index()] }) }
            }
        }
    }

    fn lower_node(
        &mut self,
        node: &'a Node,
        precision: Precision,
        winograd: Option<Squares>,
    ) -> Result<(), Reason> {
        let shares = node.output(0).zip(node.input(0));
        if shares.is_some_and(|(output, input)| self.homes[output.index()] == Home::Inside(input, 0))
            && (node.op.is_view() || node.op_as::<Reorder>().is_some())
        {
            self.calls.decisions.explain(|| "shares the memory of its input".to_owned());
            self.end_layer(node, self.calls.calls.len());
            return Ok(());
        }
        let inputs: Vec<Option<Tensor>> = node.inputs.iter().map(|id| id.map(|id| self.tensor(id))).collect();
        let outputs: Vec<Option<Tensor>> =
            node.outputs.iter().map(|id| id.map(|id| self.tensor(id))).collect();
        let constants = node.inputs.iter().map(|id| self.graph.constant(*id)).collect();
        let before = self.calls.calls.len();
        let filled: Vec<Tensor> = outputs.iter().flatten().cloned().collect();
        node.op.lower(&mut LowerNode {
            calls: &mut self.calls,
            name: &node.name,
            inputs,
            constants,
            outputs,
            half_weights: precision == Precision::Fp16,
            winograd,
        })?;
        if self.calls.calls.len() > before {
            for output in filled {
                self.fill_halo(node, &output);
            }
        } else {
            self.calls
                .decisions
                .explain(|| "its inputs and outputs share memory: nothing is to do".to_owned());
        }
        self.end_layer(node, before);
        Ok(())
    }

    /// Ends the layer of `node`, whose calls are those from `first`.
    fn end_layer(&mut self, node: &Node, first: usize) {
        let (graph, calls) = (self.graph, &self.calls.calls[first..]);
        let kernels = || calls.iter().map(|call| call.kernel.clone()).collect();
        self.calls.decisions.end_layer(|reasons| Layer {
            node: node.name.clone(),
            operator: node.op.name(),
            kernels: kernels(),
            layout: layout(graph, node),
            reasons,
        });
    }

    fn fill_halo(&mut self, node: &Node, tensor: &Tensor) {
        let Some(Blocked { block, view, halo }) = tensor.blocked else { return };
        if halo == [0; 4] {
            return;
        }
        let [above, left, below, right] = halo;
        self.calls.decisions.explain(|| {
            format!("a border for the windows that read it: {above} above, {left} left, {below} below, {right} right")
        });
        let [n, c, h, w] = picture(&tensor.ty);
        let params = call::FillHalo {
            n: n as u64,
            blocks: c.div_ceil(block) as u64,
            h: h as u64,
            w: w as u64,
            block: block as u64,
            halo: halo.map(|side| side as u64),
            view,
            value: 0.0,
            reserved: 0,
        };
        let mut lower = LowerNode {
            calls: &mut self.calls,
            name: &node.name,
            inputs: Vec::new(),
            constants: Vec::new(),
            outputs: Vec::new(),
            half_weights: false,
            winograd: None,
        };
        lower.call("fill_halo_f32", &params, &[Some(tensor.span)]);
    }

    /// Graph outputs whose memory is not the caller's are copied there.
    fn copy_outputs(&mut self) {
        for (port, &id) in self.graph.outputs.iter().enumerate() {
            let from = self.tensor(id);
            let here = &self.calls.buffers[from.span.buffer.0 as usize].kind;
            if matches!(here, BufferKind::Output(placed) if *placed == port) {
                continue;
            }
            let ty = TensorType::new(from.ty.dtype, [from.ty.elements()]);
            let buffer = self.calls.add_buffer(BufferKind::Output(port), ty.bytes() as u64);
            let to = Tensor { span: self.calls.whole(buffer), blocked: None, ty: ty.clone() };
            let Some(params) = call::Elementwise::new(&ty.shape, &[(&[1], 0), (&[1], 0)]) else { continue };
            let name = self.graph.value(id).name.clone();
            self.calls.calls.push(crate::calls::KernelCall {
                kernel: sized_kernel("copy", ty.dtype),
                params: bytemuck::bytes_of(&params).to_vec(),
                operands: vec![Some(from.span), Some(to.span)],
                outputs: 1,
                node: name,
            });
        }
    }
}
