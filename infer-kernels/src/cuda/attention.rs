//! `cuda_attention_f16_SIZE_ROWS`, `cuda_attention_f16`, the same of bf16, `cuda_attention_f32`: attention without its matrix of scores.

use bytemuck::{Pod, Zeroable};

use super::{CudaKernel, ElementType, Launch, element_bytes, extent, positive, product};
use crate::call::LEAD;
use crate::{Call, Invalid};

/// How the rows of an operand of [`Attention`] lie in it; see [`call::HeadView`](crate::call::HeadView).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct HeadView {
    /// The first element.
    pub offset: i32,
    /// Between positions of the leading axes.
    pub lead: [i32; LEAD],
    /// Between rows.
    pub row: i32,
    /// Between the elements of a row.
    pub element: i32,
}

/// Attention; see [`call::Attention`](crate::call::Attention).
///
/// Operands: queries, keys, values, mask or absent, output.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Attention {
    /// The extents of the leading axes.
    pub lead: [i32; LEAD],
    /// Queries.
    pub rows: i32,
    /// Keys, and rows of values.
    pub keys: i32,
    /// Elements of a query and of a key.
    pub size: i32,
    /// Elements of a value.
    pub value_size: i32,
    /// `[lead, rows, size]`
    pub q: HeadView,
    /// `[lead, keys, size]`
    pub k: HeadView,
    /// `[lead, keys, value_size]`
    pub v: HeadView,
    /// `[lead, rows, keys]`
    pub m: HeadView,
    /// `[lead, rows, value_size]`
    pub o: HeadView,
    /// 1 where row i sees the keys up to number i + `causal_offset` alone.
    pub causal: i32,
    /// See `causal`.
    pub causal_offset: i32,
    /// The factor of the scores, before the mask is added.
    pub scale: f32,
    /// How many tiles of keys there is shared memory for, 1 or 2.
    pub steps: i32,
}

/// What a block computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// The kernel.
    pub name: &'static str,
    /// The type of the elements.
    pub ty: ElementType,
    /// Elements of a head.
    pub size: u32,
    /// Rows of a block.
    pub rows: u32,
    /// Keys of a tile.
    pub keys: u32,
    /// The most tiles that are in shared memory.
    pub steps: u32,
}

/// The heads of a type.
macro_rules! heads {
    ($($ty:literal $of:ident: $($size:literal $rows:literal $keys:literal $steps:literal),*;)*) => {
        &[$($(Heads {
            name: concat!("cuda_attention_", $ty, "_", $size, "_", $rows),
            ty: ElementType::$of,
            size: $size,
            rows: $rows,
            keys: $keys,
            steps: $steps,
        }),*),*]
    };
}

/// The kernels on matrix units, by the type, the size of heads and the rows of a block. Two tiles of 128 keys of heads of 128
/// would be more than some architectures have.
pub const HEADS: &[Heads] = heads! {
    "f16" F16: 32 16 128 2, 32 64 64 2, 64 16 128 2, 64 64 64 2, 128 16 128 1, 128 64 64 2;
    "bf16" Bf16: 32 16 128 2, 32 64 64 2, 64 16 128 2, 64 64 64 2, 128 16 128 1, 128 64 64 2;
};

/// The largest heads of the kernels for any strides.
pub const MOST_SIZE: u64 = 256;

impl Heads {
    /// The shared memory of so many tiles of keys and of values.
    pub const fn shared_bytes(&self, steps: u32) -> u32 {
        steps * self.keys * (self.size + 8) * 2 * 2
    }

    fn validate(&self, call: &Call<'_>) -> Result<(), Invalid> {
        validate(call, 2)?;
        let p: &Attention = call.params()?;
        if p.size as u32 != self.size || p.value_size as u32 != self.size {
            return Err(Invalid("heads of another size"));
        }
        if !(1..=self.steps as i32).contains(&p.steps) {
            return Err(Invalid("more tiles than shared memory"));
        }
        for view in [&p.q, &p.k, &p.v, &p.o] {
            let strides = view.lead.iter().chain([&view.offset, &view.row]);
            if view.element != 1 || strides.into_iter().any(|stride| stride % 8 != 0) {
                return Err(Invalid("heads that do not lie in groups of eight"));
            }
        }
        Ok(())
    }

