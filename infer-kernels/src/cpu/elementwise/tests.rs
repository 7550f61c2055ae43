//! Every elementwise kernel and cast against its oracle, over layouts, tails and special values.

use half::{bf16, f16};
use proptest::prelude::*;

use super::binary::binary_kernels;
use super::float::{float_binary_kernels, float_unary_kernels};
use super::unary::unary_kernels;
use crate::call::Elementwise;
use crate::cpu::cast::cast_kernels;
use crate::cpu::testing::{Random, attack, bytes, check, check_error, check_f32};
use crate::{Args, Call, Invalid, Isa, Kernel, Operand, RunError, kernels, reference};

/// How an operand lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    RowMajor,
    ColumnMajor,
    Reversed,
    /// Every other element.
    Spaced,
    /// Broadcast along the odd axes.
    Broadcast,
    Scalar,
}
use Layout::{Broadcast, ColumnMajor, Reversed, RowMajor, Scalar, Spaced};

fn strides(shape: &[usize], layout: Layout) -> (Vec<i64>, u64) {
    let mut strides = vec![0; shape.len()];
    let (mut next, mut offset) = (if layout == Spaced { 2 } else { 1 }, 0);
    let order: Vec<usize> = match layout {
        ColumnMajor => (0..shape.len()).collect(),
        _ => (0..shape.len()).rev().collect(),
    };
    for axis in order {
        if layout == Scalar || (layout == Broadcast && axis % 2 == 1) {
            continue;
        }
        strides[axis] = if layout == Reversed { -next } else { next };
        if layout == Reversed {
            offset += next as u64 * (shape[axis].max(1) as u64 - 1);
        }
        next *= shape[axis] as i64;
    }
    (strides, offset)
}

/// The call over `shape` with operands of these layouts, and how many elements each operand has.
fn call(shape: &[usize], layouts: &[Layout]) -> (Elementwise, Vec<usize>) {
    let operands: Vec<(Vec<i64>, u64)> = layouts.iter().map(|&layout| strides(shape, layout)).collect();
    let operands: Vec<(&[i64], u64)> = operands.iter().map(|(s, offset)| (s.as_slice(), *offset)).collect();
    let call = Elementwise::new(shape, &operands).unwrap();
    let sizes = (0..layouts.len()).map(|operand| call.extent(operand).unwrap().1 as usize).collect();
    (call, sizes)
}

/// The calls that each kernel of so many inputs is tested with.
fn calls(inputs: usize) -> Vec<(Elementwise, Vec<usize>)> {
    let cases: [(&[usize], [Layout; 4]); 19] = [
        (&[], [RowMajor; 4]),
        (&[0], [RowMajor; 4]),
        (&[3, 0, 2], [RowMajor; 4]),
        (&[1], [RowMajor; 4]),
        (&[15], [RowMajor; 4]),
        (&[16], [RowMajor; 4]),
        (&[70], [RowMajor; 4]),
        (&[33], [RowMajor, Scalar, RowMajor, RowMajor]),
        (&[33], [Scalar, RowMajor, RowMajor, RowMajor]),
        (&[17], [Reversed, RowMajor, Spaced, RowMajor]),
        (&[17], [RowMajor, RowMajor, Reversed, Spaced]),
        (&[3, 17], [RowMajor, Broadcast, RowMajor, RowMajor]),
        (&[3, 18], [Broadcast, RowMajor, Scalar, RowMajor]),
        (&[5, 19], [RowMajor, ColumnMajor, Spaced, RowMajor]),
        // A factor for each channel of a blocked picture; short runs that repeat.
        (&[3, 5, 16], [RowMajor, Broadcast, RowMajor, RowMajor]),
        (&[2, 7, 16], [Broadcast, RowMajor, Scalar, Spaced]),
        (&[3, 40, 3], [Spaced, RowMajor, Broadcast, RowMajor]),
        (&[2, 3, 2, 3, 5], [Reversed, Broadcast, ColumnMajor, RowMajor]),
        (&[2, 3, 2, 3, 5], [ColumnMajor, Spaced, Broadcast, Reversed]),
    ];
    cases
        .iter()
        .map(|(shape, layouts)| {
            let mut layouts = layouts[..inputs].to_vec();
            // The layout of the output is the last named, whatever the number of inputs.
            layouts.push(cases_output(shape, &cases));
            call(shape, &layouts)
        })
        .collect()
}

