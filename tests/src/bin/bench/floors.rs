//! Pure: what must be reached, and whether it was.

use crate::add_tenant::Times;
use crate::results::{Measure, Results};
use crate::sample;

/// Which side of the bound is good.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

/// One floor with what was measured.
#[derive(Clone, Debug)]
pub(crate) struct Floor {
    /// What it is about.
    pub(crate) what: String,
    /// Measured.
    pub(crate) value: f64,
    /// Demanded.
    pub(crate) bound: Bound,
}

impl Floor {
    /// Whether it holds. What could not be measured does not.
    pub(crate) fn holds(&self) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => self.value >= bound,
            Bound::AtMost(bound) => self.value <= bound,
        }
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let (sign, bound) = match self.bound {
            Bound::AtLeast(bound) => (">=", bound),
            Bound::AtMost(bound) => ("<=", bound),
        };
        let verdict = if self.holds() { "PASS" } else { "FAIL" };
        format!("{verdict}  {:52} {:7.2} {sign} {bound:.2}", self.what, self.value)
    }
}

/// The floors of the data path (IPIP). The limit, one veth pair, has no gateway in it, so it is held against the client that
/// sits in one. What is built by hand for a customer has a LAN at its end, so whole ways are held against each other.
pub(crate) fn data_path(results: &Results) -> Vec<Floor> {
    let mut floors = Vec::new();
    for (row, to, tcp, small, ping) in
        [("ipip", "raw", 0.80, 0.58, 1.40), ("lan-ipip", "lan-by-hand", 1.10, 1.35, 0.85)]
    {
        // The slower of the two directions must do it.
        let both = |up, down| results.ratio(row, to, up).min(results.ratio(row, to, down));
        let mut add =
            |what: &str, value, bound| floors.push(Floor { what: format!("{what}: {row} / {to}"), value, bound });
        let value = both(Measure::TcpUp, Measure::TcpDown);
        add("TCP, 1 stream, slower way", value, Bound::AtLeast(tcp));
        let value = both(Measure::SmallUp, Measure::SmallDown);
        add("small UDP packets, slower way", value, Bound::AtLeast(small));
        add("1-byte ping-pong p50", results.ratio(row, to, Measure::PingP50), Bound::AtMost(ping));
    }
    floors
}

/// The floors of `add-tenant`.
pub(crate) fn add_tenant(times: &Times) -> Vec<Floor> {
    let half = sample::median(&times.ours) / sample::median(&times.by_hand);
    let longest = sample::percentile(&times.ours, 100.0);
    vec![
        Floor { what: "add-tenant p50, of the script by hand".into(), value: half, bound: Bound::AtMost(0.5) },
        Floor { what: "add-tenant, longest, ms".into(), value: longest, bound: Bound::AtMost(500.0) },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_holds_on_its_side_and_never_for_nothing() {
        let floor = |value, bound| Floor { what: String::new(), value, bound };
        assert!(floor(0.8, Bound::AtLeast(0.8)).holds());
        assert!(!floor(0.79, Bound::AtLeast(0.8)).holds());
        assert!(floor(0.8, Bound::AtMost(0.8)).holds());
        assert!(!floor(0.81, Bound::AtMost(0.8)).holds());
        assert!(!floor(f64::NAN, Bound::AtMost(1.0)).holds());
    }

    #[test]
    fn half_the_time_is_asked_of_the_medians_and_no_stall_of_the_worst() {
        let times = Times { ours: vec![4.0, 5.0, 600.0], by_hand: vec![12.0, 11.0, 13.0], line: String::new() };
        let floors = add_tenant(&times);
        let verdicts: Vec<bool> = floors.iter().map(Floor::holds).collect();
        assert_eq!(verdicts, [true, false]);
    }
}
