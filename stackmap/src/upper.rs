//! The upper table: stack <-> gid range, one row a tenant.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::conflict::Pool;
use crate::expiry::Expiry;
use crate::free::FreeSet;
use crate::{Conflict, GidRange, Key, Meta, StackIndex, TenantName};

/// One row, written `inet0 <-> gid 524288`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpperRow {
    /// Whose row it is.
    pub tenant: TenantName,
    /// The tenant's stack.
    pub stack: StackIndex,
    /// The ids of the tenant's processes.
    pub gid: GidRange,
    /// Owner, generation, origin, lifetime.
    pub meta: Meta,
}

impl fmt::Display for UpperRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} <-> {}", self.stack, self.gid)
    }
}

/// Stack <-> gid range. Tenant, stack and gid range are each in at most one row.
#[derive(Debug, Clone)]
pub struct UpperTable {
    rows: BTreeMap<StackIndex, UpperRow>,
    by_tenant: BTreeMap<TenantName, StackIndex>,
    by_gid: BTreeMap<GidRange, StackIndex>,
    expiry: Expiry<StackIndex>,
    free_stacks: FreeSet,
    /// In units of 65,536 ids from the first range.
    free_gids: FreeSet,
}

impl Default for UpperTable {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            by_tenant: BTreeMap::new(),
            by_gid: BTreeMap::new(),
            expiry: Expiry::default(),
            free_stacks: FreeSet::new(0..=u32::MAX),
            free_gids: FreeSet::new(0..=GidRange::COUNT - 1),
        }
    }
}

impl UpperTable {
    /// The row of a tenant.
    #[must_use]
    pub fn get(&self, tenant: &TenantName) -> Option<&UpperRow> {
        self.by_stack(*self.by_tenant.get(tenant)?)
    }

    /// The row of a stack.
    #[must_use]
    pub fn by_stack(&self, stack: StackIndex) -> Option<&UpperRow> {
        self.rows.get(&stack)
    }

    /// The row of a gid range.
    #[must_use]
    pub fn by_gid(&self, gid: GidRange) -> Option<&UpperRow> {
        self.by_stack(*self.by_gid.get(&gid)?)
    }

    /// The row whose range holds one user or group id.
    #[must_use]
    pub fn by_id(&self, id: u32) -> Option<&UpperRow> {
        self.by_gid(GidRange::containing(id)?)
    }

    /// All rows, by stack.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &UpperRow> {
        self.rows.values()
    }

    /// The lowest unused stack number.
    ///
    /// # Errors
    /// [`Conflict::Exhausted`].
    pub fn lowest_free_stack(&self) -> Result<StackIndex, Conflict> {
        let n = self.free_stacks.lowest_from(0);
        n.map(StackIndex).ok_or(Conflict::Exhausted(Pool::Stack))
    }

    /// The lowest unused gid range.
    ///
    /// # Errors
    /// [`Conflict::Exhausted`].
    pub fn lowest_free_gid(&self) -> Result<GidRange, Conflict> {
        let n = self.free_gids.lowest_from(0);
        n.and_then(GidRange::nth).ok_or(Conflict::Exhausted(Pool::Gid))
    }

    /// Every key of `row` that another row has; empty when [`Self::insert`] would take it.
    #[must_use]
    pub fn conflicts(&self, row: &UpperRow) -> Vec<Conflict> {
        [
            (Key::Tenant(row.tenant.clone()), self.get(&row.tenant)),
            (Key::Stack(row.stack), self.by_stack(row.stack)),
            (Key::Gid(row.gid), self.by_gid(row.gid)),
        ]
        .into_iter()
        .filter_map(|(key, held)| Some(Conflict::taken_by_tenant(key, &held?.tenant)))
        .collect()
    }

    /// Takes a row.
    ///
    /// # Errors
    /// [`Conflict::Taken`] for the first key that another row has.
    pub fn insert(&mut self, row: UpperRow) -> Result<(), Conflict> {
        match self.conflicts(&row).into_iter().next() {
            Some(conflict) => Err(conflict),
            None => {
                self.place(row);
                Ok(())
            }
        }
    }

    /// Takes a row whose keys are known to be free.
    pub(crate) fn place(&mut self, row: UpperRow) {
        self.by_tenant.insert(row.tenant.clone(), row.stack);
        self.by_gid.insert(row.gid, row.stack);
        self.free_stacks.take(row.stack.get());
        self.free_gids.take(row.gid.nth_of_all());
        self.expiry.insert(&row.meta, row.stack);
        self.rows.insert(row.stack, row);
    }

    /// Removes a tenant's row; removing the absent is no error.
    pub fn remove(&mut self, tenant: &TenantName) -> Option<UpperRow> {
        let stack = self.by_tenant.remove(tenant)?;
        let row = self.rows.remove(&stack)?;
        self.by_gid.remove(&row.gid);
        self.free_stacks.release(stack.get());
        self.free_gids.release(row.gid.nth_of_all());
        self.expiry.remove(&row.meta, stack);
        Some(row)
    }

    /// Rows expired at `now` (seconds), earliest end first.
    pub fn expired(&self, now: u64) -> impl Iterator<Item = &UpperRow> {
        self.expiry.until(now).filter_map(|s| self.rows.get(&s))
    }
}
