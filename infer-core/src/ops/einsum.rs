//! Einsum and Det.
//!
//! Specification: <https://onnx.ai/onnx/operators/onnx__Einsum.html>, <https://onnx.ai/onnx/operators/onnx__Det.html>
//! Types: numbers; Einsum computes integers as i64, which wraps around as they do; Det takes floats and computes in
//! f64.
//! History: Det since opset 11, Einsum since 12.
//!
//! Einsum becomes simpler nodes, operand by operand: diagonals by Slice, sums by ReduceSum, and products by MatMul where
//! labels are contracted, by Mul where none are.

use super::elements::expect_elements;
use super::number::{narrowed, no_numbers, tensor_of, widened};
use super::{Expansion, ImportNode, NodeTypes, NodeValues, Operator, Row, Wire, compose, expect_dtype};
use crate::constant::Constant;
use crate::diagnostic::Reason;
use crate::tensor_type::{DataType, TensorType};
use crate::value::Value;

/// The rows of this file.
pub const OPERATORS: &[Row] = &[
    Row { name: "Det", domain: "", since: 11, inputs: 1..=1, outputs: 1..=1, import: |_| Ok(Box::new(Det)) },
    Row {
        name: "Einsum",
        domain: "",
        since: 12,
        inputs: 1..=usize::MAX,
        outputs: 1..=1,
        import: import_einsum,
    },
];

/// Einsum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Einsum {
    /// The labels of each operand.
    pub inputs: Vec<Term>,
    /// Those of the result, where the equation says them.
    pub output: Option<Term>,
}

/// The labels of one operand of an equation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// Letters before the ellipsis, or all.
    pub before: Vec<char>,
    /// Letters after the ellipsis, where there is one.
    pub after: Option<Vec<char>>,
}

/// Det: the determinant of square matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Det;

impl Term {
    fn parse(text: &str) -> Result<Self, Reason> {
        let letters = |text: &str| -> Result<Vec<char>, Reason> {
            match text.chars().find(|c| !c.is_ascii_alphabetic()) {
                Some(other) => Err(Reason::new(format!("attribute `equation` has the label {other:?}"))),
                None => Ok(text.chars().collect()),
            }
        };
        Ok(match text.split_once("...") {
            None => Term { before: letters(text)?, after: None },
            Some((before, after)) => Term { before: letters(before)?, after: Some(letters(after)?) },
        })
    }

    /// A label for each of `rank` axes.
    fn labels(&self, rank: usize) -> Result<Vec<Label>, Reason> {
        let mut labels: Vec<Label> = self.before.iter().copied().map(Label::Letter).collect();
        let after = self.after.as_deref().unwrap_or_default();
        let hidden = rank.checked_sub(labels.len() + after.len());
        let Some(hidden) = hidden.filter(|&hidden| hidden == 0 || self.after.is_some()) else {
            return Err(Reason::new(format!("an operand of {rank} axes does not fit its labels")));
        };
        labels.extend((0..hidden).rev().map(Label::Hidden));
        labels.extend(after.iter().copied().map(Label::Letter));
        Ok(labels)
    }

    fn letters(&self) -> impl Iterator<Item = char> {
        self.before.iter().chain(self.after.iter().flatten()).copied()
    }
}

/// What names an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Label {
    /// A letter.
    Letter(char),
    /// An axis of the ellipsis, counted from its end.
    Hidden(usize),
}

fn import_einsum(node: &mut ImportNode) -> Result<Box<dyn Operator>, Reason> {
    let equation = node.attributes.string("equation")?;
    let equation = equation.ok_or_else(|| Reason::new("attribute `equation` is missing"))?;
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (inputs, output) = match equation.split_once("->") {
        Some((inputs, output)) => (inputs, Some(Term::parse(output)?)),
        None => (equation.as_str(), None),
    };
    let inputs: Vec<Term> = inputs.split(',').map(Term::parse).collect::<Result<_, _>>()?;
    if inputs.len() != node.inputs.len() {
        return Err(Reason::new(format!(
            "an equation of {} operands for {}",
            inputs.len(),
            node.inputs.len()
        )));
    }
    Ok(Box::new(Einsum { inputs, output }))
}

/// A value whose axes have labels.
#[derive(Clone)]
struct Operand {
    wire: Wire,
    labels: Vec<Label>,
}

