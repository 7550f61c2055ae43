//! Twins of the processor's kernels for row-major tensors: the same parameters and operands, computed on a GPU.
//!
//! One kernel here stands for a family of the processor's, which the [`Code`] behind the parameters tells apart: `add_f32`
//! and `less_i64` are both `cuda_plain_binary`. The bounds of a call are those of the processor's kernel. A thread
//! computes an element of the output, or some threads what is folded into one; nothing here is tuned.

use bytemuck::{Pod, Zeroable};

use super::{CudaKernel, ElementType, Launch};
use crate::call::{
    Attention, Axis, Col2Im, Conv, ConvNd, Elementwise, Gather, GridSample, GroupNorm, IndexMap, LayerNorm,
    Lrn, MatMul, MaxRoiPool, NonMaxSuppression, PackB, PoolNd, Recurrent, Reduce, Reorder, Resize, RoiAlign,
    Scan, ScatterElements, ScatterNd, TopK,
};
use crate::cpu::copy::index::{validate_gather, validate_map};
use crate::cpu::reduce_ops::Number;
use crate::cpu::{
    arg, attention, blocked, col2im, conv, conv_nd, elementwise, grid_sample, matmul, non_max_suppression,
    norm, pool, recurrent, reduce, region, resize, scan, scatter, softmax, top_k,
};
use crate::{Call, Invalid};

mod spread;
mod work;

use work::Work;

/// The modules that have the kernels.
pub const MODULES: &[&str] =
    &["plain_elements", "plain_index", "plain_recurrent", "plain_rows", "plain_windows"];

/// Which kernel of a family is meant. It follows the parameters of the processor's kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Code {
    /// The position in the family's list of operations.
    pub operation: u32,
    /// The [`ElementType`] of the inputs, or the size of an element.
    pub from: u32,
    /// The [`ElementType`] of the output, or how many threads share an item.
    pub to: u32,
    /// What threads, or groups of them, are counted by.
    pub items: u32,
}

/// The functions of one operand.
const UNARY: &[&str] = &[
    "abs",
    "ceil",
    "clip",
    "cos",
    "elu",
    "erf",
    "exp",
    "floor",
    "gelu",
    "gelu_tanh",
    "hard_sigmoid",
    "hard_swish",
    "leaky_relu",
    "log",
    "mish",
    "neg",
    "reciprocal",
    "relu",
    "round",
    "selu",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "softplus",
    "softsign",
    "sqrt",
    "tanh",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "cosh",
    "sinh",
    "tan",
    "is_nan",
    "not",
];
const IS_NAN: u32 = 37;
const NOT: u32 = 38;

/// The functions of two operands, arithmetic first.
const BINARY: &[&str] = &[
    "add",
    "sub",
    "mul",
    "div",
    "min",
    "max",
    "pow",
    "prelu",
    "mod",
    "fmod",
    "equal",
    "less",
    "less_or_equal",
    "greater",
    "greater_or_equal",
    "and",
    "or",
    "xor",
];
const EQUAL: u32 = 10;

const REDUCTIONS: &[&str] =
    &["sum", "mean", "max", "min", "prod", "l1", "l2", "sum_square", "log_sum", "log_sum_exp"];

/// Which threads compute what.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// A thread an item.
    Flat,
    /// A warp an item, or a thread where neighbours are read side by side.
    Warp,
    /// A warp or a block an item, by how much is folded, or a thread where neighbours are read side by side.
    Team,
    /// A block of 256 threads an item.
    Block,
    /// Blocks an item, of as many threads as are useful.
    Sequence,
}

/// Threads of a block, but for [`Shape::Sequence`], and the most of one.
const THREADS: u32 = 256;
const MOST_THREADS: u64 = 512;

/// Elements of a state and of what is computed from it for all gates of a sequence: at most so many times the state.
const STATES: u64 = 5;

/// The most shared memory of a block that every architecture has.
const SHARED_BYTES: u32 = 96 << 10;

/// Elements from which a block is worth more than a warp.
const LONG: u64 = 1024;

