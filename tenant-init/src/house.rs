//! What a tenant's house is made from: the words that `tenantd` writes for init before it starts it.
//!
//! Given as JSON in a file that init inherits, because it is too much for a command line. Unknown fields are ignored:
//! a newer daemon may say more than an older init knows, and `tenantd` compares what matters in the answer to `hello`.

use std::ffi::CStr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The whole order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HouseSpec {
    /// The tenant; also its host name.
    pub name: String,
    /// First of the 65,536 user and group ids on the host; root inside.
    pub ids: u32,
    /// Directory of the tenant on the host: `etc`, `layer`, `logs`, `stage` lie there.
    pub state: PathBuf,
    /// What the root file system is made from.
    pub image: Image,
    /// Where what the tenant writes goes.
    pub layer: Layer,
    /// True when the tenant administers its own stack: the network namespace is then made inside its user namespace.
    #[serde(default)]
    pub network: bool,
    /// Host directory with the socket of the tenant's own API (and an empty file `tenantd` for the program); seen as
    /// `/run/tenantd`.
    #[serde(default)]
    pub api: Option<PathBuf>,
    /// The program `tenantd`, seen as `/run/tenantd/tenantd`.
    #[serde(default)]
    pub program: Option<PathBuf>,
    /// Host directories that several tenants see.
    #[serde(default)]
    pub shares: Vec<Share>,
    /// Size of `/run`, and of `/tmp` and `/dev/shm` together, bytes.
    pub scratch: u64,
}

/// The lower layer of the root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Image {
    /// The host's programs, read-only, over a filtered snapshot of its configuration.
    Host {
        /// Tree of the snapshot.
        root: PathBuf,
        /// Copies of set-id programs and where they belong: the host's own are inert, their owner is not mapped.
        set_id: Vec<(PathBuf, PathBuf)>,
    },
    /// A whole distribution.
    Tree {
        /// Its root.
        root: PathBuf,
    },
}

/// The upper layer of the root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Layer {
    /// `layer` in the state directory, as large as the disk below it.
    Directory,
    /// The mount that init inherits as [`LAYER_FD`], to be put over `layer`: a file system of its own, whose size is the
    /// limit.
    Mounted,
    /// Memory; forgotten when init ends.
    Memory {
        /// Bytes.
        size: u64,
    },
}

/// A host directory that several tenants see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// On the host.
    pub source: PathBuf,
    /// In the tenant, absolute.
    pub target: PathBuf,
    /// Nobody in the tenant writes.
    pub read_only: bool,
}

/// First id, on the disk, of what tenants write into shared directories: no tenant's and no user's of the host, so
/// that a set-user-id program put there by one tenant is nobody's on the host.
pub const SHARE_IDS: u32 = 0x7000_0000;

/// Ids of a tenant.
pub const IDS: u32 = 65_536;

/// Settings of a new stack. They have to be written before a device is made in it: a device copies its own from
/// `default`.
///
/// Below a proc of the tenant's own processes: sys/net is the one of whoever looks at it, also in the host's /proc, but
/// there the kernel keeps the names of all namespaces in one chain and goes through it at each step (6.18).
pub const SETTINGS: [(&CStr, &[u8], Absent); 9] = [
    // A tenant has all its ports to itself; none of them is privileged.
    (c"sys/net/ipv4/ip_unprivileged_port_start", b"0", Absent::Fails),
    // Routes come from the operator only. IPv4 takes a redirect when either `all` or the device says so; in IPv6 `all`
    // has no effect and the device's own value counts, which is copied from `default`.
    (c"sys/net/ipv4/conf/all/accept_redirects", b"0", Absent::Fails),
    (c"sys/net/ipv4/conf/default/accept_redirects", b"0", Absent::Fails),
    (c"sys/net/ipv4/conf/all/send_redirects", b"0", Absent::Fails),
    (c"sys/net/ipv4/conf/default/send_redirects", b"0", Absent::Fails),
    (c"sys/net/ipv6/conf/default/accept_ra", b"0", Absent::IsFine),
    (c"sys/net/ipv6/conf/default/accept_redirects", b"0", Absent::IsFine),
    // We own the addresses: duplicate detection only delays them by a second.
    (c"sys/net/ipv6/conf/all/accept_dad", b"0", Absent::IsFine),
    (c"sys/net/ipv6/conf/default/accept_dad", b"0", Absent::IsFine),
];

/// Who may send ICMP echo requests without a privilege over the stack: the tenant's groups, written as `FIRST LAST`.
/// The stack is the host's, so a capability inside the tenant does not reach it.
pub const PING_GROUPS: &CStr = c"sys/net/ipv4/ping_group_range";

/// What it means that a setting is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// The stack is not as it has to be.
    Fails,
    /// A kernel booted with `ipv6.disable=1`.
    IsFine,
}

/// Where init finds the mount of [`Layer::Mounted`].
pub const LAYER_FD: i32 = 5;