impl Operand {
    fn extents(&self, nodes: &Expansion<'_>, labels: &[Label]) -> Result<Vec<usize>, Reason> {
        let shape = nodes.shape(self.wire)?;
        let find = |label: &Label| {
            let axis = self.labels.iter().position(|own| own == label)?;
            shape.get(axis).copied()
        };
        labels.iter().map(|label| find(label).ok_or_else(|| Reason::new("an axis without label"))).collect()
    }

    /// The same with its axes in the order of `labels`, all that it has.
    fn transposed(self, nodes: &mut Expansion<'_>, labels: &[Label]) -> Result<Operand, Reason> {
        let find = |label: &Label| self.labels.iter().position(|own| own == label);
        let perm: Option<Vec<usize>> = labels.iter().map(find).collect();
        let perm = perm.ok_or_else(|| Reason::new("a label without axis"))?;
        let labels = labels.to_vec();
        if perm.iter().enumerate().all(|(to, &from)| to == from) {
            return Ok(Operand { wire: self.wire, labels });
        }
        let perm: Vec<i64> = perm.into_iter().map(|axis| axis as i64).collect();
        let wire = nodes.node("Transpose", &[self.wire], &[("perm", perm.into())])?;
        Ok(Operand { wire, labels })
    }

    /// The axes of a label that occurs twice become their diagonal.
    fn diagonal(mut self, nodes: &mut Expansion<'_>) -> Result<Operand, Reason> {
        loop {
            let labels = &self.labels;
            let twice = (0..labels.len()).find_map(|first| {
                let second = (first + 1..labels.len()).find(|&second| labels[second] == labels[first])?;
                Some((first, second))
            });
            let Some((first, second)) = twice else { return Ok(self) };
            let shape = nodes.shape(self.wire)?.to_vec();
            let extent = shape[first];
            if shape[second] != extent {
                return Err(Reason::new(format!("axes {first} and {second} of {shape:?} have one label")));
            }
            let rest: Vec<usize> = (0..shape.len()).filter(|&axis| axis != first && axis != second).collect();
            let perm: Vec<i64> = rest.iter().chain(&[first, second]).map(|&axis| axis as i64).collect();
            let mut merged: Vec<usize> = rest.iter().map(|&axis| shape[axis]).collect();
            merged.push(extent.saturating_mul(extent));
            expect_elements(&merged, 1)?;
            let wire = nodes.node("Transpose", &[self.wire], &[("perm", perm.into())])?;
            let wire = reshaped(nodes, wire, &merged)?;
            let [start, end, axis, step] =
                [0, i64::MAX, -1, extent as i64 + 1].map(|value| nodes.i64s(&[value]));
            let wire = nodes.node("Slice", &[wire, start, end, axis, step], &[])?;
            let label = self.labels[first];
            let labels = rest.iter().map(|&axis| self.labels[axis]).chain([label]).collect();
            self = Operand { wire, labels };
        }
    }

    /// Without the labels that `drop` names: summed, or taken away where their extent is 1.
    fn without(self, nodes: &mut Expansion<'_>, drop: impl Fn(Label) -> bool) -> Result<Operand, Reason> {
        let axes: Vec<i64> =
            (0..self.labels.len()).filter(|&axis| drop(self.labels[axis])).map(|axis| axis as i64).collect();
        if axes.is_empty() {
            return Ok(self);
        }
        let labels: Vec<Label> = self.labels.iter().copied().filter(|&label| !drop(label)).collect();
        let shape = nodes.shape(self.wire)?;
        let wire = if axes.iter().all(|&axis| shape[axis as usize] == 1) {
            let kept = self.extents(nodes, &labels)?;
            reshaped(nodes, self.wire, &kept)?
        } else {
            let axes = nodes.i64s(&axes);
            nodes.node("ReduceSum", &[self.wire, axes], &[("keepdims", 0.into())])?
        };
        Ok(Operand { wire, labels })
    }
}

fn reshaped(nodes: &mut Expansion<'_>, wire: Wire, shape: &[usize]) -> Result<Wire, Reason> {
    if nodes.shape(wire)? == shape {
        return Ok(wire);
    }
    let shape: Vec<i64> = shape.iter().map(|&extent| extent as i64).collect();
    let shape = nodes.i64s(&shape);
    nodes.node("Reshape", &[wire, shape], &[("allowzero", 1.into())])
}

