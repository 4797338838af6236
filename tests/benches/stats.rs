//! What a row of samples says: quantiles, spread, and the ratio of paired samples.

/// The order statistics of some samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    pub(crate) min: f64,
    pub(crate) p25: f64,
    pub(crate) median: f64,
    pub(crate) p75: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// Of at least one sample.
    pub(crate) fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self {
            min: quantile(&sorted, 0.0),
            p25: quantile(&sorted, 0.25),
            median: quantile(&sorted, 0.5),
            p75: quantile(&sorted, 0.75),
            p99: quantile(&sorted, 0.99),
            max: quantile(&sorted, 1.0),
        }
    }
}

/// The samples of each round divided by another candidate's of the same round: what is slow for a while is so for both.
pub(crate) fn ratio(samples: &[f64], reference: &[f64]) -> Summary {
    let ratios: Vec<f64> =
        samples.iter().zip(reference).map(|(sample, reference)| sample / reference).collect();
    Summary::of(&ratios)
}

/// Between the two nearest samples, as R's type 7 and numpy do.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place among some hundred samples"
)]
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let below = sorted[place.floor() as usize];
    let above = sorted[place.ceil() as usize];
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_the_samples() {
        let summary = Summary::of(&[4.0, 1.0, 3.0, 2.0]);
        let expected = Summary { min: 1.0, p25: 1.75, median: 2.5, p75: 3.25, p99: 3.97, max: 4.0 };
        assert!((summary.p99 - expected.p99).abs() < 1e-9, "{summary:?}");
        assert_eq!(Summary { p99: expected.p99, ..summary }, expected);
    }

    #[test]
    fn one_sample_is_all_of_them() {
        let summary = Summary::of(&[7.0]);
        assert_eq!((summary.min, summary.median, summary.p99, summary.max), (7.0, 7.0, 7.0, 7.0));
    }

    #[test]
    fn a_ratio_pairs_the_rounds() {
        // Each round is twice as slow as the reference; the medians alone would say so only by luck.
        let ratio = ratio(&[2.0, 20.0, 6.0], &[1.0, 10.0, 3.0]);
        assert_eq!((ratio.min, ratio.median, ratio.max), (2.0, 2.0, 2.0));
    }
}
