//! `winograd_rows_f32`: convolution with kernels of five columns by Winograd's F(4,5) along rows.
//!
//! Four outputs of a row are Aᵀ [Σᵢ (G gᵢ) ∘ (Bᵀ dᵢ)], where dᵢ are the eight inputs that they read of row i and gᵢ the
//! five taps of that row: eight products instead of twenty, while rows are added up as they are. Unlike transforms along
//! both axes it keeps sums long, of all channels and rows of taps, which suits few channels; and rounding errors small.
//!
//! Loop order: columns of four outputs in up to [`ROWS`] rows; all inputs of a column are transformed into eight planes
//! `[C/16][row][16]`; pairs of panels; planes, each multiplied by its weights on the microkernel of `gemm_tile.rs`,
//! whose pixels are rows; the products are transformed back and finished. All that lies between stays in the caches
//! next to the core. Chunks split the columns.
//!
//! Of at most eight input channels, where there are registers enough, inputs are transformed two rows at a time into
//! `[row][plane][8]`, and all planes of some rows are multiplied together: their sums are transformed back where they are.

use crate::call::{BLOCK, Conv, WINOGRAD_ROWS, residual};
use crate::cpu::epilogue::{
    Clamp, Finish, Finishing, MAX_STRIDE, chunks_for, load_start, picture_end, validate_epilogue,
    validate_fields,
};
use crate::cpu::gemm_tile::{MAX_PANELS, MAX_VECTORS, Nest, Sum, Tile, Tiles};
use crate::cpu::share;
use crate::cpu::vector::Vector;
use crate::{Args, Call, Invalid, Kernel, RunError};

/// Convolution by Winograd's algorithm along rows; see [`WINOGRAD_ROWS`].
pub static WINOGRAD_ROWS_F32: Kernel =
    Kernel { name: "winograd_rows_f32", validate, chunks, run: per_isa!(winograd_rows_f32<_>) };

/// Inputs and outputs of a tile.
const IN: usize = 8;
const OUT: usize = 4;

/// Panels that are worked on together.
const PAIR: usize = 2;

/// Rows whose sums of all planes are in registers together, and the multiplications of each at most: more weights would
/// not stay in the first-level cache.
const TOGETHER: usize = 3;
const MOST_TAPS: usize = 5;

/// The most channels of such, and where the planes of a row and the rows begin.
const HALF: usize = BLOCK / 2;
const HALF_ROW: usize = IN * HALF;

/// The most rows of a column.
const ROWS: usize = WINOGRAD_ROWS.rows as usize;

fn validate(call: &Call<'_>) -> Result<(), Invalid> {
    let p: &Conv = call.params()?;
    call.expect_operands(6)?;
    validate_fields(p)?;
    let block = BLOCK as u64;
    let steps = [p.stride_h, p.stride_w, p.dilation_h, p.dilation_w];
    if p.kernel_w != WINOGRAD_ROWS.taps || p.kernel_h == 0 || steps != [1; 4] || p.weights_stride_n != 0 {
        return Err(Invalid("not a convolution of five columns and stride 1 with one set of weights"));
    }
    if p.in_block != block || p.in_channels == 0 || p.groups != 1 {
        return Err(Invalid("input without channels, in groups, or not in blocks of 16"));
    }
    let panels = p.out_channels.div_ceil(block);
    if p.n == 0 || panels == 0 || p.out_h == 0 || p.out_w == 0 {
        return Ok(());
    }
    // Whole blocks: lanes beyond the last channel are transformed and then left alone.
    let extent = [p.out_h + p.kernel_h - 1, p.out_w + p.kernel_w - 1];
    let input = picture_end(&p.input, p.n, p.in_channels.div_ceil(block), extent, [block; 2]);
    call.expect_elements(0, input, 4)?;
    let weights = WINOGRAD_ROWS.weights(p).filter(|&elements| elements <= MAX_STRIDE);
    call.expect_elements(1, Some(weights.ok_or(Invalid("size overflows"))?), 4)?;
    call.expect_elements(5, WINOGRAD_ROWS.slot(p), 4)?;
    let tail = p.out_channels - (panels - 1) * block;
    validate_epilogue(call, p, panels, tail, p.out_channels)
}

