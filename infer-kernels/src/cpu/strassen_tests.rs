//! Strassen's product on every instruction set against the direct one.

use half::f16;

use crate::call::{Activation, ActivationKind, Conv, Strassen, StrassenLeft, View, residual};
use crate::cpu::testing::{Random, attack, bytes, isas, oracle, run_everywhere, run_with};
use crate::{Isa, reference};

/// A call with its operands.
struct Case {
    s: Strassen,
    input: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    added: Vec<f32>,
}

/// A row-major product of `rows × k` by `k × columns`.
fn product(rows: u64, k: u64, columns: u64) -> Conv {
    let row = |pitch| View { offset: 0, stride_n: 0, stride_c: 16, stride_h: 0, stride_w: pitch };
    Conv {
        n: 1,
        groups: 1,
        in_channels: k,
        in_block: 16,
        out_channels: columns,
        out_h: 1,
        out_w: rows,
        kernel_h: 1,
        kernel_w: 1,
        stride_h: 1,
        stride_w: 1,
        dilation_h: 1,
        dilation_w: 1,
        input: row(k),
        output: row(columns),
        residual: row(columns),
        ..Conv::default()
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks(4).map(bytemuck::pod_read_unaligned).collect()
}

impl Case {
    fn new(p: Conv, parts: u64) -> Self {
        let mut random = Random::new(p.out_w * 31 + p.in_channels);
        let results = (p.out_w * p.out_channels) as usize;
        Case {
            input: random.units((p.out_w * p.in_channels) as usize),
            weights: random.units((p.in_channels * p.out_channels) as usize),
            bias: random.units(p.out_channels as usize),
            added: if p.residual_mode == residual::NONE { Vec::new() } else { random.units(results) },
            s: Strassen { conv: p, parts, products: 1 },
        }
    }

    fn output(&self) -> usize {
        (self.s.conv.out_w * self.s.conv.out_channels) as usize * 4
    }

    fn left_call(&self) -> StrassenLeft {
        StrassenLeft { stride: self.s.conv.in_channels, ..self.s.left() }
    }

    fn left_bytes(&self) -> usize {
        self.left_call().elements().unwrap() as usize * 4
    }

    /// The left side as an instruction set makes it.
    fn left(&self, isa: Isa, chunks: usize) -> Vec<u8> {
        let [left] = &run_with(
            "strassen_left_f32",
            isa,
            chunks,
            &self.left_call(),
            &[bytes(&self.input)],
            &[self.left_bytes()],
        )[..] else {
            panic!("one output")
        };
        left.clone()
    }

    /// Shows what every instruction set makes of the call in several numbers of chunks, and so many slots to work in.
    fn run(&self, halves: bool, slots: usize, mut look: impl FnMut(&str, &[f32])) {
        let narrow: Vec<f16> = self.weights.iter().map(|&w| f16::from_f32(w)).collect();
        let weights = if halves { bytes(&narrow) } else { bytes(&self.weights) };
        let name = if halves { "strassen_f16w" } else { "strassen_f32" };
        let outputs = [self.output(), slots * self.s.slot().unwrap() as usize * 4];
        for isa in isas() {
            for chunks in [1, 3, 64] {
                let left = self.left(isa, chunks);
                let operands = [&left[..], weights, bytes(&self.bias), bytes(&self.added)];
                let got = run_with(name, isa, chunks, &self.s, &operands, &outputs);
                look(&format!("{isa:?} in {chunks} chunks, {slots} slots"), &floats(&got[0]));
            }
        }
    }

    /// The result in f64, of a call without residual and activation.
    fn exact(&self) -> Vec<f64> {
        let p = &self.s.conv;
        let (k, columns) = (p.in_channels as usize, p.out_channels as usize);
        (0..p.out_w as usize * columns)
            .map(|at| {
                let (row, column) = (at / columns, at % columns);
                let terms = (0..k).map(|i| {
                    let weight = self.weights[(column / 16 * k + i) * 16 + column % 16];
                    f64::from(self.input[row * k + i]) * f64::from(weight)
                });
                f64::from(self.bias[column]) + terms.sum::<f64>()
            })
            .collect()
    }

    /// Compares with the direct product of the same operands, of weights in f16 where `halves`, which the oracle of the
    /// algorithm must agree with too.
    fn check(&self, halves: bool) {
        let p = &self.s.conv;
        let narrow: Vec<f16> = self.weights.iter().map(|&w| f16::from_f32(w)).collect();
        let weights = if halves { bytes(&narrow) } else { bytes(&self.weights) };
        let suffix = if halves { "f16w" } else { "f32" };
        let operands = [bytes(&self.input), weights, bytes(&self.bias), bytes(&self.added)];
        let direct = floats(&oracle(&format!("conv_{suffix}"), p, &operands, &[self.output()])[0]);
        // As for the direct product, of at most four sums of at most three times as large terms.
        let terms = (p.in_channels + 2) as f32;
        let tolerance = 1.2 * terms * terms * f32::EPSILON;
        let compare = |who: &str, got: &[f32]| {
            for (at, (a, b)) in direct.iter().zip(got).enumerate() {
                assert!((a - b).abs() <= tolerance, "{who}: output[{at}] is {b}, not {a} ({:?})", self.s);
            }
        };
        let left = oracle("strassen_left_f32", &self.left_call(), &operands[..1], &[self.left_bytes()]);
        let scratch = self.s.slot().unwrap() as usize * 4;
        let operands = [&left[0], operands[1], operands[2], operands[3]];
        let outputs = [self.output(), scratch];
        compare(
            "the oracle",
            &floats(&oracle(&format!("strassen_{suffix}"), &self.s, &operands, &outputs)[0]),
        );
        for slots in [1, 2, 5] {
            self.run(halves, slots, compare);
        }
    }
}

#[test]
fn rows_around_every_tile_edge() {
    for rows in (1..=16).chain([24, 27, 28, 29, 55, 57, 224, 225, 451]) {
        Case::new(product(rows, 64, 64), 1).check(false);
    }
}

#[test]
fn groups_and_parts() {
    for (k, columns, parts) in [(32, 64, 1), (64, 128, 2), (96, 192, 1), (192, 320, 3), (256, 64, 4)] {
        for halves in [false, true] {
            Case::new(product(19, k, columns), parts).check(halves);
        }
    }
}

#[test]
fn products_side_by_side() {
    for (columns, products) in [(128, 2), (384, 3), (768, 3)] {
        let mut case = Case::new(product(19, 64, columns), 1);
        case.s.products = products;
        case.check(false);
    }
}

#[test]
fn every_activation_and_residual() {
    for kind in ActivationKind::ALL {
        for residual_mode in 0..=2 {
            let activation = Activation::new(kind, 0.25, 0.5);
            let p = Conv { activation, residual_mode, ..product(7, 64, 64) };
            Case::new(p, 1).check(false);
            Case::new(p, 2).check(false);
        }
    }
    let mut without_bias = Case::new(product(9, 32, 64), 1);
    without_bias.bias.clear();
    without_bias.check(false);
}

#[test]
fn the_left_side_is_that_of_the_oracle() {
    for rows in [1, 2, 19, 224] {
        let case = Case::new(product(rows, 192, 64), 3);
        let call = case.left_call();
        let expected = oracle("strassen_left_f32", &call, &[bytes(&case.input)], &[case.left_bytes()]);
        for isa in isas().filter(|&isa| !has_thirds(isa)) {
            for chunks in [1, 3, 64] {
                // Inputs are multiples of 2⁻¹⁰, so that their sums are exact.
                assert_eq!(case.left(isa, chunks), expected[0], "{isa:?} in {chunks} chunks");
            }
        }
    }
}

/// Whether an instruction set keeps the left side as thirds.
fn has_thirds(isa: Isa) -> bool {
    isa.name() == "amx"
}

#[test]
fn long_sums_stay_accurate() {
    let case = Case::new(product(40, 1536, 64), 2);
    let p = &case.s.conv;
    let exact = case.exact();
    let largest = exact.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    case.run(false, 1, |who, got| {
        for (a, b) in exact.iter().zip(got) {
            let error = (a - f64::from(*b)).abs() / largest;
            assert!(error <= 2e-6, "{who}: {b} instead of {a} of {largest} ({p:?})");
        }
    });
}

#[test]
fn all_bits_count() {
    // Of positive numbers with all 24 bits, the last eight are 1e-5 of the result; rows of two tiles and of one.
    let mut case = Case::new(product(40, 64, 64), 1);
    for x in case.input.iter_mut().chain(&mut case.weights) {
        *x = (x.abs() + 0.5) / 3.0;
    }
    let exact = case.exact();
    case.run(false, 1, |who, got| {
        for (a, b) in exact.iter().zip(got) {
            assert!((a - f64::from(*b)).abs() <= 2e-6 * a, "{who}: {b} instead of {a}");
        }
    });
}

#[test]
fn empty_calls_write_nothing() {
    for empty in [product(0, 32, 64), product(3, 32, 0)] {
        let s = Strassen { conv: empty, parts: 1, products: 1 };
        run_everywhere("strassen_f32", &s, &[&[], &[], &[], &[]], &[64, 64], |_, outputs| {
            assert!(outputs.iter().flatten().all(|&byte| byte == 0xFF));
        });
    }
    let left = StrassenLeft { rows: 0, columns: 32, parts: 1, stride: 32 };
    run_everywhere("strassen_left_f32", &left, &[&[]], &[64], |_, outputs| {
        assert!(outputs.iter().flatten().all(|&byte| byte == 0xFF));
    });
}

#[test]
fn hostile_calls() {
    let p = Conv { residual_mode: residual::BEFORE_ACTIVATION, ..product(5, 64, 128) };
    let case = Case::new(p, 2);
    let left = case.left(Isa::Scalar, 1);
    let operands = [&left[..], bytes(&case.weights), bytes(&case.bias), bytes(&case.added)];
    let scratch = case.s.slot().unwrap() as usize * 4;
    attack("strassen_f32", &case.s, &operands, &[case.output(), scratch]);
    let call = case.left_call();
    attack("strassen_left_f32", &call, &[bytes(&case.input)], &[case.left_bytes()]);
}

#[test]
fn what_is_no_such_product_is_refused() {
    let s = Strassen { conv: product(8, 64, 128), parts: 1, products: 1 };
    let kernel = reference::find("strassen_f32").unwrap().kernel;
    let sizes = [1 << 20, 1 << 20, 1 << 10, 0, 1 << 20, 1 << 20];
    let validate = |s: &Strassen| {
        (kernel.validate)(&crate::Call { params: bytemuck::bytes_of(s), operand_bytes: &sizes })
    };
    assert_eq!(validate(&s), Ok(()));
    let p = s.conv;
    for conv in [
        Conv { kernel_h: 3, ..p },
        Conv { n: 2, ..p },
        Conv { groups: 2, ..p },
        Conv { out_h: 2, ..p },
        Conv { stride_w: 2, ..p },
        Conv { in_block: 8, ..p },
        Conv { in_channels: 0, ..p },
        Conv { in_channels: 48, ..p },
        Conv { out_channels: 96, ..p },
        Conv { weights_stride_n: 16, ..p },
    ] {
        assert!(validate(&Strassen { conv, ..s }).is_err(), "{conv:?}");
    }
    for parts in [0, 3, 4] {
        assert!(validate(&Strassen { parts, ..s }).is_err(), "{parts} parts");
    }
    for products in [0, 3, 128] {
        assert!(validate(&Strassen { products, ..s }).is_err(), "{products} products");
    }
}
