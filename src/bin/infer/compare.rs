//! How far values are from those recorded.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use infer_core::value::Value;

use crate::elements::Elements;

/// How far an element may be from the recorded one:
/// `|ours - recorded| <= atol + rtol * |recorded| + of_largest * max |all recorded|`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// In proportion to the recorded element.
    pub rtol: f64,
    /// In any case.
    pub atol: f64,
    /// In proportion to the largest finite element of a tensor of floats.
    pub of_largest: f64,
    /// Whether it holds for integers too, as for outputs of quantised operators; else they must be equal.
    pub integers: bool,
}

impl Tolerance {
    /// The tolerance that a file such as `{"rtol": 0.001, "atol": 1e-07}` states; `None` where there is no file.
    pub fn read(path: &Path) -> anyhow::Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let parsed: serde_json::Value =
            serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
        let number = |key: &str| match parsed.get(key).and_then(serde_json::Value::as_f64) {
            Some(number) if number >= 0.0 => Ok(number),
            _ => bail!("{} gives no {key}", path.display()),
        };
        Ok(Some(Tolerance { rtol: number("rtol")?, atol: number("atol")?, of_largest: 0.0, integers: false }))
    }

    /// One of the two numbers, from the command line.
    pub fn parse(text: &str) -> Result<f64, String> {
        let number = text.parse().ok().filter(|number: &f64| *number >= 0.0 && number.is_finite());
        number.ok_or_else(|| "a number from 0 is wanted".to_owned())
    }

    fn admits(&self, distance: f64, recorded: f64) -> bool {
        distance <= self.atol + self.rtol * recorded
    }
}

/// How far the elements of a value are from those recorded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// The largest distance.
    pub absolute: f64,
    /// The largest distance in proportion to the recorded element.
    pub relative: f64,
    /// How many elements there are.
    pub count: usize,
    /// How many are further from the recorded ones than tolerated.
    pub wrong: usize,
    /// The first of them.
    pub first: Option<String>,
}

impl Difference {
    /// What is wrong, if anything is.
    pub fn describe(&self) -> Option<String> {
        let first = self.first.as_ref()?;
        let mut text = format!("{} of {} elements differ: {first}", self.wrong, self.count);
        if self.absolute > 0.0 {
            let _ = write!(text, "; at most by {:.3e}, relative {:.3e}", self.absolute, self.relative);
        }
        Some(text)
    }

    fn add(&mut self, other: Difference) {
        self.absolute = self.absolute.max(other.absolute);
        self.relative = self.relative.max(other.relative);
        self.count += other.count;
        self.wrong += other.wrong;
        self.first = self.first.take().or(other.first);
    }

    /// Counts an element at `distance` from `recorded`, both as numbers from 0; `is_equal` where they are the same.
    fn element(&mut self, distance: f64, recorded: f64, is_close: bool, say: impl FnOnce(usize) -> String) {
        if !is_close {
            self.wrong += 1;
            let index = self.count;
            self.first.get_or_insert_with(|| say(index));
        }
        if distance > 0.0 {
            self.absolute = self.absolute.max(distance);
            self.relative = self.relative.max(distance / recorded);
        }
        self.count += 1;
    }
}

