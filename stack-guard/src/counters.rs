//! What was refused, by stack: `refusals` in `src/bpf/events.h`, and the connections beside them.

use std::collections::BTreeMap;

use crate::refusal::Refusal;
use crate::skel::guard::types::refusal_row;

/// Refusals by reason; those that never happened are absent.
pub type Refusals = BTreeMap<Refusal, u64>;

/// Of one stack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// TCP connections it has now: from the first SYN it sends, or from the end of the handshake of one it accepts, until
    /// the socket is closed. Those made before the stack had a row are not counted; one inside the stack counts twice.
    pub connections: u64,
    /// What the stack's processes were refused, and what was refused to processes of no stack that wanted this one.
    pub refusals: Refusals,
    /// Refusals among these that were no event: too many in a second, or the reader too slow.
    pub not_told: u64,
}

impl Counters {
    pub(crate) fn new(connections: u64, row: Option<&refusal_row>) -> Self {
        let count = |refusal: Refusal| row.map_or(0, |row| row.count[refusal as usize]);
        Self {
            connections,
            refusals: Refusal::ALL.iter().map(|&one| (one, count(one))).filter(|&(_, count)| count > 0).collect(),
            not_told: row.map_or(0, |row| row.not_told),
        }
    }
}
