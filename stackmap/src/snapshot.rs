//! The three tables as one value, and the way from one such value to another.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{AccessRow, LowerRow, UpperRow};

/// The rows of the three tables: upper and lower by stack, access by (trunk, VLAN) and tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Stack <-> gid range.
    pub upper: Vec<UpperRow>,
    /// (stack, device) <-> (trunk, VLAN) or card.
    pub lower: Vec<LowerRow>,
    /// Tunnel <-> (trunk, VLAN).
    pub access: Vec<AccessRow>,
}

/// A row of any table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "table", rename_all = "lowercase")]
pub enum Row {
    /// Of the upper table.
    Upper(UpperRow),
    /// Of the lower table.
    Lower(LowerRow),
    /// Of the access table.
    Access(AccessRow),
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upper(row) => row.fmt(f),
            Self::Lower(row) => row.fmt(f),
            Self::Access(row) => row.fmt(f),
        }
    }
}

/// One step from actual to desired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Change {
    /// The row must go.
    Remove {
        /// The row as it is.
        row: Row,
    },
    /// Both sides of the row stay, what it carries (prefixes, owner, generation...) differs: no
    /// packet needs to be lost.
    Replace {
        /// The row as it is.
        from: Row,
        /// The row as it must be.
        to: Row,
    },
    /// The row must come.
    Add {
        /// The row as it must be.
        row: Row,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remove { row } => write!(f, "- {row}"),
            Self::Replace { to, .. } => write!(f, "~ {to}"),
            Self::Add { row } => write!(f, "+ {row}"),
        }
    }
}

/// The steps that make `actual` into `desired`: removals (access, lower, upper), then replacements,
/// then additions (upper, lower, access), each in the order of the table. Done in this order no
/// step meets a key that is still held. Equal snapshots give no step. The rows' order within a
/// snapshot does not matter.
///
/// Rows are compared whole, meta too: where `actual` was read from a place that cannot keep meta,
/// the reader fills in the desired one.
#[must_use]
pub fn diff(desired: &Snapshot, actual: &Snapshot) -> Vec<Change> {
    let mut steps = Steps::default();
    steps.table(&desired.access, &actual.access, Row::Access, |r| (r.segment, *r.tunnel()));
    steps.table(&desired.lower, &actual.lower, Row::Lower, |r| (r.stack, r.link.clone(), r.tenant.clone()));
    steps.table(&desired.upper, &actual.upper, Row::Upper, |r| (r.stack, r.gid, r.tenant.clone()));
    steps.in_order()
}

/// Steps by kind; one inner list a table, in the order access, lower, upper.
#[derive(Default)]
struct Steps {
    removals: Vec<Change>,
    replacements: Vec<Change>,
    additions: Vec<Vec<Change>>,
}

impl Steps {
    fn table<R: Clone + PartialEq, K: Ord>(
        &mut self,
        desired: &[R],
        actual: &[R],
        row: fn(R) -> Row,
        key: fn(&R) -> K,
    ) {
        let desired: BTreeMap<K, &R> = desired.iter().map(|r| (key(r), r)).collect();
        let actual: BTreeMap<K, &R> = actual.iter().map(|r| (key(r), r)).collect();
        let row = |r: &R| row(r.clone());
        for (k, is) in &actual {
            if !desired.contains_key(k) {
                self.removals.push(Change::Remove { row: row(is) });
            }
        }
        let mut additions = Vec::new();
        for (k, wanted) in &desired {
            match actual.get(k) {
                None => additions.push(Change::Add { row: row(wanted) }),
                Some(is) if is != wanted => self.replacements.push(Change::Replace { from: row(is), to: row(wanted) }),
                Some(_) => {}
            }
        }
        self.additions.push(additions);
    }

    fn in_order(self) -> Vec<Change> {
        let additions = self.additions.into_iter().rev().flatten();
        let first = self.removals.into_iter().chain(self.replacements);
        first.chain(additions).collect()
    }
}
