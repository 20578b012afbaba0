//! A flow: what one closed network has in the three tables; and how one is asked for.

use std::fmt;

use serde::Serialize;

use crate::{AccessRow, GidRange, LowerRow, Meta, NicName, Site, StackIndex, TenantName, TrunkIndex, UpperRow, Vlan};

/// The rows of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// Stack <-> gid range.
    pub upper: UpperRow,
    /// (stack, device) <-> (trunk, VLAN) or card.
    pub lower: LowerRow,
    /// Tunnel <-> (trunk, VLAN), by tunnel.
    pub access: Vec<AccessRow>,
}

impl Flow {
    /// Whose flow it is.
    #[must_use]
    pub const fn tenant(&self) -> &TenantName {
        &self.upper.tenant
    }
}

impl fmt::Display for Flow {
    /// One row a line: upper, lower, access.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.upper, self.lower)?;
        self.access.iter().try_for_each(|row| write!(f, "\n{row}"))
    }
}

/// What a new tenant's device shall be tied to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkRequest {
    /// A port on a trunk.
    Port {
        /// The trunk.
        trunk: TrunkIndex,
        /// The VLAN; `None` is the lowest free one from 2 upwards, then 1.
        vlan: Option<Vlan>,
    },
    /// A network card given whole.
    Nic(NicName),
}

impl Default for LinkRequest {
    fn default() -> Self {
        Self::Port { trunk: TrunkIndex::default(), vlan: None }
    }
}

/// A new tenant. Build one with [`Self::new`] and set what must not be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowRequest {
    /// The tenant's name.
    pub tenant: TenantName,
    /// What its device is tied to.
    pub link: LinkRequest,
    /// Its stack; `None` is the lowest unused.
    pub stack: Option<StackIndex>,
    /// Its gid range; `None` is the lowest unused.
    pub gid: Option<GidRange>,
    /// Its sites.
    pub sites: Vec<Site>,
    /// Owner, generation, origin, lifetime of every row.
    pub meta: Meta,
}

impl FlowRequest {
    /// A tenant for which everything is chosen: port on trunk 0, no site.
    #[must_use]
    pub fn new(tenant: TenantName, meta: Meta) -> Self {
        Self { tenant, link: LinkRequest::default(), stack: None, gid: None, sites: Vec::new(), meta }
    }
}
