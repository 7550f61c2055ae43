//! Convolutions and layouts on every instruction set against their oracles.

use bytemuck::Zeroable;
use half::f16;

use crate::call::{Activation, ActivationKind, BLOCK, Conv, FillHalo, PackB, Reorder, View, residual};
use crate::cpu::testing::{Random, attack, bytes, check_f32};

/// NCHW with blocks of `block` channels and `gap` unused elements after each row.
fn picture(n: u64, blocks: u64, h: u64, w: u64, block: u64, gap: u64) -> (View, usize) {
    let stride_h = w * block + gap;
    let view = View {
        offset: gap,
        stride_n: blocks * h * stride_h,
        stride_c: h * stride_h,
        stride_h,
        stride_w: block,
    };
    let end = view.end(n, blocks, h, w, block).unwrap();
    (view, end as usize)
}

/// A call with its operands.
struct Case {
    p: Conv,
    input: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    added: Vec<f32>,
    output: usize,
}

impl Case {
    /// Blocked pictures without gaps, whose extents follow from the output's; `p` says everything but the views.
    fn blocked(p: Conv, gap: u64) -> Self {
        let mut p = Conv { output_padded: 1, ..p };
        let rows = (p.out_h.max(1) - 1) * p.stride_h + (p.kernel_h - 1) * p.dilation_h + 1;
        let columns = (p.out_w.max(1) - 1) * p.stride_w + (p.kernel_w - 1) * p.dilation_w + 1;
        let (in_blocks, out_blocks) = if p.in_channels == 1 && p.out_channels == 1 && p.groups > 1 {
            (p.groups.div_ceil(16), p.groups.div_ceil(16))
        } else {
            (p.groups * p.in_channels.div_ceil(p.in_block), p.groups * p.out_channels.div_ceil(16))
        };
        let (input, input_len) = picture(p.n, in_blocks, rows, columns, p.in_block, gap);
        let (output, output_len) = picture(p.n, out_blocks, p.out_h, p.out_w, 16, gap);
        let (added, added_len) = picture(p.n, out_blocks, p.out_h, p.out_w, 16, 2 * gap);
        (p.input, p.output, p.residual) = (input, output, added);
        Case::new(p, input_len, output_len, added_len)
    }

    /// A row-major product of `m × k` by `k × n`.
    fn matrix(m: u64, k: u64, n: u64) -> Self {
        let row = |pitch| View { offset: 0, stride_n: 0, stride_c: 16, stride_h: 0, stride_w: pitch };
        let p = Conv {
            in_channels: k,
            out_channels: n,
            in_block: k.clamp(1, 16),
            out_w: m,
            input: row(k),
            output: row(n),
            residual: row(n),
            ..plain()
        };
        Case::new(p, (m * k) as usize, (m * n) as usize, (m * n) as usize)
    }

    fn new(p: Conv, input: usize, output: usize, added: usize) -> Self {
        let mut random = Random::new(p.out_w * 31 + p.in_channels);
        let depthwise = p.in_channels == 1 && p.out_channels == 1 && p.groups > 1;
        let taps = p.kernel_h * p.kernel_w;
        let (panels, k, channels) = if depthwise {
            (p.groups.div_ceil(16), taps, p.groups.div_ceil(16) * 16)
        } else {
            (p.groups * p.out_channels.div_ceil(16), p.in_channels * taps, p.groups * p.out_channels)
        };
        let weights = p.weights_stride_n * p.n.saturating_sub(1) + panels * k * 16;
        Case {
            input: random.units(input),
            weights: random.units(weights as usize),
            bias: random.units(channels as usize),
            added: random.units(added),
            output: output * 4,
            p,
        }
    }

    fn check(&self, name: &str) {
        let halves: Vec<f16> = self.weights.iter().map(|&w| f16::from_f32(w)).collect();
        let weights = if name.ends_with("f16w") { bytes(&halves) } else { bytes(&self.weights) };
        let added = if self.p.residual_mode == residual::NONE { &[][..] } else { &self.added };
        let operands = [bytes(&self.input), weights, bytes(&self.bias), bytes(added)];
        // Inputs and weights are at most 1 in magnitude, so each of the k + 2 additions rounds a sum below k + 2;
        // no activation here is steeper than 1.2.
        let terms = (self.p.in_channels * self.p.kernel_h * self.p.kernel_w + 2) as f32;
        check_f32(name, &self.p, &operands, &[self.output], |_| 1.2 * terms * terms * f32::EPSILON);
    }