/// The columns of all images.
fn columns(p: &Conv) -> usize {
    (p.n * p.out_h.div_ceil(WINOGRAD_ROWS.rows) * p.out_w.div_ceil(WINOGRAD_ROWS.tile)) as usize
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let p: &Conv = args.params();
    let slot = WINOGRAD_ROWS.slot(p).unwrap_or(0) as usize;
    let rows = [p.n, p.out_channels, p.in_channels, p.kernel_h, p.out_h];
    let work = rows.into_iter().fold(p.out_w * 2, u64::saturating_mul);
    chunks_for(work, threads).min(columns(p)).min(args.operands[5].bytes / 4 / slot.max(1)).max(1)
}

/// Bᵀ x on the points 0, ±½, ±1, ±2 and infinity; see `winograd_transform.rs`.
#[inline(always)]
fn input<V: Vector>(x: [V; IN]) -> [V; IN] {
    // Of the other points' squares: the negative sum, and the product.
    let even = |sum: f32, product: f32| {
        x[4].mul_add(x[0].constant(-sum), x[2].mul_add(x[0].constant(product), x[6]))
    };
    let odd = |sum: f32, product: f32| {
        x[3].mul_add(x[0].constant(-sum), x[1].mul_add(x[0].constant(product), x[5]))
    };
    let (even_half, even_one, even_two) = (even(5.0, 4.0), even(4.25, 1.0), even(1.25, 0.25));
    let odd_half = odd(5.0, 4.0) * x[0].constant(0.5);
    let odd_one = odd(4.25, 1.0);
    let odd_two = odd(1.25, 0.25) * x[0].constant(2.0);
    let sum = x[0].constant(-5.25);
    [
        (x[4] - x[2]).mul_add(sum, x[6] - x[0]),
        even_half + odd_half,
        even_half - odd_half,
        even_one + odd_one,
        even_one - odd_one,
        even_two + odd_two,
        even_two - odd_two,
        (x[5] - x[3]).mul_add(sum, x[7] - x[1]),
    ]
}

/// Aᵀ y
#[inline(always)]
fn output<V: Vector>(y: [V; IN]) -> [V; OUT] {
    let (even_half, odd_half) = (y[1] + y[2], y[1] - y[2]);
    let (even_one, odd_one) = (y[3] + y[4], y[3] - y[4]);
    let (even_two, odd_two) = (y[5] + y[6], y[5] - y[6]);
    let constant = |value: f32| y[0].constant(value);
    [
        (y[0] + even_half) + (even_one + even_two),
        odd_half.mul_add(constant(0.5), odd_two.mul_add(constant(2.0), odd_one)),
        even_half.mul_add(constant(0.25), even_two.mul_add(constant(4.0), even_one)),
        odd_half.mul_add(constant(0.125), odd_two.mul_add(constant(8.0), odd_one + y[7])),
    ]
}

