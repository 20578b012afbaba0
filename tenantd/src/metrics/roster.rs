//! What the owner knows and the kernel does not, and what was read of the kernel beside it. Plain values.

use std::collections::BTreeMap;

use stackmap::{Segment, TenantName};

use crate::cgroups::{Cgroups, Spent};
use crate::net::room::RoomReader;

/// The owner's part of a scrape.
#[derive(Debug, Clone)]
pub(crate) struct Roster {
    /// Every tenant, by name.
    pub(crate) tenants: Vec<Enlisted>,
    /// Tenants that wait for a pass.
    pub(crate) turns: usize,
    /// Every trunk's access server answered when it was asked last.
    pub(crate) access_connected: bool,
    /// Ways to read the kernel; none in tests without one.
    pub(crate) kernel: Option<Readers>,
}

/// Ways to read the kernel without the owner.
#[derive(Debug, Clone)]
pub struct Readers {
    pub(crate) room: RoomReader,
    pub(crate) guard: std::sync::Arc<stack_guard::CounterReader>,
    /// How full the guard's tables are.
    pub(crate) guarded: stack_guard::Usage,
    pub(crate) cgroups: Cgroups,
}

/// One tenant as the owner has it.
#[derive(Debug, Clone)]
pub(crate) struct Enlisted {
    pub(crate) name: TenantName,
    pub(crate) stack: String,
    /// Its VLAN on its trunk.
    pub(crate) at: Option<Segment>,
    /// Name of its trunk; none: the first.
    pub(crate) trunk: Option<String>,
    pub(crate) gid: u32,
    /// Some step failed.
    pub(crate) half_done: bool,
    pub(crate) removing: bool,
    /// Its init and stack.
    pub(crate) seat: Option<Seated>,
    /// How often its init was started again.
    pub(crate) init_restarts: u64,
    /// How often each service was started again, as init said at the last pass.
    pub(crate) service_restarts: Vec<(String, u64)>,
}

/// A living init.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seated {
    pub(crate) pid: i32,
    /// Inode of its network namespace.
    pub(crate) inode: u64,
    /// Cookie of its network namespace.
    pub(crate) cookie: u64,
}

/// A tenant with what the kernel counts of it.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    pub(crate) enlisted: Enlisted,
    /// None: it has no port on the trunk, or none yet.
    pub(crate) port: Option<vlan_rs::Counters>,
    pub(crate) guard: Option<stack_guard::Counters>,
    pub(crate) spent: Spent,
    /// TCP and UDP.
    pub(crate) ports: Option<Listening>,
}

/// Ports on which a stack takes what comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Listening {
    /// TCP sockets that listen, by port.
    pub(crate) tcp: u64,
    /// UDP sockets that are bound and not connected, by port.
    pub(crate) udp: u64,
}

/// Everything of one scrape.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) tenants: Vec<Measured>,
    pub(crate) turns: usize,
    pub(crate) operators: usize,
    pub(crate) asked_by_tenants: usize,
    pub(crate) access_connected: bool,
    /// Rows and places of each table.
    pub(crate) tables: BTreeMap<&'static str, (u64, u64)>,
    /// Frames at the trunk that were of no port.
    pub(crate) trunk_drops: BTreeMap<&'static str, u64>,
    /// Since the owner gave the roster, in seconds.
    pub(crate) roster_age: f64,
    /// Since the oldest look at a stack's ports, in seconds; none before the first is over.
    pub(crate) ports_age: Option<f64>,
    /// What could not be read.
    pub(crate) failed: Vec<&'static str>,
    pub(crate) process: super::process::Own,
    /// How long reading the kernel took, in seconds.
    pub(crate) took: f64,
}