    fn both(&self) {
        self.check("conv_f32");
        self.check("conv_f16w");
    }
}

/// A 1×1 convolution of one pixel and 16 channels.
fn plain() -> Conv {
    Conv {
        n: 1,
        groups: 1,
        in_channels: 16,
        in_block: 16,
        out_channels: 16,
        out_h: 1,
        out_w: 1,
        kernel_h: 1,
        kernel_w: 1,
        stride_h: 1,
        stride_w: 1,
        dilation_h: 1,
        dilation_w: 1,
        ..Conv::zeroed()
    }
}

#[test]
fn widths_around_every_tile_edge() {
    for out_w in (1..=16).chain([27, 28, 29]) {
        for out_h in [1, 2, 3] {
            let p = Conv { in_channels: 20, out_channels: 48, out_h, out_w, ..plain() };
            Case::blocked(p, 0).both();
            Case::blocked(Conv { kernel_h: 3, kernel_w: 3, in_channels: 16, ..p }, 0).check("conv_f32");
        }
    }
}

#[test]
fn panels_of_eight_channels() {
    for out_w in (1..=16).chain([27, 29]) {
        for (out_channels, kind) in
            [(8, ActivationKind::None), (24, ActivationKind::Clip), (40, ActivationKind::Silu)]
        {
            let activation = Activation::new(kind, 0.25, 0.5);
            let p = Conv { in_channels: 20, out_channels, out_h: 2, out_w, activation, ..plain() };
            Case::blocked(p, 0).both();
            Case::blocked(Conv { kernel_h: 3, kernel_w: 3, ..p }, 32).check("conv_f32");
            for residual_mode in [residual::BEFORE_ACTIVATION, residual::AFTER_ACTIVATION] {
                Case::blocked(Conv { residual_mode, ..p }, 0).check("conv_f32");
            }
            // Results in rows have nothing beyond their channels.
            let blocked = Case::blocked(p, 0);
            let rows = Case::matrix(2 * out_w, 20, out_channels);
            let p =
                Conv { input: blocked.p.input, out_h: 1, out_w: 2 * out_w, output_padded: 0, ..blocked.p };
            let p = Conv { output: rows.p.output, residual: rows.p.residual, ..p };
            Case { p, output: rows.output, added: rows.added, ..blocked }.check("conv_f32");
        }
    }
}

#[test]
fn strides_dilations_and_gaps() {
    for (stride, dilation, kernel) in [(2, 1, 1), (2, 1, 3), (1, 2, 3), (3, 2, 2), (2, 1, 5)] {
        for gap in [0, 32] {
            let p = Conv {
                n: 2,
                in_channels: 24,
                out_channels: 40,
                out_h: 5,
                out_w: 7,
                kernel_h: kernel,
                kernel_w: kernel,
                stride_h: stride,
                stride_w: stride,
                dilation_h: dilation,
                dilation_w: dilation,
                ..plain()
            };
            Case::blocked(p, gap).both();
            Case::blocked(Conv { kernel_w: 1, out_h: 4, out_w: 3, ..p }, gap).check("conv_f32");
        }
    }
}

#[test]
fn groups_and_small_inputs() {
    let p = Conv { out_h: 6, out_w: 6, kernel_h: 3, kernel_w: 3, ..plain() };
    Case::blocked(Conv { groups: 3, in_channels: 32, out_channels: 16, ..p }, 0).both();
    Case::blocked(Conv { groups: 2, in_channels: 16, out_channels: 80, ..p }, 16).both();
    // The first layer of a network on NHWC, and on planes of one channel.
    let stem =
        Conv { in_channels: 3, out_channels: 24, kernel_h: 7, kernel_w: 7, stride_h: 2, stride_w: 2, ..p };
    Case::blocked(Conv { in_block: 3, out_w: 17, ..stem }, 0).both();
    Case::blocked(Conv { in_block: 1, out_w: 17, ..stem }, 0).both();
    Case::blocked(Conv { in_block: 16, ..stem }, 0).both();
}

