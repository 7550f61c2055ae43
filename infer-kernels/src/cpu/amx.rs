//! Products of f32 on AMX, the matrix unit of Intel's server processors, which multiplies bf16 and adds f32.
//!
//! A number is the sum of three of bf16, its thirds: x = h + m + l, eight of its 24 bits each. A product is six of thirds:
//! hh' + hm' + mh' + hl' + lh' + mm'; the three left out are 2⁻²³ of it in the mean, 2⁻²¹ at most, and of its sign.
//! Products of bf16 are exact in f32, and sums are rounded as those of f32 are. The unit does 16 times the products that
//! vectors of f32 do, so six of them are faster than one.
//!
//! A tile of a left matrix is 16 rows by [`STEP`] elements of the sum, one of a right matrix [`STEP`] by 16 columns. Both hold
//! the elements k and k + 16 of their step side by side. The thirds of a tile follow each other: [`THIRDS`] numbers.
//!
//! An infinite element makes what is not a number, and what is below the least normal number counts as zero.

use std::arch::asm;
use std::arch::x86_64::*;
use std::hint::black_box;
use std::sync::OnceLock;

use crate::{Args, RunError};

/// Rows of a left tile, and columns of a right one.
pub(crate) const SIDE: usize = 16;

/// Elements of the sum in a tile.
pub(crate) const STEP: usize = 32;

/// Numbers of bf16 in a tile of one third.
const THIRD: usize = SIDE * STEP;

/// Numbers of bf16 in a tile of all thirds.
pub(crate) const THIRDS: usize = 3 * THIRD;

/// Elements of a tile of sums.
pub(crate) const SUMS: usize = SIDE * SIDE;

/// Whether this processor has the unit, with bf16, and the system lets this process use it, which is asked for once.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        if cfg!(miri) {
            return false;
        }
        let leaf = __cpuid_count(7, 0);
        let has = |bit: u32| leaf.edx & 1 << bit != 0;
        let (bf16, tiles) = (has(22), has(24));
        bf16 && tiles && is_permitted()
    })
}

/// Asks Linux for the state of tiles: <https://docs.kernel.org/arch/x86/xstate.html>.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const REQUEST_PERMISSION: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and touches no memory of the process.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// The tiles of this thread, each of 16 rows of 64 bytes, until it is dropped.
pub(crate) struct Unit(());