/// The product of two operands, the labels that both have and `needed` does not hold for being summed over.
fn product(
    nodes: &mut Expansion<'_>,
    left: Operand,
    right: Operand,
    needed: impl Fn(Label) -> bool,
) -> Result<Operand, Reason> {
    let choose = |of: &Operand, keep: &dyn Fn(Label) -> bool| -> Vec<Label> {
        of.labels.iter().copied().filter(|&label| keep(label)).collect()
    };
    let batch = choose(&left, &|label| right.labels.contains(&label) && needed(label));
    let summed = choose(&left, &|label| right.labels.contains(&label) && !needed(label));
    let rows = choose(&left, &|label| !right.labels.contains(&label));
    let columns = choose(&right, &|label| !left.labels.contains(&label));

    let batch_shape = left.extents(nodes, &batch)?;
    let summed_shape = left.extents(nodes, &summed)?;
    let (rows_shape, columns_shape) = (left.extents(nodes, &rows)?, right.extents(nodes, &columns)?);
    let left = left.transposed(nodes, &[&*batch, &rows, &summed].concat())?;
    let right = right.transposed(nodes, &[&*batch, &summed, &columns].concat())?;
    let labels = [&*batch, &rows, &columns].concat();
    let shape = [&*batch_shape, &rows_shape, &columns_shape].concat();

    // Where there is no matrix product, all the single ones are there at once.
    let products = [&*batch_shape, &rows_shape, &summed_shape, &columns_shape].concat();
    let merged = |shape: &[usize]| shape.iter().fold(1usize, |n, &extent| n.saturating_mul(extent));
    let (m, k, n) = (merged(&rows_shape), merged(&summed_shape), merged(&columns_shape));
    let lead = if batch.is_empty() { Vec::new() } else { vec![merged(&batch_shape)] };
    let with = |extents: &[usize]| [&*lead, extents].concat();
    if !summed.is_empty() && k > 0 {
        let a = reshaped(nodes, left.wire, &with(&[m, k]))?;
        let b = reshaped(nodes, right.wire, &with(&[k, n]))?;
        // Not every type of elements has a matrix product.
        if let Ok(wire) = nodes.node("MatMul", &[a, b], &[]) {
            return Ok(Operand { wire: reshaped(nodes, wire, &shape)?, labels });
        }
    }
    expect_elements(&products, size_of::<f64>())?;
    let a = reshaped(nodes, left.wire, &with(&[m, k, 1]))?;
    let b = reshaped(nodes, right.wire, &with(&[1, k, n]))?;
    let wire = nodes.node("Mul", &[a, b], &[])?;
    let axis = nodes.i64s(&[-2]);
    let wire = match k {
        1 => wire,
        _ => nodes.node("ReduceSum", &[wire, axis], &[("keepdims", 0.into())])?,
    };
    Ok(Operand { wire: reshaped(nodes, wire, &shape)?, labels })
}

impl Einsum {
    /// The labels of the result; `hidden` is the number of axes that ellipses stand for.
    fn output(&self, hidden: usize) -> Result<Vec<Label>, Reason> {
        let letters = || self.inputs.iter().flat_map(Term::letters);
        let Some(term) = &self.output else {
            // Those that occur once, in the order of the alphabet.
            let mut once: Vec<char> =
                letters().filter(|&letter| letters().filter(|&other| other == letter).count() == 1).collect();
            once.sort_unstable();
            return Ok((0..hidden)
                .rev()
                .map(Label::Hidden)
                .chain(once.into_iter().map(Label::Letter))
                .collect());
        };
        let named: Vec<char> = term.letters().collect();
        for (index, &letter) in named.iter().enumerate() {
            if named[..index].contains(&letter) || !letters().any(|other| other == letter) {
                return Err(Reason::new(format!(
                    "the result of the equation cannot have the label {letter:?}"
                )));
            }
        }
        let hidden = if term.after.is_some() { hidden } else { 0 };
        term.labels(named.len() + hidden)
    }
}

