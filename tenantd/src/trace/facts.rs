//! What a trace starts from, and what was read for it. Plain values.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use stackmap::MacAddr;
use vlan_rs::PortLook;

use crate::access::AccessLook;
use crate::cgroups::Cgroups;
use crate::metrics::Seated;
use crate::model::{Filter, Tenant};
use crate::net::ask::{Device, Neighbour, Routed};
use crate::net::room::RoomReader;

/// The owner's part: the tenant, and ways to read.
#[derive(Debug)]
pub struct Parts {
    /// The tenant as it is desired.
    pub(crate) tenant: Tenant,
    /// On its way out.
    pub(crate) removing: bool,
    /// The step that failed last, with its cause.
    pub(crate) failure: Option<String>,
    /// Its init and stack.
    pub(crate) seat: Option<Seated>,
    /// The gateway's Ethernet address on the tenant's VLAN.
    pub(crate) gateway_mac: Option<MacAddr>,
    /// The patch room's tables.
    pub(crate) room: RoomReader,
    /// Where the patch room is pinned.
    pub(crate) room_pin: PathBuf,
    /// Name of the trunk's device in the patch room.
    pub(crate) trunk: String,
    /// The access server's socket, and as whom we speak there.
    pub(crate) access: (PathBuf, String),
    /// The tenants' cgroups.
    pub(crate) cgroups: Cgroups,
    /// Socket of the tenant's init.
    pub(crate) control: PathBuf,
}

/// What was read.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// The tenant as it is desired.
    pub(super) tenant: Tenant,
    pub(super) removing: bool,
    pub(super) failure: Option<String>,
    pub(super) gateway_mac: Option<MacAddr>,
    /// None: the tenant has no VLAN.
    pub(super) access: Option<Result<AccessLook, String>>,
    /// None: the tenant has no VLAN.
    pub(super) room: Option<Result<RoomFacts, String>>,
    /// None: it has no init, and so no stack.
    pub(super) stack: Option<Result<StackFacts, String>>,
}

/// Of the patch room.
#[derive(Debug, Clone)]
pub(super) struct RoomFacts {
    pub(super) trunk: Option<Device>,
    pub(super) port: Option<Device>,
    pub(super) look: PortLook,
}

/// Of the tenant's stack.
#[derive(Debug, Clone)]
pub(super) struct StackFacts {
    pub(super) device: Option<Device>,
    /// Addresses of the device.
    pub(super) addresses: Vec<IpAddr>,
    /// What the stack does with the packet of the way in.
    pub(super) input: Option<Routed>,
    /// What it does with the packet of the way out.
    pub(super) output: Routed,
    /// The entry of the next hop; none where nobody is asked for.
    pub(super) neighbour: Option<Neighbour>,
    pub(super) filter: FilterFacts,
    /// Other packet filters of the stack, by name.
    pub(super) others: Vec<String>,
    pub(super) socket: SocketFacts,
}

/// The tenant's filter as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FilterFacts {
    /// There is none: everything passes.
    None,
    /// One that we made.
    Ours { filter: Filter, drops: BTreeMap<String, u64> },
    /// Our table is there, but not as we make it.
    Changed,
    /// It cannot be read.
    Unknown(String),
}

/// Who takes the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SocketFacts {
    /// The stack itself answers echo requests.
    Echo,
    /// It was told not to.
    NoEcho,
    /// A socket.
    Found { local: SocketAddr, listens: bool, holders: Holders },
    /// Nobody.
    Nobody,
    /// It cannot be known.
    Unknown(String),
    /// Nobody was asked: the stack sends.
    NotAsked,
}

/// Processes that have the socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Holders {
    /// Some of them; the one that init started first.
    pub(super) known: Vec<Holder>,
    /// How many were found.
    pub(super) found: usize,
    /// Nothing was left out: a tenant may have more processes and descriptors than one trace looks through.
    pub(super) all: bool,
}

/// A process that has the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    /// Number inside the tenant.
    pub(super) pid: i32,
    /// What it calls itself.
    pub(super) command: String,
    /// The service it is of.
    pub(super) service: Option<String>,
}
