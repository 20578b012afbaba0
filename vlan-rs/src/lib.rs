//! 802.1Q ports and trunks in eBPF: (trunk, VLAN) <-> port, on kernels with and without the `8021q` module.
//!
//! A *room* is a network namespace with one or more trunks (a NIC, or a veth towards another namespace) and any number
//! of ports (veths into the namespaces of tenants). Two programs on the clsact ingress of these devices move frames:
//! `trunk_ingress` looks the tag up, checks, pops it and sends the frame out of the port; `port_ingress` checks,
//! pushes the port's tag and sends the frame onto the trunk. What is not right is dropped under a name, see
//! [`DropReason`].
//!
//! In: [`TrunkConfig`], [`PortConfig`]. Out: [`RoomCounters`]. The tables are pinned in a bpffs and the programs stay on
//! their devices, so frames go on when the process that opened the room ends; [`Room::open`] adopts what it left.
//!
//! **Everything works in the network namespace of the calling thread.** A daemon that lives elsewhere keeps one thread
//! in the room (`setns`) and makes all calls there.
//!
//! Making devices is the caller's: set the MTU of both ends of a port to [`PortConfig::mtu`] and `gso_max_size` of the
//! tenant's end to [`GSO_MAX_SIZE`].

/// The README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod config;
mod drop_reason;
mod filter;
mod layout;
mod look;
mod pins;
mod room;
mod steps;
mod tables;
mod vid;

#[allow(missing_docs, unreachable_pub, unused_imports, dead_code, clippy::all, clippy::pedantic)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used, clippy::expect_used)]
mod skel {
    include!(concat!(env!("OUT_DIR"), "/vlan.skel.rs"));
}

pub use config::{
    ConfigError, DEFAULT_MAX_PORTS, ENCAPSULATION_MAX, GSO_MAX_SIZE, Layer, MAX_TRUNKS, MTU_MAX, MTU_MIN, OpenOptions,
    PACKET_BATCH, PACKET_RATE, PortConfig, RateLimit, TAG_LENGTH, TrunkConfig, TrunkMode, UnknownTag,
};
pub use drop_reason::DropReason;
pub use filter::{FILTER_PRIORITY, FilterError};
pub use layout::CarryError;
pub use look::{CounterReader, PortLook, TagLook};
pub use pins::{OpenError, discard};
pub use room::{Adoption, Change, PortError, PortId, Program, Room, RoomCounters, TrunkError, Usage, Verdict};
pub use steps::{STEPS, watch_steps};
pub use tables::TableError;
pub use tables::counters::{Counters, Drops};
pub use vid::{Tag, Vid, VidError};
