//! What a call amounts to, for tools: its shape in words, and how much it computes.

use bytemuck::Pod;

use crate::call::{
    Attention, Axis, Col2Im, Conv, ConvDepthwise, ConvNd, Elementwise, FillHalo, Gather, GroupNorm,
    LayerNorm, Lrn, MatMul, PackB, Pool, PoolNd, PooledConv, Recurrent, Reduce, Reorder, Resize, Scan,
    Strassen, StrassenLeft, Winograd,
};

/// A call in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Work {
    /// The extents it runs over, as one reads them.
    pub shape: String,
    /// Floating-point operations of its products, a multiply-add counting as two; 0 for what merely passes over memory.
    /// Algorithms that save multiplications are counted as if they did not.
    pub flops: u64,
}

impl Work {
    /// What the call of the kernel named `kernel` with `params` amounts to; nothing where the kernel is unknown.
    pub fn of(kernel: &str, params: &[u8]) -> Work {
        let (shape, factors) = describe(kernel, params).unwrap_or_default();
        Work { shape, flops: factors.into_iter().reduce(u64::saturating_mul).unwrap_or(0) }
    }
}

/// The parameters as `P`, if they are of its size.
fn read<P: Pod>(params: &[u8]) -> Option<P> {
    bytemuck::try_pod_read_unaligned(params).ok()
}

