//! Token buckets for ARP and ND: `src/bpf/rates.h`.

use crate::skel::types::rate_row;
use crate::tables::{Row, Table, TableError};

// SAFETY: plain numbers; the size asserted in rates.h leaves no room for padding.
unsafe impl Row for rate_row {}

/// By slot.
pub(crate) type Rates = Table<u32, rate_row>;

/// A slot's next owner starts with full buckets.
pub(crate) fn clear(table: &Rates, slot: u32) -> Result<(), TableError> {
    table.put(&slot, &rate_row::default())
}
