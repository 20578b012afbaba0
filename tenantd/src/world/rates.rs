//! Bandwidth of a tenant: a discipline on its port for what goes towards it, a class of the trunk for what comes from it.

use stackmap::{Invalid, Segment, Vlan};

use super::{StepError, World};
use crate::limits::{BitRate, Limits};
use crate::model::Tenant;
use crate::net::qdisc::{self, Rate, RateError};
use crate::net::room::{PatchError, PortFacts};

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

/// Where the kernel does not hold the tenant's rates, or holds others; in words.
pub(super) fn differences(tenant: &Tenant, found: &PortFacts) -> Result<Vec<String>, StepError> {
    let words = |found: Option<Rate>| found.map_or("none".into(), |rate| format!("{} bit/s", rate.bits_per_second()));
    let limits = [("rate_in", found.towards, tenant.limits.rate_in), ("rate_out", found.from, tenant.limits.rate_out)];
    let mut differ = Vec::new();
    for (name, found, wanted) in limits {
        let wanted = rate(wanted)?;
        if found != wanted {
            differ.push(format!("limit {name} is {}, not {}", words(found), words(wanted)));
        }
    }
    Ok(differ)
}

impl World {
    /// Before the port's row names the class: it has to be there.
    pub(super) async fn hold_rates(&self, tenant: &Tenant, at: Segment, port: u32) -> Result<(), StepError> {
        let trunk = self.room.trunk(at.trunk)?.room_ifindex;
        let (towards, from) = (rate(tenant.limits.rate_in)?, rate(tenant.limits.rate_out)?);
        let hold = self.room.work(move |inside| {
            match towards {
                Some(rate) => qdisc::limit_towards(&inside.netlink, port, rate)?,
                None => qdisc::clear_towards(&inside.netlink, port)?,
            }
            match from {
                Some(rate) => qdisc::limit_from(&inside.netlink, trunk, at.vlan.get(), rate),
                None => Ok(()),
            }
        });
        hold.await.map_err(named)
    }

    /// After the port's row names it no more.
    pub(super) async fn free_class(&self, at: Segment) -> Result<(), StepError> {
        if self.room.check_trunk(at.trunk).is_err() {
            // A class ends with its device.
            return Ok(());
        }
        let trunk = self.room.trunk(at.trunk)?.room_ifindex;
        let free = self.room.work(move |inside| qdisc::clear_from(&inside.netlink, trunk, at.vlan.get()));
        free.await.map_err(named)
    }
}

/// The step is the bandwidth's, not the room's.
fn named(error: PatchError) -> StepError {
    match error {
        PatchError::Bandwidth(error) => error.into(),
        other => other.into(),
    }
}
