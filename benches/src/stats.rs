//! Middle and spread of a few samples. Pure.

use serde::Serialize;

/// What a few samples say.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// The middle sample, or the mean of the two middle ones.
    pub median: f64,
    /// The smallest sample.
    pub min: f64,
    /// The largest sample.
    pub max: f64,
}

impl Summary {
    /// Sums up samples; `None` when there are none, or when one is not a number.
    #[must_use]
    pub fn of(samples: &[f64]) -> Option<Self> {
        if samples.iter().any(|sample| !sample.is_finite()) {
            return None;
        }
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { median, min, max })
    }

    /// Distance from the smallest to the largest sample, as a part of the median.
    #[must_use]
    pub fn spread(&self) -> f64 {
        if self.median > 0.0 {
            (self.max - self.min) / self.median
        } else {
            0.0
        }
    }

    /// How many times `base` this takes, by their medians; `None` without a base to speak of.
    #[must_use]
    pub fn ratio_to(&self, base: &Self) -> Option<f64> {
        (base.median > 0.0).then(|| self.median / base.median)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_an_outlier_and_the_order() {
        let summary = Summary::of(&[3.0, 100.0, 1.0, 2.0, 4.0]).unwrap();
        assert_eq!(
            summary,
            Summary {
                median: 3.0,
                min: 1.0,
                max: 100.0
            }
        );
        assert!((summary.spread() - 33.0).abs() < 1e-9);
    }

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        assert!((Summary::of(&[4.0, 1.0, 2.0, 3.0]).unwrap().median - 2.5).abs() < 1e-9);
        let one = Summary::of(&[7.0]).unwrap();
        assert_eq!(
            one,
            Summary {
                median: 7.0,
                min: 7.0,
                max: 7.0
            }
        );
        assert!(one.spread().abs() < 1e-9);
    }

    #[test]
    fn nothing_and_nonsense_have_no_summary() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[1.0, f64::NAN]), None);
        assert_eq!(Summary::of(&[f64::INFINITY]), None);
    }

    #[test]
    fn a_ratio_needs_a_base() {
        let base = Summary::of(&[2.0]).unwrap();
        let zero = Summary::of(&[0.0]).unwrap();
        assert!((Summary::of(&[3.0]).unwrap().ratio_to(&base).unwrap() - 1.5).abs() < 1e-9);
        assert_eq!(base.ratio_to(&zero), None);
        assert!(zero.spread().abs() < 1e-9);
    }
}
