//! What row-major tensors go through: elementwise functions, selection by index, normalisation, reductions, products.

use bytemuck::{Pod, Zeroable};

use super::{COUNTERS, CudaKernel, Launch, Layout, element_bytes, expect_picture, extent, positive, product};
use crate::call::Activation;
use crate::{Call, Invalid};

/// The most axes that a kernel walks.
pub const AXES: usize = 6;

/// The types of elements of row-major tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ElementType {
    /// f32
    F32 = 0,
    /// f16
    F16 = 1,
    /// i64
    I64 = 2,
    /// i32
    I32 = 3,
    /// bool, a byte
    Bool = 4,
    /// f64
    F64 = 5,
    /// bf16
    Bf16 = 6,
    /// i8
    I8 = 7,
    /// i16
    I16 = 8,
    /// u8
    U8 = 9,
    /// u16
    U16 = 10,
    /// u32
    U32 = 11,
    /// u64
    U64 = 12,
}

impl ElementType {
    /// Every type with its name in the names of kernels, in the order of their numbers.
    pub const ALL: [(ElementType, &'static str); 13] = [
        (ElementType::F32, "f32"),
        (ElementType::F16, "f16"),
        (ElementType::I64, "i64"),
        (ElementType::I32, "i32"),
        (ElementType::Bool, "bool"),
        (ElementType::F64, "f64"),
        (ElementType::Bf16, "bf16"),
        (ElementType::I8, "i8"),
        (ElementType::I16, "i16"),
        (ElementType::U8, "u8"),
        (ElementType::U16, "u16"),
        (ElementType::U32, "u32"),
        (ElementType::U64, "u64"),
    ];

    /// The size of an element.
    pub const fn bytes(self) -> u64 {
        match self {
            ElementType::Bool | ElementType::I8 | ElementType::U8 => 1,
            ElementType::F16 | ElementType::Bf16 | ElementType::I16 | ElementType::U16 => 2,
            ElementType::F32 | ElementType::I32 | ElementType::U32 => 4,
            ElementType::F64 | ElementType::I64 | ElementType::U64 => 8,
        }
    }

    /// Whether the kernels of this file know it.
    pub const fn is_common(self) -> bool {
        (self as i32) <= ElementType::Bool as i32 || matches!(self, ElementType::Bf16)
    }

    /// Whether the kernels of this file compute with it in f32.
    pub const fn is_common_float(self) -> bool {
        matches!(self, ElementType::F32 | ElementType::F16 | ElementType::Bf16)
    }

    /// Its name in the names of kernels.
    pub const fn name(self) -> &'static str {
        ElementType::ALL[self as usize].1
    }

    pub(super) fn from_number(number: i32) -> Result<Self, Invalid> {
        let common = ElementType::ALL.iter().map(|(ty, _)| *ty).filter(|ty| ty.is_common());
        common.into_iter().find(|ty| *ty as i32 == number).ok_or(Invalid("an unknown element type"))
    }
}

/// What [`Elementwise`] computes before its activation: of a, b and c.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ElementOp {
    /// a
    First = 0,
    /// a + b
    Add = 1,
    /// a − b
    Sub = 2,
    /// a · b
    Mul = 3,
    /// a / b
    Div = 4,
    /// a and b
    And = 5,
    /// a or b
    Or = 6,
    /// one of them alone
    Xor = 7,
    /// a = b
    Equal = 8,
    /// a > b
    Greater = 9,
    /// a ≥ b
    GreaterOrEqual = 10,
    /// a < b
    Less = 11,
    /// a ≤ b
    LessOrEqual = 12,
    /// b where a, else c
    Where = 13,
    /// the greater
    Max = 14,
    /// the smaller
    Min = 15,
    /// not a
    Not = 16,
    /// |a|
    Abs = 17,
    /// −a
    Neg = 18,
    /// −1, 0 or 1
    Sign = 19,
    /// aᵇ
    Pow = 20,
    /// a if a ≥ 0 else a · b
    PRelu = 21,
    /// ⌈a⌉
    Ceil = 32,
    /// cos a
    Cos = 33,
    /// a if a ≥ 0 else alpha·(eᵃ − 1)
    Elu = 34,
    /// erf a
    Erf = 35,
    /// eᵃ
    Exp = 36,
    /// ⌊a⌋
    Floor = 37,
    /// whether a is NaN
    IsNan = 38,
    /// ln a
    Log = 39,
    /// 1 / a
    Reciprocal = 40,
    /// the integer nearest to a, the even one of two
    Round = 41,
    /// beta·(a if a ≥ 0 else alpha·(eᵃ − 1))
    Selu = 42,
    /// sin a
    Sin = 43,
    /// a / (1 + |a|)
    Softsign = 44,
    /// √a
    Sqrt = 45,
    /// a if a > alpha else 0
    ThresholdedRelu = 46,
    /// a · sigmoid(alpha·a)
    Swish = 47,
}

