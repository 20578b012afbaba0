//! How things look on the wire, for the server that writes and for the command line that reads.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use stackmap::{Layer, MacAddr, Origin, Owner, TunnelKind, Vlan};

use crate::daemon::{Device, LiveRow, Seen, Status};
use crate::datapath::Site;
use crate::row::TunnelRow;
use crate::table::{Attached, VlanCounters};

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

/// What becomes of packets of a VLAN from and to one address behind its tunnels, as the maps have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookView {
    /// Generation of the row, as its owner stated it last; null: no row.
    pub generation: Option<u64>,
    /// Its owner.
    pub owner: Option<Owner>,
    /// The VLAN has a row in the map; else its frames are dropped as `unknown_vlan`.
    pub vlan_row: bool,
    /// The tunnel behind which the address lies; null: none (`no_site`, `inner_source`).
    pub site: Option<SiteView>,
    /// The programs that packets must meet.
    pub programs: Vec<ProgramView>,
    /// What the VLAN counted.
    pub counters: VlanCounters,
    /// Drops that could be blamed on no VLAN.
    pub unattributed: BTreeMap<String, u64>,
}

/// A tunnel as the maps have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteView {
    /// Kind, ends and key, as `ipip:198.51.100.2,local=203.0.113.1`.
    pub tunnel: String,
    /// The customer's gateway.
    pub remote: IpAddr,
    /// The longest prefix that leads there.
    pub prefix: Option<IpNet>,
    /// Longest inner packet in bytes, what was learnt of the path included.
    pub mtu: u32,
    /// What comes from there is put onto this VLAN; null: it is dropped (`unknown_key`, `unknown_tunnel`).
    pub arrives_on: Option<u16>,
    /// The two ends are known, be it with another kind or key: tells `unknown_key` from `unknown_tunnel`.
    pub path_known: bool,
    /// Packets from the address that arrive in this tunnel pass the check of their source.
    pub source_passes: bool,
    /// Ethernet address of the server to which they go.
    pub server_mac: Option<MacAddr>,
    /// Where outer packets leave; null: no route (`no_next_hop`).
    pub next_hop: Option<NextHopView>,
    /// State of that device.
    pub device: Option<DeviceView>,
}

/// A program and its device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramView {
    /// Its name.
    pub program: String,
    /// It is on its device.
    pub attached: bool,
    /// The device; null: it is gone.
    pub device: Option<DeviceView>,
}

impl LookView {
    /// The view of a look.
    #[must_use]
    pub fn of(seen: &Seen) -> Self {
        let look = &seen.look;
        let site = look.site.as_ref().map(|site| SiteView::of(site, seen));
        let program = |(there, device): &(Attached, Option<Device>)| ProgramView {
            program: there.program.to_owned(),
            attached: there.attached,
            device: device.as_ref().map(DeviceView::of),
        };
        let (counters, nobody) = (VlanCounters::from(look.counters.clone()), VlanCounters::from(look.nobody.clone()));
        Self {
            generation: seen.row.as_ref().map(|(generation, _)| *generation),
            owner: seen.row.as_ref().map(|(_, owner)| owner.clone()),
            vlan_row: look.vlan.is_some(),
            site,
            programs: seen.programs.iter().map(program).collect(),
            counters,
            unattributed: nobody.drops,
        }
    }
}

impl SiteView {
    fn of(site: &Site, seen: &Seen) -> Self {
        let id = &site.tunnel.id;
        let key = id.key().map(|key| format!(",key={key}")).unwrap_or_default();
        let hop = site.tunnel.next_hop;
        let device = |ifindex: u32| seen.leaves_by.as_ref().map_or_else(|| format!("if{ifindex}"), |d| d.name.clone());
        let learnt = site.path_mtu.map_or(u32::MAX, |path| path.inner);
        Self {
            tunnel: format!("{}:{},local={}{key}", id.kind(), id.remote(), id.local()),
            remote: id.remote(),
            prefix: site.prefix,
            mtu: site.tunnel.mtu.min(learnt),
            arrives_on: site.arrival.map(|arrival| arrival.vlan),
            path_known: site.path_known,
            source_passes: site.arrival.is_some_and(|arrival| arrival.is_this || !arrival.checks_source),
            server_mac: site.arrival.and_then(|arrival| MacAddr::new(arrival.server_mac).ok()),
            next_hop: hop.map(|hop| NextHopView { device: device(hop.ifindex), via: hop.via }),
            device: seen.leaves_by.as_ref().map(DeviceView::of),
        }
    }
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
