//! Folds zero padding into the window that reads it.
//!
//! Before: `t = Pad(x) {1, 1}; y = Conv(t, w)`. After: `y = Conv(x, w) {pads + 1}`. Likewise for averages, which then
//! count padding.
//!
//! Precondition: the Pad adds zeros to the spatial axes alone and only the window reads it; the window's own padding is
//! given by numbers, and an average's is none or counts. Bit-exact.

use crate::graph::{Graph, Node};
use crate::ops::conv::Conv;
use crate::ops::pad::{Pad, PadMode};
use crate::ops::pool::{Pool, PoolKind};
use crate::ops::window::{AutoPad, Window};
use crate::passes::Uses;
use crate::passes::pattern::replace;

/// Folds zero padding into the windows that read it.
pub fn fold_pad(graph: &mut Graph) -> bool {
    let uses = Uses::of(graph);
    let mut changed = false;
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let Some(input) = node.input(0).filter(|id| uses.sole_reader(*id).is_some()) else { continue };
        let Some(pad) = uses.writer(input).and_then(|writer| graph.nodes.get(writer)) else { continue };
        let (Some(spatial), source) = (spatial_zeros(graph, pad), pad.input(0)) else { continue };
        let mut inputs = node.inputs.clone();
        inputs[0] = source;
        if let Some(conv) = node.op_as::<Conv>() {
            let Some(window) = widened(&conv.window, &spatial) else { continue };
            let conv = Conv { window, ..conv.clone() };
            changed |= replace(graph, index, conv, inputs);
        } else if let Some(pool) = node.op_as::<Pool>().filter(|pool| pool.kind == PoolKind::Average)
            && let Some(window) = &pool.window
        {
            let counts = pool.count_include_pad || window.pads.iter().all(|&pad| pad == 0);
            let Some(window) = widened(window, &spatial).filter(|w| counts && !w.ceil_mode) else { continue };
            let pool = Pool { window: Some(window), count_include_pad: true, ..pool.clone() };
            changed |= replace(graph, index, pool, inputs);
        }
    }
    changed
}

/// How many zeros `node` adds before and after each spatial axis, if it is a Pad that does that alone.
fn spatial_zeros(graph: &Graph, node: &Node) -> Option<Vec<[i64; 2]>> {
    let pad = node.op_as::<Pad>().filter(|pad| pad.mode == PadMode::Constant)?;
    let zero = node.input(2).is_none() || graph.constant(node.input(2)).is_some();
    let zero = zero && pad.value_bits(graph.ty(node.input(0)?), graph.constant(node.input(2))) == Some(0);
    let amounts = graph.with_types(node, |types| pad.amounts(types)).ok()?;
    let (others, spatial) = amounts.split_at_checked(2)?;
    let fits = zero && others == [[0; 2]; 2] && spatial.iter().flatten().all(|&amount| amount >= 0);
    fits.then(|| spatial.to_vec())
}

/// The window with so many more elements of padding.
fn widened(window: &Window, spatial: &[[i64; 2]]) -> Option<Window> {
    let mut pads = match window.auto_pad {
        AutoPad::NotSet if window.pads.len() == 2 * spatial.len() => window.pads.clone(),
        AutoPad::NotSet if !window.pads.is_empty() => return None,
        AutoPad::NotSet | AutoPad::Valid => vec![0; 2 * spatial.len()],
        AutoPad::SameUpper | AutoPad::SameLower => return None,
    };
    for (axis, [before, after]) in spatial.iter().enumerate() {
        pads[axis] += before;
        pads[spatial.len() + axis] += after;
    }
    Some(Window { auto_pad: AutoPad::NotSet, pads, ..window.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::test_support::{check_pass, check_pass_does_nothing};

    #[test]
    fn zeros_around_a_picture_become_the_window_s_own() {
        for attributes in ["", "pads=[1,0,1,0]", "auto_pad=VALID strides=[2,2]"] {
            let text = format!(
                "input x 2,3,5,6
                 ints pads 0,0,1,2,0,0,0,1
                 random w 8,3,3,3
                 t = Pad(x, pads)
                 y = Conv(t, w) {attributes}
                 output y"
            );
            check_pass(fold_pad, &text, "y = Conv(x, w)");
        }
        for attributes in ["", "pads=[1,0,1,0] count_include_pad=1"] {
            let text = format!(
                "input x 2,3,5,6
                 ints pads 0,0,1,1,0,0,0,1
                 floats zero [] 0.0
                 t = Pad(x, pads, zero)
                 y = AveragePool(t) kernel_shape=[3,3] {attributes}
                 output y"
            );
            check_pass(fold_pad, &text, "y = AveragePool(x)");
        }
    }

    #[test]
    fn other_padding_is_left_alone() {
        for (pads, value, mode, window) in [
            ("0,0,1,1,0,0,1,1", "1.0", "constant", "Conv(t, w)"),
            ("0,0,1,1,0,0,1,-1", "0.0", "constant", "Conv(t, w)"),
            ("0,0,1,1,0,0,1,1", "0.0", "reflect", "Conv(t, w)"),
            ("1,0,1,1,0,0,1,1", "0.0", "constant", "Conv(t, w)"),
            ("0,0,1,1,0,0,1,1", "0.0", "constant", "Conv(t, w) auto_pad=SAME_LOWER"),
            ("0,0,1,1,0,0,1,1", "0.0", "constant", "MaxPool(t) kernel_shape=[2,2]"),
            ("0,0,1,1,0,0,1,1", "0.0", "constant", "AveragePool(t) kernel_shape=[2,2] pads=[1,1,1,1]"),
        ] {
            let text = format!(
                "input x 2,3,5,6
                 ints pads {pads}
                 floats value [] {value}
                 random w 8,3,3,3
                 t = Pad(x, pads, value) mode={mode}
                 y = {window}
                 output y"
            );
            check_pass_does_nothing(fold_pad, &text);
        }
        check_pass_does_nothing(
            fold_pad,
            "input x 1,3,5,6
             ints pads 0,0,1,1,0,0,1,1
             random w 8,3,3,3
             t = Pad(x, pads)
             y = Conv(t, w)
             output y
             output t",
        );
    }
}