/// Runs one chunk.
///
/// # Safety
///
/// That of [`crate::ChunkFn`].
#[inline(always)]
unsafe fn winograd_rows_f32<V: Tiles + Finishing>(
    args: &Args<'_>,
    chunk: usize,
    chunks: usize,
) -> Result<(), RunError> {
    let p: &Conv = args.params();
    let slot = WINOGRAD_ROWS.slot(p).unwrap_or(0) as usize;
    let columns = columns(p);
    // Every chunk needs a slot of its own; where there are fewer, some chunks have nothing to do.
    let chunks = chunks.min(args.operands[5].bytes / 4 / slot.max(1));
    if columns == 0 || p.out_channels == 0 || chunk >= chunks {
        return Ok(());
    }
    let planes = args.operands[5].ptr::<f32>().wrapping_add(chunk * slot);
    let across = (p.out_w as usize).div_ceil(OUT);
    let down = (p.out_h as usize).div_ceil(ROWS);
    for column in share(columns, chunk, chunks) {
        let (n, y, x) = (column / across / down, column / across % down, column % across * OUT);
        let rows = share(p.out_h as usize, y, down);
        let column = Column { p, n, y: rows.start, x, rows: rows.len(), planes };
        // SAFETY: the caller's promise; the slot is this chunk's alone.
        unsafe {
            if column.is_in_registers::<V>() {
                column.half_inputs::<V>(args);
                for panel in 0..(p.out_channels as usize).div_ceil(BLOCK) {
                    column.panel_in_registers::<V>(args, panel);
                }
                continue;
            }
            column.inputs::<V>(args);
            for panel in (0..(p.out_channels as usize).div_ceil(BLOCK)).step_by(PAIR) {
                column.products::<V>(args, panel);
                column.outputs::<V>(args, panel);
            }
        }
    }
    Ok(())
}

/// Four outputs in each of some rows of an image.
struct Column<'a> {
    p: &'a Conv,
    n: usize,
    y: usize,
    x: usize,
    rows: usize,
    /// The transformed inputs, followed by products.
    planes: *mut f32,
}