/// The shape, and the factors of the number of operations.
fn describe(kernel: &str, params: &[u8]) -> Option<(String, Vec<u64>)> {
    let passes = |shape: String| Some((shape, Vec::new()));
    match kernel {
        "conv_f32" | "conv_f16w" => conv(&read(params)?),
        "pooled_conv_f32" => {
            let p: PooledConv = read(params)?;
            let (out_h, out_w) = (p.out_h.saturating_mul(2), p.out_w.saturating_mul(2));
            let (shape, factors) = conv(&PooledConv { out_h, out_w, ..p })?;
            Some((format!("{shape} pooled"), factors))
        }
        "conv_depthwise_f32" | "conv_depthwise_f16w" => {
            let p: ConvDepthwise = read(params)?;
            let ((first, products), (second, taps)) = (conv(&p.conv)?, depthwise(&p.depthwise)?);
            let flops = |factors: Vec<u64>| factors.into_iter().fold(1, u64::saturating_mul);
            let all = flops(products).saturating_add(flops(taps));
            Some((format!("{first}, {second}"), [all].to_vec()))
        }
        "winograd_f32" => {
            let p: Winograd = read(params)?;
            let (shape, factors) = conv(&p.conv)?;
            Some((format!("{shape} F({},3)", p.tile), factors))
        }
        "winograd_rows_f32" => {
            let (shape, factors) = conv(&read(params)?)?;
            Some((format!("{shape} F(4,5)"), factors))
        }
        "strassen_f32" | "strassen_f16w" => {
            let p: Strassen = read(params)?;
            let (shape, factors) = conv(&p.conv)?;
            Some((format!("{shape} in sevenths"), factors))
        }
        "strassen_left_f32" => {
            let p: StrassenLeft = read(params)?;
            passes(extents(&[p.rows, p.columns]))
        }
        "attention_f32" => attention(&read(params)?),
        "depthwise_f32" | "depthwise_f16w" => depthwise(&read(params)?),
        "conv_nd_f32" | "conv_transpose_nd_f32" => conv_nd(&read(params)?, kernel == "conv_transpose_nd_f32"),
        "pack_b_f32" => {
            let p: PackB = read(params)?;
            passes(format!("{}[{},{}]", batch(p.batch), p.k, p.n))
        }
        "to_blocked_f32" | "from_blocked_f32" => {
            let p: Reorder = read(params)?;
            passes(extents(&[p.n, p.channels, p.h, p.w]))
        }
        "fill_halo_f32" => {
            let p: FillHalo = read(params)?;
            passes(extents(&[p.n, p.blocks.saturating_mul(p.block), p.h, p.w]))
        }
        "max_pool_f32" | "average_pool_f32" => {
            let p: Pool = read(params)?;
            let channels = p.blocks.saturating_mul(crate::call::BLOCK as u64);
            let window = window(&p.kernel, &p.stride, &p.dilation);
            passes(format!("{}{channels} {window} @{}x{}", batch(p.n), p.out_h, p.out_w))
        }
        "max_pool_nd_f32" | "average_pool_nd_f32" | "lp_pool_nd_f32" => {
            let p: PoolNd = read(params)?;
            let window = window(&p.kernel, &p.stride, &p.dilation);
            passes(format!("{} {window} @{}", p.outer, times(&p.output)))
        }
        "resize_f32" => {
            let p: Resize = read(params)?;
            let channels = p.blocks.saturating_mul(p.lanes);
            passes(format!("{}{channels} {}x{} to {}x{}", batch(p.n), p.in_h, p.in_w, p.out_h, p.out_w))
        }
        "softmax_f32" | "log_softmax_f32" => axis(&read(params)?),
        "layer_norm_f32" => {
            let p: LayerNorm = read(params)?;
            passes(extents(&[p.outer, p.inner]))
        }
        "group_norm_f32" => {
            let p: GroupNorm = read(params)?;
            passes(format!("{} in {} groups", extents(&[p.n, p.channels, p.inner]), p.groups))
        }
        "group_norm_blocked_f32" => {
            let p: crate::call::GroupNormBlocked = read(params)?;
            passes(format!("{} in {} groups", extents(&[p.n, p.channels, p.h, p.w]), p.groups))
        }
        "lrn_f32" => {
            let p: Lrn = read(params)?;
            passes(extents(&[p.n, p.channels, p.inner]))
        }
        "lstm_f32" => recurrent(&read(params)?, 4),
        "gru_f32" => recurrent(&read(params)?, 3),
        "rnn_f32" => recurrent(&read(params)?, 1),
        _ if kernel.starts_with("arg_m") => axis(&read(params)?),
        _ if kernel.starts_with("cum_") => {
            let p: Scan = read(params)?;
            passes(format!("{} along {}", extents(&[p.outer, p.axis, p.inner]), p.axis))
        }
        _ if kernel.starts_with("col2im_") => {
            let p: Col2Im = read(params)?;
            let window = window(&p.block, &p.stride, &p.dilation);
            passes(format!("{}{window} @{}", batch(p.outer), times(&p.image)))
        }
        _ if kernel.starts_with("matmul_") => {
            let p: MatMul = read(params)?;
            let dims = p.dims.get(..usize::try_from(p.rank).ok()?)?;
            let products = dims.iter().copied().fold(1, u64::saturating_mul);
            let shape = format!("{}[{},{}]·[{},{}]", batch(products), p.m, p.k, p.k, p.n);
            Some((shape, [2, products, p.m, p.k, p.n].to_vec()))
        }
        _ if kernel.starts_with("reduce_") => {
            let p: Reduce = read(params)?;
            let kept = p.kept_dims.get(..usize::try_from(p.kept_rank).ok()?)?;
            let reduced = p.reduced_dims.get(..usize::try_from(p.reduced_rank).ok()?)?;
            passes(format!("{} over {}", extents(kept), extents(reduced)))
        }
        _ if kernel.starts_with("gather_b") => {
            let p: Gather = read(params)?;
            passes(format!("{} of {}", p.indices, extents(&[p.outer, p.axis, p.inner])))
        }
        _ if kernel.starts_with("index_map_b") => {
            let p: crate::call::IndexMap = read(params)?;
            passes(extents(p.out_dims.get(..usize::try_from(p.rank).ok()?)?))
        }
        _ => {
            let p: Elementwise = read(params)?;
            passes(extents(p.dims.get(..usize::try_from(p.rank).ok()?)?))
        }
    }
}

fn conv(p: &Conv) -> Option<(String, Vec<u64>)> {
    let factors =
        [2, p.n, p.groups, p.in_channels, p.out_channels, p.kernel_h, p.kernel_w, p.out_h, p.out_w].to_vec();
    let is_product = (p.kernel_h, p.kernel_w, p.out_h) == (1, 1, 1) && p.groups == 1;
    let shape = if is_product {
        format!("{}[{},{}]·[{},{}]", batch(p.n), p.out_w, p.in_channels, p.in_channels, p.out_channels)
    } else {
        let groups = if p.groups > 1 { format!(" in {} groups", p.groups) } else { String::new() };
        let channels = format!("{}→{}", p.in_channels, p.out_channels);
        format!("{}{channels}{groups} {} @{}x{}", batch(p.n), taps(p), p.out_h, p.out_w)
    };
    Some((shape, factors))
}

fn depthwise(p: &Conv) -> Option<(String, Vec<u64>)> {
    let factors = [2, p.n, p.groups, p.kernel_h, p.kernel_w, p.out_h, p.out_w].to_vec();
    Some((format!("{}{} {} @{}x{}", batch(p.n), p.groups, taps(p), p.out_h, p.out_w), factors))
}

