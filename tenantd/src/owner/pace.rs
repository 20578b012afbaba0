//! The pace of the full pass: every tenant is compared with the kernel from time to time although nobody has told of
//! anything. With thousands of them that is seconds of work, which has no haste: it is done in slices, with a rest after
//! each that is a multiple of what the slice took, so that the daemon takes a small share of one processor whatever their
//! number, and everything else the owner hears of comes first.

use std::collections::VecDeque;
use std::time::Duration;

use stackmap::TenantName;
use tokio::time::Instant;

/// Work done before a rest.
const SLICE: Duration = Duration::from_millis(20);
/// How many times as long as its work a slice's rest is: a tenth of one processor.
const REST: u32 = 9;

/// Tenants whose turn in a full pass has not come yet.
#[derive(Debug, Default)]
pub(super) struct Pace {
    waiting: VecDeque<TenantName>,
    worked: Duration,
    rest_until: Option<Instant>,
}

impl Pace {
    /// Begins a pass over these; one that goes on still goes on as it was.
    pub(super) fn begin(&mut self, names: impl Iterator<Item = TenantName>) {
        if self.waiting.is_empty() {
            self.waiting.extend(names);
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Waits until the next one may be looked at, for ever when none waits. Losing the wait loses nothing.
    pub(super) async fn next(&self) {
        match (self.waiting.is_empty(), self.rest_until) {
            (true, _) => std::future::pending().await,
            (false, Some(until)) => tokio::time::sleep_until(until).await,
            (false, None) => {}
        }
    }

    /// The one whose turn it is.
    pub(super) fn take(&mut self) -> Option<TenantName> {
        self.waiting.pop_front()
    }

    /// What looking at the one that was taken took.
    pub(super) fn took(&mut self, work: Duration, now: Instant) {
        self.worked += work;
        if self.worked >= SLICE {
            self.rest_until = Some(now + self.worked * REST);
            self.worked = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    /// Goes through all who wait, a millisecond each; the time it took.
    fn go_through(pace: &mut Pace) -> (usize, Duration) {
        let start = Instant::now();
        let (mut now, mut seen) = (start, 0);
        while pace.take().is_some() {
            now = pace.rest_until.map_or(now, |until| until.max(now)) + Duration::from_millis(1);
            pace.took(Duration::from_millis(1), now);
            seen += 1;
        }
        (seen, now - start)
    }

    fn names(n: usize) -> impl Iterator<Item = TenantName> {
        (0..n).map(|n| format!("t{n}").parse().unwrap())
    }

    #[test]
    fn a_pass_over_thousands_takes_a_tenth_of_one_processor() {
        let mut pace = Pace::default();
        pace.begin(names(4000));
        // A pass that goes on is not begun anew.
        pace.begin(names(7));
        let (seen, took) = go_through(&mut pace);
        assert_eq!(seen, 4000);
        assert!(took > Duration::from_secs(39) && took < Duration::from_secs(41), "{took:?}");
    }

    #[test]
    fn a_few_are_looked_at_without_a_rest() {
        let mut pace = Pace::default();
        pace.begin(names(10));
        assert_eq!(go_through(&mut pace), (10, Duration::from_millis(10)));
        assert!(pace.is_done());
    }
}
