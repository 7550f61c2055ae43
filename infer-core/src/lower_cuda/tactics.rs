//! Which tile a convolution on the GPU uses, and how many blocks share each of its sums; how many rows a block of attention has.
//!
//! What was measured ([`Tactics`]) goes before the estimate, which follows from a model of the time a call takes. Blocks
//! come in waves of as many as the multiprocessors hold at a time; a block's time is a start, a step for each stretch of the
//! sum, and an end. A step takes as long as its latency, or, where more blocks share a multiprocessor, as their loads and
//! products one after the other. The constants are fitted to times of every tile and split on the convolutions of four
//! models on an H200 (`cuda_bench --sweep`).

use infer_kernels::cuda::{
    Attention, COUNTERS, Conv, HEADS, Heads, LARGEST_CLUSTER, NORMALISING, NORMALISING_BF16, NormalisedConv,
    TILES, TILES_BF16, TILES_TF32, Tile,
};

use super::Lowered;
use super::normalise::Normalisation;
use crate::calls::{BufferKind, Calls, KernelCall};
use crate::options::Precision;
use crate::tactics::Tactics;

/// The GPU that plans are made for: an H200's proportions.
pub const MULTIPROCESSORS: f64 = 132.0;
/// Shared memory of a multiprocessor, and what each block takes beside what it asks for.
const SHARED_BYTES: f64 = 227.0 * 1024.0;
const BLOCK_BYTES: f64 = 2048.0;

/// For each of [`TILES`] the nanoseconds of a step that others share a multiprocessor with, and of one alone.
const STEPS: [[f64; 2]; 8] = [
    [208.0, 417.0],
    [229.0, 212.0],
    [44.0, 311.0],
    [177.0, 0.0],
    [176.0, 178.0],
    [88.0, 167.0],
    [191.0, 190.0],
    [100.0, 164.0],
];
/// The same for tiles that are copied, in order the last of [`TILES`]: the nanoseconds of a step, and of the end of a tile.
const COPIED: [[f64; 2]; 5] =
    [[270.0, 910.0], [390.0, 2130.0], [595.0, 3600.0], [550.0, 3600.0], [197.0, 1060.0]];
/// The start of a block that stays, in nanoseconds, and how much longer the end is for each element to which something is added.
const STAYING: f64 = 2540.0;
const ADDED: f64 = 0.07;
/// What each block that shares such a tile costs, in nanoseconds, and the least steps that are worth a block.
const COPIED_SPLIT: f64 = 800.0;
const LEAST_STEPS: u64 = 16;
/// The same for [`NORMALISING`]: the nanoseconds of a step and of the end, with all that is added. They are fitted to what is faster in
/// bert_base at batches of 16, 32 and 64: launched alone, these tiles take less, long sums above all.
const NORMALISED: [[f64; 2]; 2] = [[480.0, 2000.0], [740.0, 3000.0]];
/// The nanoseconds of a normalisation by a call of its own, and the bytes a nanosecond that it reads and writes.
const NORMALISATION: f64 = 1500.0;
const NORMALISATION_BYTES: f64 = 2900.0;
/// The same for [`Tile::F32`].
const STEP_F32: [f64; 2] = [300.0, 350.0];
/// How much longer both are where there are several taps: the picture is gathered, not read in a row.
const TAPS: [f64; 2] = [1.38, 1.81];
/// The start and the end of a block in nanoseconds, but for what it writes, in bytes a nanosecond.
const BLOCK: f64 = 2770.0;
const WRITTEN: f64 = 18.5;
/// What splitting costs in nanoseconds: to meet, and to add the sums of one split. Through memory, which blocks that
/// are no cluster go by, the latter takes twice as long.
const SPLIT: f64 = 323.0;
const SPLIT_EACH: f64 = 112.0;

/// How many operands a convolution has, and which of them is its partial sums.
const CONV_OPERANDS: usize = 6;
const PARTIALS: usize = 4;

/// The tile and the number of splits of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tactic {
    /// The tile.
    pub tile: &'static Tile,
    /// How many blocks share a tile.
    pub splits: u32,
}

impl Tactic {
    /// The tactic with as many of the splits asked for as the sum has whole steps to give, none of them empty, and the tile
    /// allows.
    pub fn fitted(tile: &'static Tile, splits: u32, call: &Conv) -> Tactic {
        let tiles = tile.count(call.pixels as u64, call.out_channels as u64);
        if tile.copied {
            let fits = |&splits: &u32| {
                let blocks = tiles as f64 * f64::from(splits);
                blocks <= MULTIPROCESSORS && tile.takes_splits(splits.into(), call)
            };
            return Tactic { tile, splits: (1..=splits).rev().find(fits).unwrap_or(1) };
        }
        let steps = tile.steps(call).max(1);
        let each = steps.div_ceil(u64::from(splits).clamp(1, steps));
        let splits = if tiles > COUNTERS as u64 { 1 } else { steps.div_ceil(each) as u32 };
        Tactic { tile, splits }
    }
}

