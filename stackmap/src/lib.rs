//! The tables of closed networks as pure values.
//!
//! Comes in: text and numbers from operators, files and APIs. Goes out: values that cannot be
//! nonsense, or an [`Invalid`] that names field, value and rule. No I/O, no clock, no async: a
//! caller brings the time, the store and the kernel.
//!
//! Values are parsed once, at the edge, with [`std::str::FromStr`] or serde; both check the same
//! rules. Numbers ([`Vlan`], [`TrunkIndex`], [`GidRange`], [`Generation`]) are numbers in JSON and
//! are also taken as text; everything else is its `Display` text, except tunnels, which are objects.

#![forbid(unsafe_code)]

mod access;
mod address;
mod conflict;
mod expiry;
mod flow;
mod free;
mod invalid;
mod lower;
mod mac;
mod maps;
mod meta;
mod names;
mod numbers;
mod snapshot;
mod text;
mod tunnel;
mod tunnel_spec;
mod upper;

pub use access::{AccessRow, AccessTable, Site};
pub use address::{check_addresses, parse_address, parse_prefix};
pub use conflict::{Conflict, Holder, Key, Pool};
pub use flow::{Flow, FlowRequest, LinkRequest};
pub use invalid::Invalid;
pub use lower::{Link, LowerRow, LowerTable};
pub use mac::{MacAddr, MacRole};
pub use maps::{Maps, RestoreError};
pub use meta::{Generation, Lifetime, Meta, Origin, Owner};
pub use names::{NicName, TenantName};
pub use numbers::{GidRange, Segment, StackIndex, TrunkIndex, Vlan};
pub use snapshot::{Change, Row, Snapshot, diff};
pub use tunnel::{Layer, TunnelId, TunnelKind};
pub use tunnel_spec::{TunnelSpec, check_prefixes};
pub use upper::{UpperRow, UpperTable};

/// Runs the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The network types of addresses and prefixes, as used in this crate's signatures.
pub use ipnet::{IpNet, Ipv4Net, Ipv6Net};