fn cases_output(shape: &[usize], cases: &[(&[usize], [Layout; 4])]) -> Layout {
    cases.iter().rfind(|(other, _)| *other == shape).map_or(RowMajor, |(_, layouts)| layouts[3])
}

fn width(element: &str) -> usize {
    match element {
        "i8" | "u8" | "Truth" => 1,
        "i16" | "u16" | "Half" | "bf16" => 2,
        "i32" | "u32" | "f32" => 4,
        "i64" | "u64" | "f64" => 8,
        _ => unreachable!("{element}"),
    }
}

const FLOATS: [f64; 24] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    1e-40,
    -1e-45,
    0.5,
    2.5,
    -3.5,
    0.4999,
    65_519.9,
    65_520.0,
    -2e-8,
    1e30,
    -1e30,
    255.7,
    -129.2,
    4e9,
    -20.0,
    87.5,
    -90.0,
];

/// Elements of a type: its special values, then others; without zeros where those are errors.
fn elements(element: &str, count: usize, seed: u64, nonzero: bool) -> Vec<u8> {
    let mut random = Random::new(seed);
    // The special values begin elsewhere for each operand, so that they meet each other.
    let start = random.next() as usize;
    let mut out = Vec::new();
    for i in 0..count {
        let pick = start.wrapping_add(i);
        let float = if i % 3 == 0 { FLOATS[pick / 3 % FLOATS.len()] } else { f64::from(random.unit()) * 9.0 };
        let special =
            [0, 1, -1, i64::MIN, i64::MAX, 255, i64::from(i32::MIN), 1 << 53 | 1, (1 << 62) + (1 << 54) + 1];
        let mut integer = match i % 3 {
            0 => special[pick / 3 % special.len()],
            1 => (random.next() % 17) as i64 - 8,
            _ => (random.next() >> (random.next() % 48)) as i64,
        };
        if nonzero && integer.trailing_zeros() as usize >= 8 * width(element).min(4) {
            integer = 3;
        }
        match element {
            "f32" => out.extend((float as f32).to_le_bytes()),
            "f64" => out.extend(float.to_le_bytes()),
            "Half" => out.extend(f16::from_f64(float).to_le_bytes()),
            "bf16" => out.extend(bf16::from_f64(float).to_le_bytes()),
            "Truth" => out.push([0, 1, 0, 2, 255, 1][pick % 6]),
            _ => out.extend(&integer.to_le_bytes()[..width(element)]),
        }
    }
    out
}

/// Runs the kernel over every case and compares its outputs, floats by `close(expected, got)`.
fn test_kernel(
    kernel: &Kernel,
    inputs: &[&str],
    output: &str,
    constants: (f32, f32),
    close: impl Fn(f64, f64) -> bool,
) {
    let nonzero = kernel.name.starts_with("div") || kernel.name.starts_with("pow");
    for (case, (mut params, sizes)) in calls(inputs.len()).into_iter().enumerate() {
        (params.alpha, params.beta) = constants;
        let memory: Vec<Vec<u8>> = (inputs.iter().zip(&sizes).enumerate())
            .map(|(i, (element, &count))| elements(element, count, (case * 7 + i * 31 + 1) as u64, nonzero))
            .collect();
        let memory: Vec<&[u8]> = memory.iter().map(Vec::as_slice).collect();
        let out = [sizes[inputs.len()] * width(output)];
        let close = |x: f64, y: f64| x == y || (x.is_nan() && y.is_nan()) || close(x, y);
        let name = kernel.name;
        match output {
            "f32" => check(name, &params, &memory, &out, |_, _, x: f32, y: f32| close(x.into(), y.into())),
            "f64" => check(name, &params, &memory, &out, |_, _, x: f64, y: f64| close(x, y)),
            "Half" => check(name, &params, &memory, &out, |_, _, x: u16, y: u16| {
                f16::from_bits(x).is_nan() && f16::from_bits(y).is_nan()
            }),
            "bf16" => check(name, &params, &memory, &out, |_, _, x: u16, y: u16| {
                bf16::from_bits(x).is_nan() && bf16::from_bits(y).is_nan()
            }),
            _ => check(name, &params, &memory, &out, |_, _, _: u8, _: u8| false),
        }
    }
}

