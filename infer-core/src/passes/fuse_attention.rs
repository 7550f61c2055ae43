//! Makes one node of an attention spelled out, with the moving of heads around it.
//!
//! Before: `s = MatMul(q, kT); m = Mul(s, scale); a = Add(m, mask); p = Softmax(a); y = MatMul(p, v)`. After:
//! `y = FusedAttention(q, kT, v, mask)`.
//!
//! Factors may stand at the queries, the keys or the scores; masks are added, or select a large negative number by Where,
//! once or several times where they are constants; a mask that hides what follows a row is no input but a bound.
//! Transposes, reshapes, slices and expansions before the products and transposes and reshapes behind them become
//! strides: `[B, S, H·D]` is read and written as it lies. Scores may be reshaped between the products.
//!
//! Precondition: scores and probabilities are read by the pattern alone. Reassociates; −∞ in a whole row is NaN still.

mod mask;
mod walk;

use std::sync::Arc;

use infer_kernels::call::{self, Activation, HeadView, residual};

use self::mask::{Causal, HIDDEN, Known, Mask, Source, combined, constant_mask, leaves_each_row_something};
use self::walk::Walk;
use crate::constant::Constant;
use crate::graph::{Graph, Node, ValueId};
use crate::ops::binary::BinaryKind;
use crate::ops::fused_attention::FusedAttention;
use crate::ops::matmul::MatMul;
use crate::ops::resolve_axis;
use crate::ops::softmax::Softmax;
use crate::ops::transpose::Transpose;
use crate::ops::where_op::Where;
use crate::passes::Uses;
use crate::passes::pattern::{Pattern, add_constant, unused_name};
use crate::passes::strided::{
    Axis, Run, Strided, broadcast, extent, merged, product, repeated, reshaped, row_major,
};
use crate::tensor_type::{DataType, TensorType};

/// What masks of booleans select, at most, where no row is hidden whole.
const NEARLY_HIDDEN: f32 = -5e3;

/// The most nodes between the two products.
const MAX_STEPS: usize = 12;

/// Makes one node of each attention spelled out.
pub fn fuse_attention(graph: &mut Graph) -> bool {
    let mut uses = Uses::of(graph);
    let mut changed = false;
    let mut index = 0;
    while index < graph.nodes.len() {
        if graph.nodes[index].op_as::<MatMul>().is_some()
            && let Some(found) = Found::at(Pattern { graph, uses: &uses }, index)
        {
            found.replace(graph);
            uses = Uses::of(graph);
            changed = true;
        }
        index += 1;
    }
    changed
}

/// Whether the product does nothing but multiply, up to a factor.
fn is_plain(node: &Node, op: &MatMul) -> bool {
    let added = node.inputs.iter().skip(2).any(Option::is_some);
    !added && !op.trans_a && op.activation == Activation::NONE && op.residual_mode == residual::NONE
}

/// The scores between the products.
struct Scores {
    /// The first product.
    node: usize,
    scale: f32,
    masks: Vec<Mask>,
}

/// An operand's axes over the leading axes and rows of the scores, which they share with all others.
struct Operand {
    root: ValueId,
    offset: usize,
    axes: Vec<Axis>,
}

/// An attention spelled out.
struct Found {
    /// The node that writes the output.
    last: usize,
    output: ValueId,
    call: call::Attention,
    inputs: [ValueId; 3],
    mask: Option<FoundMask>,
}

enum FoundMask {
    Value(ValueId),
    Constant(Constant),
    Hidden { condition: ValueId, when: bool, by: f32 },
}