/// `cuda_elementwise`, `cuda_elementwise8_*`: a function of up to three operands, each read by strides, written by strides.
///
/// Operands: three inputs, those beyond `operands` absent; output.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Elementwise {
    /// The extents that are walked; 1 where there are fewer axes.
    pub extents: [i32; AXES],
    /// Between elements of each input, along each axis.
    pub strides: [[i32; AXES]; 3],
    /// Between elements of the output.
    pub out_strides: [i32; AXES],
    /// The first element of each input.
    pub offsets: [i32; 3],
    /// The first element of the output.
    pub out_offset: i32,
    /// The [`ElementType`] of each input.
    pub types: [i32; 3],
    /// That of the output.
    pub out_type: i32,
    /// The product of the extents.
    pub elements: i32,
    /// An [`ElementOp`].
    pub operation: i32,
    /// How many inputs there are.
    pub operands: i32,
    /// Whether it is computed on integers, not on f32.
    pub integer: i32,
    /// See [`ElementOp`].
    pub alpha: f32,
    /// See [`ElementOp`].
    pub beta: f32,
    /// Applied last, on f32 alone.
    pub activation: Activation,
}

/// `cuda_gather_bBYTES`: out\[o, i, k\] = data\[o, index\[i\], k\], in elements of so many bytes.
///
/// Operands: data; indices, i64 or i32; output. An index out of range sets the counter number `failure`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Gather {
    /// Positions before the axis.
    pub outer: i32,
    /// The extent of the axis.
    pub axis: i32,
    /// Indices.
    pub count: i32,
    /// Elements after the axis.
    pub inner: i32,
    /// The size of an element.
    pub bytes: i32,
    /// The [`ElementType`] of the indices.
    pub index_type: i32,
    /// Elements of the output.
    pub elements: i32,
    /// [`COUNTERS`].
    pub failure: i32,
}

/// `cuda_layer_norm_*`, `cuda_softmax_*`: functions of rows.
///
/// Operands: input; scale and bias, f32 `[inner]` or absent, which softmax has not; output.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Norm {
    /// Rows.
    pub outer: i32,
    /// Elements of a row.
    pub inner: i32,
    /// Added to the variance.
    pub epsilon: f32,
    /// 1: the normalisation keeps the mean; the logarithm of softmax.
    pub kind: i32,
}

/// What [`Reduction`] folds with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ReductionKind {
    /// Σ x
    Sum = 0,
    /// Σ x / count
    Mean = 1,
    /// the greatest
    Max = 2,
    /// the least
    Min = 3,
    /// Π x
    Prod = 4,
    /// Σ |x|
    L1 = 5,
    /// Σ x²
    SumSquare = 6,
    /// √(Σ x²)
    L2 = 7,
}

/// `cuda_reduce_*`: `out[i]` is the fold of the elements at i.
///
/// Operands: input; output.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Reduction {
    /// The output's extents; 1 where there are fewer axes.
    pub extents: [i32; AXES],
    /// Between input elements along them.
    pub strides: [i32; AXES],
    /// The extents that are folded.
    pub inner_extents: [i32; AXES],
    /// Between input elements along them.
    pub inner_strides: [i32; AXES],
    /// Elements of the output.
    pub elements: i32,
    /// How many elements are folded into one.
    pub count: i32,
    /// A [`ReductionKind`].
    pub kind: i32,
    /// Zero.
    pub reserved: i32,
}

