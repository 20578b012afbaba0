//! What a port may carry at most: `src/bpf/limits.h`.

use crate::config::{PortConfig, RateLimit};
use crate::skel::types::limit_row;
use crate::tables::{Row, Table, TableError, bytes_of};

// SAFETY: plain numbers; the size asserted in limits.h leaves no room for padding.
unsafe impl Row for limit_row {}

/// By slot.
pub(crate) type Limits = Table<u32, limit_row>;

pub(crate) fn row_of(config: &PortConfig) -> limit_row {
    limit_row {
        packet_burst_ns: config.packet_rate.burst_ns(),
        packet_interval_ns: config.packet_rate.interval_ns(),
        class: config.class,
    }
}

/// Completes what the port's row says. The row of a port that an older version put is zeros: no limit.
pub(crate) fn read(table: &Limits, slot: u32, config: &mut PortConfig) -> Result<(), TableError> {
    let row = table.get(&slot)?.unwrap_or_default();
    config.packet_rate = RateLimit::from_ns(row.packet_interval_ns, row.packet_burst_ns);
    config.class = row.class;
    Ok(())
}

/// Writes the row where it differs; says whether it did.
pub(crate) fn put(table: &Limits, slot: u32, config: &PortConfig) -> Result<bool, TableError> {
    let row = row_of(config);
    if table.get(&slot)?.is_some_and(|there| bytes_of(&there) == bytes_of(&row)) {
        return Ok(false);
    }
    table.put(&slot, &row)?;
    Ok(true)
}