impl Found {
    /// The attention whose second product is node `index`.
    fn at(pattern: Pattern<'_>, index: usize) -> Option<Self> {
        let graph = pattern.graph;
        let node = &graph.nodes[index];
        node.op_as::<MatMul>().filter(|op| is_plain(node, op) && op.alpha == 1.0 && !op.trans_b)?;
        let (weights, value, output) = (node.input(0)?, node.input(1)?, node.output(0)?);
        if graph.ty(output).dtype != DataType::F32 || graph.ty(value).rank() < 2 {
            return None;
        }
        let softmax = softmax_behind(pattern, weights, index)?;
        let probabilities = &graph.nodes[softmax];
        let scores = scores_behind(pattern, probabilities.input(0)?, softmax, MAX_STEPS)?;
        let first = &graph.nodes[scores.node];
        let frame = graph.ty(first.output(0)?).shape.clone();
        let [lead @ .., rows, keys] = frame.as_slice() else { return None };
        let (last_lead, &[rows_here, keys_here]) = graph.ty(weights).shape.split_last_chunk::<2>()?;
        if keys_here != *keys || frame.contains(&0) {
            return None;
        }
        let over: Vec<usize> = lead.iter().copied().chain([*rows]).collect();
        let over_here: Vec<usize> = last_lead.iter().copied().chain([rows_here]).collect();
        // A row of the scores is a row of the second product, however the leading axes are called there.
        let translated = |axes: &[Axis]| reshaped(axes, &over);

        let product = first.op_as::<MatMul>()?;
        let (query, key) = (first.input(0)?, first.input(1)?);
        let mut scale = scores.scale * product.alpha;
        let size = *graph.ty(query).shape.last()?;

        // Each operand as a view of something else where its rows have one distance, else as it is.
        let query = one_of(pattern, query, true, &mut scale, |view| {
            let [lead_axes @ .., row, element] = view.axes.as_slice() else { return None };
            single(element).filter(|&stride| stride == 1)?;
            let mut axes = broadcast(lead_axes, lead)?;
            axes.push(row.clone());
            Some((Operand { root: view.root, offset: view.offset, axes }, 0, 1))
        })?;
        let key = one_of(pattern, key, true, &mut scale, |view| {
            let [lead_axes @ .., a, b] = view.axes.as_slice() else { return None };
            let (element, row) = if product.trans_b { (b, a) } else { (a, b) };
            let mut axes = broadcast(lead_axes, lead)?;
            axes.push(repeated(*rows));
            let operand = Operand { root: view.root, offset: view.offset, axes };
            Some((operand, apart(row)?, apart(element)?))
        })?;
        let mut unscaled = 1.0;
        let value_size = *graph.ty(value).shape.last()?;
        let value = one_of(pattern, value, false, &mut unscaled, |view| {
            let [lead_axes @ .., row, element] = view.axes.as_slice() else { return None };
            single(element).filter(|&stride| stride == 1)?;
            // Products without leading axes on the left are of no attention.
            let mut axes = broadcast(lead_axes, last_lead)?;
            axes.push(repeated(rows_here));
            let operand = Operand { root: view.root, offset: view.offset, axes: translated(&axes)? };
            Some((operand, apart(row)?, 1))
        })?;
        if graph.ty(output).shape[..graph.ty(output).rank() - 1] != over_here {
            return None;
        }
        let (last, written, results) = written_behind(pattern, index, translated)?;
        if !scale.is_finite() {
            return None;
        }

        // Masks, and of those that are constants what they come to.
        let mut causal: Option<Causal> = None;
        let mut masks = Vec::new();
        for mask in scores.masks {
            match constant_mask(graph, &mask) {
                Some(Known::Nothing) => {}
                Some(Known::Causal(bound)) if causal.as_ref().is_none_or(|other| *other == bound) => {
                    causal = Some(bound);
                }
                _ => masks.push(mask),
            }
        }

        let mut operands: Vec<Vec<Axis>> =
            vec![query.0.axes.clone(), key.0.axes.clone(), value.0.axes.clone(), results.clone()];
        let mut mask_strides = Vec::new();
        for mask in &masks {
            let (key_axis, axes) = mask.axes.split_last()?;
            mask_strides.push(single(key_axis).filter(|&stride| stride <= 1)?);
            operands.push(translated(axes)?);
        }
        if let Some(bound) = &causal {
            // One more that walks over these rows alone, so that they stay an axis of their own.
            let mut axes: Vec<Axis> = bound.lead.iter().map(|&extent| repeated(extent)).collect();
            axes.push(row_major(&[bound.rows])?.concat());
            operands.push(translated(&axes)?);
        }
        let mut walk = Walk::new(&over, &operands)?;
        if causal.is_none() {
            walk.choose_rows();
        }
        let lead_extents = walk.lead()?;
        let view = |operand: usize, offset: usize, element: usize| HeadView {
            offset: offset as u64,
            lead: walk.lead_strides(operand),
            row: walk.row_stride(operand) as u64,
            element: element as u64,
        };
        let mut call = call::Attention {
            lead: lead_extents,
            rows: walk.rows() as u64,
            keys: *keys as u64,
            size: size as u64,
            value_size: value_size as u64,
            query: view(0, query.0.offset, 1),
            key: HeadView { row: key.1 as u64, ..view(1, key.0.offset, key.2) },
            value: HeadView { row: value.1 as u64, ..view(2, value.0.offset, 1) },
            output: view(3, 0, 1),
            mask: HeadView::default(),
            causal: u64::from(causal.is_some()),
            causal_offset: causal.as_ref().map_or(0, |bound| bound.offset as u64),
            scale,
            reserved: 0,
        };
        // Keys and values that differ from row to row are of another operation.
        if walk.row_stride(1) != 0 || walk.row_stride(2) != 0 {
            return None;
        }
        if causal.is_some_and(|bound| walk.rows() != bound.rows) {
            return None;
        }
        let mask = match masks.as_slice() {
            [] => None,
            [one] => {
                let offset = match one.source {
                    Source::Value(_, offset) | Source::Hidden { offset, .. } => offset,
                };
                call.mask = view(4, offset, mask_strides[0]);
                Some(match one.source {
                    Source::Value(id, _) => FoundMask::Value(id),
                    Source::Hidden { condition, when, by, .. } => FoundMask::Hidden { condition, when, by },
                })
            }
            several => {
                let (constant, view) = combined(graph, several, &walk, &mask_strides, *keys)?;
                call.mask = view;
                Some(FoundMask::Constant(constant))
            }
        };
        Some(Found { last, output: written, call, inputs: [query.0.root, key.0.root, value.0.root], mask })
    }

