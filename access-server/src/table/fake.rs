//! Stand-ins for the data path, for tests that need no root: one that always works, one that fails on command.

use std::collections::BTreeMap;
use std::net::IpAddr;

use stackmap::{TunnelId, Vlan};

use super::{Attached, Fill, Look, Table, TableError, VlanCounters};
use crate::daemon::Device;
use crate::row::VlanRow;

/// A table in memory. Like the kernel's it refuses one tunnel on two VLANs, so a plan in the wrong order shows.
#[derive(Debug, Default, Clone)]
pub struct FakeTable {
    rows: BTreeMap<Vlan, VlanRow>,
    /// Every change in the order it came, as `put 600` or `delete 600`.
    pub log: Vec<String>,
}

impl FakeTable {
    /// A table that holds `rows` already, as after a restart.
    pub fn with_rows(rows: impl IntoIterator<Item = VlanRow>) -> Self {
        Self { rows: rows.into_iter().map(|row| (row.vlan, row)).collect(), log: Vec::new() }
    }
}

impl Table for FakeTable {
    fn put(&mut self, row: &VlanRow) -> Result<(), TableError> {
        let others = self.rows.values().filter(|other| other.vlan != row.vlan);
        for bound in others.flat_map(|other| &other.tunnels) {
            if row.tunnels.iter().any(|tunnel| tunnel.id == bound.id) {
                return Err(TableError::new(format!("put vlan {}", row.vlan), format!("{} is bound", bound.id)));
            }
        }
        self.log.push(format!("put {}", row.vlan));
        self.rows.insert(row.vlan, row.clone());
        Ok(())
    }

    fn delete(&mut self, vlan: Vlan) -> Result<(), TableError> {
        self.log.push(format!("delete {vlan}"));
        self.rows.remove(&vlan);
        Ok(())
    }

    fn dump(&self) -> Result<Vec<VlanRow>, TableError> {
        Ok(self.rows.values().cloned().collect())
    }

    fn counters(&self) -> Result<Vec<VlanCounters>, TableError> {
        let zero = |vlan: &Vlan| VlanCounters { vlan: vlan.get(), ..VlanCounters::default() };
        Ok(self.rows.keys().map(zero).collect())
    }

    fn counters_of(&self, vlan: Vlan) -> Result<VlanCounters, TableError> {
        Ok(VlanCounters { vlan: vlan.get(), ..VlanCounters::default() })
    }

    fn path_mtu(&self, _tunnel: &TunnelId) -> Option<u32> {
        None
    }

    fn fill(&self) -> Vec<Fill> {
        vec![Fill { table: "vlans", used: self.rows.len() as u64, capacity: u64::from(Vlan::MAX) }]
    }

    fn attached(&self) -> Vec<Attached> {
        vec![Attached { ifindex: 2, program: "wan_ingress", attached: true }]
    }

    fn look(&self, _vlan: Vlan, _address: IpAddr) -> Result<Look, TableError> {
        Ok(Look::default())
    }

    fn follow(&mut self, _wan: &[Device], _inside: &Device) -> Result<bool, TableError> {
        Ok(false)
    }
}

/// A [`FakeTable`] whose change number `fail_at` (from 0) fails half done: a put then leaves the row without its
/// last tunnel, a delete leaves the row.
#[derive(Debug, Default, Clone)]
pub struct FaultyTable {
    /// The table beneath.
    pub inner: FakeTable,
    /// Which change fails, counted from 0; `None` for none.
    pub fail_at: Option<usize>,
    changes: usize,
}

impl FaultyTable {
    /// A table over `inner` whose change number `fail_at` fails.
    pub fn new(inner: FakeTable, fail_at: usize) -> Self {
        Self { inner, fail_at: Some(fail_at), changes: 0 }
    }

    fn fails(&mut self) -> bool {
        let now = self.changes;
        self.changes += 1;
        self.fail_at == Some(now)
    }
}

impl Table for FaultyTable {
    fn put(&mut self, row: &VlanRow) -> Result<(), TableError> {
        if self.fails() {
            let mut half = row.clone();
            half.tunnels.pop();
            self.inner.put(&half)?;
            return Err(TableError::new(format!("put vlan {}", row.vlan), "injected fault"));
        }
        self.inner.put(row)
    }

    fn delete(&mut self, vlan: Vlan) -> Result<(), TableError> {
        if self.fails() {
            return Err(TableError::new(format!("delete vlan {vlan}"), "injected fault"));
        }
        self.inner.delete(vlan)
    }

    fn dump(&self) -> Result<Vec<VlanRow>, TableError> {
        self.inner.dump()
    }

    fn counters(&self) -> Result<Vec<VlanCounters>, TableError> {
        self.inner.counters()
    }

    fn counters_of(&self, vlan: Vlan) -> Result<VlanCounters, TableError> {
        self.inner.counters_of(vlan)
    }

    fn path_mtu(&self, tunnel: &TunnelId) -> Option<u32> {
        self.inner.path_mtu(tunnel)
    }

    fn fill(&self) -> Vec<Fill> {
        self.inner.fill()
    }

    fn attached(&self) -> Vec<Attached> {
        self.inner.attached()
    }

    fn look(&self, vlan: Vlan, address: IpAddr) -> Result<Look, TableError> {
        self.inner.look(vlan, address)
    }

    fn follow(&mut self, wan: &[Device], inside: &Device) -> Result<bool, TableError> {
        self.inner.follow(wan, inside)
    }
}
