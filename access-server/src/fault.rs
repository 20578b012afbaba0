//! The daemon's fault points: every place at which a test ends it, to see that a row is whole or gone, that what was
//! asked for again completes, and that no other row's packets are lost. Armed by `ACCESS_SERVER_FAULT` (see
//! [`fault_point`]); unarmed, a point is one load of a flag.

use fault_point::Point;
pub use fault_point::{ArmError, asked, point};

/// The environment variable that arms a point.
pub const VARIABLE: &str = "ACCESS_SERVER_FAULT";

/// All of them, in the order in which a start, a request and an end pass them.
pub const POINTS: &[Point] = &[
    Point::new("start.locked", "the lock is held; nothing is loaded"),
    Point::new("carry.copied", "the rows of one more table of an older version are copied; its pin is the old one"),
    Point::new("carry.beside", "one more new table is pinned beside the old one"),
    Point::new("carry.carried", "one more new table has the old one's pin; the programs that run have the old ones"),
    Point::new("attach.one", "the programs are on one more device; N of them"),
    Point::new("start.open", "the data path runs; its rows are not used by anybody"),
    Point::new("start.read", "the rows are read back and follow the network; nobody is answered"),
    Point::new("request.received", "a request that changes something has arrived; the owner does not know it"),
    Point::new("put.tunnels", "a row's outer headers are written; nothing refers to them"),
    Point::new("put.prefixes", "its prefixes lead to them; the row is as it was"),
    Point::new("put.row", "the row is switched; its tunnels do not lead in"),
    Point::new("put.keys", "its tunnels lead in; what it had before is not removed"),
    Point::new("put.removed", "what it had before is removed; its generation is the old one"),
    Point::new("delete.keys", "a row's tunnels lead nowhere; the row is there"),
    Point::new("delete.row", "the row leads nowhere; what it led to is there"),
    Point::new("delete.removed", "what it led to is gone; its generation is there"),
    Point::new("apply.one", "one more step of a plan is done; N of them"),
    Point::new("request.answered", "a request is done; its answer is not sent"),
    Point::new("detach.one", "the programs are off one more device; N of them"),
    Point::new("detach.programs", "no device has our programs; the pins are there"),
    Point::new("stop.begun", "the daemon was told to end; its socket is there"),
];

/// Tables whose rows the programs only read or change in place: those that a later version may make longer.
const LENGTHENABLE: &[&str] = &[
    "tunnels",
    "tunnels_out",
    "vlans",
    "vlan_metas",
    "prefixes",
    "paths",
    "path_states",
    "locals",
    "traffic",
    "buckets",
];

/// The tables that have longer rows than this version's: none, unless the process was asked to take itself for a later one.
#[must_use]
pub fn longer_rows() -> &'static [&'static str] {
    if fault_point::longer() { LENGTHENABLE } else { &[] }
}

/// Arms what the environment asks for.
///
/// # Errors
/// [`ArmError`] with the list: the daemon does not start.
pub fn arm() -> Result<(), ArmError> {
    fault_point::arm(VARIABLE, POINTS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_name_stands_for_two_places() {
        let names: BTreeSet<&str> = POINTS.iter().map(|point| point.name).collect();
        assert_eq!(names.len(), POINTS.len());
    }
}
