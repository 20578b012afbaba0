//! What a caller says about trunks and ports, and the checks of it that need no kernel.

use std::path::PathBuf;

use ipnet::IpNet;

use crate::vid::{Tag, Vid};

/// Ports a room has place for when [`OpenOptions::max_ports`] is not set: all VLANs of one trunk, and more.
pub const DEFAULT_MAX_PORTS: u32 = 8192;

/// Trunks a room has place for.
pub const MAX_TRUNKS: u32 = 64;

/// `gso_max_size` (bytes) a tenant's end of a port should have: a super-packet of this size still fits in 16 bits of
/// length after [`ENCAPSULATION_MAX`]. Larger ones are dropped as `gso_too_long`. Use it as `gro_max_size` of inlets.
pub const GSO_MAX_SIZE: u32 = 65_000;

/// Bytes left free in a super-packet for outer headers.
pub const ENCAPSULATION_MAX: u32 = 80;

/// Bytes a tag adds: a trunk device needs an MTU of at least the largest port MTU, and 4 more where its driver counts
/// the tag.
pub const TAG_LENGTH: u32 = 4;

/// The smallest MTU a port may have (RFC 791; IPv6 needs 1,280).
pub const MTU_MIN: u32 = 68;

/// The largest MTU a port may have.
pub const MTU_MAX: u32 = 65_535;

/// How to open a room.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Directory in a mounted bpffs where the tables are pinned; made if absent. One room, one directory.
    pub pin_dir: PathBuf,
    /// Ports the tables have place for. Of adopted tables the pinned number stays.
    pub max_ports: u32,
    /// Handle of our filter on each device, not 0. Two rooms (instances) that share a trunk device take different ones.
    pub filter_handle: u32,
    /// Keep what became of the last frame, see [`crate::Room::last_verdict`]. For tests and diagnosis, costs some ns.
    pub record_verdicts: bool,
    /// Tables whose rows are 8 bytes longer than this version's, as a later version's may be. For tests.
    pub longer_rows: &'static [&'static str],
}

impl OpenOptions {
    /// Defaults, with the tables pinned in `pin_dir`.
    pub fn new(pin_dir: impl Into<PathBuf>) -> Self {
        Self {
            pin_dir: pin_dir.into(),
            max_ports: DEFAULT_MAX_PORTS,
            filter_handle: 1,
            record_verdicts: false,
            longer_rows: &[],
        }
    }
}

/// How frames get onto a trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrunkMode {
    /// A veth whose peer is in another namespace: `bpf_redirect_peer`, which saves a pass through the peer's backlog.
    /// On any other device the kernel drops every frame.
    Peer,
    /// Anything else (a NIC, a tap, a veth pair within one namespace): `bpf_redirect`.
    Plain,
}

/// What happens to frames from the trunk that no port of this room has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownTag {
    /// Dropped as `unknown_vlan` or `untagged`.
    Drop,
    /// Left to the next filter on the device: another room's, or the host.
    Pass,
}

/// A trunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrunkConfig {
    /// Interface index in the room's namespace.
    pub ifindex: u32,
    /// How frames get onto it.
    pub mode: TrunkMode,
    /// What happens to frames that are not ours.
    pub unknown: UnknownTag,
}

impl TrunkConfig {
    /// A trunk that this room has for itself.
    pub fn new(ifindex: u32, mode: TrunkMode) -> Self {
        Self { ifindex, mode, unknown: UnknownTag::Drop }
    }
}

/// What is behind the trunk of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// A link: ARP and ND pass, at [`PortConfig::neighbour_rate`].
    Two,
    /// A routed tunnel: the port answers ARP and ND for [`PortConfig::answer`] itself.
    Three,
}

/// Packets a second of a port where nothing else is said, and a tenth of a second's at once. It is meant for a flood, not
/// as a limit: one TCP stream as fast as a core goes needs a fiftieth of it in super-packets, and half of it when every
/// packet is of 1,400 bytes (`cargo bench`). A machine that cannot carry so many is better kept by less.
pub const PACKET_RATE: RateLimit = RateLimit { per_second: 1_000_000, burst: 100_000 };

/// Packets a processor takes from [`PortConfig::packet_rate`] at once: a port passes so many more in its first moment.
pub const PACKET_BATCH: u32 = 64;

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Packets a second in the long run, at least 1. 10^9 or more is no limit.
    pub per_second: u32,
    /// Packets at once, at least 1.
    pub burst: u32,
}

impl Default for RateLimit {
    /// 100 a second, 200 at once: a /24 asked for in one go, and a scan held at a tenth of the kernel's 1,024 entries.
    fn default() -> Self {
        Self { per_second: 100, burst: 200 }
    }
}

