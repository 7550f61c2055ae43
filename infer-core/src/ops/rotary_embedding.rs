//! RotaryEmbedding, of ai.onnx and of com.microsoft: pairs of elements turned by angles that depend on the position.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html>,
//! <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.RotaryEmbedding>
//! Types: f32; f16 and bf16 compute in f32.
//! History: since opset 23. The one of com.microsoft has the positions before the tables, and always has them.
//!
//! An element pair (a, b) becomes (a·cos − b·sin, b·cos + a·sin): the pairs times cos, plus the swapped pairs times
//! (−sin, sin). Pairs lie half a head apart, or side by side where they are interleaved.

use super::attention_core::{
    cast, expect_moderate, expect_shape, extents, positions, reshape, split, with_heads,
};
use crate::diagnostic::Reason;
use crate::ops::{Expansion, ImportNode, Operator, Row, Wire, expect_dtype};
use crate::tensor_type::DataType;

/// The rows of the operator table.
pub const OPERATORS: &[Row] = &[
    Row { name: "RotaryEmbedding", domain: "", since: 23, inputs: 3..=4, outputs: 1..=1, import },
    Row {
        name: "RotaryEmbedding",
        domain: "com.microsoft",
        since: 1,
        inputs: 4..=4,
        outputs: 1..=1,
        import: import_contrib,
    },
];

const FLOATS: &[DataType] = &[DataType::F32, DataType::F16, DataType::Bf16];

/// RotaryEmbedding.
#[derive(Clone, Debug, PartialEq)]
pub struct RotaryEmbedding {
    /// Whether it is that of com.microsoft.
    pub contrib: bool,
    /// Whether pairs lie side by side.
    pub interleaved: bool,
    /// How many elements of each head turn; 0 for all.
    pub rotary_embedding_dim: usize,
    /// The heads of an input of three dimensions; 0 where they follow from the tables.
    pub num_heads: usize,
}

fn count(node: &mut ImportNode, name: &str) -> Result<usize, Reason> {
    let given = node.attributes.int(name)?.unwrap_or(0);
    usize::try_from(given).map_err(|_| Reason::new(format!("{name} is {given}, which is negative")))
}

fn import(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    Ok(Box::new(RotaryEmbedding {
        contrib: false,
        interleaved: node.attributes.flag("interleaved", false)?,
        rotary_embedding_dim: count(node, "rotary_embedding_dim")?,
        num_heads: count(node, "num_heads")?,
    }))
}

fn import_contrib(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    // Ragged batches are computed as others are: each token by its own position.
    node.attributes.flag("is_packed_batching", false)?;
    // ONNX Runtime reads the scale and computes without it.
    node.attributes.ignore("scale");
    Ok(Box::new(RotaryEmbedding {
        contrib: true,
        interleaved: node.attributes.flag("interleaved", false)?,
        rotary_embedding_dim: count(node, "rotary_embedding_dim")?,
        num_heads: count(node, "num_heads")?,
    }))
}

/// The cosines and sines of every token, `[B or 1, S, pairs]`.
#[derive(Clone, Copy)]
pub(super) struct Angles {
    cos: Wire,
    sin: Wire,
}

impl Angles {
    /// The rows of the tables `[M, pairs]` at `positions` (`[B or 1, S]`).
    pub(super) fn select(
        nodes: &mut Expansion<'_>,
        cos: Wire,
        sin: Wire,
        positions: Wire,
    ) -> Result<Self, Reason> {
        let mut select = |table| nodes.node("Gather", &[table, positions], &[("axis", 0.into())]);
        Ok(Angles { cos: select(cos)?, sin: select(sin)? })
    }