fn attention(p: &Attention) -> Option<(String, Vec<u64>)> {
    let heads = p.lead.iter().copied().reduce(u64::saturating_mul)?;
    let shape = format!("{}[{},{}]·[{},{}]", batch(heads), p.rows, p.size, p.size, p.keys);
    let shape = format!("{shape}, [{},{}]·[{},{}]", p.rows, p.keys, p.keys, p.value_size);
    Some((shape, [2, heads, p.rows, p.keys, p.size.saturating_add(p.value_size)].to_vec()))
}

fn taps(p: &Conv) -> String {
    window(&[p.kernel_h, p.kernel_w], &[p.stride_h, p.stride_w], &[p.dilation_h, p.dilation_w])
}

fn conv_nd(p: &ConvNd, transposed: bool) -> Option<(String, Vec<u64>)> {
    let mut factors = [2, p.n, p.groups, p.in_channels, p.out_channels].to_vec();
    factors.extend(p.kernel);
    factors.extend(if transposed { p.input } else { p.output });
    let groups = if p.groups > 1 { format!(" in {} groups", p.groups) } else { String::new() };
    let window = window(&p.kernel, &p.stride, &p.dilation);
    let channels = format!("{}→{}", p.in_channels, p.out_channels);
    Some((format!("{}{channels}{groups} {window} @{}", batch(p.n), times(&p.output)), factors))
}

fn recurrent(p: &Recurrent, gates: u64) -> Option<(String, Vec<u64>)> {
    let directions = if p.directions > 1 { " both ways" } else { "" };
    let shape = format!("{}{} steps of {}{directions}", batch(p.batch), p.steps, p.hidden);
    Some((shape, [2, p.steps, p.directions, p.batch, gates, p.hidden, p.hidden].to_vec()))
}

fn axis(p: &Axis) -> Option<(String, Vec<u64>)> {
    Some((format!("{} along {}", extents(&[p.outer, p.axis, p.inner]), p.axis), Vec::new()))
}

/// `8 × ` where there are several.
fn batch(n: u64) -> String {
    if n == 1 { String::new() } else { format!("{n} × ") }
}

/// A window by its extents, with strides and dilations other than 1; unused leading axes of extent 1 left out.
fn window(kernel: &[u64], stride: &[u64], dilation: &[u64]) -> String {
    let mut text = times(kernel);
    let unlike_one = |values: &[u64]| values.iter().any(|&value| value != 1);
    if unlike_one(stride) {
        text += &format!("/{}", alike_or_times(stride));
    }
    if unlike_one(dilation) {
        text += &format!(" dilated {}", alike_or_times(dilation));
    }
    text
}

/// One number where all are alike.
fn alike_or_times(values: &[u64]) -> String {
    match values {
        [first, rest @ ..] if rest.iter().all(|value| value == first) => first.to_string(),
        _ => times(values),
    }
}

fn times(values: &[u64]) -> String {
    values.iter().map(u64::to_string).collect::<Vec<_>>().join("x")
}

