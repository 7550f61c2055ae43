//! What many measurements say.

use serde_json::{Value as Json, json};

/// The distribution of some times, in seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// The times, the least first; at least one.
    sorted: Vec<f64>,
    mean: f64,
    /// The coefficient of variation, in per cent.
    pub variation: f64,
}

impl Statistics {
    /// Of these times; without any, of a single zero.
    pub fn of(mut times: Vec<f64>) -> Self {
        if times.is_empty() {
            times.push(0.0);
        }
        times.sort_by(f64::total_cmp);
        let count = times.len() as f64;
        let mean = times.iter().sum::<f64>() / count;
        let variance = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / count;
        let variation = if mean > 0.0 { variance.sqrt() / mean * 100.0 } else { 0.0 };
        Statistics { sorted: times, mean, variation }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// The least.
    pub fn min(&self) -> f64 {
        self.sorted[0]
    }

    /// The middle one; of two, their mean.
    pub fn median(&self) -> f64 {
        let middle = self.sorted.len() / 2;
        match self.sorted.len() % 2 {
            1 => self.sorted[middle],
            _ => f64::midpoint(self.sorted[middle - 1], self.sorted[middle]),
        }
    }

    /// The time that `percent` of all are within, as trtexec has it: all but ⌊(1 − percent/100)·N⌋ of them.
    pub fn percentile(&self, percent: f64) -> f64 {
        let count = self.sorted.len();
        let beyond = ((1.0 - percent / 100.0) * count as f64) as usize;
        self.sorted[count.saturating_sub(1).saturating_sub(beyond)]
    }

    /// All quantities by name, in milliseconds, but for the last, in per cent.
    fn quantities(&self) -> [(&'static str, f64); 8] {
        let ms = |seconds: f64| seconds * 1e3;
        [
            ("min", ms(self.min())),
            ("max", ms(self.percentile(100.0))),
            ("mean", ms(self.mean)),
            ("median", ms(self.median())),
            ("p90", ms(self.percentile(90.0))),
            ("p95", ms(self.percentile(95.0))),
            ("p99", ms(self.percentile(99.0))),
            ("cv", self.variation),
        ]
    }

    /// The quantities on a line.
    pub fn to_text(&self) -> String {
        let [times @ .., (_, variation)] = self.quantities();
        let times: Vec<String> = times.iter().map(|(name, time)| format!("{name} {time:.3}")).collect();
        format!("{} ms, variation {variation:.1} %", times.join(", "))
    }

    /// The quantities as an object.
    pub fn to_json(&self) -> Json {
        Json::Object(self.quantities().iter().map(|&(name, value)| (name.to_owned(), json!(value))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_those_of_trtexec() {
        let statistics = Statistics::of((1..=100).rev().map(f64::from).collect());
        let [p90, p95, p99, p100] = [90.0, 95.0, 99.0, 100.0].map(|p| statistics.percentile(p));
        // ⌊(1 − 0.9)·100⌋ is 9 in binary fractions, as it is there.
        assert_eq!((p90, p95, p99, p100), (91.0, 95.0, 99.0, 100.0));
        assert_eq!((statistics.min(), statistics.median(), statistics.mean), (1.0, 50.5, 50.5));
        assert!((statistics.variation - 57.157).abs() < 1e-3, "{}", statistics.variation);
    }

    #[test]
    fn few_times_have_all_quantities() {
        let statistics = Statistics::of(vec![3.0]);
        assert_eq!([statistics.median(), statistics.percentile(0.0), statistics.percentile(99.0)], [3.0; 3]);
        assert_eq!(statistics.variation, 0.0);
        let statistics = Statistics::of(vec![2.0, 1.0, 4.0]);
        assert_eq!((statistics.median(), statistics.percentile(90.0)), (2.0, 4.0));
        assert_eq!((Statistics::of(Vec::new()).median(), Statistics::of(vec![0.0]).variation), (0.0, 0.0));
    }
}
