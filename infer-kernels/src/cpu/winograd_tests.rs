//! Winograd's convolution on every instruction set against the direct one.

use half::f16;

use crate::call::{Activation, ActivationKind, Conv, View, Winograd, WinogradWeights, residual};
use crate::cpu::testing::{Random, attack, bytes, check, run_everywhere};
use crate::reference;

/// What rounding may cost, as a share of the largest output.
const TOLERANCE: f32 = 2e-5;

/// A 3×3 convolution of one image, of 16 channels.
fn square() -> Conv {
    Conv {
        n: 1,
        groups: 1,
        in_channels: 16,
        in_block: 16,
        out_channels: 16,
        output_padded: 1,
        out_h: 4,
        out_w: 4,
        kernel_h: 3,
        kernel_w: 3,
        stride_h: 1,
        stride_w: 1,
        dilation_h: 1,
        dilation_w: 1,
        ..Conv::default()
    }
}

/// A picture inside one that has `halo` more rows and columns on every side.
fn picture(n: u64, blocks: u64, h: u64, w: u64, halo: u64) -> (View, usize) {
    let (rows, stride_h) = (h + 2 * halo, (w + 2 * halo) * 16);
    let view = View {
        offset: halo * (stride_h + 16),
        stride_n: blocks * rows * stride_h,
        stride_c: rows * stride_h,
        stride_h,
        stride_w: 16,
    };
    (view, (n * view.stride_n) as usize)
}

/// A call with its operands.
struct Case {
    w: Winograd,
    input: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    added: Vec<f32>,
    output: usize,
}

impl Case {
    /// `halo`: of the output; the input has one more.
    fn new(p: Conv, tile: u64, halo: u64) -> Self {
        let mut p = p;
        let (in_blocks, out_blocks) =
            (p.groups * p.in_channels.div_ceil(16), p.groups * p.out_channels.div_ceil(16));
        let (input, input_len) = picture(p.n, in_blocks, p.out_h + 2, p.out_w + 2, halo);
        let (output, output_len) = picture(p.n, out_blocks, p.out_h, p.out_w, halo);
        let (added, added_len) = picture(p.n, out_blocks, p.out_h, p.out_w, 2 * halo);
        (p.input, p.output, p.residual) = (input, output, added);
        let mut random = Random::new(p.out_w * 31 + p.in_channels);
        let weights = p.groups * p.out_channels.div_ceil(16) * p.in_channels * 9 * 16;
        let mut case = Case {
            w: Winograd { conv: p, tile, block_tiles: 14, block_pairs: 1 },
            input: random.units(input_len),
            weights: random.units(weights as usize),
            bias: random.units((p.groups * p.out_channels) as usize),
            added: if p.residual_mode == residual::NONE { Vec::new() } else { random.units(added_len) },
            output: output_len * 4,
        };
        // As in a packed convolution, nothing is known of the lanes beyond the last channel.
        let unknown = p.in_channels % 16;
        if unknown > 0 {
            let blocks = p.in_channels.div_ceil(16);
            let pixels = (view_pixels(&p.input)) as usize;
            for (at, value) in case.input.iter_mut().enumerate() {
                let block = (at / 16 / pixels) as u64 % blocks;
                if block == blocks - 1 && at as u64 % 16 >= unknown {
                    *value = f32::NAN;
                }
            }
        }
        case
    }

    fn blocks(mut self, tiles: u64, pairs: u64) -> Self {
        (self.w.block_tiles, self.w.block_pairs) = (tiles, pairs);
        self
    }

    fn weights_call(&self) -> WinogradWeights {
        let p = &self.w.conv;
        WinogradWeights {
            groups: p.groups,
            in_channels: p.in_channels,
            out_channels: p.out_channels,
            tile: self.w.tile,
        }
    }

    /// The weights as the oracle prepares them.
    fn prepared(&self) -> Vec<f32> {
        let call = self.weights_call();
        let mut prepared = Vec::new();
        let size = call.elements().unwrap() as usize * 4;
        run_everywhere("winograd_weights_f32", &call, &[bytes(&self.weights)], &[size], |who, outputs| {
            let values: Vec<f32> = outputs[0].chunks(4).map(bytemuck::pod_read_unaligned).collect();
            if who == "the oracle" {
                prepared = values;
            } else {
                for (a, b) in prepared.iter().zip(&values) {
                    assert!((a - b).abs() <= 4e-6, "{who}: {b} instead of {a}");
                }
            }
        });
        prepared
    }

    /// Compares with direct convolution; what that does not write must not be written either.
    fn check(&self) {
        let p = &self.w.conv;
        let prepared = self.prepared();
        let operands = [bytes(&self.input), bytes(&self.weights), bytes(&self.bias), bytes(&self.added)];
        let floats =
            |bytes: &[u8]| -> Vec<f32> { bytes.chunks(4).map(bytemuck::pod_read_unaligned).collect() };
        let mut direct = Vec::new();
        run_everywhere("conv_f32", p, &operands, &[self.output], |who, outputs| {
            if who == "the oracle" {
                direct = floats(&outputs[0]);
            }
        });
        let written = direct.iter().filter(|value| !value.is_nan());
        let largest = written.fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let operands = [operands[0], bytes(&prepared), operands[2], operands[3]];
        for slots in [1, 2, 5] {
            let scratch = slots * self.w.slot().unwrap() as usize * 4;
            run_everywhere("winograd_f32", &self.w, &operands, &[self.output, scratch], |who, outputs| {
                for (at, (a, b)) in direct.iter().zip(floats(&outputs[0])).enumerate() {
                    let near = (a - b).abs() <= TOLERANCE * largest.max(1.0);
                    assert!(
                        near || a.is_nan() && b.is_nan(),
                        "{who}: output[{at}] is {b}, not {a} ({:?})",
                        self.w
                    );
                }
            });
        }
    }
}