/// The time of a call in nanoseconds, by the model.
fn cost(tactic: Tactic, call: &Conv) -> f64 {
    let Tactic { tile, splits } = tactic;
    let tiles = tile.count(call.pixels as u64, call.out_channels as u64) as f64;
    if tile.normalises {
        return normalising_cost(tile, call);
    }
    if tile.copied {
        return copied_cost(tactic, tiles, call);
    }
    let steps = tile.steps(call).max(1).div_ceil(splits.into());
    let bytes = f64::from(tile.shared_bytes(steps as u32, splits)) + BLOCK_BYTES;
    let resident = (SHARED_BYTES / bytes).floor().clamp(1.0, tile.blocks.into());
    let share = (tiles * f64::from(splits) / MULTIPROCESSORS).ceil();
    let together = share.min(resident);

    // A step of tf32 has half the elements of one of f16, and takes as long.
    let shape = |tile: &Tile| (tile.rows, tile.columns);
    let rates = match *tile == Tile::F32 {
        true => STEP_F32,
        false => {
            let same = TILES.iter().zip(STEPS).find(|(other, _)| shape(other) == shape(tile));
            same.map_or(STEP_F32, |(_, rates)| rates)
        }
    };
    let taps = if call.taps > 1 { TAPS } else { [1.0, 1.0] };
    let step = (rates[0] * taps[0] * together).max(rates[1] * taps[1]);
    let written = f64::from(tile.rows * tile.columns) * 4.0 / WRITTEN;
    let split = match splits {
        0..=1 => 0.0,
        2..=LARGEST_CLUSTER => SPLIT + SPLIT_EACH * f64::from(splits),
        _ => SPLIT + 2.0 * SPLIT_EACH * f64::from(splits),
    };
    share / together * (BLOCK + steps as f64 * step + together * written) + split
}

/// The same for a tile that is copied: one of two groups of warps ends a tile while the other adds, or both do the same at a
/// time. Where blocks share a tile, they have no other.
fn copied_cost(Tactic { tile, splits }: Tactic, tiles: f64, call: &Conv) -> f64 {
    let shape = |tile: &Tile| (tile.rows, tile.columns, tile.depth);
    let copied = TILES.iter().filter(|tile| tile.copied);
    let same = copied.zip(COPIED).find(|(other, _)| shape(other) == shape(tile));
    let [step, end] = same.map_or(COPIED[0], |(_, times)| times);
    let sum = tile.steps(call).max(1).div_ceil(splits.into()) as f64 * step;
    if splits > 1 {
        return STAYING + sum + end / f64::from(splits) + COPIED_SPLIT * f64::from(splits);
    }
    let added = if call.residual_mode == 0 { 0.0 } else { ADDED };
    let end = end + added * f64::from(tile.rows * tile.columns);
    let each = if tile.alternates() { sum.max(end) } else { sum + end };
    STAYING + (tiles / MULTIPROCESSORS).ceil() * each
}

/// The same for a tile that normalises: a cluster has the columns of some rows, and as many run at a time as there are
/// multiprocessors for.
fn normalising_cost(tile: &Tile, call: &Conv) -> f64 {
    let shape = |tile: &Tile| (tile.rows, tile.columns);
    let same = NORMALISING.iter().zip(NORMALISED).find(|(other, _)| shape(other) == shape(tile));
    let [step, end] = same.map_or(NORMALISED[0], |(_, times)| times);
    let blocks = call.out_channels as u32 / tile.columns;
    let together = (MULTIPROCESSORS / f64::from(blocks)).floor();
    let waves = ((call.pixels as u32).div_ceil(tile.rows) as f64 / together).ceil();
    STAYING + waves * (tile.steps(call) as f64 * step + end)
}

/// The time of a call of its own that normalises the rows of a product, in nanoseconds.
fn normalisation_cost(call: &Conv) -> f64 {
    let bytes = 2.0 * 2.0 * f64::from(call.pixels) * f64::from(call.out_channels);
    NORMALISATION + bytes / NORMALISATION_BYTES
}

/// The numbers of splits that are tried: the model was fitted to these, and clusters of others are hard to place.
pub const SPLITS: [u32; 10] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32];