#[test]
fn binary_kernels_agree_with_their_oracles() {
    macro_rules! test {
        ($($op:ident $doc:literal: $($item:ident $in:ident $out:ident),*;)*) => {$($(
            // Only powers are not exact, and those are within a unit on either side.
            let close = |x: f64, y: f64| {
                kernels::$item.name.starts_with("pow") && (x - y).abs() <= 4.0 * f64::EPSILON * x.abs()
            };
            test_kernel(&kernels::$item, &[stringify!($in); 2], stringify!($out), (0.0, 0.0), close);
        )*)*};
    }
    binary_kernels!(test);
}

#[test]
fn unary_kernels_agree_with_their_oracles() {
    macro_rules! test {
        ($($op:ident $doc:literal: $($item:ident $in:ident $out:ident),*;)*) => {$($(
            let close = |x: f64, y: f64| (x - y).abs() <= 8.0 * f64::EPSILON * x.abs();
            test_kernel(&kernels::$item, &[stringify!($in)], stringify!($out), (0.25, 1.5), close);
        )*)*};
    }
    unary_kernels!(test);
}

#[test]
fn float_kernels_agree_with_their_oracles() {
    macro_rules! test_binary {
        ($($op:ident $doc:literal: $item:ident;)*) => {$(
            // The square root and the reciprocal are exact, a power is within a unit and its oracle rounded.
            let close = |x: f64, y: f64| {
                kernels::$item.name.starts_with("pow") && (x - y).abs() <= 2.0 * f64::from(f32::EPSILON) * x.abs()
            };
            test_kernel(&kernels::$item, &["f32"; 2], "f32", (0.0, 0.0), close);
        )*};
    }
    float_binary_kernels!(test_binary);
    macro_rules! test_unary {
        ($($op:ident $doc:literal: $item:ident;)*) => {$(
            // A few units each for the function, the division and the products around it. Where 1 + erf or
            // x/6 + 1/2 cancels, what remains is off by units of 1, times x; and exponentials end at the least
            // normal number.
            let units = f64::from(f32::EPSILON);
            let cancels = ["gelu", "hard"].iter().any(|op| kernels::$item.name.starts_with(op));
            let least = if cancels { 8.0 * units } else { 1e-36 };
            let exact = ["abs", "ceil", "clip", "floor", "leaky_relu", "neg", "reciprocal", "relu", "round", "sign", "sqrt"];
            let exact = exact.iter().any(|op| kernels::$item.name.strip_suffix("_f32") == Some(op));
            let close = |x: f64, y: f64| !exact && (x - y).abs() <= least.max(8.0 * units * x.abs());
            test_kernel(&kernels::$item, &["f32"], "f32", (0.25, 1.5), close);
        )*};
    }
    float_unary_kernels!(test_unary);
}

#[test]
fn casts_agree_with_their_oracles() {
    macro_rules! test {
        ($($from:ident: $(($item:ident $to:ident $how:ident))*;)*) => {$($(
            test_kernel(&kernels::$item, &[stringify!($from)], stringify!($to), (0.0, 0.0), |_, _| false);
        )*)*};
    }
    cast_kernels!(test);
}

#[test]
fn selections_agree_with_their_oracles() {
    for (kernel, element) in [
        (&kernels::WHERE_B1, "u8"),
        (&kernels::WHERE_B2, "u16"),
        (&kernels::WHERE_B4, "u32"),
        (&kernels::WHERE_B8, "u64"),
    ] {
        test_kernel(kernel, &["Truth", element, element], element, (0.0, 0.0), |_, _| false);
    }
}

#[test]
fn powers_by_one_exponent_agree_with_the_oracle() {
    let bases: Vec<f32> = FLOATS.iter().map(|&x| x as f32).chain((1..40).map(|i| i as f32 * 0.37)).collect();
    let (params, sizes) = call(&[bases.len()], &[RowMajor, Scalar, RowMajor]);
    for exponent in [2.0f32, 3.0, 0.5, -1.0, 0.0, 1.0, 1.7, -2.5, f32::NAN, f32::INFINITY] {
        check_f32("pow_f32", &params, &[bytes(&bases), bytes(&[exponent])], &[sizes[2] * 4], |x| {
            2.0 * f32::EPSILON * x.abs()
        });
    }
}