    /// Turns the first elements, twice as many as there are pairs, of each head of `x`: `[B, S, H, D]`, or
    /// `[B, H, S, D]` where `heads_first`.
    pub(super) fn turn(
        self,
        nodes: &mut Expansion<'_>,
        x: Wire,
        heads_first: bool,
        interleaved: bool,
    ) -> Result<Wire, Reason> {
        let [a, b, c, size] = extents(nodes, x)?;
        let (tokens, table) = (if heads_first { c } else { b }, nodes.ty(self.cos)?);
        expect_moderate(table)?;
        let [batch, pairs] = match *table.shape.as_slice() {
            [batch, rows, pairs] if rows == tokens && (batch == a || batch == 1) => [batch, pairs],
            _ => {
                return Err(Reason::new(format!(
                    "angles {table} do not fit {tokens} tokens of {a} sequences"
                )));
            }
        };
        let whole = 2 * pairs;
        if whole > size {
            return Err(Reason::new(format!("{whole} elements turn of heads of {size}")));
        }
        let (mut turning, mut resting) = (x, None);
        if whole < size
            && let [first, second] = *split(nodes, x, -1, &[whole, size - whole])?
        {
            (turning, resting) = (first, Some(second));
        }
        // Pairs as an axis of their own, beside which the angles broadcast.
        let (axis, pair_shape, angle_shape) = if interleaved {
            (-1, [a, b, c, pairs, 2], [pairs, 1])
        } else {
            (-2, [a, b, c, 2, pairs], [1, pairs])
        };
        let outer = if heads_first { [batch, 1, tokens] } else { [batch, tokens, 1] };
        let angle_shape = [&outer[..], &angle_shape].concat();
        let cos = reshape(nodes, self.cos, &angle_shape)?;
        let sin = reshape(nodes, self.sin, &angle_shape)?;
        let negative = nodes.node("Neg", &[sin], &[])?;
        let sin = nodes.node("Concat", &[negative, sin], &[("axis", axis.into())])?;
        let x = reshape(nodes, turning, &pair_shape)?;
        let swapped = match split(nodes, x, axis, &[1, 1])?.as_slice() {
            [first, second] => nodes.node("Concat", &[*second, *first], &[("axis", axis.into())])?,
            _ => x,
        };
        let along = nodes.node("Mul", &[x, cos], &[])?;
        let across = nodes.node("Mul", &[swapped, sin], &[])?;
        let turned = nodes.node("Add", &[along, across], &[])?;
        let turned = reshape(nodes, turned, &[a, b, c, whole])?;
        match resting {
            Some(resting) => nodes.node("Concat", &[turned, resting], &[("axis", (-1).into())]),
            None => Ok(turned),
        }
    }
}

impl RotaryEmbedding {
    fn angles(&self, nodes: &mut Expansion<'_>, batch: usize, tokens: usize) -> Result<Angles, Reason> {
        let [cos, sin, at] = if self.contrib { [2, 3, 1] } else { [1, 2, 3] };
        let (cos, sin) = (nodes.input(cos)?, nodes.input(sin)?);
        let table = nodes.ty(cos)?.clone();
        for wire in [cos, sin] {
            expect_dtype(nodes.ty(wire)?, FLOATS)?;
            expect_shape("sin_cache", nodes.ty(wire)?, &table.shape)?;
        }
        let (cos, sin) = (cast(nodes, cos, DataType::F32)?, cast(nodes, sin, DataType::F32)?);
        let Some(mut at) = nodes.optional_input(at) else {
            return match *table.shape.as_slice() {
                [_, _, _] => Ok(Angles { cos, sin }),
                _ => Err(Reason::new(format!(
                    "`cos_cache` is {table}, not of 3 dimensions without `position_ids`"
                ))),
            };
        };
        let ty = nodes.ty(at)?.clone();
        expect_dtype(&ty, &[DataType::I64])?;
        if table.rank() != 2 {
            return Err(Reason::new(format!(
                "`cos_cache` is {table}, not of 2 dimensions with `position_ids`"
            )));
        }
        if self.contrib && ty.elements() == 1 && ty.rank() < 2 {
            let own = positions(nodes, 0, tokens, &[1, tokens])?;
            let first = reshape(nodes, at, &[1, 1])?;
            at = nodes.node("Add", &[first, own], &[])?;
        } else if ty.shape != [batch, tokens] && ty.shape != [1, tokens] {
            return Err(Reason::new(format!("`position_ids` is {ty}, not of shape [{batch}, {tokens}]")));
        }
        Angles::select(nodes, cos, sin, at)
    }
}