    /// Puts the node in place of the last of the pattern.
    fn replace(self, graph: &mut Graph) {
        let name = graph.nodes[self.last].name.clone();
        let output = graph.ty(self.output).clone();
        let mut place = self.last;
        let mask = match self.mask {
            None => None,
            Some(FoundMask::Value(id)) => Some(id),
            Some(FoundMask::Constant(constant)) => {
                Some(add_constant(graph, &format!("{name}:mask"), constant))
            }
            Some(FoundMask::Hidden { condition, when, by }) => {
                let zero = add_constant(graph, &format!("{name}:shown"), Constant::scalar_f32(0.0));
                let hidden = add_constant(graph, &format!("{name}:hidden"), Constant::scalar_f32(by));
                let shape = graph.ty(condition).shape.clone();
                let unused = unused_name(graph, &format!("{name}:mask"));
                let mask = graph.add_value(unused.clone(), Some(TensorType::new(DataType::F32, shape)));
                let [yes, no] = if when { [hidden, zero] } else { [zero, hidden] };
                let node = Node {
                    name: unused,
                    op: Arc::new(Where),
                    inputs: vec![Some(condition), Some(yes), Some(no)],
                    outputs: vec![Some(mask)],
                };
                graph.nodes.insert(place, node);
                place += 1;
                Some(mask)
            }
        };
        let [query, key, value] = self.inputs;
        graph.nodes[place] = Node {
            name,
            op: Arc::new(FusedAttention { call: self.call, output }),
            inputs: vec![Some(query), Some(key), Some(value), mask],
            outputs: vec![Some(self.output)],
        };
    }
}

/// The distance along an axis along which nothing stands still.
fn apart(axis: &Axis) -> Option<usize> {
    single(axis).filter(|&stride| stride > 0)
}

/// The one stride of an axis, 1 where its extent is; `None` where there are several.
fn single(axis: &Axis) -> Option<usize> {
    match merged([axis]).as_slice() {
        [] => Some(1),
        [run] => Some(run.stride),
        _ => None,
    }
}

/// What `read` makes of `id` as a view of another value, or else as itself; `scale` takes the view's factor in.
fn one_of<T>(
    pattern: Pattern<'_>,
    id: ValueId,
    scaled: bool,
    scale: &mut f32,
    read: impl Fn(&Strided) -> Option<T>,
) -> Option<T> {
    let views = [
        Strided::of(pattern, id, scaled).filter(|view| view.scale.is_finite()),
        Strided::of(pattern, id, false),
        Strided::whole(pattern.graph, id),
    ];
    let (view, result) =
        views.into_iter().flatten().find_map(|view| read(&view).map(|result| (view, result)))?;
    *scale *= view.scale;
    Some(result)
}

