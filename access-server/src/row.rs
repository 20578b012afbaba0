//! What one VLAN of the access table looks like to every room of this crate: the row an owner asked for, with
//! everything resolved that the data path needs.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use stackmap::{Generation, MacAddr, Origin, Owner, TunnelId, Vlan};

/// All that the access server knows of one VLAN: who asked for it, the two Ethernet ends on the trunk and the
/// tunnels of its sites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlanRow {
    /// The tag, and so the identity of the closed network on this trunk.
    pub vlan: Vlan,
    /// Who wrote the row; only the same owner may change it.
    pub owner: Owner,
    /// The owner's generation of the row; an older one never replaces a newer one.
    pub generation: Generation,
    /// How the row came to be.
    pub origin: Origin,
    /// When the row ends, in seconds since the machine was started, if it has an end.
    pub expires_at: Option<u64>,
    /// Ethernet address of the server's port on this VLAN.
    pub server_mac: MacAddr,
    /// Ethernet address the server sees as its gateway on this VLAN.
    pub gateway_mac: MacAddr,
    /// The sites, one tunnel each.
    pub tunnels: Vec<TunnelRow>,
}

/// One site of a closed network: its tunnel, what lies behind it, and how to get there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelRow {
    /// Kind, remote, local and key.
    pub id: TunnelId,
    /// The prefixes behind the tunnel; never empty (no prefix asked for is 0.0.0.0/0 and ::/0).
    pub prefixes: Vec<IpNet>,
    /// Longest inner packet in bytes (layer 3 length) that fits the path, as configured from the WAN device.
    pub mtu: u32,
    /// Where the outer packet leaves; `None` while there is no route (a named drop).
    pub next_hop: Option<NextHop>,
}

/// The resolved way to a tunnel's remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// WAN device index in the daemon's network namespace.
    pub ifindex: u32,
    /// Router on that link, or the remote itself when it is on link.
    pub via: IpAddr,
}