/// Compares a value with the recorded one.
///
/// # Errors
///
/// If they are not of one type and shape.
pub fn compare(ours: &Value, recorded: &Value, tolerance: Tolerance) -> Result<Difference, String> {
    let another = || format!("{} instead of {}", ours.describe(), recorded.describe());
    let mut difference = Difference::default();
    match (ours, recorded) {
        (Value::Tensor(ours), Value::Tensor(recorded)) => {
            if ours.ty() != recorded.ty() {
                return Err(another());
            }
            difference = compare_elements(Elements::of(ours), Elements::of(recorded), tolerance);
        }
        (Value::Strings(ours), Value::Strings(recorded)) => {
            if ours.shape() != recorded.shape() {
                return Err(another());
            }
            for (a, b) in ours.data().iter().zip(recorded.data()) {
                difference.element(0.0, 0.0, a == b, |index| format!("element {index} is {a:?}, not {b:?}"));
            }
        }
        (Value::Sequence(ours), Value::Sequence(recorded)) => {
            if ours.len() != recorded.len() {
                return Err(another());
            }
            for (index, (ours, recorded)) in ours.iter().zip(recorded).enumerate() {
                let part =
                    compare(ours, recorded, tolerance).map_err(|what| format!("item {index}: {what}"))?;
                difference.add(part);
            }
        }
        (Value::Optional(None), Value::Optional(None)) => {}
        (Value::Optional(Some(ours)), Value::Optional(Some(recorded))) => {
            difference = compare(ours, recorded, tolerance)?;
        }
        (Value::Map { keys, values }, Value::Map { keys: recorded_keys, values: recorded_values }) => {
            difference = compare(keys, recorded_keys, tolerance).map_err(|what| format!("keys: {what}"))?;
            difference
                .add(compare(values, recorded_values, tolerance).map_err(|what| format!("values: {what}"))?);
        }
        _ => return Err(another()),
    }
    Ok(difference)
}

fn compare_elements(ours: Elements, recorded: Elements, tolerance: Tolerance) -> Difference {
    let mut difference = Difference::default();
    match (ours, recorded) {
        (Elements::Floats(ours), Elements::Floats(recorded)) => {
            let finite = recorded.iter().map(|b| b.abs()).filter(|b| b.is_finite());
            let share = tolerance.of_largest * finite.fold(0.0, f64::max);
            let tolerance = Tolerance { atol: tolerance.atol + share, ..tolerance };
            for (a, b) in ours.into_iter().zip(recorded) {
                let is_same = a == b || (a.is_nan() && b.is_nan());
                let distance = if is_same { 0.0 } else { (a - b).abs() };
                // An infinity is close to nothing but itself, whatever it would tolerate.
                let is_close = is_same || (b.is_finite() && tolerance.admits(distance, b.abs()));
                difference
                    .element(distance, b.abs(), is_close, |index| format!("element {index} is {a}, not {b}"));
            }
        }
        (Elements::Integers(ours), Elements::Integers(recorded)) => {
            for (a, b) in ours.into_iter().zip(recorded) {
                let (distance, size) = (a.abs_diff(b) as f64, b.unsigned_abs() as f64);
                let is_close = a == b || (tolerance.integers && tolerance.admits(distance, size));
                difference
                    .element(distance, size, is_close, |index| format!("element {index} is {a}, not {b}"));
            }
        }
        (Elements::Complex(ours), Elements::Complex(recorded)) => {
            let is_nan = |(re, im): (f64, f64)| re.is_nan() || im.is_nan();
            for (a, b) in ours.into_iter().zip(recorded) {
                let is_same = a == b || (is_nan(a) && is_nan(b));
                let distance = if is_same { 0.0 } else { (a.0 - b.0).hypot(a.1 - b.1) };
                let size = b.0.hypot(b.1);
                let is_close = is_same || (size.is_finite() && tolerance.admits(distance, size));
                difference.element(distance, size, is_close, |index| {
                    format!("element {index} is {}{:+}i, not {}{:+}i", a.0, a.1, b.0, b.1)
                });
            }
        }
        // Tensors of one type have elements of one kind.
        _ => difference.element(f64::NAN, 0.0, false, |_| "the elements are of other kinds".to_owned()),
    }
    difference
}

#[cfg(test)]
mod tests {
    use infer_core::constant::Constant;
    use infer_core::tensor_type::{DataType, TensorType};
    use infer_core::value::Strings;

    use super::*;

    const EXACT: Tolerance = Tolerance { rtol: 0.0, atol: 0.0, of_largest: 0.0, integers: false };

    fn floats(values: &[f32]) -> Value {
        Constant::of(TensorType::new(DataType::F32, [values.len()]), values).into()
    }

