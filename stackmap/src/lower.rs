//! The lower table: (stack, device) <-> (trunk, VLAN), or a network card given whole; one row a tenant.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::conflict::Pool;
use crate::expiry::Expiry;
use crate::free::FreeSet;
use crate::{Conflict, Invalid, Key, Meta, NicName, Segment, StackIndex, TenantName, TrunkIndex, Vlan};

/// What a stack's device is tied to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Link {
    /// A port `devN` of stack `inetN` on a trunk.
    Port(Segment),
    /// A network card given whole: no trunk, no VLAN.
    Nic(NicName),
}

impl Link {
    /// The key this link takes.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::Port(segment) => Key::Segment(*segment),
            Self::Nic(nic) => Key::Nic(nic.clone()),
        }
    }

    /// The VLAN on its trunk; `None` for a network card.
    #[must_use]
    pub const fn segment(&self) -> Option<Segment> {
        match self {
            Self::Port(segment) => Some(*segment),
            Self::Nic(_) => None,
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(segment) => segment.fmt(f),
            Self::Nic(nic) => nic.fmt(f),
        }
    }
}

/// One row, written `(inet0, dev0) <-> vlan600` or `(inet0, eth1) <-> eth1`.
///
/// JSON: `{"tenant","stack","device","trunk","vlan","meta"}`; trunk and vlan are null for a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawLowerRow", into = "RawLowerRow")]
pub struct LowerRow {
    /// Whose row it is.
    pub tenant: TenantName,
    /// The tenant's stack.
    pub stack: StackIndex,
    /// What the stack's device is tied to.
    pub link: Link,
    /// Owner, generation, origin, lifetime.
    pub meta: Meta,
}

impl LowerRow {
    /// The name of the device: `devN` for a port, the card's own name else.
    #[must_use]
    pub fn device(&self) -> String {
        match &self.link {
            Link::Port(_) => self.stack.port_name(),
            Link::Nic(nic) => nic.to_string(),
        }
    }
}

impl fmt::Display for LowerRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {}) <-> {}", self.stack, self.device(), self.link)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLowerRow {
    tenant: TenantName,
    stack: StackIndex,
    device: String,
    #[serde(default)]
    trunk: Option<TrunkIndex>,
    #[serde(default)]
    vlan: Option<Vlan>,
    meta: Meta,
}

impl From<LowerRow> for RawLowerRow {
    fn from(row: LowerRow) -> Self {
        let segment = row.link.segment();
        Self {
            device: row.device(),
            trunk: segment.map(|s| s.trunk),
            vlan: segment.map(|s| s.vlan),
            tenant: row.tenant,
            stack: row.stack,
            meta: row.meta,
        }
    }
}

impl TryFrom<RawLowerRow> for LowerRow {
    type Error = Invalid;

    fn try_from(raw: RawLowerRow) -> Result<Self, Invalid> {
        let link = match (raw.vlan, raw.trunk) {
            (Some(_), _) if raw.device != raw.stack.port_name() => {
                let rule = format!("the port of {} is {}", raw.stack, raw.stack.port_name());
                return Err(Invalid::new("device", raw.device, rule));
            }
            (Some(vlan), trunk) => Link::Port(Segment { trunk: trunk.unwrap_or_default(), vlan }),
            (None, Some(trunk)) => {
                return Err(Invalid::new("trunk", trunk, "a row without a VLAN has no trunk"));
            }
            (None, None) => Link::Nic(raw.device.parse()?),
        };
        Ok(Self { tenant: raw.tenant, stack: raw.stack, link, meta: raw.meta })
    }
}

/// (stack, device) <-> (trunk, VLAN) or card. Tenant, stack, (trunk, VLAN) and card are each in at
/// most one row.
#[derive(Debug, Clone, Default)]
pub struct LowerTable {
    rows: BTreeMap<StackIndex, LowerRow>,
    by_tenant: BTreeMap<TenantName, StackIndex>,
    by_segment: BTreeMap<Segment, StackIndex>,
    by_nic: BTreeMap<NicName, StackIndex>,
    expiry: Expiry<StackIndex>,
    /// Trunks that were never used are absent: all their VLANs are free.
    free_vlans: BTreeMap<TrunkIndex, FreeSet>,
}

impl LowerTable {
    /// The row of a tenant.
    #[must_use]
    pub fn get(&self, tenant: &TenantName) -> Option<&LowerRow> {
        self.by_stack(*self.by_tenant.get(tenant)?)
    }