impl Shape {
    /// How many threads share an item of so much work, where so many items are read side by side.
    fn width(self, work: u64, neighbours: u64) -> u32 {
        match self {
            Shape::Flat => 1,
            Shape::Warp | Shape::Team if neighbours >= 32 => 1,
            Shape::Warp => 32,
            Shape::Team if work < LONG => 32,
            Shape::Team | Shape::Block => THREADS,
            Shape::Sequence => work.clamp(1, MOST_THREADS).next_multiple_of(32) as u32,
        }
    }

    fn launch(self, params: &[u8]) -> Launch {
        let code = code_of(params);
        let grid = match self {
            Shape::Flat => return Launch::flat(code.items.into()),
            Shape::Sequence => {
                let p: &Recurrent = bytemuck::from_bytes(&params[..size_of::<Recurrent>()]);
                return spread::launch(p, code.items, code.to);
            }
            _ => code.items.div_ceil(THREADS / code.to.clamp(1, THREADS)),
        };
        Launch { grid: [grid, 1], cluster: 1, threads: THREADS, shared_bytes: 0 }
    }
}

/// Kernels of the processor that one kernel here stands for.
struct Family {
    kernel: CudaKernel,
    /// Finds the operation and the types of one of them by its name.
    find: fn(&str) -> Option<[u32; 3]>,
    /// The code of a call of it.
    code: fn([u32; 3], &[u8]) -> Result<Code, Invalid>,
}

/// What becomes of a call of the processor's.
#[derive(Clone, Debug)]
pub enum Twin {
    /// There is nothing to compute.
    Nothing,
    /// A call with the same operands.
    Call {
        /// The kernel's name.
        kernel: &'static str,
        /// Its parameters.
        params: Vec<u8>,
    },
}

/// The call on a GPU that does what `kernel` of the processor does with these parameters; `None` where there is none, or
/// where there is too much to count.
pub fn twin(kernel: &str, params: &[u8]) -> Option<Twin> {
    let (family, found) =
        FAMILIES.iter().find_map(|family| (family.find)(kernel).map(|found| (family, found)))?;
    let aligned = aligned(params);
    let code = (family.code)(found, bytemuck::cast_slice(&aligned).get(..params.len())?).ok()?;
    if code.items == 0 {
        return Some(Twin::Nothing);
    }
    let params = [params, bytemuck::bytes_of(&code)].concat();
    Some(Twin::Call { kernel: family.kernel.name, params })
}

/// Every kernel.
pub(super) fn kernels() -> impl Iterator<Item = &'static CudaKernel> {
    FAMILIES.iter().map(|family| &family.kernel)
}

/// Whether a kernel may find a value that it cannot compute with: an index, or an integer that it divides by.
pub(super) fn may_fail(name: &str) -> bool {
    let names = [
        "binary",
        "gather",
        "index_map",
        "reduce_i32",
        "reduce_i64",
        "max_roi_pool",
        "resize",
        "roi_align",
        "scatter_elements",
        "scatter_nd",
    ];
    name.strip_prefix("cuda_plain_").is_some_and(|name| names.contains(&name))
}

/// Parameters, which come as bytes of any alignment.
fn aligned(params: &[u8]) -> Vec<u64> {
    let mut words = vec![0; params.len().div_ceil(size_of::<u64>())];
    bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..params.len()].copy_from_slice(params);
    words
}

fn code_of(params: &[u8]) -> Code {
    let at = params.len().saturating_sub(size_of::<Code>());
    bytemuck::pod_read_unaligned(&params[at..])
}

/// The code of a call whose parameters are `P`.
fn encode<P: Pod>(
    [operation, from, to]: [u32; 3],
    params: &[u8],
    shape: Shape,
    work: fn(&P) -> Work,
) -> Result<Code, Invalid> {
    let p: &P =
        bytemuck::try_from_bytes(params).map_err(|_| Invalid("parameters of another size or alignment"))?;
    let (items, work, neighbours) = work(p).ok_or(Invalid("size overflows"))?;
    if items > i32::MAX as u64 || work > i32::MAX as u64 {
        return Err(Invalid("more than 2^31 elements"));
    }
    let to = if shape == Shape::Flat { to } else { shape.width(work, neighbours) };
    Ok(Code { operation, from, to, items: items as u32 })
}

