//! The data path: eBPF programs on the WAN devices and on the trunk (or the LAN device of a site), and the pinned maps
//! that tell them what to do.
//!
//! Comes in: rows of the access table. Goes out: packets in the right tunnel or on the right VLAN, and the same rows
//! read back. The maps are the only record; programs and maps stay when this process ends.

mod attach;
mod beside;
mod counters;
mod detach;
mod drop_reason;
pub mod fragment;
mod layout;
mod load;
mod look;
mod map;
mod maps;
mod places;
mod read;
mod skel;
mod slow_path;
mod wire;
mod write;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use stackmap::{TunnelId, Vlan};
use thiserror::Error;

use crate::mtu;
use crate::row::VlanRow;

pub use beside::{BesideError, check as check_beside};
pub use detach::detach;
pub use drop_reason::DropReason;
pub use layout::CarryError;
pub use look::{Arrival, Attached, Fill, Look, Site, VlanLook};
pub use map::MapError;
pub use slow_path::{SlowPath, SlowPathError};

/// Tunnels of one instance: `TUNNELS_MAX` in `tunnels.h`.
pub const TUNNELS_MAX: u32 = 16_384;

/// Reasons that can be counted, of all VLANs: `drops` in `counters.h`.
pub const DROPS_MAX: u64 = 65_536;

/// How long a learned path MTU is believed: `PATH_EXPIRY_NS` in `paths.h`.
pub const PATH_MTU_EXPIRY: Duration = Duration::from_secs(600);

/// The VLAN under which a site keeps the row of its one closed network; no frame carries it.
pub const SITE_VLAN: u16 = 1;

/// Where and as what a data path runs.
#[derive(Debug, Clone)]
pub struct DatapathConfig {
    /// Directory in a BPF file system; made if absent, one for each instance.
    pub pin_dir: PathBuf,
    /// Tells the filters of several instances on one device apart.
    pub instance: String,
    /// Access server or customer side.
    pub role: Role,
    /// Indices of the devices from which tunnels come.
    pub wans: Vec<u32>,
    /// Our own outer addresses: packets to others are left alone.
    pub locals: Vec<IpAddr>,
    /// Maps whose rows are 8 bytes longer than this version's, as a later version's may be. For tests.
    pub longer_rows: &'static [&'static str],
}

/// The two ends of a tunnel do different work.
#[derive(Debug, Clone)]
pub enum Role {
    /// The access server: many VLANs on a trunk.
    Server {
        /// Its trunk.
        trunk: TrunkDev,
    },
    /// A customer's gateway: one closed network on a LAN. Its row stands under [`SITE_VLAN`].
    Site {
        /// Its LAN device.
        lan: TrunkDev,
        /// The servers behind the tunnel, for which it answers ARP and ND.
        server_addrs: Vec<IpAddr>,
    },
}

impl Role {
    fn inside_ifindex(&self) -> u32 {
        match self {
            Self::Server { trunk } => trunk.ifindex,
            Self::Site { lan, .. } => lan.ifindex,
        }
    }
}

/// The device towards servers or hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrunkDev {
    /// Its index in the calling thread's network namespace.
    pub ifindex: u32,
    /// How packets reach its other end.
    pub mode: TrunkMode,
}

/// How packets reach the other end of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrunkMode {
    /// A veth whose peer is in another namespace: straight into the peer.
    Peer,
    /// Anything else: sent out of the device.
    Plain,
}

