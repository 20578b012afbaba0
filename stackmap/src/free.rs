//! The unused numbers of one kind, as disjoint intervals: the lowest free one, taking any and giving
//! it back all cost O(log n), however far apart the taken numbers lie.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Free numbers: first -> last of each maximal interval.
#[derive(Debug, Clone)]
pub(crate) struct FreeSet {
    free: BTreeMap<u32, u32>,
}

impl FreeSet {
    /// Everything in `numbers` is free.
    pub(crate) fn new(numbers: RangeInclusive<u32>) -> Self {
        Self { free: BTreeMap::from([numbers.into_inner()]) }
    }

    /// The lowest free number that is not below `from`.
    pub(crate) fn lowest_from(&self, from: u32) -> Option<u32> {
        if self.holder(from).is_some() {
            return Some(from);
        }
        self.free.range(from..).next().map(|(&first, _)| first)
    }

    /// Takes `n`; taking what is not free changes nothing.
    pub(crate) fn take(&mut self, n: u32) {
        let Some((first, last)) = self.holder(n) else {
            return;
        };
        self.free.remove(&first);
        if first < n {
            self.free.insert(first, n - 1);
        }
        if n < last {
            self.free.insert(n + 1, last);
        }
    }

    /// Gives `n` back and joins it with its free neighbours; `n` must be one that was taken.
    pub(crate) fn release(&mut self, n: u32) {
        if self.holder(n).is_some() {
            return;
        }
        let below = n.checked_sub(1).and_then(|m| self.holder(m));
        let above = n.checked_add(1).and_then(|m| self.holder(m));
        let first = below.map_or(n, |(first, _)| first);
        let last = above.map_or(n, |(_, last)| last);
        if let Some((first_above, _)) = above {
            self.free.remove(&first_above);
        }
        self.free.insert(first, last);
    }

    /// The free interval that holds `n`.
    fn holder(&self, n: u32) -> Option<(u32, u32)> {
        let (&first, &last) = self.free.range(..=n).next_back()?;
        (n <= last).then_some((first, last))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn is_a_set_of_numbers_with_no_two_touching_intervals(
            ops in prop::collection::vec((any::<bool>(), 0u32..24), 0..120)
        ) {
            let mut set = FreeSet::new(0..=23);
            let mut model: BTreeSet<u32> = (0..24).collect();
            for (take, n) in ops {
                if take {
                    set.take(n);
                    model.remove(&n);
                } else {
                    set.release(n);
                    model.insert(n);
                }
                for from in 0..26 {
                    prop_assert_eq!(set.lowest_from(from), model.range(from..).next().copied());
                }
                let intervals: Vec<_> = set.free.iter().map(|(&a, &b)| (a, b)).collect();
                prop_assert!(intervals.windows(2).all(|w| w[0].1 + 1 < w[1].0), "{intervals:?}");
            }
        }
    }

    #[test]
    fn works_at_the_ends_of_the_number_range() {
        let mut set = FreeSet::new(0..=u32::MAX);
        set.take(u32::MAX);
        set.take(0);
        assert_eq!(set.lowest_from(0), Some(1));
        assert_eq!(set.lowest_from(u32::MAX), None);
        set.release(u32::MAX);
        set.release(0);
        assert_eq!(set.free, BTreeMap::from([(0, u32::MAX)]));
    }
}
