//! What passed and what was dropped, by slot: `src/bpf/counters.h`.

use std::collections::BTreeMap;

use libbpf_rs::{MapCore, MapFlags};

use crate::drop_reason::DropReason;
use crate::skel::types::{drop_row, traffic, verdict};
use crate::tables::{Row, Table, TableError, bytes_of, row_of};

// SAFETY: plain numbers; the size asserted in counters.h leaves no room for padding.
unsafe impl Row for traffic {}
// SAFETY: as above.
unsafe impl Row for drop_row {}
// SAFETY: as above.
unsafe impl Row for verdict {}

/// Per processor, preallocated.
pub(crate) type TrafficBySlot = Table<u32, traffic>;
/// Per processor, a row is made by the first drop.
pub(crate) type DropsBySlot = Table<u32, drop_row>;
/// One row, written only when [`crate::OpenOptions::record_verdicts`] is set.
pub(crate) type LastVerdict = Table<u32, verdict>;

/// What a port carried and refused, seen from the tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames from the trunk to the tenant. A GSO super-packet counts as one.
    pub rx_packets: u64,
    /// Their bytes, with the Ethernet header, without the tag.
    pub rx_bytes: u64,
    /// Frames from the tenant to the trunk.
    pub tx_packets: u64,
    /// Their bytes, as above.
    pub tx_bytes: u64,
    /// Frames dropped, in both directions; reasons that never happened are absent.
    pub drops: Drops,
}

/// Frames dropped by reason.
pub type Drops = BTreeMap<DropReason, u64>;

/// A per-processor row, one value a processor.
fn per_cpu<V: Row>(table: &Table<u32, V>, slot: u32) -> Result<Vec<V>, TableError> {
    let values = table.map.lookup_percpu(bytes_of(&slot), MapFlags::ANY).map_err(|e| table.error("read", e))?;
    Ok(values.unwrap_or_default().iter().filter_map(|bytes| row_of(bytes)).collect())
}

/// Adds up what passed.
pub(crate) fn traffic_of(table: &TrafficBySlot, slot: u32) -> Result<Counters, TableError> {
    let mut sum = Counters::default();
    for cpu in per_cpu(table, slot)? {
        sum.rx_packets += cpu.rx_packets;
        sum.rx_bytes += cpu.rx_bytes;
        sum.tx_packets += cpu.tx_packets;
        sum.tx_bytes += cpu.tx_bytes;
    }
    Ok(sum)
}

/// Adds up what was dropped.
pub(crate) fn drops_of(table: &DropsBySlot, slot: u32) -> Result<Drops, TableError> {
    let mut sum = Drops::new();
    for cpu in per_cpu(table, slot)? {
        for &reason in DropReason::ALL {
            let count = cpu.count[reason as usize];
            if count > 0 {
                *sum.entry(reason).or_default() += count;
            }
        }
    }
    Ok(sum)
}

/// Everything of a slot.
pub(crate) fn of_slot(traffic: &TrafficBySlot, drops: &DropsBySlot, slot: u32) -> Result<Counters, TableError> {
    let mut sum = traffic_of(traffic, slot)?;
    sum.drops = drops_of(drops, slot)?;
    Ok(sum)
}

/// A slot's next owner starts at 0.
pub(crate) fn clear(traffic_table: &TrafficBySlot, drops: &DropsBySlot, slot: u32) -> Result<(), TableError> {
    let cpus = libbpf_rs::num_possible_cpus().map_err(|e| traffic_table.error("clear", e))?;
    let zero = vec![vec![0; traffic_table.length()]; cpus];
    traffic_table
        .map
        .update_percpu(bytes_of(&slot), &zero, MapFlags::ANY)
        .map_err(|e| traffic_table.error("clear", e))?;
    drops.remove(&slot)?;
    Ok(())
}