/// Why a data path could not be started.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The directory of the pins cannot be used.
    #[error("cannot use {}", .path.display())]
    PinDir {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A pinned map cannot be read, or a map cannot be pinned there.
    #[error("cannot pin or adopt the map {}", .path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: libbpf_rs::Error,
    },
    /// A pinned map was made by a newer version, or by one that this one does not know. Nothing was changed: the programs
    /// on the devices go on with it.
    #[error("the pinned map {} was made by another version, probably a newer one: {difference}; run that one, or end the data path with `access-server detach`", .path.display())]
    Layout {
        /// The map.
        table: &'static str,
        /// The pin.
        path: PathBuf,
        /// What differs.
        difference: LayoutDifference,
    },
    /// The rows of an older version could not be carried over.
    #[error(transparent)]
    Carry(#[from] CarryError),
    /// The kernel refused the programs.
    #[error("the kernel did not take the programs")]
    Load(#[source] libbpf_rs::Error),
    /// The compiled object lacks its constants: a broken build.
    #[error("the compiled programs have no constants")]
    NoConstants,
    /// The LAN device has no Ethernet address.
    #[error("device {ifindex} has no Ethernet address")]
    NoMac {
        /// Its index.
        ifindex: u32,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A device does not take a program.
    #[error("cannot attach to device {ifindex}")]
    Attach {
        /// Its index.
        ifindex: u32,
        /// What the kernel said.
        #[source]
        source: libbpf_rs::Error,
    },
    /// A map failed.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// What makes a pinned map unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{what} is {found}, this version has {expected}")]
pub struct LayoutDifference {
    /// The property.
    pub what: &'static str,
    /// Its value in the pinned map.
    pub found: u32,
    /// Its value in this version.
    pub expected: u32,
}

/// Why a row was not written.
#[derive(Debug, Error)]
pub enum PutError {
    /// The tunnel leads to another VLAN.
    #[error("tunnel {tunnel} is bound to VLAN {vlan}")]
    TunnelTaken {
        /// The tunnel.
        tunnel: TunnelId,
        /// The VLAN that has it.
        vlan: Vlan,
    },
    /// The row names one tunnel twice.
    #[error("tunnel {tunnel} twice in one row")]
    TunnelTwice {
        /// The tunnel.
        tunnel: TunnelId,
    },
    /// Two tunnels of the row have the same prefix.
    #[error("prefix {prefix} behind two tunnels of one row")]
    PrefixTwice {
        /// The prefix.
        prefix: IpNet,
    },
    /// A map failed in the middle.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// Why a row was not removed whole.
#[derive(Debug, Error)]
pub enum DeleteError {
    /// A map failed.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// What one VLAN carried, seen from its server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VlanCounters {
    /// The VLAN; 0 for what belongs to none.
    pub vlan: u16,
    /// Packets out of tunnels. A super-packet counts as its segments.
    pub rx_packets: u64,
    /// Bytes of inner IP packets out of tunnels.
    pub rx_bytes: u64,
    /// Packets into tunnels.
    pub tx_packets: u64,
    /// Bytes of inner IP packets into tunnels.
    pub tx_bytes: u64,
    /// Packets dropped, by reason.
    pub drops: BTreeMap<DropReason, u64>,
}

/// A path MTU learned from an ICMP error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathMtu {
    /// Longest outer packet in bytes.
    pub outer: u32,
    /// Longest inner packet in bytes.
    pub inner: u32,
    /// How long ago it was learned; believed for [`PATH_MTU_EXPIRY`].
    pub age: Duration,
}

/// A running data path. Dropping it leaves programs and maps in place.
pub struct Datapath {
    loaded: load::Loaded,
    places: places::Places,
    lost: Vec<Vlan>,
    wans: Vec<u32>,
    inside: u32,
    tagged: bool,
    handle: u32,
}

impl Datapath {
    /// Loads the programs over the pinned maps (new ones where there are none), reads their rows, and puts the programs
    /// on every device, each in the place of its predecessor without a packet between them. The devices are those of the
    /// calling thread's network namespace.
    ///
    /// # Errors
    /// [`OpenError`]; programs that ran before still run.
    pub fn open(cfg: &DatapathConfig) -> Result<Self, OpenError> {
        let loaded = load::load(cfg)?;
        let (places, lost) = read::adopt(&loaded.maps)?;
        load::addresses(&loaded.maps, cfg)?;
        load::attach_all(&loaded, cfg)?;
        let tagged = matches!(cfg.role, Role::Server { .. });
        let (wans, handle) = (cfg.wans.clone(), attach::handle(&cfg.instance));
        Ok(Self { loaded, places, lost, wans, inside: cfg.role.inside_ifindex(), tagged, handle })
    }

    /// Takes the programs off all devices and the pins away: the end of an instance.
    ///
    /// # Errors
    /// [`OpenError`] at the first thing that cannot be removed; may be called again.
    pub fn remove(self, cfg: &DatapathConfig) -> Result<(), OpenError> {
        detach::detach(&cfg.pin_dir, &cfg.instance)
    }

    /// VLANs whose row a dead predecessor left half written; it was removed at [`Datapath::open`].
    #[must_use]
    pub fn lost_at_open(&self) -> &[Vlan] {
        &self.lost
    }

    /// Makes the row of `row.vlan` equal to `row`. The same row again changes nothing. No packet of another VLAN, nor of
    /// a tunnel that stays as it is, is lost.
    ///
    /// # Errors
    /// [`PutError`]; after [`PutError::Map`] the maps are cleared of what was begun, and the row may be the old one, a
    /// mixture or gone: put it again.
    pub fn put_vlan(&mut self, row: &VlanRow) -> Result<(), PutError> {
        let done = write::put(&self.loaded.maps, &mut self.places, wire::ordered(row));
        if let Err(PutError::Map(_)) = &done {
            self.places = read::adopt(&self.loaded.maps)?.0;
        }
        done
    }

    /// Removes a VLAN with its tunnels and counters; an absent one is no error.
    ///
    /// # Errors
    /// [`DeleteError`]; what was begun is finished or cleared away; may be called again.
    pub fn delete_vlan(&mut self, vlan: Vlan) -> Result<(), DeleteError> {
        let done = write::delete(&self.loaded.maps, &mut self.places, vlan);
        if done.is_err() {
            self.places = read::adopt(&self.loaded.maps)?.0;
        }
        done
    }

    /// Every row as the maps hold it, by VLAN; tunnels by identity, prefixes by network.
    ///
    /// # Errors
    /// [`MapError`] when a map cannot be read.
    pub fn dump(&self) -> Result<Vec<VlanRow>, MapError> {
        read::rows(&self.loaded.maps)
    }

    /// Counters of VLAN 0 (nobody's), of every VLAN with a row, and of any other with drops.
    ///
    /// # Errors
    /// [`MapError`] when a map cannot be read.
    pub fn counters(&self) -> Result<Vec<VlanCounters>, MapError> {
        let vlans = std::iter::once(0).chain(self.places.rows.keys().map(|vlan| vlan.get()));
        counters::read(&self.loaded.maps, vlans)
    }

    /// Counters of one VLAN, zeros where nothing was counted.
    ///
    /// # Errors
    /// [`MapError`] when a map cannot be read.
    pub fn counters_of(&self, vlan: Vlan) -> Result<VlanCounters, MapError> {
        counters::of(&self.loaded.maps, vlan.get())
    }

    /// What was learned of the path of a tunnel, while it is believed.
    ///
    /// # Errors
    /// [`MapError`] when a map cannot be read.
    pub fn path_mtu(&self, id: &TunnelId) -> Result<Option<PathMtu>, MapError> {
        let maps = &self.loaded.maps;
        let Some(path) = maps.paths.get(&wire::path_key(id))? else {
            return Ok(None);
        };
        let state = maps.path_states.get(&path)?.filter(|state| state.mtu != 0);
        Ok(state.and_then(|state| {
            let age = Duration::from_nanos(monotonic_ns().saturating_sub(state.learned_at));
            let inner = mtu::inner(id, state.mtu);
            (age < PATH_MTU_EXPIRY).then_some(PathMtu { outer: state.mtu, inner, age })
        }))
    }

    /// The user-space half of the slow path: it cuts IPv4 packets that are too long and may be cut. One at a time; run
    /// its [`SlowPath::poll`] in a thread. The calling thread must be in the network namespace of the devices.
    ///
    /// # Errors
    /// [`SlowPathError`].
    pub fn slow_path(&self) -> Result<SlowPath, SlowPathError> {
        SlowPath::new(&self.loaded.maps.slow_path, self.inside, self.tagged)
    }

    /// The loaded programs by name, for test runs and run-time statistics.
    pub fn programs(&self) -> impl Iterator<Item = (&'static str, BorrowedFd<'_>)> {
        self.loaded.programs().into_iter()
    }
}

/// The clock of `bpf_ktime_get_ns`.
fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the answer.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) } != 0 {
        return 0;
    }
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