impl Operator for Einsum {
    fn name(&self) -> &'static str {
        "Einsum"
    }

    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let dtype = nodes.types.ty(0)?.dtype;
        expect_dtype(nodes.types.ty(0)?, super::number::NUMBERS)?;
        let widens = !dtype.is_float() && dtype != DataType::I64;
        let mut operands: Vec<Operand> = Vec::with_capacity(self.inputs.len());
        let mut hidden = 0;
        for (index, term) in self.inputs.iter().enumerate() {
            let mut wire = nodes.input(index)?;
            let ty = nodes.ty(wire)?;
            if ty.dtype != dtype {
                return Err(Reason::new(format!("operand {index} is {ty}, not of {dtype}")));
            }
            let labels = term.labels(ty.rank())?;
            hidden = hidden.max(labels.len() - term.letters().count());
            if widens {
                wire = nodes.node("Cast", &[wire], &[("to", (DataType::I64 as i64).into())])?;
            }
            operands.push(Operand { wire, labels }.diagonal(nodes)?);
        }
        let output = self.output(hidden)?;

        // An axis of extent 1 beside a longer one of the same label broadcasts: its operand does without.
        let mut extents: Vec<(Label, usize)> = Vec::new();
        for operand in &operands {
            for (&label, &extent) in operand.labels.iter().zip(nodes.shape(operand.wire)?) {
                match extents.iter_mut().find(|(known, _)| *known == label) {
                    None => extents.push((label, extent)),
                    Some((_, known)) if *known == 1 => *known = extent,
                    Some((_, known)) if extent == 1 || extent == *known => {}
                    Some((_, known)) => {
                        return Err(Reason::new(format!("a label has the extents {known} and {extent}")));
                    }
                }
            }
        }
        for index in 0..operands.len() {
            let operand = operands[index].clone();
            let shape = nodes.shape(operand.wire)?.to_vec();
            let broadcast = |label: Label| {
                let axis = operand.labels.iter().position(|&own| own == label);
                let whole = extents.iter().find(|(known, _)| *known == label);
                axis.and_then(|axis| shape.get(axis)) == Some(&1) && whole.is_some_and(|(_, n)| *n != 1)
            };
            let operand = operand.clone().without(nodes, broadcast)?;
            let elsewhere = |label: Label| {
                let others = operands.iter().enumerate().filter(|(other, _)| *other != index);
                output.contains(&label) || others.flat_map(|(_, other)| &other.labels).any(|&l| l == label)
            };
            operands[index] = operand.without(nodes, |label| !elsewhere(label))?;
        }

        let mut operands = operands.into_iter();
        let mut result = operands.next().ok_or_else(|| Reason::new("an equation without operands"))?;
        while let Some(next) = operands.next() {
            let later = operands.as_slice();
            let needed =
                |label| output.contains(&label) || later.iter().any(|other| other.labels.contains(&label));
            result = product(nodes, result, next, needed)?;
        }
        let wire = result.transposed(nodes, &output)?.wire;
        let wire = match widens {
            true => nodes.node("Cast", &[wire], &[("to", (dtype as i64).into())])?,
            false => wire,
        };
        Ok(Some(vec![wire]))
    }
}

impl Det {
    /// Whether matrices of `n` rows are few enough terms.
    fn is_small(n: usize) -> bool {
        (1..=3).contains(&n)
    }

    /// The determinant of a square matrix of `n` rows, by elimination with the greatest pivots.
    fn determinant(mut matrix: Vec<f64>, n: usize) -> f64 {
        let mut determinant = 1.0;
        for column in 0..n {
            let greatest = (column..n)
                .max_by(|&a, &b| matrix[a * n + column].abs().total_cmp(&matrix[b * n + column].abs()));
            let pivot_row = greatest.unwrap_or(column);
            let pivot = matrix[pivot_row * n + column];
            if pivot == 0.0 {
                return 0.0;
            }
            if pivot_row != column {
                determinant = -determinant;
                for at in 0..n {
                    matrix.swap(pivot_row * n + at, column * n + at);
                }
            }
            determinant *= pivot;
            for row in column + 1..n {
                let factor = matrix[row * n + column] / pivot;
                for at in column..n {
                    matrix[row * n + at] -= factor * matrix[column * n + at];
                }
            }
        }
        determinant
    }
}

