//! Bandwidth of a tenant: a discipline on its port for what goes towards it, a class of the trunk for what comes from it.

use stackmap::{Invalid, Vlan};

use super::{StepError, World};
use crate::limits::{BitRate, Limits};
use crate::model::Tenant;
use crate::net::qdisc::{self, Rate, RateError};

fn rate(limit: Option<BitRate>) -> Result<Option<Rate>, RateError> {
    limit.map(|limit| Rate::from_bits_per_second(limit.get())).transpose()
}

/// Refuses rates that cannot be held.
pub(super) fn check(limits: &Limits) -> Result<(), Invalid> {
    for (name, limit) in [("limits.rate_in", limits.rate_in), ("limits.rate_out", limits.rate_out)] {
        rate(limit).map_err(|error| Invalid::new(name, limit.map_or(0, BitRate::get), error.to_string()))?;
    }
    Ok(())
}

/// The class of the trunk that a port's frames leave through, as the port's program writes it; 0: none.
pub(super) fn class(tenant: &Tenant, vlan: Vlan) -> u32 {
    if tenant.limits.rate_out.is_some() { qdisc::class_handle(vlan.get()) } else { 0 }
}

impl World {
    /// True when the kernel holds the tenant's rates and no others.
    pub(super) async fn rates_are(&self, tenant: &Tenant, vlan: Vlan, port: u32) -> Result<bool, StepError> {
        let trunk = self.room.trunk.room_ifindex;
        let towards = qdisc::towards(&self.room.netlink, port).await?;
        let from = qdisc::from(&self.room.netlink, trunk, vlan.get()).await?;
        Ok(towards == rate(tenant.limits.rate_in)? && from == rate(tenant.limits.rate_out)?)
    }

    /// Before the port's row names the class: it has to be there.
    pub(super) async fn hold_rates(&self, tenant: &Tenant, vlan: Vlan, port: u32) -> Result<(), StepError> {
        let (netlink, trunk) = (&self.room.netlink, self.room.trunk.room_ifindex);
        match rate(tenant.limits.rate_in)? {
            Some(rate) => qdisc::limit_towards(netlink, port, rate).await?,
            None => qdisc::clear_towards(netlink, port).await?,
        }
        if let Some(rate) = rate(tenant.limits.rate_out)? {
            qdisc::limit_from(netlink, trunk, vlan.get(), rate).await?;
        }
        Ok(())
    }

    /// After the port's row names it no more.
    pub(super) async fn free_class(&self, vlan: Vlan) -> Result<(), StepError> {
        Ok(qdisc::clear_from(&self.room.netlink, self.room.trunk.room_ifindex, vlan.get()).await?)
    }
}
