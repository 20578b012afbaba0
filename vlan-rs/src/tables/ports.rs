//! (trunk, VLAN) -> port and port -> (trunk, VLAN): `src/bpf/ports.h`.

use crate::config::{Layer, PortConfig, RateLimit, TrunkMode};
use crate::skel::types::{port_row, tag_key, tag_row};
use crate::tables::{Row, Table, TableError};
use crate::vid::{Tag, Vid};

// SAFETY: plain numbers; sizes asserted in ports.h leave no room for padding.
unsafe impl Row for tag_key {}
// SAFETY: as above.
unsafe impl Row for tag_row {}
// SAFETY: as above.
unsafe impl Row for port_row {}

const LAYER_2: u16 = 0x1;
const TRUNK_PEER: u16 = 0x2;
const CLASSED: u16 = 0x4;

/// Frames from the trunk find their port here.
pub(crate) type ByTag = Table<tag_key, tag_row>;
/// Frames from a tenant find their tag here; also what [`PortConfig`] is read back from.
pub(crate) type ByIfindex = Table<u32, port_row>;

fn flags(config: &PortConfig, mode: TrunkMode) -> u16 {
    let layer = if config.layer == Layer::Two { LAYER_2 } else { 0 };
    let peer = if mode == TrunkMode::Peer { TRUNK_PEER } else { 0 };
    let classed = if config.class != 0 { CLASSED } else { 0 };
    layer | peer | classed
}

pub(crate) fn key_of(tag: Tag) -> tag_key {
    tag_key { trunk: tag.trunk, vid: tag.vid.get(), pad: 0 }
}

/// The two rows of a port.
pub(crate) fn rows_of(config: &PortConfig, mode: TrunkMode, slot: u32) -> (tag_row, port_row) {
    let rate_interval_ns = config.neighbour_rate.interval_ns();
    let rate_burst_ns = config.neighbour_rate.burst_ns();
    let flags = flags(config, mode);
    (
        tag_row {
            rate_burst_ns,
            rate_interval_ns,
            port: config.ifindex,
            slot,
            mtu: config.mtu,
            flags,
            mac: config.mac,
        },
        port_row {
            rate_burst_ns,
            rate_interval_ns,
            trunk: config.trunk,
            slot,
            mtu: config.mtu,
            vid: config.vid.get(),
            flags,
            mac: config.mac,
            gateway_mac: config.gateway_mac,
        },
    )
}

/// What a row says, without its answered prefixes and limits. None: not a row of ours (a VLAN out of range).
pub(crate) fn config_of(ifindex: u32, row: &port_row) -> Option<PortConfig> {
    Some(PortConfig {
        ifindex,
        trunk: row.trunk,
        vid: Vid::try_from(row.vid).ok()?,
        mac: row.mac,
        gateway_mac: row.gateway_mac,
        layer: if row.flags & LAYER_2 != 0 { Layer::Two } else { Layer::Three },
        mtu: row.mtu,
        answer: Vec::new(),
        neighbour_rate: RateLimit::from_ns(row.rate_interval_ns, row.rate_burst_ns),
        packet_rate: RateLimit::from_ns(0, 0),
        class: 0,
    })
}

/// Removes a tag's row only when it leads to this port.
pub(crate) fn remove_tag(tags: &ByTag, tag: Tag, port: u32) -> Result<(), TableError> {
    let key = key_of(tag);
    if tags.get(&key)?.is_some_and(|row| row.port == port) {
        tags.remove(&key)?;
    }
    Ok(())
}

/// Is it the same row?
pub(crate) fn same_row(a: &port_row, b: &port_row) -> bool {
    super::bytes_of(a) == super::bytes_of(b)
}