fn extents(values: &[u64]) -> String {
    let values: Vec<String> = values.iter().map(u64::to_string).collect();
    format!("[{}]", values.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<P: Pod>(kernel: &str, params: P, shape: &str, flops: u64) {
        let work = Work::of(kernel, bytemuck::bytes_of(&params));
        assert_eq!((work.shape.as_str(), work.flops), (shape, flops));
    }

    const UNIT: Conv = Conv {
        n: 1,
        groups: 1,
        kernel_h: 1,
        kernel_w: 1,
        stride_h: 1,
        stride_w: 1,
        dilation_h: 1,
        dilation_w: 1,
        ..ZERO
    };

    const ZERO: Conv = Conv {
        n: 0,
        groups: 0,
        in_channels: 0,
        in_block: 0,
        out_channels: 0,
        output_padded: 0,
        out_h: 0,
        out_w: 0,
        kernel_h: 0,
        kernel_w: 0,
        stride_h: 0,
        stride_w: 0,
        dilation_h: 0,
        dilation_w: 0,
        weights_stride_n: 0,
        input: crate::call::View { offset: 0, stride_n: 0, stride_c: 0, stride_h: 0, stride_w: 0 },
        output: crate::call::View { offset: 0, stride_n: 0, stride_c: 0, stride_h: 0, stride_w: 0 },
        residual: crate::call::View { offset: 0, stride_n: 0, stride_c: 0, stride_h: 0, stride_w: 0 },
        residual_mode: 0,
        activation: crate::call::Activation::NONE,
    };

    #[test]
    fn products_are_counted() {
        let p = Conv { in_channels: 64, out_channels: 256, out_h: 56, out_w: 56, ..UNIT };
        check("conv_f32", p, "64→256 1x1 @56x56", 2 * 64 * 256 * 56 * 56);
        let p = Conv { kernel_h: 3, kernel_w: 3, stride_h: 2, stride_w: 2, n: 2, ..p };
        check("conv_f16w", p, "2 × 64→256 3x3/2 @56x56", 2 * 2 * 64 * 256 * 9 * 56 * 56);
        let p = Conv { in_channels: 768, out_channels: 3072, out_h: 1, out_w: 128, ..UNIT };
        check("conv_f32", p, "[128,768]·[768,3072]", 2 * 128 * 768 * 3072);
        let p = Conv { groups: 32, kernel_h: 3, kernel_w: 5, dilation_w: 2, out_h: 7, out_w: 9, ..UNIT };
        check("depthwise_f32", p, "32 3x5 dilated 1x2 @7x9", 2 * 32 * 15 * 63);
        let p =
            Conv { in_channels: 64, out_channels: 64, kernel_h: 3, kernel_w: 3, out_h: 8, out_w: 8, ..UNIT };
        let p = Winograd { conv: p, tile: 4, block_tiles: 1, block_pairs: 1 };
        check("winograd_f32", p, "64→64 3x3 @8x8 F(4,3)", 2 * 64 * 64 * 9 * 64);
        let conv = Conv { in_channels: 16, out_channels: 32, out_h: 8, out_w: 8, ..UNIT };
        let depthwise = Conv { groups: 32, kernel_h: 3, kernel_w: 3, out_h: 8, out_w: 8, ..UNIT };
        let p = ConvDepthwise { conv, depthwise, ..ConvDepthwise::default() };
        let flops = 2 * 16 * 32 * 64 + 2 * 32 * 9 * 64;
        check("conv_depthwise_f32", p, "16→32 1x1 @8x8, 32 3x3 @8x8", flops);
        let p = Attention {
            lead: [1, 12, 1, 1],
            rows: 5,
            keys: 7,
            size: 64,
            value_size: 32,
            ..Attention::default()
        };
        check("attention_f32", p, "12 × [5,64]·[64,7], [5,7]·[7,32]", 2 * 12 * 5 * 7 * 96);
        let p = Recurrent { steps: 10, directions: 2, batch: 1, hidden: 8, ..Recurrent::default() };
        check("lstm_f32", p, "10 steps of 8 both ways", 2 * 10 * 2 * 4 * 64);
        let p = MatMul { rank: 2, dims: [2, 3, 0, 0, 0, 0, 0, 0], m: 5, k: 7, n: 11, ..MatMul::default() };
        check("matmul_f64", p, "6 × [5,7]·[7,11]", 2 * 6 * 5 * 7 * 11);
    }

    #[test]
    fn other_calls_have_shapes() {
        check(
            "softmax_f32",
            Axis { outer: 12, axis: 128, inner: 1, select_last: 0 },
            "[12,128,1] along 128",
            0,
        );
        let p = Scan { outer: 3, axis: 5, inner: 2, ..Scan::default() };
        check("cum_sum_f32", p, "[3,5,2] along 5", 0);
        let p = Col2Im {
            outer: 6,
            image: [1, 5, 7],
            block: [1, 2, 3],
            blocks: [1, 2, 5],
            stride: [1, 3, 1],
            dilation: [1; 3],
            pad_begin: [0; 3],
        };
        check("col2im_f32", p, "6 × 1x2x3/1x3x1 @1x5x7", 0);
        let p = Elementwise::new(&[4, 5], &[(&[0, 1], 0), (&[5, 1], 0)]).unwrap();
        check("relu_f32", p, "[4,5]", 0);
    }

    #[test]
    fn nonsense_is_nothing() {
        assert_eq!(Work::of("conv_f32", &[1, 2, 3]), Work::default());
        assert_eq!(Work::of("no_such_kernel", &[]), Work::default());
        let p = Reduce { kept_rank: 99, ..Reduce::default() };
        assert_eq!(Work::of("reduce_sum_f32", bytemuck::bytes_of(&p)), Work::default());
        let p = Conv { n: u64::MAX, groups: 3, ..UNIT };
        assert_eq!(Work::of("conv_f32", bytemuck::bytes_of(&p)).flops, 0);
    }
}
