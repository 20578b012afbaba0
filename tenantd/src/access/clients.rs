//! One access server a trunk, each with a connection of its own: one that is away hinders nobody on the others.

use std::collections::BTreeMap;

use stackmap::{MacAddr, TrunkIndex};

use super::{AccessClient, AccessError, Row, StoredRow, row_tunnel};
use crate::model::Tenant;
use crate::trunks::TrunkSpec;

/// The access servers by the number of their trunk.
pub struct AccessClients {
    owner: String,
    by_trunk: BTreeMap<TrunkIndex, AccessClient>,
}

impl AccessClients {
    /// Clients that are not connected yet. `owner` marks the rows that are ours.
    pub fn new(trunks: &[TrunkSpec], owner: &str) -> Self {
        let client = |spec: &TrunkSpec| (spec.number, AccessClient::new(&spec.access, owner.to_owned()));
        Self { owner: owner.to_owned(), by_trunk: trunks.iter().map(client).collect() }
    }

    /// The access server of a trunk.
    ///
    /// # Errors
    /// [`AccessError::NoTrunk`].
    pub fn of(&mut self, trunk: TrunkIndex) -> Result<&mut AccessClient, AccessError> {
        self.by_trunk.get_mut(&trunk).ok_or(AccessError::NoTrunk(trunk))
    }

    /// Whether we stated the row.
    pub fn is_ours(&self, row: &StoredRow) -> bool {
        row.owner == self.owner
    }

    /// The row that states `tenant`; `None` for one without a VLAN or without tunnels.
    pub fn row(&self, tenant: &Tenant, gateway_mac: MacAddr) -> Option<Row> {
        if tenant.tunnels.is_empty() {
            return None;
        }
        Some(Row {
            vlan: tenant.vlan?,
            owner: self.owner.clone(),
            generation: tenant.generation,
            origin: "operator",
            lifetime_s: None,
            server_mac: tenant.mac?,
            gateway_mac,
            tunnels: tenant.tunnels.iter().map(row_tunnel).collect(),
        })
    }
}
