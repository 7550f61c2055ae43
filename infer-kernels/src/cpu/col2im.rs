//! Blocks put back into pictures, added where they overlap.
//!
//! out[o, y] = Σ over the elements e of a block, row-major, of in[o, e, b] where block b has e at y. A chunk computes rows
//! of pictures; of each row it walks the elements of a block, and for each the blocks along the row that reach it.

use super::bounds::{WindowAxis, product, split};
use super::elementwise::define_kernels;
use super::reduce_ops::Number;
use super::share;
use crate::call::Col2Im;
use crate::{Args, Call, Invalid, PerIsa, RunError};

/// An axis, its blocks as the outputs of a window over the picture.
fn axis(p: &Col2Im, axis: usize) -> WindowAxis {
    WindowAxis {
        input: p.image[axis],
        output: p.blocks[axis],
        kernel: p.block[axis],
        stride: p.stride[axis],
        dilation: p.dilation[axis],
        pad_begin: p.pad_begin[axis],
    }
}

/// The block whose element `tap` lies at `along`, if there is one.
fn block_at(axis: &WindowAxis, along: usize, tap: usize) -> Option<usize> {
    let from_first = along as i64 - axis.position(0, tap);
    let block = usize::try_from(from_first).ok()? / axis.stride as usize;
    (from_first % axis.stride as i64 == 0 && block < axis.output as usize).then_some(block)
}

unsafe fn col2im<T: Number>(args: &Args<'_>, chunk: usize, chunks: usize) -> Result<(), RunError> {
    let p = args.params::<Col2Im>();
    let (input, output) = (args.operands[0].ptr::<T>().cast_const(), args.operands[1].ptr::<T>());
    let axes = [axis(p, 0), axis(p, 1), axis(p, 2)];
    let [d, h, w] = p.image.map(|extent| extent as usize);
    let [taps_d, taps_h, taps_w] = p.block.map(|extent| extent as usize);
    let [_, blocks_h, blocks_w] = p.blocks.map(|extent| extent as usize);
    let blocks = product(&p.blocks).unwrap_or(0) as usize;
    if w == 0 {
        return Ok(());
    }
    for row in share(rows(p) as usize, chunk, chunks) {
        let (outer, z, y) = (row / h / d, row / h % d, row % h);
        // SAFETY: the row lies inside the output (`validate`), and is this chunk's own.
        let out = unsafe { std::slice::from_raw_parts_mut(output.add(row * w), w) };
        out.fill(T::ZERO);
        for i in 0..taps_d {
            let Some(block_d) = block_at(&axes[0], z, i) else { continue };
            for j in 0..taps_h {
                let Some(block_h) = block_at(&axes[1], y, j) else { continue };
                for k in 0..taps_w {
                    let element = ((outer * taps_d + i) * taps_h + j) * taps_w + k;
                    let first = element * blocks + (block_d * blocks_h + block_h) * blocks_w;
                    for block in axes[2].outputs(k) {
                        let at = axes[2].position(block, k) as usize;
                        // SAFETY: all blocks of all elements lie inside the input (`validate`).
                        out[at] = out[at].plus(unsafe { *input.add(first + block) });
                    }
                }
            }
        }
    }
    Ok(())
}

/// The rows of all pictures.
fn rows(p: &Col2Im) -> u64 {
    product(&[p.outer, p.image[0], p.image[1]]).unwrap_or(0)
}

pub(crate) fn validate<T: Number>(call: &Call<'_>) -> Result<(), Invalid> {
    let p = call.params::<Col2Im>()?;
    call.expect_operands(2)?;
    for index in 0..3 {
        axis(p, index).validate(0)?;
    }
    let of = |extents: [u64; 3]| product(&extents);
    let input = of(p.block).zip(of(p.blocks)).and_then(|(block, blocks)| product(&[p.outer, block, blocks]));
    call.expect_elements(0, input, size_of::<T>() as u64)?;
    let output = of(p.image).and_then(|image| product(&[p.outer, image]));
    call.expect_elements(1, output, size_of::<T>() as u64)
}

fn chunks(args: &Args<'_>, threads: usize) -> usize {
    let p = args.params::<Col2Im>();
    let elements = rows(p).saturating_mul(p.image[2]);
    split(rows(p), elements.saturating_mul(product(&p.block).unwrap_or(0)), threads)
}

define_kernels! {
    /// Blocks put back into pictures.
    COL2IM_F32: validate::<f32>, chunks, PerIsa::portable(col2im::<f32>);
    /// Blocks put back into pictures.
    COL2IM_F64: validate::<f64>, chunks, PerIsa::portable(col2im::<f64>);
    /// Blocks put back into pictures.
    COL2IM_I32: validate::<i32>, chunks, PerIsa::portable(col2im::<i32>);
    /// Blocks put back into pictures.
    COL2IM_I64: validate::<i64>, chunks, PerIsa::portable(col2im::<i64>);
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use crate::call::Col2Im;
    use crate::cpu::testing::{Random, attack, bytes, check};

    fn count(p: &Col2Im) -> [usize; 2] {
        let of = |extents: [u64; 3]| (p.outer * extents.iter().product::<u64>()) as usize;
        [of(p.block) * p.blocks.iter().product::<u64>() as usize, of(p.image)]
    }

    #[test]
    fn every_type_agrees_with_the_reference() {
        let plain = Col2Im {
            outer: 3,
            image: [1, 1, 17],
            block: [1, 1, 3],
            blocks: [1, 1, 15],
            stride: [1; 3],
            dilation: [1; 3],
            pad_begin: [0; 3],
        };
        let cases = [
            plain,
            Col2Im { image: [1, 5, 7], block: [1, 2, 3], blocks: [1, 2, 5], stride: [1, 3, 1], ..plain },
            Col2Im {
                image: [4, 5, 33],
                block: [2, 3, 2],
                blocks: [3, 2, 16],
                stride: [1, 2, 2],
                dilation: [2, 1, 3],
                pad_begin: [1, 0, 2],
                ..plain
            },
            // Blocks that reach nothing, or beyond the picture.
            Col2Im { image: [1, 1, 2], pad_begin: [0, 0, 40], ..plain },
            Col2Im { blocks: [1, 1, 30], ..plain },
            Col2Im { blocks: [1, 0, 30], ..plain },
            Col2Im { outer: 0, ..plain },
            Col2Im { image: [1, 3, 0], ..plain },
        ];
        let mut random = Random::new(40);
        for p in cases {
            let [from, to] = count(&p);
            let x = random.units(from);
            check("col2im_f32", &p, &[bytes(&x)], &[to * 4], |_, _, _: f32, _: f32| false);
            let x: Vec<f64> = x.iter().map(|&x| x.into()).collect();
            check("col2im_f64", &p, &[bytes(&x)], &[to * 8], |_, _, _: f64, _: f64| false);
            let x: Vec<i64> = (0..from).map(|_| (random.next() << 20) as i64).collect();
            check("col2im_i64", &p, &[bytes(&x)], &[to * 8], |_, _, _: i64, _: i64| false);
            let x: Vec<i32> = x.iter().map(|&x| (x >> 16) as i32).collect();
            check("col2im_i32", &p, &[bytes(&x)], &[to * 4], |_, _, _: i32, _: i32| false);
        }
        let p = cases[2];
        let [from, to] = count(&p);
        attack("col2im_f32", &p, &[bytes(&random.units(from))], &[to * 4]);
    }
}