/// Runs a call whose output is its first input.
fn run_in_place<T: bytemuck::Pod>(
    kernel: &Kernel,
    params: &Elementwise,
    isa: Isa,
    inputs: &mut [Vec<T>],
) -> Result<(), RunError> {
    let mut operands: Vec<Operand> = inputs
        .iter_mut()
        .map(|input| Operand { data: input.as_mut_ptr().cast(), bytes: size_of_val(input.as_slice()) })
        .collect();
    operands.push(operands[0]);
    let sizes: Vec<u64> = operands.iter().map(|operand| operand.bytes as u64).collect();
    let params = bytemuck::bytes_of(params);
    (kernel.validate)(&Call { params, operand_bytes: &sizes }).unwrap();
    // SAFETY: the call is valid for these operands, which are buffers of their own, on an available instruction set.
    unsafe { kernel.run.get(isa)(&Args { params, operands: &operands }, 0, 1) }
}

#[test]
fn an_output_may_be_an_input_in_place() {
    for isa in Isa::ALL.iter().copied().filter(|isa| isa.is_available()) {
        let whole = Random::new(1).whole(77, 9);
        let doubled: Vec<f32> = whole.iter().map(|x| x + x).collect();
        for layout in [RowMajor, Reversed] {
            let (params, _) = call(&[77], &[layout; 3]);
            let mut inputs = [whole.clone(), whole.clone()];
            run_in_place(&kernels::ADD_F32, &params, isa, &mut inputs).unwrap();
            assert_eq!(inputs[0], doubled);
            let mut integers = [(0..77).collect::<Vec<i32>>(), (0..77).collect()];
            run_in_place(&kernels::ADD_I32, &params, isa, &mut integers).unwrap();
            assert!(integers[0].iter().enumerate().all(|(i, &x)| x == 2 * i as i32));
            let (params, _) = call(&[77], &[layout; 2]);
            let mut input = [whole.clone()];
            run_in_place(&kernels::NEG_F32, &params, isa, &mut input).unwrap();
            assert!(input[0].iter().zip(&whole).all(|(x, y)| *x == -y));
            run_in_place(&kernels::COPY_B4, &params, isa, &mut input).unwrap();
            assert!(input[0].iter().zip(&whole).all(|(x, y)| *x == -y));
        }
    }
}

#[test]
fn integers_by_zero_are_an_error() {
    let (params, _) = call(&[20], &[RowMajor; 3]);
    let (ones, mut divisors) = (vec![1; 20], vec![3; 20]);
    assert_eq!(
        run_in_place::<i32>(&kernels::DIV_I32, &params, Isa::Scalar, &mut [ones.clone(), divisors.clone()]),
        Ok(())
    );
    divisors[19] = 0;
    let error =
        run_in_place::<i32>(&kernels::DIV_I32, &params, Isa::Scalar, &mut [ones.clone(), divisors.clone()]);
    assert_eq!(error, Err(RunError::DivisionByZero));
    let mut zero_to_minus_one = [vec![0i64; 20], vec![-1; 20]];
    let error = run_in_place(&kernels::POW_I64, &params, Isa::Scalar, &mut zero_to_minus_one);
    assert_eq!(error, Err(RunError::DivisionByZero));
    // For the oracles, which must refuse the same.
    let zero = RunError::DivisionByZero;
    check_error("div_i32", &params, &[bytes(&ones), bytes(&divisors)], &[80], zero);
    check_error("pow_i64", &params, &[bytes(&[0i64; 20]), bytes(&[-1i64; 20])], &[160], zero);
}

#[test]
fn damaged_calls_are_refused_or_stay_inside() {
    let (params, sizes) = call(&[2, 3, 5], &[ColumnMajor, Broadcast, RowMajor]);
    let (a, b) = (vec![1f32; sizes[0]], vec![2f32; sizes[1]]);
    attack("add_f32", &params, &[bytes(&a), bytes(&b)], &[sizes[2] * 4]);
    attack("less_i32", &params, &[bytes(&a), bytes(&b)], &[sizes[2]]);
    let (params, sizes) = call(&[3, 7], &[ColumnMajor, Reversed]);
    let a = vec![1f32; sizes[0]];
    attack("sigmoid_f32", &params, &[bytes(&a)], &[sizes[1] * 4]);
    attack("cast_f32_f16", &params, &[bytes(&a)], &[sizes[1] * 2]);
    let (mut params, sizes) = call(&[3, 7], &[Scalar, RowMajor]);
    let operand_bytes = [4, sizes[1] as u64 * 4];
    params.strides[1] = [0; 8];
    let refused = (kernels::RELU_F32.validate)(&Call {
        params: bytemuck::bytes_of(&params),
        operand_bytes: &operand_bytes,
    });
    assert_eq!(refused, Err(Invalid("output elements overlap")));
}

