//! Who waits for a pass, each once: those to whom something happened before those whose turn has come by the clock.

use std::collections::{BTreeSet, VecDeque};

use stackmap::TenantName;

/// So many of the first queue in a row, while somebody waits in the last.
const IN_A_ROW: u32 = 8;

/// Two queues; the first is served first, but not for ever: tenants to whom something happens all the time must not keep
/// the others from their turn.
#[derive(Debug, Default)]
pub(super) struct Turns {
    first: VecDeque<TenantName>,
    last: VecDeque<TenantName>,
    in_first: BTreeSet<TenantName>,
    in_last: BTreeSet<TenantName>,
    in_a_row: u32,
}

impl Turns {
    /// Something happened to a tenant.
    pub(super) fn first(&mut self, name: TenantName) {
        if self.in_first.insert(name.clone()) {
            self.first.push_back(name);
        }
    }

    /// A tenant's turn has come by the clock.
    pub(super) fn last(&mut self, name: TenantName) {
        if self.in_last.insert(name.clone()) {
            self.last.push_back(name);
        }
    }

    /// Whose turn it is.
    pub(super) fn front(&self) -> Option<TenantName> {
        let first = self.first.front().filter(|_| !self.is_turn_of_last());
        first.or(self.last.front()).cloned()
    }

    fn is_turn_of_last(&self) -> bool {
        !self.last.is_empty() && (self.first.is_empty() || self.in_a_row >= IN_A_ROW)
    }

    /// The one in front has its turn now.
    pub(super) fn done(&mut self, name: &TenantName) {
        if self.is_turn_of_last() {
            self.in_a_row = 0;
            self.in_last.remove(name);
            self.last.pop_front();
        } else {
            self.in_a_row += 1;
            self.in_first.remove(name);
            self.first.pop_front();
        }
    }

    /// How many wait; one who waits for two reasons counts twice.
    pub(super) fn len(&self) -> usize {
        self.first.len() + self.last.len()
    }

    /// Nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty() && self.last.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn each_waits_once_and_what_happened_comes_first() {
        let name = |text: &str| text.parse::<TenantName>().unwrap();
        let mut turns = Turns::default();
        ["a", "b", "a"].into_iter().for_each(|n| turns.last(name(n)));
        ["b", "c", "b"].into_iter().for_each(|n| turns.first(name(n)));
        let mut order = Vec::new();
        while let Some(next) = turns.front() {
            turns.done(&next);
            order.push(next.to_string());
        }
        assert_eq!(order, ["b", "c", "a", "b"]);
        assert!(turns.is_empty());
    }

    #[test]
    fn what_happens_all_the_time_keeps_nobody_waiting_for_ever() {
        let name = |text: &str| text.parse::<TenantName>().unwrap();
        let mut turns = Turns::default();
        ["a", "b"].into_iter().for_each(|n| turns.last(name(n)));
        let mut order = Vec::new();
        for _ in 0..2 * IN_A_ROW + 2 {
            turns.first(name("busy"));
            let next = turns.front().unwrap();
            turns.done(&next);
            order.push(next.to_string());
        }
        order.retain(|name| name != "busy");
        assert_eq!(order, ["a", "b"]);
    }
}
