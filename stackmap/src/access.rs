//! The access table: tunnel <-> (trunk, VLAN). A closed network may have several sites, so several
//! tunnels may lead to one VLAN; a tunnel leads to one only.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::conflict::Holder;
use crate::expiry::Expiry;
use crate::tunnel_spec::{checked_prefixes, or_everything};
use crate::{Conflict, Invalid, Key, Meta, Segment, TrunkIndex, TunnelId, Vlan};

/// A site: its tunnel and the prefixes behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    tunnel: TunnelId,
    prefixes: Vec<IpNet>,
}

impl Site {
    /// A tunnel with the prefixes behind it; none stands for everything.
    ///
    /// # Errors
    /// [`Invalid`] (field `prefix`) for a prefix with host bits or given twice.
    pub fn new(tunnel: TunnelId, prefixes: Vec<IpNet>) -> Result<Self, Invalid> {
        let prefixes = checked_prefixes(prefixes)?;
        Ok(Self { tunnel, prefixes })
    }

    /// The tunnel's identity.
    #[must_use]
    pub const fn tunnel(&self) -> &TunnelId {
        &self.tunnel
    }

    /// The prefixes as given, sorted; empty stands for everything.
    #[must_use]
    pub fn prefixes(&self) -> &[IpNet] {
        &self.prefixes
    }

    /// The prefixes behind the tunnel: those given, or `0.0.0.0/0` and `::/0` when none is.
    #[must_use]
    pub fn effective_prefixes(&self) -> Vec<IpNet> {
        or_everything(&self.prefixes)
    }
}

/// One row, written `ipip (198.51.100.2, 203.0.113.1) <-> vlan600`.
///
/// It names no tenant: the VLAN on its trunk is the identity of the closed network, and an access
/// server knows nothing else. JSON: `{"tunnel","prefixes","trunk","vlan","meta"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawAccessRow", into = "RawAccessRow")]
pub struct AccessRow {
    /// The tunnel and what is behind it.
    pub site: Site,
    /// The VLAN the tunnel leads to.
    pub segment: Segment,
    /// Owner, generation, origin, lifetime.
    pub meta: Meta,
}

impl AccessRow {
    /// The tunnel's identity.
    #[must_use]
    pub const fn tunnel(&self) -> &TunnelId {
        &self.site.tunnel
    }
}

impl fmt::Display for AccessRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} <-> {}", self.site.tunnel, self.segment)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAccessRow {
    tunnel: TunnelId,
    #[serde(default)]
    prefixes: Vec<IpNet>,
    #[serde(default)]
    trunk: TrunkIndex,
    vlan: Vlan,
    meta: Meta,
}

impl From<AccessRow> for RawAccessRow {
    fn from(row: AccessRow) -> Self {
        Self {
            tunnel: row.site.tunnel,
            prefixes: row.site.prefixes,
            trunk: row.segment.trunk,
            vlan: row.segment.vlan,
            meta: row.meta,
        }
    }
}

impl TryFrom<RawAccessRow> for AccessRow {
    type Error = Invalid;

    fn try_from(raw: RawAccessRow) -> Result<Self, Invalid> {
        Ok(Self {
            site: Site::new(raw.tunnel, raw.prefixes)?,
            segment: Segment { trunk: raw.trunk, vlan: raw.vlan },
            meta: raw.meta,
        })
    }
}

/// Tunnel <-> (trunk, VLAN). A tunnel is in at most one row.
#[derive(Debug, Clone, Default)]
pub struct AccessTable {
    rows: BTreeMap<TunnelId, AccessRow>,
    by_segment: BTreeMap<Segment, BTreeSet<TunnelId>>,
    expiry: Expiry<TunnelId>,
}

impl AccessTable {
    /// The row of a tunnel.
    #[must_use]
    pub fn get(&self, tunnel: &TunnelId) -> Option<&AccessRow> {
        self.rows.get(tunnel)
    }

    /// The rows that lead to a VLAN, by tunnel.
    pub fn by_segment(&self, segment: Segment) -> impl Iterator<Item = &AccessRow> {
        let tunnels = self.by_segment.get(&segment).into_iter().flatten();
        tunnels.filter_map(|tunnel| self.rows.get(tunnel))
    }

    /// All rows, by (trunk, VLAN), then tunnel.
    pub fn rows(&self) -> impl Iterator<Item = &AccessRow> {
        let tunnels = self.by_segment.values().flatten();
        tunnels.filter_map(|tunnel| self.rows.get(tunnel))
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Takes a row.
    ///
    /// # Errors
    /// [`Conflict::Taken`] when the tunnel leads somewhere already, naming that VLAN.
    pub fn insert(&mut self, row: AccessRow) -> Result<(), Conflict> {
        if let Some(held) = self.get(row.tunnel()) {
            return Err(Conflict::Taken { key: Key::Tunnel(*row.tunnel()), holder: Holder::Segment(held.segment) });
        }
        self.place(row);
        Ok(())
    }

    /// Takes a row whose tunnel is known to be free.
    pub(crate) fn place(&mut self, row: AccessRow) {
        let tunnel = *row.tunnel();
        self.by_segment.entry(row.segment).or_default().insert(tunnel);
        self.expiry.insert(&row.meta, tunnel);
        self.rows.insert(tunnel, row);
    }

    /// Removes a tunnel's row; removing the absent is no error.
    pub fn remove(&mut self, tunnel: &TunnelId) -> Option<AccessRow> {
        let row = self.rows.remove(tunnel)?;
        self.expiry.remove(&row.meta, *tunnel);
        if let Some(tunnels) = self.by_segment.get_mut(&row.segment) {
            tunnels.remove(tunnel);
            if tunnels.is_empty() {
                self.by_segment.remove(&row.segment);
            }
        }
        Some(row)
    }

    /// Removes every row that leads to a VLAN and returns them, by tunnel.
    pub fn remove_segment(&mut self, segment: Segment) -> Vec<AccessRow> {
        let tunnels = self.by_segment.remove(&segment).unwrap_or_default();
        let mut removed = Vec::with_capacity(tunnels.len());
        for tunnel in tunnels {
            if let Some(row) = self.rows.remove(&tunnel) {
                self.expiry.remove(&row.meta, tunnel);
                removed.push(row);
            }
        }
        removed
    }

    /// Rows expired at `now` (seconds), earliest end first.
    pub fn expired(&self, now: u64) -> impl Iterator<Item = &AccessRow> {
        self.expiry.until(now).filter_map(|t| self.rows.get(&t))
    }
}
