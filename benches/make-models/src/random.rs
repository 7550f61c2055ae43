//! Seeded numbers, of arithmetic that is the same on every machine.

/// A stream of numbers that depends on its seed alone: SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    /// The stream of a name.
    pub(crate) fn of(name: &str) -> Self {
        // FNV-1a.
        let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Random(name.bytes().fold(0xcbf2_9ce4_8422_2325, hash))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number of mean 0 and variance 1, nearly normal: the sum of four uniform ones. No logarithm or cosine, which
    /// differ between mathematical libraries.
    pub(crate) fn normal(&mut self) -> f64 {
        const MEAN: f64 = 2.0 * 65535.0;
        // Four times the variance of 0..=65535, (65536² − 1) / 12.
        const VARIANCE: f64 = 4.0 * (65536.0 * 65536.0 - 1.0) / 12.0;
        let bits = self.next();
        let sum = (0..4).map(|part| (bits >> (16 * part)) & 0xffff).sum::<u64>();
        (sum as f64 - MEAN) / VARIANCE.sqrt()
    }

    /// A number between `low` and `high`.
    pub(crate) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_unit_variance() {
        let mut random = Random::of("numbers");
        let numbers: Vec<f64> = (0..100_000).map(|_| random.normal()).collect();
        let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
        let variance = numbers.iter().map(|number| number * number).sum::<f64>() / numbers.len() as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "mean {mean}, variance {variance}");
    }
}