/// `cuda_product_*`: out\[b, m, n\] = act(alpha · Σ left\[b, m, k\] · right\[b, k, n\]), both operands read by strides.
///
/// Operands: left; right; output, row-major.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Product {
    /// The extents of the leading axes.
    pub lead: [i32; 4],
    /// Between matrices of the left along them.
    pub left_lead: [i32; 4],
    /// Between matrices of the right.
    pub right_lead: [i32; 4],
    /// m
    pub rows: i32,
    /// n
    pub columns: i32,
    /// k
    pub depth: i32,
    /// The product of the leading extents.
    pub batches: i32,
    /// Between rows of the left.
    pub left_row: i32,
    /// Between its columns.
    pub left_column: i32,
    /// Between rows of the right.
    pub right_row: i32,
    /// Between its columns.
    pub right_column: i32,
    /// The factor.
    pub alpha: f32,
    /// Zero.
    pub reserved: i32,
    /// Applied last.
    pub activation: Activation,
}

/// The elements an operand needs that is walked like this.
pub(super) fn reach(offset: i32, axes: impl IntoIterator<Item = (i32, i32)>) -> Result<u64, Invalid> {
    let mut last = extent(offset)?;
    for (count, stride) in axes {
        last = last
            .checked_add((positive(count)? - 1).saturating_mul(extent(stride)?))
            .filter(|&last| i32::try_from(last).is_ok())
            .ok_or(Invalid("more than 2^31 elements"))?;
    }
    Ok(last + 1)
}

pub(super) fn axes<const N: usize>(extents: [i32; N], strides: [i32; N]) -> impl Iterator<Item = (i32, i32)> {
    extents.into_iter().zip(strides)
}

pub(super) fn count(extents: &[i32]) -> Result<u64, Invalid> {
    let extents = extents.iter().map(|&extent| positive(extent)).collect::<Result<Vec<_>, _>>()?;
    product(&extents)
}

pub(super) fn expect_count(found: i32, expected: u64) -> Result<(), Invalid> {
    if u64::try_from(found) == Ok(expected) { Ok(()) } else { Err(Invalid("a wrong number of elements")) }
}

fn validate_elementwise(call: &Call<'_>) -> Result<(), Invalid> {
    let p: &Elementwise = call.params()?;
    call.expect_operands(4)?;
    expect_count(p.elements, count(&p.extents)?)?;
    if !matches!(p.operation, 0..=21 | 32..=47) || !(1..=3).contains(&p.operands) {
        return Err(Invalid("an unknown operation"));
    }
    if p.integer != 0 && p.operation > 19 {
        return Err(Invalid("a function of f32 on integers"));
    }
    for index in 0..p.operands as usize {
        let ty = ElementType::from_number(p.types[index])?;
        let elements = reach(p.offsets[index], axes(p.extents, p.strides[index]))?;
        call.expect_elements(index, Some(elements), ty.bytes())?;
    }
    let ty = ElementType::from_number(p.out_type)?;
    call.expect_elements(3, Some(reach(p.out_offset, axes(p.extents, p.out_strides))?), ty.bytes())
}

/// [`validate_elementwise`], and that the operation is arithmetic, and that eight neighbours along the last axis can be read and written at once.
fn validate_elementwise8(call: &Call<'_>, ty: ElementType) -> Result<(), Invalid> {
    validate_elementwise(call)?;
    let p: &Elementwise = call.params()?;
    let last = AXES - 1;
    let in_eights = |offset: i32, strides: &[i32; AXES]| {
        offset % 8 == 0 && strides[..last].iter().all(|stride| stride % 8 == 0) && strides[last] == 1
    };
    let inputs = p.strides.iter().zip(p.offsets).zip(p.types).take(p.operands as usize);
    let mut fits = p.extents[last] % 8 == 0 && in_eights(p.out_offset, &p.out_strides) && p.integer == 0;
    fits &= p.out_type == ty as i32 && p.operation <= ElementOp::Div as i32 && p.operands <= 2;
    for ((strides, offset), input) in inputs {
        fits &= input == ty as i32 && (strides[last] == 0 || in_eights(offset, strides));
    }
    if fits { Ok(()) } else { Err(Invalid("elements that do not lie in groups of eight")) }
}

impl Elementwise {
    /// The kernel for the call: one that computes eight elements at once, where they lie so.
    pub fn kernel(&self) -> &'static str {
        const CHOICES: [(ElementType, &str); 3] = [
            (ElementType::F16, "cuda_elementwise8_f16"),
            (ElementType::Bf16, "cuda_elementwise8_bf16"),
            (ElementType::F32, "cuda_elementwise8_f32"),
        ];
        let whole = [u64::MAX; 4];
        let call = Call { params: bytemuck::bytes_of(self), operand_bytes: &whole };
        let fits = |ty: &ElementType| validate_elementwise8(&call, *ty).is_ok();
        CHOICES.iter().find(|(ty, _)| fits(ty)).map_or("cuda_elementwise", |(_, name)| name)
    }
}

