//! The three tables together: operations that keep them true to each other.
//!
//! Every tenant has exactly one upper and one lower row with the same stack, and access rows only
//! on the lower row's VLAN. A refused operation changes nothing. Work for one tenant is O(log n)
//! in the number of tenants.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::{
    AccessRow, AccessTable, Conflict, Flow, FlowRequest, Holder, Key, Link, LinkRequest, LowerRow, LowerTable, Meta,
    Row, Segment, Site, Snapshot, TenantName, TunnelId, UpperRow, UpperTable,
};

/// Upper, lower and access table of one instance.
#[derive(Debug, Clone, Default)]
pub struct Maps {
    upper: UpperTable,
    lower: LowerTable,
    access: AccessTable,
}

/// Why a snapshot is not the picture of three tables that belong together.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RestoreError {
    /// Two rows have one key.
    #[error("two rows of the snapshot have one key")]
    Conflict(#[from] Conflict),
    /// An upper row without its lower row, or the other way round, or with another stack.
    #[error("tenant {0} has no matching pair of upper and lower row")]
    Unpaired(TenantName),
    /// An access row to a VLAN that no tenant has.
    #[error("tunnel {tunnel} leads to {segment}, which no tenant has")]
    Nowhere {
        /// The tunnel.
        tunnel: TunnelId,
        /// Where it leads.
        segment: Segment,
    },
}

impl Maps {
    /// Empty tables.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Stack <-> gid range.
    #[must_use]
    pub const fn upper(&self) -> &UpperTable {
        &self.upper
    }

    /// (stack, device) <-> (trunk, VLAN) or card.
    #[must_use]
    pub const fn lower(&self) -> &LowerTable {
        &self.lower
    }

    /// Tunnel <-> (trunk, VLAN).
    #[must_use]
    pub const fn access(&self) -> &AccessTable {
        &self.access
    }