impl Unit {
    /// # Safety
    ///
    /// The unit is available, and nothing else uses this thread's tiles meanwhile.
    pub(crate) unsafe fn new() -> Self {
        #[repr(C, align(64))]
        struct Configuration {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        let mut configuration =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        configuration.row_bytes[..8].fill(64);
        configuration.rows[..8].fill(SIDE as u8);
        // SAFETY: the caller's promise; the configuration is a valid one.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly)) };
        Unit(())
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // SAFETY: there is the unit, for it was configured.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// The operands of [`Unit::multiply`]. Pointers are to the first of `steps` tiles of thirds that follow each other.
pub(crate) struct Product {
    /// Two rows of tiles, of which [`Unit::multiply_row`] reads the first.
    pub(crate) a: [*const u16; 2],
    /// Two columns of tiles.
    pub(crate) b: [*const u16; 2],
    /// The sums, of each row the two tiles.
    pub(crate) c: [[*mut f32; 2]; 2],
    pub(crate) steps: usize,
    /// Whether this is added to the sums, or is all of them so far.
    pub(crate) adds: bool,
}

/// An instruction that reads or writes a tile in memory, whose lines follow each other. No compiler uses the registers of tiles
/// but for these instructions, so they keep their contents between them.
macro_rules! tile {
    ($instruction:literal $tile:tt, $at:expr) => {
        asm!(
            concat!($instruction, " ", $tile, ", [{at} + {line}]"),
            at = in(reg) $at,
            line = in(reg) 2 * STEP,
            out($tile) _,
            options(nostack),
        )
    };
    (store $tile:tt, $at:expr) => {
        asm!(
            concat!("tilestored [{at} + {line}], ", $tile),
            at = in(reg) $at,
            line = in(reg) 2 * STEP,
            options(nostack),
        )
    };
}

/// What the sums of a tile start from.
macro_rules! start {
    ($product:ident, $tile:tt, $at:expr) => {
        match $product.adds {
            true => tile!("tileloadd" $tile, $at),
            false => asm!(concat!("tilezero ", $tile), out($tile) _, options(nostack)),
        }
    };
}

/// The sums of a tile, plus the product of two tiles.
macro_rules! add {
    ($sums:tt, $a:literal, $b:literal) => {
        asm!(concat!("tdpbf16ps ", $sums, ", ", $a, ", ", $b), out($sums) _, options(nostack))
    };
}

/// All four sums, plus the products of what the left and the right registers hold; something else is done in between.
macro_rules! add_all {
    ($between:ident, $pause:literal) => {
        add!("tmm0", "tmm6", "tmm4");
        add!("tmm1", "tmm6", "tmm5");
        $between($pause);
        add!("tmm2", "tmm7", "tmm4");
        add!("tmm3", "tmm7", "tmm5");
    };
}

/// How often [`Unit::multiply`] does something else in each step.
pub(crate) const PAUSES: usize = 6;

impl Unit {
    /// Sums, in four tiles, the product of two rows of tiles by two columns of tiles; calls `between` [`PAUSES`] times in
    /// each step, with the number of the call, so that the core's other units have work meanwhile.
    ///
    /// # Safety
    ///
    /// All tiles lie in memory of this thread.
    #[inline(always)]
    pub(crate) unsafe fn multiply(&self, p: &Product, mut between: impl FnMut(usize)) {
        let (mut a, mut b) = (p.a, p.b);
        // Sums are in tiles 0 to 3, the right side's in 4 and 5, the left side's in 6 and 7. A sum is added to by every
        // fourth product, as it takes longer than three.
        // SAFETY: the caller's promise.
        unsafe {
            start!(p, "tmm0", p.c[0][0]);
            start!(p, "tmm1", p.c[0][1]);
            start!(p, "tmm2", p.c[1][0]);
            start!(p, "tmm3", p.c[1][1]);
            for _ in 0..p.steps {
                // h' by l, h and m.
                tile!("tileloadd" "tmm4", b[0]);
                tile!("tileloadd" "tmm6", a[0].add(2 * THIRD));
                tile!("tileloadd" "tmm5", b[1]);
                tile!("tileloadd" "tmm7", a[1].add(2 * THIRD));
                add_all!(between, 0);
                tile!("tileloadd" "tmm6", a[0]);
                tile!("tileloadd" "tmm7", a[1]);
                add_all!(between, 1);
                tile!("tileloadd" "tmm6", a[0].add(THIRD));
                tile!("tileloadd" "tmm7", a[1].add(THIRD));
                add_all!(between, 2);
                // m' by m and h.
                tile!("tileloadd" "tmm4", b[0].add(THIRD));
                tile!("tileloadd" "tmm5", b[1].add(THIRD));
                add_all!(between, 3);
                tile!("tileloadd" "tmm6", a[0]);
                tile!("tileloadd" "tmm7", a[1]);
                add_all!(between, 4);
                // l' by h.
                tile!("tileloadd" "tmm4", b[0].add(2 * THIRD));
                tile!("tileloadd" "tmm5", b[1].add(2 * THIRD));
                add_all!(between, 5);
                a = a.map(
                    #[inline(always)]
                    |a| a.add(THIRDS),
                );
                b = b.map(
                    #[inline(always)]
                    |b| b.add(THIRDS),
                );
            }
            tile!(store "tmm0", p.c[0][0]);
            tile!(store "tmm1", p.c[0][1]);
            tile!(store "tmm2", p.c[1][0]);
            tile!(store "tmm3", p.c[1][1]);
        }
    }

    /// [`Unit::multiply`] of the first row alone.
    ///
    /// # Safety
    ///
    /// As there.
    #[inline(always)]
    pub(crate) unsafe fn multiply_row(&self, p: &Product, mut between: impl FnMut(usize)) {
        let (mut a, mut b) = (p.a[0], p.b);
        // SAFETY: the caller's promise.
        unsafe {
            start!(p, "tmm0", p.c[0][0]);
            start!(p, "tmm1", p.c[0][1]);
            for _ in 0..p.steps {
                tile!("tileloadd" "tmm4", b[0]);
                tile!("tileloadd" "tmm5", b[1]);
                tile!("tileloadd" "tmm2", a.add(2 * THIRD));
                add!("tmm0", "tmm2", "tmm4");
                add!("tmm1", "tmm2", "tmm5");
                between(0);
                tile!("tileloadd" "tmm6", a);
                add!("tmm0", "tmm6", "tmm4");
                add!("tmm1", "tmm6", "tmm5");
                between(1);
                tile!("tileloadd" "tmm7", a.add(THIRD));
                add!("tmm0", "tmm7", "tmm4");
                add!("tmm1", "tmm7", "tmm5");
                between(2);
                tile!("tileloadd" "tmm4", b[0].add(THIRD));
                tile!("tileloadd" "tmm5", b[1].add(THIRD));
                add!("tmm0", "tmm7", "tmm4");
                add!("tmm1", "tmm7", "tmm5");
                between(3);
                add!("tmm0", "tmm6", "tmm4");
                add!("tmm1", "tmm6", "tmm5");
                between(4);
                tile!("tileloadd" "tmm4", b[0].add(2 * THIRD));
                tile!("tileloadd" "tmm5", b[1].add(2 * THIRD));
                add!("tmm0", "tmm6", "tmm4");
                add!("tmm1", "tmm6", "tmm5");
                between(5);
                a = a.add(THIRDS);
                b = b.map(
                    #[inline(always)]
                    |b| b.add(THIRDS),
                );
            }
            tile!(store "tmm0", p.c[0][0]);
            tile!(store "tmm1", p.c[0][1]);
        }
    }
}

/// Writes the thirds of a line of a tile: `first` are elements 0 to 15 of the step, `second` 16 to 31.
///
/// # Safety
///
/// `to` is a line of 64 bytes of a tile of thirds.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(crate) unsafe fn split(first: __m512, second: __m512, to: *mut u16) {
    const SECOND: __mmask32 = 0xAAAA_AAAA;
    let upper = _mm512_set1_epi32(0xFFFF_0000_u32 as i32);
    let rest = |x: __m512i| {
        let third = _mm512_castsi512_ps(_mm512_and_si512(x, upper));
        _mm512_castps_si512(_mm512_sub_ps(_mm512_castsi512_ps(x), third))
    };
    let (mut first, mut second) = (_mm512_castps_si512(first), _mm512_castps_si512(second));
    for third in 0..3 {
        let both = _mm512_mask_blend_epi16(SECOND, _mm512_srli_epi32::<16>(first), second);
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_si512(to.add(third * THIRD).cast(), both) };
        if third < 2 {
            (first, second) = (rest(first), rest(second));
        }
    }
}

/// Steps of a product of four tiles that [`peak`] computes.
const PEAK_STEPS: usize = 4;
const PEAK_TIMES: usize = 100;

/// The f32 operations of a run of [`peak`].
pub(super) const PEAK_OPERATIONS: usize = PEAK_TIMES * PEAK_STEPS * 2 * (2 * SIDE) * (2 * SIDE) * STEP;

/// What the unit does at its best: products of tiles that stay in the first-level cache.
///
/// # Safety
///
/// The unit is available.
pub(super) unsafe fn peak(_args: &Args<'_>, _chunk: usize, _chunks: usize) -> Result<(), RunError> {
    #[repr(align(64))]
    struct Aligned<T>(T);
    let mut sums = Aligned([0.0_f32; 4 * SUMS]);
    let tiles = Aligned([0_u16; PEAK_STEPS * THIRDS]);
    let c = sums.0.as_mut_ptr();
    // SAFETY: the caller's promise; all tiles lie in the arrays.
    unsafe {
        let unit = Unit::new();
        for _ in 0..PEAK_TIMES {
            let product = Product {
                a: [tiles.0.as_ptr(); 2],
                b: [tiles.0.as_ptr(); 2],
                c: [[c, c.add(SUMS)], [c.add(2 * SUMS), c.add(3 * SUMS)]],
                steps: PEAK_STEPS,
                adds: true,
            };
            unit.multiply(&product, |_| {});
        }
    }
    black_box(sums.0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirds_add_up_to_the_number() {
        if !is_available() {
            println!("skipped: this processor lacks AMX, or the system does not let this process use it");
            return;
        }
        let mut state = 1_u32;
        let mut number = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Of every magnitude whose thirds are normal numbers.
            let exponent = 24 + (state >> 8) % 230;
            f32::from_bits(state & 0x807F_FFFF | exponent << 23)
        };
        for _ in 0..1000 {
            let numbers: [f32; STEP] = std::array::from_fn(|_| number());
            let mut thirds = [0_u16; THIRDS];
            // SAFETY: a processor with AMX has AVX-512; the line is the first of a tile.
            unsafe {
                let [first, second] = [0, SIDE].map(|at| _mm512_loadu_ps(numbers.as_ptr().add(at)));
                split(first, second, thirds.as_mut_ptr());
            }
            for (at, number) in numbers.into_iter().enumerate() {
                let place = at % SIDE * 2 + at / SIDE;
                let third = |third: usize| f32::from_bits(u32::from(thirds[third * THIRD + place]) << 16);
                assert_eq!(third(0) + (third(1) + third(2)), number);
            }
        }
    }
}
