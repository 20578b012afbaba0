//! What the access server's maps say of one address of a VLAN: where its packets come from and go to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hyper::Method;
use ipnet::IpNet;
use serde::Deserialize;
use stackmap::{MacAddr, Vlan};

use super::{AccessClient, AccessError};
use crate::model::Counters;

/// The maps' answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct AccessLook {
    /// Generation of the row, as it was stated last; none: no row.
    pub generation: Option<u64>,
    /// The VLAN has a row in the map.
    pub vlan_row: bool,
    /// The tunnel behind which the address lies.
    pub site: Option<LookSite>,
    /// Programs that packets must meet.
    pub programs: Vec<LookProgram>,
    /// What the VLAN counted.
    pub counters: Counters,
    /// Drops that could be blamed on no VLAN.
    pub unattributed: BTreeMap<String, u64>,
}

/// A tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LookSite {
    /// Kind, ends and key.
    pub tunnel: String,
    /// The longest prefix that leads there.
    pub prefix: Option<IpNet>,
    /// Longest inner packet in bytes.
    pub mtu: u32,
    /// The VLAN its packets are put onto; none: they are dropped.
    pub arrives_on: Option<u16>,
    /// The two ends are known, be it with another kind or key.
    pub path_known: bool,
    /// Packets from the address pass the check of their source there.
    pub source_passes: bool,
    /// Ethernet address of the server to which they go.
    pub server_mac: Option<MacAddr>,
    /// Where outer packets leave; none: no route.
    pub next_hop: Option<LookHop>,
    /// State of that device.
    pub device: Option<LookDevice>,
}

/// A next hop.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LookHop {
    /// Device.
    pub device: String,
    /// Router.
    pub via: IpAddr,
}

/// A device of the access server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LookDevice {
    /// Name.
    pub device: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Up; false also when it is gone.
    pub up: bool,
}

/// A program on a device.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LookProgram {
    /// Name.
    pub program: String,
    /// It is on its device.
    pub attached: bool,
    /// The device; none: it is gone.
    pub device: Option<LookDevice>,
}

impl AccessClient {
    /// What becomes of packets of a VLAN from and to an address behind its tunnels.
    ///
    /// # Errors
    /// [`AccessError`]; one that is older than this question refuses with 404.
    pub async fn look(&mut self, vlan: Vlan, address: IpAddr) -> Result<AccessLook, AccessError> {
        self.call::<(), _>(Method::GET, &format!("/v1/vlans/{vlan}/look/{address}"), None).await
    }
}