/// Checks a call: its code, and by `validate` what the processor's kernel checks.
fn check<P: Pod>(
    call: &Call<'_>,
    shape: Shape,
    work: fn(&P) -> Work,
    validate: fn(&Call<'_>, &Code) -> Result<(), Invalid>,
) -> Result<(), Invalid> {
    let wrong = Invalid("parameters of another size or alignment");
    let (params, code) = call.params.split_at_checked(size_of::<P>()).ok_or(wrong)?;
    let code: Code = bytemuck::try_pod_read_unaligned(code).map_err(|_| wrong)?;
    // The processor's kernel checks the extents that the work is counted from.
    validate(&Call { params, operand_bytes: call.operand_bytes }, &code)?;
    let expected = encode([code.operation, code.from, code.to], params, shape, work)?;
    if code != expected || code.items == 0 {
        return Err(Invalid("a wrong number of elements"));
    }
    Ok(())
}

fn type_named(name: &str) -> Option<u32> {
    ElementType::ALL.iter().find(|(_, known)| *known == name).map(|(ty, _)| *ty as u32)
}

fn type_of(number: u32) -> Result<ElementType, Invalid> {
    let ty = ElementType::ALL.get(number as usize).map(|(ty, _)| *ty);
    ty.ok_or(Invalid("an unknown element type"))
}

fn operation(names: &[&str], name: &str) -> Option<u32> {
    names.iter().position(|known| *known == name).map(|index| index as u32)
}

const BOOL: u32 = ElementType::Bool as u32;
const F32: u32 = ElementType::F32 as u32;

/// `FAMILY_bBYTES`
fn sized(name: &str, family: &str) -> Option<[u32; 3]> {
    let bytes = name.strip_prefix(family)?.strip_prefix("_b")?.parse().ok()?;
    Some([0, bytes, bytes])
}

/// The kernel of one name.
fn only(name: &str, known: &str) -> Option<[u32; 3]> {
    (name == known).then_some([0, F32, F32])
}

/// The first or the second.
fn either(name: &str, known: [&str; 2]) -> Option<[u32; 3]> {
    operation(&known, name).map(|index| [index, F32, F32])
}

fn expect_code(code: &Code, operations: u32) -> Result<(), Invalid> {
    if code.operation < operations && code.from == F32 {
        Ok(())
    } else {
        Err(Invalid("an unknown operation"))
    }
}

fn expect_size(code: &Code, most: u32) -> Result<u64, Invalid> {
    let known =
        code.from.is_power_of_two() && code.from <= most && code.to == code.from && code.operation == 0;
    if known { Ok(code.from.into()) } else { Err(Invalid("elements of another size")) }
}

fn find_unary(name: &str) -> Option<[u32; 3]> {
    let (name, ty) = name.rsplit_once('_')?;
    let (operation, ty) = (operation(UNARY, name)?, type_named(ty)?);
    Some([operation, ty, if operation >= IS_NAN { BOOL } else { ty }])
}

fn validate_unary(call: &Call<'_>, code: &Code) -> Result<(), Invalid> {
    let (from, to) = (type_of(code.from)?, type_of(code.to)?);
    let known = match from {
        ElementType::F32 | ElementType::F64 => code.operation < NOT,
        ElementType::Bool => code.operation == NOT,
        ElementType::F16 | ElementType::Bf16 => false,
        _ => ["abs", "neg", "sign"].iter().any(|name| operation(UNARY, name) == Some(code.operation)),
    };
    let result = if code.operation >= IS_NAN { ElementType::Bool } else { from };
    if !known || to != result {
        return Err(Invalid("an unknown operation"));
    }
    elementwise::validate(call, &[from.bytes(), to.bytes()])
}

fn find_binary(name: &str) -> Option<[u32; 3]> {
    let (name, ty) = name.rsplit_once('_')?;
    let (operation, ty) = (operation(BINARY, name)?, type_named(ty)?);
    Some([operation, ty, if operation >= EQUAL { BOOL } else { ty }])
}

fn validate_binary(call: &Call<'_>, code: &Code) -> Result<(), Invalid> {
    let (from, to) = (type_of(code.from)?, type_of(code.to)?);
    let is = |name: &str| operation(BINARY, name) == Some(code.operation);
    let is_logic = is("and") || is("or") || is("xor");
    let known = match from {
        ElementType::F32 | ElementType::F64 => !is_logic,
        ElementType::F16 | ElementType::Bf16 => false,
        ElementType::Bool => is_logic || is("equal"),
        _ => !is_logic && !["prelu", "mod", "fmod"].iter().any(|name| is(name)),
    };
    let result = if code.operation >= EQUAL { ElementType::Bool } else { from };
    if !known || code.operation as usize >= BINARY.len() || to != result {
        return Err(Invalid("an unknown operation"));
    }
    elementwise::validate(call, &[from.bytes(), from.bytes(), to.bytes()])
}

fn find_cast(name: &str) -> Option<[u32; 3]> {
    let (from, to) = name.strip_prefix("cast_")?.split_once('_')?;
    Some([0, type_named(from)?, type_named(to)?])
}

fn validate_cast(call: &Call<'_>, code: &Code) -> Result<(), Invalid> {
    let (from, to) = (type_of(code.from)?, type_of(code.to)?);
    if code.operation != 0 {
        return Err(Invalid("an unknown operation"));
    }
    elementwise::validate(call, &[from.bytes(), to.bytes()])
}

fn validate_select(call: &Call<'_>, code: &Code) -> Result<(), Invalid> {
    let bytes = expect_size(code, 8)?;
    elementwise::validate(call, &[1, bytes, bytes, bytes])
}

fn validate_copy(call: &Call<'_>, code: &Code) -> Result<(), Invalid> {
    let bytes = expect_size(code, 16)?;
    elementwise::validate(call, &[bytes, bytes])
}

fn validate_fill(call: &Call<'_>, code: &Code) -> Result<(), Invalid> {
    elementwise::validate(call, &[expect_size(code, 8)?])
}

fn validate_sized_gather(call: &Call<'_>, code: &Code) -> Result<(), Invalid> {
    match expect_size(code, 8)? {
        1 => validate_gather::<u8>(call),
        2 => validate_gather::<u16>(call),
        4 => validate_gather::<u32>(call),
        _ => validate_gather::<u64>(call),
    }
}

fn validate_sized_map(call: &Call<'_>, code: &Code) -> Result<(), Invalid> {
    match expect_size(code, 8)? {
        1 => validate_map::<u8>(call),
        2 => validate_map::<u16>(call),
        4 => validate_map::<u32>(call),
        _ => validate_map::<u64>(call),
    }
}

fn find_reduction(name: &str, ty: &str) -> Option<[u32; 3]> {
    let name = name.strip_prefix("reduce_")?.strip_suffix(ty)?.strip_suffix('_')?;
    Some([operation(REDUCTIONS, name)?, type_named(ty)?, 0])
}

fn validate_reduction<T: Pod>(call: &Call<'_>, code: &Code, ty: ElementType) -> Result<(), Invalid> {
    // What is more than sums, means, extremes and products is for f32 alone.
    let operations = if ty == ElementType::F32 { REDUCTIONS.len() } else { 5 };
    if code.operation as usize >= operations || code.from != ty as u32 {
        return Err(Invalid("an unknown reduction"));
    }
    reduce::validate::<T>(call)
}

fn find_extreme(name: &str, ty: &str) -> Option<[u32; 3]> {
    let name = name.strip_suffix(ty)?.strip_suffix('_')?;
    Some([operation(&["arg_max", "arg_min"], name)?, type_named(ty)?, 0])
}

fn find_scan(name: &str, ty: &str) -> Option<[u32; 3]> {
    let name = name.strip_suffix(ty)?.strip_suffix('_')?;
    Some([operation(&["cum_sum", "cum_prod"], name)?, type_named(ty)?, 0])
}

fn validate_scan<T: Number>(call: &Call<'_>, code: &Code, ty: ElementType) -> Result<(), Invalid> {
    expect_extreme(code, ty).and_then(|()| scan::validate::<T>(call))
}

fn expect_extreme(code: &Code, ty: ElementType) -> Result<(), Invalid> {
    if code.operation < 2 && code.from == ty as u32 { Ok(()) } else { Err(Invalid("an unknown operation")) }
}

/// What updates do beside replacing elements.
const UPDATES: &[&str] = &["add", "mul", "max", "min"];

/// `FAMILY_bBYTES`, or `FAMILY_OPERATION_TYPE`, the operations counted from 1.
fn find_scatter(name: &str, family: &str) -> Option<[u32; 3]> {
    if let Some(found) = sized(name, family) {
        return Some(found);
    }
    let (name, ty) = name.strip_prefix(family)?.strip_prefix('_')?.rsplit_once('_')?;
    let ty = type_named(ty)?;
    Some([operation(UPDATES, name)? + 1, ty, ty])
}

/// The bytes of an element that is scattered.
fn expect_scatter(code: &Code) -> Result<u64, Invalid> {
    match code.operation as usize {
        0 => expect_size(code, 16),
        operation if operation <= UPDATES.len() => expect_ordered(&Code { operation: 0, ..*code }),
        _ => Err(Invalid("an unknown update")),
    }
}

/// `FAMILY_TYPE` of a number that is compared as it is.
fn find_ordered(name: &str, family: &str) -> Option<[u32; 3]> {
    let ty = type_named(name.strip_prefix(family)?.strip_prefix('_')?)?;
    Some([0, ty, ty])
}

/// The bytes of an element of such a kernel.
fn expect_ordered(code: &Code) -> Result<u64, Invalid> {
    let ty = type_of(code.from)?;
    let known = matches!(
        ty,
        ElementType::F32 | ElementType::F64 | ElementType::I32 | ElementType::I64 | ElementType::U64
    );
    if known && code.operation == 0 && code.to == code.from {
        Ok(ty.bytes())
    } else {
        Err(Invalid("an unknown element type"))
    }
}

/// `FAMILY_TYPE` of f32 or f64.
fn find_float(name: &str, family: &str) -> Option<[u32; 3]> {
    let ty = type_named(name.strip_prefix(family)?.strip_prefix('_')?)?;
    (ty == F32 || ty == ElementType::F64 as u32).then_some([0, ty, ty])
}

/// The bytes of an element of a kernel of f32 or f64.
fn expect_float(code: &Code) -> Result<u64, Invalid> {
    let ty = type_of(code.from)?;
    let known = matches!(ty, ElementType::F32 | ElementType::F64) && code.to == code.from;
    if known && code.operation == 0 { Ok(ty.bytes()) } else { Err(Invalid("an unknown element type")) }
}

macro_rules! families {
    ($($name:literal $module:literal $params:ty, $shape:ident, $work:expr; $find:expr, $validate:expr;)*) => {
        static FAMILIES: &[Family] = &[$(Family {
            kernel: CudaKernel {
                name: concat!("cuda_plain_", $name),
                module: concat!("plain_", $module),
                validate: |call| check::<$params>(call, Shape::$shape, $work, $validate),
                launch: |params| Shape::$shape.launch(params),
                most_shared_bytes: match Shape::$shape {
                    Shape::Sequence => SHARED_BYTES,
                    _ => 0,
                },
                copies: None,
            },
            find: $find,
            code: |found, params| encode::<$params>(found, params, Shape::$shape, $work),
        }),*];
    };
}

families! {
    "unary" "elements" Elementwise, Flat, work::elements; find_unary, validate_unary;
    "binary" "elements" Elementwise, Flat, work::elements; find_binary, validate_binary;
    "select" "elements" Elementwise, Flat, work::elements; |name| sized(name, "where"), validate_select;
    "copy" "elements" Elementwise, Flat, work::elements; |name| sized(name, "copy"), validate_copy;
    "fill" "elements" Elementwise, Flat, work::elements; |name| sized(name, "fill"), validate_fill;
    "cast" "elements" Elementwise, Flat, work::elements; find_cast, validate_cast;
    "gather" "elements" Gather, Flat, work::gather; |name| sized(name, "gather"), validate_sized_gather;
    "index_map" "elements" IndexMap, Flat, work::map; |name| sized(name, "index_map"), validate_sized_map;
    "scatter_elements" "index" ScatterElements, Flat, work::scatter_elements;
        |name| find_scatter(name, "scatter_elements"),
        |call, code| expect_scatter(code).and_then(|bytes| scatter::validate_elements(call, bytes));
    "scatter_nd" "index" ScatterNd, Flat, work::scatter_nd; |name| find_scatter(name, "scatter_nd"),
        |call, code| expect_scatter(code).and_then(|bytes| scatter::validate_nd(call, bytes));
    "grid_sample" "index" GridSample, Flat, work::grid_sample; |name| find_float(name, "grid_sample"),
        |call, code| expect_float(code).and_then(|bytes| grid_sample::validate(call, bytes));
    "top_k" "index" TopK, Flat, work::top_k; |name| find_ordered(name, "top_k"),
        |call, code| expect_ordered(code).and_then(|bytes| top_k::validate(call, bytes));
    "roi_align" "index" RoiAlign, Flat, work::roi_align; |name| find_float(name, "roi_align"),
        |call, code| expect_float(code).and_then(|bytes| region::validate_align(call, bytes));
    "max_roi_pool" "index" MaxRoiPool, Flat, work::max_roi_pool; |name| find_float(name, "max_roi_pool"),
        |call, code| expect_float(code).and_then(|bytes| region::validate_pool(call, bytes));
    "non_max_suppression" "index" NonMaxSuppression, Block, work::non_max_suppression;
        |name| only(name, "non_max_suppression_f32"),
        |call, code| expect_code(code, 1).and_then(|()| non_max_suppression::validate(call));
    "reduce_f32" "rows" Reduce, Team, work::reduction;
        |name| find_reduction(name, "f32"), |call, code| validate_reduction::<f32>(call, code, ElementType::F32);
    "reduce_f64" "rows" Reduce, Team, work::reduction;
        |name| find_reduction(name, "f64"), |call, code| validate_reduction::<f64>(call, code, ElementType::F64);
    "reduce_i32" "rows" Reduce, Team, work::reduction;
        |name| find_reduction(name, "i32"), |call, code| validate_reduction::<i32>(call, code, ElementType::I32);
    "reduce_i64" "rows" Reduce, Team, work::reduction;
        |name| find_reduction(name, "i64"), |call, code| validate_reduction::<i64>(call, code, ElementType::I64);
    "extreme_f32" "rows" Axis, Warp, work::axis; |name| find_extreme(name, "f32"),
        |call, code| expect_extreme(code, ElementType::F32).and_then(|()| arg::validate::<f32>(call));
    "extreme_f64" "rows" Axis, Warp, work::axis; |name| find_extreme(name, "f64"),
        |call, code| expect_extreme(code, ElementType::F64).and_then(|()| arg::validate::<f64>(call));
    "extreme_i32" "rows" Axis, Warp, work::axis; |name| find_extreme(name, "i32"),
        |call, code| expect_extreme(code, ElementType::I32).and_then(|()| arg::validate::<i32>(call));
    "extreme_i64" "rows" Axis, Warp, work::axis; |name| find_extreme(name, "i64"),
        |call, code| expect_extreme(code, ElementType::I64).and_then(|()| arg::validate::<i64>(call));
    "scan_f32" "rows" Scan, Warp, work::scan; |name| find_scan(name, "f32"),
        |call, code| validate_scan::<f32>(call, code, ElementType::F32);
    "scan_f64" "rows" Scan, Warp, work::scan; |name| find_scan(name, "f64"),
        |call, code| validate_scan::<f64>(call, code, ElementType::F64);
    "scan_i32" "rows" Scan, Warp, work::scan; |name| find_scan(name, "i32"),
        |call, code| validate_scan::<i32>(call, code, ElementType::I32);
    "scan_i64" "rows" Scan, Warp, work::scan; |name| find_scan(name, "i64"),
        |call, code| validate_scan::<i64>(call, code, ElementType::I64);
    "col2im_f32" "rows" Col2Im, Flat, work::col2im; |name| only(name, "col2im_f32"),
        |call, code| expect_code(code, 1).and_then(|()| col2im::validate::<f32>(call));
    "col2im_f64" "rows" Col2Im, Flat, work::col2im; |name| only(name, "col2im_f64"),
        |call, code| expect_code(code, 1).and_then(|()| col2im::validate::<f64>(call));
    "col2im_i32" "rows" Col2Im, Flat, work::col2im; |name| only(name, "col2im_i32"),
        |call, code| expect_code(code, 1).and_then(|()| col2im::validate::<i32>(call));
    "col2im_i64" "rows" Col2Im, Flat, work::col2im; |name| only(name, "col2im_i64"),
        |call, code| expect_code(code, 1).and_then(|()| col2im::validate::<i64>(call));
    "matmul_f64" "rows" MatMul, Flat, work::matmul; |name| only(name, "matmul_f64"),
        |call, code| expect_code(code, 1).and_then(|()| matmul::validate::<f64>(call));
    "matmul_i32" "rows" MatMul, Flat, work::matmul; |name| only(name, "matmul_i32"),
        |call, code| expect_code(code, 1).and_then(|()| matmul::validate::<i32>(call));
    "matmul_i64" "rows" MatMul, Flat, work::matmul; |name| only(name, "matmul_i64"),
        |call, code| expect_code(code, 1).and_then(|()| matmul::validate::<i64>(call));
    "softmax" "rows" Axis, Team, work::axis; |name| either(name, ["softmax_f32", "log_softmax_f32"]),
        |call, code| expect_code(code, 2).and_then(|()| softmax::validate(call));
    "layer_norm" "rows" LayerNorm, Team, work::layer_norm; |name| only(name, "layer_norm_f32"),
        |call, code| expect_code(code, 1).and_then(|()| norm::validate_layer_norm(call));
    "group_norm" "rows" GroupNorm, Team, work::group_norm; |name| only(name, "group_norm_f32"),
        |call, code| expect_code(code, 1).and_then(|()| norm::validate_group_norm(call));
    "lrn" "rows" Lrn, Flat, work::lrn; |name| only(name, "lrn_f32"),
        |call, code| expect_code(code, 1).and_then(|()| norm::validate_lrn(call));
    "attention" "rows" Attention, Block, work::attention; |name| only(name, "attention_f32"),
        |call, code| expect_code(code, 1).and_then(|()| attention::validate(call));
    "conv" "windows" Conv, Flat, work::conv; |name| either(name, ["conv_f32", "conv_f16w"]),
        |call, code| expect_code(code, 2).and_then(|()| conv::validate(call, if code.operation == 1 { 2 } else { 4 }));
    "pack_b" "windows" PackB, Flat, work::pack; |name| only(name, "pack_b_f32"),
        |call, code| expect_code(code, 1).and_then(|()| blocked::validate_pack(call));
    "reorder" "windows" Reorder, Flat, work::reorder; |name| either(name, ["to_blocked_f32", "from_blocked_f32"]),
        |call, code| expect_code(code, 2).and_then(|()| match code.operation {
            0 => blocked::validate_reorder(call, 0, 1),
            _ => blocked::validate_reorder(call, 1, 0),
        });
    "conv_nd" "windows" ConvNd, Flat, work::conv_nd; |name| only(name, "conv_nd_f32"),
        |call, code| expect_code(code, 1).and_then(|()| conv_nd::validate(call));
    "conv_transpose_nd" "windows" ConvNd, Flat, work::conv_nd; |name| only(name, "conv_transpose_nd_f32"),
        |call, code| expect_code(code, 1).and_then(|()| conv_nd::validate_transposed(call));
    "max_pool_nd" "windows" PoolNd, Flat, work::pool; |name| only(name, "max_pool_nd_f32"),
        |call, code| expect_code(code, 1).and_then(|()| pool::validate_three(call));
    "average_pool_nd" "windows" PoolNd, Flat, work::pool; |name| only(name, "average_pool_nd_f32"),
        |call, code| expect_code(code, 1).and_then(|()| pool::validate_two(call));
    "lp_pool_nd" "windows" PoolNd, Flat, work::pool; |name| only(name, "lp_pool_nd_f32"),
        |call, code| expect_code(code, 1).and_then(|()| pool::validate_lp(call));
    "resize" "windows" Resize, Flat, work::resize; |name| only(name, "resize_f32"),
        |call, code| expect_code(code, 1).and_then(|()| resize::validate(call));
    "lstm" "recurrent" Recurrent, Sequence, |p| spread::work(p, 4); |name| only(name, "lstm_f32"),
        |call, code| expect_code(code, 1).and_then(|()| recurrent::validate_lstm(call));
    "gru" "recurrent" Recurrent, Sequence, |p| spread::work(p, 3); |name| only(name, "gru_f32"),
        |call, code| expect_code(code, 1).and_then(|()| recurrent::validate_gru(call));
    "rnn" "recurrent" Recurrent, Sequence, |p| spread::work(p, 1); |name| only(name, "rnn_f32"),
        |call, code| expect_code(code, 1).and_then(|()| recurrent::validate_rnn(call));
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use super::*;
    use crate::reference::REGISTRY;

    #[test]
    fn row_major_kernels_have_twins() {
        let own = ["winograd", "strassen", "depthwise", "blocked", "halo", "pooled"];
        for registered in REGISTRY.iter().copied().flatten() {
            let name = registered.kernel.name;
            let twins = FAMILIES.iter().filter(|family| (family.find)(name).is_some()).count();
            let is_blocked = own.iter().any(|part| name.contains(part))
                || name == "max_pool_f32"
                || name == "average_pool_f32";
            assert!(twins == 1 || is_blocked, "{name} has {twins} twins");
        }
    }

    #[test]
    fn every_kernel_is_in_a_module() {
        assert!(kernels().all(|kernel| MODULES.contains(&kernel.module)));
    }

    #[test]
    fn calls_keep_the_bounds_of_the_processor() {
        let params = Elementwise::new(&[3, 4], &[(&[4, 1], 0), (&[0, 1], 0), (&[4, 1], 0)]).unwrap();
        let Some(Twin::Call { kernel, params }) = twin("add_f32", bytemuck::bytes_of(&params)) else {
            panic!()
        };
        let kernel = super::super::find(kernel).unwrap();
        let words = aligned(&params);
        let valid = |operand_bytes: &[u64]| {
            (kernel.validate)(&Call { params: bytemuck::cast_slice(&words), operand_bytes }).is_ok()
        };
        assert!(valid(&[48, 16, 48]));
        assert!(!valid(&[44, 16, 48]) && !valid(&[48, 12, 48]) && !valid(&[48, 16, 44]) && !valid(&[48, 16]));
        assert_eq!((kernel.launch)(&params).grid, [1, 1]);

        // A code that the name of no kernel has.
        for broken in [
            Code { operation: 13, ..code_of(&params) },
            Code { from: ElementType::F16 as u32, ..code_of(&params) },
            Code { to: ElementType::F64 as u32, ..code_of(&params) },
            Code { items: 13, ..code_of(&params) },
        ] {
            let mut params = params.clone();
            let at = params.len() - size_of::<Code>();
            params[at..].copy_from_slice(bytemuck::bytes_of(&broken));
            let words = aligned(&params);
            let call = Call { params: bytemuck::cast_slice(&words), operand_bytes: &[1 << 20; 3] };
            assert!((kernel.validate)(&call).is_err(), "{broken:?}");
        }
        let empty = Elementwise::new(&[0, 4], &[(&[4, 1], 0), (&[4, 1], 0)]).unwrap();
        assert!(matches!(twin("neg_f32", bytemuck::bytes_of(&empty)), Some(Twin::Nothing)));
    }
}
