//! Which rows end when: finding the expired ones costs nothing for those that are not.

use std::collections::BTreeSet;

use crate::Meta;

/// Ends of lifetimes with the key of the row; rows without a lifetime are not in it.
#[derive(Debug, Clone)]
pub(crate) struct Expiry<K> {
    ends: BTreeSet<(u64, K)>,
}

impl<K> Default for Expiry<K> {
    fn default() -> Self {
        Self { ends: BTreeSet::new() }
    }
}

impl<K: Ord + Copy> Expiry<K> {
    pub(crate) fn insert(&mut self, meta: &Meta, key: K) {
        if let Some(lifetime) = meta.lifetime {
            self.ends.insert((lifetime.ends_at(), key));
        }
    }

    pub(crate) fn remove(&mut self, meta: &Meta, key: K) {
        if let Some(lifetime) = meta.lifetime {
            self.ends.remove(&(lifetime.ends_at(), key));
        }
    }

    /// Keys of rows expired at `now`, earliest end first.
    pub(crate) fn until(&self, now: u64) -> impl Iterator<Item = K> + '_ {
        self.ends.iter().take_while(move |(end, _)| *end <= now).map(|&(_, key)| key)
    }
}