/// The tactic of the least cost. The estimate for what is not copied knows nothing of the second-level cache's limit, so that it
/// is asked only where copies do not pay.
pub fn choose(call: &Conv, precision: Precision) -> Tactic {
    let (copied, others): (Vec<&Tile>, Vec<&Tile>) = tiles(precision).iter().partition(|tile| tile.copied);
    let tactics = |tiles: Vec<&'static Tile>| -> Vec<Tactic> {
        tiles.into_iter().flat_map(|tile| SPLITS.map(|splits| Tactic::fitted(tile, splits, call))).collect()
    };
    let mut candidates = tactics(copied);
    candidates.retain(|&tactic| copies_pay(tactic, call));
    if candidates.is_empty() {
        candidates = tactics(others);
    }
    let best = candidates.into_iter().min_by(|a, b| cost(*a, call).total_cmp(&cost(*b, call)));
    best.unwrap_or(Tactic { tile: &TILES[0], splits: 1 })
}

/// Whether the blocks keep at least half of the multiprocessors busy, those that share a tile for long enough, and the boxes'
/// channels are more than half full.
fn copies_pay(Tactic { tile, splits }: Tactic, call: &Conv) -> bool {
    let blocks = tile.count(call.pixels as u64, call.out_channels as u64) as f64 * f64::from(splits);
    let channels = (call.channels as u32).next_multiple_of(tile.depth);
    let is_long = splits == 1 || tile.steps(call) >= LEAST_STEPS * u64::from(splits);
    tile.takes(call) && blocks * 2.0 >= MULTIPROCESSORS && is_long && call.channels as u32 * 2 > channels
}

/// The tiles of a precision.
pub fn tiles(precision: Precision) -> &'static [Tile] {
    match precision {
        Precision::Fp32 => &[Tile::F32],
        Precision::Tf32 => TILES_TF32,
        Precision::Fp16 => TILES,
        Precision::Bf16 => TILES_BF16,
    }
}

/// Gives every convolution among the calls the tactic that `choose` says.
pub fn assign(calls: &mut Calls, precision: Precision, mut choose: impl FnMut(&Conv, Precision) -> Tactic) {
    for index in 0..calls.calls.len() {
        if let Some(params) = convolution(&calls.calls[index]) {
            set_tile(calls, index, params, choose(&params, precision));
        }
    }
}

/// The tiles of a precision that normalise rows, where a normalisation follows.
fn normalising(precision: Precision) -> &'static [Tile] {
    match precision {
        Precision::Fp32 | Precision::Tf32 => &[],
        Precision::Fp16 => NORMALISING,
        Precision::Bf16 => NORMALISING_BF16,
    }
}

/// Has products normalise their rows where that is estimated to take less time than the call that would.
pub(super) fn normalise(calls: &mut Calls, precision: Precision) {
    for index in 0..calls.calls.len() {
        let Some(used) = Choice::of(calls, index, precision) else { continue };
        let (Some(params), Way::Conv(now)) = (convolution(&calls.calls[index]), used.ways[used.chosen])
        else {
            continue;
        };
        let ways = used.ways.iter().filter_map(|way| match way {
            Way::Conv(tactic) if tactic.tile.normalises && copies_pay(*tactic, &params) => Some(*tactic),
            _ => None,
        });
        let best = ways.min_by(|a, b| cost(*a, &params).total_cmp(&cost(*b, &params)));
        if let Some(best) = best
            && cost(best, &params) < cost(now, &params) + normalisation_cost(&params)
        {
            set_tile(calls, index, params, best);
        }
    }
}

/// The parameters of a call that is a convolution.
pub fn convolution(call: &KernelCall) -> Option<Conv> {
    if !call.kernel.starts_with("cuda_conv_") {
        return None;
    }
    let normalised = || bytemuck::try_pod_read_unaligned(&call.params).ok().map(|p: NormalisedConv| p.conv);
    bytemuck::try_pod_read_unaligned(&call.params).ok().or_else(normalised)
}

