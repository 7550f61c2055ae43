//! Values as strided views of others: what transposes, reshapes, slices and expansions do to addresses.
//!
//! An axis of a view is a list of [`Run`]s, the outermost first, so that every reshape of a permuted tensor has a
//! view: `[B, H, S, D]` made of `[B, S, H·D]` and merged again, or key heads repeated for groups of query heads.

use crate::graph::{Graph, Node, ValueId};
use crate::ops::binary::BinaryKind;
use crate::ops::expand::Expand;
use crate::ops::gather::Gather;
use crate::ops::resolve_axis;
use crate::ops::slice::Slice;
use crate::ops::split::Split;
use crate::ops::transpose::Transpose;
use crate::passes::pattern::Pattern;

/// The most nodes that a view looks through.
const MAX_DEPTH: usize = 24;

/// Positions at one distance from each other, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// How many, more than one.
    pub extent: usize,
    /// From one to the next.
    pub stride: usize,
}

/// The runs of an axis; none where its extent is 1.
pub type Axis = Vec<Run>;

/// The elements of a value as they lie in another.
#[derive(Clone, Debug)]
pub struct Strided {
    /// The other value.
    pub root: ValueId,
    /// Its element at which the view begins.
    pub offset: usize,
    /// The view's axes.
    pub axes: Vec<Axis>,
    /// What every element is multiplied by.
    pub scale: f32,
}

/// The number of positions of an axis.
pub fn extent(axis: &[Run]) -> usize {
    axis.iter().map(|run| run.extent).product()
}

/// The axes of a row-major tensor; `None` where it is empty.
pub fn row_major(shape: &[usize]) -> Option<Vec<Axis>> {
    let mut axes = vec![Axis::new(); shape.len()];
    let mut stride = 1;
    for (axis, &extent) in axes.iter_mut().zip(shape).rev() {
        match extent {
            0 => return None,
            1 => {}
            _ => axis.push(Run { extent, stride }),
        }
        stride *= extent;
    }
    Some(axes)
}

/// The runs of all axes, one after the other, with those merged that are one.
pub fn merged<'a>(axes: impl IntoIterator<Item = &'a Axis>) -> Axis {
    let mut runs = Axis::new();
    for &run in axes.into_iter().flatten() {
        match runs.last_mut() {
            Some(outer) if outer.stride == run.extent * run.stride => {
                *outer = Run { extent: outer.extent * run.extent, stride: run.stride };
            }
            _ => runs.push(run),
        }
    }
    runs
}

/// The same positions in the same order as axes of other extents; `None` where runs would have to be cut unevenly.
pub fn reshaped(axes: &[Axis], shape: &[usize]) -> Option<Vec<Axis>> {
    let mut runs = merged(axes).into_iter();
    let mut next = runs.next();
    let mut result = Vec::with_capacity(shape.len());
    for &extent in shape {
        let (mut axis, mut missing) = (Axis::new(), extent);
        while missing > 1 {
            let run = next?;
            if missing % run.extent == 0 {
                axis.push(run);
                missing /= run.extent;
                next = runs.next();
            } else if run.extent % missing == 0 {
                let rest = run.extent / missing;
                axis.push(Run { extent: missing, stride: run.stride * rest });
                next = Some(Run { extent: rest, stride: run.stride });
                missing = 1;
            } else {
                return None;
            }
        }
        result.push(axis);
    }
    next.is_none().then_some(result)
}

/// What a product of matrices or an addition reads of an operand whose axes are `axes`, broadcast to `shape`.
pub fn broadcast(axes: &[Axis], shape: &[usize]) -> Option<Vec<Axis>> {
    let lead = shape.len().checked_sub(axes.len())?;
    let mut result: Vec<Axis> = shape.iter().map(|&extent| repeated(extent)).collect();
    for (slot, axis) in result[lead..].iter_mut().zip(axes) {
        if extent(axis) == extent(slot) {
            slot.clone_from(axis);
        } else if !axis.is_empty() {
            return None;
        }
    }
    Some(result)
}

/// An axis along which everything is the same.
pub fn repeated(extent: usize) -> Axis {
    if extent == 1 { Axis::new() } else { vec![Run { extent, stride: 0 }] }
}