impl RateLimit {
    pub(crate) fn interval_ns(self) -> u32 {
        1_000_000_000 / self.per_second
    }

    pub(crate) fn burst_ns(self) -> u64 {
        u64::from(self.interval_ns()) * u64::from(self.burst)
    }

    pub(crate) fn from_ns(interval: u32, burst: u64) -> Self {
        match interval {
            0 => Self { per_second: u32::MAX, burst: 1 },
            ns => {
                Self { per_second: 1_000_000_000 / ns, burst: u32::try_from(burst / u64::from(ns)).unwrap_or(u32::MAX) }
            }
        }
    }
}

/// A port: one device of one tenant, one VLAN on one trunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConfig {
    /// The room's end of the tenant's veth.
    pub ifindex: u32,
    /// The trunk, attached before.
    pub trunk: u32,
    /// The tag on it.
    pub vid: Vid,
    /// The tenant's only MAC address.
    pub mac: [u8; 6],
    /// Who the port says it is when it answers ARP and ND.
    pub gateway_mac: [u8; 6],
    /// What is behind the trunk.
    pub layer: Layer,
    /// Longest packet (bytes from the IP header on) in both directions.
    pub mtu: u32,
    /// Layer 3: prefixes for which the port answers. Layer 2: empty.
    pub answer: Vec<IpNet>,
    /// ARP packets a second, and as many of ND, each direction.
    pub neighbour_rate: RateLimit,
    /// Packets a second of any kind, each direction: what is above is dropped before it is looked at. A GSO super-packet
    /// is one. Tokens are taken [`PACKET_BATCH`] at a time by each processor. [`PACKET_RATE`] where nothing is known.
    pub packet_rate: RateLimit,
    /// Handle (major << 16 | minor) of the class of the trunk's queueing discipline through which the port's frames
    /// leave, in `skb->priority`; 0: none, they leave by the shortest way, without a queue on a peer trunk.
    pub class: u32,
}

impl PortConfig {
    /// (trunk, VLAN).
    pub fn tag(&self) -> Tag {
        Tag { trunk: self.trunk, vid: self.vid }
    }
}

/// A value that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value}: {rule}")]
pub struct ConfigError {
    /// Which field.
    pub field: &'static str,
    /// What it said.
    pub value: String,
    /// What it must be.
    pub rule: &'static str,
}

fn must(ok: bool, field: &'static str, value: impl ToString, rule: &'static str) -> Result<(), ConfigError> {
    if ok { Ok(()) } else { Err(ConfigError { field, value: value.to_string(), rule }) }
}

fn unicast(mac: [u8; 6], field: &'static str) -> Result<(), ConfigError> {
    let text = mac.map(|byte| format!("{byte:02x}")).join(":");
    must(mac[0] & 1 == 0 && mac != [0; 6], field, text, "must be a unicast MAC address")
}

/// As the tables hold it: prefixes without host bits, sorted, each once; a rate as its rounded interval says it.
pub(crate) fn normalise(config: &PortConfig) -> Result<PortConfig, ConfigError> {
    must(config.ifindex != 0, "ifindex", config.ifindex, "must not be 0")?;
    must(config.trunk != 0 && config.trunk != config.ifindex, "trunk", config.trunk, "must be another device")?;
    unicast(config.mac, "mac")?;
    unicast(config.gateway_mac, "gateway_mac")?;
    must(config.mac != config.gateway_mac, "gateway_mac", "", "must differ from mac")?;
    must((MTU_MIN..=MTU_MAX).contains(&config.mtu), "mtu", config.mtu, "must be in 68..=65535")?;
    must(
        config.layer == Layer::Three || config.answer.is_empty(),
        "answer",
        config.answer.len(),
        "a layer 2 port answers nothing itself",
    )?;
    let rate = config.neighbour_rate;
    must(rate.per_second >= 1, "neighbour_rate.per_second", rate.per_second, "must be at least 1")?;
    must(rate.burst >= 1, "neighbour_rate.burst", rate.burst, "must be at least 1")?;
    let packets = config.packet_rate;
    must(packets.per_second >= 1000, "packet_rate.per_second", packets.per_second, "must be at least 1000")?;
    must(packets.burst >= PACKET_BATCH, "packet_rate.burst", packets.burst, "must be at least 64")?;

    let mut answer: Vec<IpNet> = config.answer.iter().map(IpNet::trunc).collect();
    answer.sort();
    answer.dedup();
    let neighbour_rate = RateLimit::from_ns(rate.interval_ns(), rate.burst_ns());
    let packet_rate = RateLimit::from_ns(packets.interval_ns(), packets.burst_ns());
    Ok(PortConfig { answer, neighbour_rate, packet_rate, ..config.clone() })
}
