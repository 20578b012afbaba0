//! The trunks: `src/bpf/trunks.h`.

use crate::config::{TrunkConfig, TrunkMode, UnknownTag};
use crate::skel::types::trunk_row;
use crate::tables::{Row, Table};

// SAFETY: plain numbers; the size asserted in trunks.h leaves no room for padding.
unsafe impl Row for trunk_row {}

const PEER: u32 = 0x1;
const SHARED: u32 = 0x2;

/// By interface index.
pub(crate) type Trunks = Table<u32, trunk_row>;

pub(crate) fn row_of(config: &TrunkConfig, slot: u32) -> trunk_row {
    let peer = if config.mode == TrunkMode::Peer { PEER } else { 0 };
    let shared = if config.unknown == UnknownTag::Pass { SHARED } else { 0 };
    trunk_row { slot, flags: peer | shared }
}

pub(crate) fn config_of(ifindex: u32, row: &trunk_row) -> TrunkConfig {
    TrunkConfig {
        ifindex,
        mode: if row.flags & PEER != 0 { TrunkMode::Peer } else { TrunkMode::Plain },
        unknown: if row.flags & SHARED != 0 { UnknownTag::Pass } else { UnknownTag::Drop },
    }
}