impl Strided {
    /// A value as itself; `None` where it is empty.
    pub fn whole(graph: &Graph, id: ValueId) -> Option<Self> {
        Some(Strided { root: id, offset: 0, axes: row_major(&graph.ty(id).shape)?, scale: 1.0 })
    }

    /// A value as a view of that from which it was made by moving elements alone, or by multiplying them with numbers
    /// where `scaled`.
    pub fn of(pattern: Pattern<'_>, id: ValueId, scaled: bool) -> Option<Self> {
        Self::through(pattern, id, scaled, MAX_DEPTH)
    }

    fn through(pattern: Pattern<'_>, id: ValueId, scaled: bool, depth: usize) -> Option<Self> {
        let whole = Self::whole(pattern.graph, id)?;
        let Some(node) = pattern.writer(id).filter(|_| depth > 0) else { return Some(whole) };
        if scaled && let Some((x, factor)) = product(pattern, id) {
            let view = Self::through(pattern, x, scaled, depth - 1)?;
            return Some(Strided { scale: view.scale * factor, ..view });
        }
        if !moves_elements(node) {
            return Some(whole);
        }
        let view = node.input(0).and_then(|input| Self::through(pattern, input, scaled, depth - 1));
        Some(view.and_then(|view| view.moved(pattern.graph, node, id)).unwrap_or(whole))
    }

    /// The view of output `id` of `node`, this being that of its first input.
    pub fn moved(&self, graph: &Graph, node: &Node, id: ValueId) -> Option<Self> {
        let shape = &graph.ty(id).shape;
        let (mut axes, mut offset) = (self.axes.clone(), self.offset);
        if node.op.is_view() && node.outputs.len() == 1 {
            axes = reshaped(&axes, shape)?;
        } else if let Some(op) = node.op_as::<Transpose>() {
            let order = op.permutation(axes.len()).ok()?;
            axes = order.into_iter().map(|axis| axes[axis].clone()).collect();
        } else if let Some(op) = node.op_as::<Slice>() {
            let ranges = graph.with_types(node, |types| op.ranges(types)).ok()?;
            for (axis, range) in axes.iter_mut().zip(ranges) {
                if range.step != 1 {
                    return None;
                }
                offset += cut(axis, range.start, range.len)?;
            }
        } else if let Some(op) = node.op_as::<Split>() {
            let axis = resolve_axis(op.axis, axes.len()).ok()?;
            let part = node.outputs.iter().position(|output| *output == Some(id))?;
            let lengths = graph.with_types(node, |types| op.lengths(types)).ok()?;
            offset += cut(&mut axes[axis], lengths[..part].iter().sum(), *lengths.get(part)?)?;
        } else if let Some(op) = node.op_as::<Gather>() {
            let axis = resolve_axis(op.axis, axes.len()).ok()?;
            let indices = graph.constant(node.input(1))?;
            let &[index] = indices.to_i64s()?.as_slice() else { return None };
            let length = extent(&axes[axis]) as i64;
            let index = if index < 0 { index + length } else { index };
            offset += cut(&mut axes[axis], usize::try_from(index).ok()?, 1)?;
            axes.splice(axis..=axis, vec![Axis::new(); indices.ty().rank()]);
        } else if node.op_as::<Expand>().is_some() {
            axes = broadcast(&axes, shape)?;
        } else {
            return None;
        }
        let fits = axes.len() == shape.len() && axes.iter().zip(shape).all(|(axis, &e)| extent(axis) == e);
        fits.then_some(Strided { offset, axes, ..self.clone() })
    }
}

/// Whether [`Strided::moved`] may follow `node`.
fn moves_elements(node: &Node) -> bool {
    node.op.is_view()
        || node.op_as::<Transpose>().is_some()
        || node.op_as::<Slice>().is_some()
        || node.op_as::<Split>().is_some()
        || node.op_as::<Gather>().is_some()
        || node.op_as::<Expand>().is_some()
}

