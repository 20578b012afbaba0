//! Keeps groups of processes and network stacks together, in eBPF: stack <-> group.
//!
//! A *stack* is a network namespace, named by its cookie. A *group* is the processes below given cgroup2 directories and
//! those with a group id of one range. Programs on a cgroup2 directory make the kernel ask, at `socket`, `bind`,
//! `connect` and at datagrams of unconnected sockets, whether the process may: a process of a group uses sockets of its
//! own stack only, and a socket of a stack is used by its group, and by root of the host, only. See [`Refusal`] for what
//! can go wrong, and README.md for what no program can refuse.
//!
//! In: [`OpenOptions`], [`Row`]. Out: [`Event`], [`Counters`]. Tables and attachments are pinned in a bpffs: the guard
//! stands when the process that opened it ends; [`Guard::open`] adopts it and replaces the programs atomically.
//!
//! [`Devices`] is the other thing a group needs: a default-deny list of devices on its cgroup.

/// The README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod cgroup;
mod counters;
mod devices;
mod events;
mod guard;
mod layout;
mod limits;
mod pins;
mod reader;
mod refusal;
mod row;
mod steps;
mod tables;
mod task;

#[allow(missing_docs, unreachable_pub, unused_imports, dead_code, clippy::all, clippy::pedantic)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used, clippy::expect_used)]
mod skel {
    pub(crate) mod guard {
        include!(concat!(env!("OUT_DIR"), "/guard.skel.rs"));
    }
    pub(crate) mod devices {
        include!(concat!(env!("OUT_DIR"), "/devices.skel.rs"));
    }
}

pub use cgroup::{Cgroup, CgroupError, MAX_LEVEL};
pub use counters::{Counters, Refusals};
pub use devices::{Devices, DevicesError};
pub use events::{Event, Events, EventsError};
pub use guard::{Adoption, Change, Guard, PutError, Sight, Usage};
pub use layout::CarryError;
pub use limits::LimitError;
pub use pins::{DEFAULT_MAX_STACKS, OpenError, OpenOptions, discard};
pub use reader::CounterReader;
pub use refusal::{Hook, Refusal};
pub use row::{GIDS, Row, RowError};
pub use steps::{STEPS, watch_steps};
pub use tables::TableError;