impl Operator for Det {
    fn name(&self) -> &'static str {
        "Det"
    }

    fn infer(&self, node: &NodeTypes<'_>) -> Result<Vec<TensorType>, Reason> {
        let ty = node.ty(0)?;
        expect_dtype(ty, &[DataType::F32, DataType::F64, DataType::F16, DataType::Bf16])?;
        match ty.shape.as_slice() {
            [lead @ .., rows, columns] if rows == columns => Ok(vec![TensorType::new(ty.dtype, lead)]),
            _ => Err(Reason::new(format!("{ty} holds no square matrices"))),
        }
    }

    /// Small matrices by the definition, in f64; larger ones are eliminated on the host.
    fn expand(&self, nodes: &mut Expansion<'_>) -> Result<Option<Vec<Wire>>, Reason> {
        let output = self.infer(&nodes.types)?.swap_remove(0);
        let n = nodes.types.ty(0)?.shape.last().copied().unwrap_or(0);
        if !Det::is_small(n) {
            return Ok(None);
        }
        let x = nodes.input(0)?;
        let x = compose::cast(nodes, x, DataType::F64)?;
        let flat = compose::reshape(nodes, x, &[&output.shape[..], &[n * n]].concat())?;
        let at = |nodes: &mut Expansion<'_>, row: usize, column: usize| {
            let index = Constant::of(TensorType::new(DataType::I64, []), &[(row * n + column) as i64]);
            let index = nodes.constant(index);
            nodes.node("Gather", &[flat, index], &[("axis", (-1).into())])
        };
        // The minor of two rows and two columns.
        let minor = |nodes: &mut Expansion<'_>, rows: [usize; 2], columns: [usize; 2]| {
            let (a, d) = (at(nodes, rows[0], columns[0])?, at(nodes, rows[1], columns[1])?);
            let (b, c) = (at(nodes, rows[0], columns[1])?, at(nodes, rows[1], columns[0])?);
            let (down, up) = (nodes.node("Mul", &[a, d], &[])?, nodes.node("Mul", &[b, c], &[])?);
            nodes.node("Sub", &[down, up], &[])
        };
        let determinant = match n {
            1 => at(nodes, 0, 0)?,
            2 => minor(nodes, [0, 1], [0, 1])?,
            _ => {
                let mut terms = Vec::with_capacity(3);
                for (column, others) in [(0, [1, 2]), (1, [2, 0]), (2, [0, 1])] {
                    let (factor, minor) = (at(nodes, 0, column)?, minor(nodes, [1, 2], others)?);
                    terms.push(nodes.node("Mul", &[factor, minor], &[])?);
                }
                nodes.node("Sum", &terms, &[])?
            }
        };
        Ok(Some(vec![compose::cast(nodes, determinant, output.dtype)?]))
    }

    fn is_host(&self, _node: &NodeTypes<'_>) -> bool {
        true
    }

    fn compute(&self, node: &NodeValues<'_>) -> Result<Option<Vec<Value>>, Reason> {
        let input = node.tensor(0)?;
        let dtype = input.ty().dtype;
        let [lead @ .., rows, columns] = input.ty().shape.as_slice() else {
            return Err(Reason::new(format!("{} holds no square matrices", input.ty())));
        };
        if rows != columns {
            return Err(Reason::new(format!("{} holds no square matrices", input.ty())));
        }
        if Det::is_small(*rows) {
            return Ok(None);
        }
        let wide = widened(input);
        let values: Vec<f64> = match wide.ty().dtype {
            DataType::F32 => wide.values::<f32>().iter().map(|&value| value.into()).collect(),
            DataType::F64 => wide.values::<f64>().into_owned(),
            _ => return Err(no_numbers(dtype)),
        };
        let count = expect_elements(lead, 8)?;
        let determinants: Vec<f64> = match rows * columns {
            // The empty product.
            0 => vec![1.0; count],
            elements => {
                values.chunks_exact(elements).map(|matrix| Det::determinant(matrix.to_vec(), *rows)).collect()
            }
        };
        let result = match dtype {
            DataType::F64 => tensor_of(dtype, lead, &determinants)?,
            _ => {
                let narrow: Vec<f32> = determinants.into_iter().map(|value| value as f32).collect();
                narrowed(tensor_of(DataType::F32, lead, &narrow)?, dtype)
            }
        };
        Ok(Some(vec![result.into()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Attribute;
    use crate::ops::test_support::{check, f32s, i64s, import, run, tensor};

    fn equation(equation: &str) -> [(&'static str, Attribute); 1] {
        [("equation", equation.into())]
    }

    #[test]
    fn equations_become_other_nodes() {
        let a = f32s([2, 3], &[1., 2., 3., 4., 5., 6.]);
        let b = f32s([3, 2], &[1., 0., 2., 1., 0., 3.]);
        let square = f32s([2, 2, 2], &[1., 2., 3., 4., 5., 6., 7., 8.]);
        let cases: [(&str, &[&Constant], Constant); 12] = [
            ("ij,jk->ik", &[&a, &b], f32s([2, 2], &[5., 11., 14., 23.])),
            ("ij, jk", &[&a, &b], f32s([2, 2], &[5., 11., 14., 23.])),
            ("ij,jk->k", &[&a, &b], f32s([2], &[19., 34.])),
            ("ij->ji", &[&a], f32s([3, 2], &[1., 4., 2., 5., 3., 6.])),
            ("ba", &[&a], f32s([3, 2], &[1., 4., 2., 5., 3., 6.])),
            ("ij->", &[&a], f32s([], &[21.])),
            ("...ii->...i", &[&square], f32s([2, 2], &[1., 4., 5., 8.])),
            ("iii->i", &[&square], f32s([2], &[1., 8.])),
            ("ij,kj->ikj", &[&a, &f32s([1, 3], &[1., 0., 2.])], f32s([2, 1, 3], &[1., 0., 6., 4., 0., 12.])),
            ("...j,...j->...", &[&a, &f32s([1, 3], &[1., 1., 1.])], f32s([2], &[6., 15.])),
            (
                "i,j,i->j",
                &[&f32s([2], &[1., 2.]), &f32s([1], &[3.]), &f32s([2], &[1., 1.])],
                f32s([1], &[9.]),
            ),
            ("ij->ij", &[&a], a.clone()),
        ];
        for (text, inputs, expected) in cases {
            check(("Einsum", 12), &equation(text), inputs, &expected);
        }
        let bytes = |values: &[u8]| tensor(DataType::U8, [2], values);
        let inputs = [bytes(&[200, 100]), bytes(&[1, 1])];
        check(("Einsum", 12), &equation("i,i"), &inputs, &tensor(DataType::U8, [], &[44u8]));
        let longs = [i64s([2, 1], &[1, 2]), i64s([2, 0], &[])];
        check(("Einsum", 12), &equation("ij,ik->jk"), &longs, &i64s([1, 0], &[]));
    }

    #[test]
    fn impossible_equations_are_refused() {
        let a = f32s([2, 3], &[0.; 6]);
        for wrong in ["ijk->i", "i->i", "ij->ii", "ij->k", "ii->i"] {
            assert!(run(("Einsum", 12), &equation(wrong), std::slice::from_ref(&a)).is_err(), "{wrong}");
        }
        assert!(run(("Einsum", 12), &equation("ij,ij"), &[a.clone(), f32s([2, 2], &[0.; 4])]).is_err());
        assert!(import(("Einsum", 12), &equation("i1->i"), 1, 1).is_err());
        assert!(import(("Einsum", 12), &equation("i,j"), 1, 1).is_err());
    }

    #[test]
    fn determinants_are_eliminated() {
        let matrices = f32s([2, 2, 2], &[0., 2., 3., 4., 1., 2., 2., 4.]);
        check(("Det", 11), &[], &[matrices], &f32s([2], &[-6., 0.]));
        let three = f32s([3, 3], &[2., 0., 1., -1., 3., 4., 5., 2., -3.]);
        check(("Det", 11), &[], &[three], &f32s([], &[-51.]));
        let four = [0., 2., 0., 0., 3., 0., 0., 0., 0., 0., 0., 1., 0., 0., 4., 0.];
        check(("Det", 11), &[], &[tensor(DataType::F64, [4, 4], &four)], &tensor(DataType::F64, [], &[24.0]));
        check(("Det", 11), &[], &[f32s([0, 0], &[])], &f32s([], &[1.]));
        check(("Det", 11), &[], &[f32s([1, 1], &[f32::NAN])], &f32s([], &[f32::NAN]));
        assert!(run(("Det", 11), &[], &[f32s([1, 2], &[0.; 2])]).is_err());
    }
}
