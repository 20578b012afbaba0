//! Who waits for a pass, each once: those to whom something happened before those whose turn has come by the clock.

use std::collections::{BTreeSet, VecDeque};

use stackmap::TenantName;

/// Two queues; the first is served first.
#[derive(Debug, Default)]
pub(super) struct Turns {
    first: VecDeque<TenantName>,
    last: VecDeque<TenantName>,
    in_first: BTreeSet<TenantName>,
    in_last: BTreeSet<TenantName>,
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
        self.first.front().or(self.last.front()).cloned()
    }

    /// The one in front has its turn now.
    pub(super) fn done(&mut self, name: &TenantName) {
        if self.in_first.remove(name) {
            self.first.pop_front();
        } else if self.in_last.remove(name) {
            self.last.pop_front();
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
}