impl Operator for RotaryEmbedding {
    fn name(&self) -> &'static str {
        "RotaryEmbedding"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let x = nodes.input(0)?;
        let ty = nodes.ty(x)?.clone();
        expect_dtype(&ty, FLOATS)?;
        let table = nodes.types.ty(if self.contrib { 2 } else { 1 })?;
        expect_moderate(table)?;
        let pairs = table.shape.last().copied().unwrap_or(0);
        let heads_first = ty.rank() == 4;
        let apart = match *ty.shape.as_slice() {
            [_, _, _, _] => x,
            [_, _, hidden] => {
                // Without a number of heads, all of each head turns.
                let heads = match self.num_heads {
                    0 if self.contrib && pairs > 0 => hidden / (2 * pairs),
                    heads => heads,
                };
                with_heads(nodes, x, heads)?
            }
            _ => return Err(Reason::new(format!("`X` is {ty}, not of 3 or 4 dimensions"))),
        };
        let [batch, b, c, size] = extents(nodes, apart)?;
        let whole = if self.rotary_embedding_dim == 0 { size } else { self.rotary_embedding_dim };
        if whole != 2 * pairs {
            return Err(Reason::new(format!(
                "{whole} elements of each head turn, the tables ({table}) have {pairs} pairs"
            )));
        }
        let angles = self.angles(nodes, batch, if heads_first { c } else { b })?;
        let apart = cast(nodes, apart, DataType::F32)?;
        let turned = angles.turn(nodes, apart, heads_first, self.interleaved)?;
        let turned = cast(nodes, turned, ty.dtype)?;
        Ok(Some(vec![reshape(nodes, turned, &ty.shape)?]))
    }
}

#[cfg(test)]
mod tests {
    use crate::constant::Constant;
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, i64s, run};

    /// One token of one head; its pairs turn by a right angle.
    fn inputs() -> [Constant; 3] {
        [f32s([1, 1, 1, 4], &[1.0, 2.0, 3.0, 4.0]), f32s([1, 1, 2], &[0.0; 2]), f32s([1, 1, 2], &[1.0; 2])]
    }

    #[test]
    fn pairs_turn() {
        let halves = f32s([1, 1, 1, 4], &[-3.0, -4.0, 1.0, 2.0]);
        check(("RotaryEmbedding", 23), &[], &inputs(), &halves);
        let interleaved = [("interleaved", Attribute::Int(1))];
        check(("RotaryEmbedding", 23), &interleaved, &inputs(), &f32s([1, 1, 1, 4], &[-2.0, 1.0, -4.0, 3.0]));
        let part = [("rotary_embedding_dim", Attribute::Int(2)), ("num_heads", Attribute::Int(1))];
        let [x, ..] = inputs();
        let x = x.reshaped(&[1, 1, 4]).unwrap();
        let angle = [f32s([1, 1, 1], &[0.0]), f32s([1, 1, 1], &[1.0])];
        let [cos, sin] = angle;
        check(("RotaryEmbedding", 23), &part, &[x, cos, sin], &f32s([1, 1, 4], &[-2.0, 1.0, 3.0, 4.0]));
    }

    #[test]
    fn positions_select_angles() {
        let (cos, sin) = (f32s([3, 1], &[1.0, 0.0, -1.0]), f32s([3, 1], &[0.0, 1.0, 0.0]));
        let x = f32s([1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let expected = f32s([1, 2, 2], &[-2.0, 1.0, -3.0, -4.0]);
        let heads = [("num_heads", Attribute::Int(1))];
        let given = [x.clone(), cos.clone(), sin.clone(), i64s([1, 2], &[1, 2])];
        check(("RotaryEmbedding", 23), &heads, &given, &expected);
        let contrib = ("com.microsoft::RotaryEmbedding", 1);
        let first = [x, i64s([1], &[1]), cos, sin];
        check_contrib(contrib, &first, &expected);
    }

    fn check_contrib(op: (&str, i64), inputs: &[Constant], expected: &Constant) {
        assert_eq!(run(op, &[], inputs).unwrap().values::<f32>(), expected.values::<f32>());
    }

    #[test]
    fn tables_that_do_not_fit_are_refused() {
        let [x, cos, sin] = inputs();
        let dim = [("rotary_embedding_dim", Attribute::Int(2))];
        assert!(run(("RotaryEmbedding", 23), &dim, &[&x, &cos, &sin]).is_err());
        assert!(run(("RotaryEmbedding", 23), &[], &[x.clone(), cos, f32s([1, 1, 1], &[1.0])]).is_err());
        let table = f32s([2, 2], &[0.0; 4]);
        assert!(run(("RotaryEmbedding", 23), &[], &[x, table.clone(), table]).is_err());
    }
}
