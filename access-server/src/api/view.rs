//! How things look on the wire, for the server that writes and for the command line that reads.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use stackmap::{Layer, MacAddr, Origin, Owner, TunnelKind, Vlan};

use crate::daemon::{Device, LiveRow, Status};
use crate::row::TunnelRow;

/// A row of the access table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowView {
    /// The VLAN.
    pub vlan: Vlan,
    /// Whose row it is.
    pub owner: Owner,
    /// The owner's generation of it.
    pub generation: u64,
    /// `operator` or `registered`.
    pub origin: Origin,
    /// Seconds until the row ends; null when it stays.
    pub lifetime_s: Option<u64>,
    /// The server's Ethernet address on the trunk.
    pub server_mac: MacAddr,
    /// The gateway's Ethernet address on the trunk.
    pub gateway_mac: MacAddr,
    /// The longest inner packet that fits the trunk and every tunnel, in bytes.
    pub mtu: u32,
    /// What the tunnels carry: 2, 3, or mixed; null without tunnels.
    pub layer: Option<LayerView>,
    /// The sites.
    pub tunnels: Vec<TunnelView>,
}

/// What a row's tunnels carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LayerView {
    /// All the same: 2 (Ethernet) or 3 (IP).
    One(u8),
    /// Some this, some that.
    Mixed(Mixed),
}

/// The word for rows with tunnels of both layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mixed {
    /// `mixed`.
    Mixed,
}

/// One site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelView {
    /// The kind.
    pub kind: TunnelKind,
    /// The customer's gateway.
    pub remote: IpAddr,
    /// The end here.
    pub local: IpAddr,
    /// GRE key or VNI.
    pub key: Option<u32>,
    /// What lies behind it.
    pub prefixes: Vec<IpNet>,
    /// The longest inner packet in bytes, from the path as configured.
    pub mtu: u32,
    /// The path MTU of the outer packets learnt from ICMP, in bytes, while it is believed.
    pub path_mtu: Option<u32>,
    /// Where outer packets leave; null while there is no route.
    pub next_hop: Option<NextHopView>,
}

/// Where outer packets leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHopView {
    /// The WAN device.
    pub device: String,
    /// The router, or the remote itself on its link.
    pub via: IpAddr,
}

/// The daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// The instance.
    pub instance: String,
    /// The program's version.
    pub version: String,
    /// WAN devices.
    pub wan: Vec<DeviceView>,
    /// Outer addresses.
    pub local: Vec<IpAddr>,
    /// The trunk; at a site the LAN device.
    pub trunk: Option<DeviceView>,
    /// Number of rows.
    pub vlans: usize,
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceView {
    /// Its name.
    pub device: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether it is up; false also when it is gone.
    pub up: bool,
}

/// What replace-all came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplacedView {
    /// VLANs that got a row.
    pub added: Vec<Vlan>,
    /// VLANs whose row became another.
    pub changed: Vec<Vlan>,
    /// VLANs that lost their row.
    pub removed: Vec<Vlan>,
}

impl RowView {
    /// The view of a row.
    pub fn of(live: &LiveRow) -> Self {
        let row = &live.row;
        let tunnels = row.tunnels.iter().zip(&live.path_mtus).map(|(tunnel, &path_mtu)| TunnelView {
            kind: tunnel.id.kind(),
            remote: tunnel.id.remote(),
            local: tunnel.id.local(),
            key: tunnel.id.key(),
            prefixes: tunnel.prefixes.clone(),
            mtu: tunnel.mtu,
            path_mtu,
            next_hop: tunnel.next_hop.map(|hop| NextHopView {
                device: live.devices.get(&hop.ifindex).cloned().unwrap_or_else(|| format!("if{}", hop.ifindex)),
                via: hop.via,
            }),
        });
        Self {
            vlan: row.vlan,
            owner: row.owner.clone(),
            generation: row.generation.get(),
            origin: row.origin,
            lifetime_s: row.expires_at.map(|at| at.saturating_sub(live.now)),
            server_mac: row.server_mac,
            gateway_mac: row.gateway_mac,
            mtu: row.tunnels.iter().map(|tunnel| tunnel.mtu).min().unwrap_or(live.trunk_mtu),
            layer: layer_of(&row.tunnels),
            tunnels: tunnels.collect(),
        }
    }
}

fn layer_of(tunnels: &[TunnelRow]) -> Option<LayerView> {
    let layer = |tunnel: &TunnelRow| match tunnel.id.kind().layer() {
        Layer::Two => 2,
        Layer::Three => 3,
    };
    let first = layer(tunnels.first()?);
    let same = tunnels.iter().all(|tunnel| layer(tunnel) == first);
    Some(if same { LayerView::One(first) } else { LayerView::Mixed(Mixed::Mixed) })
}

impl StatusView {
    /// The view of the daemon.
    pub fn of(status: &Status) -> Self {
        Self {
            instance: status.settings.instance.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            wan: status.wan.iter().map(DeviceView::of).collect(),
            local: status.settings.locals.clone(),
            trunk: status.trunk.as_ref().map(DeviceView::of),
            vlans: status.vlans,
        }
    }
}

impl DeviceView {
    fn of(device: &Device) -> Self {
        Self { device: device.name.clone(), mtu: device.mtu, up: device.up }
    }
}