    const fn launch(&self, p: &Attention) -> Launch {
        Launch {
            grid: [(p.rows as u32).div_ceil(self.rows), batches(p)],
            cluster: 1,
            threads: 128,
            shared_bytes: self.shared_bytes(p.steps as u32),
        }
    }
}

const fn batches(p: &Attention) -> u32 {
    (p.lead[0] * p.lead[1] * p.lead[2] * p.lead[3]) as u32
}

fn validate(call: &Call<'_>, element_bytes: u64) -> Result<(), Invalid> {
    let p: &Attention = call.params()?;
    call.expect_operands(5)?;
    let lead = [positive(p.lead[0])?, positive(p.lead[1])?, positive(p.lead[2])?, positive(p.lead[3])?];
    // Positions on the leading axes are counted along the second axis of the grid.
    if product(&lead)? >= 1 << 16 {
        return Err(Invalid("too many heads"));
    }
    let [rows, keys] = [positive(p.rows)?, positive(p.keys)?];
    let [size, value_size] = [positive(p.size)?, positive(p.value_size)?];
    if size > MOST_SIZE || value_size > MOST_SIZE {
        return Err(Invalid("heads too large"));
    }
    // Numbers of rows and keys are added in 32 bits.
    if rows >= 1 << 30 || keys >= 1 << 30 || !(0..1 << 30).contains(&p.causal_offset) {
        return Err(Invalid("too many rows or keys"));
    }
    let masked = call.operand_bytes.get(3).is_some_and(|&bytes| bytes > 0);
    let views = [
        (&p.q, rows, size, true),
        (&p.k, keys, size, true),
        (&p.v, keys, value_size, true),
        (&p.m, rows, keys, masked),
        (&p.o, rows, value_size, true),
    ];
    for (operand, (view, rows, elements, there)) in views.into_iter().enumerate() {
        if !there {
            continue;
        }
        let axes = lead.iter().zip(&view.lead).chain([(&rows, &view.row), (&elements, &view.element)]);
        let mut last = extent(view.offset)?;
        for (&count, &stride) in axes {
            last = last
                .checked_add((count - 1).saturating_mul(extent(stride)?))
                .filter(|&last| i32::try_from(last).is_ok())
                .ok_or(Invalid("more than 2^31 elements"))?;
        }
        call.expect_elements(operand, Some(last + 1), element_bytes)?;
    }
    Ok(())
}

/// A row a warp, four a block.
fn launch_any(params: &[u8]) -> Launch {
    let p: &Attention = bytemuck::from_bytes(params);
    Launch { grid: [(p.rows as u32).div_ceil(4), batches(p)], cluster: 1, threads: 128, shared_bytes: 0 }
}

macro_rules! kernels {
    ($($index:literal),* ; $($name:literal),*) => {
        &[
            $(CudaKernel {
                name: HEADS[$index].name,
                module: "attention",
                validate: |call| HEADS[$index].validate(call),
                launch: |params| HEADS[$index].launch(bytemuck::from_bytes(params)),
                most_shared_bytes: HEADS[$index].shared_bytes(HEADS[$index].steps),
                copies: None,
            },)*
            $(CudaKernel {
                name: $name,
                module: "attention",
                validate: |call| validate(call, const { element_bytes($name) }),
                launch: launch_any,
                most_shared_bytes: 0,
                copies: None,
            },)*
        ]
    };
}

/// The kernels of this file.
pub(super) static KERNELS: &[CudaKernel] = kernels![0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11; "cuda_attention_f16", "cuda_attention_bf16", "cuda_attention_f32"];