fn set_tile(calls: &mut Calls, index: usize, mut params: Conv, Tactic { tile, splits }: Tactic) {
    let tiles = tile.count(params.pixels as u64, params.out_channels as u64);
    let each = tile.steps(&params).max(1).div_ceil(splits.into()) as u32;
    params.splits = splits as i32;
    params.depth_per_split = (each * tile.depth) as i32;
    params.column_tiles = (params.out_channels as u32).div_ceil(tile.columns) as i32;
    let partials = tile.partial_bytes(tiles, splits.into());
    let partials = (partials > 0).then(|| {
        let buffer = calls.add_buffer(BufferKind::Arena, partials);
        calls.whole(buffer)
    });
    let call = &mut calls.calls[index];
    // Without the normalisation that it may have.
    call.operands.drain(..call.operands.len() - CONV_OPERANDS);
    call.operands[PARTIALS] = partials;
    tile.kernel(&params).clone_into(&mut call.kernel);
    call.params = bytemuck::bytes_of(&params).to_vec();
    if tile.normalises
        && let Some(normalisation) = Normalisation::after(calls, index)
    {
        let Normalisation { scale, shift, output, epsilon, stores_input } = normalisation;
        let params = NormalisedConv { conv: params, epsilon, stores_output: stores_input.into() };
        let call = &mut calls.calls[index];
        call.operands[PARTIALS] = Some(output);
        call.operands.splice(..0, [scale, shift]);
        call.params = bytemuck::bytes_of(&params).to_vec();
    }
}

/// How a call is computed, of those that can be in several ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A convolution.
    Conv(Tactic),
    /// Attention.
    Attention(&'static Heads),
}

impl Way {
    /// Its name among the ways of a call, one word: tile and splits, or rows.
    pub fn name(self) -> String {
        match self {
            Way::Conv(Tactic { tile, splits }) => {
                let how = match tile {
                    Tile { normalises: true, .. } => "norm-",
                    Tile { copied: true, .. } => "tma-",
                    _ => "",
                };
                let shape = tile.name.rsplit('_').next().unwrap_or_default();
                format!("{how}{shape}/{splits}")
            }
            Way::Attention(heads) => format!("{}-rows", heads.rows),
        }
    }
}

/// A call that can be computed in several ways.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The position of the call.
    pub call: usize,
    /// Whether some of the ways do what the call after it does, too.
    pub with_next: bool,
    /// The name of the node.
    pub node: String,
    /// What is chosen, one word.
    pub question: &'static str,
    /// All that the ways' speed depends on.
    pub signature: String,
    /// The ways, each once.
    pub ways: Vec<Way>,
    /// The position of the one in use.
    pub chosen: usize,
}

impl Choice {
    fn of(calls: &Calls, index: usize, precision: Precision) -> Option<Choice> {
        let call = &calls.calls[index];
        let mut with_next = false;
        let (question, signature, chosen, ways) = if let Some(params) = convolution(call) {
            let of = |tile: &'static Tile| {
                let tactics = SPLITS.into_iter().map(move |splits| Tactic::fitted(tile, splits, &params));
                // What has fewer steps than splits fits to what was there already.
                let mut ways: Vec<Way> = tactics.map(Way::Conv).collect();
                ways.dedup();
                ways
            };
            with_next = Normalisation::after(calls, index).is_some();
            let normalising = if with_next { normalising(precision) } else { &[] };
            let tiles = || tiles(precision).iter().chain(normalising);
            let fitting = tiles().filter(|tile| tile.takes(&params));
            let used = tiles().find(|tile| [tile.name, tile.point].contains(&call.kernel.as_str()))?;
            let chosen = Way::Conv(Tactic { tile: used, splits: params.splits as u32 });
            ("convolution", conv_signature(&params), chosen, fitting.flat_map(of).collect())
        } else {
            let used = HEADS.iter().find(|heads| heads.name == call.kernel)?;
            let params: Attention = bytemuck::try_pod_read_unaligned(&call.params).ok()?;
            let ways = HEADS
                .iter()
                .filter(|heads| (heads.ty, heads.size) == (used.ty, used.size))
                .map(Way::Attention);
            ("attention", attention_signature(&params), Way::Attention(used), ways.collect())
        };
        let mut ways: Vec<Way> = ways;
        let chosen = ways.iter().position(|&way| way == chosen).unwrap_or_else(|| {
            ways.push(chosen);
            ways.len() - 1
        });
        let node = call.node.clone();
        Some(Choice { call: index, with_next, node, question, signature, ways, chosen })
    }

    /// The calls that the ways are ways of: those whose time depends on which is chosen.
    pub fn calls(&self) -> impl Iterator<Item = usize> {
        self.call..=self.call + usize::from(self.with_next)
    }
}

