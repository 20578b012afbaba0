//! The seam between the daemon and the kernel: what the daemon needs of a data path, and nothing more.

pub mod fake;
pub mod kernel;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use stackmap::{TunnelId, Vlan};
use thiserror::Error;

use crate::daemon::Device;
pub use crate::datapath::{Attached, Fill, Look};
use crate::row::VlanRow;

/// A table of VLAN rows that is obeyed: the eBPF data path, or a stand-in for it.
pub trait Table {
    /// Makes the table's row of `row.vlan` equal to `row`, whatever was there.
    ///
    /// # Errors
    /// [`TableError`]; the row may then be half written, the caller reads back.
    fn put(&mut self, row: &VlanRow) -> Result<(), TableError>;

    /// Removes the row of `vlan`; the absent row is no error.
    ///
    /// # Errors
    /// [`TableError`]; the row may then be half removed.
    fn delete(&mut self, vlan: Vlan) -> Result<(), TableError>;

    /// Every row as the table holds it.
    ///
    /// # Errors
    /// [`TableError`] when it cannot be read.
    fn dump(&self) -> Result<Vec<VlanRow>, TableError>;

    /// What every VLAN carried and lost; VLAN 0 stands for packets of no known VLAN.
    ///
    /// # Errors
    /// [`TableError`] when they cannot be read.
    fn counters(&self) -> Result<Vec<VlanCounters>, TableError>;

    /// What one VLAN carried and lost, at the same cost whatever the number of rows.
    ///
    /// # Errors
    /// [`TableError`] when they cannot be read.
    fn counters_of(&self, vlan: Vlan) -> Result<VlanCounters, TableError>;

    /// The path MTU learnt from ICMP for the outer packets of `tunnel`, in bytes, while it is believed.
    fn path_mtu(&self, tunnel: &TunnelId) -> Option<u32>;

    /// How full it is.
    fn fill(&self) -> Vec<Fill>;

    /// Which programs are on their devices.
    fn attached(&self) -> Vec<Attached>;

    /// What it says of an address of a VLAN, at the same cost whatever the number of rows.
    ///
    /// # Errors
    /// [`TableError`] when it cannot be read.
    fn look(&self, vlan: Vlan, address: IpAddr) -> Result<Look, TableError>;

    /// Works on these devices from now on, if they are others than before: a device that was removed and made again
    /// has another number. `true` when something had to be done; rows are untouched.
    ///
    /// # Errors
    /// [`TableError`]; it then works on the devices it had.
    fn follow(&mut self, wan: &[Device], inside: &Device) -> Result<bool, TableError>;
}

/// A failed operation on the table; the cause is its source.
#[derive(Debug, Error)]
#[error("cannot {what}")]
pub struct TableError {
    what: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl TableError {
    /// The operation `what` (read after "cannot") failed because of `source`.
    pub fn new(what: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { what: what.into(), source: source.into() }
    }
}

/// What one VLAN carried, seen from its server: received is from the sites, sent is to them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlanCounters {
    /// The VLAN; 0 for what belongs to none.
    pub vlan: u16,
    /// Packets taken out of tunnels and put on the trunk.
    pub rx_packets: u64,
    /// Their bytes, without tunnel headers.
    pub rx_bytes: u64,
    /// Packets taken from the trunk and put into tunnels.
    pub tx_packets: u64,
    /// Their bytes, without tunnel headers.
    pub tx_bytes: u64,
    /// Packets dropped, by the name of the reason; reasons never hit are left out.
    pub drops: BTreeMap<String, u64>,
}