/// x and c where `id` is x·c or x/(1/c) of the shape of x, c a constant of one element.
pub fn product(pattern: Pattern<'_>, id: ValueId) -> Option<(ValueId, f32)> {
    let (x, factor) = if let Some([a, b]) = pattern.binary(id, BinaryKind::Mul) {
        match (pattern.scalar(a), pattern.scalar(b)) {
            (None, Some(factor)) => (a, factor),
            (Some(factor), None) => (b, factor),
            _ => return None,
        }
    } else {
        let [a, b] = pattern.binary(id, BinaryKind::Div)?;
        (a, pattern.scalar(b)?.recip())
    };
    (pattern.graph.ty(x) == pattern.graph.ty(id) && factor.is_finite()).then_some((x, factor))
}

/// Leaves `length` positions of `axis` from `start` on, and gives the distance to the first.
fn cut(axis: &mut Axis, start: usize, length: usize) -> Option<usize> {
    if start == 0 && length == extent(axis) {
        return Some(0);
    }
    let mut runs = merged([&*axis]);
    let (outer, inner) = runs.split_first_mut()?;
    let inner = extent(inner);
    if inner > 1 && length == 1 {
        // One position, whatever the runs.
        let (mut rest, mut offset) = (start, 0);
        for run in runs.iter().rev() {
            offset += rest % run.extent * run.stride;
            rest /= run.extent;
        }
        axis.clear();
        return (rest == 0).then_some(offset);
    }
    if !start.is_multiple_of(inner) || !length.is_multiple_of(inner) || length == 0 {
        return None;
    }
    let offset = start / inner * outer.stride;
    outer.extent = length / inner;
    runs.retain(|run| run.extent > 1);
    *axis = runs;
    Some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::Uses;
    use crate::passes::test_support::model;

    /// The runs of the axes of value `name`, as (extent, stride), with root and offset.
    fn view(text: &str, name: &str) -> (String, usize, Vec<Vec<(usize, usize)>>) {
        let graph = model(text);
        let uses = Uses::of(&graph);
        let index = graph.values.iter().position(|value| value.name == name).unwrap();
        let view = Strided::of(Pattern { graph: &graph, uses: &uses }, ValueId(index as u32), true).unwrap();
        let axes = view.axes.iter().map(|axis| merged([axis]).iter().map(|r| (r.extent, r.stride)).collect());
        (graph.value(view.root).name.clone(), view.offset, axes.collect())
    }

    #[test]
    fn heads_are_views_of_their_projection() {
        let text = "input x 2,5,24
             ints shape 2,5,4,6
             ints merged 2,4,30
             r = Reshape(x, shape)
             t = Transpose(r) perm=[0,2,1,3]
             k = Transpose(r) perm=[0,2,3,1]
             m = Reshape(t, merged)
             output m
             output k";
        assert_eq!(
            view(text, "t"),
            ("x".into(), 0, vec![vec![(2, 120)], vec![(4, 6)], vec![(5, 24)], vec![(6, 1)]])
        );
        assert_eq!(
            view(text, "k"),
            ("x".into(), 0, vec![vec![(2, 120)], vec![(4, 6)], vec![(6, 1)], vec![(5, 24)]])
        );
        assert_eq!(
            view(text, "m"),
            ("x".into(), 0, vec![vec![(2, 120)], vec![(4, 6)], vec![(5, 24), (6, 1)]])
        );
    }

    #[test]
    fn parts_and_repetitions_are_views() {
        let text = "input x 1,5,24
             ints sizes 8,8,8
             ints shape 1,5,2,4
             ints five 1,5,2,1,4
             ints wide 1,5,2,3,4
             ints heads 1,5,6,4
             ints index 1
             a, b, c = Split(x, sizes) axis=2
             r = Reshape(b, shape)
             g = Gather(r, index) axis=2
             f = Reshape(r, five)
             e = Expand(f, wide)
             h = Reshape(e, heads)
             output g
             output h
             output a
             output c";
        assert_eq!(view(text, "r"), ("x".into(), 8, vec![vec![], vec![(5, 24)], vec![(2, 4)], vec![(4, 1)]]));
        assert_eq!(view(text, "g"), ("x".into(), 12, vec![vec![], vec![(5, 24)], vec![], vec![(4, 1)]]));
        assert_eq!(
            view(text, "h"),
            ("x".into(), 8, vec![vec![], vec![(5, 24)], vec![(2, 4), (3, 0)], vec![(4, 1)]])
        );
    }
}