fn validate_gather(call: &Call<'_>, bytes: i32) -> Result<(), Invalid> {
    let p: &Gather = call.params()?;
    call.expect_operands(3)?;
    if p.bytes != bytes || usize::try_from(p.failure) != Ok(COUNTERS) {
        return Err(Invalid("elements of another size"));
    }
    let ty = ElementType::from_number(p.index_type)?;
    let elements = count(&[p.outer, p.count, p.inner])?;
    expect_count(p.elements, elements)?;
    call.expect_elements(0, Some(count(&[p.outer, p.axis, p.inner])?), bytes as u64)?;
    call.expect_elements(1, Some(positive(p.count)?), ty.bytes())?;
    call.expect_elements(2, Some(elements), bytes as u64)
}

fn validate_norm(call: &Call<'_>, element_bytes: u64) -> Result<(), Invalid> {
    let p: &Norm = call.params()?;
    call.expect_operands(4)?;
    let inner = positive(p.inner)?;
    let elements = product(&[positive(p.outer)?, inner])?;
    call.expect_elements(0, Some(elements), element_bytes)?;
    for operand in [1, 2] {
        if call.operand_bytes.get(operand).is_some_and(|&bytes| bytes > 0) {
            call.expect_elements(operand, Some(inner), 4)?;
        }
    }
    call.expect_elements(3, Some(elements), element_bytes)
}

fn validate_reduce(call: &Call<'_>, element_bytes: u64) -> Result<(), Invalid> {
    let p: &Reduction = call.params()?;
    call.expect_operands(2)?;
    let elements = count(&p.extents)?;
    expect_count(p.elements, elements)?;
    expect_count(p.count, count(&p.inner_extents)?)?;
    if !(0..=7).contains(&p.kind) {
        return Err(Invalid("an unknown reduction"));
    }
    let walked = axes(p.extents, p.strides).chain(axes(p.inner_extents, p.inner_strides));
    call.expect_elements(0, Some(reach(0, walked)?), element_bytes)?;
    call.expect_elements(1, Some(elements), element_bytes)
}

fn validate_product(call: &Call<'_>, element_bytes: u64) -> Result<(), Invalid> {
    let p: &Product = call.params()?;
    call.expect_operands(3)?;
    let batches = count(&p.lead)?;
    expect_count(p.batches, batches)?;
    // Matrices are counted along the second axis of the grid.
    if batches >= 1 << 16 {
        return Err(Invalid("too many matrices"));
    }
    let left = [(p.rows, p.left_row), (p.depth, p.left_column)];
    let right = [(p.depth, p.right_row), (p.columns, p.right_column)];
    let left = reach(0, axes(p.lead, p.left_lead).chain(left))?;
    let right = reach(0, axes(p.lead, p.right_lead).chain(right))?;
    call.expect_elements(0, Some(left), element_bytes)?;
    call.expect_elements(1, Some(right), element_bytes)?;
    call.expect_elements(2, Some(product(&[batches, count(&[p.rows, p.columns])?])?), element_bytes)
}

/// `plain` and `picture`: the positions of the operands.
fn validate_layout(call: &Call<'_>, plain: usize, picture: usize, element_bytes: u64) -> Result<(), Invalid> {
    let p: &Layout = call.params()?;
    call.expect_operands(2)?;
    let pixels = product(&[positive(p.images)?, positive(p.image_pixels)?])?;
    let [plain_channels, channels] = [positive(p.plain_channels)?, positive(p.channels)?];
    product(&[pixels, channels])?;
    call.expect_elements(plain, Some(product(&[pixels, plain_channels])?), element_bytes)?;
    expect_picture(call, picture, pixels, p.stride, channels, element_bytes)
}

fn launch_elementwise(params: &[u8]) -> Launch {
    let p: &Elementwise = bytemuck::from_bytes(params);
    Launch::flat(p.elements as u64)
}

fn launch_elementwise8(params: &[u8]) -> Launch {
    let p: &Elementwise = bytemuck::from_bytes(params);
    Launch::flat(p.elements as u64 / 8)
}

