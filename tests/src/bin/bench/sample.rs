//! Pure: medians, percentiles, ratios.

/// Middle of the values; not a number when there are none.
pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 50.0)
}

/// The value below which `percent` of all lie, between the two nearest.
pub(crate) fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = last as f64 * percent / 100.0;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    let weight = at - at.floor();
    sorted[low] * (1.0 - weight) + sorted[high.min(last)] * weight
}

/// Distance between the quartiles as a part of the median: how noisy the rounds were.
pub(crate) fn spread(values: &[f64]) -> f64 {
    (percentile(values, 75.0) - percentile(values, 25.0)) / median(values)
}

/// Median of the rounds' own ratios: what the machine did to a round it did to both.
pub(crate) fn ratio(values: &[f64], to: &[f64]) -> f64 {
    median(&values.iter().zip(to).map(|(v, t)| v / t).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_odd_even_and_none() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        assert_eq!(median(&[f64::NAN, 5.0]), 5.0);
    }

    #[test]
    fn percentiles_lie_between_neighbours() {
        let values: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(percentile(&values, 99.0), 99.0);
        assert_eq!(percentile(&[1.0, 2.0], 99.0), 1.99);
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        assert_eq!(ratio(&[10.0, 1.0, 6.0], &[20.0, 2.0, 6.0]), 0.5);
    }

    #[test]
    fn equal_rounds_have_no_spread() {
        assert_eq!(spread(&[2.0, 2.0, 2.0]), 0.0);
    }
}