#[test]
fn matrix_products() {
    for m in [1, 2, 4, 5, 14, 15, 30] {
        for k in [1, 15, 16, 17, 64, 130] {
            for n in [1, 15, 16, 32, 65, 112] {
                Case::matrix(m, k, n).check("conv_f32");
            }
        }
        Case::matrix(m, 70, 100).check("conv_f16w");
    }
}

#[test]
fn long_sums_are_added_up_in_parts() {
    for (mode, kind) in [
        (residual::NONE, ActivationKind::Relu),
        (residual::BEFORE_ACTIVATION, ActivationKind::Gelu),
        (residual::AFTER_ACTIVATION, ActivationKind::None),
    ] {
        let mut rows = Case::matrix(150, 1040, 48);
        rows.p.residual_mode = mode;
        rows.p.activation = Activation::new(kind, 0.0, 0.0);
        rows.check("conv_f32");
    }
    let residual_mode = residual::BEFORE_ACTIVATION;
    let p = Conv { in_channels: 1030, out_channels: 48, out_w: 140, residual_mode, ..plain() };
    Case::blocked(p, 0).check("conv_f16w");
}

/// The case, which AMX computes by thirds.
fn by_thirds(case: Case) -> Case {
    #[cfg(target_arch = "x86_64")]
    assert!(crate::cpu::conv_amx::is_faster(&case.p), "{:?}", case.p);
    case
}

#[test]
fn enough_work_for_tiles_of_thirds() {
    // Rows of pixels that are no tiles, several images; odd blocks of channels, odd panels, lanes that no channel has.
    let large = Conv { in_channels: 160, out_channels: 128, out_h: 7, out_w: 9, ..plain() };
    for p in [
        large,
        Conv { n: 2, out_channels: 122, ..large },
        Conv { in_channels: 304, out_channels: 202, out_w: 1, out_h: 130, ..large },
        Conv {
            out_channels: 160,
            kernel_h: 3,
            kernel_w: 3,
            stride_h: 2,
            stride_w: 2,
            in_channels: 64,
            ..large
        },
        Conv { kernel_w: 3, dilation_w: 2, kernel_h: 2, in_channels: 112, out_channels: 192, ..large },
    ] {
        by_thirds(Case::blocked(p, 0)).check("conv_f32");
        by_thirds(Case::blocked(p, 16)).check("conv_f16w");
    }
    // One that clamps, and one that does not.
    for kind in [ActivationKind::Relu, ActivationKind::Gelu] {
        for residual_mode in 0..=2 {
            let activation = Activation::new(kind, 0.25, 0.5);
            let p = Conv { activation, residual_mode, out_channels: 120, ..large };
            by_thirds(Case::blocked(p, 16)).check("conv_f32");
        }
    }
    // Sums in parts, of all panels; blocks of pixels.
    let mut long = Case::matrix(130, 1440, 124);
    long.p.residual_mode = residual::BEFORE_ACTIVATION;
    by_thirds(long).check("conv_f32");
    by_thirds(Case::matrix(600, 128, 120)).check("conv_f16w");
    let mut without_bias = Case::matrix(64, 256, 128);
    without_bias.bias.clear();
    by_thirds(without_bias).check("conv_f32");
}

#[test]
fn weights_of_their_own_for_each_image() {
    for m in [1, 3, 20] {
        let mut case = Case::matrix(m, 24, 40);
        let (n, panels) = (3, 3);
        case.p = Conv { n, weights_stride_n: panels * 24 * 16 + 32, ..case.p };
        case.p.input.stride_n = m * 24;
        case.p.output.stride_n = m * 40;
        Case::new(case.p, (n * m * 24) as usize, (n * m * 40) as usize, 0).both();
    }
}