/// The pixels of one block of channels, halos included.
fn view_pixels(view: &View) -> u64 {
    view.stride_c / 16
}

#[test]
fn sizes_around_every_tile_edge() {
    for size in 1..=30 {
        for tile in [2, 4] {
            let p = Conv { out_h: size, out_w: 31 - size, ..square() };
            Case::new(p, tile, size % 3).check();
        }
    }
}

#[test]
fn channels_images_and_groups() {
    for (in_channels, out_channels) in [(16, 80), (80, 24), (24, 48), (17, 33), (40, 1), (64, 64)] {
        for tile in [2, 4] {
            let p = Conv { n: 2, in_channels, out_channels, out_h: 6, out_w: 9, ..square() };
            Case::new(p, tile, 1).blocks(5, 2).check();
            Case::new(Conv { output_padded: 0, n: 1, ..p }, tile, 0).blocks(100, 1).check();
        }
    }
    let grouped = Conv { groups: 3, in_channels: 32, out_channels: 48, out_h: 5, out_w: 7, ..square() };
    for tile in [2, 4] {
        Case::new(grouped, tile, 1).blocks(3, 2).check();
        Case::new(Conv { n: 2, ..grouped }, tile, 0).check();
    }
}

#[test]
fn every_activation_and_residual() {
    for kind in ActivationKind::ALL {
        for residual_mode in 0..=2 {
            let activation = Activation::new(kind, 0.25, 0.5);
            let p = Conv { activation, residual_mode, out_h: 7, out_w: 5, ..square() };
            Case::new(Conv { out_channels: 24, ..p }, 4, 1).check();
            Case::new(Conv { out_channels: 32, ..p }, 2, 0).check();
        }
    }
    let mut without_bias = Case::new(Conv { out_w: 9, ..square() }, 4, 0);
    without_bias.bias.clear();
    without_bias.check();
}

#[test]
fn many_channels_stay_accurate() {
    let p = Conv { in_channels: 512, out_channels: 16, out_h: 14, out_w: 14, ..square() };
    Case::new(p, 4, 0).check();
    Case::new(p, 2, 0).check();
}

#[test]
fn filters_from_halves() {
    let call = WinogradWeights { groups: 2, in_channels: 16, out_channels: 48, tile: 4 };
    let halves: Vec<f16> = Random::new(7).units(2 * 48 * 16 * 9).into_iter().map(f16::from_f32).collect();
    let size = call.elements().unwrap() as usize * 4;
    check("winograd_weights_f16w", &call, &[bytes(&halves)], &[size], |_, _, x: f32, y: f32| {
        (x - y).abs() <= 4e-6
    });
}

#[test]
fn empty_calls_write_nothing() {
    for empty in [
        Conv { n: 0, ..square() },
        Conv { out_h: 0, ..square() },
        Conv { out_w: 0, ..square() },
        Conv { out_channels: 0, ..square() },
        Conv { groups: 0, ..square() },
    ] {
        let w = Winograd { conv: empty, tile: 4, block_tiles: 1, block_pairs: 1 };
        run_everywhere("winograd_f32", &w, &[&[], &[], &[], &[]], &[64, 64], |_, outputs| {
            assert!(outputs.iter().flatten().all(|&byte| byte == 0xFF));
        });
    }
}

#[test]
fn hostile_calls() {
    let p = Conv {
        n: 2,
        in_channels: 24,
        out_channels: 40,
        out_h: 5,
        out_w: 6,
        residual_mode: residual::BEFORE_ACTIVATION,
        ..square()
    };
    for tile in [2, 4] {
        let case = Case::new(p, tile, 0);
        let prepared = case.prepared();
        let scratch = case.w.slot().unwrap() as usize * 4;
        let operands = [bytes(&case.input), bytes(&prepared), bytes(&case.bias), bytes(&case.added)];
        attack("winograd_f32", &case.w, &operands, &[case.output, scratch]);
        let call = case.weights_call();
        let size = call.elements().unwrap() as usize * 4;
        attack("winograd_weights_f32", &call, &[bytes(&case.weights)], &[size]);
    }
}

#[test]
fn what_is_no_such_convolution_is_refused() {
    let case = Case::new(square(), 4, 0);
    let kernel = reference::find("winograd_f32").unwrap().kernel;
    let sizes = [1 << 20, 1 << 20, 64, 0, 1 << 20, 1 << 20];
    let validate = |w: &Winograd| {
        (kernel.validate)(&crate::Call { params: bytemuck::bytes_of(w), operand_bytes: &sizes })
    };
    assert_eq!(validate(&case.w), Ok(()));
    let p = case.w.conv;
    for conv in [
        Conv { kernel_h: 1, ..p },
        Conv { kernel_w: 5, ..p },
        Conv { stride_h: 2, ..p },
        Conv { stride_w: 2, ..p },
        Conv { dilation_h: 2, ..p },
        Conv { dilation_w: 0, ..p },
        Conv { in_block: 8, ..p },
        Conv { in_channels: 0, ..p },
        Conv { weights_stride_n: 16, ..p },
        Conv { groups: 2, in_channels: 24, ..p },
        Conv { groups: 2, out_channels: 8, ..p },
    ] {
        assert!(validate(&Winograd { conv, ..case.w }).is_err(), "{conv:?}");
    }
    for w in [
        Winograd { tile: 3, ..case.w },
        Winograd { block_tiles: 0, ..case.w },
        Winograd { block_pairs: 0, ..case.w },
        Winograd { block_tiles: 1 << 21, ..case.w },
    ] {
        assert!(validate(&w).is_err(), "{w:?}");
    }
}