fn launch_gather(params: &[u8]) -> Launch {
    let p: &Gather = bytemuck::from_bytes(params);
    Launch::flat(p.elements as u64)
}

/// A row a block. Rows of whole eights have four of them a thread, so that most need no more than a warp.
fn launch_layer_norm(params: &[u8]) -> Launch {
    let p: &Norm = bytemuck::from_bytes(params);
    launch_rows(p, if p.inner % 8 == 0 { 32 } else { 8 })
}

/// Eight elements a thread and turn.
fn launch_norm(params: &[u8]) -> Launch {
    launch_rows(bytemuck::from_bytes(params), 8)
}

/// A row a block, `each` elements a thread.
fn launch_rows(p: &Norm, each: u32) -> Launch {
    let threads = (p.inner as u32).div_ceil(each).next_multiple_of(32).clamp(32, 256);
    Launch { grid: [p.outer as u32, 1], cluster: 1, threads, shared_bytes: 0 }
}

fn launch_reduce(params: &[u8]) -> Launch {
    let p: &Reduction = bytemuck::from_bytes(params);
    Launch { grid: [(p.elements as u32).div_ceil(8), 1], cluster: 1, threads: 256, shared_bytes: 0 }
}

fn launch_product(params: &[u8]) -> Launch {
    let p: &Product = bytemuck::from_bytes(params);
    let tiles = (p.rows as u32).div_ceil(64) * (p.columns as u32).div_ceil(64);
    Launch { grid: [tiles, p.batches as u32], cluster: 1, threads: 256, shared_bytes: 0 }
}

fn launch_layout(params: &[u8]) -> Launch {
    let p: &Layout = bytemuck::from_bytes(params);
    Launch::flat((p.images * p.image_pixels) as u64 * (p.channels as u64 / 8))
}

macro_rules! kernel {
    ($name:expr, $validate:expr, $launch:expr) => {
        CudaKernel {
            name: $name,
            module: "rows",
            validate: $validate,
            launch: $launch,
            // No more than any launch may have without asking.
            most_shared_bytes: 0,
            copies: None,
        }
    };
}

/// The kernels of a family for all types of elements.
macro_rules! kernels {
    ([$($one:expr),*] $($family:literal $validate:expr, $launch:expr;)*) => {
        &[$($one,)* $(
            kernel!(concat!("cuda_", $family, "_f16"), |call| $validate(call, const { element_bytes("f16") }), $launch),
            kernel!(concat!("cuda_", $family, "_bf16"), |call| $validate(call, const { element_bytes("bf16") }), $launch),
            kernel!(concat!("cuda_", $family, "_f32"), |call| $validate(call, const { element_bytes("f32") }), $launch),
        )*]
    };
}

/// The kernels of this file.
pub(super) static KERNELS: &[CudaKernel] = kernels! {
    [
        kernel!("cuda_elementwise", validate_elementwise, launch_elementwise),
        kernel!(
            "cuda_elementwise8_f16",
            |call| validate_elementwise8(call, ElementType::F16),
            launch_elementwise8
        ),
        kernel!(
            "cuda_elementwise8_bf16",
            |call| validate_elementwise8(call, ElementType::Bf16),
            launch_elementwise8
        ),
        kernel!(
            "cuda_elementwise8_f32",
            |call| validate_elementwise8(call, ElementType::F32),
            launch_elementwise8
        ),
        kernel!("cuda_gather_b1", |call| validate_gather(call, 1), launch_gather),
        kernel!("cuda_gather_b2", |call| validate_gather(call, 2), launch_gather),
        kernel!("cuda_gather_b4", |call| validate_gather(call, 4), launch_gather),
        kernel!("cuda_gather_b8", |call| validate_gather(call, 8), launch_gather),
        kernel!("cuda_gather_b16", |call| validate_gather(call, 16), launch_gather),
        kernel!("cuda_from_rows_tf32", |call| validate_layout(call, 0, 1, 4), launch_layout)
    ]
    "layer_norm" validate_norm, launch_layer_norm;
    "softmax" validate_norm, launch_norm;
    "reduce" validate_reduce, launch_reduce;
    "product" validate_product, launch_product;
    "from_rows" |call: &_, bytes| validate_layout(call, 0, 1, bytes), launch_layout;
    "to_rows" |call: &_, bytes| validate_layout(call, 1, 0, bytes), launch_layout;
};
