//! The two sides that are compared: what the tables say of a tenant, and what was read of the kernel. Plain values.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use stackmap::{GidRange, MacAddr, Segment, StackIndex, TenantName, TrunkIndex};
use vlan_rs::PortConfig;

use crate::access::StatedRow;
use crate::net::room::RoomReader;

/// What the tables and the desired state say of a tenant.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Name.
    pub name: TenantName,
    /// Its stack.
    pub stack: StackIndex,
    /// Its ids.
    pub ids: GidRange,
    /// Its VLAN on its trunk.
    pub at: Option<Segment>,
    /// The stack's device.
    pub device: String,
    /// The device's Ethernet address.
    pub mac: Option<MacAddr>,
    /// Its administrator may make devices.
    pub owns_network: bool,
    /// It is on its way out: what is missing is right.
    pub removing: bool,
    /// The step that failed last, with its cause.
    pub failure: Option<String>,
    /// Rows of the three tables as they follow from what is desired.
    pub wanted_rows: BTreeSet<String>,
    /// Rows of the three tables.
    pub rows: BTreeSet<String>,
    /// Its cgroups: controllers of the hierarchy and path in it, as `/proc/PID/cgroup` names them.
    pub cgroups: BTreeSet<(String, String)>,
    /// Its init, as the daemon knows it.
    pub init: Option<SeatedInit>,
    /// Its port in the data path; device number and MTU are the kernel's to say.
    pub port: Option<PortConfig>,
    /// Its row at the access server.
    pub access: Option<StatedRow>,
    /// Its row in the guard.
    pub guard: Option<stack_guard::Row>,
}

/// The init that holds a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeatedInit {
    /// Process id.
    pub pid: i32,
    /// Inode of its network namespace.
    pub inode: u64,
    /// Cookie of its network namespace.
    pub cookie: u64,
}

/// The tables' side, and ways to read the kernel's.
#[derive(Debug)]
pub struct Gathered {
    /// Every tenant there is, by name.
    pub expected: Vec<Expected>,
    /// The patch room's tables.
    pub room: RoomReader,
    /// Where the patch room is pinned.
    pub room_pin: PathBuf,
    /// Numbers of the trunks' devices in the patch room.
    pub trunks: BTreeMap<TrunkIndex, u32>,
    /// Rows of the guard, read from the kernel.
    pub guard: Vec<stack_guard::Row>,
    /// The sockets of the trunks' access servers.
    pub access: Vec<(TrunkIndex, PathBuf)>,
    /// As whom we speak there.
    pub owner: String,
}

/// Where a process or a socket is: which network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    /// The stack of the tenant with this number.
    Stack(usize),
    /// One that the tenant with this number made itself, inside its user namespace.
    Private(usize),
    /// Our own.
    Host,
    /// The patch room.
    Room,
    /// Any other of the machine.
    Elsewhere,
}

impl Place {
    /// In words.
    pub(super) fn words(self, expected: &[Expected]) -> String {
        let of = |n: usize| expected.get(n).map_or_else(String::new, |t| format!("{} of {}", t.stack, t.name));
        match self {
            Self::Stack(n) => format!("in {}", of(n)),
            Self::Private(n) => format!("in a network namespace made inside {}", of(n)),
            Self::Host => "in the host's stack".into(),
            Self::Room => "in the patch room".into(),
            Self::Elsewhere => "in a network namespace of no table".into(),
        }
    }
}

/// A process that has to do with a tenant, or holds a socket that has.
#[derive(Debug, Clone, Default)]
pub(super) struct Member {
    /// Process id.
    pub(super) pid: i32,
    /// When it started, in clock ticks since boot: with the id it names the process for good.
    pub(super) start: u64,
    /// Its command.
    pub(super) command: String,
    /// All its user ids are the host's root.
    pub(super) root: bool,
    /// Tenants whose cgroups it is in, with the number of hierarchies.
    pub(super) cgroups: BTreeMap<usize, usize>,
    /// Tenants of whose ranges it has an id.
    pub(super) ids: BTreeSet<usize>,
    /// Ids of no tenant that it has.
    pub(super) other_ids: BTreeSet<u32>,
    /// The tenant whose pid namespace, or one inside it, it is in.
    pub(super) pid_ns: Option<usize>,
    /// Where its threads are.
    pub(super) places: BTreeSet<Place>,
    /// Sockets it holds.
    pub(super) sockets: Vec<Seen>,
}

impl Member {
    /// `process 812 (sleep)`; the start tells it from another one with the same number.
    pub(super) fn name(&self) -> String {
        format!("process {} ({}, started at tick {})", self.pid, self.command, self.start)
    }
}

/// A socket as one process holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Inode number.
    pub inode: u64,
    /// Address family.
    pub family: i32,
    /// Where it is.
    pub(super) place: Place,
}

/// All processes.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// How many processes were looked at.
    pub(super) processes: usize,
    /// How many sockets were looked at, each once.
    pub(super) sockets: usize,
    /// Those that have to do with a tenant.
    pub(super) members: Vec<Member>,
    /// What could not be looked at, with the reason.
    pub(super) unseen: Vec<(String, String)>,
}

/// A device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: Option<MacAddr>,
    pub(super) loopback: bool,
    /// Made by software (has a kind); else it is a card.
    pub(super) virtual_kind: bool,
    /// Number of the other end.
    pub(super) peer: Option<u32>,
    /// Number, in the namespace it was seen in, of the namespace of the other end; none: the same.
    pub(super) peer_ns: Option<i32>,
    /// Where the other end is.
    pub(super) leads: Option<Place>,
}

/// A tenant's stack as it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Stack {
    pub(super) inode: u64,
    pub(super) cookie: u64,
    pub(super) devices: Vec<Device>,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Facts {
    /// Our own process id.
    pub(super) me: i32,
    /// By number of the tenant; absent: its init is gone.
    pub(super) stacks: HashMap<usize, Stack>,
    /// Devices of the patch room.
    pub(super) room: Vec<Device>,
    /// Numbers of the trunks' devices there.
    pub(super) trunks: BTreeMap<TrunkIndex, u32>,
    /// Ports by device.
    pub(super) ports: Vec<PortConfig>,
    /// Ports by tag, for every VLAN of a tenant.
    pub(super) tags: BTreeMap<Segment, Option<PortConfig>>,
    /// Rows of the guard.
    pub(super) guard: Vec<stack_guard::Row>,
    /// Rows of ours at the access server of each trunk, or why they are not known.
    pub(super) access: BTreeMap<TrunkIndex, Result<Vec<StatedRow>, String>>,
    /// Processes and sockets.
    pub(super) census: Census,
}

impl Facts {
    /// Nothing read yet.
    pub(super) fn new(me: i32, trunks: BTreeMap<TrunkIndex, u32>) -> Self {
        Self {
            me,
            stacks: HashMap::new(),
            room: Vec::new(),
            trunks,
            ports: Vec::new(),
            tags: BTreeMap::new(),
            guard: Vec::new(),
            access: BTreeMap::new(),
            census: Census::default(),
        }
    }
}