/// The softmax along the last axis of which `id` is a view that keeps that axis, all of it read by `reader` alone.
fn softmax_behind(pattern: Pattern<'_>, mut id: ValueId, mut reader: usize) -> Option<usize> {
    for _ in 0..MAX_STEPS {
        if pattern.uses.sole_reader(id) != Some(reader) {
            return None;
        }
        reader = pattern.uses.writer(id)?;
        let node = pattern.writer(id)?;
        if let Some(op) = node.op_as::<Softmax>() {
            let rank = pattern.graph.ty(id).rank();
            let last = resolve_axis(op.axis, rank).is_ok_and(|axis| axis + 1 == rank);
            return (last && !op.log && rank >= 2).then_some(reader);
        }
        let input = node.input(0).filter(|_| keeps_rows(pattern.graph, node))?;
        id = input;
    }
    None
}

/// Whether the node renames the axes before the last of its input.
fn keeps_rows(graph: &Graph, node: &Node) -> bool {
    let (Some(input), Some(output)) = (node.input(0), node.output(0)) else { return false };
    let last = |id| graph.ty(id).shape.last().copied();
    node.op.is_view()
        && node.outputs.len() == 1
        && last(input) == last(output)
        && graph.ty(output).rank() >= 2
}

/// The product whose scores `id` holds, with what is done to them on the way.
fn scores_behind(pattern: Pattern<'_>, id: ValueId, reader: usize, steps: usize) -> Option<Scores> {
    let graph = pattern.graph;
    if steps == 0 || pattern.uses.sole_reader(id) != Some(reader) {
        return None;
    }
    let here = pattern.uses.writer(id)?;
    let node = pattern.writer(id)?;
    if let Some(op) = node.op_as::<MatMul>() {
        let matrices = [node.input(0)?, node.input(1)?].map(|input| graph.ty(input).rank() >= 2);
        let fits = is_plain(node, op) && matrices == [true; 2] && graph.ty(id).dtype == DataType::F32;
        return fits.then_some(Scores { node: here, scale: 1.0, masks: Vec::new() });
    }
    let shape = &graph.ty(id).shape;
    if let Some((x, factor)) = product(pattern, id) {
        let scores = scores_behind(pattern, x, here, steps - 1)?;
        // What was added before would be multiplied too.
        return scores.masks.is_empty().then_some(Scores { scale: scores.scale * factor, ..scores });
    }
    if let Some([a, b]) = pattern.binary(id, BinaryKind::Add) {
        let (mut scores, mask) = [(a, b), (b, a)].into_iter().find_map(|(x, mask)| {
            let scores =
                scores_behind(pattern, x, here, steps - 1).filter(|_| graph.ty(x).shape == *shape)?;
            Some((scores, mask))
        })?;
        let mut view = Strided::of(pattern, mask, false)?;
        if view.axes.last().is_some_and(|axis| !is_row(axis)) {
            view = Strided::whole(graph, mask)?;
        }
        let axes = broadcast(&view.axes, shape)?;
        scores.masks.push(Mask { source: Source::Value(view.root, view.offset), axes });
        return Some(scores);
    }
    if node.op_as::<Where>().is_some() {
        let (condition, yes, no) = (node.input(0)?, node.input(1)?, node.input(2)?);
        let (x, by, when) = match (pattern.scalar(yes), pattern.scalar(no)) {
            (None, Some(by)) => (yes, by, false),
            (Some(by), None) => (no, by, true),
            _ => return None,
        };
        let mut scores =
            scores_behind(pattern, x, here, steps - 1).filter(|_| graph.ty(x).shape == *shape)?;
        let hides = by <= HIDDEN || by <= NEARLY_HIDDEN && leaves_each_row_something(graph, condition, when);
        if !hides {
            return None;
        }
        let view = Strided::whole(graph, condition)?;
        let axes = broadcast(&view.axes, shape)?;
        let source = Source::Hidden { condition: view.root, offset: view.offset, when, by };
        scores.masks.push(Mask { source, axes });
        return Some(scores);
    }
    if keeps_rows(graph, node) {
        let input = node.input(0)?;
        return scores_behind(pattern, input, here, steps - 1);
    }
    None
}

/// Whether an axis is walked element by element, or stands still.
fn is_row(axis: &Axis) -> bool {
    matches!(merged([axis]).as_slice(), [] | [Run { stride: 0 | 1, .. }])
}

