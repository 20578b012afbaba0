//! The guard's counters for who is not its owner: read on any thread, nothing remembered, nothing written.

use std::collections::BTreeMap;

use crate::counters::Counters;
use crate::pins::Loaded;
use crate::skel::guard::types::{refusal_row, stack_row};
use crate::tables::{Table, TableError};

/// Reads the counters of all stacks.
#[derive(Debug)]
pub struct CounterReader {
    stacks: Table<u64, stack_row>,
    connections: Table<u64, u64>,
    refusals: Table<u64, refusal_row>,
}

impl CounterReader {
    pub(crate) fn new(loaded: &Loaded) -> Result<Self, TableError> {
        Ok(Self {
            stacks: loaded.stacks.again()?,
            connections: loaded.connections.again()?,
            refusals: loaded.refusals.again()?,
        })
    }

    /// Of every stack in the kernel's tables, by cookie.
    ///
    /// # Errors
    /// A table cannot be read.
    pub fn counters(&self) -> Result<BTreeMap<u64, Counters>, TableError> {
        // Few stacks were ever refused anything: their rows are fewer than the stacks.
        let refusals: BTreeMap<u64, refusal_row> = self.refusals.rows()?.into_iter().collect();
        let mut all = BTreeMap::new();
        for (cookie, row) in self.stacks.rows()? {
            let connections = self.connections.get(&row.id)?.unwrap_or(0);
            all.insert(cookie, Counters::new(connections, refusals.get(&cookie)));
        }
        Ok(all)
    }
}
