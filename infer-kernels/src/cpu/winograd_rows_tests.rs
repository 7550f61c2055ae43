//! Winograd's convolution along rows on every instruction set against the direct one.

use crate::call::{Activation, ActivationKind, Conv, View, WINOGRAD_ROWS, residual};
use crate::cpu::testing::{Random, attack, bytes, run_everywhere};
use crate::reference;
use crate::reference::winograd_rows::filter;

/// What rounding may cost, as a share of the largest output.
const TOLERANCE: f32 = 2e-5;

/// A 5×5 convolution of one image, of 16 channels.
fn plain() -> Conv {
    Conv {
        n: 1,
        groups: 1,
        in_channels: 16,
        in_block: 16,
        out_channels: 16,
        output_padded: 1,
        out_h: 4,
        out_w: 4,
        kernel_h: 5,
        kernel_w: 5,
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
    p: Conv,
    input: Vec<f32>,
    /// Of the direct convolution, and of the planes.
    weights: [Vec<f32>; 2],
    bias: Vec<f32>,
    added: Vec<f32>,
    output: usize,
}

impl Case {
    /// `halo`: of the output and the residual.
    fn new(mut p: Conv, halo: u64) -> Self {
        let (in_blocks, panels) = (p.in_channels.div_ceil(16), p.out_channels.div_ceil(16));
        let (input, input_len) = picture(p.n, in_blocks, p.out_h + p.kernel_h - 1, p.out_w + 4, 0);
        let (output, output_len) = picture(p.n, panels, p.out_h, p.out_w, halo);
        let (added, added_len) = picture(p.n, panels, p.out_h, p.out_w, 2 * halo);
        (p.input, p.output, p.residual) = (input, output, added);
        let mut random = Random::new(p.out_w * 31 + p.in_channels);
        let weights = random.units((panels * p.in_channels * p.kernel_h * 5 * 16) as usize);
        let mut case = Case {
            p,
            input: random.units(input_len),
            weights: [weights, Vec::new()],
            bias: random.units(p.out_channels as usize),
            added: if p.residual_mode == residual::NONE { Vec::new() } else { random.units(added_len) },
            output: output_len * 4,
        };
        case.weights[1] = case.planes();
        // Nothing is known of the lanes beyond the last channel.
        let (unknown, pixels) = (p.in_channels % 16, (input.stride_c / 16) as usize);
        for (at, value) in case.input.iter_mut().enumerate() {
            let block = (at / 16 / pixels) as u64 % in_blocks;
            if unknown > 0 && block == in_blocks - 1 && at as u64 % 16 >= unknown {
                *value = f32::NAN;
            }
        }
        case
    }

    /// The weights of the planes.
    fn planes(&self) -> Vec<f32> {
        let p = &self.p;
        let (channels, rows) = (p.in_channels as usize, p.kernel_h as usize);
        let panels = (p.out_channels as usize).div_ceil(16);
        let size = channels * rows * 16;
        let mut planes = vec![0.0; 8 * panels * size];
        for panel in 0..panels {
            for (c, row, lane) in (0..channels)
                .flat_map(|c| (0..rows).flat_map(move |row| (0..16).map(move |lane| (c, row, lane))))
            {
                let in_block = 16.min(channels - c / 16 * 16);
                let direct = |tap: usize| {
                    let k = c / 16 * 16 * rows * 5 + (row * 5 + tap) * in_block + c % 16;
                    self.weights[0][panel * size * 5 + k * 16 + lane]
                };
                let k = c / 16 * 16 * rows + row * in_block + c % 16;
                for (plane, value) in filter(&std::array::from_fn(direct)).into_iter().enumerate() {
                    planes[(plane * panels + panel) * size + k * 16 + lane] = value;
                }
            }
        }
        planes
    }

    /// Compares with direct convolution; what that does not write must not be written either.
    fn check(&self) {
        let p = &self.p;
        let floats =
            |bytes: &[u8]| -> Vec<f32> { bytes.chunks(4).map(bytemuck::pod_read_unaligned).collect() };
        let [direct_weights, planes] = &self.weights;
        let operands = [bytes(&self.input), bytes(direct_weights), bytes(&self.bias), bytes(&self.added)];
        let mut direct = Vec::new();
        run_everywhere("conv_f32", p, &operands, &[self.output], |who, outputs| {
            if who == "the oracle" {
                direct = floats(&outputs[0]);
            }
        });
        let written = direct.iter().filter(|value| !value.is_nan());
        let largest = written.fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let operands = [operands[0], bytes(planes), operands[2], operands[3]];
        for slots in [1, 2, 5] {
            let scratch = slots * WINOGRAD_ROWS.slot(p).unwrap() as usize * 4;
            run_everywhere("winograd_rows_f32", p, &operands, &[self.output, scratch], |who, outputs| {
                for (at, (a, b)) in direct.iter().zip(floats(&outputs[0])).enumerate() {
                    let near = (a - b).abs() <= TOLERANCE * largest.max(1.0);
                    assert!(near || a.is_nan() && b.is_nan(), "{who}: output[{at}] is {b}, not {a} ({p:?})");
                }
            });
        }
    }
}

#[test]
fn sizes_around_every_tile_edge() {
    for size in 1..=20 {
        Case::new(Conv { out_h: size, out_w: 21 - size, ..plain() }, size % 3).check();
    }
    for (out_h, kernel_h) in [(28, 1), (29, 2), (57, 3), (64, 7)] {
        Case::new(Conv { out_h, kernel_h, in_channels: 3, ..plain() }, 1).check();
    }
}

#[test]
fn channels_and_images() {
    for (in_channels, out_channels) in [(8, 16), (16, 80), (80, 24), (24, 48), (17, 33), (40, 1)] {
        let p = Conv { n: 2, in_channels, out_channels, out_h: 6, out_w: 9, ..plain() };
        Case::new(p, 1).check();
        Case::new(Conv { output_padded: 0, n: 1, ..p }, 0).check();
    }
}

#[test]
fn every_activation_and_residual() {
    for kind in ActivationKind::ALL {
        for residual_mode in 0..=2 {
            let activation = Activation::new(kind, 0.25, 0.5);
            let p = Conv { activation, residual_mode, out_h: 7, out_w: 5, ..plain() };
            Case::new(Conv { out_channels: 24, ..p }, 1).check();
        }
    }
    let mut without_bias = Case::new(Conv { out_w: 9, ..plain() }, 0);
    without_bias.bias.clear();
    without_bias.check();
}

#[test]
fn many_channels_stay_accurate() {
    Case::new(Conv { in_channels: 512, out_h: 7, out_w: 14, ..plain() }, 0).check();
}

#[test]
fn empty_calls_write_nothing() {
    for p in [
        Conv { n: 0, ..plain() },
        Conv { out_h: 0, ..plain() },
        Conv { out_w: 0, ..plain() },
        Conv { out_channels: 0, ..plain() },
    ] {
        run_everywhere("winograd_rows_f32", &p, &[&[], &[], &[], &[]], &[64, 64], |_, outputs| {
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
        ..plain()
    };
    let case = Case::new(p, 0);
    let scratch = WINOGRAD_ROWS.slot(&p).unwrap() as usize * 4;
    let operands = [bytes(&case.input), bytes(&case.weights[1]), bytes(&case.bias), bytes(&case.added)];
    attack("winograd_rows_f32", &case.p, &operands, &[case.output, scratch]);
}

#[test]
fn what_is_no_such_convolution_is_refused() {
    let kernel = reference::find("winograd_rows_f32").unwrap().kernel;
    let sizes = [1 << 20, 1 << 20, 64, 0, 1 << 20, 1 << 20];
    let validate =
        |p: &Conv| (kernel.validate)(&crate::Call { params: bytemuck::bytes_of(p), operand_bytes: &sizes });
    let p = Case::new(plain(), 0).p;
    assert_eq!(validate(&p), Ok(()));
    for p in [
        Conv { kernel_h: 0, ..p },
        Conv { kernel_w: 3, ..p },
        Conv { stride_h: 2, ..p },
        Conv { stride_w: 2, ..p },
        Conv { dilation_h: 2, ..p },
        Conv { dilation_w: 0, ..p },
        Conv { in_block: 8, ..p },
        Conv { in_channels: 0, ..p },
        Conv { weights_stride_n: 16, ..p },
        Conv { groups: 2, ..p },
    ] {
        assert!(validate(&p).is_err(), "{p:?}");
    }
}