/// The last value of transposes and views behind the product at `index`, and its strides by the axes of the scores.
fn written_behind(
    pattern: Pattern<'_>,
    index: usize,
    translated: impl Fn(&[Axis]) -> Option<Vec<Axis>>,
) -> Option<(usize, ValueId, Vec<Axis>)> {
    let graph = pattern.graph;
    let output = graph.nodes[index].output(0)?;
    let shape = &graph.ty(output).shape;
    let mut view = Strided::whole(graph, output)?;
    let (mut at, mut id) = (index, output);
    let mut best = None;
    loop {
        if let Some(axes) = inverse(&view, shape)
            && let Some((element, over)) = axes.split_last()
            && single(element).is_some_and(|stride| stride == 1)
            && let Some(axes) = translated(over)
        {
            best = Some((at, id, axes));
        }
        let Some(next) = pattern.uses.sole_reader(id) else { break };
        let node = &graph.nodes[next];
        let moves = node.op_as::<Transpose>().is_some() || node.op.is_view() && node.outputs.len() == 1;
        let (Some(written), true) = (node.output(0), moves && node.input(0) == Some(id)) else { break };
        let Some(moved) = view.moved(graph, node, written) else { break };
        (view, at, id) = (moved, next, written);
    }
    best
}

/// The axes of `shape` in a tensor whose elements are those of `view` in order, `view` being of a tensor of `shape`.
fn inverse(view: &Strided, shape: &[usize]) -> Option<Vec<Axis>> {
    let mut distance: usize = view.axes.iter().map(|axis| extent(axis)).product();
    let mut runs = Vec::new();
    for run in view.axes.iter().flatten() {
        distance /= run.extent;
        runs.push((run.stride, Run { extent: run.extent, stride: distance }));
    }
    runs.sort_by_key(|&(stride, _)| std::cmp::Reverse(stride));
    let runs: Axis = runs.into_iter().map(|(_, run)| run).collect();
    reshaped(&[runs], shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::test_support::{check_pass, check_pass_does_nothing};

    const HEADS: &str = "input x 2,5,24
         input z 2,7,24
         random wq 24,24
         random wk 24,24
         random wv 24,24
         ints split 2,-1,4,6
         ints merge 2,5,24
         floats scale [] 0.4082483
         floats root [] 0.63894
         floats divisor 1 2.4494898
         q = MatMul(x, wq)
         k = MatMul(z, wk)
         v = MatMul(z, wv)
         qr = Reshape(q, split)
         kr = Reshape(k, split)
         vr = Reshape(v, split)
         qt = Transpose(qr) perm=[0,2,1,3]
         kt = Transpose(kr) perm=[0,2,3,1]
         vt = Transpose(vr) perm=[0,2,1,3]\n";

    const MERGED: &str = "y = MatMul(p, vt)
         t = Transpose(y) perm=[0,2,1,3]
         o = Reshape(t, merge)
         output o";

    const PROJECTIONS: &str = "q = MatMul(x, wq)\nk = MatMul(z, wk)\nv = MatMul(z, wv)\n";

    fn call(graph: &Graph) -> &call::Attention {
        let fused = graph.nodes.iter().find_map(|node| node.op_as::<FusedAttention>());
        &fused.unwrap().call
    }

    #[test]
    fn heads_are_read_and_written_where_they_lie() {
        for scores in [
            "m = MatMul(qt, kt)\ns = Mul(m, scale)",
            "m = MatMul(qt, kt)\ns = Div(m, divisor)",
            "qs = Mul(qt, scale)\ns = MatMul(qs, kt)",
            "qs = Mul(root, qt)\nks = Mul(kt, root)\ns = MatMul(qs, ks)",
        ] {
            let text = format!("{HEADS}{scores}\np = Softmax(s)\n{MERGED}");
            let expected = format!("{PROJECTIONS}o = FusedAttention(q, k, v, _)");
            let text = text.replace("Softmax(s)", "Softmax(s) axis=-1");
            let graph = check_pass(fuse_attention, &text, &expected);
            let call = call(&graph);
            assert_eq!((call.rows, call.keys, call.size, call.value_size), (5, 7, 6, 6));
            assert_eq!((call.lead, call.query.lead), ([1, 1, 2, 4], [0, 0, 120, 6]));
            assert_eq!((call.query.row, call.key.row, call.key.element, call.output.row), (24, 24, 1, 24));
            assert!((call.scale - 0.408_248_3).abs() < 1e-4);
        }
    }

    #[test]
    fn masks_of_every_kind_are_added() {
        let constants = "random full 2,4,5,7
             random row 5,1
             input mask 2,1,1,7
             floats nothing 1,1,1,1 0.0
             floats least [] -1e31\n";
        for (mask, name) in [("full", "full"), ("row", "row"), ("mask", "mask"), ("nothing", "_")] {
            let text = format!(
                "{HEADS}{constants}m = MatMul(qt, kt)
                 s = Mul(m, scale)
                 a = Add({mask}, s)
                 p = Softmax(a) axis=3
                 {MERGED}"
            );
            let expected = format!("{PROJECTIONS}o = FusedAttention(q, k, v, {name})");
            check_pass(fuse_attention, &text, &expected);
        }
        let text = format!(
            "{HEADS}{constants}c = Greater(mask, nothing)
             m = MatMul(qt, kt)
             a = Where(c, m, least)
             p = Softmax(a) axis=3
             {MERGED}"
        );
        let expected = format!(
            "{PROJECTIONS}c = Greater(mask, nothing)\no:mask = Where(c, o:shown, o:hidden)\n\
             o = FusedAttention(q, k, v, o:mask)"
        );
        let graph = check_pass(fuse_attention, &text, &expected);
        assert_eq!(call(&graph).mask.lead, [0, 0, 7, 0]);
    }

    #[test]
    fn a_triangle_is_a_bound() {
        let hidden = |row: usize, key: usize| if key <= row + 2 { "0.0" } else { "-3.4e38" };
        let triangle: Vec<&str> = (0..35).map(|i| hidden(i / 7, i % 7)).collect();
        let text = format!(
            "{HEADS}floats mask 1,1,5,7 {}
             m = MatMul(qt, kt)
             s = Mul(m, scale)
             a = Add(s, mask)
             p = Softmax(a) axis=-1
             {MERGED}",
            triangle.join(",")
        );
        let graph =
            check_pass(fuse_attention, &text, &format!("{PROJECTIONS}o = FusedAttention(q, k, v, _)"));
        assert_eq!((call(&graph).causal, call(&graph).causal_offset), (1, 2));
    }

    #[test]
    fn windows_add_two_masks() {
        let text = "input x 6,4,10
             random bias 1,2,4,4
             random mask 3,1,4,4
             ints split 6,4,2,5
             ints windows 2,3,2,4,4
             ints joined 6,2,4,4
             ints merge 6,4,10
             r = Reshape(x, split)
             q = Transpose(r) perm=[0,2,1,3]
             k = Transpose(r) perm=[0,2,3,1]
             s = MatMul(q, k)
             b = Add(s, bias)
             w = Reshape(b, windows)
             a = Add(w, mask)
             j = Reshape(a, joined)
             p = Softmax(j) axis=-1
             y = MatMul(p, q)
             t = Transpose(y) perm=[0,2,1,3]
             o = Reshape(t, merge)
             output o";
        let graph = check_pass(fuse_attention, text, "o = FusedAttention(x, x, x, o:mask)");
        let call = call(&graph);
        assert_eq!((call.lead, call.mask.lead, call.mask.row), ([1, 2, 3, 2], [0, 0, 32, 16], 4));
    }

    #[test]
    fn heads_share_keys() {
        let text = "input q 2,6,5,8
             input k 2,2,7,8
             input v 2,2,7,4
             ints five 2,2,1,7,8
             ints wide 2,2,3,7,8
             ints heads 2,6,7,8
             ints fivev 2,2,1,7,4
             ints widev 2,2,3,7,4
             ints headsv 2,6,7,4
             ku = Reshape(k, five)
             ke = Expand(ku, wide)
             kh = Reshape(ke, heads)
             vu = Reshape(v, fivev)
             ve = Expand(vu, widev)
             vh = Reshape(ve, headsv)
             kt = Transpose(kh) perm=[0,1,3,2]
             s = MatMul(q, kt)
             p = Softmax(s) axis=-1
             y = MatMul(p, vh)
             output y";
        let graph = check_pass(fuse_attention, text, "y = FusedAttention(q, k, v, _)");
        // Rows of the heads that share keys are rows of one matrix.
        assert_eq!((call(&graph).lead, call(&graph).key.lead), ([1, 1, 4, 3], [0, 0, 56, 0]));
    }

    #[test]
    fn one_projection_of_all_three_is_read_in_parts() {
        let text = "input x 1,5,12
             random w 12,36
             ints shape 1,5,3,2,6
             ints merge 5,12
             ints first 0
             ints second 1
             ints third 2
             ints none 0
             floats scale [] 0.4
             a = MatMul(x, w)
             r = Reshape(a, shape)
             t = Transpose(r) perm=[2,0,3,1,4]
             qg = Gather(t, first) axis=0
             kg = Gather(t, second) axis=0
             vg = Gather(t, third) axis=0
             q = Squeeze(qg, none)
             k = Squeeze(kg, none)
             v = Squeeze(vg, none)
             kt = Transpose(k) perm=[0,1,3,2]
             m = MatMul(q, kt)
             s = Mul(m, scale)
             p = Softmax(s) axis=-1
             y = MatMul(p, v)
             u = Transpose(y) perm=[2,0,1,3]
             o = Reshape(u, merge)
             output o";
        let graph = check_pass(fuse_attention, text, "a = MatMul(x, w)\no = FusedAttention(a, a, a, _)");
        let call = call(&graph);
        assert_eq!([call.query.offset, call.key.offset, call.value.offset], [0, 12, 24]);
        assert_eq!((call.query.row, call.output.row), (36, 12));
    }

    #[test]
    fn keys_that_are_transposed_already_are_read_so() {
        let text = "input q 2,5,8
             input k 2,8,7
             input v 2,7,3
             s = MatMul(q, k)
             p = Softmax(s) axis=2
             y = MatMul(p, v)
             output y";
        let graph = check_pass(fuse_attention, text, "y = FusedAttention(q, k, v, _)");
        assert_eq!((call(&graph).key.row, call(&graph).key.element), (1, 7));
    }

    #[test]
    fn what_is_read_elsewhere_or_is_no_attention_stays() {
        for (body, also) in [
            ("m = MatMul(qt, kt)\np = Softmax(m) axis=-1", "output p"),
            ("m = MatMul(qt, kt)\np = Softmax(m) axis=-1", "output m"),
            ("m = MatMul(qt, kt)\np = Softmax(m) axis=2", ""),
            ("m = MatMul(qt, kt)\nn = Tanh(m)\np = Softmax(n) axis=-1", ""),
            ("m = MatMul(qt, kt)\na = Add(m, full)\ns = Mul(a, scale)\np = Softmax(s) axis=-1", ""),
        ] {
            let text = format!("{HEADS}random full 2,4,5,7\n{body}\n{MERGED}\n{also}");
            check_pass_does_nothing(fuse_attention, &text);
        }
    }

    #[test]
    fn rotated_heads_attend_too() {
        let rotated = |name: &str| {
            format!(
                "{name}p = MatMul(x, w{name})
                 {name}r = Reshape({name}p, split)
                 {name}h = Transpose({name}r) perm=[0,2,1,3]
                 {name}a = Slice({name}h, zero, two, last)
                 {name}b = Slice({name}h, two, four, last)
                 {name}n = Neg({name}b)
                 {name}t = Concat({name}n, {name}a) axis=-1
                 {name}c = Mul({name}h, cos)
                 {name}s = Mul({name}t, sin)
                 {name}e = Add({name}c, {name}s)"
            )
        };
        let text = format!(
            "input x 1,5,8
             random wq 8,8
             random wk 8,8
             random wv 8,8
             random cos 1,1,5,4
             random sin 1,1,5,4
             ints split 1,5,2,4
             ints merge 1,5,8
             ints zero 0
             ints two 2
             ints four 4
             ints last 3
             floats half [] 0.5
             {}
             {}
             vp = MatMul(x, wv)
             vr = Reshape(vp, split)
             vh = Transpose(vr) perm=[0,2,1,3]
             keys = Transpose(ke) perm=[0,1,3,2]
             scores = MatMul(qe, keys)
             scaled = Mul(scores, half)
             p = Softmax(scaled) axis=-1
             a = MatMul(p, vh)
             t = Transpose(a) perm=[0,2,1,3]
             y = Reshape(t, merge)
             output y",
            rotated("q"),
            rotated("k")
        );
        let mut graph = crate::passes::test_support::model(&text);
        assert!(fuse_attention(&mut graph));
        graph.verify().unwrap();
        let last = graph.nodes.last().unwrap();
        assert!(last.op_as::<FusedAttention>().is_some(), "{}", graph.to_text());
    }
}