    /// The row of a stack.
    #[must_use]
    pub fn by_stack(&self, stack: StackIndex) -> Option<&LowerRow> {
        self.rows.get(&stack)
    }

    /// The row of a VLAN on its trunk.
    #[must_use]
    pub fn by_segment(&self, segment: Segment) -> Option<&LowerRow> {
        self.by_stack(*self.by_segment.get(&segment)?)
    }

    /// The row of a network card.
    #[must_use]
    pub fn by_nic(&self, nic: &NicName) -> Option<&LowerRow> {
        self.by_stack(*self.by_nic.get(nic)?)
    }

    fn by_link(&self, link: &Link) -> Option<&LowerRow> {
        match link {
            Link::Port(segment) => self.by_segment(*segment),
            Link::Nic(nic) => self.by_nic(nic),
        }
    }

    /// All rows, by stack.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &LowerRow> {
        self.rows.values()
    }

    /// The VLAN a new port of `trunk` gets: the lowest unused one from 2 upwards, VLAN 1 last
    /// (much equipment carries its own untagged traffic there).
    ///
    /// # Errors
    /// [`Conflict::Exhausted`] when all 4,094 are used.
    pub fn lowest_free_vlan(&self, trunk: TrunkIndex) -> Result<Vlan, Conflict> {
        let lowest = match self.free_vlans.get(&trunk) {
            Some(free) => free.lowest_from(2).or_else(|| free.lowest_from(1)),
            None => Some(2),
        };
        lowest
            .and_then(|n| u16::try_from(n).ok())
            .and_then(|n| Vlan::new(n).ok())
            .ok_or(Conflict::Exhausted(Pool::Vlan(trunk)))
    }

    /// Every key of `row` that another row has; empty when [`Self::insert`] would take it.
    #[must_use]
    pub fn conflicts(&self, row: &LowerRow) -> Vec<Conflict> {
        [
            (Key::Tenant(row.tenant.clone()), self.get(&row.tenant)),
            (Key::Stack(row.stack), self.by_stack(row.stack)),
            (row.link.key(), self.by_link(&row.link)),
        ]
        .into_iter()
        .filter_map(|(key, held)| Some(Conflict::taken_by_tenant(key, &held?.tenant)))
        .collect()
    }

    /// Takes a row.
    ///
    /// # Errors
    /// [`Conflict::Taken`] for the first key that another row has.
    pub fn insert(&mut self, row: LowerRow) -> Result<(), Conflict> {
        match self.conflicts(&row).into_iter().next() {
            Some(conflict) => Err(conflict),
            None => {
                self.place(row);
                Ok(())
            }
        }
    }

    /// Takes a row whose keys are known to be free.
    pub(crate) fn place(&mut self, row: LowerRow) {
        match &row.link {
            Link::Port(segment) => {
                self.by_segment.insert(*segment, row.stack);
                self.free_vlans
                    .entry(segment.trunk)
                    .or_insert_with(|| FreeSet::new(1..=u32::from(Vlan::MAX)))
                    .take(u32::from(segment.vlan.get()));
            }
            Link::Nic(nic) => {
                self.by_nic.insert(nic.clone(), row.stack);
            }
        }
        self.by_tenant.insert(row.tenant.clone(), row.stack);
        self.expiry.insert(&row.meta, row.stack);
        self.rows.insert(row.stack, row);
    }

    /// Removes a tenant's row; removing the absent is no error.
    pub fn remove(&mut self, tenant: &TenantName) -> Option<LowerRow> {
        let stack = self.by_tenant.remove(tenant)?;
        let row = self.rows.remove(&stack)?;
        match &row.link {
            Link::Port(segment) => {
                self.by_segment.remove(segment);
                if let Some(free) = self.free_vlans.get_mut(&segment.trunk) {
                    free.release(u32::from(segment.vlan.get()));
                }
            }
            Link::Nic(nic) => {
                self.by_nic.remove(nic);
            }
        }
        self.expiry.remove(&row.meta, stack);
        Some(row)
    }

    /// Rows expired at `now` (seconds), earliest end first.
    pub fn expired(&self, now: u64) -> impl Iterator<Item = &LowerRow> {
        self.expiry.until(now).filter_map(|s| self.rows.get(&s))
    }
}