#[test]
fn every_activation_and_residual() {
    for kind in ActivationKind::ALL {
        for residual_mode in 0..=2 {
            let activation = Activation::new(kind, 0.25, 0.5);
            let p = Conv { activation, residual_mode, out_h: 3, out_w: 5, out_channels: 24, ..plain() };
            Case::blocked(p, 16).check("conv_f32");
            Case::blocked(Conv { out_channels: 32, ..p }, 0).check("conv_f32");
            let p = Conv { groups: 24, in_channels: 1, out_channels: 1, kernel_h: 3, kernel_w: 3, ..p };
            Case::blocked(p, 16).check("depthwise_f32");
            Case::blocked(Conv { groups: 32, ..p }, 0).check("depthwise_f32");
            let mut case = Case::matrix(4, 8, 20);
            case.p = Conv { activation, residual_mode, ..case.p };
            case.check("conv_f32");
        }
    }
}

#[test]
fn absent_bias_and_empty_calls() {
    let mut case = Case::blocked(Conv { out_w: 15, ..plain() }, 0);
    case.bias.clear();
    case.both();
    let mut case = Case::matrix(3, 8, 8);
    case.bias.clear();
    case.both();
    for empty in [
        Conv { n: 0, ..plain() },
        Conv { out_h: 0, ..plain() },
        Conv { out_w: 0, ..plain() },
        Conv { out_channels: 0, ..plain() },
    ] {
        Case::blocked(empty, 0).both();
    }
    // An empty sum is the bias.
    Case::blocked(Conv { in_channels: 0, out_w: 9, ..plain() }, 0).both();
    Case::blocked(Conv { n: 0, groups: 16, in_channels: 1, out_channels: 1, ..plain() }, 0)
        .check("depthwise_f32");
}

#[test]
fn nan_and_infinities_pass() {
    for kind in [ActivationKind::None, ActivationKind::Relu, ActivationKind::Clip, ActivationKind::LeakyRelu]
    {
        let activation = Activation::new(kind, 0.0, 6.0);
        let p = Conv { out_h: 4, out_w: 15, out_channels: 24, activation, ..plain() };
        let depthwise = Conv { groups: 24, in_channels: 1, out_channels: 1, kernel_h: 2, kernel_w: 2, ..p };
        for (name, p) in [("conv_f32", p), ("depthwise_f32", depthwise)] {
            let mut case = Case::blocked(p, 0);
            for (at, value) in [(3, f32::NAN), (40, f32::INFINITY), (90, f32::NEG_INFINITY), (101, -0.0)] {
                case.input[at] = value;
            }
            case.check(name);
        }
    }
}

