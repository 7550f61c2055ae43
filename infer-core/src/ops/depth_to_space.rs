//! DepthToSpace and SpaceToDepth: blocks of pixels from channels and back.

use super::movement::{choice, result_type};
use super::{ImportNode, NodeTypes, Operator, Row, StringUse};
use crate::calls::{LowerNode, picture};
use crate::diagnostic::Reason;
use crate::tensor_type::TensorType;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[
    Row { name: "DepthToSpace", domain: "", since: 1, inputs: 1..=1, outputs: 1..=1, import },
    Row { name: "SpaceToDepth", domain: "", since: 1, inputs: 1..=1, outputs: 1..=1, import },
];

/// DepthToSpace or SpaceToDepth.
#[derive(Debug)]
pub struct DepthSpace {
    /// Whether pixels become channels: SpaceToDepth.
    pub to_depth: bool,
    /// The side of a block.
    pub blocksize: usize,
    /// Where a block's position counts within the channels.
    pub order: Order,
}

/// How the deep side's channels are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Row in the block, column in the block, channel.
    DepthColumnRow,
    /// Channel, row in the block, column in the block.
    ColumnRowDepth,
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let blocksize = node.attributes.int("blocksize")?.unwrap_or(0);
    let blocksize = usize::try_from(blocksize).ok().filter(|&b| b > 0 && b.checked_mul(b).is_some());
    let orders = [("DCR", Order::DepthColumnRow), ("CRD", Order::ColumnRowDepth)];
    Ok(Box::new(DepthSpace {
        to_depth: node.op_type == "SpaceToDepth",
        blocksize: blocksize.ok_or_else(|| Reason::new("attribute `blocksize` is not a positive number"))?,
        order: choice(node, "mode", &orders)?,
    }))
}

impl Operator for DepthSpace {
    fn name(&self) -> &'static str {
        if self.to_depth { "SpaceToDepth" } else { "DepthToSpace" }
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let ty = node.ty(0)?;
        let b = self.blocksize;
        let shape = match *ty.shape.as_slice() {
            [n, c, h, w] if self.to_depth && h % b == 0 && w % b == 0 => {
                c.checked_mul(b * b).map(|c| vec![n, c, h / b, w / b])
            }
            [n, c, h, w] if !self.to_depth && c % (b * b) == 0 => {
                h.checked_mul(b).zip(w.checked_mul(b)).map(|(h, w)| vec![n, c / (b * b), h, w])
            }
            _ => None,
        };
        let shape =
            shape.ok_or_else(|| Reason::new(format!("{ty} is no picture that divides by blocks of {b}")))?;
        Ok(vec![result_type(ty.dtype, shape)?])
    }

    fn lower(&self, node: &mut LowerNode<'_>) -> Result<(), Reason> {
        let (input, output) = (node.input(0)?, node.output(0)?);
        // The index space is [n, channel, row, row in the block, column, column in the block] in the order in which
        // the wide side has it, and the deep side walks it with the strides of its order.
        let (wide, deep) = if self.to_depth { (&input, &output) } else { (&output, &input) };
        let ([n, channels, ..], [_, _, h, w]) = (picture(&wide.ty), picture(&deep.ty));
        let b = self.blocksize;
        let plane = h * w;
        let [channel, row_in, column_in] = match self.order {
            Order::DepthColumnRow => [plane, b * channels * plane, channels * plane],
            Order::ColumnRowDepth => [b * b * plane, b * plane, plane],
        };
        let shape = [n, channels, h, b, w, b];
        let deep_walk =
            [channels * b * b * plane, channel, w, row_in, 1, column_in].map(|stride| stride as i64);
        let wide_walk = TensorType::new(wide.ty.dtype, shape).strides();
        let (from, to) = if self.to_depth {
            (wide_walk.as_slice(), deep_walk.as_slice())
        } else {
            (deep_walk.as_slice(), wide_walk.as_slice())
        };
        node.copy_between(&input, (from, 0), &output, (to, 0), &shape)
    }

    fn string_use(&self) -> StringUse {
        StringUse::Moves
    }
}

#[cfg(test)]
mod tests {
    use super::super::Attribute;
    use super::super::test_support::{check, f32s, run};

    #[test]
    fn blocks_move_in_both_orders_and_back() {
        let values: Vec<f32> = (0..16u8).map(f32::from).collect();
        let deep = f32s([1, 8, 1, 2], &values);
        let attributes =
            |mode: &str, b| [("mode", Attribute::String(mode.into())), ("blocksize", Attribute::Int(b))];
        let dcr = [0., 4., 1., 5., 8., 12., 9., 13., 2., 6., 3., 7., 10., 14., 11., 15.];
        let crd = [0., 2., 1., 3., 4., 6., 5., 7., 8., 10., 9., 11., 12., 14., 13., 15.];
        for (mode, wide) in [("DCR", dcr), ("CRD", crd)] {
            let wide = f32s([1, 2, 2, 4], &wide);
            check(("DepthToSpace", 13), &attributes(mode, 2), std::slice::from_ref(&deep), &wide);
            check(("SpaceToDepth", 28), &attributes(mode, 2), &[wide], &deep);
        }
        let blocks = [0., 2., 8., 10., 1., 3., 9., 11., 4., 6., 12., 14., 5., 7., 13., 15.];
        let wide = f32s([1, 2, 2, 4], &values);
        check(
            ("SpaceToDepth", 13),
            &[("blocksize", Attribute::Int(2))],
            &[wide],
            &f32s([1, 8, 1, 2], &blocks),
        );
        for b in [0, -1, 3, i64::MAX] {
            assert!(run(("DepthToSpace", 13), &attributes("DCR", b), std::slice::from_ref(&deep)).is_err());
        }
    }
}