/// What a convolution computes, for tactics.
fn conv_signature(p: &Conv) -> String {
    let images = p.pixels / (p.out_h * p.out_w).max(1);
    let kernel = [p.taps / p.kernel_w.max(1), p.kernel_w];
    let mut text = format!(
        "{}→{} {}x{} @{}x{} n{images}",
        p.channels, p.out_channels, kernel[0], kernel[1], p.out_h, p.out_w
    );
    let mut differs = |name: &str, [h, w]: [i32; 2], usual: i32| {
        if [h, w] != [usual; 2] {
            text += &format!(" {name}{h}x{w}");
        }
    };
    differs("s", [p.stride_h, p.stride_w], 1);
    differs("d", [p.dilation_h, p.dilation_w], 1);
    differs("p", [p.pad_h, p.pad_w], 0);
    if p.residual_mode != 0 {
        text += " +";
    }
    text
}

/// What attention computes, for tactics.
fn attention_signature(p: &Attention) -> String {
    let heads: i64 = p.lead.iter().map(|&extent| i64::from(extent)).product();
    let causal = if p.causal == 0 { "" } else { " causal" };
    format!("{heads} heads of {}x{}x{}{causal}", p.rows, p.keys, p.size)
}

impl Lowered {
    /// The calls that can be computed in several ways, in order.
    pub fn choices(&self) -> Vec<Choice> {
        (0..self.calls.calls.len())
            .filter_map(|index| Choice::of(&self.calls, index, self.precision))
            .collect()
    }

    /// Computes the call of a choice in this way, one of its.
    pub fn set(&mut self, choice: &Choice, way: Way) {
        let call = &mut self.calls.calls[choice.call];
        match way {
            Way::Conv(tactic) => {
                if let Some(params) = convolution(call) {
                    set_tile(&mut self.calls, choice.call, params, tactic);
                }
            }
            Way::Attention(heads) => {
                if let Ok(mut params) = bytemuck::try_pod_read_unaligned::<Attention>(&call.params) {
                    params.steps = attention_steps(heads, params.keys as u64);
                    heads.name.clone_into(&mut call.kernel);
                    call.params = bytemuck::bytes_of(&params).to_vec();
                }
            }
        }
    }

    /// Computes calls as the tactics say, as far as they say anything of GPUs in this precision.
    pub fn follow(&mut self, tactics: &mut Tactics) {
        if tactics.gpu(self.precision).is_none() {
            return;
        }
        for choice in self.choices() {
            let layer = [&choice.node, choice.question, &choice.signature];
            let way = tactics.fit_gpu(self.precision, layer, |name| {
                let found = choice.ways.iter().copied().find(|way| way.name() == name);
                found.ok_or_else(|| {
                    let names: Vec<String> =
                        choice.ways.iter().map(|way| format!("`{}`", way.name())).collect();
                    names.join(", ")
                })
            });
            if let Some(way) = way {
                self.set(&choice, way);
            }
        }
    }
}

/// How many tiles of keys such a block has in shared memory.
pub(super) fn attention_steps(heads: &Heads, keys: u64) -> i32 {
    keys.div_ceil(heads.keys.into()).clamp(1, heads.steps.into()) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(pixels: i32, out_channels: i32, taps: i32, channels: i32) -> Conv {
        Conv { pixels, out_channels, taps, channels, ..Conv::default() }
    }

    #[test]
    fn small_grids_are_split_and_large_ones_are_not() {
        assert!(choose(&call(49, 512, 9, 512), Precision::Fp16).splits > 4);
        assert_eq!(choose(&call(128 * 56 * 56, 256, 1, 64), Precision::Fp16).splits, 1);
    }

    #[test]
    fn large_grids_are_copied() {
        for (pixels, out_channels, taps, channels) in [(4096, 3072, 1, 768), (100_352, 128, 9, 128)] {
            let call = Conv { kernel_w: 1, ..call(pixels, out_channels, taps, channels) };
            assert!(choose(&call, Precision::Fp16).tile.copied, "{call:?}");
        }
    }

    #[test]
    fn long_sums_of_few_copied_tiles_are_shared() {
        let long = Conv { kernel_w: 3, ..call(361, 1024, 9, 512) };
        let Tactic { tile, splits } = choose(&long, Precision::Fp16);
        assert!(tile.copied && splits > 1, "{} in {splits}", tile.name);
        assert!(!choose(&call(361, 512, 1, 1024), Precision::Fp16).tile.copied);
    }

    #[test]
    fn no_split_is_empty() {
        let call = Conv { kernel_w: 3, ..call(49, 512, 9, 56) };
        for tile in TILES {
            for splits in 1..40 {
                let tactic = Tactic::fitted(tile, splits, &call);
                let each = tile.steps(&call).div_ceil(tactic.splits.into());
                assert!(each * u64::from(tactic.splits - 1) < tile.steps(&call), "{} in {splits}", tile.name);
            }
        }
    }
}