    /// How many tenants there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.upper.rows().len()
    }

    /// Whether there is no tenant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Who has a key.
    #[must_use]
    pub fn find(&self, key: &Key) -> Option<&TenantName> {
        match key {
            Key::Tenant(name) => self.upper.get(name).map(|r| &r.tenant),
            Key::Stack(stack) => self.upper.by_stack(*stack).map(|r| &r.tenant),
            Key::Gid(gid) => self.upper.by_gid(*gid).map(|r| &r.tenant),
            Key::Segment(segment) => self.lower.by_segment(*segment).map(|r| &r.tenant),
            Key::Nic(nic) => self.lower.by_nic(nic).map(|r| &r.tenant),
            Key::Tunnel(tunnel) => {
                let segment = self.access.get(tunnel)?.segment;
                self.lower.by_segment(segment).map(|r| &r.tenant)
            }
        }
    }

    /// The rows of a tenant.
    #[must_use]
    pub fn flow(&self, tenant: &TenantName) -> Option<Flow> {
        let lower = self.lower.get(tenant)?;
        let access = lower.link.segment().into_iter();
        Some(Flow {
            upper: self.upper.get(tenant)?.clone(),
            lower: lower.clone(),
            access: access.flat_map(|s| self.access.by_segment(s)).cloned().collect(),
        })
    }

    /// The rows of every tenant, by stack.
    pub fn flows(&self) -> impl Iterator<Item = Flow> {
        self.upper.rows().filter_map(|row| self.flow(&row.tenant))
    }

    /// Everything that is in the way of `request`; empty when [`Self::add`] would take it.
    /// Order: name, stack, gid, VLAN or device, tunnels as given.
    #[must_use]
    pub fn conflicts(&self, request: &FlowRequest) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        let mut given = vec![Key::Tenant(request.tenant.clone())];
        given.extend(request.stack.map(Key::Stack));
        given.extend(request.gid.map(Key::Gid));
        match &request.link {
            LinkRequest::Port { trunk, vlan } => {
                given.extend(vlan.map(|vlan| Key::Segment(Segment { trunk: *trunk, vlan })));
            }
            LinkRequest::Nic(nic) => given.push(Key::Nic(nic.clone())),
        }
        conflicts.extend(given.into_iter().filter_map(|key| self.taken(key)));

        let mut seen = BTreeSet::new();
        for tunnel in request.sites.iter().map(Site::tunnel) {
            if let LinkRequest::Nic(nic) = &request.link {
                conflicts.push(Conflict::NoVlan { tunnel: *tunnel, nic: nic.clone() });
            } else if let Some(taken) = self.taken(Key::Tunnel(*tunnel)) {
                conflicts.push(taken);
            } else if !seen.insert(tunnel) {
                let key = Key::Tunnel(*tunnel);
                conflicts.push(Conflict::taken_by_tenant(key, &request.tenant));
            }
        }
        conflicts
    }

    fn taken(&self, key: Key) -> Option<Conflict> {
        let holder = Holder::Tenant(self.find(&key)?.clone());
        Some(Conflict::Taken { key, holder })
    }

    /// The flow that [`Self::add`] would make, with everything chosen; changes nothing.
    ///
    /// # Errors
    /// The first of [`Self::conflicts`], or [`Conflict::Exhausted`] when nothing is left to choose.
    pub fn plan(&self, request: &FlowRequest) -> Result<Flow, Conflict> {
        if let Some(conflict) = self.conflicts(request).into_iter().next() {
            return Err(conflict);
        }
        let stack = request.stack.map_or_else(|| self.upper.lowest_free_stack(), Ok)?;
        let gid = request.gid.map_or_else(|| self.upper.lowest_free_gid(), Ok)?;
        let link = match &request.link {
            LinkRequest::Port { trunk, vlan } => {
                let vlan = vlan.map_or_else(|| self.lower.lowest_free_vlan(*trunk), Ok)?;
                Link::Port(Segment { trunk: *trunk, vlan })
            }
            LinkRequest::Nic(nic) => Link::Nic(nic.clone()),
        };
        let mut access: Vec<AccessRow> = Vec::new();
        if let Some(segment) = link.segment() {
            access.extend(request.sites.iter().map(|site| AccessRow {
                site: site.clone(),
                segment,
                meta: request.meta.clone(),
            }));
        }
        access.sort_unstable_by_key(|row| *row.tunnel());
        Ok(Flow {
            upper: UpperRow { tenant: request.tenant.clone(), stack, gid, meta: request.meta.clone() },
            lower: LowerRow { tenant: request.tenant.clone(), stack, link, meta: request.meta.clone() },
            access,
        })
    }

    /// Takes a new tenant and chooses what the request leaves open.
    ///
    /// # Errors
    /// As [`Self::plan`].
    pub fn add(&mut self, request: FlowRequest) -> Result<Flow, Conflict> {
        let flow = self.plan(&request)?;
        self.upper.place(flow.upper.clone());
        self.lower.place(flow.lower.clone());
        for row in &flow.access {
            self.access.place(row.clone());
        }
        Ok(flow)
    }

    /// Removes a tenant and returns what it had; removing the absent is no error.
    pub fn remove(&mut self, tenant: &TenantName) -> Option<Flow> {
        let upper = self.upper.remove(tenant)?;
        let lower = self.lower.remove(tenant)?;
        let segment = lower.link.segment();
        Some(Flow { upper, lower, access: segment.map_or_else(Vec::new, |s| self.access.remove_segment(s)) })
    }

    /// Adds a site to a tenant.
    ///
    /// # Errors
    /// [`Conflict`] when there is no such tenant, it has a network card, or the tunnel is taken
    /// (also by this tenant).
    pub fn add_tunnel(&mut self, tenant: &TenantName, site: Site, meta: Meta) -> Result<AccessRow, Conflict> {
        self.refuse_tunnel(tenant, site.tunnel(), false)?;
        self.place_tunnel(tenant, site, meta)
    }

    /// Adds a site to a tenant, or replaces what its row with the same tunnel carries (prefixes,
    /// generation, lifetime).
    ///
    /// # Errors
    /// [`Conflict`] when there is no such tenant, it has a network card, or another tenant has the tunnel.
    pub fn put_tunnel(&mut self, tenant: &TenantName, site: Site, meta: Meta) -> Result<AccessRow, Conflict> {
        self.refuse_tunnel(tenant, site.tunnel(), true)?;
        self.access.remove(site.tunnel());
        self.place_tunnel(tenant, site, meta)
    }

    fn refuse_tunnel(&self, tenant: &TenantName, tunnel: &TunnelId, own_is_fine: bool) -> Result<(), Conflict> {
        self.segment_for(tenant, tunnel)?;
        match self.find(&Key::Tunnel(*tunnel)) {
            Some(holder) if !(own_is_fine && holder == tenant) => {
                Err(Conflict::taken_by_tenant(Key::Tunnel(*tunnel), holder))
            }
            _ => Ok(()),
        }
    }

    fn segment_for(&self, tenant: &TenantName, tunnel: &TunnelId) -> Result<Segment, Conflict> {
        let lower = self.lower.get(tenant);
        match &lower.ok_or_else(|| Conflict::UnknownTenant(tenant.clone()))?.link {
            Link::Port(segment) => Ok(*segment),
            Link::Nic(nic) => Err(Conflict::NoVlan { tunnel: *tunnel, nic: nic.clone() }),
        }
    }

    fn place_tunnel(&mut self, tenant: &TenantName, site: Site, meta: Meta) -> Result<AccessRow, Conflict> {
        let segment = self.segment_for(tenant, site.tunnel())?;
        let row = AccessRow { site, segment, meta };
        self.access.place(row.clone());
        Ok(row)
    }

    /// Removes a site of a tenant; removing the absent, or one of another tenant, does nothing.
    pub fn remove_tunnel(&mut self, tenant: &TenantName, tunnel: &TunnelId) -> Option<AccessRow> {
        if self.find(&Key::Tunnel(*tunnel))? != tenant {
            return None;
        }
        self.access.remove(tunnel)
    }

    /// Gives the upper and lower row of a tenant new meta, for example another lifetime.
    ///
    /// # Errors
    /// [`Conflict::UnknownTenant`].
    pub fn renew(&mut self, tenant: &TenantName, meta: &Meta) -> Result<(), Conflict> {
        let (Some(mut upper), Some(mut lower)) = (self.upper.remove(tenant), self.lower.remove(tenant)) else {
            return Err(Conflict::UnknownTenant(tenant.clone()));
        };
        upper.meta = meta.clone();
        lower.meta = meta.clone();
        self.upper.place(upper);
        self.lower.place(lower);
        Ok(())
    }

    /// The rows whose own lifetime is over at `now` (seconds); changes nothing.
    /// Order: access, lower, upper, earliest end first in each.
    #[must_use]
    pub fn expired(&self, now: u64) -> Vec<Row> {
        let access = self.access.expired(now).cloned().map(Row::Access);
        let lower = self.lower.expired(now).cloned().map(Row::Lower);
        let upper = self.upper.expired(now).cloned().map(Row::Upper);
        access.chain(lower).chain(upper).collect()
    }

    /// Removes what is expired at `now` (seconds) and returns it: sites alone, and tenants whose
    /// flow is over with everything they had.
    pub fn expire(&mut self, now: u64) -> (Vec<Flow>, Vec<AccessRow>) {
        let lower = self.lower.expired(now).map(|r| r.tenant.clone());
        let upper = self.upper.expired(now).map(|r| r.tenant.clone());
        let tenants: BTreeSet<TenantName> = lower.chain(upper).collect();
        let flows = tenants.iter().filter_map(|t| self.remove(t)).collect();
        let tunnels: Vec<TunnelId> = self.access.expired(now).map(|r| *r.tunnel()).collect();
        let sites = tunnels.iter().filter_map(|t| self.access.remove(t));
        (flows, sites.collect())
    }

    /// The three tables as a sorted value.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            upper: self.upper.rows().cloned().collect(),
            lower: self.lower.rows().cloned().collect(),
            access: self.access.rows().cloned().collect(),
        }
    }

    /// Tables from a snapshot.
    ///
    /// # Errors
    /// [`RestoreError`] when the rows do not belong together; a stored snapshot is not trusted.
    pub fn restore(snapshot: &Snapshot) -> Result<Self, RestoreError> {
        let mut maps = Self::new();
        for row in &snapshot.upper {
            maps.upper.insert(row.clone())?;
        }
        for row in &snapshot.lower {
            let upper = maps.upper.get(&row.tenant);
            if upper.is_none_or(|u| u.stack != row.stack) {
                return Err(RestoreError::Unpaired(row.tenant.clone()));
            }
            maps.lower.insert(row.clone())?;
        }
        let unpaired = |r: &&UpperRow| maps.lower.by_stack(r.stack).is_none();
        if let Some(row) = maps.upper.rows().find(unpaired) {
            return Err(RestoreError::Unpaired(row.tenant.clone()));
        }
        for row in &snapshot.access {
            if maps.lower.by_segment(row.segment).is_none() {
                return Err(RestoreError::Nowhere { tunnel: *row.tunnel(), segment: row.segment });
            }
            if let Some(taken) = maps.taken(Key::Tunnel(*row.tunnel())) {
                return Err(taken.into());
            }
            maps.access.place(row.clone());
        }
        Ok(maps)
    }
}