impl Column<'_> {
    /// The rows that are read.
    fn rows_read(&self) -> usize {
        self.rows + self.p.kernel_h as usize - 1
    }

    /// Between the planes of transformed inputs; odd in cache lines for one block of channels.
    fn plane(&self) -> usize {
        (self.p.in_channels as usize).div_ceil(BLOCK) * self.rows_read() * BLOCK
    }

    /// The first plane of products.
    fn products_at(&self) -> *mut f32 {
        self.planes.wrapping_add(IN * self.plane())
    }

    /// Transforms the inputs.
    ///
    /// # Safety
    ///
    /// That of [`crate::ChunkFn`]; the slot is this chunk's alone.
    #[inline(always)]
    unsafe fn inputs<V: Vector>(&self, args: &Args<'_>) {
        let (view, plane) = (&self.p.input, self.plane());
        let (stride_h, stride_w) = (view.stride_h as usize, view.stride_w as usize);
        let columns = IN.min(self.p.out_w as usize + IN - OUT - self.x);
        let first =
            view.offset as usize + self.n * view.stride_n as usize + self.y * stride_h + self.x * stride_w;
        let mut to = self.planes;
        for block in 0..(self.p.in_channels as usize).div_ceil(BLOCK) {
            let mut from = args.operands[0].ptr::<f32>().wrapping_add(first + block * view.stride_c as usize);
            for _ in 0..self.rows_read() {
                // SAFETY: validation found so many rows and columns of whole blocks in the input, and the slot to
                // hold all planes.
                unsafe {
                    let mut d = [V::splat(0.0); IN];
                    for (column, d) in d.iter_mut().enumerate() {
                        if column < columns {
                            *d = V::load(from.add(column * stride_w));
                        }
                    }
                    for (index, value) in input(d).into_iter().enumerate() {
                        value.store(to.add(index * plane));
                    }
                }
                from = from.wrapping_add(stride_h);
                to = to.wrapping_add(BLOCK);
            }
        }
    }

    /// Multiplies each plane by the weights of a pair of panels.
    ///
    /// # Safety
    ///
    /// As for [`Column::inputs`], which ran before.
    #[inline(always)]
    unsafe fn products<V: Tiles>(&self, args: &Args<'_>, panel: usize) {
        let p = self.p;
        let (channels, taps) = (p.in_channels as usize, p.kernel_h as usize);
        let k = channels * taps;
        let (full, tail) = (channels / BLOCK, channels % BLOCK);
        let between = self.rows_read() * BLOCK;
        // Rows follow each other, so those of the taps are one segment.
        let whole = Nest { offset: 0, counts: [full, 1, 1], strides: [between, 0, 0], length: taps * BLOCK };
        let rest =
            Nest { offset: full * between, counts: [1, taps, 1], strides: [0, BLOCK, 0], length: tail };
        let nests = match (full, tail) {
            (0, _) => &[rest][..],
            (_, 0) => &[whole],
            _ => &[whole, rest],
        };
        let panels = (p.out_channels as usize).div_ceil(BLOCK);
        let in_pair = PAIR.min(panels - panel);
        let tiles = self.rows.div_ceil(V::PIXELS);
        let start = [0.0_f32; MAX_PANELS * BLOCK];
        let (low, high) = Clamp::NONE.bounds();
        for plane in 0..IN {
            let from = self.planes.wrapping_add(plane * self.plane());
            let to = self.products_at().wrapping_add(plane * PAIR * self.rows * BLOCK);
            let b = args.operands[1].ptr::<f32>().wrapping_add((plane * panels + panel) * k * BLOCK);
            let mut done = 0;
            while done < in_pair {
                let count = V::PANELS.min(in_pair - done);
                for tile in 0..tiles {
                    let part = share(self.rows, tile, tiles);
                    let call = Tile {
                        a: from.wrapping_add(part.start * BLOCK),
                        a_pitch: BLOCK,
                        a_row: 0,
                        nests,
                        b: b.wrapping_add(done * k * BLOCK),
                        b_panel: k * BLOCK,
                        a_ahead: 0,
                        sum: Sum::NONE,
                        start: &start,
                        out: to.wrapping_add((done * self.rows + part.start) * BLOCK),
                        out_pitch: BLOCK,
                        out_row: 0,
                        out_panel: self.rows * BLOCK,
                        residual: std::ptr::null(),
                        residual_pitch: 0,
                        residual_row: 0,
                        residual_panel: 0,
                        low,
                        high,
                        ahead: std::ptr::null(),
                        ahead_rate: 0,
                    };
                    // SAFETY: the slot holds both kinds of planes, the operand the weights of all panels; `V` is the
                    // instruction set of the caller.
                    unsafe { V::tile::<f32>(1, part.len(), count, BLOCK)(&call) };
                }
                done += count;
            }
        }
    }

    /// Transforms the products of a pair of panels back, and finishes the outputs.
    ///
    /// # Safety
    ///
    /// As for [`Column::inputs`]; [`Column::products`] ran before.
    #[inline(always)]
    unsafe fn outputs<V: Finishing>(&self, args: &Args<'_>, panel: usize) {
        let p = self.p;
        let [bias, added, out] = [2, 3, 4].map(|index| args.operands[index]);
        let clamp = Clamp::new(p);
        let (low, high) = clamp.unwrap_or(Clamp::NONE).bounds();
        let columns = OUT.min(p.out_w as usize - self.x);
        let plane = PAIR * self.rows * BLOCK;
        let mut start = [0.0_f32; MAX_PANELS * BLOCK];
        let mut scratch = [0.0_f32; MAX_VECTORS * BLOCK];
        let panels = (p.out_channels as usize).div_ceil(BLOCK);
        let mut from = self.products_at().cast_const();
        for panel in panel..panels.min(panel + PAIR) {
            let lanes = (p.out_channels as usize - panel * BLOCK).min(BLOCK);
            // SAFETY: the bias, where there is one, has all channels.
            unsafe { load_start(&mut start, bias.ptr(), bias.bytes > 0, panel * BLOCK, lanes) };
            let origin = |view: &crate::call::View| {
                view.offset as usize
                    + self.n * view.stride_n as usize
                    + panel * view.stride_c as usize
                    + self.y * view.stride_h as usize
                    + self.x * view.stride_w as usize
            };
            let (mut to, mut residual) = (out.ptr::<f32>().wrapping_add(origin(&p.output)), std::ptr::null());
            if p.residual_mode != residual::NONE {
                residual = added.ptr::<f32>().cast_const().wrapping_add(origin(&p.residual));
            }
            let direct = clamp.is_some() && lanes == BLOCK;
            for _ in 0..self.rows {
                // SAFETY: validation bounded what the tile reads and writes, all lanes of whole blocks; `V` is the
                // instruction set of the caller, and the scratch holds four vectors.
                unsafe {
                    let mut y = [V::splat(0.0); IN];
                    for (index, y) in y.iter_mut().enumerate() {
                        *y = V::load(from.add(index * plane));
                    }
                    let start = V::load(start.as_ptr());
                    let sums = output(y);
                    if direct {
                        let (low, high) = (V::splat(low), V::splat(high));
                        for (column, sum) in sums.into_iter().enumerate() {
                            if column < columns {
                                let mut sum = sum + start;
                                if !residual.is_null() {
                                    sum = sum + V::load(residual.add(column * p.residual.stride_w as usize));
                                }
                                high.min(low.max(sum)).store(to.add(column * p.output.stride_w as usize));
                            }
                        }
                    } else {
                        for (column, sum) in sums.into_iter().enumerate() {
                            (sum + start).store(scratch.as_mut_ptr().add(column * BLOCK));
                        }
                        let finish = Finish {
                            shape: [1, 1, columns],
                            lanes,
                            padded: p.output_padded == 1,
                            residual_mode: p.residual_mode,
                            activation: p.activation,
                            residual,
                            residual_steps: [0, 0, p.residual.stride_w as usize],
                            out: to,
                            out_steps: [0, 0, p.output.stride_w as usize],
                        };
                        V::finish(&finish, &mut scratch);
                    }
                }
                from = from.wrapping_add(BLOCK);
                to = to.wrapping_add(p.output.stride_h as usize);
                if !residual.is_null() {
                    residual = residual.wrapping_add(p.residual.stride_h as usize);
                }
            }
        }
    }

    /// Whether the sums of all planes stay in registers: few channels, and outputs that want no more than a clamp.
    fn is_in_registers<V: Tiles>(&self) -> bool {
        let p = self.p;
        V::PIXELS * V::PANELS >= TOGETHER * IN
            && p.in_channels as usize <= HALF
            && p.kernel_h as usize <= MOST_TAPS
            && (p.out_channels as usize).is_multiple_of(BLOCK)
            && Clamp::new(p).is_some()
    }

    /// Transforms the inputs of at most eight channels into `[row][plane][8]`.
    ///
    /// # Safety
    ///
    /// As for [`Column::inputs`].
    #[inline(always)]
    unsafe fn half_inputs<V: Vector>(&self, args: &Args<'_>) {
        let view = &self.p.input;
        let (stride_h, stride_w) = (view.stride_h as usize, view.stride_w as usize);
        let columns = IN.min(self.p.out_w as usize + IN - OUT - self.x);
        let first =
            view.offset as usize + self.n * view.stride_n as usize + self.y * stride_h + self.x * stride_w;
        let (from, rows) = (args.operands[0].ptr::<f32>().cast_const().wrapping_add(first), self.rows_read());
        for row in (0..rows).step_by(2) {
            // The last row of an odd number goes with itself.
            let next = (row + 1).min(rows - 1);
            let (above, below) = (from.wrapping_add(row * stride_h), from.wrapping_add(next * stride_h));
            let (low, high) =
                (self.planes.wrapping_add(row * HALF_ROW), self.planes.wrapping_add(next * HALF_ROW));
            // SAFETY: validation found so many rows and columns of whole blocks in the input; the slot holds as many
            // planes of whole blocks.
            unsafe {
                let mut d = [V::splat(0.0); IN];
                for (column, d) in d.iter_mut().enumerate() {
                    if column < columns {
                        let at = column * stride_w;
                        *d = V::load(above.add(at)).join_low(V::load(below.add(at)));
                    }
                }
                for (plane, value) in input(d).into_iter().enumerate() {
                    value.store_halves(low.add(plane * HALF), high.add(plane * HALF));
                }
            }
        }
    }

    /// The outputs of a panel.
    ///
    /// # Safety
    ///
    /// As for [`Column::inputs`]; [`Column::half_inputs`] ran before, and [`Column::is_in_registers`] is true.
    #[inline(always)]
    unsafe fn panel_in_registers<V: Vector>(&self, args: &Args<'_>, panel: usize) {
        let mut row = 0;
        while row < self.rows {
            // SAFETY: the caller's promise.
            unsafe {
                match self.rows - row {
                    1 => self.rows_in_registers::<V, 1>(args, panel, row),
                    // Rather two and two than three and one.
                    2 | 4 => self.rows_in_registers::<V, 2>(args, panel, row),
                    _ => self.rows_in_registers::<V, TOGETHER>(args, panel, row),
                }
            }
            row += match self.rows - row {
                1 => 1,
                2 | 4 => 2,
                _ => TOGETHER,
            };
        }
    }

    /// The outputs of a panel in `R` rows from `row` on.
    ///
    /// # Safety
    ///
    /// As for [`Column::panel_in_registers`].
    #[inline(always)]
    unsafe fn rows_in_registers<V: Vector, const R: usize>(&self, args: &Args<'_>, panel: usize, row: usize) {
        let p = self.p;
        let [bias, added, out] = [2, 3, 4].map(|index| args.operands[index]);
        let (channels, taps) = (p.in_channels as usize, p.kernel_h as usize);
        let panels = (p.out_channels as usize) / BLOCK;
        let plane_weights = panels * channels * taps * BLOCK;
        let mut b = args.operands[1].ptr::<f32>().cast_const().wrapping_add(panel * channels * taps * BLOCK);
        let (low, high) = Clamp::new(p).unwrap_or(Clamp::NONE).bounds();
        let columns = OUT.min(p.out_w as usize - self.x);
        let origin = |view: &crate::call::View| {
            view.offset as usize
                + self.n * view.stride_n as usize
                + panel * view.stride_c as usize
                + (self.y + row) * view.stride_h as usize
                + self.x * view.stride_w as usize
        };
        let mut to = out.ptr::<f32>().wrapping_add(origin(&p.output));
        let mut residual = std::ptr::null();
        if p.residual_mode != residual::NONE {
            residual = added.ptr::<f32>().cast_const().wrapping_add(origin(&p.residual));
        }
        // SAFETY: the planes have the rows that are read, the operand the weights of all panels; validation bounded
        // what is read and written of residual and output, all lanes of whole blocks, and the bias has all channels,
        // where there is one; `V` is the instruction set of the caller.
        unsafe {
            let mut sums = [[V::splat(0.0); R]; IN];
            for tap in 0..taps {
                let mut a = self.planes.cast_const().add((row + tap) * HALF_ROW);
                for _ in 0..channels {
                    for (plane, sums) in sums.iter_mut().enumerate() {
                        let weights = V::load(b.add(plane * plane_weights));
                        for (r, sum) in sums.iter_mut().enumerate() {
                            let x = V::splat(*a.add(r * HALF_ROW + plane * HALF));
                            *sum = x.mul_add(weights, *sum);
                        }
                    }
                    a = a.add(1);
                    b = b.add(BLOCK);
                }
            }
            let (low, high) = (V::splat(low), V::splat(high));
            let mut start = V::splat(0.0);
            if bias.bytes > 0 {
                start = V::load(bias.ptr::<f32>().add(panel * BLOCK));
            }
            for r in 0..R {
                let mut y = [start; IN];
                for (y, sums) in y.iter_mut().zip(&sums) {
                    *y = sums[r];
                }
                for (column, sum) in output(y).into_iter().enumerate() {
                    if column < columns {
                        let mut sum = sum + start;
                        if !residual.is_null() {
                            sum = sum + V::load(residual.add(column * p.residual.stride_w as usize));
                        }
                        high.min(low.max(sum)).store(to.add(column * p.output.stride_w as usize));
                    }
                }
                to = to.wrapping_add(p.output.stride_h as usize);
                if !residual.is_null() {
                    residual = residual.wrapping_add(p.residual.stride_h as usize);
                }
            }
        }
    }
}