#[test]
fn kernels_are_named_after_their_items_and_registered_once() {
    let mut names: Vec<&str> =
        reference::REGISTRY.iter().flat_map(|family| family.iter()).map(|entry| entry.kernel.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    macro_rules! test {
        ($($op:ident $doc:literal: $($item:ident $in:ident $out:ident),*;)*) => {$($(
            assert_eq!(kernels::$item.name.to_uppercase(), stringify!($item));
            assert!(names.binary_search(&kernels::$item.name).is_ok());
        )*)*};
    }
    binary_kernels!(test);
    unary_kernels!(test);
    macro_rules! test_float {
        ($($op:ident $doc:literal: $item:ident;)*) => {$(
            assert_eq!(kernels::$item.name.to_uppercase(), stringify!($item));
        )*};
    }
    float_binary_kernels!(test_float);
    float_unary_kernels!(test_float);
}

#[test]
fn work_is_split_for_large_calls_only() {
    let chunks = |elements: usize, threads| {
        let (params, _) = call(&[elements], &[RowMajor; 2]);
        (kernels::RELU_F32.chunks)(&Args { params: bytemuck::bytes_of(&params), operands: &[] }, threads)
    };
    assert_eq!((chunks(0, 8), chunks(16_383, 8), chunks(16_384, 8), chunks(1 << 20, 8)), (1, 1, 2, 8));
    let covered: Vec<usize> = (0..7).flat_map(|chunk| super::part(1001, chunk, 7)).collect();
    assert_eq!(covered, (0..1001).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn copies_agree_with_the_oracle(
        axes in prop::collection::vec((0usize..20, 0u64..1000, 0u64..1000, 1i64..3, prop::bool::ANY), 0..5),
        offset in 0u64..3,
    ) {
        let shape: Vec<usize> = axes.iter().map(|axis| axis.0).scan(1, |total, extent| {
            *total *= extent.max(1);
            // At most a few thousand elements.
            Some(if *total > 4000 { 1 } else { extent })
        }).collect();
        // The axes in a random order for each operand, some spaced, reversed or (the input's) broadcast.
        let lay = |order: &dyn Fn(usize) -> u64, input: bool| {
            let mut by: Vec<usize> = (0..shape.len()).collect();
            by.sort_by_key(|&axis| order(axis));
            let (mut strides, mut first, mut next) = (vec![0i64; shape.len()], offset as i64, 1);
            for axis in by {
                let (_, key, _, step, reversed) = axes[axis];
                if input && key % 5 == 0 {
                    continue;
                }
                let stride = next * step;
                next = stride * shape[axis].max(1) as i64;
                strides[axis] = if reversed == input { -stride } else { stride };
                if reversed == input {
                    first += stride * (shape[axis].max(1) as i64 - 1);
                }
            }
            (strides, first as u64)
        };
        let (from, to) = (lay(&|axis| axes[axis].1, true), lay(&|axis| axes[axis].2, false));
        let call = Elementwise::new(&shape, &[(&from.0, from.1), (&to.0, to.1)]).unwrap();
        let sizes = [0, 1].map(|operand| call.extent(operand).unwrap().1 as usize);
        let data: Vec<u64> = (0..2 * sizes[0] as u64).collect();
        check("copy_b1", &call, &[&bytes(&data)[..sizes[0]]], &[sizes[1]], |_, _, _: u8, _: u8| false);
        check("copy_b4", &call, &[&bytes(&data)[..sizes[0] * 4]], &[sizes[1] * 4], |_, _, _: u32, _: u32| false);
        check("copy_b16", &call, &[bytes(&data)], &[sizes[1] * 16], |_, _, _: u64, _: u64| false);
    }
}
