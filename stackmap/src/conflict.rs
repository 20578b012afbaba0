//! Why the tables refuse a change: which key, which value, and who has it.

use std::fmt;

use crate::{GidRange, Invalid, NicName, Segment, StackIndex, TenantName, TrunkIndex, TunnelId};

/// A value that only one closed network can have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A tenant's name.
    Tenant(TenantName),
    /// A stack.
    Stack(StackIndex),
    /// A gid range.
    Gid(GidRange),
    /// A VLAN on a trunk.
    Segment(Segment),
    /// A network card given whole.
    Nic(NicName),
    /// A tunnel's identity.
    Tunnel(TunnelId),
}

impl Key {
    /// The field of a request that carries this key.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Tenant(_) => "name",
            Self::Stack(_) => "stack",
            Self::Gid(_) => "gid",
            Self::Segment(_) => "vlan",
            Self::Nic(_) => "device",
            Self::Tunnel(_) => "tunnel",
        }
    }
}

impl fmt::Display for Key {
    /// The value as a request writes it; a VLAN without its trunk.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(name) => name.fmt(f),
            Self::Stack(stack) => stack.fmt(f),
            Self::Gid(gid) => gid.get().fmt(f),
            Self::Segment(segment) => segment.vlan.fmt(f),
            Self::Nic(nic) => nic.fmt(f),
            Self::Tunnel(tunnel) => tunnel.fmt(f),
        }
    }
}

/// Who has a key. A table of access rows alone knows VLANs; [`crate::Maps`] always names the tenant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holder {
    /// A tenant.
    Tenant(TenantName),
    /// A VLAN on a trunk.
    Segment(Segment),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(name) => write!(f, "tenant {name}"),
            Self::Segment(segment) => segment.fmt(f),
        }
    }
}

/// Numbers that can run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pool {
    /// The VLANs of one trunk.
    Vlan(TrunkIndex),
    /// Stack numbers.
    Stack,
    /// Gid ranges.
    Gid,
}

impl Pool {
    /// How many there are.
    #[must_use]
    pub const fn capacity(self) -> u64 {
        match self {
            Self::Vlan(_) => crate::Vlan::MAX as u64,
            Self::Stack => 1 << 32,
            Self::Gid => GidRange::COUNT as u64,
        }
    }
}

/// A change the tables refuse. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conflict {
    /// The key has its one place already.
    Taken {
        /// Which key, with its value.
        key: Key,
        /// Who has it.
        holder: Holder,
    },
    /// No number of this kind is left to choose.
    Exhausted(Pool),
    /// The tenant has no flow.
    UnknownTenant(TenantName),
    /// A tunnel for a tenant that has a network card and so no VLAN to tie it to.
    NoVlan {
        /// The tunnel.
        tunnel: TunnelId,
        /// The tenant's network card.
        nic: NicName,
    },
}

impl Conflict {
    /// The refusal as field, value and rule, for a problem document.
    #[must_use]
    pub fn to_invalid(&self) -> Invalid {
        match self {
            Self::Taken { key: key @ Key::Segment(segment), holder } if segment.trunk != TrunkIndex::default() => {
                let rule = format!("taken on trunk {} by {holder}", segment.trunk);
                Invalid::new(key.field(), key, rule)
            }
            Self::Taken { key, holder } => Invalid::new(key.field(), key, format!("taken by {holder}")),
            Self::Exhausted(pool) => {
                let n = pool.capacity();
                match pool {
                    Pool::Vlan(trunk) => Invalid::new("vlan", "", format!("all {n} of trunk {trunk} are taken")),
                    Pool::Stack => Invalid::new("stack", "", format!("all {n} are taken")),
                    Pool::Gid => Invalid::new("gid", "", format!("all {n} ranges are taken")),
                }
            }
            Self::UnknownTenant(name) => Invalid::new("name", name, "no tenant of this name"),
            Self::NoVlan { tunnel, nic } => {
                let rule = format!("device {nic} is given whole: there is no VLAN for a tunnel");
                Invalid::new("tunnel", tunnel, rule)
            }
        }
    }

    pub(crate) fn taken_by_tenant(key: Key, holder: &TenantName) -> Self {
        Self::Taken { key, holder: Holder::Tenant(holder.clone()) }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_invalid().fmt(f)
    }
}

impl std::error::Error for Conflict {}