#[test]
fn depthwise_sizes() {
    let p = Conv { in_channels: 1, out_channels: 1, ..plain() };
    for (kernel, stride, dilation) in
        [(1, 1, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (5, 1, 1), (5, 2, 1), (5, 1, 2), (2, 3, 1)]
    {
        for out_w in [1, 2, 6, 7, 8, 13, 15] {
            for (groups, out_h) in [(16, 1), (40, 2), (2, 3)] {
                let p = Conv {
                    groups,
                    out_h,
                    out_w,
                    kernel_h: kernel,
                    kernel_w: kernel,
                    stride_h: stride,
                    stride_w: stride,
                    dilation_h: dilation,
                    dilation_w: dilation,
                    ..p
                };
                Case::blocked(p, 0).check("depthwise_f32");
                Case::blocked(Conv { n: 2, ..p }, 16).check("depthwise_f16w");
            }
        }
    }
}

#[test]
fn hostile_convolutions() {
    let p = Conv {
        n: 2,
        in_channels: 24,
        out_channels: 24,
        out_h: 3,
        out_w: 4,
        kernel_h: 2,
        kernel_w: 2,
        ..plain()
    };
    let p = Conv { residual_mode: residual::BEFORE_ACTIVATION, ..p };
    let depthwise = Conv { groups: 24, in_channels: 1, out_channels: 1, ..p };
    for (name, p) in [("conv_f32", p), ("depthwise_f32", depthwise)] {
        let case = Case::blocked(p, 0);
        let operands = [bytes(&case.input), bytes(&case.weights), bytes(&case.bias), bytes(&case.added)];
        attack(name, &case.p, &operands, &[case.output]);
    }
    let case = Case::matrix(5, 20, 24);
    attack(
        "conv_f32",
        &case.p,
        &[bytes(&case.input), bytes(&case.weights), bytes(&case.bias), &[]],
        &[case.output],
    );
}

fn exactly(_: f32) -> f32 {
    0.0
}

#[test]
fn reorders() {
    for (channels, block) in [(1, 16), (3, 3), (16, 16), (20, 16), (33, 16), (40, 40), (5, 2)] {
        for w in [1, 15, 16, 17, 35] {
            for pixel_major in [false, true] {
                let (n, h) = (2, 3);
                let blocks = u64::div_ceil(channels, block);
                let (blocked, blocked_len) = picture(n, blocks, h, w, block, 8);
                let plain = if pixel_major {
                    View {
                        offset: 0,
                        stride_n: h * w * channels,
                        stride_c: 1,
                        stride_h: w * channels,
                        stride_w: channels,
                    }
                } else {
                    View { offset: 0, stride_n: channels * h * w, stride_c: h * w, stride_h: w, stride_w: 1 }
                };
                let plain_len = (n * channels * h * w) as usize;
                let p = Reorder { n, channels, h, w, block, plain, blocked };
                let mut random = Random::new(w);
                check_f32(
                    "to_blocked_f32",
                    &p,
                    &[bytes(&random.units(plain_len))],
                    &[blocked_len * 4],
                    exactly,
                );
                check_f32(
                    "from_blocked_f32",
                    &p,
                    &[bytes(&random.units(blocked_len))],
                    &[plain_len * 4],
                    exactly,
                );
                if w == 17 && channels == 20 {
                    attack("to_blocked_f32", &p, &[bytes(&random.units(plain_len))], &[blocked_len * 4]);
                    attack("from_blocked_f32", &p, &[bytes(&random.units(blocked_len))], &[plain_len * 4]);
                }
            }
        }
    }
    let empty = Reorder { n: 0, channels: 3, h: 2, w: 2, block: 16, ..Reorder::zeroed() };
    check_f32("to_blocked_f32", &empty, &[&[]], &[0], exactly);
}

#[test]
fn halos() {
    for (halo, h, w, block) in [
        ([1, 1, 1, 1], 3, 4, 16),
        ([0, 2, 0, 1], 2, 2, 16),
        ([3, 0, 1, 0], 1, 5, 3),
        ([0; 4], 2, 2, 16),
        ([1, 1, 1, 1], 0, 0, 16),
    ] {
        let [top, left, bottom, right] = halo;
        let (frame, len) = picture(2, 3, top + h + bottom, left + w + right, block, 4);
        let offset = frame.offset + top * frame.stride_h + left * frame.stride_w;
        let p = FillHalo {
            n: 2,
            blocks: 3,
            h,
            w,
            block,
            halo,
            view: View { offset, ..frame },
            value: -2.5,
            reserved: 0,
        };
        check_f32("fill_halo_f32", &p, &[], &[len * 4], exactly);
    }
    let (frame, len) = picture(2, 2, 5, 5, 16, 0);
    let view = View { offset: frame.stride_h + 16, ..frame };
    let p = FillHalo { n: 2, blocks: 2, h: 3, w: 3, block: 16, halo: [1; 4], view, value: 1.0, reserved: 0 };
    attack("fill_halo_f32", &p, &[], &[len * 4]);
}

#[test]
fn packing() {
    for (batch, k, n) in [(1, 1, 1), (2, 15, 17), (3, 16, 16), (1, 40, 33), (2, 0, 5), (0, 3, 3)] {
        for transposed in [false, true] {
            let (stride_k, stride_n) = if transposed { (1, k) } else { (n, 1) };
            let p = PackB { batch, k, n, stride_batch: k * n, stride_k, stride_n };
            let input = Random::new(k).units((batch * k * n) as usize);
            let output = (batch * n.div_ceil(BLOCK as u64) * k * 64) as usize;
            check_f32("pack_b_f32", &p, &[bytes(&input)], &[output], exactly);
            if k == 15 {
                attack("pack_b_f32", &p, &[bytes(&input)], &[output]);
            }
        }
    }
}