    fn wrong(ours: &[f32], recorded: &[f32], tolerance: Tolerance) -> usize {
        compare(&floats(ours), &floats(recorded), tolerance).unwrap().wrong
    }

    #[test]
    fn elements_agree_as_numpy_says() {
        let tolerance = Tolerance { rtol: 0.1, atol: 0.5, ..EXACT };
        assert_eq!(wrong(&[1.0, -20.0, 0.4], &[1.5, -22.0, 0.0], tolerance), 0);
        assert_eq!(wrong(&[23.0], &[20.0], tolerance), 1);
        assert_eq!(wrong(&[f32::NAN, f32::INFINITY], &[f32::NAN, f32::INFINITY], EXACT), 0);
        let infinities = [f32::INFINITY, f32::NEG_INFINITY, 1.0, f32::NAN, 1.0];
        let others = [f32::NEG_INFINITY, 1.0, f32::INFINITY, 1.0, f32::NAN];
        assert_eq!(wrong(&infinities, &others, tolerance), 5);
        assert_eq!(wrong(&[-0.0], &[0.0], EXACT), 0);
    }

    #[test]
    fn integers_are_exact_unless_told() {
        let ints = |value: i64| Value::from(Constant::of_i64(&[value]));
        let (ours, recorded) = (ints(i64::MAX), ints(i64::MAX - 1));
        assert_eq!(compare(&ours, &recorded, EXACT).unwrap().wrong, 1);
        let loose = Tolerance { rtol: 0.01, ..EXACT };
        assert_eq!(compare(&ours, &recorded, loose).unwrap().wrong, 1);
        assert_eq!(compare(&ours, &recorded, Tolerance { integers: true, ..loose }).unwrap().wrong, 0);
    }

    #[test]
    fn types_and_shapes_are_exact() {
        let message = compare(&floats(&[1.0]), &floats(&[1.0, 1.0]), EXACT).unwrap_err();
        assert_eq!(message, "f32[1] instead of f32[2]");
        let strings = |text: &str| Value::from(Strings::new([1], vec![text.to_owned()]).unwrap());
        assert!(compare(&strings("a"), &floats(&[1.0]), EXACT).is_err());
        let difference = compare(&strings("a"), &strings("b"), EXACT).unwrap();
        assert_eq!(difference.describe().unwrap(), "1 of 1 elements differ: element 0 is \"a\", not \"b\"");
        let sequence = |items: &[f32]| Value::Sequence(items.iter().map(|&item| floats(&[item])).collect());
        assert!(compare(&sequence(&[1.0]), &sequence(&[]), EXACT).is_err());
        assert_eq!(compare(&sequence(&[1.0, 2.0]), &sequence(&[1.0, 3.0]), EXACT).unwrap().wrong, 1);
        assert!(
            compare(&Value::Optional(None), &Value::Optional(Some(Box::new(floats(&[])))), EXACT).is_err()
        );
    }

    #[test]
    fn differences_may_be_counted_of_the_largest() {
        let tolerance = Tolerance { of_largest: 0.1, ..EXACT };
        let wrong = |ours: &[f32]| {
            compare(&floats(ours), &floats(&[1.0, -10.0, f32::INFINITY]), tolerance).unwrap().wrong
        };
        assert_eq!(wrong(&[1.9, -10.9, f32::INFINITY]), 0);
        assert_eq!(wrong(&[2.5, -10.0, 1e30]), 2);
    }

    #[test]
    fn the_largest_differences_are_told() {
        let difference = compare(&floats(&[1.0, 102.0]), &floats(&[2.0, 100.0]), EXACT).unwrap();
        assert_eq!((difference.absolute, difference.relative), (2.0, 0.5));
        let text = "2 of 2 elements differ: element 0 is 1, not 2; at most by 2.000e0, relative 5.000e-1";
        assert_eq!(difference.describe().unwrap(), text);
    }
}
